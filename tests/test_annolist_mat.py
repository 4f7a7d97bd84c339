"""PoseTrack17's annotations as MATLAB files.

Real: the file that holds several videos, and one of its clips as PoseTrack18 JSON. The form of PoseTrack17's release is
not at hand: files of it are written here from its public description, the structure that poseval's README gives for
the JSON converted from it, and MPII's (annolist(f).image.name, annorect(p).x1 .. y2, track_id, annopoints.point(k).id,
x, y, is_visible; ignore_regions(k).point).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
from posetrack_builders import POSE, person, random_video, video17

from glpose.box_sources import annotated_boxes
from glpose.data import annolist_mat, posetrack17, posetrack18
from glpose.data.annotations import read_annotation_json
from glpose.data.dataset import Video, VideoRef, ground_truth, inputs_digest, open_video
from glpose.data.listing import list_videos
from glpose.keypoints import HIDDEN, POSETRACK, VISIBLE
from glpose.metrics.posetrack_files import parse_video
from glpose.options import EvalOptions, PoseTrack17Data, SplitOptions
from glpose.proposals import propose
from glpose.scoring import EvaluatedVideo, score_posetrack
from store.errors import DataError, GLPoseError

CLIP = "060470979"
# MPII's 16 joints, in the order of its ids.
MPII = ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
        "head_bottom", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
        "left_wrist")  # fmt: skip


def structs(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A struct array with the fields of all entries, empty where one has none; MATLAB's [] of no entries."""
    fields = list(dict.fromkeys(field for entry in entries for field in entry))
    if not fields:
        return np.zeros((0, 0))
    array = np.empty((1, len(entries)), [(field, object) for field in fields])
    for column, entry in enumerate(entries):
        for field in fields:
            array[0, column][field] = entry.get(field, np.zeros((0, 0)))
    return array


def points_of(points: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return structs([{key: value[0] if value else np.zeros((0, 0)) for key, value in p.items()} for p in points])


def write_released(path: Path, data: Mapping[str, Any]) -> Path:
    """The content of a PoseTrack17 JSON file as a MATLAB file of the released form."""
    frames = []
    for entry in data["annolist"]:
        people = []
        for rect in entry.get("annorect", []):
            made = {key: value[0] for key, value in rect.items() if key != "annopoints"}
            if rect.get("annopoints"):
                made["annopoints"] = structs([{"point": points_of(rect["annopoints"][0]["point"])}])
            people.append(made)
        regions = [{"point": points_of(region["point"])} for region in entry.get("ignore_regions", [])]
        image = structs([{"name": entry["image"][0]["name"]}])
        labelled = float(bool(people))
        frames.append(
            {"image": image, "annorect": structs(people), "ignore_regions": structs(regions), "is_labeled": labelled}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"annolist": structs(frames)}, do_compression=True)
    return path


Cell = tuple[Mapping[int, tuple[float, float]], Sequence[float]] | None  # MPII id -> x, y; head box


def write_several(path: Path, compressed: bool = True, first: Mapping[str, Any] | None = None, **videos: Any) -> Path:
    """A file of several videos: name -> people x frames of `Cell`."""
    entries = []
    for name, rows in videos.items():
        cells = np.empty((len(rows), len(rows[0]) if rows else 0), object)
        for (row, column), _ in np.ndenumerate(cells):
            cell = rows[row][column]
            cells[row, column] = np.zeros((0, 0)) if cell is None else _cell(*cell)
        entries.append(
            {"num_frames": float(cells.shape[1]), "name": name, "num_persons": float(len(rows)), "annopoints": cells}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {**(first or {}), "annolist": structs(entries)}, do_compression=compressed)
    return path


def _cell(points: Mapping[int, tuple[float, float]], head: Sequence[float]) -> np.ndarray:
    listed = [
        {"x": x, "y": y, "id": joint, "is_visible": joint % 2, "is_truncated": 0} for joint, (x, y) in points.items()
    ]
    return structs([{"point": structs(listed), "head_rect": np.array([head]) if head else np.zeros((0, 0))}])


