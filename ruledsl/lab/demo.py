"""`python -m ruledsl.lab.demo`: a rule of one line is judged, compiled, trained on real text and decoded.

It fails (status 1) if the model does not learn, or if the recurrent step and the chunk form disagree.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from torch import Tensor

import ruledsl
from ruledsl.lab import train as training
from ruledsl.lab.plot import loss_curve
from ruledsl.lab.text import UNIFORM_BITS, python_help, split, unigram_bits
from ruledsl.lab.train import Recipe, held_out_bits, train
from ruledsl.nn.model import LanguageModel
from ruledsl.resources import data_dir, load_source
from ruledsl.runtime.rule import Rule

MARGIN = 1.5  # bits per byte that the memory must gain over byte frequencies
TOLERANCE = 1e-3  # between the logits of the two forms, in float32
PROMPT = b"The "


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo stands or falls by."""

    bits: float  # per held-out byte
    unigram: float
    gap: float  # largest difference between chunk and step logits

    def failures(self) -> list[str]:
        found = []
        if not self.bits <= self.unigram - MARGIN:
            found.append(
                f"{self.bits:.2f} bits per byte is not {MARGIN} below the {self.unigram:.2f} of byte frequencies: the model did not learn enough"
            )
        if not self.gap <= TOLERANCE:
            found.append(f"chunk and step logits differ by {self.gap:.1e}, more than {TOLERANCE:.0e}")
        return found


@torch.no_grad()
def largest_gap(model: LanguageModel, tokens: Tensor) -> float:
    """Largest difference between the logits of `tokens` [B, T] in one call and token by token."""
    together, state = model(tokens), model.init_state(tokens.shape[0])
    apart = []
    for i in range(tokens.shape[1]):
        logits, state = model.step(tokens[:, i], state)
        apart.append(logits)
    return float((torch.stack(apart, 1) - together).abs().max())


def run(seconds: float, seed: int, folder: Path, out: Console, steps: int | None = None) -> Outcome:
    """The whole demo; pictures and the compiled module go to `folder`. `steps` replaces the time budget."""
    path = data_dir("rules") / "mission.rule"
    source = load_source(path)
    folder.mkdir(parents=True, exist_ok=True)

    _headline(out, "1  the rule, and what the checker says about it")
    out.print(source.text.strip(), style="cyan", soft_wrap=True)
    _command(out, "check", _shown(path))

    _headline(out, "2  compiled to a module to read and to import")
    _command(out, "compile", _shown(path), "-o", _shown(folder / "mission.py"))

    _headline(out, "3  trained as the memory of a small byte model, on the text of Python's help()")
    torch.manual_seed(seed)
    model = LanguageModel(Rule(source), dim=128, layers=2, heads=4, conv=4)
    data, held_out = split(python_help())
    recipe = Recipe(seconds=seconds, steps=steps, seed=seed)
    out.print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(data):,} bytes to learn from, {len(held_out):,} held out"
    )
    for number, assumed in enumerate(model.memories[0].assumptions):
        out.print(f"{'the layer assumes' if number == 0 else '':17}  {assumed}", soft_wrap=True)
    curve = _train(model, data, recipe, out)
    unigram = unigram_bits(data, held_out)
    bits = held_out_bits(model, held_out, recipe.context)
    levels = {"uniform": UNIFORM_BITS, "byte frequencies": unigram, "held out": bits}
    loss_curve(curve, levels, folder / "demo_loss.png", source.text.strip().splitlines()[-1])
    out.print(
        f"bits per held-out byte: uniform {UNIFORM_BITS:.2f}, byte frequencies {unigram:.2f}, this rule {bits:.2f}",
        style="bold",
    )
    out.print(f"the loss curve: {_shown(folder / 'demo_loss.png')}", soft_wrap=True)

    _headline(out, "4  decoded, one token at a time with a state of constant size")
    begin = time.monotonic()
    written = model.generate(PROMPT, 300, temperature=0.7, generator=torch.Generator().manual_seed(seed))
    taken = time.monotonic() - begin
    out.print((PROMPT + written).decode("utf-8", "replace"), style="green")
    gap = largest_gap(model, held_out[:512].view(2, 256))
    out.print(f"\n{len(written) / taken:.0f} bytes per second")
    out.print(f"largest difference between chunk and step logits over 512 held-out bytes: {gap:.1e}")
    return Outcome(bits, unigram, gap)


def next_lines() -> list[str]:
    """Three commands to go on with, as they work from here."""
    beside = Path(sys.executable).with_name("ruledsl")
    python = _shown(Path(sys.executable))
    command = _shown(beside) if beside.exists() else f"{python} cli.py"
    own = "S = a*S + b*tanh(v - S k) k^T"
    layer = "import ruledsl; print(ruledsl.load('S = a*S + b*(v - S k) k^T').layer(dim=256, heads=4))"
    return [f'{command} check -e "{own}"', f"{command} compile gated_delta -o gated_delta.py", f'{python} -c "{layer}"']


def _command(out: Console, *arguments: str) -> None:
    """Run the command line as a user would, in a process of its own. Raises CalledProcessError if it fails."""
    out.print(f"$ ruledsl {' '.join(arguments)}", style="bold", soft_wrap=True)
    found = os.pathsep.join((str(Path(ruledsl.__file__).parent.parent), os.environ.get("PYTHONPATH", "")))
    code = "from ruledsl.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": found, "COLUMNS": str(out.width)},
    )
    out.print(done.stdout.rstrip(), soft_wrap=True)


def _shown(path: Path) -> str:
    """Relative to where the user is, if it is below; links are not followed, as a virtual environment is one."""
    whole = Path(os.path.abspath(path))
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(whole)


def _train(model: LanguageModel, data: Tensor, recipe: Recipe, out: Console) -> list[training.Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out) as bar:
        task: TaskID = bar.add_task("training", total=1.0)

        def show(progress: training.Progress) -> None:
            bar.update(
                task, completed=progress.used, description=f"step {progress.step}, {progress.bits:.2f} bits per byte"
            )

        curve = train(model, data, recipe, show)
        bar.update(task, completed=1.0)
    return curve


def _headline(out: Console, text: str) -> None:
    out.print(f"\n{text}", style="bold")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ruledsl.lab.demo", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="time to train (default: %(default)s)")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the first weights, the batches and the text written (default: %(default)s)",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("build"), help="where the module and the picture go (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.seconds <= 0:
        parser.error("--seconds must be positive")
    # a step is many small operations: threads that wait for a core which others use cost more than they bring
    torch.set_num_threads(max(1, min(4, (os.cpu_count() or 1) // 2)))
    out = Console(highlight=False, markup=False, emoji=False)
    outcome = run(options.seconds, options.seed, options.folder, out)
    failures = outcome.failures()
    for failure in failures:
        print(f"demo: {failure}", file=sys.stderr)
    if not failures:
        _headline(out, "next")
        for line in next_lines():
            out.print(line, soft_wrap=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
