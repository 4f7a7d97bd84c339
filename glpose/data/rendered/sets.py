"""Sets of clips that share nothing: no body, and no seed of scenes, clothes and motion."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipSet:
    """bodies: rows of the baked meshes, whose mixtures appear; seed: added to that of the data."""

    bodies: tuple[int, ...]
    seed: int


# `pretrain` is for backbone and detector: heads trained on features of a backbone that was fitted to the same clips
# learn to do without their references.
SETS = {
    "pretrain": ClipSet(tuple(range(0, 12)), 0),
    "train": ClipSet(tuple(range(12, 18)), 1_000_000),
    "val": ClipSet(tuple(range(18, 21)), 2_000_000),
    "test": ClipSet(tuple(range(21, 24)), 3_000_000),
}
