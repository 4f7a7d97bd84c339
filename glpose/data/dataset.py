"""Which videos a data set has, which split each frame belongs to, and what one video holds."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glpose.data import posetrack17, posetrack18
from glpose.data.annotations import Annotations, read_annotation_json
from glpose.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, FrameSource, ImageFrames, open_frames
from glpose.options import FolderData, PoseTrack17Data, PoseTrack18Data, SplitOptions
from store.errors import DataError
from store.folder import check_unit_name
from store.record import file_digest, fingerprint

Split = Literal["train", "eval"]
FORMATS = {"posetrack18": posetrack18, "posetrack17": posetrack17}


@dataclass(frozen=True)
class VideoRef:
    """Where one video is, before anything of it is opened.

    path: the annotation file, or the video file or image folder where there is no annotation (format "file").
    root: folder that image names in the annotation file are relative to.
    ranges: per split, first frame and end (exclusive; None: the last frame).
    """

    name: str
    format: Literal["posetrack18", "posetrack17", "file"]
    path: Path
    root: Path
    ranges: dict[str, tuple[int, int | None]]


@dataclass(frozen=True)
class Video:
    """One opened video: its frames, annotations (None without) and the split of every frame."""

    name: str
    frames: FrameSource
    annotations: Annotations | None
    split: np.ndarray  # (F,) str, "train", "eval" or ""

    def __len__(self) -> int:
        return len(self.split)


def list_videos(data: PoseTrack18Data | PoseTrack17Data | FolderData) -> list[VideoRef]:
    """Every video of the data set's splits, sorted by name. DataError where a folder is missing or empty."""
    if not data.root.is_dir():
        raise DataError(f"data folder {data.root} does not exist: give it with --set data.root=DIR")
    found: dict[str, VideoRef] = {}
    for split, options in (("train", data.train), ("eval", data.eval)):
        for ref in [] if options is None else _list_split(data, split, options):
            other = found.get(ref.name)
            if other is None:
                found[ref.name] = ref
            elif other.path == ref.path:
                found[ref.name] = replace(other, ranges=_disjoint(ref.name, {**other.ranges, **ref.ranges}))
            else:
                raise DataError(f"two videos are called {ref.name!r}: {other.path} and {ref.path}; rename one")
    return [found[name] for name in sorted(found)]


def open_video(ref: VideoRef) -> Video:
    """Open a video: read its annotation and find its frames. DataError where either cannot be used."""
    if ref.format == "file":
        frames: FrameSource = open_frames(ref.name, ref.path)
        annotations = None
    else:
        annotations = FORMATS[ref.format].parse(ref.path, read_annotation_json(ref.path))
        paths = tuple(ref.root / name for name in annotations.frame_names)
        frames = ImageFrames(ref.name, paths, list(annotations.frame_names))
    return Video(ref.name, frames, annotations, frame_splits(ref, len(frames.names)))


def frame_splits(ref: VideoRef, frames: int) -> np.ndarray:
    """(F,) str: the split of every frame, "" between splits. DataError where a range begins after the last frame."""
    split = np.full(frames, "", dtype="<U5")
    for name, (start, stop) in ref.ranges.items():
        if start >= frames:
            raise DataError(f"video {ref.name!r} has {frames} frames: the {name} split cannot begin at frame {start}")
        split[start:stop] = name
    return split


def inputs_digest(ref: VideoRef, video: Video) -> str:
    """Digest of what a video consists of: frames, annotation file and splits, wherever they lie."""
    annotation = file_digest(ref.path) if video.annotations is not None else ""
    return fingerprint([ref.name, video.frames.fingerprint(), annotation, sorted(ref.ranges.items())])


def ground_truth(ref: VideoRef, start: int, stop: int) -> dict[str, Any]:
    """The annotation file's own content, restricted to the frames [start, stop)."""
    return FORMATS[ref.format].select_frames(read_annotation_json(ref.path), start, stop)


def _list_split(
    data: PoseTrack18Data | PoseTrack17Data | FolderData, split: str, options: SplitOptions
) -> list[VideoRef]:
    if isinstance(data, FolderData):
        paths = _video_paths(data)
    else:
        folder = data.root / data.annotations / options.subset
        if not folder.is_dir():
            raise DataError(f"annotation folder {folder} does not exist (data.annotations, data.{split}.subset)")
        paths = sorted(p for p in folder.iterdir() if p.suffix == ".json" and not p.name.startswith("."))
        if not paths:
            raise DataError(f"{folder} holds no annotation files (*.json)")
    kind = "file" if isinstance(data, FolderData) else data.kind
    refs = [
        VideoRef(
            check_unit_name(path.stem if path.is_file() else path.name), kind, path, data.root, {split: options.frames}
        )
        for path in paths
    ]
    chosen = [ref for ref in refs if fnmatch.fnmatch(ref.name, options.videos)]
    if not chosen:
        near = ", ".join(ref.name for ref in refs[:3])
        raise DataError(f"no video matches data.{split}.videos = {options.videos!r}; there are {near} ...")
    return chosen


def _video_paths(data: FolderData) -> list[Path]:
    if data.files:
        paths = [data.root / name for name in data.files]
        if missing := next((path for path in paths if not path.exists()), None):
            raise DataError(f"video {missing} does not exist (data.files)")
        return paths
    paths = sorted(p for p in data.root.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES or _holds_images(p))
    if not paths:
        kinds = ", ".join(sorted(VIDEO_SUFFIXES))
        raise DataError(f"{data.root} holds no videos: neither files ({kinds}) nor folders of images")
    return paths


def _holds_images(path: Path) -> bool:
    return path.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir())


def _disjoint(name: str, ranges: dict[str, tuple[int, int | None]]) -> dict[str, tuple[int, int | None]]:
    (first, a), (second, b) = sorted(ranges.items(), key=lambda item: item[1][0])
    if a[1] is None or a[1] > b[0]:
        raise DataError(
            f"video {name!r}: frames of the {first} split {list(a)} and the {second} split {list(b)} overlap; "
            "change data.train.frames or data.eval.frames"
        )
    return ranges
