"""Prediction files of any system, as those that an evaluation of some videos reads.

| of | a folder | a file |
|---|---|---|
| PoseTrack data | PoseTrack17 or 18 JSON per video | one video's, or COCO results of all |
| JHMDB | pose files (`glpose.data.poses`) per video | one video's |
| COCO-style data | the results in its `keypoints.json` | COCO results |

A video's file is called as its annotation file, `.json` or `.json.gz`. PoseTrack files of whole videos serve where a
part of them is evaluated; frames pair by index, as for poseval. COCO results of PoseTrack18 data name the ids of its
images and have the keypoints of its files, in their order.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glpose.data import posetrack17, posetrack18
from glpose.data.annotations import MALFORMED, explain
from glpose.data.json_files import JSON_ENDINGS, read_json_file, stem_of
from glpose.data.predictions import COCO_FILE
from store.errors import DataError

WHAT = "prediction file"


class Span(NamedTuple):
    """The frames [start, stop) of a video that are evaluated, of `length`."""

    start: int
    stop: int
    length: int


def take_posetrack(source: Path, spans: Mapping[str, Span], truth: Path, out: Path) -> list[str]:
    """Write NAME.json below `out` for every video of `spans` that `source` is of; their names.

    truth: folder of the videos' annotation files, of the evaluated frames alone. DataError where `source` is of none of
    them, has another number of frames, or is malformed.
    """
    if source.is_dir():
        found = {name: read_json_file(path, WHAT) for name in spans if (path := _file_of(source, name)) is not None}
        where = {name: _file_of(source, name) for name in found}
    else:
        content = read_json_file(source, WHAT)
        found = _of_coco(source, content, list(spans), truth) if isinstance(content, list) else {}
        if isinstance(content, dict) and (name := _only_name(source, spans)) is not None:
            found = {name: content}
        where = dict.fromkeys(found, source)
    if not found:
        raise DataError(_of_none(source, spans))
    evaluated = {name: _evaluated(content, spans[name], where[name]) for name, content in found.items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, content in evaluated.items():
        (out / f"{name}.json").write_text(json.dumps(content))
    return list(found)


def take_pose_files(source: Path, videos: Sequence[str], out: Path) -> list[str]:
    """Copy the pose file of every video that `source` has one of; the videos' names. DataError where it has none."""
    files = {name: path for name in videos if (path := _file_of(source, name)) is not None} if source.is_dir() else {}
    if source.is_file() and (name := _only_name(source, videos)) is not None:
        files = {name: source}
    if not files:
        raise DataError(_of_none(source, videos))
    out.mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        shutil.copyfile(path, out / f"{name}{'.json.gz' if path.suffix == '.gz' else '.json'}")
    return list(files)


def take_coco(source: Path, images: Mapping[str, Sequence[Any]], out: Path) -> list[str]:
    """Write the poses of some videos' images as COCO results; the videos that have any.

    images: video -> ids of its images. DataError where `source` has poses of none of them, or holds no list of poses.
    """
    source = source / COCO_FILE if source.is_dir() else source
    content = read_json_file(source, WHAT)
    if not isinstance(content, list):
        raise DataError(f"{WHAT} {source} holds a {type(content).__name__}; COCO results are a list of poses")
    by_image = _by_image(source, content)
    kept = {name: [pose for image in ids for pose in by_image.get(image, ())] for name, ids in images.items()}
    found = [name for name, poses in kept.items() if poses]
    if not found:
        raise DataError(f"{WHAT} {source} has no pose in an image of {_listed(images)}: it goes by the images' ids")
    out.mkdir(parents=True, exist_ok=True)
    (out / COCO_FILE).write_text(json.dumps([pose for poses in kept.values() for pose in poses]))
    return found


def _file_of(folder: Path, name: str) -> Path | None:
    return next((path for ending in JSON_ENDINGS if (path := folder / f"{name}{ending}").is_file()), None)


def _only_name(path: Path, videos: Mapping[str, Any] | Sequence[str]) -> str | None:
    """The video that a single file is of: that of its name, or the only one there is."""
    stem = stem_of(path)
    return stem if stem in videos else next(iter(videos)) if len(videos) == 1 else None


def _of_none(source: Path, videos: Mapping[str, Any] | Sequence[str]) -> str:
    if not source.exists():
        return f"{WHAT} {source} does not exist"
    return f"{source} is of none of the videos {_listed(videos)}: files are called as the annotation files"


def _listed(videos: Mapping[str, Any] | Sequence[str]) -> str:
    names = list(videos)
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _evaluated(content: Any, span: Span, path: Path | None) -> Any:
    """A PoseTrack file's content, of the evaluated frames alone."""
    module, key = (posetrack17, "annolist") if "annolist" in content else (posetrack18, "images")
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise DataError(
            f"{WHAT} {path} holds neither a list 'annolist' (PoseTrack17) nor a list 'images' (PoseTrack18)"
        )
    frames = len(content[key])
    if frames == span.stop - span.start:
        return content
    if frames != span.length:
        raise DataError(
            f"{WHAT} {path} has {frames} frames: its video has {span.length}, of which {span.stop - span.start} are "
            "evaluated"
        )
    try:
        return module.select_frames(content, span.start, span.stop)
    except MALFORMED as error:
        raise DataError(f"{WHAT} {path} is malformed: {explain(error)}") from None


def _of_coco(path: Path, content: list[Any], videos: Sequence[str], truth: Path) -> dict[str, Any]:
    """COCO results as a PoseTrack18 file for every video that they have poses of."""
    by_image, found = _by_image(path, content), {}
    for name in videos:
        annotated = read_json_file(truth / f"{name}.json", "annotation file")
        if "images" not in annotated:
            raise DataError(f"{path} holds COCO results, which go by images' ids: PoseTrack17 files have none")
        people = []
        names = next(one["keypoints"] for one in annotated["categories"] if one.get("name") == "person")
        for pose in (pose for image in annotated["images"] for pose in by_image.get(image["id"], ())):
            try:
                points = [float(value) for value in pose["keypoints"]]
                if len(points) != 3 * len(names):
                    raise ValueError(f"a pose has {len(points)} numbers, {len(names)} keypoints need {3 * len(names)}")
                entry = {"image_id": pose["image_id"], "keypoints": points, "scores": points[2::3]}
            except MALFORMED as error:
                raise DataError(f"{WHAT} {path} is malformed: {explain(error)}") from None
            people.append({**entry, "track_id": len(people)})
        if people:
            found[name] = {key: annotated[key] for key in ("images", "categories")} | {"annotations": people}
    return found


def _by_image(path: Path, poses: list[Any]) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    try:
        for pose in poses:
            found[pose["image_id"]].append(pose)
    except MALFORMED as error:
        raise DataError(f"{WHAT} {path} is malformed: a pose: {explain(error)}") from None
    return found
