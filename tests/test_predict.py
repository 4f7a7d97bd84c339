"""`glpose-stage predict` and `glpose.predict`: own videos to poses, files and overlays, as a user calls them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pandas as pd
import pytest
from small_pipelines import (
    check_predict_says_what_eval_said,
    context,
    finish_project,
    glpose_stage,
    snapshot,
    write_dataset,
    write_pipeline,
)
from test_detect_stage import BRIGHT, write_videos

import glpose
import store
from glpose.data.video import open_frames
from glpose.keypoints import POSETRACK
from glpose.models.checkpoints import read_metadata, read_state_dict, save_checkpoint
from glpose.options import DEMO_CLIPS
from glpose.prediction_files import write_files
from glpose.predictor import Prediction
from glpose.streaming import stream_poses
from glpose.trained_on import read_trained_on
from stages.cli import main
from stages.train import load_split
from store.errors import CheckpointError, ConfigError, DataError
from store.tables import BOX

CLIP = "000001_rendered_eval"
MOVIE = DEMO_CLIPS / "images" / "eval" / f"{CLIP}.mp4"
FILES = ["coco.json", "overlay.mp4", "poses.parquet", "posetrack.json", "prediction.json"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that has run: heads trained on two clips, evaluated on the clip `c`."""
    return finish_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def weights(project: Path) -> dict[str, Any]:
    """Heads and their backbone, by their options."""
    heads = project / "work" / "train" / "latest" / "glpose" / "heads.safetensors"
    return {"heads": str(heads), "backbone": str(project / "backbone.safetensors")}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes of the people annotated in the movie, as a file."""
    notes = json.loads((DEMO_CLIPS / "annotations" / "eval" / f"{CLIP}.json").read_text())
    frames = {image["id"]: number for number, image in enumerate(notes["images"])}
    found = [
        {"image_name": f"{CLIP}/{frames[own['image_id']]:06d}.jpg", "bbox": own["bbox"], "score": 0.9}
        for own in notes["annotations"]
    ]
    path = tmp_path_factory.mktemp("boxes") / "boxes.json"
    path.write_text(json.dumps(found))
    return path


def run(*arguments: object, **options: object) -> tuple[int, str]:
    """`glpose-stage predict` in this process; exit code, and all that it printed."""
    words = ["glpose-stage", "predict", *map(str, arguments), "--device", "cpu"]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        mock.patch.object(sys, "argv", words),
    ):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), printed.getvalue()
    return 0, printed.getvalue()


@pytest.fixture(scope="module")
def done(weights: dict[str, Any], boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command has written of the movie."""
    out = tmp_path_factory.mktemp("done")
    code, printed = run(MOVIE, "--show-boxes", out=out, boxes=boxes, **weights)
    assert code == 0, printed
    (line,) = [line for line in printed.splitlines() if CLIP in line]
    assert "20 frames" in line and "frames/s" in line and str(out / CLIP) in line and "features" in line
    assert [path.name for path in out.iterdir()] == [CLIP]  # features were temporary
    return out / CLIP


