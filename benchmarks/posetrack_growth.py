"""How the CPU time of the PoseTrack evaluator grows with frames and with people per frame, on generated videos.

The growth is the exponent of the power of the size that fits the times best: 1 is linear, 2 quadratic.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Entry, at_most, cpu_seconds, inputs_in_memory

from glpose.keypoints import POSETRACK
from glpose.metrics import posetrack
from glpose.metrics.posetrack_files import parse_video

FRAMES = (500, 1000, 2000, 4000)  # of one video with 3 people
PEOPLE = (4, 8, 16, 32)  # in each of 300 frames
FRAMES_TARGET = 1.15
PEOPLE_TARGET = 2.0
REPEATS = 5

_MEMORY = Path("memory.json")


def measure() -> dict[str, Entry]:
    """The entries: in frames from files of both formats and from parsed JSON, in people from arrays."""
    return frames_entries() | {"posetrack_growth_people": people_entry()}


def frames_entries() -> dict[str, Entry]:
    """Growth in the frames of a video."""
    largest = poses(FRAMES[-1], people=3)
    entries = {}
    for year, make in (("2017", file_2017), ("2018", file_2018)):
        with tempfile.TemporaryDirectory() as folder:
            folders = [Path(folder) / str(frames) for frames in FRAMES]
            for path, frames in zip(folders, FRAMES, strict=True):
                for side, xy in zip(("gt", "pred"), largest, strict=True):
                    (path / side).mkdir(parents=True)
                    text = json.dumps(make(xy[:frames], predicted=side == "pred"))
                    (path / side / "000001_mpii_test.json").write_text(text)
            seconds = cpu_seconds(
                *(lambda path=path: posetrack.evaluate(path / "gt", path / "pred") for path in folders), repeats=REPEATS
            )
        entries[f"posetrack_growth_frames_end_to_end_{year}"] = frames_entry(seconds, f"PoseTrack{year} files")
    gt, pred = (file_2017(xy, predicted=predicted) for xy, predicted in zip(largest, (False, True), strict=True))
    parts = [tuple({"annolist": side["annolist"][:frames]} for side in (gt, pred)) for frames in FRAMES]
    with inputs_in_memory():
        seconds = cpu_seconds(*(lambda pair=pair: score_parsed([pair]) for pair in parts), repeats=REPEATS)
    return entries | {"posetrack_growth_frames_from_parsed_json": frames_entry(seconds, "parsed JSON of PoseTrack2017")}


def frames_entry(seconds: Sequence[float], what: str) -> Entry:
    """The exponent in FRAMES, with the times."""
    each = ", ".join(f"{value * 1e6 / frames:.0f}" for value, frames in zip(seconds, FRAMES, strict=True))
    note = f"{what}, {join(FRAMES)} frames of 3 people: {each} us a frame"
    return at_most(exponent(FRAMES, seconds), FRAMES_TARGET, note)


def people_entry() -> Entry:
    """Growth in people per frame, parsing excluded: it is linear and would hide what is not."""
    videos = []
    for people in PEOPLE:
        sides = zip(poses(300, people), (False, True), strict=True)
        videos.append([parse_video(_MEMORY, file_2017(xy, predicted=predicted)) for xy, predicted in sides])
    with inputs_in_memory():
        seconds = cpu_seconds(
            *(lambda gt=gt, pred=pred: posetrack.evaluate_videos([(gt, pred)]) for gt, pred in videos), repeats=REPEATS
        )
    each = ", ".join(f"{value * 1e6 / (300 * n * n):.2f}" for value, n in zip(seconds, PEOPLE, strict=True))
    note = f"300 frames of {join(PEOPLE)} people, as many predicted, from arrays: {each} us a pair of people"
    return at_most(exponent(PEOPLE, seconds), PEOPLE_TARGET, note)


def score_parsed(pairs: Sequence[tuple[Any, Any]]) -> posetrack.PoseTrackResult:
    """Our evaluator from parsed JSON on, building of arrays included."""
    return posetrack.evaluate_videos((parse_video(_MEMORY, gt), parse_video(_MEMORY, pred)) for gt, pred in pairs)


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def join(sizes: Sequence[int]) -> str:
    """Sizes as text."""
    return ", ".join(map(str, sizes))


def poses(frames: int, people: int) -> tuple[np.ndarray, np.ndarray]:
    """(frames, people, 15, 2) px twice, annotated and predicted, in 1920 x 1080; half of the joints match or so."""
    rng = np.random.default_rng(0)
    centre = rng.uniform((0, 0), (1920, 1080), (frames, people, 1, 2))
    annotated = centre + rng.normal(0, 60, (frames, people, len(POSETRACK), 2))
    return annotated.round(2), (annotated + rng.normal(0, 12, annotated.shape)).round(2)


def file_2017(xy: np.ndarray, *, predicted: bool) -> dict[str, Any]:
    """(F, P, 15, 2) px as a PoseTrack17 file; predictions have scores, annotations head boxes of 30 x 40 px."""
    frames = []
    for k, (people, scores) in enumerate(zip(xy.tolist(), _scores(xy), strict=True), 1):
        rects = []
        for track, (points, of_joint) in enumerate(zip(people, scores, strict=True)):
            listed = [{"id": [j], "x": [x], "y": [y]} for j, (x, y) in enumerate(points)]
            for point, score in zip(listed, of_joint, strict=True):
                point |= {"score": [score]} if predicted else {"is_visible": [1]}
            head = {} if predicted else {"x1": [0], "y1": [0], "x2": [30], "y2": [40]}
            rects.append({"track_id": [track], "annopoints": [{"point": listed}], **head})
        frames.append({"image": [{"name": f"{k:08}.jpg"}], "annorect": rects})
    return {"annolist": frames}


def file_2018(xy: np.ndarray, *, predicted: bool) -> dict[str, Any]:
    """The same as a PoseTrack18 file."""
    frames, people, joints = xy.shape[:3]
    keypoints = np.concatenate([xy, np.ones((frames, people, joints, 1))], axis=3).reshape(frames, people, -1).tolist()
    scores = _scores(xy)
    annotations = [
        {"image_id": k, "track_id": p, "keypoints": keypoints[k][p]}
        | ({"scores": scores[k][p]} if predicted else {"bbox_head": [0, 0, 30, 40]})
        for k in range(frames)
        for p in range(people)
    ]
    images = [{"id": k, "file_name": f"images/val/000001_mpii_test/{k:06}.jpg"} for k in range(frames)]
    categories = [{"name": "person", "keypoints": list(POSETRACK.joints)}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _scores(xy: np.ndarray) -> list[Any]:
    return np.random.default_rng(1).random(xy.shape[:3]).tolist()
