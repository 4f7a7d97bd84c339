"""PoseTrack17 annotation files (annolist JSON, one per video).

| ours | PoseTrack17 |
|---|---|
| frame | position in `annolist` |
| 15 joints | `annopoints[0].point`, by `id`: poseval's order, which is ours |
| flag 0 absent | no point with that id |
| flag 1 annotated, not visible | `is_visible` 0 |
| flag 2 visible | `is_visible` 1, or not given |
| box | the joints' extent, widened by 30 % (the files hold head boxes only) |
| labelled | the frame has people |
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from glpose.data.annotations import Annotations, assemble
from glpose.keypoints import HIDDEN, POSETRACK, VISIBLE
from store.errors import DataError


def parse(path: Path, data: dict[str, Any]) -> Annotations:
    """Read one file's content. DataError, naming the file, for another PoseTrack version or anything malformed."""
    if "images" in data and "annolist" not in data:
        raise DataError(f"{path} is a PoseTrack18 file (images), not PoseTrack17: set data.kind to posetrack18")
    if not isinstance(data.get("annolist"), list):
        raise DataError(f"{path} is not a PoseTrack17 file: it has no list 'annolist'")
    try:
        return _parse(data)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is malformed: {type(error).__name__} {error}") from None


def select_frames(data: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """The same file, restricted to the frames [start, stop)."""
    return {**data, "annolist": data["annolist"][start:stop]}


def _parse(data: dict[str, Any]) -> Annotations:
    names, labelled, people = [], [], []
    for frame, entry in enumerate(data["annolist"]):
        names.append(entry["image"][0]["name"])
        rects = entry.get("annorect") or []
        labelled.append(bool(rects))
        for rect in rects:
            points = (rect.get("annopoints") or [{}])[0].get("point") or []
            keypoints = np.zeros((len(POSETRACK), 3))
            for point in points:
                joint = point["id"][0]
                if joint is not None and 0 <= joint < len(POSETRACK) and keypoints[joint, 2] == 0:
                    visible = (point.get("is_visible") or [1])[0]
                    flag = HIDDEN if visible in (0, "0", False) else VISIBLE
                    keypoints[joint] = [point["x"][0], point["y"][0], flag]
            if keypoints[:, 2].any():
                people.append((frame, int((rect.get("track_id") or [-1])[0]), np.full(4, np.nan), keypoints))
    return assemble(POSETRACK, names, names, labelled, people)
