"""Exact labels of a rendered frame: joints with what hides them and how fast they move, boxes, head boxes, tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glpose.data.rendered.actions import Array
from glpose.data.tags import BY_ITSELF, BY_OTHERS, UNOCCLUDED, UNTAGGED
from glpose.keypoints import HIDDEN, POSETRACK, VISIBLE

THING = 255  # the owner of pixels that something other than a person covers
MARGIN = 0.05  # metres: clothes, and faces of the mesh that are a few centimetres wide
LEAST_PIXELS = 12  # of a person's own, to be annotated
_NOSE, _TOP = POSETRACK.joints.index("nose"), POSETRACK.joints.index("head_top")


@dataclass(frozen=True)
class FrameLabels:
    """Labels of the n people of one frame, by track.

    keypoints: (n, 15, 3) float32, POSETRACK order, x and y in px and 2 visible, 1 hidden, 0 outside the frame (then
    x = y = 0). boxes: (n, 4) float32 xyxy px round the visible pixels, without things carried. head_boxes: (n, 4)
    float32 xyxy px round the whole head, not clipped. track_ids: (n,) int64. occlusion: (n, 15) int8, -1 outside, 0
    seen, 1 hidden by the own body, 2 by somebody or something else. speed: (n, 15) float32 px per frame. visible: (n,)
    float32 share of the body's pixels in the frame that nothing else covers. actions: of each. defocus: sigma of the
    frame's blur, px.
    """

    keypoints: np.ndarray
    boxes: np.ndarray
    head_boxes: np.ndarray
    track_ids: np.ndarray
    occlusion: np.ndarray
    speed: np.ndarray
    visible: np.ndarray
    actions: tuple[str, ...]
    defocus: float

    def __len__(self) -> int:
        return len(self.track_ids)


@dataclass(frozen=True)
class Seen:
    """One person at the middle of the exposure.

    px, depth: (15, 2) px and (15,) metres of the keypoints; reach: (15,) metres from them to the body's surface; head:
    (N, 2) px of the head's vertices; speed: (15,) px per frame; surface: depth map (h, w), inf outside, at (left, top)
    `corner`; person: the same, where what is carried is left out.
    """

    track: int
    action: str
    px: Array
    depth: Array
    reach: Array
    head: Array
    speed: Array
    surface: np.ndarray
    person: np.ndarray
    corner: tuple[int, int]


def label_people(people: Sequence[Seen], owners: np.ndarray, defocus: float) -> FrameLabels:
    """Labels of a frame. owners: (H, W) uint8, 0 background, track + 1 of the person on top, THING.

    People with no visible joint, or hardly a visible pixel, are left out.
    """
    height, width = owners.shape
    rows = [row for person in people if (row := _label(person, owners, (width, height))) is not None]
    count = len(rows)
    joints = len(POSETRACK)

    def column(index: int, kind: type, *shape: int) -> np.ndarray:
        return np.array([row[index] for row in rows], kind).reshape(count, *shape)

    return FrameLabels(
        column(0, np.float32, joints, 3),
        column(1, np.float32, 4),
        column(2, np.float32, 4),
        column(3, np.int64),
        column(4, np.int8, joints),
        column(5, np.float32, joints),
        column(6, np.float32),
        tuple(row[7] for row in rows),
        float(defocus),
    )


def _label(
    person: Seen, owners: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, np.ndarray, Array, float, str] | None:
    left, top = person.corner
    h, w = person.surface.shape
    covered = np.isfinite(person.person)
    own = covered & (owners[top : top + h, left : left + w] == person.track + 1)
    if own.sum() < LEAST_PIXELS:
        return None
    y, x = np.nonzero(own)
    box = np.array([left + x.min(), top + y.min(), left + x.max() + 1, top + y.max() + 1], np.float32)
    inside = ((person.px >= 0) & (person.px < size)).all(axis=1)
    occlusion = np.full(len(person.px), UNTAGGED, np.int8)
    for joint in np.flatnonzero(inside).tolist():
        occlusion[joint] = _hidden_by(person, joint, owners)
    if not (occlusion == UNOCCLUDED).any():
        return None
    flags = np.select([occlusion == UNTAGGED, occlusion == UNOCCLUDED], [0, VISIBLE], HIDDEN)
    keypoints = np.column_stack([person.px, flags]).astype(np.float32)
    keypoints[~inside] = 0
    head = np.concatenate([person.head.min(axis=0), person.head.max(axis=0)])
    share = float(own.sum() / covered.sum())
    return keypoints, box, head, person.track, occlusion, person.speed, share, person.action


def _hidden_by(person: Seen, joint: int, owners: np.ndarray) -> int:
    """What most of the few pixels round a joint show: the person's surface near the joint, a nearer part, or others."""
    at = person.px[joint]
    if joint == _TOP:
        at = at + 0.2 * (person.px[_NOSE] - at)  # the top itself lies on the outline
    height, width = owners.shape
    left, top = person.corner
    near = person.depth[joint] - (1.5 * person.reach[joint] + MARGIN)
    votes = [0, 0, 0]
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            x, y = int(np.clip(at[0] + dx, 0, width - 1)), int(np.clip(at[1] + dy, 0, height - 1))
            owner, row, column = int(owners[y, x]), y - top, x - left
            if owner == person.track + 1:
                votes[UNOCCLUDED if person.surface[row, column] >= near else BY_ITSELF] += 1
            elif owner and 0 <= row < person.surface.shape[0] and 0 <= column < person.surface.shape[1]:
                # Behind another's pixel: hidden by the other even where the own body would hide it too.
                votes[BY_OTHERS] += 1
    return UNOCCLUDED if not any(votes) else int(np.argmax(votes))
