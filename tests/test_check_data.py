"""check-data: every kind of fault on a small data set that has just that one, and none on a sound one.

Data sets as small as these never have the published counts: `run` leaves that note out, which has tests of its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
import yaml
from posetrack_builders import POSE, person, video17
from rich.console import Console
from small_pipelines import RENDERED, context, glpose_stage, write_dataset, write_pipeline

from glpose.data.annotations import assemble
from glpose.data.checks import check_images
from glpose.data.complaints import catch_complaints
from glpose.data.faults import KINDS
from glpose.data.image_header import probe_image
from glpose.data.numbering import find_shift
from glpose.data.people_checks import check_people
from glpose.data.published import PUBLISHED, check_counts
from glpose.keypoints import POSETRACK
from glpose.options import JHMDBData, PoseTrack18Data, SplitOptions
from stages.check_data import check_data
from stages.config import find_config, load_pipeline
from stages.stage import Context
from store.errors import DataError

HEIGHT, WIDTH, FRAMES = 96, 128, 6  # of the rendered clips
Content = dict[str, Any]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound data set of two training videos and one to evaluate on."""
    root = tmp_path_factory.mktemp("clips") / "data"
    write_dataset(root)
    return root


@pytest.fixture
def project(clips: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged; its pipelines.yaml."""
    shutil.copytree(clips, tmp_path / "data")
    return pipeline(tmp_path)


def pipeline(folder: Path, data: dict[str, Any] | None = None) -> Path:
    """A pipelines.yaml as `write_pipeline` makes it, without a backbone: no check needs one."""
    (folder / "backbone.safetensors").touch()
    return write_pipeline(folder, data)


def run(what: Context, full: bool = False) -> tuple[str, str, list[dict[str, Any]]]:
    """What check-data prints, the message that it ends with ("" if none), and the faults in its file but "counts"."""
    printed, ended = io.StringIO(), ""
    path = Path(str(what.config.work)).parent / "faults.json"
    try:
        check_data(what, Console(file=printed), full=full, json_file=path)
    except DataError as error:
        ended = str(error)
    faults = json.loads(path.read_text())["faults"]
    return printed.getvalue(), ended, [fault for fault in faults if fault["kind"] != "counts"]


def frames_of(config: Path, video: str) -> list[Path]:
    """Image files of a video."""
    return sorted((config.parent / "data" / "images").glob(f"*/{video}/*.jpg"))


def edit(config: Path, video: str, change: Callable[[Content], object]) -> None:
    """Change the content of a video's annotation file."""
    (path,) = (config.parent / "data" / "annotations").glob(f"*/{video}.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def only(faults: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The one fault that there is, which is of this kind."""
    assert [fault["kind"] for fault in faults] == [kind], faults
    assert faults[0]["stops"] == KINDS[kind].stops
    return faults[0]


def test_a_sound_data_set_has_no_fault(project: Path) -> None:
    printed, ended, faults = run(context(project))
    assert (ended, faults) == ("", [])
    assert [line for line in printed.splitlines() if line.startswith(("note", "fault"))] == [
        "note  counts other than the published ones: 2; first: videos in val: 1, published 170"
    ]
    assert "nothing is wrong" in run(context(project, videos="?"))[0]  # some of the videos have no counts to have
    assert "18 images: headers and ends of all read, 9 decoded" in printed
    rows = [line.split() for line in printed.splitlines()]
    (train,) = [row for row in rows if row[:1] == ["train"]]
    (evaluated,) = [row for row in rows if row[:1] == ["eval"]]
    assert train[1:5] == ["2", "593", "12", "12"] and evaluated[1:5] == ["1", "170", "6", "6"]
    assert "1 validation file: neither version 0.2" in printed
    assert "all decoded" in run(context(project), full=True)[0]


def test_counts_are_those_of_the_annotation(project: Path) -> None:
    content: Content = {}
    edit(project, "c", content.update)
    named = content["categories"][0]["keypoints"]
    joints = sum(
        np.any(np.reshape(one["keypoints"], (len(named), 3)) != 0, axis=1).sum() for one in content["annotations"]
    )
    printed, _, _ = run(context(project, videos="c"))
    (row,) = [line.split() for line in printed.splitlines() if line.split()[:1] == ["eval"]]
    assert row[5:] == [str(len(content["annotations"])), str(joints)]
    assert "(--videos c)" in printed and "train" not in printed


def test_missing_frame(project: Path) -> None:
    frames_of(project, "b")[2].unlink()
    printed, ended, faults = run(context(project))
    fault = only(faults, "missing")
    assert (fault["video"], fault["frame"]) == ("b", 2) and "000002.jpg does not exist" in fault["what"]
    assert "fault  frames without an image: 1; first b, frame 2: " in printed
    assert "frames without an image: 1" in ended


def test_frames_without_their_folder(project: Path) -> None:
    shutil.rmtree(frames_of(project, "c")[0].parent)
    printed, ended, faults = run(context(project))
    assert {fault["kind"] for fault in faults} == {"missing"} and len(faults) == FRAMES
    assert "frames without an image: 6 in 1 videos; first c, frame 0" in printed and ended


@pytest.mark.parametrize("step", [1, -1])
def test_images_numbered_one_off(project: Path, step: int) -> None:
    if step < 0:
        edit(
            project, "a", lambda data: [image.update(file_name=one_on(image["file_name"])) for image in data["images"]]
        )
    else:
        for path in reversed(frames_of(project, "a")):
            path.rename(path.with_name(f"{int(path.stem) + 1:06d}.jpg"))
    faults = run(context(project))[2]
    shifted = next(fault for fault in faults if fault["kind"] == "shifted")
    assert f"all numbers are 1 {'higher' if step > 0 else 'lower'}" in shifted["what"]
    assert (shifted["video"], shifted["frame"]) == ("a", 0 if step > 0 else FRAMES - 1)
    assert "missing" not in {fault["kind"] for fault in faults}


def one_on(name: str) -> str:
    """The name of the image after this one."""
    path = Path(name)
    return path.with_name(f"{int(path.stem) + 1:06d}.jpg").as_posix()


def test_images_named_with_other_digits(project: Path) -> None:
    for path in frames_of(project, "a"):
        path.rename(path.with_name(f"{int(path.stem):08d}.jpg"))
    assert "other digits" in only(run(context(project))[2], "shifted")["what"]


def test_the_first_image_deleted_is_not_a_shift(project: Path) -> None:
    frames_of(project, "a")[0].unlink()
    assert only(run(context(project))[2], "missing")["frame"] == 0


@pytest.mark.parametrize("step", [1, -1, 2, -2])
def test_images_numbered_otherwise_of_which_one_is_missing(step: int) -> None:
    listed = [f"{number:05d}.jpg" for number in range(10, 51)]
    on_disk = [f"{number + step:05d}.jpg" for number in range(10, 51) if number != 30]
    shift = find_shift(listed, on_disk)
    assert shift is not None and (shift.step, shift.lost) == (step, (20,))
    assert find_shift(listed, [f"{number + 3:05d}.jpg" for number in range(10, 51)]) is None


def test_deleted_images_are_not_a_shift() -> None:
    names = [f"{number:05d}.jpg" for number in range(61)]
    assert find_shift(names, names[1:30] + names[31:]) is None
    assert find_shift(names, names[:59]) is None
    assert find_shift(names[1:42], names[:41] + names[42:]) is None  # the last, of a folder that goes on
    assert find_shift(names[:60:2], names[1:60]) is None  # every other is listed, the first is deleted
    assert find_shift(names, [*names[:5], "00005.png", *names[6:]]) is None
    assert find_shift(names, []) is None


def test_off_by_one_and_one_image_missing_are_two_faults(project: Path) -> None:
    for path in reversed(frames_of(project, "a")):
        path.rename(path.with_name(f"{int(path.stem) + 1:06d}.jpg"))
    frames_of(project, "a")[2].unlink()
    _, ended, faults = run(context(project))
    found = {fault["kind"]: (fault["frame"], fault["what"]) for fault in faults}
    assert set(found) == {"shifted", "missing"} and len(faults) == 2
    assert "all numbers are 1 higher" in found["shifted"][1]
    assert found["missing"][0] == 2 and found["missing"][1].endswith("000002.jpg does not exist, nor does number 3")
    assert "otherwise than the annotation says: 1, frames without an image: 1" in ended


def test_an_image_named_twice(project: Path) -> None:
    edit(project, "a", lambda data: data["images"][3].update(file_name=data["images"][2]["file_name"]))
    _, ended, faults = run(context(project))
    twice = next(fault for fault in faults if fault["kind"] == "twice")
    assert (twice["frame"], twice["stops"]) == (3, True) and "000002.jpg is frame 2 already" in twice["what"]
    assert "names twice: 1" in ended


def test_truncated_image(project: Path) -> None:
    path = frames_of(project, "c")[1]  # not one of those that are decoded
    path.write_bytes(path.read_bytes()[:-200])
    printed, ended, faults = run(context(project))
    fault = only(faults, "unreadable")
    assert (fault["frame"], "is cut off" in fault["what"]) == (1, True)
    assert "images that are cut off or cannot be read: 1; first c, frame 1" in printed and ended


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_what_is_no_image(project: Path, content: bytes) -> None:
    frames_of(project, "c")[4].write_bytes(content)
    assert only(run(context(project))[2], "unreadable")["frame"] == 4


def test_damage_within_an_image_is_found_by_full_only(project: Path) -> None:
    path = frames_of(project, "c")[1]
    raw = path.read_bytes()
    start = raw.rfind(b"\xff\xda")
    path.write_bytes(raw[:start] + raw[-2:])  # no start of scan: header and end are sound
    assert run(context(project))[2] == []
    assert only(run(context(project), full=True)[2], "unreadable")["frame"] == 1


def test_damage_that_libjpeg_only_complains_of(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = frames_of(project, "c")[1]
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    raw = bytearray(path.read_bytes())
    third = len(raw) // 3
    raw[third : 2 * third] = bytes(third)
    path.write_bytes(raw)
    assert run(context(project))[2] == []
    printed, ended, faults = run(context(project), full=True)
    fault = only(faults, "damaged")
    assert (fault["video"], fault["frame"]) == ("c", 1) and "Corrupt JPEG data" in fault["what"]
    assert "damage that decodes to something else: 1" in ended and "can go unnoticed" in printed
    assert capfd.readouterr().err == ""


def test_what_python_writes_on_standard_error_is_not_caught(capfd: pytest.CaptureFixture[str]) -> None:
    with open(2, "w", closefd=False) as terminal, contextlib.redirect_stderr(terminal), catch_complaints() as caught:
        print("ours", file=sys.stderr, flush=True)
        os.write(2, b"theirs")
        assert caught.written() == len("theirs")
    os.write(2, b"after")
    assert capfd.readouterr().err.splitlines() == ["ours", "after"]


def test_frame_of_another_size(project: Path) -> None:
    path = frames_of(project, "b")[3]
    cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH - 8, 3), np.uint8))
    fault = only(run(context(project))[2], "size")
    assert fault["frame"] == 3 and "120 x 96 px, the first frame 128 x 96 px" in fault["what"]


