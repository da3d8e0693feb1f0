"""`ruledsl bench`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ruledsl.cli.exits import Exit, Stop

if TYPE_CHECKING:
    from ruledsl.lab.bench.bench import Row
    from ruledsl.lab.bench.shapes import Shape
    from ruledsl.lab.bench.timing import Watch
    from ruledsl.runtime.rule import Rule


class Dtype(StrEnum):
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


def bench(
    rules: Annotated[list[str], typer.Argument(metavar="RULE...", help="Rule files, or names of the collection.")],
    vs: Annotated[
        str | None,
        typer.Option(metavar="fla", help="Time this package beside it; fla:NAME: as for this rule of the collection."),
    ] = None,
    shapes: Annotated[
        str | None, typer.Option(metavar="S1,...|B=8,T=4096,H=16,K=128,V=128", help="Default: S1, on a CPU C1.")
    ] = None,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="triton, triton-scan, torch or recurrent.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of vectors. Default: bf16, on a CPU fp32.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows there, as they come.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw them (needs matplotlib).")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Calls per median. Default: 50, on a CPU 5.")] = None,
) -> None:
    """Time rules on this machine, after a check against the float64 recurrence (status 3 where a backend is wrong)."""
    from ruledsl.lab.bench.peers import PEERS
    from ruledsl.lab.bench.shapes import DEFAULT_DTYPE
    from ruledsl.lab.bench.timing import watch_here

    package, _, row = (vs or "").partition(":")
    if vs is not None and (package not in PEERS or (row and row not in PEERS[package])):
        rows_of = f" with {', '.join(PEERS[package])}" if package in PEERS else ""
        raise Stop(Exit.USAGE, f"--vs: there is no {vs}; there are {', '.join(PEERS)}{rows_of}")
    _can_write(json, plot)
    watch = watch_here(repeats)
    read = loaded(rules)
    at = shapes_of(shapes, read, watch.device.type)
    written = dtype.value if dtype is not None else DEFAULT_DTYPE[watch.device.type]
    rows = _run(read, at, written, watch, backend, vs, json)
    if plot is not None:
        from ruledsl.lab.bench.bench import device_name
        from ruledsl.lab.bench.report import picture

        picture(rows, plot, f"{device_name(watch.device)}, {written}")


def loaded(names: list[str]) -> list[tuple[str, Rule]]:
    from ruledsl.cli.read import read
    from ruledsl.cli.say import told
    from ruledsl.runtime.rule import Rule

    found = []
    for name in names:
        with told(Exit.USAGE):
            source = read(name)
        with told():
            rule = Rule(source)
            rule.verdict  # noqa: B018  judged now: a refusal comes before anything runs
        found.append((Path(name).stem, rule))
    return found


def shapes_of(text: str | None, rules: list[tuple[str, Rule]], device: str) -> list[Shape]:
    from ruledsl.lab.bench.shapes import DEFAULT, SHAPES, shapes

    default = SHAPES[DEFAULT[device]]
    try:
        return [default] if text is None else shapes(text, default, [n for _, r in rules for n in r.typed.sizes])
    except ValueError as error:
        raise Stop(Exit.USAGE, f"--shapes: {error}") from None


def _can_write(json: Path | None, plot: Path | None) -> None:
    """Before minutes are spent."""
    from importlib.util import find_spec

    for path in (json, plot):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise Stop(Exit.USAGE, f"cannot write `{path}`: there is no such folder, or it is one")
    if plot is not None and find_spec("matplotlib") is None:
        raise Stop(Exit.USAGE, '--plot needs matplotlib: pip install "ruledsl[demo]"')


def _run(
    rules: list[tuple[str, Rule]], shapes: list[Shape], dtype: str, watch: Watch, backend: str | None,
    peer: str | None, json: Path | None,
) -> list[Row]:  # fmt: skip
    from json import dumps

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from ruledsl.cli import say
    from ruledsl.lab.bench.bench import bench, device_name, record, steps
    from ruledsl.lab.bench.gate import Wrong
    from ruledsl.lab.bench.report import notes, step_table, table
    from ruledsl.lab.bench.shapes import DTYPES
    from ruledsl.runtime.errors import BackendError

    out, rows = say.console(), []
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    try:
        with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
            task = bar.add_task("", total=steps(len(rules), len(shapes), peer is not None))
            begun = 0

            def heard(text: str) -> None:
                nonlocal begun
                bar.update(task, completed=begun, description=text)
                begun += 1

            for row in bench(rules, shapes, DTYPES[dtype], watch, backend, peer, heard):
                rows.append(row)
                if json is not None:
                    json.write_text(dumps(record(rows, watch), indent=1) + "\n", encoding="utf-8")
    except BackendError as error:
        raise Stop(Exit.REFUSED, f"--backend: {error}") from None
    except Wrong as error:
        raise Stop(Exit.FAULT, str(error)) from None
    finally:
        if rows:
            for row in rows:
                out.print(table(row))
                out.print(step_table(row))
            for line in (*notes(rows), f"{device_name(watch.device)}; medians of {watch.repeats} calls"):
                out.print(line, soft_wrap=True)
    return rows
