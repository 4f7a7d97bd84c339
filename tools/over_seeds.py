"""Rows of the evidence trained with several seeds, each in a work folder of its own: differences, in Markdown.

python tools/over_seeds.py aligned-copies,aligned_prior-prior_frames work/sixty-0 work/seed1-0 work/seed2-0

Intervals are of 95 % of draws of clips and of the trainings that both rows have; figures of each training stand beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from glpose.evidence import DRAWS
from glpose.metrics.resampling import MEASURES, Measured, draw, interval, over_draws
from stages.evidence import read_measured
from stages.evidence_report import SEED
from store.errors import ConfigError
from store.folder import StageFolder


def main(
    comparisons: Annotated[str, typer.Argument(help="a-b, separated by commas")],
    works: Annotated[list[Path], typer.Argument()],
) -> None:
    """Print a row for each comparison and measure."""
    seeds = [measured(work) for work in works]
    print("| comparison | measure | a | b | difference | 95 % |\n|---|---|---|---|---|---|")
    for comparison in comparisons.split(","):
        a, b = comparison.split("-")
        pairs = [(own[a], own[b]) for own in seeds if a in own and b in own]
        if not pairs:
            raise ConfigError(f"no work folder has both {a} and {b}: run glpose-stage evidence with these rows")
        draws = draw(len(pairs[0][0].samples), len(pairs), DRAWS, SEED)
        for measure, figure in MEASURES.items():
            rows = [[pair[side] for pair in pairs] for side in (0, 1)]
            everything = draws.clips[0]
            each = [", ".join(f"{figure(own, everything):.2f}" for own in row) for row in rows]
            difference = np.subtract(*(over_draws(row, measure, draws) for row in rows))
            low, high = interval(difference)
            print(
                f"| {a} - {b} | {measure} | {each[0]} | {each[1]} | {difference[0]:+.2f} | {low:+.2f} to {high:+.2f} |"
            )


def measured(work: Path) -> dict[str, Measured]:
    """What the rows of a work folder have scored, by name. ConfigError where it has none."""
    folder = StageFolder(work / "evidence")
    record = folder.record_in_force()
    if record is None:
        raise ConfigError(f"{work} has no rows of the evidence")
    return {row: read_measured(folder.attempt_path(commit))[1] for row, commit in folder.commits(record).items()}


if __name__ == "__main__":
    typer.run(main)