def test_images_resized_after_annotation(project: Path) -> None:
    edit(project, "b", lambda data: [image.update(height=1080, width=1920) for image in data["images"]])
    faults = run(context(project))[2]
    assert {fault["kind"] for fault in faults} == {"size"} and len(faults) == FRAMES
    assert "its annotation is for 1920 x 1080 px" in faults[0]["what"]


def test_gap_and_image_that_is_not_listed(project: Path) -> None:
    def drop(data: Content) -> None:
        gone = data["images"].pop(2)["id"]
        data["annotations"] = [one for one in data["annotations"] if one["image_id"] != gone]
        for image in data["images"]:
            image["nframes"] = FRAMES

    edit(project, "a", drop)
    printed, ended, faults = run(context(project))
    found = {fault["kind"]: fault["what"] for fault in faults}
    assert set(found) == {"gaps", "unlisted", "nframes"} and ended == ""
    assert found["gaps"] == "000001.jpg is followed by 000003.jpg; 1 such places"
    assert "1 images that are not listed, 000002.jpg the first" in found["unlisted"]
    assert found["nframes"] == "nframes is 6, 5 frames are listed"
    assert printed.count("note  ") == 4  # counts too


def test_numbers_against_the_format(project: Path) -> None:
    for path in reversed(frames_of(project, "a")):
        path.rename(path.with_name(f"{int(path.stem) + 1:06d}.jpg"))
    edit(project, "a", lambda data: [image.update(file_name=one_on(image["file_name"])) for image in data["images"]])
    fault = only(run(context(project))[2], "numbering")
    assert fault["what"] == "the first frame is 000001.jpg, not 000000.jpg"