def film(path: Path) -> tuple[list[np.ndarray], float, str]:
    """Frames, frames per second and codec of a video file."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    codec = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    return frames, capture.get(cv2.CAP_PROP_FPS), codec


# --------------------------------------------------------------------------------------------------------- the files
def test_every_file_is_written(done: Path, boxes: Path) -> None:
    assert sorted(path.name for path in done.iterdir()) == FILES
    table = pd.read_parquet(done / "poses.parquet")
    assert list(table.columns[:9]) == ["video", "frame", "person", *BOX, "score", "pose_score"]
    assert len(table.columns) == 9 + 45 and {"nose_x", "nose_y", "nose_score"} <= set(table.columns)
    assert len(table) == len(json.loads(boxes.read_text())) and set(table["frame"]) == set(range(20))
    told = json.loads((done / "prediction.json").read_text())
    assert (told["frames"], told["poses"], told["frames_per_second"]) == (20, len(table), 25)
    assert told["people"] == table["person"].nunique()


def test_the_overlay_is_the_movie_with_people_on_it(done: Path) -> None:
    drawn, rate, codec = film(done / "overlay.mp4")
    plain, own_rate, _ = film(MOVIE)
    assert len(drawn) == len(plain) == 20 and rate == own_rate and codec in ("h264", "avc1")
    assert drawn[0].shape == plain[0].shape
    first = pd.read_parquet(done / "poses.parquet").query("frame == 0").iloc[0]
    x1, y1, x2, _ = first[BOX].astype(int)
    changed = np.abs(drawn[0].astype(int) - plain[0]).max(axis=2)
    assert np.median(changed[y1, x1 + 30 : x2]) > 25 > np.median(changed)  # the upper edge of the first box


def test_the_json_files_say_what_the_table_says(done: Path) -> None:
    table = pd.read_parquet(done / "poses.parquet")
    for name in ("posetrack.json", "coco.json"):
        content = json.loads((done / name).read_text())
        assert [image["frame_id"] for image in content["images"]] == list(range(20))
        images = {image["id"]: image for image in content["images"]}
        people, joints = content["annotations"], content["categories"][0]["keypoints"]
        assert [images[own["image_id"]]["frame_id"] for own in people] == table["frame"].tolist()
        assert [own["track_id"] for own in people] == table["person"].tolist()
        nose = joints.index("nose")
        points = np.array([own["keypoints"][3 * nose : 3 * nose + 2] for own in people])
        np.testing.assert_allclose(points, table[["nose_x", "nose_y"]], atol=2e-3)
    assert [images[own["image_id"]]["file_name"] for own in people[:1]] == [f"{CLIP}/000000.jpg"]
    np.testing.assert_allclose([own["keypoint_scores"][nose] for own in people], table["nose_score"], rtol=1e-5)


def test_coco_tools_read_them(done: Path) -> None:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        assert len(COCO(str(done / "coco.json")).getAnnIds()) > 0


def test_our_own_scorer_gives_everything_to_the_annotated_poses(done: Path, tmp_path: Path) -> None:
    """Written as predicted poses are: all right; and untrained heads' are not."""
    from glpose.metrics import posetrack

    notes = json.loads((DEMO_CLIPS / "annotations" / "eval" / f"{CLIP}.json").read_text())
    frames = {image["id"]: number for number, image in enumerate(notes["images"])}
    people = sorted(notes["annotations"], key=lambda own: frames[own["image_id"]])
    columns = [notes["categories"][0]["keypoints"].index(joint) for joint in POSETRACK.joints]
    points = np.array([own["keypoints"] for own in people]).reshape(-1, 17, 3)[:, columns, :2]
    low = np.array([own["bbox"][:2] for own in people])
    boxes = np.hstack([low, low + [own["bbox"][2:] for own in people]])
    table = pd.DataFrame(boxes, columns=BOX).assign(
        video=CLIP, frame=[frames[own["image_id"]] for own in people], person=[own["track_id"] for own in people],
        score=1.0,
    )  # fmt: skip
    poses = np.concatenate([points, points.any(axis=2, keepdims=True)], axis=2)  # absent joints score 0
    scores, source = np.ones(len(table)), open_frames(CLIP, MOVIE)
    truth = Prediction(CLIP, source, np.arange(20), 25.0, table, poses, scores, POSETRACK, {}, [], {})
    for name in ("truth", "perfect", "found"):
        (tmp_path / name).mkdir()
    for number, image in enumerate(notes["images"]):
        image["file_name"] = f"{CLIP}/{number:06d}.jpg"
    (tmp_path / "truth" / "a.json").write_text(json.dumps(notes))
    write_files(tmp_path, truth, lambda *_: None, video=False, boxes=False)
    shutil.copy(tmp_path / "posetrack.json", tmp_path / "perfect" / "a.json")
    shutil.copy(done / "posetrack.json", tmp_path / "found" / "a.json")
    perfect, found = (posetrack.evaluate(tmp_path / "truth", tmp_path / name) for name in ("perfect", "found"))
    assert perfect.mean == pytest.approx(100) and not perfect.problems
    assert 0 <= found.mean < 60 and not found.problems


