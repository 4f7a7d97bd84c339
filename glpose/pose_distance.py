"""How far true poses are apart: what the oracle, a control of retrieval, chooses references by."""

from __future__ import annotations

import numpy as np
import pandas as pd

from store.tables import BOX

LEAST_SHARED = 0.5  # of the joints annotated of a person, a reference must show at least this share


def normalised_poses(table: pd.DataFrame) -> np.ndarray:
    """Poses relative to their boxes, (P, J, 3) float64: x, y from the box's centre over max(w, h), 1 where annotated.

    table: x1, y1, x2, y2 and keypoints, J * 3 numbers or None. All zeros where a person or a joint is not annotated.
    """
    given = {row: np.reshape(own, (-1, 3)) for row, own in enumerate(table["keypoints"]) if own is not None}
    points = np.zeros((len(table), len(next(iter(given.values()), ())), 3))
    for row, own in given.items():
        points[row] = own
    box = table[BOX].to_numpy(np.float64)
    centre, size = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]).max(axis=1)
    xy = (points[..., :2] - centre[:, None]) / size[:, None, None]
    annotated = points[..., 2:] > 0
    return np.concatenate([np.where(annotated, xy, 0), annotated], axis=-1)


def pose_distance(poses: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(Q, M): mean distance of the joints that are annotated in both, in sizes of the person.

    poses: (Q, J, 3) and others: (Q, M, J, 3), from `normalised_poses`; M others to compare with each pose. inf where
    they share no joint, or less than half of those annotated in `poses`: a head that is in place says little of a body.
    """
    shared = poses[:, None, :, 2] * others[..., 2]  # (Q, M, J)
    apart = np.linalg.norm(poses[:, None, :, :2] - others[..., :2], axis=-1)
    count = shared.sum(axis=-1)
    enough = (count > 0) & (count >= LEAST_SHARED * poses[:, None, :, 2].sum(axis=-1))
    return np.where(enough, (apart * shared).sum(axis=-1) / np.maximum(count, 1), np.inf)


def nearest_poses(poses: np.ndarray, others: np.ndarray, excluded: np.ndarray, n: int) -> np.ndarray:
    """(Q, n) numbers of the others nearest to each pose, nearest first, -1 where there are fewer.

    poses: (Q, J, 3). others: (E, J, 3). excluded: (Q, 2) numbers [start, stop) that may not be chosen.
    """
    found = np.full((len(poses), n), -1)
    for query, (start, stop) in enumerate(excluded):  # one at a time: all pairs of a data set would not fit in memory
        distance = pose_distance(poses[query, None], others[None])[0]
        distance[start:stop] = np.inf
        order = np.argsort(distance, kind="stable")[:n]
        found[query, : len(order)] = np.where(np.isinf(distance[order]), -1, order)
    return found
