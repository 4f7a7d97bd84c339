"""PoseTrack AP the way poseval computes it: loops over frames, people and joints. Only a yardstick for benchmarks.

Written from poseval's behaviour with its structure: all frames are held as parsed JSON, joints are found by searching
the points of a person, one distance is one call. Cheaper than poseval where that is easier to write: tracking metrics
are left out, samples are Python lists, and points in polygons are found without building geometry objects (most by the
box around a polygon, as the geometry library under poseval finds them).
"""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

N_JOINTS = 15
NAMES = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "head_bottom", "nose", "head_top",
)  # fmt: skip

Frame = dict[str, Any]
Polygon = tuple[list[tuple[float, float]], tuple[float, ...]]  # corners; x1, y1, x2, y2 of the box around them


def evaluate(gt_dir: Path, pred_dir: Path) -> dict[str, list[float]]:
    """{"ap", "precision", "recall"}: 15 percentages each, in the order of NAMES."""
    return score(*load(gt_dir, pred_dir))


def load(gt_dir: Path, pred_dir: Path) -> tuple[list[Any], list[Any]]:
    """Parsed files of both folders, those of the annotations in the order of their names."""
    paths = sorted([*gt_dir.glob("*.json"), *gt_dir.glob("*.json.gz")])
    return [_parse(path) for path in paths], [_parse(pred_dir / path.name) for path in paths]


def score(gt_files: list[Any], pred_files: list[Any]) -> dict[str, list[float]]:
    """Score parsed files, pair by pair; leaves them as they are."""
    gt_frames = [frame for data in gt_files for frame in _frames(data)]
    pred_frames = [frame for data in pred_files for frame in _frames(data)]
    scores: list[list[float]] = [[] for _ in range(N_JOINTS)]
    labels: list[list[bool]] = [[] for _ in range(N_JOINTS)]
    n_gt = [0] * N_JOINTS
    for gt_frame, pred_frame in zip(gt_frames, pred_frames, strict=True):
        if len(gt_frame["annorect"]) == 0:
            continue
        gt = [_points(person) for person in gt_frame["annorect"] if _has_points(person)]
        pred = [_points(person) for person in pred_frame["annorect"] if _has_points(person)]
        heads = [person for person in gt_frame["annorect"] if _has_points(person)]
        polygons = [_polygon(region["point"]) for region in gt_frame.get("ignore_regions", [])]
        if polygons:
            gt = [_outside(points, polygons) for points in gt]
            heads = [head for head, points in zip(heads, gt, strict=True) if points]
            gt = [points for points in gt if points]
            pred = [points for points in (_outside(points, polygons) for points in pred) if points]
        _score_frame(gt, heads, pred, scores, labels, n_gt)
    curves = [_curve(scores[j], labels[j], n_gt[j]) for j in range(N_JOINTS)]
    return {name: [curve[k] for curve in curves] for k, name in enumerate(("ap", "precision", "recall"))}


def _score_frame(
    gt: list[Any], heads: list[Any], pred: list[Any], scores: list[list[float]], labels: list[list[bool]],
    n_gt: list[int],
) -> None:  # fmt: skip
    has_gt = np.zeros((len(gt), N_JOINTS), dtype=bool)
    has_pred = np.zeros((len(pred), N_JOINTS), dtype=bool)
    score = np.full((len(pred), N_JOINTS), np.nan)
    for g in range(len(gt)):
        for j in range(N_JOINTS):
            if _find(gt[g], j) is not None:
                has_gt[g, j] = True
                n_gt[j] += 1
    for p in range(len(pred)):
        for j in range(N_JOINTS):
            point = _find(pred[p], j)
            if point is not None:
                has_pred[p, j] = True
                score[p, j] = point["score"][0] if "score" in point else -9999
    match = np.zeros((len(pred), max(1, len(gt)), N_JOINTS), dtype=bool)
    owner = [-1] * len(pred)
    if gt and pred:
        distance = np.full((len(pred), len(gt), N_JOINTS), np.inf)
        for g in range(len(gt)):
            head = heads[g]
            diagonal = np.subtract([head["x2"][0], head["y2"][0]], [head["x1"][0], head["y1"][0]])
            head_size = 0.6 * np.linalg.norm(diagonal)
            for p in range(len(pred)):
                for j in range(N_JOINTS):
                    annotated, predicted = _find(gt[g], j), _find(pred[p], j)
                    if annotated is not None and predicted is not None:
                        offset = np.subtract(
                            [annotated["x"][0], annotated["y"][0]], [predicted["x"][0], predicted["y"][0]]
                        )
                        with np.errstate(invalid="ignore", divide="ignore"):
                            distance[p, g, j] = np.linalg.norm(offset) / head_size
        match = distance <= 0.5
        share = match.sum(axis=2) / np.maximum(1, has_gt.sum(axis=1))
        for p in range(len(pred)):
            for g in range(len(gt)):
                if g != np.argmax(share[p]):
                    share[p, g] = 0
        for g in range(len(gt)):
            if share[:, g].max() > 0:
                owner[int(np.argmax(share[:, g]))] = g
    for p in range(len(pred)):
        for j in range(N_JOINTS):
            if has_pred[p, j]:
                scores[j].append(score[p, j])
                labels[j].append(bool(owner[p] >= 0 and match[p, owner[p], j]))


