"""What `predict` writes of a video: poses as Parquet, PoseTrack and COCO JSON, and an overlay video."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glpose.data import predictions
from glpose.drawing import draw_people
from glpose.film import write_film
from glpose.keypoints import POSETRACK
from glpose.predictor import Prediction, Report
from store.errors import CorruptData
from store.tables import BOX

POSES, POSETRACK_JSON, COCO_JSON = "poses.parquet", "posetrack.json", "coco.json"
OVERLAY, RECORD = "overlay.mp4", "prediction.json"


def pose_table(prediction: Prediction) -> pd.DataFrame:
    """One row per person and frame, in frame order; docs/predict.md has the columns."""
    table = prediction.table.copy()
    table["pose_score"] = prediction.scores
    columns = {
        f"{joint}_{name}": prediction.poses[:, row, column]
        for row, joint in enumerate(prediction.joints.joints)
        for column, name in enumerate(("x", "y", "score"))
    }
    table = pd.concat([table, pd.DataFrame(columns, index=table.index)], axis=1)
    floats = [name for name in table.columns if name not in ("video", "frame", "person")]
    return table.astype(dict.fromkeys(floats, np.float32) | {"frame": np.int32, "person": np.int32})


def read_pose_table(folder: Path) -> pd.DataFrame:
    """The table that `write_files` has written into a folder. CorruptData where it cannot be read."""
    try:
        return pd.read_parquet(folder / POSES)
    except (OSError, ValueError) as error:
        raise CorruptData(f"{folder / POSES} cannot be read ({error}): delete {folder} and predict again") from None


def write_files(folder: Path, prediction: Prediction, report: Report, *, video: bool, boxes: bool) -> None:
    """Write all files of a video into a folder. video: the overlay too. boxes: drawn there, with people's numbers."""
    table, poses = prediction.table, prediction.poses
    names, frames = prediction.source.names, prediction.frames
    pose_table(prediction).to_parquet(folder / POSES, index=False, compression="zstd")
    images: list[dict[str, Any]] = [
        {"id": frame, "file_name": names[frame], "frame_id": frame, "nframes": len(names), "vid_id": prediction.name}
        for frame in frames.tolist()
    ]
    at = np.searchsorted(frames, table["frame"].to_numpy())
    given, people = table[BOX].to_numpy(), table["person"].to_numpy()
    if prediction.joints == POSETRACK:
        content = predictions.posetrack18(images, at, given, poses, people)
        (folder / POSETRACK_JSON).write_text(json.dumps(content) + "\n")
    content = predictions.coco_people(images, prediction.joints, at, given, poses, prediction.scores, people)
    (folder / COCO_JSON).write_text(json.dumps(content) + "\n")
    if video:
        step = int(frames[1] - frames[0]) if len(frames) > 1 else 1
        write_film(folder / OVERLAY, _overlay(prediction, report, boxes), prediction.rate / step)


def _overlay(prediction: Prediction, report: Report, boxes: bool) -> Iterator[np.ndarray]:
    """The frames that were looked at, with their people; those that cannot be read are left out."""
    table = prediction.table
    given, people = table[BOX].to_numpy(), table["person"].to_numpy()
    ends = np.searchsorted(table["frame"].to_numpy(), np.stack([prediction.frames, prediction.frames + 1]))
    spans = dict(zip(prediction.frames.tolist(), ends.T.tolist(), strict=True))
    for done, (frame, picture) in enumerate(prediction.source.read(spans, unreadable={}), 1):
        own = slice(*spans[frame])
        shown = given[own] if boxes else None
        yield draw_people(picture, prediction.poses[own], people[own], prediction.joints, shown)
        report("overlay", done, len(spans))
