"""The plot beside Table 4: the average score against the number of local frames and of non-local references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Curve:
    """One panel. points: (value, mean, spread) of ours. paper: (value, mean) as published; may be empty."""

    name: str
    title: str
    points: Sequence[tuple[int, float, float]]
    paper: Sequence[tuple[int, float]] = ()


def plot_curves(path: Path, curves: Sequence[Curve], metric: str, lines: Sequence[str]) -> None:
    """Write a PNG with a panel per curve that has points, side by side. lines: above them, the first as a heading."""
    from matplotlib.figure import Figure  # here, for it takes long to import; no pyplot: nothing is shown on a screen

    curves = [curve for curve in curves if curve.points]
    figure = Figure(figsize=(1.5 + 4.2 * len(curves), 4.6), layout="constrained")
    figure.suptitle("\n".join(lines), fontsize=9, parse_math=False)  # notes may hold dollars
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, curve in zip(panels, curves, strict=True):
        values, means, spreads = zip(*curve.points, strict=True)
        bars = spreads if any(spreads) else None
        axes.errorbar(values, means, yerr=bars, marker="o", capsize=3, color="tab:blue", label="ours")
        if curve.paper:
            axes.plot(*zip(*curve.paper, strict=True), marker="x", ls="--", color="tab:gray", label="paper")
        axes.set_xticks(sorted({*values, *(value for value, _ in curve.paper)}))
        axes.set_xlabel(curve.title)
        axes.grid(alpha=0.3)
        axes.legend()
    panels[0].set_ylabel(f"{metric}, percent")
    figure.savefig(path, format="png", dpi=120)
