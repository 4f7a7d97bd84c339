"""Data of one's own: a COCO-style annotation file of any number of videos, with any joint set.

| ours | COCO |
|---|---|
| video | `video_id` of an image, called as `videos` says; else `vid_id`; else the folder of `file_name` |
| frame | position by `frame_id`; else, of one folder, by name (img_2 before img_10); else in `images` |
| joints | by name, in any order, from `keypoints` of the category; names that the joint set lacks are dropped |
| x, y | as they stand: both count from 0 |
| flag 0 absent | v = 0, whatever x and y are |
| flag 1 annotated, not visible | v = 1 |
| flag 2 visible | v = 2 |
| box | `bbox` (x, y, width, height); the joints' extent, widened by 30 %, where it is missing |
| person | `track_id`, else `instance_id`, else -1 |
| labelled | `is_labeled`; where it is missing, yes: COCO lists the images that were annotated |

PoseTrack18 files look the same but mean other flags: there v = 1 is visible, and v = 0 with x, y annotated but not
visible. Read here, they lose their hidden joints and have no visible ones; `posetrack18` is their reader.

Of several categories the one that names most of the joints counts, and of equal ones "person". Crowds (`iscrowd` 1)
are regions rather than people: nobody in them is missed. `videos` that no image belongs to are left out. Images without
a folder and without a video id are frames of one video, called as the file is. https://cocodataset.org/#format-data
"""

from __future__ import annotations

import difflib
import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from glpose.data.annotations import MALFORMED, Annotations, assemble, explain, read_annotation_json
from glpose.data.json_files import stem_of
from glpose.data.video import by_number
from glpose.keypoints import ABSENT, HIDDEN, VISIBLE, JointSet
from store.errors import DataError, StoreError
from store.folder import as_unit_name


@dataclass(frozen=True)
class CocoFile:
    """A file's content, and where in it every video is.

    data: the JSON object as it was read; all callers share it, so it must not be changed. videos: name -> its entries
    of `images`, in frame order. rows: image id -> positions in `annotations`.
    """

    path: Path
    data: dict[str, Any]
    videos: dict[str, list[dict[str, Any]]]
    rows: dict[Any, list[int]]


def open_file(path: Path) -> CocoFile:
    """Read a file, plain or gzipped; the last two are kept until they change on disk. DataError, naming the file."""
    if not path.is_file():
        raise DataError(f"annotation file {path} does not exist")
    status = path.stat()
    return _open_file(path, (status.st_size, status.st_mtime_ns))


def video_names(file: CocoFile) -> list[str]:
    """Names of the videos, each fit for a folder: "/" and other characters that are not have become "_"."""
    return list(file.videos)


def parse(file: CocoFile, video: str, joints: JointSet) -> Annotations:
    """One video's annotations. DataError, naming the file, where it lacks the video or a joint, or is malformed."""
    frames = _frames_of(file, video)
    try:
        category, columns = choose_category(file.data["categories"], joints, str(file.path))
        categories = {entry["id"] for entry in file.data["categories"]}
    except MALFORMED as error:
        raise DataError(f"{file.path} is malformed: categories: {explain(error)}") from None
    people, crowds = [], []
    for frame, image in enumerate(frames):
        for row in file.rows[image["id"]]:
            entry = file.data["annotations"][row]
            try:
                if entry["category_id"] not in categories:
                    raise ValueError(f"there is no category {entry['category_id']!r}")
                if entry["category_id"] != category["id"]:
                    continue
                if _is_crowd(entry):
                    crowds.append((frame, _box(entry)))
                else:
                    keypoints = _keypoints(entry, len(category["keypoints"]), columns)
                    people.append((frame, _track(entry), _box(entry), keypoints))
            except MALFORMED as error:
                raise DataError(f"{file.path} is malformed: annotation {row}: {explain(error)}") from None
    return assemble(
        joints,
        frame_names=[image["file_name"] for image in frames],
        image_ids=[str(image["id"]) for image in frames],
        labelled=[bool(image.get("is_labeled", True)) for image in frames],
        people=people,
        ignored=[(frame, box) for frame, box in crowds if np.isfinite(box).all()],
    )


def select_frames(file: CocoFile, video: str, start: int, stop: int) -> dict[str, Any]:
    """The same file, restricted to a video's frames [start, stop), with all that is annotated there, crowds too."""
    images = _frames_of(file, video)[start:stop]
    rows = sorted(row for image in images for row in file.rows[image["id"]])
    selected = {**file.data, "images": images, "annotations": [file.data["annotations"][row] for row in rows]}
    ids = {image["video_id"] for image in images if image.get("video_id") is not None}
    if ids and selected.get("videos"):
        selected["videos"] = [entry for entry in selected["videos"] if entry["id"] in ids]
    return selected


def choose_category(categories: list[dict[str, Any]], joints: JointSet, name: str) -> tuple[dict[str, Any], list[int]]:
    """The category whose keypoints are the joints, and for every joint its position among them.

    DataError, beginning with `name`, where a joint is missing everywhere or several categories fit.
    """
    naming = [entry for entry in categories if entry.get("keypoints")]
    if not naming:
        raise DataError(f"{name}: no category names its keypoints; {joints.name!r} needs {_few(joints.joints)}")

    def fit(entry: dict[str, Any]) -> tuple[int, bool]:
        return len(set(joints.joints) & set(entry["keypoints"])), entry.get("name") == "person"

    best = max(naming, key=fit)
    names = best["keypoints"]
    if missing := [joint for joint in joints.joints if joint not in names]:
        near = difflib.get_close_matches(missing[0], names, 1)
        hint = f"did you mean its {near[0]!r}?" if near else f"it names {_few(names)}"
        raise DataError(f"{name} does not name {_few(missing)} of the joint set {joints.name!r}; {hint}")
    if len(same := [entry for entry in naming if fit(entry) == fit(best)]) > 1:
        called = " and ".join(repr(entry.get("name")) for entry in same[:2])
        raise DataError(f"{name}: categories {called} name the same joints; keep one, or call one 'person'")
    if len(set(names)) < len(names):
        raise DataError(f"{name}: its category names {Counter(names).most_common(1)[0][0]!r} twice")
    return best, [names.index(joint) for joint in joints.joints]


@functools.lru_cache(maxsize=2)
def _open_file(path: Path, version: tuple[int, int]) -> CocoFile:
    """Read and index; version: size and time of the file."""
    data = read_annotation_json(path)
    if "annolist" in data:
        raise DataError(f"{path} is a PoseTrack17 file (annolist), not COCO: set data.kind to posetrack17")
    if missing := [key for key in ("images", "annotations", "categories") if not isinstance(data.get(key), list)]:
        raise DataError(f"{path} is not a COCO file: it has no list {missing[0]!r}")
    try:
        return CocoFile(path, data, videos=_videos(path, data), rows=_rows(data))
    except MALFORMED as error:
        raise DataError(f"{path} is malformed: {explain(error)}") from None


def _rows(data: dict[str, Any]) -> dict[Any, list[int]]:
    """Positions in `annotations` by image id."""
    rows: dict[Any, list[int]] = {image["id"]: [] for image in data["images"]}
    if len(rows) < len(data["images"]):
        raise ValueError("two images have the same id")
    for row, entry in enumerate(data["annotations"]):
        if not isinstance(entry, dict) or "image_id" not in entry:
            raise ValueError(f"annotation {row}: it has no 'image_id'")
        if entry["image_id"] not in rows:
            raise ValueError(f"annotation {row}: there is no image {entry['image_id']!r}")
        rows[entry["image_id"]].append(row)
    return rows


def _videos(path: Path, data: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Name -> images in frame order."""
    images: list[dict[str, Any]] = data["images"]
    for number, image in enumerate(images):
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise ValueError(f"image {number} has no file_name")
    key = next((key for key in ("video_id", "vid_id") if any(image.get(key) is not None for image in images)), None)
    groups: dict[Any, list[dict[str, Any]]] = {}
    for image in images:
        folder = PurePosixPath(image["file_name"]).parent.as_posix()
        video = folder if key is None else image.get(key)
        if video is None:
            raise ValueError(f"image {image['file_name']!r} has no {key!r}, as others have")
        groups.setdefault(video, []).append(image)
    titles = _titles(path, data, key, groups)
    videos: dict[str, list[dict[str, Any]]] = {}
    titled: dict[str, str] = {}
    for video, group in groups.items():
        name = _folder_name(titles[video])
        if name in videos:
            raise ValueError(f"videos {titled[name]!r} and {titles[video]!r} would both be called {name!r}; rename one")
        videos[name], titled[name] = _in_order(titles[video], group, by_name=key is None), titles[video]
    return videos


def _titles(path: Path, data: dict[str, Any], key: str | None, groups: dict[Any, list[Any]]) -> dict[Any, str]:
    """What each video is called. key: of the images' ids of videos; None where these are their folders."""
    if key == "video_id" and data.get("videos"):
        listed = {entry["id"]: entry["name"] for entry in data["videos"]}
        for video, images in groups.items():
            if video not in listed:
                raise ValueError(f"image {images[0]['file_name']!r} is of video {video!r}, which is not in 'videos'")
        return {video: str(listed[video]) for video in groups}
    stem = stem_of(path)
    return {video: stem if key is None and video == "." else str(video) for video in groups}


def _folder_name(title: str) -> str:
    """A video's title as a folder may be called."""
    try:
        return as_unit_name(title)
    except StoreError as error:
        raise ValueError(str(error)) from None


def _in_order(title: str, images: list[dict[str, Any]], by_name: bool) -> list[dict[str, Any]]:
    """One video's images in the order of `frame_id`; where there is none, in that of their names, or as they stand."""
    names = Counter(image["file_name"] for image in images)
    if len(names) < len(images):
        raise ValueError(f"video {title!r} has the image {names.most_common(1)[0][0]!r} twice; list it once")
    frame_ids = [image["frame_id"] for image in images if image.get("frame_id") is not None]
    if not frame_ids:
        key = lambda image: (by_number(image["file_name"]), image["file_name"])  # noqa: E731
        return sorted(images, key=key) if by_name else images
    if len(frame_ids) < len(images):
        raise ValueError(f"video {title!r} has images with and without a frame_id")
    if odd := [frame_id for frame_id in frame_ids if not isinstance(frame_id, int | float)]:
        raise ValueError(f"video {title!r}: the frame_id {odd[0]!r} is no number")
    if len(set(frame_ids)) < len(images):
        twice = Counter(frame_ids).most_common(1)[0][0]
        raise ValueError(f"video {title!r} has two images with frame_id {twice!r}; are they of two videos?")
    return sorted(images, key=lambda image: image["frame_id"])


def _frames_of(file: CocoFile, video: str) -> list[dict[str, Any]]:
    if video not in file.videos:
        raise DataError(f"{file.path} has no video {video!r}; it has {_few(list(file.videos))}")
    return file.videos[video]


def _few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(repr(name) for name in names[:4]) + rest


def _is_crowd(entry: dict[str, Any]) -> bool:
    crowd = entry.get("iscrowd")
    if crowd not in (None, 0, 1):
        raise ValueError(f"its iscrowd is {crowd!r}, neither 0 nor 1")
    return bool(crowd)


def _keypoints(entry: dict[str, Any], named: int, columns: list[int]) -> np.ndarray:
    """(J, 3) of one annotation; a person may have a box alone. named: joints that the file has."""
    keypoints = np.zeros((len(columns), 3))
    points = np.asarray(entry.get("keypoints") or [], np.float64)
    if points.size == 0:
        return keypoints
    if points.size != 3 * named:
        raise ValueError(f"it has {points.size} numbers as keypoints, {named} joints need {3 * named}")
    points = points.reshape(-1, 3)[columns]
    annotated = ~(points[:, 2] <= 0)  # NaN counts as annotated, to be refused
    if not np.isfinite(points[annotated]).all():
        raise ValueError("a coordinate of its keypoints is not a number")
    keypoints[annotated, :2] = points[annotated, :2]
    keypoints[:, 2] = np.select([points[:, 2] >= 2, annotated], [VISIBLE, HIDDEN], ABSENT)
    return keypoints


def _box(entry: dict[str, Any]) -> np.ndarray:
    """(4,) xyxy; NaN where there is none."""
    bbox = entry.get("bbox")
    if not bbox:
        return np.full(4, np.nan)
    box = np.asarray(bbox, np.float64)
    if box.shape != (4,):
        raise ValueError(f"its bbox has {box.size} numbers, not 4")
    if not np.isfinite(box).all():
        raise ValueError("a number of its bbox is not finite")
    box[2:] += box[:2]
    return box


def _track(entry: dict[str, Any]) -> int:
    track = next((entry[key] for key in ("track_id", "instance_id") if entry.get(key) is not None), -1)
    try:
        return int(np.array(int(track), np.int64))  # larger numbers have no place in Annotations
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"its track id {track!r} is no whole number of 64 bits") from None
