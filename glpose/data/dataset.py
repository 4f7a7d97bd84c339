"""What one video of a data set holds: frames, annotations, and the split of every frame."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glpose.data import annolist_mat, coco, jhmdb, posetrack17, posetrack18
from glpose.data.annotations import Annotations, read_annotation_json
from glpose.data.joint_sets import read_joint_set
from glpose.data.video import FrameSource, ImageFrames, VideoFileFrames, open_frames
from glpose.keypoints import JHMDB, POSETRACK, JointSet
from glpose.options import CocoData, DataOptions
from store.errors import DataError
from store.record import file_digest, fingerprint

MAT = ".mat"  # of PoseTrack17's annotations as MATLAB files

# One JSON file per video; PoseTrack21's are PoseTrack18's with other people in them.
FORMATS = {"posetrack18": posetrack18, "posetrack21": posetrack18, "posetrack17": posetrack17}
JOINTS = {**dict.fromkeys((*FORMATS, "rendered"), POSETRACK), "jhmdb": JHMDB}  # by data.kind


@dataclass(frozen=True)
class VideoRef:
    """Where one video is, before anything of it is opened.

    path: the annotation file, or the video file or image folder where there is no annotation (format "file").
    root: folder that image names in the annotation are relative to.
    ranges: per split, first frame and end (exclusive; None: the last frame).
    part: which video of a file that holds several, by its name there; empty: the file is one video.
    masks: file of the person masks that boxes are taken from, for formats that have one (jhmdb); it may be absent.
    video: file that frames are taken from where their folder is absent, for formats that have both (jhmdb).
    joints: the joint set's YAML, for data with one of its own (coco).
    """

    name: str
    format: Literal["posetrack18", "posetrack21", "posetrack17", "jhmdb", "coco", "file"]
    path: Path
    root: Path
    ranges: dict[str, tuple[int, int | None]]
    part: str = ""
    masks: Path | None = None
    video: Path | None = None
    joints: Path | None = None


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

    def image_keys(self, frame: int) -> list[str]:
        """What a box file may call a frame's image: its name, or its id in the annotations."""
        ids = [] if self.annotations is None else [self.annotations.image_ids[frame]]
        return [self.frames.names[frame], *ids]


def _read_posetrack(ref: VideoRef) -> tuple[Annotations, FrameSource, str]:
    annotations = FORMATS[ref.format].parse(ref.path, _content(ref))
    return annotations, _images(ref, annotations), "annotation"


def _read_jhmdb(ref: VideoRef) -> tuple[Annotations, FrameSource, str]:
    return jhmdb.read(ref.path, ref.root, ref.video, ref.masks)


def _read_coco(ref: VideoRef) -> tuple[Annotations, FrameSource, str]:
    annotations = coco.parse(coco.open_file(ref.path), ref.part, read_joint_set(_joints_file(ref)))
    return annotations, _images(ref, annotations), "annotation"


# By format: annotations of a video, its frames, and where its boxes come from.
READERS: dict[str, Callable[[VideoRef], tuple[Annotations, FrameSource, str]]] = {
    **dict.fromkeys(FORMATS, _read_posetrack),
    "jhmdb": _read_jhmdb,
    "coco": _read_coco,
}


def joint_set(data: DataOptions) -> JointSet:
    """The joints that a data set annotates, and that heads trained on it predict. DataError where it has none."""
    if isinstance(data, CocoData):
        return read_joint_set(data.joints)
    if data.kind not in JOINTS:
        raise DataError(f"data of kind {data.kind!r} has no annotated joints: there is nothing to train or score on")
    return JOINTS[data.kind]


def open_video(ref: VideoRef) -> Video:
    """Open a video: read its annotation and find its frames. DataError where either cannot be used."""
    if ref.format == "file":
        files = open_frames(ref.name, ref.path)
        return Video(ref.name, files, None, frame_splits(ref, len(files.names)))
    annotations, frames, box_source = READERS[ref.format](ref)
    return Video(ref.name, frames, annotations, frame_splits(ref, len(frames.names)), box_source)


def _content(ref: VideoRef) -> dict[str, Any]:
    """What an annotation file says of one video, in the structure of its JSON files."""
    if ref.path.suffix == MAT:
        return annolist_mat.read(ref.path, ref.part, ref.root)
    return read_annotation_json(ref.path)


def _joints_file(ref: VideoRef) -> Path:
    if ref.joints is None:
        raise ValueError(f"a {ref.format} video needs the file of its joint set")
    return ref.joints


def _images(ref: VideoRef, annotations: Annotations) -> FrameSource:
    """The images that an annotation file lists; of FOLDER.mp4 where their folder is absent and that is there."""
    names = list(annotations.frame_names)
    if not names:
        raise DataError(f"video {ref.name!r}: {ref.path} lists no frames")
    paths = tuple(ref.root / _inside(ref, name) for name in names)
    folder = paths[0].parent
    film = folder.with_name(f"{folder.name}.mp4")
    if folder.exists() or not film.is_file() or any(path.parent != folder for path in paths):
        return ImageFrames(ref.name, paths, names)
    found = len(open_frames(ref.name, film).names)
    if found != len(names):
        raise DataError(f"video {ref.name!r}: {ref.path} lists {len(names)} frames, {film} has {found}")
    return VideoFileFrames(ref.name, film, names)


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
    parts = [ref.name, video.frames.fingerprint(), _annotation_digest(ref, video), sorted(ref.ranges.items())]
    if ref.masks is not None:
        parts.append(file_digest(ref.masks) if ref.masks.is_file() else "")
    return fingerprint(parts)


def _annotation_digest(ref: VideoRef, video: Video) -> str:
    if video.annotations is None:
        return ""
    if ref.format != "coco":
        return file_digest(ref.path)
    # of one video, not of the file: others in it may change; and of the joints, whose order proposals keep
    content = ground_truth(ref, 0, len(video))
    text = json.dumps([content, video.annotations.joints.joints], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def ground_truth(ref: VideoRef, start: int, stop: int) -> dict[str, Any]:
    """The annotation file's own content, restricted to the frames [start, stop); for FORMATS and coco."""
    if ref.format == "coco":
        return coco.select_frames(coco.open_file(ref.path), ref.part, start, stop)
    return FORMATS[ref.format].select_frames(_content(ref), start, stop)
