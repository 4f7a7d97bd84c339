"""PoseTrack17 annotation files (annolist JSON, one per video; `annolist_mat` reads MATLAB files into that structure).

Images are called images/FOLDER/VIDEO/00000001.jpg, numbered from 1; annotations lie in annotations/{train,val,test}.
Training videos are labelled densely in their middle, validation videos in every fourth frame besides. A file whose
frames lie in several folders is refused: scores pair files by name, so its videos could not be scored by theirs.

| ours | PoseTrack17 |
|---|---|
| frame | position in `annolist` |
| 15 joints | `annopoints[0].point`, by `id`: poseval's order, which is ours |
| flag 0 absent | no point with that id |
| flag 1 annotated, not visible | `is_visible` 0 |
| flag 2 visible | `is_visible` 1, or not given |
| box | the joints' extent, widened by 30 % (the files hold head boxes only) |
| ignored | extents of `ignore_regions[].point` |
| labelled | the frame has people; other frames are part of the video, for local crops and in predictions |
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from glpose.data.annotations import MALFORMED, Annotations, assemble, check_frames, explain, region_box
from glpose.keypoints import HIDDEN, POSETRACK, VISIBLE
from glpose.metrics.posetrack_files import NOT_VISIBLE
from store.errors import DataError


def parse(path: Path, data: dict[str, Any]) -> Annotations:
    """Read one file's content. DataError, naming the file, for another PoseTrack version or anything malformed."""
    if "images" in data and "annolist" not in data:
        raise DataError(f"{path} is a PoseTrack18 file (images), not PoseTrack17: set data.kind to posetrack18")
    if not isinstance(data.get("annolist"), list):
        raise DataError(f"{path} is not a PoseTrack17 file: it has no list 'annolist'")
    try:
        return _parse(path, data)
    except MALFORMED as error:
        raise DataError(f"{path} is malformed: {explain(error)}") from None


def select_frames(data: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """The same file, restricted to the frames [start, stop)."""
    return {**data, "annolist": data["annolist"][start:stop]}


def _parse(path: Path, data: dict[str, Any]) -> Annotations:
    names, labelled, people, ignored = [], [], [], []
    for frame, entry in enumerate(data["annolist"]):
        try:
            names.append(entry["image"][0]["name"])
            rects = entry.get("annorect") or []
            labelled.append(bool(rects))
            for rect in rects:
                keypoints = _keypoints(rect)
                if keypoints[:, 2].any():
                    people.append((frame, _track(rect), np.full(4, np.nan), keypoints))
            for region in entry.get("ignore_regions") or []:
                if points := region.get("point") or []:
                    corners = [point["x"][0] for point in points], [point["y"][0] for point in points]
                    ignored.append((frame, region_box(*corners)))
        except MALFORMED as error:
            raise DataError(f"{path} is malformed: frame {frame}: {explain(error)}") from None
    check_frames(path, names)
    return assemble(POSETRACK, names, names, labelled, people, ignored)


def _keypoints(rect: dict[str, Any]) -> np.ndarray:
    """(15, 3) keypoints of a person; of several points of one joint the first counts."""
    keypoints = np.zeros((len(POSETRACK), 3))
    for point in (rect.get("annopoints") or [{}])[0].get("point") or []:
        joint = _joint(point)
        if joint is not None and keypoints[joint, 2] == 0:
            flag = HIDDEN if (point.get("is_visible") or [1])[0] in NOT_VISIBLE else VISIBLE
            keypoints[joint] = [point["x"][0], point["y"][0], flag]
    if not np.isfinite(keypoints).all():
        raise ValueError("a coordinate of a joint is not a number")
    return keypoints


def _joint(point: dict[str, Any]) -> int | None:
    """Index of a point's joint; None for a null id, and for ids that are none of the 15."""
    number = (point["id"] or [None])[0]
    number = math.nan if number is None else float(number)
    return int(number) if number in range(len(POSETRACK)) else None


def _track(rect: dict[str, Any]) -> int:
    track = (rect.get("track_id") or [None])[0]
    return -1 if track is None else int(track)
