"""`ruledsl tune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ruledsl.cli.bench import Dtype, loaded, shapes_of
from ruledsl.cli.exits import Exit, Stop

if TYPE_CHECKING:
    from ruledsl.lab.tune.tune import Tried, Tuned


def tune(
    rules: Annotated[list[str], typer.Argument(metavar="RULE...", help="Rule files, or names of the collection.")],
    shapes: Annotated[
        str | None,
        typer.Option("--shape", "--shapes", metavar="S1,...|B=8,T=4096,H=16,K=128,V=128", help="Default: S1."),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of vectors.")] = Dtype.BF16,
    json: Annotated[bool, typer.Option("--json", help="Print every trial as JSON.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Calls per median.")] = 30,
) -> None:
    """Measure the tiles of a rule's Triton kernels on this GPU and keep the fastest for later runs (minutes per rule)."""
    from dataclasses import asdict
    from json import dumps

    from ruledsl.cli import say
    from ruledsl.lab.bench.bench import machine
    from ruledsl.lab.bench.timing import watch_here
    from ruledsl.lab.tune.process import in_a_process
    from ruledsl.lab.tune.tune import groups
    from ruledsl.lab.tune.tune import tune as search
    from ruledsl.runtime.errors import BackendError
    from ruledsl.runtime.triton_chunked import missing

    if why := missing():
        raise Stop(Exit.REFUSED, f"tune measures Triton kernels: {why}")
    watch = watch_here(repeats)
    read = loaded(rules)
    at = shapes_of(shapes, read, "cuda")
    out, found, wrong = say.console(), [], []
    for name, rule in read:
        for group in groups(rule, at):
            out.quiet = json
            with out.status(name) as line:
                try:
                    done = search(rule, group, dtype.value, watch.device, repeats, in_a_process, line.update)
                except BackendError as error:
                    raise Stop(Exit.REFUSED, f"{name}: {error}") from None
            kept = _keep(done, rule.source.text)
            for text in (f"{name} {' '.join(f'{n}={x}' for n, x in done.place.sizes)}", *_lines(done), f"  {kept}"):
                out.print(text, soft_wrap=True)
            found.append({"rule": name, "stored": kept, **_record(done)})
            if done.best is None:
                wrong.append(f"{name}: {done.shipped.outcome.said}")
    if json:
        print(dumps({"schema": 1, **machine(watch), "repeats": repeats, "rows": found}, indent=1, default=asdict))
    if wrong:
        raise Stop(Exit.FAULT, "; ".join(wrong))


def _keep(done: Tuned, text: str) -> str:
    """Store what is fastest; where, or why not."""
    from ruledsl.runtime import tuned

    if done.best is None:
        return "nothing stored: no configuration is right and fits"
    line = next((x.strip("# ") for x in text.splitlines() if x.strip("# ")), "")[:200]
    measured = {"forward_ms": done.best.outcome.forward_ms, "backward_ms": done.best.outcome.backward_ms}
    try:
        return str(tuned.store(done.place, done.best.choice, line, {n: list(x) for n, x in measured.items()}))
    except OSError as error:
        raise Stop(Exit.USAGE, str(error)) from None


def _lines(done: Tuned) -> list[str]:
    """Shipped and chosen, and how many trials were not timed."""
    rows = [("shipped", done.shipped)] + ([("chosen", done.best)] if done.best else [])
    lines = [f"  {label:8} {_times(t)}" for label, t in rows]
    failed = [t.outcome for t in done.trials if t.outcome.status != "timed"]
    said = [f"  {o.status}: {o.said}"[:160] for o in failed]
    return [*lines, f"  {len(done.trials)} trials, {len(failed)} of them not timed", *dict.fromkeys(said)]


def _times(t: Tried) -> str:
    from ruledsl.lab.tune.tune import written

    if t.outcome.status != "timed":
        return t.outcome.status
    halves = [f"{d} {t.seconds(d):.3f} ms ({written(t.choice.of(d))})" for d in ("forward", "backward")]
    return ", ".join(halves)


def _record(done: Tuned) -> dict[str, Any]:
    shapes = [{"name": s.name, "B": s.batch, "T": s.length, "H": s.heads} for s in done.shapes]
    place = done.place.described()
    return {"place": place, "shapes": shapes, "shipped": done.shipped, "chosen": done.best, "trials": done.trials}
