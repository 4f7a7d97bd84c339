"""Annotations and results as pycocotools indexes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pycocotools.coco import COCO

CATEGORY = 1  # the one that everything belongs to


def as_coco(images: Iterable[int], entries: Sequence[dict[str, Any]]) -> COCO:
    """Entries of `images`, numbered from 1: to pycocotools, an id of 0 means no match."""
    dataset: Any = {
        "images": [{"id": number} for number in images],
        "categories": [{"id": CATEGORY}],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(entries, 1)],
    }
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco
