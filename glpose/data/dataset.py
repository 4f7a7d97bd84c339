"""Which videos a data set has, which split each frame belongs to, and what one video holds."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glpose.data import jhmdb, posetrack17, posetrack18
from glpose.data.annotations import Annotations, read_annotation_json
from glpose.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, FrameSource, ImageFrames, open_frames
from glpose.keypoints import JHMDB, POSETRACK, JointSet
from glpose.options import DataOptions, FolderData, JHMDBData, PoseTrack17Data, PoseTrack18Data, SplitOptions
from store.errors import DataError
from store.folder import check_unit_name
from store.record import file_digest, fingerprint

ANNOTATION_SUFFIXES = (".json", ".json.gz")

Split = Literal["train", "eval"]
ListedData = PoseTrack18Data | PoseTrack17Data | JHMDBData | FolderData
FORMATS = {"posetrack18": posetrack18, "posetrack17": posetrack17}  # one JSON file per video
JOINTS = {"posetrack18": POSETRACK, "posetrack17": POSETRACK, "generated": POSETRACK, "jhmdb": JHMDB}  # by data.kind


@dataclass(frozen=True)
class VideoRef:
    """Where one video is, before anything of it is opened.

    path: the annotation file, or the video file or image folder where there is no annotation (format "file").
    root: folder that image names in the annotation are relative to.
    ranges: per split, first frame and end (exclusive; None: the last frame).
    masks: file of the person masks that boxes are taken from, for formats that have one (jhmdb); it may be absent.
    """

    name: str
    format: Literal["posetrack18", "posetrack17", "jhmdb", "file"]
    path: Path
    root: Path
    ranges: dict[str, tuple[int, int | None]]
    masks: Path | None = None


@dataclass(frozen=True)
class Video:
    """One opened video: its frames, annotations (None without) and the split of every frame.

    box_source: what annotated boxes come from, as proposals say it: "annotation", or "annotation:mask" and the like.
    """

    name: str
    frames: FrameSource
    annotations: Annotations | None
    split: np.ndarray  # (F,) str, "train", "eval" or ""
    box_source: str = "annotation"

    def __len__(self) -> int:
        return len(self.split)


def _read_json(ref: VideoRef) -> tuple[Annotations, str]:
    return FORMATS[ref.format].parse(ref.path, read_annotation_json(ref.path)), "annotation"


def _read_jhmdb(ref: VideoRef) -> tuple[Annotations, str]:
    return jhmdb.read(ref.path, ref.root, ref.masks)


# By format: annotations of a video, and where their boxes come from.
READERS: dict[str, Callable[[VideoRef], tuple[Annotations, str]]] = {
    "posetrack18": _read_json,
    "posetrack17": _read_json,
    "jhmdb": _read_jhmdb,
}


def joint_set(data: DataOptions) -> JointSet:
    """The joints that a data set annotates, and that heads trained on it predict. DataError where it has none."""
    if data.kind not in JOINTS:
        raise DataError(f"data of kind {data.kind!r} has no annotated joints: there is nothing to train or score on")
    return JOINTS[data.kind]


def list_videos(data: ListedData) -> list[VideoRef]:
    """Every video of the data set's splits, sorted by name. DataError where a folder is missing or empty."""
    if not data.root.is_dir():
        raise DataError(f"data folder {data.root} does not exist: give it with --set data.root=DIR")
    found: dict[str, VideoRef] = {}
    wanted: list[tuple[Split, SplitOptions | None]] = [("train", data.train), ("eval", data.eval)]
    for split, options in wanted:
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
        files = open_frames(ref.name, ref.path)
        return Video(ref.name, files, None, frame_splits(ref, len(files.names)))
    annotations, box_source = READERS[ref.format](ref)
    if not annotations.frame_names:
        raise DataError(f"video {ref.name!r}: {ref.path} lists no frames")
    paths = tuple(ref.root / _inside(ref, name) for name in annotations.frame_names)
    frames = ImageFrames(ref.name, paths, list(annotations.frame_names))
    return Video(ref.name, frames, annotations, frame_splits(ref, len(paths)), box_source)