def test_poses_are_those_of_eval(project: Path, weights: dict[str, Any], tmp_path: Path) -> None:
    check_predict_says_what_eval_said(project, weights["backbone"], tmp_path)


def test_causal_heads_have_features_of_earlier_frames_alone(boxes: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    heads = {"k": 1, "n": 2, "blocks": 1, "causal": True}
    train = {"epochs": 1, "batch_size": 4, "milestones": [], "heads": heads}
    config = write_pipeline(tmp_path, train=train, index={"causal": True})
    code, printed = glpose_stage(config, "run")
    assert code == 0, printed
    own = {
        "heads": tmp_path / "work" / "train" / "latest" / "glpose" / "heads.safetensors",
        "backbone": tmp_path / "backbone.safetensors",
    }
    check_predict_says_what_eval_said(tmp_path, str(own["backbone"]), tmp_path)
    work = tmp_path / "kept"
    assert run(MOVIE, "--no-video", out=tmp_path / "a", boxes=boxes, end=6, work=work, **own)[0] == 0
    assert store.open(work).features(CLIP).schema.offsets == (-1,)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_people_streamed_from_the_store_are_those_of_the_whole_split(project: Path, batch_size: int) -> None:
    from glpose.evaluation import predict_poses
    from glpose.models.checkpoints import load_heads

    run_of = context(project / "pipelines.yaml")
    split = load_split(run_of, "eval", k=1, n=2)
    heads = project / "work" / "train" / "latest" / "glpose" / "heads.safetensors"
    model = load_heads(heads, space=split.features.schema.space)
    (expected,) = predict_poses(model, split.features, split.references, "product", 4)
    features, table = store.open(project / "work").features("c"), split.features.table
    poses = np.zeros_like(expected)
    extract = run_of.config.extract
    for rows, own in stream_poses(model, features, table, split.references, extract, "product", batch_size):
        poses[rows] = own
    np.testing.assert_allclose(poses, expected, atol=1e-4)


def test_dark_decodes_by_the_sigma_that_heads_were_trained_with(project: Path) -> None:
    from glpose.evaluation import Decoding, predict_poses
    from stages.evaluate import predict, trained_heads

    trained = project / "work" / "train" / "latest" / "glpose"
    config = context(project / "pipelines.yaml", "eval.decode=dark", "train.sigma=6").config
    split = load_split(context(project / "pipelines.yaml"), "eval", k=1, n=2)
    model = trained_heads(config, split, trained)
    (wide, narrow) = (
        predict_poses(model, split.features, split.references, "product", 64, ways=[Decoding("dark")], sigma=sigma)[0]
        for sigma in (6.0, 3.0)
    )
    np.testing.assert_allclose(predict(config, split, trained)[-1], wide, atol=1e-5)
    assert np.abs(wide - narrow).max() > 0.1


@pytest.mark.slow
def test_weights_that_ship_find_people_and_joints() -> None:
    """On a clip that they were not trained on, seen with them: 84 % of the people, 71 % of the visible joints."""
    notes = json.loads((DEMO_CLIPS / "annotations" / "eval" / f"{CLIP}.json").read_text())
    frames = {image["id"]: number for number, image in enumerate(notes["images"])}
    names = notes["categories"][0]["keypoints"]
    table = glpose.predict(MOVIE)
    people, joints = [], []
    for own in notes["annotations"]:
        there = table.loc[table["frame"] == frames[own["image_id"]]]
        low, size = np.array(own["bbox"][:2]), np.array(own["bbox"][2:])
        boxes = there[BOX].to_numpy()
        shared = (np.minimum(boxes[:, 2:], low + size) - np.maximum(boxes[:, :2], low)).clip(0).prod(axis=1)
        overlap = shared / ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + size.prod() - shared)
        people.append(overlap.max(initial=0) > 0.5)
        for name, (x, y, visible) in zip(names, np.reshape(own["keypoints"], (-1, 3)), strict=True):
            if visible and name in POSETRACK.joints:
                found = people[-1] and there[[f"{name}_x", f"{name}_y"]].to_numpy()[overlap.argmax()]
                joints.append(people[-1] and np.linalg.norm(found - [x, y]) <= 0.1 * size.max())
    assert len(people) == 74 and np.mean(people) > 0.7 and np.mean(joints) > 0.6