def set_box(*box: float) -> Callable[[Content], object]:
    """Give the first person another box (x, y, width, height)."""
    return lambda data: data["annotations"][0].update(bbox=list(box))


def set_joint(x: float, y: float) -> Callable[[Content], object]:
    """Put the first person's first annotated joint elsewhere."""

    def change(data: Content) -> None:
        points = data["annotations"][0]["keypoints"]
        k = next(k for k in range(0, len(points), 3) if any(points[k : k + 3]))
        points[k : k + 2] = [x, y]

    return change


def repeat_track(data: Content) -> None:
    """Give two people of a frame one track id."""
    first = data["annotations"][0]
    other = next(one for one in data["annotations"][1:] if one["image_id"] == first["image_id"])
    other["track_id"] = first["track_id"]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("outside", set_box(WIDTH + 5, 10, 20, 20)),
        ("outside", set_box(10, -30, 20, 20)),
        ("beyond", set_box(WIDTH - 8, 10, 20, 20)),
        ("no_area", set_box(10, 10, 0, 20)),
        ("no_area", set_box(10, 10, 20, -5)),
        ("no_joints", lambda data: data["annotations"][0].update(keypoints=[0] * 51)),
        ("far_joint", set_joint(2 * WIDTH + 2, 10)),
        ("far_joint", set_joint(10, -WIDTH - 2)),
        ("same_track", repeat_track),
        ("no_head", lambda data: data["annotations"][0].pop("bbox_head")),
        ("no_head", lambda data: data["annotations"][0].update(bbox_head=[10, 10, 0, 0])),
    ],
)
def test_person_that_is_not_sound(project: Path, kind: str, change: Callable[[Content], object]) -> None:
    edit(project, "c", change)
    printed, ended, faults = run(context(project))
    fault = only(faults, kind)
    assert (fault["video"], fault["frame"], ended) == ("c", 0, "")
    assert f"note  {KINDS[kind].words}: 1; first c, frame 0: " in printed


