"""Joint sets: names, mirror pairs, groups and limbs.

Keypoints everywhere are (J, 3) float: x, y in pixels and a flag, 0 absent, 1 annotated but not visible, 2 visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

ABSENT, HIDDEN, VISIBLE = 0, 1, 2
Counted = Literal["annotated", "visible"]  # which joints count


def least_flag(counted: Counted) -> int:
    """The flag from which on a joint counts."""
    return VISIBLE if counted == "visible" else HIDDEN


@dataclass(frozen=True)
class JointSet:
    """The joints that a data set annotates, in the order of every (J, ...) array.

    joints: J names. flip_pairs: index pairs that a horizontal flip exchanges. groups: name -> joint indices, in the
    order in which result tables print them. limbs: index pairs to draw. upper_body: joints above the hips, for
    half-body augmentation. sigmas: J annotation spreads relative to the person's size, as COCO's OKS uses them; empty
    where none are published.
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    groups: Mapping[str, tuple[int, ...]]
    limbs: tuple[tuple[int, int], ...]
    upper_body: tuple[int, ...]
    sigmas: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def flip_order(self) -> list[int]:
        """(J,) index of each joint's mirror image; joints on the middle line map to themselves."""
        order = list(range(len(self.joints)))
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        return order

    def indices_of(self, names: Sequence[str]) -> list[int | None]:
        """For every name of another joint list, its index here, or None where this set has no such joint."""
        position = {name: index for index, name in enumerate(self.joints)}
        return [position.get(name) for name in names]


# The 15 joints that PoseTrack scores, in poseval's order. PoseTrack18 files call the neck "head_bottom".
POSETRACK = JointSet(
    name="posetrack",
    joints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
        "head_bottom", "nose", "head_top",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)),
    groups={
        "Head": (14, 12, 13),
        "Shoulder": (8, 9),
        "Elbow": (7, 10),
        "Wrist": (6, 11),
        "Hip": (2, 3),
        "Knee": (1, 4),
        "Ankle": (0, 5),
    },
    limbs=(
        (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (2, 8), (3, 9), (8, 9),
        (6, 7), (7, 8), (9, 10), (10, 11), (12, 8), (12, 9), (12, 13), (13, 14),
    ),
    upper_body=(6, 7, 8, 9, 10, 11, 12, 13, 14),
)  # fmt: skip

# The 15 joints of JHMDB, in its files' order; JHMDB calls the head "face". Tables put neck, belly and head under Head:
# with it the paper's Sub-JHMDB averages are (3 Head + 2 Shoulder + ... + 2 Ankle) / 15.
JHMDB = JointSet(
    name="jhmdb",
    joints=(
        "neck", "belly", "head", "right_shoulder", "left_shoulder", "right_hip", "left_hip", "right_elbow",
        "left_elbow", "right_knee", "left_knee", "right_wrist", "left_wrist", "right_ankle", "left_ankle",
    ),
    flip_pairs=((3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14)),
    groups={
        "Head": (0, 1, 2),
        "Shoulder": (3, 4),
        "Elbow": (7, 8),
        "Wrist": (11, 12),
        "Hip": (5, 6),
        "Knee": (9, 10),
        "Ankle": (13, 14),
    },
    limbs=(
        (2, 0), (0, 1), (0, 3), (3, 7), (7, 11), (0, 4), (4, 8), (8, 12),
        (1, 5), (5, 9), (9, 13), (1, 6), (6, 10), (10, 14),
    ),
    upper_body=(0, 1, 2, 3, 4, 7, 8, 11, 12),
)  # fmt: skip

# The 17 joints of public HRNet checkpoints, COCO's, in their order. Those trained on PoseTrack18's files have the neck
# and the top of the head in place of the eyes, and the rest at the same places.
COCO_JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