def write_images(root: Path, video: str, count: int) -> None:
    folder = root / "videos" / video
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        cv2.imwrite(str(folder / f"{number:05d}.png"), np.zeros((40, 60, 3), np.uint8))


def data_of(root: Path, **options: Any) -> PoseTrack17Data:
    chosen = {"train": None, "eval": SplitOptions(subset="test"), "images": "videos", **options}
    return PoseTrack17Data(root=root, **chosen)


def one(joint: int = 0, head: Sequence[float] = (1, 2, 11, 12)) -> Cell:
    return {joint: (10.0, 20.0), 9: (30.0, 5.0)}, head


# ------------------------------------------------------------------------------------------------- the real material
@pytest.fixture(scope="module")
def bonn(shared_data: Path) -> tuple[VideoRef, Video]:
    """The clip whose images are at hand, of the file that holds 30."""
    data = data_of(shared_data / "real" / "bonn_060470979", annotations="annolist")
    (ref,) = list_videos(data.model_copy(update={"eval": SplitOptions(subset="test", videos=CLIP)}))
    return ref, open_video(ref)


def test_the_clip_is_that_of_its_json(bonn: tuple[VideoRef, Video], shared_data: Path) -> None:
    _, video = bonn
    path = shared_data / "real" / "bonn_060470979" / "posetrack18_json" / "test" / f"{CLIP}.json"
    other, notes = posetrack18.parse(path, read_annotation_json(path)), video.annotations
    assert notes is not None and (len(video), len(notes.frame)) == (41, 164)
    assert np.array_equal(notes.frame, other.frame) and np.array_equal(notes.person, other.person)
    assert np.array_equal(notes.keypoints[..., 2], other.keypoints[..., 2])  # joints and visibility
    assert (notes.keypoints[..., 2] == HIDDEN).sum() == 153
    assert np.abs(notes.keypoints - other.keypoints).max() < 0.0051  # rounded there; no offset of 1
    assert np.abs(notes.boxes - other.boxes).max() < 0.02  # there rounded extents of the joints, as ours
    assert [f"videos/{name}" for name in notes.frame_names] == list(other.frame_names)
    assert video.frames.size() == (540, 960) and notes.labelled.all()


def test_its_head_boxes_are_those_of_its_json(bonn: tuple[VideoRef, Video], shared_data: Path) -> None:
    ref, _ = bonn
    path = shared_data / "real" / "bonn_060470979" / "posetrack18_json" / "test" / f"{CLIP}.json"
    mat, other = parse_video(ref.path, ground_truth(ref, 0, 41)), parse_video(path, read_annotation_json(path))
    np.testing.assert_allclose(mat.head_size, other.head_size, rtol=1e-12)
    assert np.array_equal(mat.joint[np.lexsort((mat.joint, mat.point_person))], np.tile(sorted(set(mat.joint)), 164))
    (x1, y1, x2, y2) = (ground_truth(ref, 0, 1)["annolist"][0]["annorect"][0][side][0] for side in annolist_mat.HEAD)
    x, y, width, height = read_annotation_json(path)["annotations"][0]["bbox_head"]
    assert np.allclose([x1, y1, x2 - x1, y2 - y1], [x, y, width, height], rtol=0, atol=1e-9)


def test_it_is_proposed_and_scored_like_any_video(bonn: tuple[VideoRef, Video], tmp_path: Path) -> None:
    ref, video = bonn
    assert video.annotations is not None
    table = propose(video, {"eval": annotated_boxes}, 0.2).table
    assert len(table) == 164 and set(table["source"]) == {"annotation"}
    poses = np.where(video.annotations.keypoints[..., 2:] > 0, video.annotations.keypoints, np.nan)
    rows = slice(3 * 4, 20 * 4)  # four people in each frame
    evaluated = EvaluatedVideo(ref, video, 3, 20, table.iloc[rows], {"glpose": poses[rows]})
    scores = score_posetrack(tmp_path, [evaluated], EvalOptions())
    truth = json.loads((tmp_path / "ground_truth" / f"{CLIP}.json").read_text())["annolist"]
    found = json.loads((tmp_path / "predictions" / "glpose" / f"{CLIP}.json").read_text())["annolist"]
    assert [entry["image"] for entry in truth] == [entry["image"] for entry in found]
    assert truth[0]["image"] == [{"name": f"{CLIP}/00004.jpg"}] and len(truth) == 17
    assert scores.mean["glpose"] == pytest.approx(100)


