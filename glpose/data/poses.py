"""Poses of one video as plain JSON: how annotations and predictions are written that have no format of their own.

    {"video": NAME, "joints": [J names], "frames": [image names],
     "poses": [{"frame": 0, "box": [x1, y1, x2, y2], "score": 1.0, "keypoints": [[x, y, v], ... J]}]}

frame: index into `frames`, from 0. Everything is in px of the original frame, whose first pixel is 0. v: the joint's
score in predictions, its flag in annotations (0 absent, 1 annotated but not visible, 2 visible). score: of the box.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glpose.data.annotations import MALFORMED, explain
from glpose.data.json_files import read_json_file
from store.errors import DataError


@dataclass(frozen=True)
class PoseFile:
    """n poses of one video: frame (n,) int, boxes (n, 4), score (n,), keypoints (n, J, 3); see the module for units."""

    video: str
    joints: tuple[str, ...]
    frame_names: tuple[str, ...]
    frame: np.ndarray
    boxes: np.ndarray
    score: np.ndarray
    keypoints: np.ndarray


def write_poses(path: Path, poses: PoseFile) -> None:
    """Write the file, in frame order, and its folder."""
    entries = [
        {
            "frame": int(poses.frame[row]),
            "box": poses.boxes[row].tolist(),
            "score": float(poses.score[row]),
            "keypoints": poses.keypoints[row].tolist(),
        }
        for row in np.argsort(poses.frame, kind="stable")
    ]
    content = {"video": poses.video, "joints": list(poses.joints), "frames": list(poses.frame_names), "poses": entries}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) + "\n")


def read_poses(path: Path) -> PoseFile:
    """Read such a file, plain or gzipped. DataError naming it where it is absent or malformed."""
    content = read_json_file(path, "pose file")
    try:
        joints, names, entries = tuple(content["joints"]), tuple(content["frames"]), content["poses"]
        frame = np.array([entry["frame"] for entry in entries], np.float64)
        if not np.isin(frame, np.arange(len(names))).all():
            raise ValueError("a pose names a frame that is not in 'frames'")
        poses = PoseFile(
            video=str(content["video"]),
            joints=joints,
            frame_names=names,
            frame=frame.astype(np.int64),
            boxes=np.array([entry["box"] for entry in entries], np.float64).reshape(len(entries), 4),
            score=np.array([entry["score"] for entry in entries], np.float64),
            keypoints=np.array([entry["keypoints"] for entry in entries], np.float64).reshape(
                len(entries), len(joints), 3
            ),
        )
    except MALFORMED as error:
        raise DataError(f"pose file {path} is malformed: {explain(error)}") from None
    return poses
