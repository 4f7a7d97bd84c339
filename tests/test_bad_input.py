"""Bad input from end to end: what a user gets wrong ends in plain words, and what is finished stays as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from command_line import Outcome, glpose_stage
from small_pipelines import NAME, snapshot, write_backbone, write_dataset, write_pipeline

import store
from glpose.models.checkpoints import save_checkpoint
from glpose.models.hrnet import HRNet

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `folder` is a copy of."""
    made = tmp_path_factory.mktemp("template")
    write_pipeline(made, write_dataset(made / "data", train=["a"], evaluate=["c"]))
    return made


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """A data set of videos a (train) and c (eval) in `data`, and a pipeline over it in `pipelines.yaml`."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "pipelines.yaml"
    config.write_text(config.read_text().replace(str(template), str(tmp_path)))
    return tmp_path


@pytest.fixture
def stage(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs one stage of the pipeline; settings go to --set."""

    def run(name: str, *settings: str, flags: tuple[str, ...] = ()) -> Outcome:
        chosen = [part for setting in settings for part in ("--set", setting)]
        return glpose_stage(capsys, name, "-p", NAME, "--config", folder / "pipelines.yaml", *chosen, *flags)

    return run


@pytest.fixture
def finished(folder: Path, stage: Command) -> dict[str, tuple[int, int]]:
    """The boxes are there; returns what the work folder then holds."""
    assert stage("detect").code == 0
    return snapshot(folder / "work")


def annotation(folder: Path, name: str = "a", subset: str = "train") -> Path:
    return folder / "data" / "annotations" / subset / f"{name}.json"


def boxes_of(folder: Path, *changes: dict[str, Any]) -> Path:
    """A box file of one good box in every frame of both videos, and one with each change in the first of `c`."""
    entries = []
    for path in (annotation(folder), annotation(folder, "c", "val")):
        names = [image["file_name"] for image in json.loads(path.read_text())["images"]]
        good = {"bbox": [20, 10, 40, 70], "score": 0.9, "category_id": 1}
        entries += [{"image_name": name, **good} for name in names]
    entries += [{**entries[-1], "image_name": names[0], **change} for change in changes]
    path = folder / "boxes.json"
    path.write_text(json.dumps(entries))
    return path


def from_file(path: Path) -> list[str]:
    return [f"detect.{split}.{key}" for split in ("train", "eval") for key in ("source=file", f"file={path}")]


def assert_failed(outcome: Outcome, *words: str, lines: int = 1, code: int = 1) -> None:
    assert outcome.code == code, outcome.out + outcome.err
    assert len(outcome.error.splitlines()) <= lines
    for word in words:
        assert word in outcome.error


# ------------------------------------------------------------------------------------------------- videos and frames
def test_a_missing_data_folder(folder: Path, stage: Command, finished: dict[str, Any]) -> None:
    outcome = stage("detect", f"data.root={folder / 'gone'}")
    assert_failed(outcome, "gone does not exist", "--set data.root=DIR")
    assert snapshot(folder / "work") == finished