def test_all_videos_of_real_files_are_listed(shared_data: Path) -> None:
    root = shared_data / "real" / "bonn_060470979"
    refs = list_videos(data_of(root, annotations="annolist", train=SplitOptions(subset="train")))
    assert [sum(split in ref.ranges for ref in refs) for split in ("train", "eval")] == [30, 30]
    assert {ref.name for ref in refs} == {ref.part for ref in refs}
    other = next(ref for ref in refs if ref.name == "000001")
    message = r"videos/000001, the frames of video '000001' of .*annolist\.mat, does not exist \(data\.images\)"
    with pytest.raises(DataError, match=message):
        open_video(other)


# ------------------------------------------------------------------------------------------------ several videos
def test_joint_ids_are_mpii(tmp_path: Path) -> None:
    everything = {joint: (10.0 * joint, 5.0) for joint in range(17)}
    path = write_several(tmp_path / "a.mat", v=[[(everything, ())]])
    write_images(tmp_path, "v", 1)
    notes = posetrack17.parse(path, annolist_mat.read(path, "v", tmp_path / "videos"))
    expected = {name: joint for joint, name in enumerate(MPII) if name in POSETRACK.joints}
    found = {name: notes.keypoints[0, k, 0] / 10 for k, name in enumerate(POSETRACK.joints) if notes.keypoints[0, k, 2]}
    assert found == expected and set(POSETRACK.joints) - set(found) == {"nose"}
    hidden = [name for k, name in enumerate(POSETRACK.joints) if notes.keypoints[0, k, 2] == HIDDEN]
    assert hidden == [name for name in POSETRACK.joints if name in found and MPII.index(name) % 2 == 0]


@pytest.mark.parametrize("compressed", [True, False])
def test_people_tracks_frames_and_heads(tmp_path: Path, compressed: bool) -> None:
    rows = [[one(), None, one()], [None, None, one(5, ())]]
    first = {"before": np.arange(5000.0)}  # of another name: looked past
    path = write_several(tmp_path / "annotations/test/annolist.mat", compressed, first, b=rows, a=[[one()]], c=[])
    write_images(tmp_path, "b", 3)
    write_images(tmp_path, "a", 1)
    refs = list_videos(data_of(tmp_path))
    assert [(ref.name, ref.part, ref.path) for ref in refs] == [(name, name, path) for name in "abc"]
    video = open_video(refs[1])
    assert video.annotations is not None
    assert video.annotations.frame.tolist() == [0, 2, 2] and video.annotations.person.tolist() == [0, 0, 1]
    assert video.annotations.labelled.tolist() == [True, False, True]
    assert video.frames.names == ["b/00001.png", "b/00002.png", "b/00003.png"]
    assert [frame for frame, _ in video.frames.read(range(3))] == [0, 1, 2]
    annolist = ground_truth(refs[1], 2, 3)["annolist"]
    assert [[rect.get(side) for side in annolist_mat.HEAD] for rect in annolist[0]["annorect"]] == [
        [[1.0], [2.0], [11.0], [12.0]],
        [None] * 4,
    ]
    assert len(open_video(refs[0])) == 1  # MATLAB's cell of one person in one frame


def test_splits_of_one_file(tmp_path: Path) -> None:
    write_several(tmp_path / "annotations/test/annolist.mat", a=[[one()] * 6], b=[[one()]])
    both = {"train": SplitOptions(subset="test", videos="a", frames=(0, 2))}
    (ref,) = list_videos(data_of(tmp_path, eval=SplitOptions(subset="test", videos="a", frames=(4, None)), **both))
    assert ref.ranges == {"train": (0, 2), "eval": (4, None)} and ref.part == "a"


