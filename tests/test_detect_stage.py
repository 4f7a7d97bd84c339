"""`glpose-stage detect` with a detector, and `train-detector`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from small_pipelines import attempts, context, glpose_stage, write_dataset, write_pipeline
from test_detection import weights

import store
from glpose.data.dataset import open_video
from glpose.detector_frames import labelled_frames
from glpose.detector_training import held_out_ap
from glpose.models.checkpoints import load_cascade_rcnn, read_metadata
from store.tables import read_table

# Finds every frame's bright part.
BRIGHT = """
import numpy as np
def find(images):
    out = []
    for image in images:
        rows, columns = np.nonzero(image.max(axis=2) > 100)
        boxes = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if len(rows) else []
        boxes = np.array(boxes, float).reshape(-1, 4)
        out.append({"boxes": boxes, "scores": np.full(len(boxes), 0.75), "labels": np.zeros(len(boxes), int)})
    return out
"""


def write_videos(folder: Path, names: tuple[str, ...] = ("one", "two"), frames: int = 6) -> None:
    """Folders of frames in which a bright square moves to the right; nobody is in the first."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for frame in range(frames):
            image = np.zeros((40, 80, 3), np.uint8)
            if frame:
                image[10:30, 5 * frame : 5 * frame + 20] = 200
            cv2.imwrite(str(folder / name / f"{frame:03d}.png"), image)


def pipeline(folder: Path, detect: dict[str, Any] | None = None) -> Path:
    (folder / "bright.py").write_text(BRIGHT)
    own = {"eval": {"source": "python"}, "detector": {"model": f"{folder}/bright.py:find"}}
    path = write_pipeline(folder, data={"kind": "folder", "root": str(folder / "videos")}, detect=detect or own)
    return path


def proposals(config: Path, video: str) -> Any:
    return read_table(context(config).output("detect", video), "proposals")