# -------------------------------------------------------------------------------------------------------- which frames
def test_start_end_and_every(weights: dict[str, Any], boxes: Path, done: Path, tmp_path: Path) -> None:
    code, printed = run(MOVIE, out=tmp_path, boxes=boxes, start=3, end=14, every=4, **weights)
    assert code == 0 and "3 frames" in printed, printed
    table, everything = (pd.read_parquet(folder / "poses.parquet") for folder in (tmp_path / CLIP, done))
    assert sorted(set(table["frame"])) == [3, 7, 11]
    alone = everything["frame"].isin([3, 7, 11])
    np.testing.assert_array_equal(table[BOX].to_numpy(), everything[BOX].to_numpy()[alone])
    content = json.loads((tmp_path / CLIP / "coco.json").read_text())
    assert [image["id"] for image in content["images"]] == [3, 7, 11]
    frames, rate, _ = film(tmp_path / CLIP / "overlay.mp4")
    assert len(frames) == 3 and rate == pytest.approx(25 / 4)


def test_without_a_video(weights: dict[str, Any], boxes: Path, tmp_path: Path) -> None:
    assert run(MOVIE, "--no-video", out=tmp_path, boxes=boxes, end=2, **weights)[0] == 0
    assert "overlay.mp4" not in [path.name for path in (tmp_path / CLIP).iterdir()]


def test_one_frame_has_no_references(weights: dict[str, Any], boxes: Path, tmp_path: Path) -> None:
    code, printed = run(MOVIE, out=tmp_path, boxes=boxes, start=5, end=6, **weights)
    assert code == 0 and "fewer than 2 references" in printed
    assert np.isfinite(pd.read_parquet(tmp_path / CLIP / "poses.parquet")["nose_x"]).all()


def test_nobody(weights: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]")
    code, printed = run(MOVIE, out=tmp_path / "out", boxes=tmp_path / "none.json", **weights)
    assert code == 0 and "nobody was found" in printed and f"names as '{CLIP}/000000.jpg'" in printed
    table = pd.read_parquet(tmp_path / "out" / CLIP / "poses.parquet")
    assert len(table) == 0 and "nose_x" in table.columns
    assert len(json.loads((tmp_path / "out" / CLIP / "posetrack.json").read_text())["images"]) == 20
    assert len(film(tmp_path / "out" / CLIP / "overlay.mp4")[0]) == 20


def test_boxes_of_low_scores_are_no_boxes_of_other_names(weights: dict[str, Any], boxes: Path, tmp_path: Path) -> None:
    weak = [{**entry, "score": 0.01} for entry in json.loads(boxes.read_text())]
    (tmp_path / "weak.json").write_text(json.dumps(weak))
    code, printed = run(MOVIE, "--no-video", out=tmp_path / "out", boxes=tmp_path / "weak.json", end=2, **weights)
    assert code == 0 and "below score" in printed and "names as" not in printed


# ------------------------------------------------------------------------------------------------- detectors and frames
@pytest.fixture
def bright(tmp_path: Path) -> str:
    """A detector of one's own."""
    (tmp_path / "bright.py").write_text(BRIGHT)
    return f"{tmp_path}/bright.py:find"


def test_unreadable_frames_and_other_sizes_cost_themselves(
    weights: dict[str, Any], bright: str, tmp_path: Path
) -> None:
    write_videos(tmp_path / "videos", ("one",))
    frames = tmp_path / "videos" / "one"
    (frames / "003.png").write_bytes((frames / "003.png").read_bytes()[:60])
    ((_, last),) = open_frames("one", frames).read([5])
    larger = np.kron(last, np.ones((2, 2, 1), np.uint8))
    cv2.imwrite(str(frames / "005.png"), larger)
    code, printed = run(frames, out=tmp_path / "out", detector=bright, **weights)
    assert code == 0 and "1 frames could not be read" in printed and "2 sizes" in printed, printed
    table = pd.read_parquet(tmp_path / "out" / "one" / "poses.parquet")
    assert table["frame"].tolist() == [1, 2, 4, 5] and len(set(table["person"])) == 2  # the last is elsewhere
    drawn, rate, _ = film(tmp_path / "out" / "one" / "overlay.mp4")
    assert len(drawn) == 5 and rate == 25 and {frame.shape for frame in drawn} == {(40, 80, 3)}


