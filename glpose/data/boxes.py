"""Person boxes from a file: COCO results JSON, as DCPose, PoseWarper and mmpose users have it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glpose.data.json_files import read_json_file
from store.errors import DataError

PERSON = 1  # COCO's category id
SHOWN = 5  # categories


@dataclass(frozen=True)
class BoxFile:
    """Boxes of a file, grouped by image: key -> rows of `boxes` (n, 4) xyxy frame px and `scores` (n,)."""

    path: Path
    rows: dict[str, list[int]]
    boxes: np.ndarray
    scores: np.ndarray

    def of_frame(self, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (m, 4) and scores (m,) of the image that goes by any of these keys."""
        rows = next((self.rows[key] for key in keys if key in self.rows), [])
        return self.boxes[rows], self.scores[rows]


def read_box_file(path: Path) -> BoxFile:
    """Read `[{"image_id" or "image_name", "bbox": [x, y, w, h], "score", "category_id"}, ...]`; persons only.

    DataError, naming the file and entry, where it is malformed, and where it has boxes, but none of a person.
    """
    entries = read_json_file(path, "box file")
    if not isinstance(entries, list):
        raise DataError(f"box file {path} holds a {type(entries).__name__}; COCO results are a list of boxes")
    rows: dict[str, list[int]] = {}
    boxes, scores, others = [], [], set()
    for number, entry in enumerate(entries):
        try:
            if (category := entry.get("category_id", PERSON)) != PERSON:
                others.add(str(category))
                continue
            key = entry.get("image_name", entry.get("file_name", entry.get("image_id")))
            x, y, width, height = (float(value) for value in entry["bbox"])
            scores.append(float(entry["score"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"box file {path}: entry {number} is malformed ({type(error).__name__} {error})") from None
        if key is None:
            raise DataError(f"box file {path}: entry {number} names no image (image_id, image_name or file_name)")
        rows.setdefault(str(key), []).append(len(boxes))
        boxes.append([x, y, x + width, y + height])
    if others and not boxes:
        raise DataError(
            f"box file {path}: none of its {len(entries)} boxes has category_id {PERSON}, a person's; "
            f"found {', '.join(sorted(others)[:SHOWN])}"
        )
    return BoxFile(path, rows, np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64))