def test_detections_become_proposals_and_go_through_extract_and_index(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos")
    config = pipeline(tmp_path)
    code, printed = glpose_stage(config, "run")
    assert code == 0, printed
    table = proposals(config, "one")
    assert table["frame"].tolist() == [1, 2, 3, 4, 5]
    assert table["x1"].tolist() == [5, 10, 15, 20, 25] and set(table["y2"]) == {30.0}
    assert set(table["score"]) == {0.75} and set(table["source"]) == {f"python:{tmp_path}/bright.py:find"}
    assert set(table["split"]) == {"eval"} and set(table["person"]) == {-1}
    assert "10 proposals in 2 videos; boxes: train annotations, eval python" in printed
    assert context(config).commit("index", "two").meta["proposals"] == 5


def test_a_second_run_skips_and_another_detector_is_refused(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos")
    config = pipeline(tmp_path)
    assert glpose_stage(config, "detect")[0] == 0
    before = attempts(tmp_path / "work", "detect")
    code, printed = glpose_stage(config, "detect")
    assert code == 0 and "2 done, 0 to do" in printed and attempts(tmp_path / "work", "detect") == before
    code, printed = glpose_stage(config, "detect", "--set", "detect.detector.every=2")
    assert code == 1 and "detect.detector.every: 1 -> 2" in printed
    (tmp_path / "bright.py").write_text(BRIGHT + "# another one\n")
    code, printed = glpose_stage(config, "detect")
    assert code == 1 and "detect.detector.code: " in printed
    code, printed = glpose_stage(config, "detect", "--force", "--set", "detect.detector.every=2")
    assert code == 0 and proposals(config, "one")["frame"].tolist() == [2, 4]


def test_boxes_of_low_scores_are_no_boxes_of_other_names(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", ("one",))
    file = {"source": "file", "file": str(tmp_path / "boxes.json")}
    config = pipeline(tmp_path, {"eval": file})
    for image, printed_hint in (("one/001.png", False), ("elsewhere.png", True)):
        entry = {"image_name": image, "bbox": [5, 10, 20, 20], "score": 0.01}
        (tmp_path / "boxes.json").write_text(json.dumps([entry]))
        code, printed = glpose_stage(config, "detect", "--force")
        assert code == 0 and ("does the box file name images" in printed) == printed_hint


def test_speed_settings_are_no_part_of_the_record(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos")
    config = pipeline(tmp_path)
    assert glpose_stage(config, "detect")[0] == 0
    code, printed = glpose_stage(config, "detect", "--set", "runtime.frames=1", "--strict")
    assert code == 0 and "2 done, 0 to do" in printed


def test_an_unreadable_frame_in_the_middle(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos")
    path = tmp_path / "videos" / "one" / "003.png"
    path.write_bytes(path.read_bytes()[:60])
    config = pipeline(tmp_path)
    code, printed = glpose_stage(config, "detect", "--strict")
    assert code == 1 and "detect: 1 of 2 failed, the others are finished:" in printed
    assert "frame 3 cannot be decoded" in printed and set(attempts(tmp_path / "work", "detect")) == {"two"}
    code, printed = glpose_stage(config, "detect")
    assert code == 0 and "one: 1 of 6 frames unreadable, left out; the first: video 'one': frame 3" in printed
    assert "1 frames of 1 videos could not be read: one" in printed
    assert proposals(config, "one")["frame"].tolist() == [1, 2, 4, 5]
    unreadable = context(config).commit("detect", "one").meta["unreadable"]
    assert [frame for frame, _ in unreadable] == [3] and "003.png" in unreadable[0][1]

    for verb in ("detect", "run"):  # what is finished has left it out
        code, printed = glpose_stage(config, verb, "--strict")
        assert code == 1 and "detect 2 done, 0 to do" in printed
        assert "error: detect --strict: frames of one could not be read and are left out; mend them" in printed
    assert not (tmp_path / "work" / "extract").exists()
    assert glpose_stage(config, "detect", "--strict", "--videos", "two")[0] == 0


def test_features_pass_over_an_unreadable_frame(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", ("one",))
    path = tmp_path / "videos" / "one" / "003.png"
    path.write_bytes(path.read_bytes()[:60])
    config = pipeline(tmp_path)
    code, printed = glpose_stage(config, "run")
    assert code == 0, printed
    features = store.open(tmp_path / "work").features("one")
    key, local = features.key([1, 2]), features.local([1, 2], offsets=[-1, 1])  # the proposals of frames 2 and 4
    np.testing.assert_array_equal(local[0, 0, 1], key[0, 0])  # frame 3 is not there: the key frame again
    np.testing.assert_array_equal(local[1, 0, 0], key[1, 0])
    assert (local[0, 0, 0] != key[0, 0]).any()


def test_cascade_rcnn_in_the_stage(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", ("one",))
    path = weights(tmp_path)
    detect = {"eval": {"source": "cascade_rcnn"}, "min_score": 0.05, "detector": {"checkpoint": str(path)}}
    config = pipeline(tmp_path, detect=detect)
    code, printed = glpose_stage(config, "detect")
    assert code == 0 and "boxes: train annotations, eval cascade_rcnn detector.safetensors" in printed, printed
    table = proposals(config, "one")
    image = cv2.imread(str(tmp_path / "videos" / "one" / "002.png"))
    assert image is not None
    own = load_cascade_rcnn(path).detect([image])[0]
    of_frame = table[table["frame"] == 2]
    assert len(of_frame) > 0
    for row in of_frame.itertuples():
        assert np.abs(own["scores"] - row.score).min() < 1e-3
    assert all(source.startswith("resnet18_half:") for source in table["source"])


def test_a_sheet_of_boxes(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos")
    config = pipeline(tmp_path)
    code, printed = glpose_stage(config, "detect", "--sheet", str(tmp_path / "boxes.png"))
    assert code == 0 and printed.endswith(f"{tmp_path}/boxes.png\n")
    sheet = cv2.imread(str(tmp_path / "boxes.png"))
    assert sheet is not None and sheet.shape == (2 * (240 + 22), 4 * 480, 3)  # two videos, four frames of 80 x 40 px
    assert (sheet.max(axis=2).astype(int) - sheet.min(axis=2) > 100).any()  # a coloured box on grey frames
    code, printed = glpose_stage(config, "detect", "--sheet", str(tmp_path / "boxes.odd"))
    assert code == 1 and "boxes.odd cannot be written as an image: give a name that ends in .jpg or .png" in printed


def test_sheets_of_frames_that_cannot_be_read(tmp_path: Path) -> None:
    """No sheet is drawn of them; scores are committed all the same."""
    write_dataset(tmp_path / "data")
    (tmp_path / "bright.py").write_text(BRIGHT)
    detector = {"model": f"{tmp_path}/bright.py:find"}
    config = write_pipeline(tmp_path, detect={"eval": {"source": "python"}, "detector": detector})
    for frame in (0, 2, 3, 5):  # of six, those that sheets show
        path = tmp_path / "data" / "images" / "val" / "c" / f"{frame:06d}.jpg"
        path.write_bytes(path.read_bytes()[:60])
    code, printed = glpose_stage(config, "run")
    assert code == 0, printed
    results = tmp_path / "work" / "eval" / "latest" / "results"
    assert (results / "overlay.mp4").is_file() and not (results / "contact_sheet.png").exists()

    config = write_pipeline(tmp_path, data={"kind": "posetrack18", "root": str(tmp_path / "data")})
    for frame in range(1, 6):
        path = tmp_path / "data" / "images" / "train" / "a" / f"{frame:06d}.jpg"
        path.write_bytes(path.read_bytes()[:60])
    own = ("--set", f"work={tmp_path / 'other'}", "--set", "data.train.frames=[1, null]")
    code, printed = glpose_stage(config, "detect", *own, "--videos", "a", "--sheet", str(tmp_path / "boxes.png"))
    assert code == 1 and printed.endswith("boxes.png is not written: none of the frames to draw can be read\n")
    assert not (tmp_path / "boxes.png").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["detect.eval.source=cascade_rcnn"], "`source: cascade_rcnn` needs detector.checkpoint"),
        (["detect.eval.source=torchvision"], "`source: torchvision` needs detector.model"),
        (["detect.eval.source=python", "detect.detector.model=nothing"], "needs detector.model, as module:function"),
        (["detect.eval.source=yolo"], "detect.eval.source: "),
        (
            ["detect.train.source=python", "detect.eval.source=cascade_rcnn", "detect.detector.checkpoint=x"],
            "train and eval take their boxes from two detectors",
        ),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, settings: list[str], words: str) -> None:
    config = write_pipeline(tmp_path, data={"kind": "folder", "root": str(tmp_path)})
    code, printed = glpose_stage(config, "detect", *(part for setting in settings for part in ("--set", setting)))
    assert code == 2 and words in printed and "Traceback" not in printed


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", ("one",))
    settings = ["--set", "detect.eval.source=cascade_rcnn", "--set", "detect.detector.checkpoint=gone.pth"]
    code, printed = glpose_stage(pipeline(tmp_path), "detect", *settings)
    message = (
        "error: detect.detector.checkpoint: checkpoint gone.pth does not exist; "
        "shipped checkpoints are: demo, demo-detector, demo-heads\n"
    )
    assert (code, printed) == (1, message)


# ----------------------------------------------------------------------------------------------------- train-detector
TRAINING = {"size": [96, 64], "steps": 3, "batch_size": 2, "regions": 16, "eval_frames": 2}


def test_train_detector_writes_a_checkpoint_that_detect_takes(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    config = write_pipeline(tmp_path, train_detector=TRAINING)
    out = tmp_path / "detector.safetensors"
    code, printed = glpose_stage(config, "train-detector", "--out", str(out))
    assert code == 0 and "train-detector: resnet18_half, 12 frames with" in printed
    metadata = read_metadata(out)
    assert json.loads(metadata["recipe"])["steps"] == 3 and json.loads(metadata["size"]) == [96, 64]
    assert not (tmp_path / "detector.safetensors.training").exists()
    model = load_cascade_rcnn(out)
    assert model.size == (96, 64)
    frames = labelled_frames([open_video(ref) for ref in context(config).videos if "eval" in ref.ranges], "eval")
    again = held_out_ap(model, frames, 2, torch.device("cpu"))
    assert [metadata["after_ap"], metadata["after_ap50"]] == [f"{again.ap:.2f}", f"{again.ap50:.2f}"]
    assert f"AP {again.ap:.1f}, AP50 {again.ap50:.1f} on 2 held-out frames" in printed
    settings = ["--set", "detect.eval.source=cascade_rcnn", "--set", f"detect.detector.checkpoint={out}"]
    code, printed = glpose_stage(config, "detect", *settings)
    assert code == 0, printed
    assert "boxes: train annotations, eval cascade_rcnn detector.safetensors" in printed
    code, printed = glpose_stage(config, "train-detector", "--out", str(out))
    assert code == 1 and f"{out} exists already: name another with --out, or delete it" in printed


def test_training_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    config = write_pipeline(tmp_path, train_detector=TRAINING)
    init = weights(tmp_path)
    out = tmp_path / "adapted.safetensors"
    code, printed = glpose_stage(
        config, "train-detector", "--out", str(out), "--set", f"train_detector.init={init}",
        "--set", "train_detector.lr=0.0001",
    )  # fmt: skip
    assert code == 0 and "  before: AP " in printed, printed
    assert {"before_ap", "before_ap50", "after_ap", "after_ap50"} <= set(read_metadata(out))


def test_data_without_people_teach_nothing(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", ("one",))
    config = write_pipeline(
        tmp_path, data={"kind": "folder", "root": str(tmp_path / "videos")}, train_detector=TRAINING
    )
    code, printed = glpose_stage(config, "train-detector", "--out", str(tmp_path / "x.safetensors"))
    assert code == 1 and "no frame of the train split has an annotated person" in printed
