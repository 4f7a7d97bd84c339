"""Poses as the files that PoseTrack's own evaluator reads."""

from __future__ import annotations

from typing import Any

import numpy as np

from glpose.data.posetrack18 import NAMES
from glpose.keypoints import POSETRACK


def posetrack18(
    images: list[dict[str, Any]], frame: np.ndarray, boxes: np.ndarray, poses: np.ndarray
) -> dict[str, Any]:
    """A PoseTrack18 prediction file: every image, with people or without.

    images: entries of the evaluated frames. frame: (n,) index into `images`. boxes: (n, 4) xyxy, frame px. poses:
    (n, 15, 3) x, y in frame px, score. Track ids number the people of a frame: poseval demands them, AP ignores them.
    """
    keys = ("id", "file_name", "vid_id", "frame_id", "nframes")
    entries = [{key: image[key] for key in keys if key in image} for image in images]
    columns = POSETRACK.indices_of(NAMES)
    people = []
    for row, track in zip(np.argsort(frame, kind="stable"), _numbered(np.sort(frame)), strict=True):
        keypoints, scores = [], []
        for column in columns:
            x, y, score = (0.0, 0.0, 0.0) if column is None else poses[row, column].tolist()
            keypoints += [round(x, 3), round(y, 3), 0 if column is None else 1]
            scores.append(score)
        x1, y1, x2, y2 = boxes[row].tolist()
        image_id = entries[int(frame[row])]["id"]
        people.append(
            {
                "image_id": image_id,
                "id": len(people),
                "category_id": 1,
                "track_id": track,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "keypoints": keypoints,
                "scores": scores,
            }
        )
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(NAMES), "skeleton": []}
    return {"images": entries, "annotations": people, "categories": [category]}


def posetrack17(names: list[str], frame: np.ndarray, boxes: np.ndarray, poses: np.ndarray) -> dict[str, Any]:
    """A PoseTrack17 prediction file (annolist); arguments as for `posetrack18`, names: of the evaluated frames."""
    annolist: list[dict[str, Any]] = [{"image": [{"name": name}], "annorect": []} for name in names]
    for row in np.argsort(frame, kind="stable"):
        rects = annolist[int(frame[row])]["annorect"]
        points = [
            {"id": [joint], "x": [round(x, 3)], "y": [round(y, 3)], "score": [score]}
            for joint, (x, y, score) in enumerate(poses[row].tolist())
        ]
        x1, y1, x2, y2 = boxes[row].tolist()
        rect = {"x1": [x1], "y1": [y1], "x2": [x2], "y2": [y2], "track_id": [len(rects)]}
        rects.append({**rect, "annopoints": [{"point": points}]})
    return {"annolist": annolist}


def _numbered(frames: np.ndarray) -> list[int]:
    """0, 1, 2 ... within each run of equal frames."""
    starts = np.flatnonzero(np.r_[True, frames[1:] != frames[:-1]]) if len(frames) else np.array([], int)
    return (np.arange(len(frames)) - np.repeat(starts, np.diff(np.r_[starts, len(frames)]))).tolist()
