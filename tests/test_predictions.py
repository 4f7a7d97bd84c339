"""Prediction files: what the evaluators of PoseTrack and COCO read back is what was predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from posetrack_builders import NAMES18, POSE, as_2018, person, video17

from glpose.data import coco, posetrack17, posetrack18, predictions
from glpose.data.annotations import Annotations
from glpose.keypoints import POSETRACK, JointSet
from glpose.metrics import oks
from glpose.metrics.posetrack import evaluate
from glpose.metrics.posetrack_files import read_video

FRAMES = 4
WHO = np.array([2, 0, 2, 2])  # frames of four people, out of order; nobody in frames 1 and 3
RNG = np.random.default_rng(0)
POSES = np.concatenate([RNG.uniform(1, 900, (4, 15, 2)), RNG.uniform(0.1, 1, (4, 15, 1))], axis=2)
BOXES = np.array([[10.5, 20, 110, 220]] * 4)


def images() -> list[dict[str, Any]]:
    """Image entries as PoseTrack18 has them, with keys that predictions do not need."""
    return [
        {"id": 500 + k, "file_name": f"images/val/000001_mpii_test/{k:06}.jpg", "vid_id": "000001", "nframes": FRAMES,
         "is_labeled": True, "ignore_regions_x": [[1, 2, 3]]}
        for k in range(FRAMES)
    ]  # fmt: skip


def made(version: int, frame: np.ndarray = WHO, boxes: np.ndarray = BOXES, poses: np.ndarray = POSES) -> dict[str, Any]:
    entries = images()
    if version == 18:
        return predictions.posetrack18(entries, frame, boxes, poses)
    return predictions.posetrack17([entry["file_name"] for entry in entries], frame, boxes, poses)


def write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def parsed(version: int, content: dict[str, Any]) -> Annotations:
    return {17: posetrack17, 18: posetrack18}[version].parse(Path("p.json"), content)


@pytest.mark.parametrize("version", [17, 18])
def test_the_evaluator_reads_back_what_was_written(tmp_path: Path, version: int) -> None:
    read = read_video(write(tmp_path / "p.json", made(version)))
    assert not read.problems and read.frames == FRAMES
    assert read.person_frame.tolist() == [0, 2, 2, 2]
    order = np.argsort(WHO, kind="stable")
    for person_number, row in enumerate(order):
        points = np.flatnonzero((read.point_person == person_number) & (read.joint >= 0))
        assert sorted(read.joint[points].tolist()) == list(range(15))
        pose = POSES[row][read.joint[points]]
        assert np.allclose(read.xy[points], pose[:, :2], atol=5.1e-4)  # written to a thousandth of a pixel
        assert np.array_equal(read.score[points], pose[:, 2])


@pytest.mark.parametrize("version", [17, 18])
def test_every_frame_is_there_in_order(version: int) -> None:
    content = made(version)
    names = [image["file_name"] for image in images()]
    assert list(parsed(version, content).frame_names) == names
    nobody = made(version, np.array([], int), np.zeros((0, 4)), np.zeros((0, 15, 3)))
    notes = parsed(version, nobody)
    assert list(notes.frame_names) == names and len(notes.frame) == 0


@pytest.mark.parametrize("version", [17, 18])
def test_track_ids_are_unique_in_every_frame(version: int) -> None:
    frame = np.array([3, 0, 3, 1, 3, 0])
    notes = parsed(version, made(version, frame, np.repeat(BOXES[:1], 6, 0), np.repeat(POSES[:1], 6, 0)))
    for number in range(FRAMES):
        tracks = notes.person[notes.frame == number].tolist()
        assert sorted(tracks) == list(range((frame == number).sum()))


def test_posetrack18_files() -> None:
    content = made(18)
    assert content["categories"][0]["keypoints"] == list(NAMES18)
    assert [entry["id"] for entry in content["images"]] == [500, 501, 502, 503]
    assert set(content["images"][0]) == {"id", "file_name", "vid_id", "nframes"}
    first = content["annotations"][0]
    assert first["image_id"] == 500 and first["bbox"] == [10.5, 20, 99.5, 200]
    assert len(first["keypoints"]) == 51 and len(first["scores"]) == 17
    ear = NAMES18.index("left_ear")
    assert first["keypoints"][3 * ear : 3 * ear + 3] == [0, 0, 0]
    nose = NAMES18.index("nose")
    assert first["scores"][nose] == POSES[1, POSETRACK.joints.index("nose"), 2]
    assert len({entry["id"] for entry in content["annotations"]}) == 4


def test_posetrack17_files() -> None:
    content = made(17)
    assert [len(entry["annorect"]) for entry in content["annolist"]] == [1, 0, 3, 0]
    rect = content["annolist"][0]["annorect"][0]
    assert (rect["x1"], rect["y2"]) == ([10.5], [220])
    assert [point["id"] for point in rect["annopoints"][0]["point"]] == [[j] for j in range(15)]


@pytest.mark.parametrize("version", [17, 18])
def test_perfect_predictions_score_100(tmp_path: Path, version: int) -> None:
    shifted = {j: (x + 40, y + 2000) for j, (x, y) in POSE.items()}
    truth = video17([person(POSE), person(shifted, track=1)], [], [person(POSE)])
    content = truth if version == 17 else as_2018(truth)
    notes = parsed(version, content)
    poses = notes.keypoints.copy()
    poses[..., 2] = 0.9
    if version == 17:
        found = predictions.posetrack17(list(notes.frame_names), notes.frame, notes.boxes, poses)
    else:
        found = predictions.posetrack18(content["images"], notes.frame, notes.boxes, poses)
    write(tmp_path / "gt" / "v.json", content)
    write(tmp_path / "pred" / "v.json", found)
    result = evaluate(tmp_path / "gt", tmp_path / "pred")
    assert not result.problems
    assert result.mean == pytest.approx(100)
    assert set(result.precision.values()) == {100.0} == set(result.recall.values())
    poses[..., 0] += 1000
    moved = (
        predictions.posetrack17(list(notes.frame_names), notes.frame, notes.boxes, poses)
        if version == 17
        else predictions.posetrack18(content["images"], notes.frame, notes.boxes, poses)
    )
    write(tmp_path / "pred" / "v.json", moved)
    assert evaluate(tmp_path / "gt", tmp_path / "pred").mean == 0


HANDS = JointSet("hands", ("wrist", "thumb"), (), {"Hand": (0, 1)}, (), (), sigmas=(0.05, 0.05))
NAMED = ["thumb", "ring", "wrist"]  # of the annotation file
COLUMNS = HANDS.indices_of(NAMED)
IDS = ["clip/3", "clip/1", "clip/2"]


def test_coco_results() -> None:
    poses = POSES[:3, :2]
    results = predictions.coco(IDS, np.array([2, 0, 2]), np.array([0.5, 0.75, 0.25]), poses, 7, COLUMNS)
    assert [entry["image_id"] for entry in results] == ["clip/3", "clip/2", "clip/2"]
    assert [entry["score"] for entry in results] == [0.75, 0.5, 0.25]
    assert {entry["category_id"] for entry in results} == {7}
    for entry, pose in zip(results, poses[[1, 0, 2]], strict=True):
        points = np.reshape(entry["keypoints"], (3, 3))
        assert np.allclose(points[[2, 0], :2], pose[:, :2], atol=5.1e-4)
        assert np.array_equal(points[[2, 0], 2], pose[:, 2])
        assert not points[1].any()
    assert json.loads(json.dumps(results)) == results
    assert predictions.coco(IDS, np.array([], int), np.zeros(0), np.zeros((0, 2, 3)), 7, COLUMNS) == []


def test_coco_results_score_100_against_the_same_annotations(tmp_path: Path) -> None:
    truth = {
        "images": [{"id": id, "file_name": f"{id}.png"} for id in IDS],
        "categories": [{"id": 7, "name": "hand", "keypoints": NAMED}],
        "annotations": [
            {"image_id": IDS[n % 3], "category_id": 7, "keypoints": [50 + n, 80, 2, 1, 2, 0, 20, 30 + 90 * n, 1]}
            for n in range(5)
        ],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    file = coco.open_file(path)
    frames, keypoints = [], []
    for video in coco.video_names(file):
        notes = coco.parse(file, video, HANDS)
        frames += [IDS.index(notes.image_ids[frame]) for frame in notes.frame]
        keypoints.append(notes.keypoints)
    poses = np.concatenate(keypoints)
    found = tmp_path / "found.json"
    found.write_text(json.dumps(predictions.coco(IDS, np.array(frames), np.ones(5), poses, 7, COLUMNS)))
    result = oks.evaluate(path, found, HANDS)
    assert (result.ap, result.ar, result.pck.mean, result.pck.people) == (pytest.approx(100), 100, 100, 5)
    poses[:, :, 0] += 1000
    found.write_text(json.dumps(predictions.coco(IDS, np.array(frames), np.ones(5), poses, 7, COLUMNS)))
    assert oks.evaluate(path, found, HANDS).ap == 0


def test_coco_scores_are_hrnets() -> None:
    maxima = np.array([[0.9, 0.5, 0.1], [0.3, 0.21, 0.2], [0.1, 0.04, 0.1]])
    boxes = np.array([0.5, 1.0, 0.6])
    means = np.array([0.7, 0.255, 0.08])  # of those above 0.2; of all in the last
    assert predictions.coco_scores(maxima * boxes[:, None], boxes) == pytest.approx(means * boxes)
    assert predictions.coco_scores(maxima, boxes, "heatmap") == pytest.approx(means)
    assert predictions.coco_scores(np.zeros((1, 3)), np.zeros(1)).tolist() == [0]
    assert predictions.coco_scores(np.zeros((0, 3)), np.zeros(0)).shape == (0,)
