"""Exact labels of a generated frame: keypoints with visibility, boxes, head boxes, tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from glpose.data.generated.figures import Polygon
from glpose.data.generated.looks import ITEM
from glpose.data.generated.placing import Placed
from glpose.data.generated.render import OCCLUDER, extent
from glpose.data.generated.skeleton import Array
from glpose.keypoints import HIDDEN, POSETRACK, VISIBLE


def _own(*names: str) -> frozenset[int]:
    return frozenset(ITEM[name] for name in names)


# Items of the own body on which a joint lies: seeing one of them at the joint's pixel is seeing the joint.
_LIES_ON = {
    "ankle": ("foot", "shin"),
    "knee": ("shin", "thigh", "skirt"),
    "hip": ("thigh", "hips", "trunk", "skirt"),
    "wrist": ("fore", "hand"),
    "elbow": ("fore", "arm"),
    "shoulder": ("arm", "trunk"),
}
_ALWAYS = {
    "head_bottom": _own("neck", "head", "trunk", "hair"),
    "nose": _own("head"),
    "head_top": _own("head", "hair"),
}


def _items_of(joint: str) -> frozenset[int]:
    if joint in _ALWAYS:
        return _ALWAYS[joint]
    side, name = joint[0], joint.split("_")[1]
    items = [f"{side}_{part}" for part in _LIES_ON[name]]
    return frozenset(ITEM[item] if item in ITEM else ITEM[item[2:]] for item in items)


_BODY = frozenset(ITEM.values()) - _own("r_held", "l_held")
OWN_ITEMS = tuple(_items_of(joint) for joint in POSETRACK.joints)
_SIDED = {POSETRACK.joints.index(f"{side}_{name}"): sign
          for side, sign in (("right", -1.0), ("left", 1.0)) for name in ("hip", "shoulder")}  # fmt: skip
_NOSE, _HEAD_TOP = POSETRACK.joints.index("nose"), POSETRACK.joints.index("head_top")


@dataclass(frozen=True)
class FrameLabels:
    """Labels of the n people of one frame, by track.

    keypoints: (n, 15, 3) float32, POSETRACK order, x and y in px and 2 visible, 1 covered (by someone, something or the
    own body), 0 outside the frame (then x = y = 0). boxes: (n, 4) float32 xyxy px round the whole silhouette without
    things in hands, covered or not, clipped to the frame. head_boxes: (n, 4) float32 xyxy px, not clipped.
    track_ids: (n,) int64.
    """

    keypoints: np.ndarray
    boxes: np.ndarray
    head_boxes: np.ndarray
    track_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.track_ids)


def _turned_away(placed: Placed, joint: int) -> bool:
    """Whether the own body hides a joint that its own pixels cannot tell: the far hip and shoulder, a nose behind."""
    if joint == _NOSE:
        return bool(placed.head[-1, 2, 2] > 0.2)
    if joint in _SIDED:
        name = POSETRACK.joints[joint]
        axes = placed.pelvis if name.endswith("hip") else placed.trunk
        return bool(_SIDED[joint] * axes[-1, 2, 0] > 0.8)
    return False


def _covered(joint: int, at: Array, owner: int, owners: np.ndarray, order: Mapping[int, int], reach: float) -> bool:
    """Whether most of the few pixels round a joint show something nearer than the joint."""
    height, width = owners.shape
    at_x, at_y = float(at[0]), float(at[1])
    covered = own = 0
    for dx, dy in ((0.0, 0.0), (-reach, 0.0), (reach, 0.0), (0.0, -reach), (0.0, reach)):
        x, y = int(min(max(at_x + dx, 0), width - 1)), int(min(max(at_y + dy, 0), height - 1))
        found, item = divmod(int(owners[y, x]), 32)
        if found == 0:
            continue
        if found == owner:
            own += item in OWN_ITEMS[joint]
            covered += item not in OWN_ITEMS[joint]
        else:
            covered += found == OCCLUDER or order[found] > order[owner]
    return covered > own


def label_people(
    people: Sequence[tuple[int, Placed, Array, Sequence[Polygon]]], owners: np.ndarray, order: Mapping[int, int]
) -> FrameLabels:
    """Labels from the middle of the exposure.

    people: (owner, body, keypoints (15, 2) px, polygons) each. owners: the label map (H, W). order: rank of each owner
    among the layers, far to near. People without a visible joint in the frame, or under 3 px wide there, are left out.
    """
    height, width = owners.shape
    size = np.array([width, height, width, height], np.float64)
    keypoints, boxes, heads, tracks = [], [], [], []
    for owner, placed, px, polygons in people:
        box, head = extent(polygons, _BODY), extent(polygons, _own("head"))
        if box is None or head is None:
            continue
        # Polygons only approach a round outline: let the boxes hold the joints exactly.
        box = np.concatenate([np.minimum(box[:2], px.min(axis=0)), np.maximum(box[2:], px.max(axis=0))])
        ends = px[[_NOSE, _HEAD_TOP]]
        head = np.concatenate([np.minimum(head[:2], ends.min(axis=0)), np.maximum(head[2:], ends.max(axis=0))])
        clipped = np.clip(box, 0, size)
        inside = ((px >= 0) & (px < size[:2])).all(axis=1)
        if not inside.any() or min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < 3:
            continue
        reach = max(1.0, 0.02 * float(head[3] - head[1]) * 7 / 2)
        rows = np.zeros((len(px), 3), np.float32)
        for joint in np.flatnonzero(inside).tolist():
            at = px[joint].copy()
            if joint == _HEAD_TOP:
                at = at + 0.2 * (px[_NOSE] - at)  # the top itself lies on the outline
            hidden = _turned_away(placed, joint) or _covered(joint, at, owner, owners, order, reach)
            rows[joint] = (*px[joint], HIDDEN if hidden else VISIBLE)
        if not (rows[:, 2] == VISIBLE).any():
            continue
        keypoints.append(rows)
        boxes.append(clipped)
        heads.append(head)
        tracks.append(owner - 1)
    count = len(tracks)
    return FrameLabels(
        keypoints=np.array(keypoints, np.float32).reshape(count, len(POSETRACK), 3),
        boxes=np.array(boxes, np.float32).reshape(count, 4),
        head_boxes=np.array(heads, np.float32).reshape(count, 4),
        track_ids=np.array(tracks, np.int64),
    )
