"""Rows for people: a table, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from rich.table import Table

from ruledsl.lab.bench.bench import RATIOS, Row, ratio
from ruledsl.lab.bench.model import apart
from ruledsl.lab.bench.timing import Decoded, Times

COLUMNS = ("forward", "fwd + bwd", "one token", "first fwd", "first bwd", "peak")


def table(row: Row) -> Table:
    """Ours, the floor and the ratio to it, the peer and its ratio to ours (above 1: ours is faster)."""
    s = row.shape
    at = {"B": s.batch, "T": s.length, "H": s.heads, **row.sizes}
    title = " ".join(x for x in (row.rule, s.name, *(f"{n}={x}" for n, x in at.items())) if x)
    shown = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column("", no_wrap=True)
    for name in COLUMNS:
        shown.add_column(name, justify="right", no_wrap=True)
    ours = [getattr(row.ours, n) for n in RATIOS]
    shown.add_row(f"{row.backend}, {row.dtype}", *_cells(row.ours))
    if row.floor is None:
        shown.add_row("floor: unknown")
    else:
        least = [getattr(row.floor, n) for n in RATIOS]
        shown.add_row("floor", *map(_time, least))
        shown.add_row("over floor", *_over(ours, least))
    if row.model is not None:
        expected = [getattr(row.model, n) for n in RATIOS]
        shown.add_row("model", *map(_time, expected))
        shown.add_row("over model", *_over(ours, expected))
    peer = row.peer
    if peer is not None and peer.times is not None:
        shown.add_row(peer.name, *_cells(peer.times))
        shown.add_row(f"{peer.name} / ours", *_over([getattr(peer.times, n) for n in RATIOS], ours))
    elif peer is not None:
        shown.add_row(f"{peer.name}: {peer.status}")
    return shown


def step_table(row: Row) -> Table:
    """One token of several sequences: eager, as a CUDA graph, and the time to read and write the states at the measured
    copy rate."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("one token", "eager", "CUDA graph", "state", "over it"):
        shown.add_column(name, justify="left" if name == "one token" else "right", no_wrap=True)
    theirs = [] if row.peer is None else [(f"{row.peer.name} ", s) for s in row.peer.steps]
    both: list[tuple[str, Decoded]] = [*(("", s) for s in row.steps), *theirs]
    for label, step in sorted(both, key=lambda x: x[1].batch):
        least = row.step_floor_ms(step)
        best = step.graph_ms if step.graph_ms is not None else step.eager_ms
        shown.add_row(
            f"{label}B={step.batch}", _time(step.eager_ms), _time(step.graph_ms), _time(least), *_over([best], [least])
        )
    return shown


def notes(rows: Sequence[Row]) -> list[str]:
    """The gate of every row, what limits its floor, where the model is off, what a peer leaves out and what failed of it."""
    lines = []
    for row in rows:
        g = row.gate
        at = f"{row.rule} {row.shape.name}".strip()
        lines.append(f"{at}: right against the float64 recurrence; nearest to its bar: {g.quantity}, {g.error:.1e} of {g.bar:.0e}")  # fmt: skip
        if row.floor is not None:
            lines.append(f"{at}: floor: {row.floor.forward_limit} limit a pass, {row.floor.decode_limit} a token")
        if row.model is not None:
            names = zip(("forward", "forward + backward", "one token"), RATIOS, strict=True)
            said = (apart(n, getattr(row.ours, key), getattr(row.model, key.removesuffix("_ms"))) for n, key in names)
            lines += [f"{at}: {line}" for line in said if line is not None]
        if row.peer is not None:
            if row.peer.omits and row.peer.times is not None:
                lines.append(f"{at}: {row.peer.name} does without {row.peer.omits}")
            lines += [f"{at}: {row.peer.name}: {failure}" for failure in row.peer.failures]
    return lines


def picture(rows: Sequence[Row], path: Path, title: str) -> None:
    """Forward, and forward with backward: bars of ours and the peer, a line at the floor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = [f"{r.rule} {r.shape.name or f'B{r.shape.batch} T{r.shape.length} H{r.shape.heads}'}" for r in rows]
    figure, both = pyplot.subplots(1, 2, figsize=(10, 1.8 + 0.5 * len(rows)), layout="constrained", sharey=True)
    for axes, key, name in zip(both, RATIOS, ("forward", "forward + backward"), strict=False):
        for i, row in enumerate(rows):
            theirs = row.peer.times if row.peer is not None else None
            pairs = (
                ("ruledsl", "tab:blue", row.ours, -0.2),
                (row.peer.name if row.peer else "", "tab:gray", theirs, 0.2),
            )
            for label, color, times, shift in pairs:
                value = None if times is None else getattr(times, key)
                if value is not None:
                    axes.barh(i + shift, value, 0.38, color=color, label=label)
            if row.floor is not None:
                axes.vlines(getattr(row.floor, key), i - 0.42, i + 0.42, color="tab:red", label="floor")
        axes.set(title=name, xlabel="ms", xlim=(0, None))
    both[0].set_yticks(range(len(rows)), labels)
    both[0].invert_yaxis()
    handles, names = both[0].get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))
    figure.legend(once.values(), once.keys(), frameon=False, loc="outside lower center", ncols=3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _cells(times: Times) -> list[str]:
    cold_forward, cold_backward, forward, both, token, peak = astuple(times)
    cold = [_time(None if x is None else 1e3 * x) for x in (cold_forward, cold_backward)]
    return [_time(forward), _time(both), _time(token), *cold, "-" if peak is None else f"{peak:.0f} MiB"]


def _over(above: Sequence[float | None], below: Sequence[float | None]) -> list[str]:
    found = (ratio(x, y) for x, y in zip(above, below, strict=True))
    return ["-" if x is None else f"{x:.2f}x" if x < 100 else f"{x:.0f}x" for x in found]


def _time(ms: float | None) -> str:
    """Three figures: `12.3 us`, `4.56 ms`, `7.89 s`."""
    if ms is None:
        return "-"
    for unit, name in ((1e3, "s"), (1.0, "ms")):
        if ms >= unit:
            return f"{ms / unit:.3g} {name}"
    return f"{ms * 1e3:.3g} us"