def test_boxes_of_a_file_are_clipped_to_their_own_frames(weights: dict[str, Any], tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", ("one",), frames=2)
    cv2.imwrite(str(tmp_path / "videos" / "one" / "001.png"), np.zeros((80, 160, 3), np.uint8))
    entries = [{"image_name": f"one/{name}.png", "bbox": [0, 0, 150, 70], "score": 1} for name in ("000", "001")]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    table = glpose.predict(tmp_path / "videos", boxes=tmp_path / "boxes.json", device="cpu", **weights)
    assert table[BOX].to_numpy().tolist() == [[0, 0, 80, 40], [0, 0, 150, 70]]


def test_folders_of_videos_and_lists(weights: dict[str, Any], bright: str, tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", ("one", "two"), frames=3)
    table = glpose.predict(tmp_path / "videos", detector=bright, device="cpu", **weights)
    assert set(table["video"]) == {"one", "two"}
    listed = glpose.predict([tmp_path / "videos" / "two"], detector=bright, device="cpu", **weights)
    pd.testing.assert_frame_equal(listed, table.query("video == 'two'").reset_index(drop=True))


def test_a_video_that_fails_leaves_the_others(weights: dict[str, Any], bright: str, tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", ("one",), frames=3)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    code, printed = run(
        tmp_path / "broken.mp4", tmp_path / "videos" / "one", out=tmp_path / "out", detector=bright, **weights
    )
    assert code == 1 and "1 of 2 videos failed" in printed and "broken.mp4 cannot be opened" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["one"]


# -------------------------------------------------------------------------------------------------------- another run
def test_what_is_done_is_kept_and_what_is_other_is_refused(
    done: Path, weights: dict[str, Any], boxes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out / CLIP)
    before = snapshot(out)
    code, printed = run(MOVIE, "--show-boxes", out=out, boxes=boxes, **weights)
    assert code == 0 and "done already" in printed and snapshot(out) == before
    code, printed = run(MOVIE, out=out, boxes=boxes, end=2, **weights)
    assert code == 1 and "--force" in printed and snapshot(out) == before
    code, printed = run(MOVIE, "--force", out=out, boxes=boxes, end=2, **weights)
    assert code == 0 and len(film(out / CLIP / "overlay.mp4")[0]) == 2, printed
    assert [path.name for path in out.iterdir()] == [CLIP]


def test_a_folder_of_others_is_never_replaced(weights: dict[str, Any], boxes: Path, tmp_path: Path) -> None:
    (tmp_path / CLIP).mkdir()
    (tmp_path / CLIP / "mine.txt").write_text("dear")
    code, printed = run(MOVIE, "--force", out=tmp_path, boxes=boxes, end=2, **weights)
    assert code == 1 and "is none that predict has written" in printed
    assert (tmp_path / CLIP / "mine.txt").read_text() == "dear"


def test_features_are_kept_in_a_work_folder(
    weights: dict[str, Any], boxes: Path, project: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    assert run(MOVIE, "--no-video", out=tmp_path / "a", boxes=boxes, end=6, work=work, **weights)[0] == 0
    kept, before = store.open(work), snapshot(work / "extract" / "data")
    assert kept.videos == [CLIP] and kept.verify() == []
    with mock.patch("glpose.predictor.extract_video", side_effect=AssertionError("extracted again")):
        assert run(MOVIE, out=tmp_path / "b", boxes=boxes, end=6, work=work, **weights)[0] == 0
    assert snapshot(work / "extract" / "data") == before
    tables = [pd.read_parquet(tmp_path / name / CLIP / "poses.parquet") for name in ("a", "b")]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    code, printed = run(MOVIE, out=tmp_path / "c", boxes=boxes, end=3, work=work, **weights)  # other frames: made anew
    assert code == 0 and len(store.open(work).table()) < len(kept.table()), printed
    code, printed = run(MOVIE, out=tmp_path / "d", boxes=boxes, work=project / "work", **weights)
    assert code == 1 and "give another folder with --work" in printed


def test_nothing_is_left_of_a_run_that_stops(weights: dict[str, Any], boxes: Path, tmp_path: Path) -> None:
    with (
        mock.patch("glpose.prediction.write_files", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        glpose.predict(MOVIE, tmp_path / "out", boxes=boxes, end=2, device="cpu", **weights)
    assert list((tmp_path / "out").iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- refusals
def test_wrong_usage(weights: dict[str, Any], boxes: Path, tmp_path: Path) -> None:
    out: dict[str, Any] = {"out": tmp_path / "out", "boxes": boxes, **weights}
    (tmp_path / "b").mkdir()
    shutil.copy(MOVIE, tmp_path / "b" / MOVIE.name)
    gone = tmp_path / "gone.json"
    (tmp_path / "empty").mkdir()
    for arguments, options, code, words in (
        (["gone.mp4"], {}, 1, "video gone.mp4 does not exist"),
        ([MOVIE, MOVIE], {}, 1, "is named twice"),
        ([MOVIE, tmp_path / "b" / MOVIE.name], {}, 1, "have one name"),
        ([MOVIE], {"start": 20}, 1, "has 20 frames: it cannot begin at frame 20"),
        ([MOVIE], {"start": 5, "end": 5}, 2, "end must be after start"),
        ([MOVIE], {"boxes": gone}, 1, f"box file {gone} does not exist"),
        ([MOVIE], {"heads": gone}, 1, f"heads: checkpoint {gone} does not exist"),
        ([MOVIE], {"heads": weights["backbone"]}, 1, "holds no GLPose heads"),
        ([MOVIE], {"backbone": "demo"}, 1, "and backbone demo: "),
        ([tmp_path / "empty"], {}, 1, "holds no videos"),
    ):
        found, printed = run(*arguments, **{**out, **options})
        assert found == code and words in printed and "Traceback" not in printed, (words, printed)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_python_raises_what_the_command_prints(weights: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"gone\.mp4 does not exist"):
        glpose.predict("gone.mp4", **weights)
    with pytest.raises(ConfigError, match="every: Input should be greater than or equal to 1"):
        glpose.predict(MOVIE, every=0, **weights)


def test_heads_of_an_earlier_release(weights: dict[str, Any], tmp_path: Path) -> None:
    old = {name: text for name, text in read_metadata(weights["heads"]).items() if name != "extract"}
    save_checkpoint(tmp_path / "old.safetensors", read_state_dict(weights["heads"]), old)
    with pytest.raises(CheckpointError, match=r"does not say what its heads were trained on .*train again"):
        read_trained_on(tmp_path / "old.safetensors")
    save_checkpoint(tmp_path / "odd.safetensors", read_state_dict(weights["heads"]), {**old, "extract": "{"})
    with pytest.raises(CheckpointError, match="is malformed"):
        read_trained_on(tmp_path / "odd.safetensors")


def test_controls_that_need_more_than_a_video(weights: dict[str, Any], tmp_path: Path) -> None:
    metadata = read_metadata(weights["heads"])
    index = {**json.loads(metadata["index"]), "select": "oracle"}
    path = tmp_path / "oracle.safetensors"
    save_checkpoint(path, read_state_dict(weights["heads"]), {**metadata, "index": json.dumps(index)})
    with pytest.raises(CheckpointError, match=r"index\.select oracle, a control"):
        glpose.predict(MOVIE, **{**weights, "heads": str(path)})


def test_heads_say_what_they_were_trained_on(project: Path, weights: dict[str, Any]) -> None:
    config, found = context(project / "pipelines.yaml").config, read_trained_on(weights["heads"])
    assert found.heads == config.train.heads and found.index == config.index
    assert found.extract == config.extract.model_copy(update={"checkpoint": found.extract.checkpoint})
    assert found.joints.joints[13] == "nose"


def test_importing_glpose_is_cheap() -> None:
    code = "import glpose, sys; print(callable(glpose.predict), sorted({'torch', 'pandas', 'cv2'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "True []\n"
