"""What annotations say of proposals, and how far poses are from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from glpose.data.annotations import Annotations, keypoint_boxes
from glpose.geometry import box_iou, clip_boxes

LEAST_IOU = 0.5  # a proposal is of the annotated person whose box it overlaps at least so much


@dataclass(frozen=True)
class Truth:
    """Of P proposals, as far as they are annotated.

    keypoints: (P, J, 3) x, y in frame px and the flag, 0 where not annotated. action: P names, empty where not known.
    """

    keypoints: np.ndarray
    action: tuple[str, ...]

    @property
    def sizes(self) -> np.ndarray:
        """(P,) the larger side of the extent of each person's annotated joints, px; NaN without or of a single one."""
        boxes = keypoint_boxes(self.keypoints, margin=0)
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=-np.inf)
        return np.where(sides > 0, sides, np.nan)

    @property
    def annotated(self) -> np.ndarray:
        """(P,) share of the joints that are annotated."""
        return (self.keypoints[..., 2] > 0).mean(axis=1)

    def errors(self, poses: np.ndarray) -> np.ndarray:
        """(P, J) px from poses (P, J, 3) to the annotated joints, NaN where there is none."""
        distance = np.linalg.norm(poses[..., :2] - self.keypoints[..., :2], axis=-1)
        return np.where(self.keypoints[..., 2] > 0, distance, np.nan)

    def mean_errors(self, poses: np.ndarray) -> np.ndarray:
        """(P,) mean error of the annotated joints over the person's size, NaN without."""
        annotated = self.keypoints[..., 2] > 0
        total = np.where(annotated, self.errors(poses), 0).sum(axis=1)
        return total / np.where(annotated.any(axis=1), annotated.sum(axis=1), np.nan) / self.sizes


def match_annotations(
    frames: np.ndarray, boxes: np.ndarray, annotations: Annotations, size: tuple[int, int]
) -> np.ndarray:
    """(P,) row of the annotated person that each proposal is of, -1 for none: by the overlap of boxes, one to one.

    frames: (P,). boxes: (P, 4) xyxy, frame px, clipped to the frame. size: (height, width) px of the frames.
    """
    annotated, usable = clip_boxes(annotations.boxes, *size)
    found = np.full(len(frames), -1)
    for frame in np.unique(frames):
        proposals = np.flatnonzero(frames == frame)
        people = np.flatnonzero((annotations.frame == frame) & usable)
        overlap = box_iou(boxes[proposals], annotated[people])
        chosen, owners = linear_sum_assignment(overlap, maximize=True)
        sure = overlap[chosen, owners] >= LEAST_IOU
        found[proposals[chosen[sure]]] = people[owners[sure]]
    return found


def truth_of(
    frames: np.ndarray,
    boxes: np.ndarray,
    annotations: Annotations | None,
    size: tuple[int, int],
    joints: int,
) -> Truth:
    """What annotations say of P proposals of one video; nothing without annotations. Arguments as in the match."""
    nothing = Truth(np.zeros((len(frames), joints, 3)), ("",) * len(frames))
    if annotations is None or not len(annotations.frame):
        return nothing
    owner = match_annotations(frames, boxes, annotations, size)
    keypoints, action = nothing.keypoints, list(nothing.action)
    keypoints[owner >= 0] = annotations.keypoints[owner[owner >= 0]]
    if annotations.tags is not None:
        action = [annotations.tags.action[row] if row >= 0 else "" for row in owner]
    return Truth(keypoints, tuple(action))


def join_truth(parts: list[Truth]) -> Truth:
    """Of several videos, one after the other."""
    return Truth(np.concatenate([part.keypoints for part in parts]), tuple(a for part in parts for a in part.action))
