"""COCO's average precision of person boxes, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from glpose.metrics.coco_entries import CATEGORY, as_coco

MAX_BOXES = (1, 10, 100)  # per image: COCO's maxDets; AP is at the last


@dataclass(frozen=True)
class DetectionAP:
    """Percent, NaN where nobody is annotated. ap: mean over IoU 0.50:0.05:0.95; ap50, ap75: at one IoU."""

    ap: float
    ap50: float
    ap75: float
    images: int
    people: int


def detection_ap(
    annotated: Sequence[np.ndarray],
    ignored: Sequence[np.ndarray],
    detected: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
) -> DetectionAP:
    """Score detections, one item of each sequence per image.

    annotated: (n, 4) xyxy px. ignored: (m, 4) regions in which further detections are neither right nor wrong (COCO's
    crowds). detected: (d, 4), scores: (d,); of every image the 100 of highest score count.
    """
    people: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image, (boxes, regions) in enumerate(zip(annotated, ignored, strict=True), start=1):
        people += [{**_entry(image, box), "iscrowd": 0} for box in boxes]
        people += [{**_entry(image, box), "iscrowd": 1} for box in regions]
    for image, (boxes, own) in enumerate(zip(detected, scores, strict=True), start=1):
        found += [{**_entry(image, box), "score": float(score)} for box, score in zip(boxes, own, strict=True)]
    images = range(1, len(annotated) + 1)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        scorer = COCOeval(as_coco(images, people), as_coco(images, found), "bbox")
        scorer.params.maxDets = list(MAX_BOXES)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    ap, ap50, ap75 = (math.nan if value < 0 else 100.0 * float(value) for value in scorer.stats[:3])
    return DetectionAP(ap, ap50, ap75, len(annotated), sum(not entry["iscrowd"] for entry in people))


def _entry(image: int, xyxy: np.ndarray) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in xyxy)
    bbox = [x1, y1, x2 - x1, y2 - y1]
    return {"image_id": image, "category_id": CATEGORY, "bbox": bbox, "area": bbox[2] * bbox[3]}
