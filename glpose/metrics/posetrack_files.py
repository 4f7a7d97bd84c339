"""PoseTrack17 and PoseTrack18 JSON files, plain or gzipped, as flat arrays.

The format is recognised per file, so that annotations in one may meet predictions in the other:

| | PoseTrack17 | PoseTrack18 |
|---|---|---|
| frames | `annolist` | `images` (those of the first video, by the folder in `file_name`) |
| people | `annorect` of the frame | `annotations` with the frame's `image_id` |
| joints | `annopoints[0].point`, `id` 0-14 in the order of `keypoints.POSETRACK` | `keypoints`, named by `categories` |
| absent | no point with that id | exactly (0, 0, 0) |
| hidden | `is_visible` 0 | third value 0 |
| head box | `x1 y1 x2 y2` | `bbox_head` (x, y, width, height) |
| score | `score` of the point | `scores` of the person |
| ignored | `ignore_regions[].point[]` | `ignore_regions_x`, `ignore_regions_y` |
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glpose.data.json_files import read_json_file, stem_of
from glpose.data.video import is_hidden
from glpose.keypoints import HIDDEN, POSETRACK, VISIBLE
from glpose.metrics.posetrack_regions import Regions
from store.errors import DataError

MISSING_SCORE = -9999.0  # what poseval gives a predicted joint without a score
HEAD_FACTOR = 0.6  # head size = this x the diagonal of the head box (MPII's convention, kept by PoseTrack)

_POSETRACK18_NAME = re.compile(r"(^|/)\d+_(mpii|bonn|mpiinew)[^/]*/\d+\.[^/]*$")
NOT_VISIBLE = (0, "0")  # is_visible of hidden joints: MATLAB's converter wrote texts
_NO_VALUE = (None,)
_NO_SCORE = (MISSING_SCORE,)
_BAD_SHAPE = (KeyError, IndexError, TypeError, AttributeError, ValueError)
_Polygon = tuple[int, Sequence[Any], Sequence[Any]]  # frame, x of the corners, y of the corners


@dataclass(frozen=True)
class VideoPoses:
    """One file: P people in frame order, N points in the order of the people, and the regions to ignore.

    Coordinates are pixels in the original frame. Points with a null or unknown id have `joint` -1: they are not scored,
    but count as points of their person.
    """

    path: Path
    frames: int
    person_frame: np.ndarray  # (P,) int64, 0-based frame, ascending
    listed: np.ndarray  # (P,) bool, False for people without a list of points at all
    track_id: np.ndarray  # (P,) float64, NaN where missing
    head_size: np.ndarray  # (P,) float64 px, NaN where there is no head box
    point_person: np.ndarray  # (N,) int64, ascending
    joint: np.ndarray  # (N,) int64, index into POSETRACK.joints or -1
    xy: np.ndarray  # (N, 2) float64 px
    flag: np.ndarray  # (N,) int8, HIDDEN or VISIBLE
    score: np.ndarray  # (N,) float64, MISSING_SCORE where absent
    regions: Regions  # polygons to ignore
    integer: np.ndarray | None  # (P,) bool, PoseTrack18 people whose keypoints are all JSON integers; where asked for
    problems: tuple[str, ...]  # what is missing or left out, so that scores may differ; without the name of the file
    poseval_stops: tuple[str, ...]  # what poseval does not accept, but leaves our scores as they are; likewise


def list_videos(folder: Path) -> dict[str, Path]:
    """The `*.json` and `*.json.gz` files of a folder by name without suffix, in the order of `NAME.json`.

    Raises DataError when the folder is missing, or holds one name both plain and gzipped.
    """
    if not folder.is_dir():
        what = "is a file: give its folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        plain_name = path.name.removesuffix(".gz")
        if not plain_name.endswith(".json") or is_hidden(path):
            continue
        if plain_name in files:
            raise DataError(f"{folder}: holds both {plain_name} and {plain_name}.gz; keep one of them")
        files[plain_name] = path
    return {stem_of(files[name]): files[name] for name in sorted(files)}


def read_video(path: Path, *, integers: bool = False) -> VideoPoses:
    """Read one PoseTrack17 or PoseTrack18 file. Raises DataError naming the file and what is wrong with it.

    integers=True also tells who is written in integers only, which takes a little longer; see `metrics.pckh`.
    """
    with _collector_paused():
        return parse_video(path, read_json_file(path, "PoseTrack file"), integers=integers)


def parse_video(path: Path, data: Any, *, integers: bool = False) -> VideoPoses:
    """The decoded JSON of one file as arrays; `path` is for messages. Raises DataError like `read_video`."""
    if isinstance(data, dict) and isinstance(data.get("annolist"), list):
        return _parse_2017(path, data["annolist"], integers)
    if isinstance(data, dict) and isinstance(data.get("images"), list):
        return _parse_2018(path, data, integers)
    raise DataError(f"{path}: holds neither a list 'annolist' (PoseTrack17) nor a list 'images' (PoseTrack18)")


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Parsing makes hundreds of thousands of containers and no cycles; collecting in between doubles its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _parse_2017(path: Path, annolist: list[Any], integers: bool) -> VideoPoses:
    problems: list[str] = []
    person_frame: list[int] = []
    listed, tracks, heads, sizes = [], [], [], []  # one entry per person
    ids, xs, ys, scores, hidden = [], [], [], [], []  # one entry per point
    polygons: list[_Polygon] = []
    index = 0
    try:
        for index, frame in enumerate(annolist):
            people = frame.get("annorect")
            if people is None:
                problems.append(f"frame {index} has no 'annorect'; read as empty")
                continue
            for person in people:
                person_frame.append(index)
                tracks.append((person.get("track_id") or _NO_VALUE)[0])
                heads.append([(person.get(side) or _NO_VALUE)[0] for side in ("x1", "y1", "x2", "y2")])
                annopoints = person.get("annopoints")
                points = annopoints[0].get("point") if annopoints and annopoints[0] else None
                listed.append(points is not None)
                sizes.append(len(points or ()))
                if points:
                    ids += [(point["id"] or _NO_VALUE)[0] for point in points]
                    xs += [point["x"][0] for point in points]
                    ys += [point["y"][0] for point in points]
                    scores += [(point.get("score") or _NO_SCORE)[0] for point in points]
                    hidden += [(point.get("is_visible") or _NO_VALUE)[0] in NOT_VISIBLE for point in points]
            for region in frame.get("ignore_regions") or ():
                points = region.get("point") or ()
                polygons.append((index, [point["x"][0] for point in points], [point["y"][0] for point in points]))
    except _BAD_SHAPE as error:
        raise DataError(f"{path}: frame {index}: {_explain(error)}") from error
    point_person = np.repeat(np.arange(len(sizes)), np.array(sizes, dtype=np.int64))
    point_frame = np.array(person_frame, dtype=np.int64)[point_person]
    joint = _numbers(path, "id", ids, point_frame)
    scored = (joint >= 0) & (joint < len(POSETRACK)) & (joint == np.floor(joint))
    box_xyxy = _numbers(path, "head box", heads, person_frame, 4)
    return VideoPoses(
        path=path,
        frames=len(annolist),
        person_frame=np.array(person_frame, dtype=np.int64),
        listed=np.array(listed, dtype=bool),
        track_id=_numbers(path, "track_id", tracks, person_frame),
        head_size=_head_size(box_xyxy),
        point_person=point_person,
        joint=np.where(scored, joint, -1).astype(np.int64),
        xy=np.stack([_numbers(path, "x", xs, point_frame), _numbers(path, "y", ys, point_frame)], axis=1),
        flag=np.where(np.array(hidden, dtype=bool), HIDDEN, VISIBLE).astype(np.int8),
        score=_numbers(path, "score", scores, point_frame),
        regions=_regions(path, polygons),
        integer=np.zeros(len(sizes), dtype=bool) if integers else None,
        problems=tuple(problems),
        poseval_stops=(),
    )


def _parse_2018(path: Path, data: dict[str, Any], integers: bool) -> VideoPoses:
    problems: list[str] = []
    stops: list[str] = []
    part = "categories"
    try:
        names = _joint_names(path, data.get("categories"), problems, stops)
        part = "images"
        images = _first_video(data["images"], problems, stops)
        people_of: dict[Any, list[Any]] = {image["id"]: [] for image in data["images"]}
        polygons: list[_Polygon] = [
            (frame, xs, ys)
            for frame, image in enumerate(images)
            for xs, ys in zip(image.get("ignore_regions_x") or (), image.get("ignore_regions_y") or (), strict=False)
        ]
        part = "annotations"
        strays: list[Any] = []
        for person in data.get("annotations") or ():
            people_of.get(person["image_id"], strays).append(person)
        if strays:
            problems.append(f"{len(strays)} annotations belong to no image of the file; ignored")
        people = [person for image in images for person in people_of[image["id"]]]
        person_frame = [frame for frame, image in enumerate(images) for _ in people_of[image["id"]]]
        heads = [(person.get("bbox_head") or _NO_VALUE * 4)[:4] for person in people]
        keypoints = [person["keypoints"] for person in people]
        scores = [(person.get("scores") or [MISSING_SCORE] * len(names))[: len(names)] for person in people]
        tracks = [person.get("track_id") for person in people]
    except _BAD_SHAPE as error:
        raise DataError(f"{path}: {part}: {_explain(error)}") from error
    joint_of = np.array([POSETRACK.joints.index(name) if name in POSETRACK.joints else -1 for name in names])
    xyv = _numbers(path, "keypoints", keypoints, person_frame, 3 * len(names)).reshape(-1, len(names), 3)
    # Joints that PoseTrack does not score (the ears) are dropped here: unlike odd ids in PoseTrack17 they never count.
    point_person, column = np.nonzero((xyv != 0).any(axis=2) & (joint_of >= 0))
    points = xyv[point_person, column]
    box_xywh = _numbers(path, "bbox_head", heads, person_frame, 4)
    box_xyxy = np.concatenate([box_xywh[:, :2], box_xywh[:, :2] + box_xywh[:, 2:]], axis=1)
    return VideoPoses(
        path=path,
        frames=len(images),
        person_frame=np.array(person_frame, dtype=np.int64),
        listed=np.ones(len(people), dtype=bool),
        track_id=_numbers(path, "track_id", tracks, person_frame),
        head_size=_head_size(box_xyxy),
        point_person=point_person,
        joint=joint_of[column],
        xy=points[:, :2],
        flag=np.where(points[:, 2] == 0, HIDDEN, VISIBLE).astype(np.int8),
        score=_numbers(path, "scores", scores, person_frame, len(names))[point_person, column],
        regions=_regions(path, polygons),
        integer=np.array([set(map(type, row)) <= {int, bool} for row in keypoints], dtype=bool) if integers else None,
        problems=tuple(problems),
        poseval_stops=tuple(stops),
    )


def _joint_names(path: Path, categories: Any, problems: list[str], stops: list[str]) -> list[str]:
    """The names of the columns of `keypoints`; poseval wants one category "person" with all 15 joints in 15 or 17."""
    people = [category for category in categories or () if category.get("name") == "person"]
    names = people[0].get("keypoints") if people else None
    if not names:
        raise DataError(f"{path}: no category 'person' that names its keypoints; without it joints cannot be told")
    if len(categories) != 1:
        stops.append(f"holds {len(categories)} categories; 'person' is read")
    missing = [name for name in POSETRACK.joints if name not in names]
    if missing:
        problems.append(f"categories do not name {', '.join(missing)}")
    elif len(names) not in (15, 17):
        stops.append(f"categories name {len(names)} keypoints, not 15 or 17")
    return list(names)


def _first_video(images: list[Any], problems: list[str], stops: list[str]) -> list[Any]:
    """The images of the video that the first image belongs to, as poseval reads a file with several videos."""
    names = [image.get("file_name") or "" for image in images]
    odd = [frame for frame, name in enumerate(names) if not _POSETRACK18_NAME.search(name)]
    if odd:
        example = f"frame {odd[0]}: {names[odd[0]]!r}"
        stops.append(f"{len(odd)} images have no file_name like 000001_mpii_test/000000.jpg ({example})")
    videos = ["".join(name.split("/")[-2:-1]).split("_")[0] for name in names]
    others = [video for video in videos if video != videos[0]]
    if others:
        problems.append(f"holds several videos; only {videos[0]!r} is read, {len(others)} images are left out")
    if not images:
        problems.append("holds no images")
    return [image for image, video in zip(images, videos, strict=True) if video == videos[0]]


def _regions(path: Path, polygons: list[_Polygon]) -> Regions:
    try:
        corners = [corner for _, xs, ys in polygons for corner in zip(xs, ys, strict=False)]
        size = np.array([min(len(xs), len(ys)) for _, xs, ys in polygons], dtype=np.int64)
    except _BAD_SHAPE as error:
        raise DataError(f"{path}: ignore regions: {_explain(error)}") from error
    frame = np.array([frame for frame, _, _ in polygons], dtype=np.int64)
    return Regions(frame, size, _numbers(path, "ignore region", corners, np.repeat(frame, size), 2))


def _head_size(box_xyxy: np.ndarray) -> np.ndarray:
    """(P, 4) head boxes to (P,) sizes in px; from the corners, so that rounding is that of poseval."""
    with np.errstate(over="ignore", invalid="ignore"):  # corners at infinity
        side = box_xyxy[:, 2:] - box_xyxy[:, :2]
        return HEAD_FACTOR * np.sqrt((side * side).sum(axis=1))


def _numbers(path: Path, what: str, rows: Any, frames: Sequence[int] | np.ndarray, width: int = 0) -> np.ndarray:
    """(n,) float64, or (n, width) where a width is given; null becomes NaN. `frames` (n,) locates what is wrong."""
    shape = (width,) if width else ()

    def convert(value: Any, expected: tuple[int, ...]) -> np.ndarray | None:
        try:
            array = np.array(value, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            return None
        return array if array.shape == expected else None

    array = convert(rows, (len(rows), *shape)) if len(rows) else np.zeros((0, *shape))
    if array is not None:
        return array
    bad = next(k for k, row in enumerate(rows) if convert(row, shape) is None)
    expected = f"{width} numbers" if width else "a number"
    row = rows[bad]
    given = len(row) if isinstance(row, list) and width and len(row) != width else repr(row)[:80]
    raise DataError(f"{path}: frame {frames[bad]}: {what} should be {expected}, not {given}")


def _explain(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else f"not in the form of PoseTrack files ({error})"
