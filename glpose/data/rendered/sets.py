"""Sets of clips that share nothing: no body, and no seed of scenes, clothes and motion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ClipSet:
    """bodies: rows of the baked meshes, whose mixtures appear; seed: added to that of the data."""

    bodies: tuple[int, ...]
    seed: int


# `pretrain` is for backbone and detector: heads trained on features of a backbone that was fitted to the same clips
# learn to do without their references.
SETS = {
    "pretrain": ClipSet(tuple(range(0, 12)), 0),
    "train": ClipSet(tuple(range(12, 18)), 1_000_000),
    "val": ClipSet(tuple(range(18, 21)), 2_000_000),
    "test": ClipSet(tuple(range(21, 24)), 3_000_000),
}


def labels_digest(files: Iterable[Path]) -> str:
    """16 hex digits of what annotation files that `write_clip` wrote say of joints, boxes and tags, to 0.1 px.

    Tells whether two machines have the same clips; it is of labels, since decoders and encoders change pixels.
    """
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda file: file.name):
        data = json.loads(path.read_text(encoding="utf-8"))
        frames = {image["id"]: index for index, image in enumerate(data["images"])}
        for person in data["annotations"]:
            numbers = [round(10 * value) for value in (*person["keypoints"], *person["bbox"], *person["bbox_head"])]
            about = [path.stem, frames[person["image_id"]], person["track_id"], *numbers, *person["occlusion"]]
            digest.update(json.dumps([*about, person["action"]]).encode())
    return digest.hexdigest()[:16]
