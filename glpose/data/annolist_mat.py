"""PoseTrack17's annotations as MATLAB files, read into the structure of its JSON files (`posetrack17`).

Two forms, told apart by the fields of `annolist`. The second, the ancestor of PoseTrack17 (Iqbal et al., CVPR 2017),
holds several videos in one file.

| JSON | PoseTrack17 as released: `annolist(f)` | its ancestor: `annolist(v)`, f = 1 .. `num_frames` |
|---|---|---|
| video | the file | `name` |
| `image` | `image.name` | none: the f-th file of the folder NAME, which must hold `num_frames` images |
| person | `annorect(p)` | `annopoints{p, f}`, empty where person p is not in frame f |
| `track_id` | `annorect(p).track_id` | p - 1 |
| `point` | `annorect(p).annopoints.point(k)` | `annopoints{p, f}.point(k)` |
| `id` | `id`: PoseTrack's | `id`: MPII's 16 joints, by `MPII_IDS`; there is no nose |
| `x`, `y` | as they are | as they are: the same clip as PoseTrack18 JSON differs by its rounding, 0.005 px, not by 1 |
| `is_visible` | `is_visible`, where given | `is_visible` |
| head box | `x1 y1 x2 y2`, where given | `head_rect` (x1, y1, x2, y2); empty for most people of the training file |
| `ignore_regions` | `ignore_regions(k).point`: `x`, `y` | none |
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glpose.data.annotations import MALFORMED, explain, read_mat
from glpose.data.video import open_frames
from store.errors import DataError

# MPII's joint ids -> PoseTrack's. Its pelvis (6) and thorax (7) have none; its "upper neck" is our head_bottom.
MPII_IDS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 8: 12, 9: 14, 10: 6, 11: 7, 12: 8, 13: 9, 14: 10, 15: 11}

HEAD = ("x1", "y1", "x2", "y2")
POINT = ("id", "x", "y", "is_visible")
COMPRESSED = 15  # of MAT-files' data types
_NOTHING = np.empty(0)


@dataclass(frozen=True)
class _Person:
    """A person of one frame, NaN where something is not given. head: as `HEAD`. points: (n, 4) as `POINT`, or none."""

    track: float
    head: tuple[float, ...]
    points: np.ndarray | None


@dataclass(frozen=True)
class _Frame:
    """A frame; name: of its image, or "" where the file names none. regions: (n, 2) corners each."""

    name: str
    people: list[_Person]
    regions: list[np.ndarray]


def parts(path: Path) -> list[str]:
    """Names of the videos of a file that holds several; empty for one video, which goes by the file's name.

    DataError where a file that holds several cannot be read.
    """
    return [name for name in _load(path, _version(path)) if name] if _lists_videos(path) else []


def read(path: Path, part: str, images: Path) -> dict[str, Any]:
    """One video as the content of a PoseTrack17 JSON file. part: its name in a file that holds several, or "".

    images: folder of the folder `part` of its images. DataError, naming file or folder, where one cannot be used.
    """
    videos = _load(path, _version(path))
    if part not in videos:
        raise DataError(f"{path} does not hold the video {part!r}, but {', '.join(list(videos)[:3])} ...")
    frames = videos[part]
    names = _image_names(path, part, images / part, len(frames)) if part else [frame.name for frame in frames]
    return {"annolist": [_entry(name, frame) for name, frame in zip(names, frames, strict=True)]}


def _entry(name: str, frame: _Frame) -> dict[str, Any]:
    regions = [{"point": [{"x": [x], "y": [y]} for x, y in corners.tolist()]} for corners in frame.regions]
    people = [_annorect(person) for person in frame.people]
    return {"image": [{"name": name}], "annorect": people, "ignore_regions": regions}


def _annorect(person: _Person) -> dict[str, Any]:
    rect: dict[str, Any] = {}
    if all(map(math.isfinite, person.head)):
        rect |= {side: [value] for side, value in zip(HEAD, person.head, strict=True)}
    if math.isfinite(person.track):
        rect["track_id"] = [int(person.track)]
    if person.points is not None:
        rect["annopoints"] = [{"point": [_point(*values) for values in person.points.tolist()]}]
    return rect


def _point(joint: float, x: float, y: float, visible: float) -> dict[str, Any]:
    point: dict[str, Any] = {"id": [int(joint) if math.isfinite(joint) else None], "x": [x], "y": [y]}
    return {**point, "is_visible": [int(visible)]} if math.isfinite(visible) else point


def _image_names(path: Path, part: str, folder: Path, count: int) -> list[str]:
    """NAME/IMAGE of the frames, by number. DataError where there are not as many images as frames."""
    if not folder.is_dir():
        raise DataError(f"{folder}, the frames of video {part!r} of {path}, does not exist (data.images)")
    names = open_frames(part, folder).names
    if len(names) != count:
        raise DataError(f"{folder} holds {len(names)} images; {path} annotates {count} frames of video {part!r}")
    return names


def _version(path: Path) -> tuple[int, int]:
    """Time and size of a file. DataError where it is absent."""
    try:
        status = path.stat()
    except OSError:
        raise DataError(f"annotation file {path} does not exist") from None
    return status.st_mtime_ns, status.st_size


def _lists_videos(path: Path) -> bool:
    """Whether `annolist` lists videos, not frames.

    Its field names come first: files are not read whole for this, since listing a release would take a minute.
    """
    try:
        with open(path, "rb") as handle:
            order = "little" if handle.read(128)[126:] == b"IM" else "big"
            while len(tag := handle.read(8)) == 8:
                kind, length, start = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order), handle.tell()
                head = handle.read(min(length, 2048))
                head = zlib.decompressobj().decompress(head, 2048) if kind == COMPRESSED else head
                if b"annolist" in head[:80]:
                    return b"num_frames" in head
                handle.seek(start + length)
    except (OSError, zlib.error):
        pass  # damaged: whoever reads the file says so
    return False


@functools.lru_cache(maxsize=8)
def _load(path: Path, version: tuple[int, int]) -> dict[str, list[_Frame]]:
    """Every video of a file by its name, or one called "". A changed file (version) is read anew."""
    annolist = read_mat(path, "annolist")
    if annolist is None or annolist.dtype.names is None:
        raise DataError(f"{path} holds no struct called 'annolist': is it PoseTrack17's?")
    try:
        if "num_frames" not in annolist.dtype.names:
            return {"": [_frame(entry) for entry in _structs(annolist)]}
        videos = [(_text(entry, "name"), _frames(entry)) for entry in _structs(annolist)]
    except MALFORMED as error:
        raise DataError(f"{path} is malformed: {explain(error)}") from None
    names = [name for name, _ in videos]
    if "" in names:
        raise DataError(f"{path} is malformed: its video {names.index('') + 1} has no name")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path} is malformed: two videos are called {twice!r}")
    return dict(videos)


def _frame(entry: np.void) -> _Frame:
    """A frame of the released form."""
    image = next(_structs(_field(entry, "image")), None)
    people = []
    for rect in _structs(_field(entry, "annorect")):
        head = tuple(_number(_field(rect, side)) for side in HEAD)
        annopoints = next(_structs(_field(rect, "annopoints")), None)
        points = None if annopoints is None else _columns(_field(annopoints, "point"), POINT)
        people.append(_Person(_number(_field(rect, "track_id")), head, points))
    regions = [_columns(_field(region, "point"), ("x", "y")) for region in _structs(_field(entry, "ignore_regions"))]
    return _Frame("" if image is None else _text(image, "name"), people, regions)


def _frames(entry: np.void) -> list[_Frame]:
    """The frames of a video of the ancestral form."""
    count, cells = int(_number(entry["num_frames"])), entry["annopoints"]
    if cells.size and (cells.ndim != 2 or cells.shape[1] != count):
        raise ValueError(f"video {_text(entry, 'name')!r}: annopoints is {cells.shape}, not (people, {count} frames)")
    frames = [_Frame("", [], []) for _ in range(count)]
    for (track, frame), cell in np.ndenumerate(cells):
        for person in _structs(cell):
            points, head = _columns(_field(person, "point"), POINT), _field(person, "head_rect")
            points[:, 0] = [MPII_IDS.get(joint, np.nan) for joint in points[:, 0]]
            box = tuple(map(float, head.ravel())) if head.size == len(HEAD) else (math.nan,) * len(HEAD)
            frames[frame].people.append(_Person(track, box, points))
    return frames


def _structs(value: np.ndarray) -> Iterator[np.void]:
    """The elements of a struct array, or of the struct arrays in a cell array; none of MATLAB's empty matrices."""
    if value.dtype.names is not None:
        yield from value.ravel(order="F")
    elif value.dtype == object:
        for cell in value.ravel(order="F"):
            yield from _structs(cell)


def _columns(structs: np.ndarray, fields: Sequence[str]) -> np.ndarray:
    """(n, fields) float64 numbers of n structs, NaN where a field is empty or missing."""
    names = structs.dtype.names or ()
    size = structs.size if names else 0  # MATLAB's empty matrix is no struct array
    columns = [
        [_number(value) for value in structs[field].ravel()] if field in names else [math.nan] * size
        for field in fields
    ]
    return np.array(columns, np.float64).T


def _field(struct: np.void, name: str) -> np.ndarray:
    return struct[name] if name in (struct.dtype.names or ()) else _NOTHING


def _number(value: np.ndarray) -> float:
    """The first number of a field, spelt as text or not; NaN of an empty one."""
    return float(value.flat[0]) if value.size else math.nan


def _text(struct: np.void, name: str) -> str:
    value = _field(struct, name)
    return str(value.flat[0]) if value.size else ""
