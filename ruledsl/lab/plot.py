"""Pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ruledsl.lab.train import Progress


def loss_curve(curve: Sequence[Progress], levels: Mapping[str, float], path: Path, title: str = "") -> None:
    """Training loss against steps, each step and a running mean, with horizontal lines at `levels` (bits per byte)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps, bits = [p.step for p in curve], [p.bits for p in curve]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(steps, bits, color="tab:blue", alpha=0.3, linewidth=0.8)
    axes.plot(steps, _running_mean(bits, 0.95), color="tab:blue", label="training")
    for (name, level), color in zip(levels.items(), ("tab:gray", "tab:orange", "tab:green", "tab:red"), strict=False):
        axes.axhline(level, color=color, linestyle="--", linewidth=1, label=f"{name} {level:.2f}")
    axes.set(xlabel="step", ylabel="bits per byte", title=title)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _running_mean(values: Sequence[float], keep: float) -> list[float]:
    """Exponential mean, corrected for its start."""
    mean, found = 0.0, []
    for i, value in enumerate(values):
        mean = keep * mean + (1 - keep) * value
        found.append(mean / (1 - keep ** (i + 1)))
    return found
