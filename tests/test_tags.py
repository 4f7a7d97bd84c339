"""Tags of what makes joints hard, as PoseTrack18 files may have them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from posetrack_builders import NAMES18

from glpose.data import posetrack18
from glpose.data.annotations import Annotations
from glpose.data.posetrack18 import select_frames
from glpose.data.tags import BY_ITSELF, BY_OTHERS, UNOCCLUDED, UNTAGGED, Tags
from glpose.keypoints import POSETRACK
from store.errors import DataError

PATH = Path("clip.json")
NOSE, TOP, ANKLE = (POSETRACK.joints.index(name) for name in ("nose", "head_top", "right_ankle"))


def person(image: int = 100, **fields: Any) -> dict[str, Any]:
    keypoints = [value for column in range(17) for value in (column + 1, 10 * column, 1)]
    return {"image_id": image, "track_id": 5, "bbox": [1, 2, 30, 60], "keypoints": keypoints, **fields}


def file18(*people: dict[str, Any], defocus: dict[int, Any] | None = None, names: Any = NAMES18) -> dict[str, Any]:
    """Three frames; defocus: frame -> the field."""
    images: list[dict[str, Any]] = [{"id": 100 + k, "file_name": f"images/val/clip/{k:06}.jpg"} for k in range(3)]
    for frame, sigma in (defocus or {}).items():
        images[frame]["defocus"] = sigma
    return {
        "images": images,
        "annotations": list(people),
        "categories": [{"id": 1, "name": "person", "keypoints": list(names)}],
    }


def tags_of(content: dict[str, Any]) -> Tags:
    found = posetrack18.parse(PATH, content).tags
    assert found is not None
    return found


def same(ours: Annotations, other: Annotations) -> bool:
    return all(
        np.array_equal(getattr(ours, name), getattr(other, name), equal_nan=True)
        for name in ("frame", "person", "boxes", "keypoints", "labelled")
    )


def per_joint(default: Any, **joints: Any) -> list[Any]:
    """A list in the order of the files."""
    return [joints.get(name, default) for name in NAMES18]


def test_files_without_tags_have_none() -> None:
    assert posetrack18.parse(PATH, file18(person())).tags is None
    nothing = person(occlusion=None, speed=None, action=None)
    assert posetrack18.parse(PATH, file18(nothing, defocus={0: None})).tags is None


def test_tags_go_by_joint_name_and_frame_and_change_nothing_else() -> None:
    first = person(
        102, occlusion=per_joint(UNOCCLUDED, nose=BY_OTHERS, left_ear=BY_ITSELF, right_ankle=UNTAGGED),
        speed=per_joint(None, head_top=2.5, right_ear=9, nose=3), action="walk",
    )  # fmt: skip
    second = person(101, occlusion=per_joint(BY_ITSELF))
    content = file18(first, second, person(102), defocus={2: 1.5})
    tags = tags_of(content)  # by frame: second, first, the third
    assert (tags.occlusion.shape, tags.occlusion.dtype) == ((3, 15), np.int8)
    assert (tags.speed.dtype, tags.defocus.dtype) == (np.float32, np.float32)
    assert (tags.occlusion[0] == BY_ITSELF).all() and (tags.occlusion[2] == UNTAGGED).all()
    expected = np.full(15, UNOCCLUDED)
    expected[NOSE], expected[ANKLE] = BY_OTHERS, UNTAGGED
    assert np.array_equal(tags.occlusion[1], expected)
    speeds = np.full((3, 15), np.nan)
    speeds[1, [TOP, NOSE]] = 2.5, 3
    np.testing.assert_array_equal(tags.speed, speeds)
    np.testing.assert_array_equal(tags.defocus, [np.nan, 1.5, 1.5])
    assert tags.action == ("", "walk", "")
    plain = file18(person(102), person(101), person(102))
    assert same(posetrack18.parse(PATH, content), posetrack18.parse(PATH, plain))


def test_tags_follow_another_order_of_joints() -> None:
    names = NAMES18[::-1]
    content = file18(person(occlusion=[1 if name == "nose" else 0 for name in names]), names=names)
    assert np.flatnonzero(tags_of(content).occlusion[0]).tolist() == [NOSE]


@pytest.mark.parametrize("alone", [{"occlusion": [0] * 17}, {"speed": [0.0] * 17}, {"action": "run"}, {}])
def test_one_field_is_enough(alone: dict[str, Any]) -> None:
    tags = tags_of(file18(person(**alone), defocus=None if alone else {0: 0.0}))
    assert (tags.occlusion[0] == (UNOCCLUDED if "occlusion" in alone else UNTAGGED)).all()
    assert (np.isnan(tags.speed[0]) == ("speed" not in alone)).all()
    assert tags.action == (alone.get("action", ""),)
    assert math.isnan(tags.defocus[0]) == bool(alone)


def test_tags_survive_a_choice_of_frames() -> None:
    people = [person(100 + k, action=f"a{k}", occlusion=per_joint(k % 3)) for k in (2, 0, 1)]
    content = file18(*people, defocus={0: 0.5, 1: 1.5, 2: 2.5})
    tags = tags_of(select_frames(content, 1, 3))
    assert tags.action == ("a1", "a2") and tags.defocus.tolist() == [1.5, 2.5]
    assert tags.occlusion[:, 0].tolist() == [1, 2]
    nobody = tags_of(select_frames(file18(person(102), defocus={0: 0.5}), 0, 1))
    assert (nobody.occlusion.shape, nobody.defocus.shape, nobody.action) == ((0, 15), (0,), ())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"occlusion": [0] * 16}, "annotation 1: its occlusion has 16 values, 17 joints need 17"),
        ({"occlusion": 0}, "annotation 1: its occlusion is 0, not a list"),
        ({"occlusion": "visible"}, "annotation 1: its occlusion is 'visible', not a list"),
        ({"occlusion": [3] + [0] * 16}, "annotation 1: its occlusion holds 3: it is one of -1, 0, 1, 2"),
        ({"occlusion": [0] * 16 + [None]}, "annotation 1: its occlusion holds None"),
        ({"occlusion": [1.0] * 17}, "annotation 1: its occlusion holds 1.0"),
        ({"occlusion": [True] * 17}, "annotation 1: its occlusion holds True"),
        ({"occlusion": [[0]] * 17}, r"annotation 1: its occlusion holds \[0\]"),
        ({"speed": [0.0] * 15}, "annotation 1: its speed has 15 values, 17 joints need 17"),
        ({"speed": ["3"] * 17}, "annotation 1: its speed holds '3': it is px, from 0 on"),
        ({"speed": [-0.5] * 17}, "annotation 1: its speed holds -0.5"),
        ({"speed": [math.nan] * 17}, "annotation 1: its speed holds nan"),
        ({"speed": [math.inf] * 17}, "annotation 1: its speed holds inf"),
        ({"speed": [10**400] * 17}, "annotation 1: its speed holds 1000"),
        ({"speed": [False] * 17}, "annotation 1: its speed holds False"),
        ({"action": ["walk"]}, r"annotation 1: its action is \['walk'\], not a name"),
        ({"action": 0}, "annotation 1: its action is 0, not a name"),
        ({"defocus": "strong"}, "frame 2: its defocus holds 'strong': it is px, from 0 on"),
        ({"defocus": -1}, "frame 2: its defocus holds -1"),
        ({"defocus": [1.0]}, r"frame 2: its defocus holds \[1.0\]"),
    ],
)
def test_malformed_tags_are_told(fields: dict[str, Any], words: str) -> None:
    sigma = {2: fields.pop("defocus")} if "defocus" in fields else None
    with pytest.raises(DataError, match=f"^clip.json is malformed: {words}") as caught:
        posetrack18.parse(PATH, file18(person(), person(101, **fields), defocus=sigma))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 150