def test_a_frame_that_is_cut_off(folder: Path, stage: Command) -> None:
    first = next(iter(sorted((folder / "data" / "images").rglob("*.jpg"))))
    names = [image["file_name"] for image in json.loads(annotation(folder).read_text())["images"]]
    assert stage("detect").code == 0
    broken = folder / "data" / names[3]
    raw = broken.read_bytes()
    assert first.suffix == ".jpg"
    broken.write_bytes(raw[: len(raw) // 2])
    outcome = stage("detect")  # its inputs have changed; boxes do not need all of the frame
    assert outcome.code == 0
    outcome = stage("extract")
    assert_failed(outcome, "1 of 2 failed, the others are finished", "video 'a': frame 3 cannot be decoded", lines=2)
    assert str(broken) in outcome.error and "replace it" in outcome.error
    assert set(store.open(folder / "work").videos) == {"c"}
    broken.write_bytes(raw)
    assert stage("detect").code == 0 and stage("extract").code == 0
    assert set(store.open(folder / "work").videos) == {"a", "c"}


def test_a_frame_that_is_missing(folder: Path, stage: Command) -> None:
    names = [image["file_name"] for image in json.loads(annotation(folder).read_text())["images"]]
    (folder / "data" / names[2]).unlink()
    outcome = stage("detect")
    assert_failed(outcome, "1 of 2 failed", "video 'a': frame 2 is listed but", names[2], "does not exist", lines=2)


def test_a_video_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "bad.mp4").write_text("this is no video\n" * 100)
    (videos / "good").mkdir()
    cv2.imwrite(str(videos / "good" / "0.png"), np.zeros((64, 64, 3), np.uint8))
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_name": "good/0.png", "bbox": [5, 5, 30, 50], "score": 0.9}]))
    data = {"kind": "folder", "root": str(videos)}
    config = write_pipeline(tmp_path, data, detect={"eval": {"source": "file", "file": str(boxes)}})
    outcome = glpose_stage(capsys, "detect", "-p", NAME, "--config", config)
    assert_failed(outcome, "1 of 2 failed", "bad.mp4 cannot be opened as a video; is it cut off", lines=2)
    (videos / "bad.mp4").unlink()
    done = glpose_stage(capsys, "detect", "-p", NAME, "--config", config)
    assert done.code == 0 and "1 done, 0 to do" in done.out  # the good one was finished all the same


def test_nothing_but_the_message_on_stderr(tmp_path: Path) -> None:
    """OpenCV, FFmpeg and libjpeg write to the terminal themselves, past Python: so a process of its own."""
    videos = tmp_path / "videos"
    (videos / "frames").mkdir(parents=True)
    writer = cv2.VideoWriter(str(videos / "cut.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(10):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    raw = (videos / "cut.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(raw[: len(raw) // 2])
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", noise)[1].tobytes()
    (videos / "frames" / "0.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    boxes = tmp_path / "boxes.json"
    boxes.write_text("[]")
    data = {"kind": "folder", "root": str(videos)}
    config = write_pipeline(tmp_path, data, detect={"eval": {"source": "file", "file": str(boxes)}})
    plain = {key: value for key, value in os.environ.items() if not key.startswith("OPENCV_")}
    done = subprocess.run(
        [sys.executable, "-m", "stages.cli", "detect", "-p", NAME, "--config", str(config)],
        cwd=Path(__file__).parent.parent,
        env=plain,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "error: detect: 2 of 2 failed, the others are finished:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["cut", "frames"]
    assert "cut.mp4 cannot be opened" in lines[1] and "frame 0 cannot be decoded" in lines[2]


# ------------------------------------------------------------------------------------------------------- annotations
@pytest.mark.parametrize(
    "content", ["{", "[]", '{"images": []}', '{"images": [1], "annotations": [], "categories": []}']
)
def test_a_malformed_annotation(folder: Path, stage: Command, content: str) -> None:
    annotation(folder).write_text(content)
    outcome = stage("detect")
    assert_failed(outcome, "detect: 1 of 2 failed, the others are finished", "train/a.json", lines=2)
    done = stage("detect", flags=("--videos", "c"))
    assert done.code == 0 and "1 done, 0 to do" in done.out


def test_the_other_posetrack_version(folder: Path, stage: Command, finished: dict[str, Any]) -> None:
    settings = (f"data.root={folder / 'data'}", f"work={folder / 'other'}")
    outcome = stage("detect", "data.kind=posetrack17", *settings)
    assert_failed(outcome, "a.json is a PoseTrack18 file", "set data.kind to posetrack18", lines=3)
    annotation(folder).write_text('{"annolist": []}')
    outcome = stage("detect")
    assert_failed(outcome, "a.json is a PoseTrack17 file", "set data.kind to posetrack17", lines=2)
    assert snapshot(folder / "work") == finished


def test_a_pattern_that_matches_nothing(stage: Command, folder: Path) -> None:
    assert_failed(stage("detect", "data.train.videos=z*"), "no video matches data.train.videos = 'z*'; there are a")


def test_annotations_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = tmp_path / "videos" / "v"
    videos.mkdir(parents=True)
    cv2.imwrite(str(videos / "0.png"), np.zeros((64, 64, 3), np.uint8))
    config = write_pipeline(tmp_path, {"kind": "folder", "root": str(videos.parent)})
    outcome = glpose_stage(capsys, "detect", "-p", NAME, "--config", config)
    assert_failed(outcome, "video 'v' has no annotations", "detect.eval.file=BOXES.json", lines=2)


# ------------------------------------------------------------------------------------------------------------- boxes
def test_boxes_that_are_no_numbers(folder: Path, stage: Command) -> None:
    nan = float("nan")
    path = boxes_of(folder, {"bbox": [nan, 1, 2, 3]}, {"bbox": [900, 900, 9, 9]}, {"score": 0.1}, {"score": nan})
    done = stage("detect", *from_file(path))
    assert done.code == 0 and done.err == ""
    left_out = ("2 boxes with NaN", "1 boxes of no area or outside the frame", "1 boxes below score 0.2")
    assert "c: " + "; ".join(f"{boxes} left out" for boxes in left_out) in done.out
    assert "12 proposals in 2 videos; boxes: file boxes.json" in done.out
    assert stage("extract", *from_file(path)).code == 0
    table = store.open(folder / "work").table()
    assert len(table) == 12 and np.isfinite(table[["x1", "y1", "x2", "y2", "score"]].to_numpy()).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "holds a dict; COCO results are a list of boxes"),
        ('[{"image_id": 1, "bbox": [1, 2, 3], "score": 1}]', "entry 0 is malformed"),
        ("[", "is not readable JSON"),
    ],
)
def test_a_malformed_box_file(folder: Path, stage: Command, finished: dict[str, Any], content: str, words: str) -> None:
    path = folder / "boxes.json"
    path.write_text(content)
    work = f"work={folder / 'other'}"
    assert_failed(stage("detect", *from_file(path), work), f"box file {path}", words)
    path.unlink()
    assert_failed(stage("detect", *from_file(path), work), f"box file {path} does not exist", "detect.train.file")
    assert snapshot(folder / "work") == finished


def test_nobody_in_a_video(folder: Path, stage: Command) -> None:
    path = annotation(folder, "c", "val")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    boxes = stage("detect")
    assert boxes.code == 0 and "c: no people" in boxes.out
    for name in ("extract", "index"):
        done = stage(name)
        assert done.code == 0 and "2 to do" in done.out, done.err
    found = store.open(folder / "work")
    assert set(found.table()["video"]) == {"a"}
    assert len(found.features("c").embedding) == 0 and len(found.features("a").embedding) > 0


def test_nobody_at_all(folder: Path, stage: Command) -> None:
    for path in (annotation(folder), annotation(folder, "c", "val")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    for name in ("detect", "extract", "index"):
        assert stage(name).code == 0
    assert len(store.open(folder / "work").table()) == 0
    outcome = stage("train")
    assert outcome.code == 1
    assert len(outcome.error.splitlines()) <= 2


# ------------------------------------------------------------------------------------------------------- checkpoints
def checkpoint_without(path: Path, part: str) -> Path:
    state = HRNet(8, num_joints=15, stages=3).state_dict()
    save_checkpoint(path, {key: value for key, value in state.items() if not key.startswith(part)}, {})
    return path


def test_checkpoints_that_do_not_fit(folder: Path, stage: Command, finished: dict[str, Any]) -> None:
    gone, text = folder / "gone.pth", folder / "text.pth"
    text.write_text("these are no weights")
    wide = write_backbone(folder / "wide.safetensors", width=16)
    part = "stage2.0.branches.1.2."
    partial = checkpoint_without(folder / "partial.safetensors", part)

    def extract(path: Path, *settings: str) -> Outcome:
        return stage("extract", f"extract.checkpoint={path}", *settings)

    assert_failed(extract(gone), f"{gone} does not exist")
    assert_failed(extract(text), str(text))
    assert_failed(extract(wide, "extract.width=48"), str(wide), "16", "48")
    assert_failed(extract(partial), str(partial), part)
    after = snapshot(folder / "work")
    assert {name: after[name] for name in finished} == finished
    assert extract(folder / "backbone.safetensors").code == 0


# ------------------------------------------------------------------------------------------------------- work folders
def test_the_work_folder_of_another_pipeline(
    folder: Path, stage: Command, finished: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load((folder / "pipelines.yaml").read_text())
    content["pipelines"]["other"] = content["pipelines"][NAME]
    (folder / "pipelines.yaml").write_text(yaml.safe_dump(content))
    for command in ("detect", "run"):
        outcome = glpose_stage(capsys, command, "-p", "other", "--config", folder / "pipelines.yaml")
        assert_failed(outcome, f"holds the outputs of pipeline {NAME!r}, not 'other'", "--set work=DIR")
    assert snapshot(folder / "work") == finished


def test_a_work_folder_that_is_none(folder: Path, stage: Command) -> None:
    before = snapshot(folder / "data")
    outcome = stage("detect", f"work={folder / 'data'}")
    assert_failed(outcome, "is not empty and not a glpose work folder", "--set work=DIR")
    assert snapshot(folder / "data") == before
    outcome = stage("detect", f"work={annotation(folder)}")
    assert_failed(outcome, "a.json")


def test_other_parameters(folder: Path, stage: Command, finished: dict[str, Any]) -> None:
    outcome = stage("detect", "detect.min_score=0.5")
    assert_failed(outcome, "min_score: 0.2 -> 0.5", "--force", "--set work=DIR", lines=3)
    assert snapshot(folder / "work") == finished


def test_a_stage_before_its_time(stage: Command) -> None:
    assert_failed(stage("extract"), "extract needs detect, which has not run: glpose-stage detect -p small")
