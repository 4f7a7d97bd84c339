"""COCO-style annotation files with any joint set.

COCO's own files are not at hand: those made here are written from its public description (cocodataset.org, Data
format, Keypoint detection). The real file is mmpose's sample of PoseTrack18 in one COCO file.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from posetrack_builders import NAMES18

from glpose.data import coco
from glpose.data.annotations import Annotations
from glpose.data.joint_sets import read_joint_set
from glpose.keypoints import ABSENT, HIDDEN, VISIBLE, JointSet
from store.errors import DataError
from store.folder import check_unit_name

ROBOT = JointSet(
    name="robot",
    joints=("nose", "left_hand", "right_hand"),
    flip_pairs=((1, 2),),
    groups={"Head": (0,), "Hand": (1, 2)},
    limbs=(),
    upper_body=(),
    sigmas=(0.026, 0.062, 0.062),
)
NAMES = ["right_hand", "nose", "antenna", "left_hand"]  # another order than ours, and a joint that is not ours
POINTS = [70, 71, 1, 10, 11, 2, 5, 5, 2, 0, 0, 0]


def person(image: int = 1, **changes: Any) -> dict[str, Any]:
    """An annotation as COCO has it; None leaves a key out."""
    made = {
        "id": 900 + image,
        "image_id": image,
        "category_id": 1,
        "bbox": [10.5, 20, 30, 60],
        "area": 1800.0,
        "iscrowd": 0,
        "num_keypoints": 3,
        "keypoints": POINTS,
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


def image(number: int, name: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 640, "height": 480, **more}


def content(
    images: Sequence[Any] = (), people: Sequence[Any] = (), names: Sequence[str] = NAMES, **more: Any
) -> dict[str, Any]:
    """A whole file: two frames of one video unless told otherwise."""
    return {
        "info": {"description": "a robot"},
        "licenses": [],
        "images": list(images) or [image(1, "walk/img_1.jpg"), image(2, "walk/img_2.jpg")],
        "annotations": list(people),
        "categories": [{"id": 1, "name": "person", "supercategory": "person", "keypoints": list(names)}],
        **more,
    }


def write(folder: Path, data: Any, name: str = "own.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    """Writes content to a file and opens it."""
    return lambda data, name="own.json": coco.open_file(write(tmp_path, data, name))


def frame_names(file: coco.CocoFile, video: str) -> tuple[str, ...]:
    return coco.parse(file, video, ROBOT).frame_names


# ------------------------------------------------------------------------------------------------------------ joints
def test_a_small_file(opened: Any) -> None:
    people = [person(2, track_id=7), person(1, instance_id="3"), person(1, bbox=None)]
    file = opened(content(people=people))
    assert coco.video_names(file) == ["walk"]
    notes = coco.parse(file, "walk", ROBOT)
    assert notes.joints is ROBOT
    assert notes.frame_names == ("walk/img_1.jpg", "walk/img_2.jpg")
    assert notes.image_ids == ("1", "2")
    assert notes.labelled.tolist() == [True, True]
    assert notes.frame.tolist() == [0, 0, 1]
    assert notes.person.tolist() == [3, -1, 7]
    assert notes.boxes[0].tolist() == [10.5, 20, 40.5, 80]
    # without a box: the extent of nose and right hand, widened by 30 %
    assert np.allclose(notes.boxes[1], [10 - 9, 11 - 9, 70 + 9, 71 + 9])
    assert notes.keypoints.shape == (3, 3, 3)
    assert notes.keypoints[0].tolist() == [[10, 11, VISIBLE], [0, 0, ABSENT], [70, 71, HIDDEN]]


@pytest.mark.parametrize("seed", range(3))
def test_joints_go_by_name_in_any_order(seed: int, opened: Any) -> None:
    names = np.random.default_rng(seed).permutation(NAMES).tolist()
    points = [number for name in names for number in (ord(name[0]), len(name), 2)]
    notes = coco.parse(opened(content(people=[person(keypoints=points)], names=names)), "walk", ROBOT)
    assert notes.keypoints[0].tolist() == [[ord(name[0]), len(name), VISIBLE] for name in ROBOT.joints]


@pytest.mark.parametrize(
    "x, y, v, flag",
    [(3, 4, 0, ABSENT), (0, 0, 1, HIDDEN), (3, 4, 1, HIDDEN), (3, 4, 2, VISIBLE), (0, 0, 2, VISIBLE),
     (3, 4, 0.5, HIDDEN), (None, None, 0, ABSENT), (float("nan"), 4, 0, ABSENT), (3, 4, -1, ABSENT),
     (-3.5, 4, 2.0, VISIBLE)],
)  # fmt: skip
def test_flags_are_those_of_coco(x: Any, y: Any, v: float, flag: int, opened: Any) -> None:
    entry = person(keypoints=[0, 0, 0, x, y, v, 0, 0, 0, 0, 0, 0])
    nose = coco.parse(opened(content(people=[entry])), "walk", ROBOT).keypoints[0, 0]
    assert nose.tolist() == [0 if flag == ABSENT else x, 0 if flag == ABSENT else y, flag]


@pytest.mark.parametrize("keypoints", [None, [], [0] * 12])
def test_a_person_may_have_a_box_alone(keypoints: Any, opened: Any) -> None:
    notes = coco.parse(opened(content(people=[person(keypoints=keypoints)])), "walk", ROBOT)
    assert notes.boxes.tolist() == [[10.5, 20, 40.5, 80]]
    assert not notes.keypoints.any()


def test_crowds_are_no_people_but_stay_in_the_file(opened: Any) -> None:
    crowd = person(iscrowd=1, segmentation={"counts": [1, 2], "size": [480, 640]}, num_keypoints=0, keypoints=[0] * 12)
    file = opened(content(people=[crowd, person(), person(iscrowd=False)]))
    assert len(coco.parse(file, "walk", ROBOT).frame) == 2
    assert coco.select_frames(file, "walk", 0, 2)["annotations"][0] == crowd


def test_what_is_labelled(opened: Any) -> None:
    images = [image(1, "a/1.jpg", is_labeled=True), image(2, "a/2.jpg", is_labeled=False), image(3, "a/3.jpg")]
    assert coco.parse(opened(content(images)), "a", ROBOT).labelled.tolist() == [True, False, True]


def test_a_video_without_people(opened: Any) -> None:
    notes = coco.parse(opened(content()), "walk", ROBOT)
    assert (notes.boxes.shape, notes.keypoints.shape, len(notes.frame_names)) == ((0, 4), (0, 3, 3), 2)


# -------------------------------------------------------------------------------------------------------- categories
def category(number: int, name: str, names: Sequence[str] | None) -> dict[str, Any]:
    return {"id": number, "name": name, **({} if names is None else {"keypoints": list(names)})}


@pytest.mark.parametrize(
    "categories",
    [
        [category(1, "robot", NAMES)],
        [category(2, "person", ["nose"]), category(1, "robot", NAMES)],
        [category(2, "robot", NAMES), category(1, "person", NAMES)],
        [category(2, "chair", None), category(1, "robot", NAMES), category(3, "table", [])],
    ],
)
def test_the_category_that_fits_best_counts(categories: list[Any], opened: Any) -> None:
    people = [person(category_id=entry["id"], bbox=[entry["id"], 0, 9, 9]) for entry in categories]
    notes = coco.parse(opened(content(people=people, categories=categories)), "walk", ROBOT)
    assert notes.boxes[:, 0].tolist() == [1]


@pytest.mark.parametrize(
    "categories, problem",
    [
        ([], "own.json: no category names its keypoints; 'robot' needs 'nose', 'left_hand', 'right_hand'"),
        ([category(1, "person", None)], "own.json: no category names its keypoints"),
        ([category(1, "cat", NAMES), category(2, "dog", NAMES)],
         "own.json: categories 'cat' and 'dog' name the same joints; keep one, or call one 'person'"),
        ([category(1, "person", ["nose", "lefthand", "tail"])],
         "own.json does not name 'left_hand', 'right_hand' of the joint set 'robot'; did you mean its 'lefthand'?"),
        ([category(1, "person", ["a", "b", "c", "d", "e", "nose"])],
         "own.json does not name 'left_hand', 'right_hand' of the joint set 'robot'; it names 'a', 'b', 'c', 'd' and 2 "
         "more"),
        ([category(1, "person", [*NAMES, "nose"])], "own.json: its category names 'nose' twice"),
        ([{"name": "person", "keypoints": NAMES}], "own.json is malformed: categories: it has no 'id'"),
        (["person"], "own.json is malformed: categories: "),
    ],
)  # fmt: skip
def test_categories_that_do_not_fit(categories: list[Any], problem: str, opened: Any) -> None:
    file = opened(content(categories=categories))
    with pytest.raises(DataError) as caught:
        coco.parse(file, "walk", ROBOT)
    assert problem in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ videos
def test_videos_by_their_list(opened: Any) -> None:
    images = [
        image(10, "x/a.jpg", video_id=1, frame_id=5),
        image(11, "x/b.jpg", video_id=0, frame_id=1),
        image(12, "y/c.jpg", video_id=1, frame_id=4),
        image(13, "x/d.jpg", video_id=0, frame_id=0),
    ]
    videos = [{"id": 0, "name": "train/zero"}, {"id": 1, "name": "one"}, {"id": 2, "name": "no images"}]
    file = opened(content(images, [person(12)], videos=videos))
    assert sorted(coco.video_names(file)) == ["one", "train_zero"]
    assert frame_names(file, "one") == ("y/c.jpg", "x/a.jpg")
    assert frame_names(file, "train_zero") == ("x/d.jpg", "x/b.jpg")
    assert coco.parse(file, "one", ROBOT).frame.tolist() == [0]
    part = coco.select_frames(file, "one", 0, 1)
    assert part["videos"] == videos[1:2]
    assert [entry["id"] for entry in part["images"]] == [12]


@pytest.mark.parametrize("key", ["video_id", "vid_id"])
def test_videos_by_id_alone_keep_the_order_of_the_list(key: str, opened: Any) -> None:
    images = [image(1, "b.jpg", **{key: "07"}), image(2, "a.jpg", **{key: "07"}), image(3, "c.jpg", **{key: 8})]
    file = opened(content(images))
    assert coco.video_names(file) == ["07", "8"]
    assert frame_names(file, "07") == ("b.jpg", "a.jpg")


def test_videos_by_folder_in_natural_order(opened: Any) -> None:
    names = ["cam1/walk/img_10.jpg", "cam1/walk/img_2.jpg", "cam2/walk/img_1.jpg", "./cam1/walk/img_1.jpg"]
    file = opened(content([image(number, name) for number, name in enumerate(names)]))
    assert coco.video_names(file) == ["cam1_walk", "cam2_walk"]
    assert [Path(name).name for name in frame_names(file, "cam1_walk")] == ["img_1.jpg", "img_2.jpg", "img_10.jpg"]


@pytest.mark.parametrize("name", ["own set.json", "own set.json.gz"])
def test_images_without_a_folder_are_one_video(name: str, tmp_path: Path) -> None:
    text = json.dumps(content([image(1, "000010.jpg"), image(2, "9.jpg")])).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    file = coco.open_file(tmp_path / name)
    assert coco.video_names(file) == ["own set"]
    assert frame_names(file, "own set") == ("9.jpg", "000010.jpg")


@pytest.mark.parametrize(
    "folder, name",
    [("(one)!", "_one__"), ("a/b c", "a_b c"), (".hidden", "_hidden"), ("end.", "end_"), ("ü", "_"), ("/abs", "_abs")],
)
def test_names_of_videos_can_be_folders(folder: str, name: str, opened: Any) -> None:
    file = opened(content([image(1, f"{folder}/1.jpg")]))
    assert coco.video_names(file) == [name]
    assert check_unit_name(name) == name
    assert coco.parse(file, name, ROBOT).frame_names == (f"{folder}/1.jpg",)  # images keep their own names


def test_an_unknown_video(opened: Any) -> None:
    file = opened(content())
    for call in (lambda: coco.parse(file, "run", ROBOT), lambda: coco.select_frames(file, "run", 0, 1)):
        with pytest.raises(DataError, match=r"own\.json has no video 'run'; it has 'walk'"):
            call()


# ------------------------------------------------------------------------------------------------------------- parts
def test_a_part_of_a_file_is_a_file(opened: Any) -> None:
    images = [image(k, f"{folder}/{k % 4}.jpg") for k, folder in enumerate(["b"] * 4 + ["a"] * 4)]
    people = [person(k, bbox=[k, 0, 5, 5]) for k in (6, 2, 5, 1, 6, 0)]
    data = content(images, people)
    file = opened(data)
    part = coco.select_frames(file, "a", 1, 3)
    assert [entry["id"] for entry in part["images"]] == [5, 6]
    assert part["annotations"] == [people[0], people[2], people[4]]  # in the file's order
    assert {key: part[key] for key in ("info", "licenses", "categories")} == {
        key: data[key] for key in ("info", "licenses", "categories")
    }
    assert file.data == data  # the whole is as it was
    whole, again = coco.parse(file, "a", ROBOT), coco.parse(opened(part, "part.json"), "a", ROBOT)
    assert again.frame_names == whole.frame_names[1:3]
    assert again.frame.tolist() == (whole.frame[whole.frame >= 1] - 1).tolist()
    assert np.array_equal(again.boxes, whole.boxes)


def test_videos_that_no_image_goes_by_do_not_matter(opened: Any) -> None:
    file = opened(content(videos=[7]))
    assert coco.select_frames(file, coco.video_names(file)[0], 0, 2)["videos"] == [7]


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    path = write(tmp_path, content())
    file = coco.open_file(path)
    assert coco.open_file(path) is file
    write(tmp_path, content([image(1, "other/1.jpg")]))
    os.utime(path, ns=(1, 1))
    assert coco.video_names(coco.open_file(path)) == ["other"]


# ---------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    "data, problem",
    [
        ({"annolist": []}, "is a PoseTrack17 file (annolist), not COCO: set data.kind to posetrack17"),
        ({"images": [], "annotations": []}, "is not a COCO file: it has no list 'categories'"),
        (content(annotations={}), "is not a COCO file: it has no list 'annotations'"),
        ([], "holds a list"),
        (content([image(1, "a/1.jpg"), image(1, "a/2.jpg")]), "is malformed: two images have the same id"),
        (content([image(1, "a/1.jpg"), image(2, "a/1.jpg")]), "video 'a' has the image 'a/1.jpg' twice; list it once"),
        (content([{"file_name": "a/1.jpg"}]), "is malformed: it has no 'id'"),
        (content([{"id": 1}]), "is malformed: image 0 has no file_name"),
        (content([image(1, "")]), "is malformed: image 0 has no file_name"),
        (content([{"id": 1, "file_name": 7}]), "is malformed: image 0 has no file_name"),
        (content([image(1, "a.jpg", video_id=3), image(2, "b.jpg")]),
         "image 'b.jpg' has no 'video_id', as others have"),
        (content([image(1, "a.jpg", video_id=0)], videos=[{"id": 1, "name": "one"}]),
         "image 'a.jpg' is of video 0, which is not in 'videos'"),
        (content([image(1, "a.jpg", video_id=1)], videos=[{"id": 1}]), "is malformed: it has no 'name'"),
        (content([image(1, "a.jpg", video_id=1), image(2, "b.jpg", video_id=2)],
                 videos=[{"id": 1, "name": "x/y"}, {"id": 2, "name": "x_y"}]),
         "videos 'x/y' and 'x_y' would both be called 'x_y'; rename one"),
        (content([image(1, "a.jpg", video_id="v" * 201)]), "cannot be used as a folder name"),
        (content([image(1, "a/1.jpg", frame_id=3), image(2, "a/2.jpg")]),
         "video 'a' has images with and without a frame_id"),
        (content([image(1, "a/1.jpg", frame_id=3), image(2, "a/2.jpg", frame_id=3)]),
         "video 'a' has two images with frame_id 3; are they of two videos?"),
        (content([image(1, "a/1.jpg", frame_id="3")]), "video 'a': the frame_id '3' is no number"),
        (content(people=[person(5)]), "is malformed: annotation 0: there is no image 5"),
        (content(people=[person(), person(image_id=None)]), "is malformed: annotation 1: it has no 'image_id'"),
        (content(people=[None]), "is malformed: annotation 0: it has no 'image_id'"),
        (content(people=[person(image_id=[1])]), "is malformed: unhashable type"),
        (content([7]), "is malformed: "),
    ],
)  # fmt: skip
def test_files_that_cannot_be_opened(data: Any, problem: str, opened: Any) -> None:
    with pytest.raises(DataError) as caught:
        opened(data)
    message = str(caught.value)
    assert "own.json" in message and problem in message and "\n" not in message


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"category_id": None}, "it has no 'category_id'"),
        ({"category_id": 2}, "there is no category 2"),
        ({"keypoints": [1, 2, 2]}, "it has 3 numbers as keypoints, 4 joints need 12"),
        ({"keypoints": [1, 2, "x"] * 4}, "could not convert string to float: 'x'"),
        ({"keypoints": {"nose": [1, 2, 2]}}, "float() argument must be"),
        ({"keypoints": [float("nan"), 2, 2] * 4}, "a coordinate of its keypoints is not a number"),
        ({"keypoints": [1, 2, float("nan")] * 4}, "a coordinate of its keypoints is not a number"),
        ({"bbox": [1, 2, 3]}, "its bbox has 3 numbers, not 4"),
        ({"bbox": [[1, 2], [3, 4]]}, "its bbox has 4 numbers, not 4"),
        ({"bbox": [1, 2, 3, float("inf")]}, "a number of its bbox is not finite"),
        ({"bbox": [1, 2, 3, "wide"]}, "could not convert string to float: 'wide'"),
        ({"bbox": [10**400, 2, 3, 4]}, "int too large to convert to float"),
        ({"track_id": "anna"}, "its track id 'anna' is no whole number of 64 bits"),
        ({"track_id": [1]}, "its track id [1] is no whole number of 64 bits"),
        ({"track_id": 2**63}, "its track id 9223372036854775808 is no whole number of 64 bits"),
        ({"iscrowd": "no"}, "its iscrowd is 'no', neither 0 nor 1"),
    ],
)  # fmt: skip
def test_annotations_that_are_malformed(changes: dict[str, Any], problem: str, opened: Any) -> None:
    file = opened(content(people=[person(), person(**changes)]))
    with pytest.raises(DataError) as caught:
        coco.parse(file, "walk", ROBOT)
    message = str(caught.value)
    assert f"own.json is malformed: annotation 1: {problem}" in message and "\n" not in message


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            coco.open_file(path)


# --------------------------------------------------------------------------------------------------------- real file
def test_mmpose_sample_with_its_17_names(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "real" / "posetrack18_sample" / "annotations" / "test_posetrack18_val.json"
    sides = [name.removeprefix("left_") for name in NAMES18 if name.startswith("left_")]
    head = ["nose", "head_bottom", "head_top", "left_ear", "right_ear"]
    described = {
        "name": "posetrack_17",
        "joints": [*sorted(set(NAMES18) - set(head)), *head],
        "flip_pairs": [[f"left_{side}", f"right_{side}"] for side in sides],
        "groups": {"Head": head} | {side: [f"left_{side}", f"right_{side}"] for side in sides if side != "ear"},
        "sigmas": [0.05] * 17,
    }
    (tmp_path / "set.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    joints = read_joint_set(tmp_path / "set.yaml")
    file = coco.open_file(path)
    assert coco.video_names(file) == ["012834", "009473", "003418"]
    notes: dict[str, Annotations] = {video: coco.parse(file, video, joints) for video in coco.video_names(file)}
    assert [len(one.frame) for one in notes.values()] == [11, 2, 1]
    assert notes["003418"].frame_names == ("images/val/003418_mpii_test/000000.jpg",)
    assert notes["003418"].image_ids == ("10034180000",)
    # every point of the file, by name; what PoseTrack18 calls visible (v = 1) is COCO's "not visible"
    entries = [entry for entry in json.loads(path.read_text())["annotations"] if entry["image_id"] == 10128340000]
    raw = np.array([entry["keypoints"] for entry in entries], float).reshape(-1, 17, 3)
    read = notes["012834"].keypoints[:, [joints.joints.index(name) for name in NAMES18]]
    assert np.array_equal(read[..., :2], np.where(raw[..., 2:] > 0, raw[..., :2], 0))
    assert np.array_equal(read[..., 2] == HIDDEN, raw[..., 2] == 1)
    assert np.array_equal((read[..., 2] > 0).sum(axis=1), [entry["num_keypoints"] for entry in entries])