def _curve(scores: list[float], labels: list[bool], n_gt: int) -> tuple[float, float, float]:
    if not scores:
        return 0.0, 0.0, 0.0
    right = 0
    precision, recall = [], []
    for rank, index in enumerate(np.array(scores).argsort(kind="stable")[::-1]):
        right += labels[index]
        precision.append(right / (rank + 1))
        recall.append(right / n_gt if n_gt else math.nan)
    if not n_gt:
        return math.nan, precision[-1] * 100, math.nan
    ap, envelope, following = 0.0, 0.0, recall[-1]
    for k in range(len(precision) - 1, -1, -1):
        before = recall[k - 1] if k else 0.0
        envelope = max(envelope, precision[k])
        ap += (following - before) * envelope
        following = before
    return ap * 100, precision[-1] * 100, recall[-1] * 100


def _find(points: list[Any], joint: int) -> Any:
    for point in points:
        if point["id"] is not None and point["id"][0] == joint:
            return point
    return None


def _has_points(person: dict[str, Any]) -> bool:
    return bool(person.get("annopoints")) and "point" in person["annopoints"][0]


def _points(person: dict[str, Any]) -> list[Any]:
    return person["annopoints"][0]["point"]


def _polygon(corners: list[Any]) -> Polygon:
    xs, ys = [corner["x"][0] for corner in corners], [corner["y"][0] for corner in corners]
    return list(zip(xs, ys, strict=True)), (min(xs), min(ys), max(xs), max(ys))


def _outside(points: list[Any], polygons: list[Polygon]) -> list[Any]:
    return [p for p in points if not any(_near(box, p) and _contains(c, p["x"][0], p["y"][0]) for c, box in polygons)]


def _near(box: tuple[float, ...], point: dict[str, Any]) -> bool:
    return box[0] < point["x"][0] < box[2] and box[1] < point["y"][0] < box[3]


def _contains(polygon: list[tuple[float, float]], x: float, y: float) -> bool:
    inside = False
    x1, y1 = polygon[-1]
    for x2, y2 in polygon:
        if (y1 > y) != (y2 > y):
            side = (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)
            if side == 0:
                return False
            inside ^= (side > 0) == (y2 > y1)
        elif (y1 == y == y2 and min(x1, x2) <= x <= max(x1, x2)) or (x2 == x and y2 == y):
            return False
        x1, y1 = x2, y2
    return inside


def _parse(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


def _frames(data: Any) -> list[Frame]:
    """PoseTrack18 converted to the frames of PoseTrack17; of several videos only the first."""
    if "annolist" in data:
        return data["annolist"]
    names = data["categories"][0]["keypoints"]
    folders = [image["file_name"].split("/")[-2].split("_")[0] for image in data["images"]]
    frames = []
    for image, folder in zip(data["images"], folders, strict=True):
        if folder != folders[0]:
            continue
        frame: Frame = {"annorect": [], "ignore_regions": []}
        for xs, ys in zip(image.get("ignore_regions_x", []), image.get("ignore_regions_y", []), strict=True):
            frame["ignore_regions"].append({"point": [{"x": [x], "y": [y]} for x, y in zip(xs, ys, strict=True)]})
        for person in data["annotations"]:
            if person["image_id"] == image["id"]:
                frame["annorect"].append(_person(person, names))
        frames.append(frame)
    return frames


def _person(person: dict[str, Any], names: list[str]) -> dict[str, Any]:
    points = []
    scores = person.get("scores")
    for k, (x, y, flag) in enumerate(np.array(person["keypoints"]).reshape(len(names), 3)):
        if names[k] in NAMES and (x, y, flag) != (0, 0, 0):
            point = {"id": [NAMES.index(names[k])], "x": [x], "y": [y], "is_visible": [flag]}
            points.append(point | ({"score": [scores[k]]} if scores else {}))
    converted = {"annopoints": [{"point": points}]}
    if "bbox_head" in person:
        x, y, width, height = person["bbox_head"]
        converted |= {"x1": [x], "y1": [y], "x2": [x + width], "y2": [y + height]}
    return converted
