"""One video's proposals (person boxes), from its annotations or from a box file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from glpose.data.boxes import BoxFile
from glpose.data.dataset import Video
from glpose.geometry import clip_boxes
from store.errors import DataError
from store.tables import BOX


def propose(
    video: Video, box_files: Mapping[str, BoxFile | None], min_score: float
) -> tuple[pd.DataFrame, dict[str, int]]:
    """All proposals of a video's splits, and how many boxes were left out and why.

    box_files: per split, the file whose boxes are taken, or None for the annotated ones. Boxes are clipped to the
    frame; those with NaN (their score included), or with less than a pixel inside, are left out. The table has the
    columns of `store.tables.PROPOSALS`, in frame order. DataError where annotations are asked for and there are none.
    """
    height, width = video.frames.size()
    tables = [
        _from_annotations(video, split) if box_file is None else _from_file(video, split, box_file)
        for split, box_file in box_files.items()
        if (video.split == split).any()
    ]
    table = pd.concat(tables, ignore_index=True) if tables else _rows([], "", "")
    given = table[BOX].to_numpy()
    boxes, usable = clip_boxes(given, height, width)
    broken = ~np.isfinite(given).all(axis=1) | ~np.isfinite(table["score"].to_numpy())
    weak = table["score"].to_numpy() < min_score
    left_out = {
        "with NaN": int(broken.sum()),
        "of no area or outside the frame": int((~usable & ~broken).sum()),
        f"below score {min_score:g}": int((weak & usable).sum()),
    }
    table[BOX] = boxes
    table = table.loc[usable & ~broken & ~weak].sort_values(by="frame", kind="stable").reset_index(drop=True)
    table.insert(0, "video", video.name)
    table.insert(1, "proposal", np.arange(len(table)))
    return table, {reason: count for reason, count in left_out.items() if count}


def _from_annotations(video: Video, split: str) -> pd.DataFrame:
    if video.annotations is None:
        raise DataError(
            f"video {video.name!r} has no annotations: give boxes with detect.{split}.source=file and "
            f"detect.{split}.file=BOXES.json"
        )
    notes = video.annotations
    chosen = np.flatnonzero(video.split[notes.frame] == split)
    rows = [
        {
            "frame": int(notes.frame[row]),
            "person": int(notes.person[row]),
            "box": notes.boxes[row],
            "score": 1.0,
            "keypoints": notes.keypoints[row].ravel() if notes.keypoints[row, :, 2].any() else None,
        }
        for row in chosen
    ]
    return _rows(rows, video.box_source, split)


def _from_file(video: Video, split: str, box_file: BoxFile) -> pd.DataFrame:
    rows = []
    for frame in np.flatnonzero(video.split == split):
        boxes, scores = box_file.of_frame(video.image_keys(int(frame)))
        rows += [
            {"frame": int(frame), "person": -1, "box": box, "score": score, "keypoints": None}
            for box, score in zip(boxes, scores, strict=True)
        ]
    return _rows(rows, f"file:{box_file.path.name}", split)


def _rows(rows: list[dict[str, Any]], source: str, split: str) -> pd.DataFrame:
    boxes = np.array([row["box"] for row in rows], np.float64).reshape(-1, 4)
    return pd.DataFrame(
        {
            "frame": np.array([row["frame"] for row in rows], np.int64),
            "person": np.array([row["person"] for row in rows], np.int64),
            **dict(zip(BOX, boxes.T, strict=True)),
            "score": np.array([row["score"] for row in rows], np.float64),
            "source": source,
            "split": split,
            "keypoints": pd.Series([row["keypoints"] for row in rows], dtype=object),
        }
    )