def _inside(ref: VideoRef, name: str) -> str:
    """An image name as an annotation file spells it. DataError for one that leads out of the data folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"video {ref.name!r}: {ref.path} names the image {name!r}, outside of the data folder")
    return name


def frame_splits(ref: VideoRef, frames: int) -> np.ndarray:
    """(F,) str: the split of every frame, "" between splits. DataError where a range begins after the last frame."""
    split = np.full(frames, "", dtype="<U5")
    for name, (start, stop) in ref.ranges.items():
        if start >= frames:
            raise DataError(f"video {ref.name!r} has {frames} frames: the {name} split cannot begin at frame {start}")
        split[start:stop] = name
    return split


def inputs_digest(ref: VideoRef, video: Video) -> str:
    """Digest of what a video consists of: frames, annotation file, masks and splits, wherever they lie."""
    annotation = file_digest(ref.path) if video.annotations is not None else ""
    parts = [ref.name, video.frames.fingerprint(), annotation, sorted(ref.ranges.items())]
    if ref.masks is not None:
        parts.append(file_digest(ref.masks) if ref.masks.is_file() else "")
    return fingerprint(parts)


def ground_truth(ref: VideoRef, start: int, stop: int) -> dict[str, Any]:
    """The annotation file's own content, restricted to the frames [start, stop); for the formats of FORMATS."""
    return FORMATS[ref.format].select_frames(read_annotation_json(ref.path), start, stop)


def _list_split(data: ListedData, split: Split, options: SplitOptions) -> list[VideoRef]:
    refs = _jhmdb_refs(data, split, options) if isinstance(data, JHMDBData) else _file_refs(data, split, options)
    chosen = [ref for ref in refs if fnmatch.fnmatch(ref.name, options.videos)]
    if not chosen:
        near = ", ".join(ref.name for ref in refs[:3])
        raise DataError(f"no video matches data.{split}.videos = {options.videos!r}; there are {near} ...")
    return chosen


def _file_refs(
    data: PoseTrack18Data | PoseTrack17Data | FolderData, split: Split, options: SplitOptions
) -> list[VideoRef]:
    if isinstance(data, FolderData):
        paths = _video_paths(data)
    else:
        folder = data.root / data.annotations / options.subset
        if not folder.is_dir():
            raise DataError(f"annotation folder {folder} does not exist (data.annotations, data.{split}.subset)")
        paths = sorted(p for p in folder.iterdir() if p.name.endswith(ANNOTATION_SUFFIXES) and not _hidden(p))
        if not paths:
            raise DataError(f"{folder} holds no annotation files (*.json, *.json.gz)")
    kind = "file" if isinstance(data, FolderData) else data.kind
    return [VideoRef(_video_name(path), kind, path, data.root, {split: options.frames}) for path in paths]


def _video_name(path: Path) -> str:
    """A video is called as its file is, without the suffix, or as its folder of images."""
    if path.is_dir():
        return check_unit_name(path.name)
    return check_unit_name(Path(path.name.removesuffix(".gz")).stem)


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _jhmdb_refs(data: JHMDBData, split: Split, options: SplitOptions) -> list[VideoRef]:
    folder = data.root / data.splits
    if not folder.is_dir():
        raise DataError(f"folder of split files {folder} does not exist (data.splits)")
    return [
        VideoRef(
            name=check_unit_name(jhmdb.video_name(clip.name)),
            format="jhmdb",
            path=data.root / data.annotations / clip.action / clip.name / "joint_positions.mat",
            root=data.root / data.images,
            ranges={split: options.frames},
            masks=data.root / data.masks / clip.action / clip.name / "puppet_mask.mat",
        )
        for clip in jhmdb.read_splits(folder, data.split)
        if clip.split == split
    ]


def _video_paths(data: FolderData) -> list[Path]:
    if data.files:
        paths = [data.root / name for name in data.files]
        if missing := next((path for path in paths if not path.exists()), None):
            raise DataError(f"video {missing} does not exist (data.files)")
        if len(set(paths)) < len(paths):
            raise DataError("data.files names a video twice")
        return paths
    listed = [path for path in data.root.iterdir() if not _hidden(path)]
    paths = sorted(path for path in listed if path.suffix.lower() in VIDEO_SUFFIXES or _holds_images(path))
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
