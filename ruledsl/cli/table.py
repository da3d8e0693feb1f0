"""`check A B C --table`: several rules side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from ruledsl.algebra.verdict import Verdict
from ruledsl.cli.priced import Priced, count, size
from ruledsl.cli.report import colour
from ruledsl.cli.say import console

NAMES = ("rule", "verdict", "class", "stability", "state/head", "train flop", "bytes", "tokens/s <=", "decode flop", "bytes", "tokens/s <=")  # fmt: skip
NARROW = 110  # columns; below, one block per rule


def table(rows: Sequence[tuple[Verdict, Priced | None]]) -> None:
    """Verdict, class, stability and price; flops and bytes per token and head."""
    out = console()
    if out.width < NARROW:
        for verdict, price in rows:
            for i, (label, cell) in enumerate(zip(_labels(), _cells(verdict, price), strict=True)):
                out.print(Text(f"{'' if i == 0 else '  '}{label + ' ':13}").append(cell), soft_wrap=True)
    else:
        grid = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for i, name in enumerate(NAMES):
            grid.add_column(name, overflow="fold", justify="left" if i < 4 else "right", no_wrap=i in (0, 1))
        for verdict, price in rows:
            grid.add_row(*_cells(verdict, price))
        out.print(grid)
    known = [price for _, price in rows if price is not None]
    if known:
        sizes: dict[str, int] = {}
        for price in known:
            sizes |= price.sizes
        at = ", ".join(f"{k}={v}" for k, v in {**sizes, **known[0].run}.items())
        device = known[0].device
        for line in (
            f"at {at}; one layer on {device.name} ({device.source} figures)",
            "flop and bytes per token and head, training forward; tokens/s: no program is faster, forward and backward",
            "F arithmetic, B memory, L latency is the limit; the state does not grow with T",
        ):
            out.print(line, soft_wrap=True)


def _labels() -> list[str]:
    return ["rule", "verdict", "class", "stability", "state/head", "train flop", "train bytes", "tokens/s <=", "decode flop", "decode bytes", "tokens/s <="]  # fmt: skip


def _cells(verdict: Verdict, price: Priced | None) -> list[Text]:
    structure = max(verdict.strata, key=lambda s: s.kind.number).structure if verdict.strata else "no state"
    name = verdict.rule.source.name.rsplit("/", 1)[-1].removesuffix(".rule")
    said = [Text(name), Text(str(verdict.kind), colour(verdict.kind)), Text(structure), Text(verdict.stability.claim)]
    if price is None:
        return [*said, *(Text("not counted" if i == 0 else "") for i in range(7))]
    a = price.amounts
    return [
        *said,
        *map(
            Text,
            (
                size(a.state_bytes),
                count(a.train_flops),
                size(a.train_bytes),
                f"{count(price.train.tokens)} {price.train.limit[0].upper()}",
                count(a.decode_flops),
                size(a.decode_bytes),
                f"{count(price.decode.tokens)} {price.decode.limit[0].upper()}",
            ),
        ),
    ]
