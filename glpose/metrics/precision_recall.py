"""Precision against recall, as curves whose area is the AP that tables print."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glpose.keypoints import POSETRACK, Counted
from glpose.metrics.posetrack import envelope_of, evaluated_samples

MEAN = "Mean"


@dataclass(frozen=True)
class Curve:
    """recall, precision: (K,) float64 from 0 to 1, recall ascending. area: percent, as the protocol integrates it."""

    recall: np.ndarray
    precision: np.ndarray
    area: float


def posetrack_curves(gt_dir: Path, pred_dir: Path, joints: Counted = "annotated") -> dict[str, Curve]:
    """Joint group -> its curve, then that of all joints, `MEAN`, from the folders that `posetrack.evaluate` scores.

    A joint's curve is the monotone precision envelope that poseval integrates: precision[i] holds for the recalls from
    recall[i - 1] (0 before the first) to recall[i], and precision is 0 beyond the last. A group's is the mean of its
    joints' at each recall, so that its area is the mean of their APs, the figure in the table. Groups whose AP is NaN
    have none; the mean leaves out joints that are not annotated, as the table's does. DataError as of
    `posetrack.evaluate`.
    """
    samples = evaluated_samples(gt_dir, pred_dir, joints)
    curves: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for joint in range(len(POSETRACK)):
        own = samples.joint == joint
        if samples.n_gt[joint]:
            curves[joint] = envelope_of(samples.score[own], samples.correct[own], int(samples.n_gt[joint]))
        elif not own.any():  # AP is 0, not NaN, of a joint that is neither annotated nor predicted
            curves[joint] = np.zeros(0), np.zeros(0)
    groups = {name: list(members) for name, members in POSETRACK.groups.items() if curves.keys() >= set(members)}
    every = {**groups, MEAN: list(curves)} if curves else {}
    return {name: _mean([curves[joint] for joint in members]) for name, members in every.items()}


def _mean(curves: list[tuple[np.ndarray, np.ndarray]]) -> Curve:
    """The mean of step functions at every recall where any of them steps."""
    recall = np.unique(np.concatenate([own for own, _ in curves]))
    recall = recall[recall > 0]
    precision = np.zeros(len(recall))
    for own_recall, own_precision in curves:
        at = np.searchsorted(own_recall, recall)  # the first of equal recalls has the highest precision
        precision += np.append(own_precision, 0.0)[at] / len(curves)
    return Curve(recall, precision, 100 * float(np.sum(np.diff(recall, prepend=0.0) * precision)))
