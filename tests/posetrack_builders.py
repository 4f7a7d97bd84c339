"""Small PoseTrack files for tests, made in memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from glpose.keypoints import POSETRACK

HEAD = (0, 0, 30, 40)  # 50 px diagonal: joints match up to 0.5 * 0.6 * 50 = 15 px
Points = Mapping[int, Sequence[float]]  # joint -> x, y and, in predictions, a score
Polygon = Sequence[Sequence[float]]

POSE = {j: (100.0 * j + 50, 50.0 * j + 20) for j in range(15)}
NAMES18 = ("nose", "head_bottom", "head_top", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
           "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
           "right_ankle")  # fmt: skip


def person(
    points: Points, *, track: int = 0, head: Sequence[float] | None = HEAD, hidden: Sequence[int] = ()
) -> dict[str, Any]:
    """One person of a PoseTrack17 frame."""
    listed = []
    for j, (x, y, *score) in points.items():
        extra = {"score": score} if score else {"is_visible": [int(j not in hidden)]}
        listed.append({"id": [j], "x": [x], "y": [y], **extra})
    box = dict(zip(("x1", "y1", "x2", "y2"), ([v] for v in head), strict=True)) if head else {}
    return {"track_id": [track], "annopoints": [{"point": listed}], **box}


def scored(points: Points, score: float = 0.5) -> dict[int, tuple[float, ...]]:
    """The same points as predictions with one score for all."""
    return {j: (point[0], point[1], score) for j, point in points.items()}


def elsewhere(points: Points, score: float = 0.5) -> dict[int, tuple[float, ...]]:
    """Predictions that match nothing."""
    return {j: (point[0] + 5000, point[1], score) for j, point in points.items()}


def video17(*frames: list[dict[str, Any]], regions: Sequence[Polygon] = ()) -> dict[str, Any]:
    """A PoseTrack17 file; the regions to ignore are those of every frame."""
    polygons = [{"point": [{"x": [x], "y": [y]} for x, y in polygon]} for polygon in regions]
    return {
        "annolist": [
            {"image": [{"name": f"{k:08}.jpg"}], "annorect": people, "ignore_regions": polygons}
            for k, people in enumerate(frames, 1)
        ]
    }


def as_2018(video: dict[str, Any]) -> dict[str, Any]:
    """A PoseTrack17 file as PoseTrack18, with all 17 names."""
    images, annotations = [], []
    for k, frame in enumerate(video["annolist"]):
        polygons = [region["point"] for region in frame["ignore_regions"]]
        image = {"id": 100 + k, "file_name": f"images/val/000001_mpii_test/{k:06}.jpg"}
        image |= {f"ignore_regions_{axis}": [[p[axis][0] for p in polygon] for polygon in polygons] for axis in "xy"}
        images.append(image)
        annotations += [{"image_id": 100 + k, **_person18(one)} for one in frame["annorect"]]
    categories = [{"name": "person", "keypoints": list(NAMES18)}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _person18(one: dict[str, Any]) -> dict[str, Any]:
    points = {POSETRACK.joints[point["id"][0]]: point for point in one["annopoints"][0]["point"]}
    keypoints, scores = [], []
    for name in NAMES18:
        point = points.get(name)
        keypoints += [point["x"][0], point["y"][0], point.get("is_visible", [1])[0]] if point else [0, 0, 0]
        scores.append(point.get("score", [None])[0] if point else 0.0)
    new = {"track_id": one["track_id"][0], "keypoints": keypoints, "scores": [] if None in scores else scores}
    if "x1" in one:
        x1, y1, x2, y2 = (one[side][0] for side in ("x1", "y1", "x2", "y2"))
        new["bbox_head"] = [x1, y1, x2 - x1, y2 - y1]
    return new


def random_video(rng: np.random.Generator, frames: int = 8) -> tuple[dict[str, Any], dict[str, Any]]:
    """Annotations and predictions with ties, gaps, borderline distances, regions and empty frames, on whole pixels."""
    offsets = [(0, 0), (0, 0), (9, 12), (15, 0), (10, 12), (40, 3)]
    annotated, predicted = [], []
    for _ in range(frames):
        poses = [
            {j: tuple(map(int, rng.integers(1, 60, 2) * 5)) for j in range(15) if rng.random() < 0.8}
            for _ in range(rng.integers(0, 4))
        ]
        halves = [{j: xy for j, xy in pose.items() if j % 2 == odd} for pose in poses[2:] for odd in (0, 1)]
        annotated.append([person(pose, track=k, hidden=(k,)) for k, pose in enumerate(poses[:2] + halves)])
        people = []
        for pose in [*poses, *poses[:2]]:
            moved = {}
            for j, (x, y) in pose.items():
                dx, dy = offsets[rng.integers(len(offsets))]
                moved[j] = (x + dx, y + dy, float(rng.integers(1, 10)) / 10)
            people.append(person(moved, track=len(people), head=None))
        predicted.append(people)
    regions = rng.integers(0, 60, (2, 4, 2)) * 5.0
    return video17(*annotated, regions=regions.tolist()), video17(*predicted)


def untied_video(rng: np.random.Generator, frames: int = 3) -> tuple[dict[str, Any], dict[str, Any]]:
    """Annotations and predictions, on whole pixels, in which the order of people cannot matter.

    All scores differ. People are 1000 px apart; predictions mix the joints of several, so that they compete, but no
    two shares of matched joints in a frame are equal. In some videos a region swallows the first person of each frame.
    """
    offsets = [(0, 0), (9, 12), (15, 0), (10, 12)]
    annotated, predicted = [], []
    for _ in range(frames):
        poses = [
            {j: (1000 * k + int(rng.integers(300)), int(rng.integers(1, 300))) for j in range(15) if rng.random() < 0.8}
            for k in range(rng.integers(0, 4))
        ]
        annotated.append([person(pose, track=k, hidden=(k, 14)) for k, pose in enumerate(poses)])
        people, shares = [], set()
        for k in [*range(len(poses))] * 2:
            moved, hits = {}, Counter()
            for j in range(15):
                owner = k if rng.random() < 0.7 else int(rng.integers(len(poses)))
                dx, dy = offsets[rng.integers(len(offsets))]
                if j in poses[owner]:
                    moved[j] = (poses[owner][j][0] + dx, poses[owner][j][1] + dy, 0.5)
                    hits[owner] += math.hypot(dx, dy) <= 15
            new = [Fraction(n, len(poses[owner])) for owner, n in hits.items() if n]
            if len({*new}) == len(new) and shares.isdisjoint(new):
                shares.update(new)
                people.append(person(moved, track=len(people), head=None))
        predicted.append(people)
    swallow = [[(-99, -99), (400, -99), (400, 400), (-99, 400)]] if rng.random() < 0.3 else []
    gt, pred = video17(*annotated, regions=swallow), video17(*predicted)
    give_distinct_scores(rng, [pred])
    return gt, pred


def points_of(video: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All points of a PoseTrack17 file."""
    for frame in video["annolist"]:
        for one in frame["annorect"]:
            yield from one["annopoints"][0]["point"]


def give_distinct_scores(rng: np.random.Generator, videos: Iterable[dict[str, Any]]) -> None:
    """Replace the scores of PoseTrack17 predictions by differing multiples of 1/1024 above 0, in random order."""
    points = [point for video in videos for point in points_of(video)]
    for point, rank in zip(points, rng.permutation(len(points)).tolist(), strict=True):
        point["score"] = [(rank + 1) / 1024]


def largest_difference(values: Any, expected: Any) -> float:
    """Over pairs of numbers, None being NaN; infinite where only one of them is."""
    ours = np.array(list(values), dtype=float)
    theirs = np.array(list(expected), dtype=float)
    apart = np.where(np.isnan(ours) == np.isnan(theirs), 0, math.inf)
    return float(np.where(np.isnan(ours - theirs), apart, np.abs(ours - theirs)).max())
