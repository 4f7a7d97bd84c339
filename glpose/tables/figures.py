"""The figures of an evaluation that tables show: one per joint group and their average, over several seeds too."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

MEAN = "mean"  # key of the average, whatever the metric calls it
MEAN_TITLES = {"jhmdb": "Avg", "coco": "AP"}  # by data.kind; of all others "Mean"
OKS = {"AP50": "ap50", "AP75": "ap75", "medium": "ap_medium", "large": "ap_large", "AR": "ar"}  # title -> key

Figures = Mapping[str, float | None]  # percent; None where nothing was annotated


def figures(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Figures of one variant in an evaluation's scores: its groups by their names, or OKS's kinds of AP, then `MEAN`.

    All None where the average is: nobody was annotated, and zeros would look like scores.
    """
    found = {**result["groups"]} if "groups" in result else {title: result[key] for title, key in OKS.items()}
    found[MEAN] = result["mean"]
    return found if result["mean"] is not None else dict.fromkeys(found)


def mean_of(results: Sequence[Figures]) -> dict[str, float | None]:
    """Mean of every figure; None where it is None in any."""
    return {name: _mean([result[name] for result in results]) for name in results[0]}


def spread_of(results: Sequence[Figures]) -> dict[str, float | None]:
    """Sample standard deviation (n - 1) of every figure; None where it is None in any, or of a single one."""
    return {name: _spread([result[name] for result in results]) for name in results[0]}


def title_of(name: str, kind: str) -> str:
    """A figure's name above its column. kind: data.kind."""
    return MEAN_TITLES.get(kind, "Mean") if name == MEAN else name


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) == len(values) > 1 else None