@pytest.mark.parametrize("box", [(WIDTH - 12, 10, 20, 20), (-9, -9, 100, 100)])
def test_box_that_reaches_over_the_edge_is_sound(project: Path, box: tuple[float, ...]) -> None:
    edit(project, "c", set_box(*box))
    assert run(context(project))[2] == []


@pytest.mark.parametrize("box", [(0, 0, np.inf, 9), (-np.inf, 0, np.inf, 9), (0, 0, 1e300, 1e300), (np.inf,) * 4])
def test_boxes_without_end_are_told_without_warnings(box: tuple[float, ...]) -> None:
    keypoints = np.zeros((15, 3))
    keypoints[0] = [3, 3, 2]
    notes = assemble(POSETRACK, ["0.jpg"], ["0"], [True], [(0, 1, np.array(box, float), keypoints)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kinds = [fault.kind for fault in check_people("v", notes, HEIGHT, WIDTH)]
    assert kinds == ["no_area" if np.isinf(box).any() else "beyond"]


def test_boxes_of_another_resolution(project: Path) -> None:
    def enlarge(data: Content) -> None:
        for one in data["annotations"]:
            one["bbox"] = [one["bbox"][0] + 10 * WIDTH, *one["bbox"][1:]]

    edit(project, "c", enlarge)
    _, ended, faults = run(context(project))
    assert {fault["kind"] for fault in faults} == {"outside", "misfit"}
    assert "videos with most boxes outside the frame: 1" in ended and KINDS["outside"].words not in ended


def test_the_walk_goes_on_after_a_file_that_cannot_be_read(project: Path) -> None:
    (project.parent / "data" / "annotations" / "train" / "a.json").write_text('{"images": [')
    frames_of(project, "c")[5].unlink()
    printed, ended, faults = run(context(project))
    assert [(fault["kind"], fault["video"]) for fault in faults] == [("unusable", "a"), ("missing", "c")]
    assert "is not readable JSON" in faults[0]["what"]
    assert "videos that cannot be opened: 1" in ended and "frames without an image: 1" in ended
    assert "train        2" in printed  # listed, though it cannot be counted


def test_an_annotation_that_scoring_cannot_read(project: Path) -> None:
    edit(project, "c", lambda data: data["annotations"][0].update(bbox_head="large"))
    fault = only(run(context(project))[2], "unscorable")
    assert "bbox_head" in fault["what"]


def test_a_video_in_both_splits_with_overlap_is_refused(project: Path) -> None:
    what = context(project, "data.eval.subset=train", "data.eval.frames=[3, null]")
    with pytest.raises(DataError, match="overlap"):
        check_data(what, Console(file=io.StringIO()))


def test_order_of_faults_does_not_depend_on_threads(project: Path) -> None:
    for video in "abc":
        for path in frames_of(project, video)[::2]:
            path.unlink()
    first = run(context(project))
    assert [(fault["video"], fault["frame"]) for fault in first[2]] == [(v, f) for v in "abc" for f in (0, 2, 4)]
    assert run(context(project)) == first
    assert len([line for line in first[0].splitlines() if line.startswith("fault")]) == 1


def test_posetrack17(tmp_path: Path) -> None:
    pose = {joint: (x / 15, y / 15) for joint, (x, y) in POSE.items()}
    headless = person(pose, track=1, head=None)
    content = video17([person(pose, head=(1, 1, 9, 9))], [], [person(pose, head=(1, 1, 9, 9)), headless])
    for frame, entry in enumerate(content["annolist"], start=1):
        entry["image"][0]["name"] = f"images/bonn/v/{frame:08d}.jpg"
        write_image(tmp_path / "data" / entry["image"][0]["name"])
    path = tmp_path / "data" / "annotations" / "val" / "v.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    data = {"kind": "posetrack17", "root": str(tmp_path / "data"), "train": None}
    printed, ended, faults = run(context(pipeline(tmp_path, data)))
    assert only(faults, "no_head") | {"what": ""} == {
        "kind": "no_head", "video": "v", "frame": 2, "what": "", "stops": False
    }  # fmt: skip
    assert ended == ""
    (row,) = [line.split() for line in printed.splitlines() if line.split()[:1] == ["eval"]]
    assert row[1:] == ["1", "50", "3", "2", "3", "45"]


def write_image(path: Path) -> None:
    """A grey image of the clips' size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))


@pytest.mark.parametrize("start", [1, 0])
def test_jhmdb(tmp_path: Path, start: int) -> None:
    root = tmp_path / "data"
    (root / "sub_splits").mkdir(parents=True)
    (root / "sub_splits" / "walk_test_split_1.txt").write_text("clip_1.avi 1\n")
    (root / "joint_positions" / "walk" / "clip_1").mkdir(parents=True)
    positions = np.random.default_rng(0).uniform(20, 80, (2, 15, 4))
    scipy.io.savemat(root / "joint_positions" / "walk" / "clip_1" / "joint_positions.mat", {"pos_img": positions})
    for number in range(start, start + 4):
        write_image(root / "Rename_Images" / "walk" / "clip_1" / f"{number:05d}.png")
    data = {"kind": "jhmdb", "root": str(root), "eval": None}
    printed, ended, faults = run(context(pipeline(tmp_path, data)))
    assert "published: 319 clips and 11,200 frames" in printed and "the official split files list 316 clips" in printed
    assert "fault" in printed if start == 0 else "fault" not in printed
    masks = faults.pop(0)  # no clip has one
    assert (masks["kind"], masks["stops"]) == ("no_mask", False)
    assert "puppet_mask.mat gives no mask: all boxes are the joints' extent" in masks["what"]
    if start == 1:
        assert (faults, ended) == ([], "")
    else:
        assert "all numbers are 1 lower" in only(faults, "shifted")["what"] and ended
    mask = root / "puppet_mask" / "walk" / "clip_1" / "puppet_mask.mat"
    mask.parent.mkdir(parents=True)
    scipy.io.savemat(mask, {"part_mask": np.ones((HEIGHT, WIDTH, 3), np.uint8)})
    some = run(context(pipeline(tmp_path, data)))[2][0]
    assert some["kind"] == "no_mask" and "has no mask in some frames" in some["what"]
    scipy.io.savemat(mask, {"part_mask": np.ones((HEIGHT, WIDTH, 4), np.uint8)})
    assert "no_mask" not in {fault["kind"] for fault in run(context(pipeline(tmp_path, data)))[2]}


def test_folders_of_images_and_video_files(tmp_path: Path) -> None:
    for frame in (1, 2, 3):
        write_image(tmp_path / "data" / "pictures" / f"{frame}.jpg")
    film = cv2.VideoWriter(str(tmp_path / "data" / "whole.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for grey in range(0, 200, 40):
        film.write(np.full((HEIGHT, WIDTH, 3), grey, np.uint8))
    film.release()
    config = pipeline(tmp_path, {"kind": "folder", "root": str(tmp_path / "data")})
    printed, ended, faults = run(context(config))
    assert (ended, faults) == ("", [])
    assert "  3 images: " in printed and "  1 video files: decoded from end to end" in printed
    (row,) = [line.split() for line in printed.splitlines() if line.split()[:1] == ["eval"]]
    assert row[1:4] == ["2", "-", "8"]

    (tmp_path / "data" / "pictures" / "2.jpg").write_bytes(b"\xff\xd8")
    whole = tmp_path / "data" / "whole.avi"
    whole.write_bytes(whole.read_bytes()[:-2000])
    _, ended, faults = run(context(config))
    assert [(fault["kind"], fault["video"]) for fault in faults] == [("unreadable", "pictures"), ("unusable", "whole")]
    assert "videos that cannot be opened: 1" in ended


def test_rendered_data_before_and_after_render(tmp_path: Path) -> None:
    config = pipeline(tmp_path, RENDERED)
    printed = io.StringIO()
    check_data(context(config), Console(file=printed))
    assert printed.getvalue().splitlines() == ["small: rendered data, of which there is none before render has run"]
    assert glpose_stage(config, "render")[0] == 0
    shown, ended, faults = run(context(config))
    assert (ended, faults) == ("", [])
    assert "small: rendered by render, 3 videos" in shown


def test_checking_writes_nothing_but_its_file(project: Path) -> None:
    before = sorted(project.parent.rglob("*"))
    run(context(project))
    assert sorted(project.parent.rglob("*")) == sorted([*before, project.parent / "faults.json"])


def test_posetrack21_is_held_against_its_own_counts(project: Path) -> None:
    data = {"kind": "posetrack21", "root": str(project.parent / "data"), "annotations": "annotations"}
    printed, ended, faults = run(context(pipeline(project.parent, data)))
    assert (ended, faults) == ("", [])
    assert "published: PoseTrack21" in printed and "validation file" not in printed
    assert ["train", "2", "593"] in [line.split()[:3] for line in printed.splitlines()]


def test_counts_that_no_release_has() -> None:
    posetrack = PoseTrack18Data(root=Path("data"))
    assert check_counts(posetrack, {"train": 593, "val": 170, "eval": 170}, 9) == []
    assert check_counts(posetrack, {"train": 593, "eval": 74}, 9) == []  # version 0.2
    (few,) = check_counts(posetrack, {"train": 593, "eval": 3}, 9)
    assert (few.kind, few.video, few.what) == ("counts", "", "videos in val: 3, published 170")
    assert not KINDS["counts"].stops
    chosen = PoseTrack18Data(root=Path("data"), eval=SplitOptions(subset="val", videos="00*"))
    assert check_counts(chosen, {"train": 593, "eval": 3}, 9) == []

    jhmdb = JHMDBData(root=Path("data"))
    assert check_counts(jhmdb, {"train": 229, "eval": 87}, 10_000) == []  # the official split files
    assert check_counts(jhmdb, {"train": 230, "eval": 89}, 11_200) == []
    assert [fault.what for fault in check_counts(jhmdb, {"train": 1, "eval": 1}, 80)] == ["clips: 2, published 319"]
    (frames,) = check_counts(jhmdb, {"train": 230, "eval": 89}, 11_000)
    assert frames.what == "frames: 11000, published 11200"
    assert check_counts(JHMDBData(root=Path("data"), train=None), {"train": 0, "eval": 87}, 9) == []


def test_other_counts_are_a_note_in_the_file_too(project: Path) -> None:
    run(context(project))
    faults = json.loads((project.parent / "faults.json").read_text())["faults"]
    assert [fault["what"] for fault in faults] == [
        "videos in val: 1, published 170",
        "videos in train: 2, published 593",
    ]
    assert {(fault["kind"], fault["video"], fault["stops"]) for fault in faults} == {("counts", "", False)}


def test_published_counts() -> None:
    assert PUBLISHED["posetrack17"].videos == {"train": 250, "val": 50}
    assert PUBLISHED["posetrack18"].videos == PUBLISHED["posetrack21"].videos == {"train": 593, "val": 170}
    assert (PUBLISHED["sub_splits"].videos, PUBLISHED["sub_splits"].frames) == ({"": 319}, 11_200)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_size_from_the_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (150, 201, 3), np.uint8)  # larger than the end that is read
    assert cv2.imwrite(str(path), noise)
    assert probe_image(path) == (150, 201)
    raw = path.read_bytes()
    for share in (0.02, 0.5, 0.99):
        path.write_bytes(raw[: int(share * len(raw))])
        assert probe_image(path) is None


def test_a_turned_image_has_the_size_that_it_is_decoded_to(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    write_image(path)
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # one entry: orientation 6
    exif = b"Exif\0\0" + tiff
    raw = path.read_bytes()
    path.write_bytes(raw[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + raw[2:])
    image = cv2.imread(str(path))
    assert image is not None and image.shape[:2] == (WIDTH, HEIGHT)
    assert probe_image(path) == (WIDTH, HEIGHT)


def test_an_image_that_may_not_be_read_is_one_fault(tmp_path: Path) -> None:
    (tmp_path / "000000.jpg").mkdir()
    sizes, faults, suspects = check_images("v", (tmp_path / "000000.jpg",), {0}, lambda: 0)
    assert sizes == [None] and not suspects and [(fault.kind, fault.frame) for fault in faults] == [("unreadable", 0)]


def test_the_real_clip(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "real" / "bonn_060470979"
    config = load_pipeline(find_config(None), "bonn", [f"data.root={root}", f"work={tmp_path / 'work'}"])
    printed, ended, faults = run(Context(config))
    assert ended == ""
    assert only(faults, "numbering")["what"] == "the first frame is 00001.jpg, not 000000.jpg"
    rows = [line.split() for line in printed.splitlines()]
    assert ["train", "1", "-", "25", "25", "100", "1400"] in rows


# -------------------------------------------------------------------------------------------------- box files and coco
def write_boxes(config: Path, change: Callable[[list[Content]], object] = lambda boxes: None, key: str = "id") -> str:
    """A box file of video c's annotated boxes, for the eval split; the setting that names it. key: of its images."""
    content: Content = {}
    edit(config, "c", content.update)
    names = {image["id"]: image[key] for image in content["images"]}
    boxes = [
        {"image_id": names[one["image_id"]], "bbox": one["bbox"], "score": 0.9, "category_id": 1}
        for one in content["annotations"]
    ]
    change(boxes)
    path = config.parent / "boxes.json"
    path.write_text(json.dumps(boxes))
    return f"detect.eval={{source: file, file: {path}}}"


@pytest.mark.parametrize("key", ["id", "file_name"])
def test_a_sound_box_file(project: Path, key: str) -> None:
    _, ended, faults = run(context(project, write_boxes(project, key=key)))
    assert (ended, faults) == ("", [])


def test_a_box_file_that_cannot_be_read(project: Path) -> None:
    setting = write_boxes(project, lambda boxes: boxes[0].pop("score"))
    printed, ended, faults = run(context(project, setting))
    assert "entry 0" in only(faults, "box_file")["what"] and "box files that cannot be used: 1" in ended
    assert "fault  box files that cannot be used: 1; first: box file" in printed
    (project.parent / "boxes.json").unlink()
    assert "does not exist" in only(run(context(project, setting))[2], "box_file")["what"]


def test_a_box_file_of_other_images(project: Path) -> None:
    setting = write_boxes(project, lambda boxes: [box.update(image_id=f"x{box['image_id']}") for box in boxes])
    _, ended, faults = run(context(project, setting))
    assert {fault["kind"] for fault in faults} == {"box_file", "no_box"} and len(faults) == 1 + FRAMES
    assert "no frame: images go by the annotation's name or id" in faults[-1]["what"] and ended
    assert "holds no boxes" in run(context(project, write_boxes(project, lambda boxes: boxes.clear())))[2][-1]["what"]


def test_images_without_boxes_and_boxes_without_image(project: Path) -> None:
    def change(boxes: list[Content]) -> None:
        first = boxes[0]["image_id"]
        for box in boxes:
            if box["image_id"] == first:
                box["score"] = 0.1  # below detect.min_score
        boxes.append({"image_id": "elsewhere", "bbox": [1, 1, 9, 9], "score": 0.9})

    printed, ended, faults = run(context(project, write_boxes(project, change)))
    assert [(fault["kind"], fault["video"], fault["frame"]) for fault in faults] == [
        ("no_box", "c", 0),
        ("unknown", "", None),
    ]
    assert "no box of score 0.2 or more" in faults[0]["what"] and "'elsewhere', no frame" in faults[1]["what"]
    assert ended == "" and "note  images of the box file that are no frame: 1; first: " in printed
    chosen = run(context(project, write_boxes(project, change), videos="c"))[2]
    assert [fault["kind"] for fault in chosen] == ["no_box"]  # other images may be of the videos left out


@pytest.mark.parametrize(
    ("kind", "box"), [("outside", (WIDTH + 5, 10, 20, 20)), ("no_area", (10, 10, 0, 20)), ("beyond", (-30, 10, 40, 20))]
)
def test_boxes_of_a_file_that_do_not_fit(project: Path, kind: str, box: tuple[float, ...]) -> None:
    setting = write_boxes(project, lambda boxes: boxes[0].update(bbox=list(box)))
    fault = only(run(context(project, setting))[2], kind)
    assert (fault["video"], fault["frame"]) == ("c", 0) and "boxes.json, score 0.90: box (" in fault["what"]


def write_coco(folder: Path, videos: dict[str, list[str]], **sides: int) -> Path:
    """Own data of two joints: a person in every image, by video; the pipeline's file. sides: entries of every image."""
    data = folder / "data"
    images = [
        {"id": 100 * v + k, "video_id": v, "file_name": name, **sides}
        for v, names in enumerate(videos.values())
        for k, name in enumerate(names)
    ]
    people = [
        {"image_id": image["id"], "category_id": 1, "bbox": [5, 5, 20, 20], "keypoints": [9, 9, 2, 15, 15, 2]}
        for image in images
    ]
    content = {
        "images": images,
        "annotations": people,
        "videos": [{"id": v, "name": name} for v, name in enumerate(videos)],
        "categories": [{"id": 1, "name": "person", "keypoints": ["head", "foot"]}],
    }
    for image in images:
        write_image(data / image["file_name"])
    (data / "annotations").mkdir()
    (data / "annotations" / "val.json").write_text(json.dumps(content))
    joints = {"name": "two", "joints": ["head", "foot"], "flip_pairs": [], "groups": {"All": ["head", "foot"]}}
    (folder / "joints.yaml").write_text(yaml.safe_dump({**joints, "sigmas": {"head": 0.05, "foot": 0.08}}))
    return pipeline(folder, {"kind": "coco", "root": str(data), "joints": str(folder / "joints.yaml"), "train": None})


def test_coco_videos_that_share_a_folder(tmp_path: Path) -> None:
    config = write_coco(tmp_path, {"a": ["1.jpg", "2.jpg", "3.jpg"], "b": ["4.jpg"]})
    write_image(tmp_path / "data" / "5.jpg")  # not annotated
    printed, ended, faults = run(context(config))
    assert (ended, faults) == ("", []) and "nothing is wrong" in printed
    (tmp_path / "data" / "5.jpg").unlink()
    (tmp_path / "data" / "1.jpg").unlink()  # 2 to 4 are there: no shift, as 4 is another video's
    missing = only(run(context(config))[2], "missing")
    assert (missing["video"], missing["frame"]) == ("a", 0)


def test_a_coco_video_in_several_folders(tmp_path: Path) -> None:
    config = write_coco(tmp_path, {"a": ["x/1.jpg", "x/2.jpg", "y/1.jpg", "y/2.jpg", "y/3.jpg"]})
    assert run(context(config))[2] == []
    for number in (3, 2, 1):
        (tmp_path / "data" / "y" / f"{number}.jpg").rename(tmp_path / "data" / "y" / f"{number + 1}.jpg")
    shifted = only(run(context(config))[2], "shifted")
    assert "/y: " in shifted["what"] and "all numbers are 1 higher" in shifted["what"]


def test_gaps_in_the_frame_ids_of_coco(tmp_path: Path) -> None:
    config = write_coco(tmp_path, {"a": ["w.jpg", "x.jpg", "y.jpg", "z.jpg"]})
    path = tmp_path / "data" / "annotations" / "val.json"
    content = json.loads(path.read_text())
    for ids, faulty in (((0, 1, 2, 3), None), ((3, 2, 1, 0), None), ((0, 10, 20, 30), 1), ((5, 6, 7, 9), 3)):
        for image, frame_id in zip(content["images"], ids, strict=True):
            image["frame_id"] = frame_id
        path.write_text(json.dumps(content))
        _, ended, faults = run(context(config))
        found = [(fault["kind"], fault["frame"]) for fault in faults]
        assert ended == "" and found == ([("gaps", faulty)] if faulty else [])
    assert faults[0]["what"].startswith("frame_id 7 is followed by 9; 1 such places: frames around the key frame are")


def test_coco_images_of_another_size_than_annotated(tmp_path: Path) -> None:
    config = write_coco(tmp_path, {"a": ["1.jpg", "2.jpg"]}, width=2 * WIDTH, height=2 * HEIGHT)
    _, ended, faults = run(context(config))
    assert [fault["kind"] for fault in faults] == ["size"] * 2 and ended
    assert "1.jpg is 128 x 96 px, its annotation is for 256 x 192 px" in faults[0]["what"]


def test_a_broken_joint_set_is_told_once(tmp_path: Path) -> None:
    config = write_coco(tmp_path, {"a": ["1.jpg"], "b": ["2.jpg"]})
    (tmp_path / "joints.yaml").write_text("name: two\njoints: [head, foot\n")
    with pytest.raises(DataError, match=r"^joint set .*joints\.yaml, line 3 is not YAML"):
        check_data(context(config), Console(file=io.StringIO()))