def test_a_changed_file_is_read_anew_and_noticed(tmp_path: Path) -> None:
    def write(x: float) -> Path:
        return write_several(
            tmp_path / "annotations/test/annolist.mat", compressed=False, a=[[({0: (x, 1.0), 1: (9.0, 9.0)}, ())]]
        )

    path = write(4.5)
    write_images(tmp_path, "a", 1)
    (ref,) = list_videos(data_of(tmp_path))
    first = open_video(ref)
    before, size = inputs_digest(ref, first), path.stat().st_size
    write(5.5)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))
    assert path.stat().st_size == size
    second = open_video(ref)
    assert first.annotations is not None and second.annotations is not None
    assert (first.annotations.keypoints[0, 0, 0], second.annotations.keypoints[0, 0, 0]) == (4.5, 5.5)
    assert inputs_digest(ref, second) != before


def test_as_many_images_as_frames(tmp_path: Path) -> None:
    write_several(tmp_path / "annotations/test/annolist.mat", a=[[one()] * 3])
    write_images(tmp_path, "a", 2)
    (ref,) = list_videos(data_of(tmp_path))
    with pytest.raises(DataError, match=r"videos/a holds 2 images; .*annolist\.mat annotates 3 frames of video 'a'"):
        open_video(ref)
    write_images(tmp_path, "a", 3)
    assert len(open_video(ref)) == 3
    write_several(tmp_path / "annotations/test/annolist.mat", other=[[one()]])
    with pytest.raises(DataError, match=r"does not hold the video 'a', but other"):
        open_video(ref)
    ref.path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        open_video(ref)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": ""}, "its video 2 has no name"),
        ({"name": "a"}, "two videos are called 'a'"),
        ({"name": "../b"}, "cannot be used as a folder name"),
        ({"num_frames": 3.0}, r"video 'b': annopoints is \(1, 2\), not \(people, 3 frames\)"),
        ({"num_frames": np.zeros((0, 0))}, "is malformed"),
        ({"num_frames": np.inf}, "is malformed"),
        ({"num_frames": "two"}, "is malformed"),
    ],
)
def test_malformed_lists_of_videos(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    cells = np.empty((1, 2), object)
    cells[0, 0] = cells[0, 1] = np.zeros((0, 0))
    whole = {"num_frames": 2.0, "name": "a", "num_persons": 1.0, "annopoints": cells}
    path = tmp_path / "annotations/test/annolist.mat"
    path.parent.mkdir(parents=True)
    scipy.io.savemat(path, {"annolist": structs([whole, whole | {"name": "b"} | entry])})
    with pytest.raises(GLPoseError, match=words):
        list_videos(data_of(tmp_path))


# ------------------------------------------------------------------------------------------------ the released form
def same_to_the_scorer(path: Path, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    one, two = parse_video(path, a), parse_video(path, b)
    names = ("person_frame", "listed", "track_id", "head_size", "point_person", "joint", "xy", "flag")
    equal = all(np.array_equal(getattr(one, name), getattr(two, name), equal_nan=True) for name in names)
    regions = [[frame["ignore_regions"] for frame in data["annolist"]] for data in (a, b)]
    return equal and regions[0] == regions[1] and one.frames == two.frames


@pytest.mark.parametrize("seed", range(3))
def test_released_files_say_what_their_json_says(tmp_path: Path, seed: int) -> None:
    data, _ = random_video(np.random.default_rng(seed))
    path = write_released(tmp_path / "a.mat", data)
    read = annolist_mat.read(path, "", tmp_path)
    assert annolist_mat.parts(path) == []
    assert same_to_the_scorer(path, read, data)
    mat, plain = posetrack17.parse(path, read), posetrack17.parse(path, data)
    for name in ("frame_names", "labelled", "frame", "person", "boxes", "keypoints"):
        assert np.array_equal(getattr(mat, name), getattr(plain, name)), name
    assert posetrack17.select_frames(read, 1, 3)["annolist"] == read["annolist"][1:3]


def test_released_files_with_gaps(tmp_path: Path) -> None:
    made = person({0: (1, 2), 3: (5, 6)})
    made["annopoints"][0]["point"] = [
        {"id": [0], "x": [1], "y": [2], "is_visible": ["0"]},  # MPII spells it as text in places
        {"id": [3], "x": [5], "y": [6], "is_visible": []},
    ]
    lost = {"annopoints": made["annopoints"]}  # neither head box nor track
    bare = {"track_id": [7], "x1": [1], "y1": [1], "x2": [2]}  # no points, and a head box without an end
    path = write_released(tmp_path / "a.mat", video17([made, lost, bare], []))
    read = annolist_mat.read(path, "", tmp_path)
    notes = posetrack17.parse(path, read)
    assert notes.keypoints[0, [0, 3], 2].tolist() == [HIDDEN, VISIBLE]
    assert notes.person.tolist() == [0, -1] and notes.labelled.tolist() == [True, False]
    assert read["annolist"][0]["annorect"][2] == {"track_id": [7]}
    assert read["annolist"][1]["annorect"] == []
    assert len(json.loads(json.dumps(read, allow_nan=False))["annolist"]) == 2


def test_a_released_data_set(tmp_path: Path) -> None:
    data = video17([person(POSE)], [])
    for k, entry in enumerate(data["annolist"], 1):
        entry["image"][0]["name"] = name = f"images/bonn/000001_bonn/{k:08}.jpg"
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((40, 60, 3), np.uint8))
    write_released(tmp_path / "annotations/train/000001_bonn.mat", data)
    (ref,) = list_videos(PoseTrack17Data(root=tmp_path, eval=None))
    assert (ref.name, ref.part) == ("000001_bonn", "")
    video = open_video(ref)
    assert video.frames.names[1] == "images/bonn/000001_bonn/00000002.jpg" and video.frames.size() == (40, 60)
    # poseval's converter writes JSON into the same folder: of two spellings of one video, that is read
    plain = ref.path.with_suffix(".json")
    plain.write_text(json.dumps(data))
    (ref,) = list_videos(PoseTrack17Data(root=tmp_path, eval=None))
    assert ref.path == plain
    plain.unlink()
    ref.path.with_suffix(".mat").rename(tmp_path / "annotations/train/000001_bonn.txt")
    with pytest.raises(DataError, match=r"holds no annotation files \(\*\.json, \*\.json\.gz, \*\.mat\)"):
        list_videos(PoseTrack17Data(root=tmp_path, eval=None))


# ------------------------------------------------------------------------------------------------ damaged files
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a readable MATLAB file"),
        (b"no MATLAB file at all, but long enough to have a header" * 9, "is not a readable MATLAB file"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400), "version 7.3"),
        ({"other": 1.0}, "holds no struct called 'annolist'"),
        ({"annolist": np.ones((2, 2))}, "holds no struct called 'annolist'"),
        ({"annolist": structs([{"imgnum": 1.0}])}, "frame 0 has no image name"),
        ({"annolist": structs([{"image": structs([{"name": "1.jpg"}]), "annorect": structs([{"x1": "a"}])}])}, "malf"),
        ({"annolist": structs([{"image": structs([{"name": "1.jpg"}]), "annorect": 3.0}])}, None),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, content: Any, words: str | None) -> None:
    path = tmp_path / "annotations/test/clip.mat"
    path.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        scipy.io.savemat(path, content)
    (ref,) = list_videos(data_of(tmp_path))
    assert ref.name == "clip"
    if words is None:  # a number where people should be: nobody
        assert len(open_video(ref)) == 1
        return
    with pytest.raises(DataError, match=words) as caught:
        open_video(ref)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "annotations/test/clip.mat").mkdir(parents=True)
    (ref,) = list_videos(data_of(tmp_path))
    with pytest.raises(DataError, match=r"clip\.mat does not exist"):
        open_video(ref)


def test_files_that_are_cut_off_are_named(tmp_path: Path) -> None:
    several = write_several(tmp_path / "annotations/test/several.mat", a=[[one()] * 40])
    released = write_released(tmp_path / "annotations/val/clip.mat", video17(*[[person(POSE)]] * 20))
    for path in (several, released):
        whole = path.read_bytes()
        for part in (0.05, 0.3, 0.9):
            path.write_bytes(whole[: int(len(whole) * part)])
            with pytest.raises(DataError, match=path.name) as caught:
                for ref in list_videos(data_of(tmp_path, eval=SplitOptions(subset=path.parent.name))):
                    open_video(ref)
            assert "not a readable MATLAB file" in str(caught.value)
