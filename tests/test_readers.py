"""PoseTrack17, 18 and 21 annotation files, and which videos a data set has.

No PoseTrack21 file is at hand: those below are written from the public description of the data set's structure
(doc/dataset_structure.md of its repository).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from posetrack_builders import NAMES18, POSE, person, video17

from glpose.box_sources import annotated_boxes, boxes_of_file
from glpose.data import posetrack17, posetrack18
from glpose.data.annotations import Annotations, read_annotation_json
from glpose.data.boxes import BoxFile
from glpose.data.dataset import frame_splits, ground_truth, inputs_digest, joint_set, open_video
from glpose.data.listing import find_videos, list_videos
from glpose.keypoints import ABSENT, HIDDEN, POSETRACK, VISIBLE
from glpose.options import (
    EvalOptions,
    FolderData,
    PoseTrack17Data,
    PoseTrack18Data,
    PoseTrack21Data,
    SplitOptions,
)
from glpose.proposals import propose
from glpose.scoring import EvaluatedVideo, score_posetrack
from store.errors import DataError, GLPoseError

ANKLE, NOSE, TOP = (POSETRACK.joints.index(name) for name in ("right_ankle", "nose", "head_top"))
PATH = Path("clip.json")


def file18(people: list[dict[str, Any]], frames: int = 3, names: tuple[str, ...] = NAMES18) -> dict[str, Any]:
    """A PoseTrack18 file of `frames` images with ids 100, 101 ..., and these annotations."""
    return {
        "images": [{"id": 100 + k, "file_name": f"images/val/clip/{k:06}.jpg"} for k in range(frames)],
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": list(names)}],
    }


def flat(points: Iterable[Sequence[float]]) -> list[float]:
    return [number for point in points for number in point]


def one(image: int = 100, names: tuple[str, ...] = NAMES18, **changes: Any) -> dict[str, Any]:
    """An annotation whose joint j is at (10 j, 10 j + 1), j counting our joints; ears absent."""
    points = [
        [10 * POSETRACK.joints.index(name), 10 * POSETRACK.joints.index(name) + 1, 1]
        if name in POSETRACK.joints
        else [0, 0, 0]
        for name in names
    ]
    made = {"image_id": image, "track_id": 5, "bbox": [10, 20, 30, 60], "keypoints": flat(points)}
    return {key: value for key, value in (made | changes).items() if value is not None}


def read18(people: list[dict[str, Any]], **options: Any) -> Annotations:
    return posetrack18.parse(PATH, file18(people, **options))


def refusal(format_: Any, data: Any) -> str:
    with pytest.raises(DataError) as caught:
        format_.parse(PATH, data)
    message = str(caught.value)
    assert "clip.json" in message and "Error" not in message
    return message


# ------------------------------------------------------------------------------------------------------ real files
def test_bonn_clip(shared_data: Path) -> None:
    path = shared_data / "real" / "bonn_060470979" / "posetrack18_json" / "test" / "060470979.json"
    notes = posetrack18.parse(path, read_annotation_json(path))
    assert (len(notes.frame_names), len(notes.frame), notes.labelled.sum()) == (41, 164, 41)
    assert np.array_equal(np.bincount(notes.frame), np.full(41, 4))
    assert set(notes.person) == {0, 1, 2, 3}
    flags = notes.keypoints[..., 2]
    assert [name for joint, name in enumerate(POSETRACK.joints) if not flags[:, joint].any()] == ["nose"]
    # the mapping table, against the file itself
    raw = np.array([a["keypoints"] for a in json.loads(path.read_text())["annotations"]]).reshape(-1, 17, 3)
    assert (flags == ABSENT).sum() == (~raw.any(axis=2)).sum() - 2 * 164  # the ears are dropped
    assert (flags == HIDDEN).sum() == ((raw[..., :2] != 0).any(axis=2) & (raw[..., 2] == 0)).sum() > 0
    assert (flags == VISIBLE).sum() == (raw[..., 2] > 0).sum()
    ankle = NAMES18.index("right_ankle")
    assert np.array_equal(notes.keypoints[7, ANKLE, :2], raw[7, ankle, :2])
    assert (notes.boxes[:, 2:] > notes.boxes[:, :2]).all()


def test_posetrack18_sample(shared_data: Path) -> None:
    data = PoseTrack18Data(root=shared_data / "real" / "posetrack18_sample", train=None)
    refs = list_videos(data)
    assert [ref.name for ref in refs] == ["003418_mpii_test", "009473_mpii_test", "012834_mpii_test"]
    videos = [open_video(ref) for ref in refs]
    people = [video.annotations for video in videos]
    assert [len(notes.frame) for notes in people if notes] == [1, 2, 11]
    for ref, notes in zip(refs, people, strict=True):
        assert notes is not None
        counted = [entry["num_keypoints"] for entry in json.loads(ref.path.read_text())["annotations"]]
        assert (notes.keypoints[..., 2] > 0).sum(axis=1).tolist() == counted
    assert videos[0].frames.size() == (1080, 1920)
    assert people[0] is not None
    assert np.allclose(people[0].boxes[0], [214.25, 15, 214.25 + 1358.5, 15 + 1092])  # as the file has it, not clipped
    assert people[0].image_ids == ("10034180000",)


def test_a_file_of_several_videos_is_refused(shared_data: Path) -> None:
    path = shared_data / "real" / "posetrack18_sample" / "annotations" / "test_posetrack18_val.json"
    with pytest.raises(DataError, match=r"test_posetrack18_val\.json holds frames of 3 videos .*its own file"):
        posetrack18.parse(path, read_annotation_json(path))


# ------------------------------------------------------------------------------------------------------ PoseTrack18
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_joints_go_by_name_in_any_order(seed: int | None) -> None:
    names = NAMES18 if seed is None else tuple(np.random.default_rng(seed).permutation(NAMES18).tolist())
    keypoints = read18([one(names=names)], names=names).keypoints[0]
    expected = np.array([[10 * j, 10 * j + 1, VISIBLE] for j in range(15)])
    assert np.array_equal(keypoints, expected)


def test_ears_are_dropped_even_if_annotated() -> None:
    ears = {NAMES18.index("left_ear"), NAMES18.index("right_ear")}
    keypoints = flat([500, 500, 1] if j in ears else [0, 0, 0] for j in range(17))
    assert not read18([one(keypoints=keypoints)]).keypoints.any()


def test_visibility_table() -> None:
    points = [[0, 0, 0]] * 17
    points[NAMES18.index("nose")] = [4, 5, 0]
    points[NAMES18.index("head_top")] = [6, 7, 2]
    points[NAMES18.index("right_ankle")] = [0, 0, 1]  # visible in the frame's corner
    keypoints = read18([one(keypoints=flat(points))]).keypoints[0]
    assert keypoints[NOSE].tolist() == [4, 5, HIDDEN]
    assert keypoints[TOP].tolist() == [6, 7, VISIBLE]
    assert keypoints[ANKLE].tolist() == [0, 0, VISIBLE]
    assert (keypoints[:, 2] == ABSENT).sum() == 12


def test_frames_people_and_ids() -> None:
    notes = read18([one(102, track_id=9), one(100), one(102, track_id=None), one(100, track_id=6)])
    assert notes.frame.tolist() == [0, 0, 2, 2]
    assert notes.person.tolist() == [5, 6, 9, -1]  # the file's order within a frame; -1 where missing
    assert notes.image_ids == ("100", "101", "102")
    assert notes.frame_names[1] == "images/val/clip/000001.jpg"
    assert read18([one() | {"track_id": None}]).person.tolist() == [-1]


def test_labelled_frames() -> None:
    data = file18([one(100), one(101)])
    assert posetrack18.parse(PATH, data).labelled.tolist() == [True, True, False]
    data["images"][1]["is_labeled"], data["images"][2]["is_labeled"] = False, True
    assert posetrack18.parse(PATH, data).labelled.tolist() == [True, False, True]


@pytest.mark.parametrize("bbox", [None, [], [float("nan")] * 4])
def test_a_missing_box_is_the_extent_of_the_joints(bbox: list[float] | None) -> None:
    points = [[0, 0, 0]] * 17
    points[0], points[1], points[2] = [100, 50, 1], [300, 60, 0], [200, 150, 1]
    notes = read18([one(keypoints=flat(points), bbox=bbox), one(101)])
    assert np.allclose(notes.boxes, [[100 - 30, 50 - 15, 300 + 30, 150 + 15], [10, 20, 40, 80]])


def test_a_person_without_box_and_joints_has_no_box() -> None:
    assert np.isnan(read18([one(keypoints=[0] * 51, bbox=None)]).boxes).all()


def test_no_people_and_no_frames() -> None:
    notes = read18([])
    assert notes.keypoints.shape == (0, 15, 3) and notes.boxes.shape == (0, 4) and not notes.labelled.any()
    assert read18([], frames=0).frame_names == ()


def test_select_frames_18() -> None:
    data = file18([one(100), one(101, track_id=1), one(102)])
    part = posetrack18.select_frames(data, 1, 2)
    assert [image["id"] for image in part["images"]] == [101]
    assert [entry["track_id"] for entry in part["annotations"]] == [1]
    assert part["categories"] == data["categories"]


def without(data: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != key}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (video17([]), "is a PoseTrack17 file (annolist), not PoseTrack18: set data.kind to posetrack17"),
        ({}, "has no list 'images'"),
        (without(file18([]), "annotations"), "has no list 'annotations'"),
        (file18([]) | {"categories": {}}, "has no list 'categories'"),
        (file18([]) | {"categories": []}, "no category 'person'"),
        (file18([]) | {"categories": [{"name": "person"}]}, "it has no 'keypoints'"),
        (file18([], names=NAMES18[:9]), "does not name the joint"),
        (file18([]) | {"images": [{"id": 1, "file_name": "a"}] * 2}, "two images have the same id"),
        (file18([]) | {"images": [{"file_name": "a"}]}, "it has no 'id'"),
        (file18([]) | {"images": [{"id": 1}]}, "it has no 'file_name'"),
        (file18([]) | {"images": [{"id": 1, "file_name": None}]}, "frame 0 has no image name"),
        (file18([]) | {"images": [{"id": 1, "file_name": "a/0"}, {"id": 2, "file_name": "b/1"}]}, "frames of 2 videos"),
        (file18([one(), one(7)]), "annotation 1: there is no image 7"),
        (file18([one() | {"image_id": [1]}]), "annotation 0: "),
        (file18([without(one(), "keypoints")]), "annotation 0: it has no 'keypoints'"),
        (file18([one(), one(keypoints=[1, 2, 1])]), "annotation 1: it has 3 numbers as keypoints, 17 joints need 51"),
        (file18([one(keypoints=["x"] * 51)]), "annotation 0: "),
        (file18([one(keypoints=[float("nan")] * 51)]), "annotation 0: a coordinate of its keypoints is not a number"),
        (file18([one(keypoints=[1, None, 1] * 17)]), "annotation 0: a coordinate of its keypoints is not a number"),
        (file18([one(bbox=[1, 2, 3])]), "annotation 0: its bbox has 3 numbers, not 4"),
        (file18([one(bbox=["a", 2, 3, 4])]), "annotation 0: "),
        (file18([one(track_id="x")]), "annotation 0: "),
        (file18([]) | {"annotations": [3]}, "annotation 0: "),
    ],
)
def test_malformed_posetrack18(data: dict[str, Any], words: str) -> None:
    assert words in refusal(posetrack18, data)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (74, "74 validation files: version 0.2 "),
        (170, "170 validation files: version 0.45 "),
        (375, "375 validation files: version 0.45 "),
        (1, "1 validation file: neither version 0.2 (74) nor version 0.45 (170 or more)"),
        (73, "73 validation files: neither"),
        (75, "75 validation files: neither"),
        (169, "169 validation files: neither"),
    ],
)
def test_versions_go_by_the_number_of_files(files: int, words: str) -> None:
    assert posetrack18.version_of(files).startswith(words)


# ------------------------------------------------------------------------------------------------------ PoseTrack21
def set21(root: Path) -> PoseTrack21Data:
    """One validation video of PoseTrack21: four frames, the second with a person who has boxes alone, two without."""
    name, first = "000342_mpii_test", 10003420000
    images, annotations = [], []
    for k in range(4):
        file_name = f"images/val/{name}/{k:06}.jpg"
        (root / file_name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / file_name), np.zeros((200, 300, 3), np.uint8))
        images.append(
            {
                "is_labeled": k == 0, "nframes": 4, "frame_id": first + k, "id": first + k, "vid_id": "000342",
                "file_name": file_name, "has_labeled_person": k < 2,
                "ignore_regions_y": [[150, 190, 190]], "ignore_regions_x": [[250, 250, 290]],
            }
        )  # fmt: skip
    for k, keypoints in ((0, one()["keypoints"]), (1, [0.0] * 51)):
        box = {"bbox": [5, 5, 190, 190], "bbox_head": [100, 100, 30, 40], "category_id": 1}
        ids = {"image_id": first + k, "id": (first + k) * 100, "person_id": 1024, "track_id": 0}
        annotations.append({**box, **ids, "keypoints": keypoints})
    category = {
        "supercategory": "person",
        "id": 1,
        "name": "person",
        "keypoints": list(NAMES18),
        "skeleton": [[16, 14]],
    }
    folder = root / "posetrack_data" / "val"
    folder.mkdir(parents=True)
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / f"{name}.json").write_text(json.dumps(content))
    return PoseTrack21Data(root=root, train=None)


def test_posetrack21_is_read_and_scored_like_posetrack18(tmp_path: Path) -> None:
    data = set21(tmp_path / "data")
    (ref,) = list_videos(data)
    assert (ref.name, ref.format, joint_set(data)) == ("000342_mpii_test", "posetrack21", POSETRACK)
    video = open_video(ref)
    notes = video.annotations
    assert notes is not None and notes.labelled.tolist() == [True, False, False, False]
    assert notes.image_ids[3] == "10003420003" and video.frames.size() == (200, 300)
    table = propose(video, {"eval": annotated_boxes}, 0.2).table
    assert table["frame"].tolist() == [0, 1] and table["keypoints"].isna().tolist() == [False, True]

    poses = {"glpose": np.stack([notes.keypoints[0], notes.keypoints[0] * [1, 1, 2]])}
    scores = score_posetrack(tmp_path, [EvaluatedVideo(ref, video, 0, 4, table, poses)], EvalOptions())
    truth = json.loads((tmp_path / "ground_truth" / f"{ref.name}.json").read_text())
    assert truth == read_annotation_json(ref.path)
    found = json.loads((tmp_path / "predictions" / "glpose" / f"{ref.name}.json").read_text())
    assert [image["file_name"] for image in found["images"]] == [image["file_name"] for image in truth["images"]]
    # the frame with boxes alone is scored as poseval does: what is found there is false
    alone = EvaluatedVideo(ref, video, 0, 4, table.iloc[:1], {"glpose": notes.keypoints[:1]})
    assert score_posetrack(tmp_path / "alone", [alone], EvalOptions()).mean["glpose"] == 100 > scores.mean["glpose"]


# ------------------------------------------------------------------------------------------------------ PoseTrack17
def set17(root: Path, subset: str, name: str, labelled: Sequence[int], frames: int = 9) -> PoseTrack17Data:
    """One video as PoseTrack17 has it: images called from 1, with eight digits; one person in the labelled frames."""
    points = {j: (10 + 10 * j, 20 + 5 * j) for j in range(15)}
    data = video17(*([person(points, head=(50, 50, 80, 90))] if k in labelled else [] for k in range(frames)))
    for entry in data["annolist"]:
        image = entry["image"][0]
        image["name"] = f"images/bonn_mpii_{subset}_v2_5sec/{name}/{image['name']}"
        (root / image["name"]).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / image["name"]), np.zeros((200, 300, 3), np.uint8))
    folder = root / "annotations" / subset
    folder.mkdir(parents=True)
    (folder / f"{name}.json").write_text(json.dumps(data))
    options = PoseTrack17Data(root=root)
    return options.model_copy(update={"eval" if subset == "train" else "train": None})


def test_unlabelled_frames_of_posetrack17_give_no_training_proposals(tmp_path: Path) -> None:
    middle = range(3, 7)  # training videos are labelled densely in their middle
    (ref,) = list_videos(set17(tmp_path, "train", "000001_mpii", middle))
    video = open_video(ref)
    assert video.frames.names[0] == "images/bonn_mpii_train_v2_5sec/000001_mpii/00000001.jpg"
    assert video.split.tolist() == ["train"] * 9  # all are there for local crops
    proposals = propose(video, {"train": annotated_boxes}, 0.2)
    table, left_out = proposals.table, proposals.left_out
    assert table["frame"].tolist() == list(middle) and not left_out
    assert all(points is not None for points in table["keypoints"])


def test_unlabelled_frames_of_posetrack17_stay_in_the_predictions(tmp_path: Path) -> None:
    (ref,) = list_videos(set17(tmp_path / "data", "val", "000002_mpii", [0, 4, 8]))  # every fourth frame
    video = open_video(ref)
    names = video.frames.names
    assert video.annotations is not None and video.annotations.labelled.nonzero()[0].tolist() == [0, 4, 8]
    everywhere = BoxFile(Path("boxes.json"), {name: [0] for name in names}, np.array([[5.0, 5, 195, 195]]), np.ones(1))
    for case, boxes in (("annotated", annotated_boxes), ("detected", boxes_of_file(everywhere))):
        table = propose(video, {"eval": boxes}, 0.2).table
        assert table["frame"].tolist() == ([0, 4, 8] if case == "annotated" else list(range(9)))
        poses = np.repeat(video.annotations.keypoints[:1], len(table), axis=0)
        scores = score_posetrack(
            tmp_path / case, [EvaluatedVideo(ref, video, 0, 9, table, {"glpose": poses})], EvalOptions()
        )
        path = tmp_path / case / "predictions" / "glpose" / "000002_mpii.json"
        found = json.loads(path.read_text())["annolist"]
        assert [entry["image"][0]["name"] for entry in found] == names
        assert [k for k, entry in enumerate(found) if entry["annorect"]] == table["frame"].tolist()
        assert scores.mean["glpose"] == 100  # nothing in the unlabelled frames counts


def test_posetrack17() -> None:
    few = {j: POSE[j] for j in (0, 3, 14)}
    notes = posetrack17.parse(PATH, video17([person(POSE, track=4, hidden=(2,))], [], [person(few), person(POSE)]))
    assert notes.frame.tolist() == [0, 2, 2]
    assert notes.person.tolist() == [4, 0, 0]
    assert notes.labelled.tolist() == [True, False, True]
    assert notes.frame_names == ("00000001.jpg", "00000002.jpg", "00000003.jpg")
    assert np.array_equal(notes.keypoints[0, :, :2], [POSE[j] for j in range(15)])
    assert [j for j in range(15) if notes.keypoints[0, j, 2] == HIDDEN] == [2]
    assert (notes.keypoints[1, :, 2] > 0).nonzero()[0].tolist() == [0, 3, 14]
    (x1, y1), (x2, y2) = POSE[0], POSE[14]
    grow = np.array([x2 - x1, y2 - y1]) * 0.15
    assert np.allclose(notes.boxes[0], [*(np.array([x1, y1]) - grow), *(np.array([x2, y2]) + grow)])


def test_posetrack17_spellings() -> None:
    made = person({3: (5, 6)})
    made["annopoints"][0]["point"] += [
        {"id": [0], "x": [1], "y": [2]},  # no visibility: visible
        {"id": [1], "x": [1], "y": [2], "is_visible": ["0"]},
        {"id": [2], "x": [1], "y": [2], "is_visible": []},
        {"id": [3], "x": [9], "y": [9]},  # again: the first counts
        {"id": [15], "x": [9], "y": [9]},  # no joint of ours
        {"id": [None], "x": [9], "y": [9]},
    ]
    empty = [{"track_id": [1], "annopoints": []}, {"annopoints": [{"point": []}]}, {"track_id": [2]}]
    lost = {key: value for key, value in person({0: (1, 1)}).items() if key != "track_id"}
    notes = posetrack17.parse(PATH, video17([made, *empty, lost, lost | {"track_id": [None]}]))
    assert notes.keypoints[0, :4].tolist() == [[1, 2, VISIBLE], [1, 2, HIDDEN], [1, 2, VISIBLE], [5, 6, VISIBLE]]
    assert (notes.keypoints[0, 4:, 2] == ABSENT).all()
    assert notes.person.tolist() == [0, -1, -1]
    bare = {"annolist": [{"image": [{"name": "1.jpg"}]}]}
    assert posetrack17.parse(PATH, bare).labelled.tolist() == [False]


def test_select_frames_17() -> None:
    data = video17([person(POSE)], [], [])
    assert posetrack17.select_frames(data, 1, 3)["annolist"] == data["annolist"][1:]


def test_both_formats_say_the_same() -> None:
    keypoints = flat(
        [*POSE[POSETRACK.joints.index(name)], 1] if name in POSETRACK.joints else [0, 0, 0] for name in NAMES18
    )
    new = read18([one(keypoints=keypoints, bbox=None, track_id=0)], frames=1)
    old = posetrack17.parse(PATH, video17([person(POSE)]))
    assert np.array_equal(new.keypoints, old.keypoints) and np.allclose(new.boxes, old.boxes)


def bad17(**point: Any) -> dict[str, Any]:
    made = video17([], [person({0: (1, 2)})])
    made["annolist"][1]["annorect"][0]["annopoints"][0]["point"][0] |= point
    return made


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (file18([]), "is a PoseTrack18 file (images), not PoseTrack17: set data.kind to posetrack18"),
        ({}, "has no list 'annolist'"),
        ({"annolist": {}}, "has no list 'annolist'"),
        ({"annolist": [{}]}, "frame 0: it has no 'image'"),
        ({"annolist": [{"image": []}]}, "frame 0: "),
        ({"annolist": [{"image": [{"name": 3}]}]}, "frame 0 has no image name"),
        ({"annolist": [7]}, "frame 0: "),
        (bad17(x=[]), "frame 1: "),
        (bad17(x=["a"]), "frame 1: "),
        (bad17(y=[None]), "frame 1: a coordinate of a joint is not a number"),
        (bad17(id=["x"]), "frame 1: "),
    ],
)
def test_malformed_posetrack17(data: dict[str, Any], words: str) -> None:
    assert words in refusal(posetrack17, data)


# ----------------------------------------------------------------------------------------------------- files on disk
def test_read_annotation_json(tmp_path: Path) -> None:
    content = file18([])
    plain, packed = tmp_path / "a.json", tmp_path / "a.json.gz"
    plain.write_text(json.dumps(content))
    packed.write_bytes(gzip.compress(json.dumps(content).encode()))
    assert read_annotation_json(plain) == read_annotation_json(packed) == content


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b'{"images": [', "is not readable JSON"),
        ("a.json", b"", "is not readable JSON"),
        ("a.json", b"\xff\xfe", "is not readable JSON"),
        ("a.json", b"[1, 2]", "holds a list, not an annotation object"),
        ("a.json.gz", b"{}", "is not readable JSON"),
        ("a.json.gz", gzip.compress(b"{}" * 200, mtime=0)[:-9], "is not readable JSON"),
    ],
)
def test_files_that_are_no_annotations(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_annotation_json(tmp_path / name)
    assert words in str(caught.value) and name in str(caught.value)
    with pytest.raises(DataError, match="does not exist"):
        read_annotation_json(tmp_path / f"other-{name}")


def dataset(root: Path, **subsets: list[str]) -> Path:
    """A PoseTrack18-style set: per subset the names of its videos, each of three tiny frames."""
    for subset, names in subsets.items():
        folder = root / "annotations" / subset
        folder.mkdir(parents=True)
        for name in names:
            data = file18([one(100), one(102)])
            for k, image in enumerate(data["images"]):
                image["file_name"] = f"images/{name}/{k:06}.png"
                path = root / image["file_name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), np.zeros((40, 60, 3), np.uint8))
            (folder / f"{name}.json").write_text(json.dumps(data))
    return root


def test_videos_of_a_data_set(tmp_path: Path) -> None:
    root = dataset(tmp_path, train=["b", "a"], val=["c"])
    (root / "annotations" / "train" / ".hidden.json").write_text("x")
    (root / "annotations" / "train" / "notes.txt").write_text("x")
    refs = list_videos(PoseTrack18Data(root=root))
    assert [(ref.name, ref.ranges) for ref in refs] == [
        ("a", {"train": (0, None)}), ("b", {"train": (0, None)}), ("c", {"eval": (0, None)}),
    ]  # fmt: skip
    video = open_video(refs[0])
    assert len(video) == 3 and video.frames.size() == (40, 60)
    assert video.split.tolist() == ["train"] * 3
    assert [image.shape for _, image in video.frames.read(range(3))] == [(40, 60, 3)] * 3
    assert ground_truth(refs[0], 2, 3)["annotations"] == [one(102)]


def test_one_video_in_both_splits(tmp_path: Path) -> None:
    root = dataset(tmp_path, test=["a"])

    def splits(train: tuple[int, int | None], evaluation: tuple[int, int | None]) -> PoseTrack18Data:
        return PoseTrack18Data(
            root=root,
            train=SplitOptions(subset="test", frames=train),
            eval=SplitOptions(subset="test", frames=evaluation),
        )

    (ref,) = list_videos(splits((0, 1), (2, None)))
    assert open_video(ref).split.tolist() == ["train", "", "eval"]
    (ref,) = list_videos(splits((2, 9), (0, 2)))
    assert open_video(ref).split.tolist() == ["eval", "eval", "train"]
    for train, evaluation in (((0, None), (0, None)), ((0, 2), (1, None)), ((1, None), (0, 2))):
        with pytest.raises(DataError, match=r"video 'a': frames of the .* overlap; change data\.train\.frames"):
            list_videos(splits(train, evaluation))
    (ref,) = list_videos(splits((0, 1), (3, None)))
    with pytest.raises(DataError, match=r"video 'a' has 3 frames: the eval split cannot begin at frame 3"):
        frame_splits(ref, 3)


def test_one_name_twice(tmp_path: Path) -> None:
    root = dataset(tmp_path, train=["a", "b"], val=["b"])
    with pytest.raises(DataError, match=r"two videos are called 'b': .*train.b\.json and .*val.b\.json; rename one"):
        list_videos(PoseTrack18Data(root=root))


def test_patterns(tmp_path: Path) -> None:
    root = dataset(tmp_path, train=["a1", "a2", "b1"])
    some = PoseTrack18Data(root=root, train=SplitOptions(subset="train", videos="a*"), eval=None)
    assert [ref.name for ref in list_videos(some)] == ["a1", "a2"]
    none = PoseTrack18Data(root=root, train=SplitOptions(subset="train", videos="c*"), eval=None)
    with pytest.raises(DataError, match=r"no video matches data\.train\.videos = 'c\*'; there are a1, a2, b1"):
        list_videos(none)


def test_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data folder .*gone does not exist: give it with --set data\.root=DIR"):
        list_videos(PoseTrack18Data(root=tmp_path / "gone"))
    with pytest.raises(
        DataError, match=r"annotation folder .*train does not exist \(data.annotations, data.train.subset"
    ):
        list_videos(PoseTrack18Data(root=tmp_path))
    (tmp_path / "annotations" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds no annotation files \(\*\.json, \*\.json\.gz\)"):
        list_videos(PoseTrack18Data(root=tmp_path))


def test_the_other_version_is_named(tmp_path: Path) -> None:
    root = dataset(tmp_path, train=["a"])
    (ref,) = list_videos(PoseTrack17Data(root=root, eval=None))
    with pytest.raises(DataError, match=r"a\.json is a PoseTrack18 file .*: set data\.kind to posetrack18"):
        open_video(ref)


@pytest.mark.parametrize("name", ["a:b", "tab\there", "trailing .", " leading"])
def test_names_that_cannot_be_folders(tmp_path: Path, name: str) -> None:
    root = dataset(tmp_path, train=["a"])
    (root / "annotations" / "train" / "a.json").rename(root / "annotations" / "train" / f"{name}.json")
    with pytest.raises(GLPoseError, match="cannot be used as a folder name"):
        list_videos(PoseTrack18Data(root=root, eval=None))


def test_videos_in_a_folder(tmp_path: Path) -> None:
    for name in ("b.mp4", "c.AVI", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    assert [ref.name for ref in list_videos(FolderData(root=tmp_path))] == ["a", "b", "c"]
    chosen = FolderData(root=tmp_path, files=("a", str(tmp_path / "c.AVI")))  # below root, or absolute
    assert [(ref.name, ref.path) for ref in list_videos(chosen)] == [("a", tmp_path / "a"), ("c", tmp_path / "c.AVI")]
    with pytest.raises(DataError, match=r"gone\.mp4 does not exist \(data\.files\)"):
        list_videos(FolderData(root=tmp_path, files=("gone.mp4",)))
    (tmp_path / "a" / "..mp4").write_bytes(b"x")  # a video called "."
    for path in ("a/..", "a/..mp4", str(tmp_path / "a" / "..")):
        with pytest.raises(GLPoseError, match="cannot be used as a folder name"):
            list_videos(FolderData(root=tmp_path, files=(path,)))
    with pytest.raises(DataError, match="holds no videos: neither files"):
        list_videos(FolderData(root=tmp_path / "empty"))


def test_videos_whose_names_no_folder_may_have(tmp_path: Path) -> None:
    for name in ("Urlaub (1).mp4", "città.mp4", "plain.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert [ref.name for ref in list_videos(FolderData(root=tmp_path))] == ["Urlaub _1_", "citt_", "plain"]
    assert [ref.name for ref in find_videos([tmp_path])] == ["Urlaub _1_", "citt_", "plain"]
    (tmp_path / "Urlaub [1].mp4").write_bytes(b"x")
    with pytest.raises(DataError, match=r"two videos are called 'Urlaub _1_': .*; rename one"):
        list_videos(FolderData(root=tmp_path))


def test_an_image_among_videos_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("a.mp4", "b.mp4", "cover.jpg"):
        (tmp_path / "clips" / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"clips holds images, .* \(cover\.jpg\), and videos \(a\.mp4\): name"):
        find_videos([tmp_path / "clips"])
    (tmp_path / "clips" / "cover.jpg").unlink()
    assert [ref.name for ref in find_videos([tmp_path / "clips"])] == ["a", "b"]


def test_two_videos_of_one_name_in_a_folder(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.avi"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"two videos are called 'a': .*a\.avi and .*a\.mp4; rename one"):
        list_videos(FolderData(root=tmp_path))


def test_inputs_digest_follows_content_not_place(tmp_path: Path) -> None:
    def digest(root: Path, **options: Any) -> str:
        (ref,) = list_videos(PoseTrack18Data(root=root, eval=None, **options))
        return inputs_digest(ref, open_video(ref))

    here, there = dataset(tmp_path / "here", train=["a"]), dataset(tmp_path / "there", train=["a"])
    assert digest(here) == digest(there)
    assert digest(here) != digest(here, train=SplitOptions(subset="train", frames=(0, 2)))
    path = there / "annotations" / "train" / "a.json"
    path.write_text(path.read_text() + "\n")
    assert digest(here) != digest(there)


def test_an_image_that_the_annotation_names_is_absent(tmp_path: Path) -> None:
    root = dataset(tmp_path, train=["a"])
    (root / "images" / "a" / "000001.png").unlink()
    (ref,) = list_videos(PoseTrack18Data(root=root, eval=None))
    video = open_video(ref)
    with pytest.raises(DataError, match=r"video 'a': frame 1 is listed but .*000001\.png does not exist"):
        list(video.frames.read([0, 1, 2]))


def test_gzipped_annotations_are_listed(tmp_path: Path) -> None:
    root = dataset(tmp_path, train=["a"])
    plain = root / "annotations" / "train" / "a.json"
    (plain.parent / "b.json.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (plain.parent / "._a.json").write_text("not a data file")
    refs = list_videos(PoseTrack18Data(root=root, eval=None))
    assert [ref.name for ref in refs] == ["a", "b"]
    first, second = (read_annotation_json(ref.path) for ref in refs)
    assert first == second


@pytest.mark.parametrize("name", ["../elsewhere/0.jpg", "images/../../0.jpg", "/etc/passwd"])
def test_an_image_outside_of_the_data_folder_is_refused(tmp_path: Path, name: str) -> None:
    root = dataset(tmp_path, train=["a"])
    path = root / "annotations" / "train" / "a.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["file_name"] = name
    path.write_text(json.dumps(content))
    (ref,) = list_videos(PoseTrack18Data(root=root, eval=None))
    with pytest.raises(DataError, match="outside of the data folder"):
        open_video(ref)


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    root = dataset(tmp_path, train=["a"])
    path = root / "annotations" / "train" / "a.json"
    path.write_text(json.dumps(file18([], frames=0)))
    (ref,) = list_videos(PoseTrack18Data(root=root, eval=None))
    with pytest.raises(DataError, match="lists no frames"):
        open_video(ref)


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(DataError, match="names a video twice"):
        list_videos(FolderData(root=tmp_path, files=("a.mp4", str(tmp_path / "a.mp4"))))
