"""check-data: every kind of fault on a small data set that has just that one, and none on a sound one."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
from posetrack_builders import POSE, person, video17
from rich.console import Console
from small_pipelines import GENERATED, context, glpose_stage, write_dataset, write_pipeline

from glpose.data.checks import check_images
from glpose.data.faults import KINDS
from glpose.data.image_header import probe_image
from glpose.data.published import PUBLISHED
from stages.check_data import check_data
from stages.config import find_config, load_pipeline
from stages.stage import Context
from store.errors import DataError

HEIGHT, WIDTH, FRAMES = 96, 128, 6  # of the generated clips
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
    """What check-data prints, the message that it ends with ("" if none), and the faults in its file."""
    printed, ended = io.StringIO(), ""
    path = Path(str(what.config.work)).parent / "faults.json"
    try:
        check_data(what, Console(file=printed), full=full, json_file=path)
    except DataError as error:
        ended = str(error)
    return printed.getvalue(), ended, json.loads(path.read_text())["faults"]


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
    assert "nothing is wrong" in printed
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
    assert printed.count("note  ") == 3


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
    if start == 1:
        assert (faults, ended) == ([], "")
        assert "nothing is wrong" in printed
    else:
        assert "all numbers are 1 lower" in only(faults, "shifted")["what"] and ended


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


def test_generated_data_before_and_after_render(tmp_path: Path) -> None:
    config = pipeline(tmp_path, GENERATED)
    printed = io.StringIO()
    check_data(context(config), Console(file=printed))
    assert printed.getvalue().splitlines() == ["small: generated data, of which there is none before render has run"]
    assert glpose_stage(config, "render")[0] == 0
    shown, ended, faults = run(context(config))
    assert (ended, faults) == ("", [])
    assert "small: generated rendered, 3 videos" in shown


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
    sizes, faults = check_images("v", (tmp_path / "000000.jpg",), {0})
    assert sizes == [None] and [(fault.kind, fault.frame) for fault in faults] == [("unreadable", 0)]


def test_the_real_clip(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "real" / "bonn_060470979"
    config = load_pipeline(find_config(None), "bonn", [f"data.root={root}", f"work={tmp_path / 'work'}"])
    printed, ended, faults = run(Context(config))
    assert ended == ""
    assert only(faults, "numbering")["what"] == "the first frame is 00001.jpg, not 000000.jpg"
    rows = [line.split() for line in printed.splitlines()]
    assert ["train", "1", "-", "25", "25", "100", "1400"] in rows
