"""PoseTrack18 annotation files (COCO-like JSON, one per video).

| ours | PoseTrack18 |
|---|---|
| frame | position in `images` |
| 15 joints | of the 17 in `categories`, by name; the ears, never annotated, are dropped |
| flag 0 absent | exactly (0, 0, 0) |
| flag 1 annotated, not visible | (x, y, 0) |
| flag 2 visible | (x, y, v > 0) |
| box | `bbox` (x, y, width, height); the joints' extent where it is missing |
| ignored | extents of `ignore_regions_x`, `ignore_regions_y` |
| labelled | `is_labeled`; where it is missing, whether the frame has annotations |
| tags | fields of ours, which may all be missing (`glpose.data.tags`) |

PoseTrack21 has files of this form for the same videos, in posetrack_data/, with more people, a `person_id` across
videos and `has_labeled_person`, true also in frames whose people have boxes alone. Such a person, its joints all
(0, 0, 0), is a proposal without keypoints. Scores follow poseval here too: it drops frames without annotations, and
what is found in frames of boxes alone is false. (PoseTrack21's own kit drops frames whose `is_labeled` is false.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from glpose.data.annotations import MALFORMED, Annotations, assemble, check_frames, explain, region_box
from glpose.data.tags import read_tags
from glpose.keypoints import HIDDEN, POSETRACK, VISIBLE
from store.errors import DataError

# The 17 names of `categories`, in the files' order.
NAMES = (
    "nose", "head_bottom", "head_top", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip


def parse(path: Path, data: dict[str, Any]) -> Annotations:
    """Read one file's content. DataError, naming the file, for another PoseTrack version or anything malformed."""
    if "annolist" in data:
        raise DataError(f"{path} is a PoseTrack17 file (annolist), not PoseTrack18: set data.kind to posetrack17")
    if missing := [key for key in ("images", "annotations", "categories") if not isinstance(data.get(key), list)]:
        raise DataError(f"{path} is not a PoseTrack18 file: it has no list {missing[0]!r}")
    try:
        return _parse(path, data)
    except MALFORMED as error:
        raise DataError(f"{path} is malformed: {explain(error)}") from None


def version_of(n_val_files: int) -> str:
    """In words, the PoseTrack18 release that a validation folder of so many files looks like: 74 or 170 and more."""
    files = f"{n_val_files} validation file{'' if n_val_files == 1 else 's'}"
    if n_val_files == 74:
        return f"{files}: version 0.2 (version 0.45 has 170 or more)"
    if n_val_files >= 170:
        return f"{files}: version 0.45 (version 0.2 has 74)"
    return f"{files}: neither version 0.2 (74) nor version 0.45 (170 or more)"


def select_frames(data: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """The same file, restricted to the frames [start, stop)."""
    images = data["images"][start:stop]
    ids = {image["id"] for image in images}
    people = [person for person in data["annotations"] if person["image_id"] in ids]
    return {**data, "images": images, "annotations": people}


def _parse(path: Path, data: dict[str, Any]) -> Annotations:
    images: list[dict[str, Any]] = data["images"]
    frame_of = {image["id"]: frame for frame, image in enumerate(images)}
    if len(frame_of) < len(images):
        raise DataError(f"{path} is malformed: two images have the same id")
    category = next((c for c in data["categories"] if c.get("name") == "person"), None)
    if category is None:
        raise DataError(f"{path} is malformed: it has no category 'person'")
    order = POSETRACK.indices_of(category["keypoints"])
    if absent := set(POSETRACK.joints) - set(category["keypoints"]):
        raise DataError(f"{path} does not name the joint {sorted(absent)[0]!r}: is it a PoseTrack18 file?")
    names = [image["file_name"] for image in images]
    check_frames(path, names)
    people = []
    for number, person in enumerate(data["annotations"]):
        try:
            people.append(_person(person, frame_of, order))
        except MALFORMED as error:
            raise DataError(f"{path} is malformed: annotation {number}: {explain(error)}") from None
    annotated = {frame for frame, *_ in people}
    labelled = [bool(image.get("is_labeled", frame in annotated)) for frame, image in enumerate(images)]
    ids = [str(image["id"]) for image in images]
    ignored = [(frame, box) for frame, image in enumerate(images) for box in _ignored(path, frame, image)]
    tags = read_tags(images, data["annotations"], [frame for frame, *_ in people], order, len(POSETRACK))
    return assemble(POSETRACK, names, ids, labelled, people, ignored, tags)


def _ignored(path: Path, frame: int, image: dict[str, Any]) -> list[np.ndarray]:
    """Extents (4,) of a frame's ignore regions."""
    xs, ys = image.get("ignore_regions_x") or (), image.get("ignore_regions_y") or ()
    try:
        return [region_box(x, y) for x, y in zip(xs, ys, strict=False) if x or y]
    except MALFORMED as error:
        raise DataError(f"{path} is malformed: frame {frame}: {explain(error)}") from None


def _person(
    person: dict[str, Any], frame_of: dict[Any, int], order: list[int | None]
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Frame, track id, box (4,) and keypoints (15, 3); order: for every joint of the file, its index here."""
    if person["image_id"] not in frame_of:
        raise ValueError(f"there is no image {person['image_id']}")
    points = np.asarray(person["keypoints"], np.float64)
    if points.size != 3 * len(order):
        raise ValueError(f"it has {points.size} numbers as keypoints, {len(order)} joints need {3 * len(order)}")
    if not np.isfinite(points).all():
        raise ValueError("a coordinate of its keypoints is not a number")
    keypoints = np.zeros((len(POSETRACK), 3))
    for point, target in zip(points.reshape(-1, 3), order, strict=True):
        if target is not None and point.any():
            keypoints[target] = [*point[:2], VISIBLE if point[2] > 0 else HIDDEN]
    bbox = person.get("bbox") or [np.nan] * 4
    if len(bbox) != 4:
        raise ValueError(f"its bbox has {len(bbox)} numbers, not 4")
    x, y, width, height = bbox
    track = person.get("track_id")
    box = np.array([x, y, x + width, y + height], np.float64)
    return frame_of[person["image_id"]], -1 if track is None else int(track), box, keypoints
