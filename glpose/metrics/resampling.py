"""Intervals by resampling clips and trainings: AP pooled afresh for every draw, and recall.

A draw takes as many clips, and as many trainings (seeds), as there are, with replacement. AP of a draw is PoseTrack's,
of the samples of the drawn clips together, where a clip that was drawn twice counts twice; it is averaged over the
drawn trainings. Two rows are compared on the same draws, so that what clips have in common cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from glpose.keypoints import POSETRACK
from glpose.metrics.posetrack import Samples

Floats = NDArray[np.float64]
_JOINTS = len(POSETRACK)
LEVEL = 95.0  # percent of the draws that an interval holds


@dataclass(frozen=True)
class Measured:
    """What one training scored on V clips: samples of each for AP, and of some joints how many there are and are right.

    right, joints: (V,) int64.
    """

    samples: tuple[Samples, ...]
    right: np.ndarray
    joints: np.ndarray

    @cached_property
    def _ranked(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per joint, by falling score: the clip of each sample, and whether it is correct."""
        clip = np.repeat(np.arange(len(self.samples)), [len(own.score) for own in self.samples])
        joint, score, correct = (
            np.concatenate([getattr(own, name) for own in self.samples]) for name in ("joint", "score", "correct")
        )
        out = []
        for number in range(_JOINTS):
            own = np.flatnonzero(joint == number)
            own = own[np.argsort(score[own], kind="stable")[::-1]]
            out.append((clip[own], correct[own]))
        return out

    @cached_property
    def _annotated(self) -> np.ndarray:
        return np.array([own.n_gt for own in self.samples])  # (V, 15)

    def ap(self, times: np.ndarray) -> float:
        """Mean AP over joints, percent, of clips that count `times` (V,) each; joints that nobody has are left out."""
        counts = times @ self._annotated
        found = []
        for (clip, correct), n_gt in zip(self._ranked, counts, strict=True):
            if not n_gt:
                continue
            weight = times[clip]
            right = np.cumsum(weight * correct)
            precision = right / np.maximum(np.cumsum(weight), 1)
            # A sample that counts twice is two in a row: recall rises at its end, and the envelope is that of its end.
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            found.append(float(np.sum(np.diff(right, prepend=0) * envelope) / n_gt))
        return 100 * float(np.mean(found)) if found else float("nan")

    def recall(self, times: np.ndarray) -> float:
        """Percent of the joints that are right."""
        joints = times @ self.joints
        return 100 * float(times @ self.right / joints) if joints else float("nan")


MEASURES = {"ap": Measured.ap, "occluded_pck": Measured.recall}


@dataclass(frozen=True)
class Draws:
    """clips: (R, V), trainings: (R, S): how often each is in a draw; the first draw has all of them once."""

    clips: np.ndarray
    trainings: np.ndarray


def draw(clips: int, trainings: int, draws: int, seed: int) -> Draws:
    """`draws` draws with replacement, after the one of everything."""
    rng = np.random.default_rng(seed)

    def counts(size: int) -> np.ndarray:
        drawn = rng.multinomial(size, np.full(size, 1 / size), draws)
        return np.concatenate([np.ones((1, size), np.int64), drawn])

    return Draws(counts(clips), counts(trainings))


def over_draws(trainings: Sequence[Measured], measure: str, draws: Draws) -> Floats:
    """(R,) a row's figure in each draw, the mean over its trainings; measure: a name of MEASURES."""
    each = np.array([[MEASURES[measure](own, times) for own in trainings] for times in draws.clips])  # (R, S)
    return (each * draws.trainings).sum(axis=1) / draws.trainings.sum(axis=1)


def interval(values: Floats) -> tuple[float, float]:
    """The middle 95 % of the draws, without the first, which is the estimate itself."""
    low, high = np.nanpercentile(values[1:], [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def detectable(values: Floats) -> float:
    """The smallest difference found in 80 % of experiments like this one, at the 5 % level: 2.8 standard errors."""
    return 2.8 * float(np.nanstd(values[1:], ddof=1))


def slopes(rows: Sequence[Floats], at: Sequence[float]) -> Floats:
    """(R,) least-squares slope of several rows' figures over the values `at` that they stand for, in each draw."""
    x = np.asarray(at, np.float64) - np.mean(at)
    return np.tensordot(x, np.stack(rows), axes=1) / (x @ x)
