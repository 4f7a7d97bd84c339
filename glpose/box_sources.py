"""Where person boxes come from: annotations, a box file, or a detector that looks at the frames. See SOURCES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from glpose.batch_limit import BatchLimit
from glpose.data.boxes import BoxFile, read_box_file
from glpose.data.dataset import Video
from glpose.data.image_header import probe_image
from glpose.data.video import ImageFrames
from glpose.detection import Detector, detect_people
from glpose.detectors import DETECTORS
from glpose.options import BoxOptions, DetectOptions
from store.errors import DataError


@dataclass(frozen=True)
class Found:
    """Boxes of n people of one video, in frame order.

    frame, person: (n,) int64, person a track id or -1. boxes: (n, 4) float64 xyxy, frame px, not clipped. score: (n,).
    sizes: (n, 2) height and width of their frames. keypoints: of each, (J * 3,) or None. source: where they come from.
    unreadable: frames that could not be looked at, with the reason. notes: what else there is to tell, a line each.
    """

    frame: np.ndarray
    person: np.ndarray
    boxes: np.ndarray
    score: np.ndarray
    sizes: np.ndarray
    keypoints: list[np.ndarray | None]
    source: str
    unreadable: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


# A video and some of its frames, rising -> the boxes in them.
BoxSource = Callable[[Video, np.ndarray], Found]


def annotated_boxes(video: Video, frames: np.ndarray) -> Found:
    """The annotated people. DataError where there are no annotations."""
    notes = video.annotations
    if notes is None:
        split = video.split[frames[0]] if len(frames) else "eval"
        raise DataError(
            f"video {video.name!r} has no annotations: give boxes with detect.{split}.source=file and "
            f"detect.{split}.file=BOXES.json, or detect.{split}.source=cascade_rcnn and detect.detector.checkpoint=FILE"
        )
    rows = np.flatnonzero(np.isin(notes.frame, frames))
    return Found(
        frame=notes.frame[rows],
        person=notes.person[rows],
        boxes=notes.boxes[rows],
        score=np.ones(len(rows)),
        sizes=_sizes(video, notes.frame[rows]),
        keypoints=[own.ravel() if own[:, 2].any() else None for own in notes.keypoints[rows]],
        source=video.box_source,
    )


def boxes_of_file(file: BoxFile) -> BoxSource:
    """The boxes that a file has for the frames' images."""

    def boxes(video: Video, frames: np.ndarray) -> Found:
        per_frame = [(int(frame), *file.of_frame(video.image_keys(int(frame)))) for frame in frames]
        found = _strangers(per_frame, np.zeros((0, 2), np.int64), f"file:{file.path.name}")
        return replace(found, sizes=_sizes(video, found.frame))

    return boxes


def detected_boxes(detector: Detector, source: str, options: DetectOptions, batch_size: int) -> BoxSource:
    """What a detector finds in the frames 0, n, 2n, ... (`options.detector.every`) among those asked for.

    A frame that cannot be read is noted and left out, or with `options.strict` a DataError; so is a video of which no
    frame can be read. Where a GPU's memory does not hold a batch, smaller ones follow.
    """
    limit = BatchLimit("frames", "runtime.frames")

    def boxes(video: Video, frames: np.ndarray) -> Found:
        wanted = frames[frames % options.detector.every == 0]
        unreadable: dict[int, str] = {}
        people = list(
            detect_people(
                video.frames,
                wanted.tolist(),
                lambda images: limit.run(detector, images),
                options.detector,
                options.min_score,
                batch_size,
                None if options.strict else unreadable,
            )
        )
        if unreadable and not people:
            raise DataError(f"no frame of video {video.name!r} can be read; the first: {min(unreadable.items())[1]}")
        per_frame = [(own.frame, own.boxes, own.scores) for own in people]
        sizes = np.array([own.size for own in people for _ in own.boxes], np.int64).reshape(-1, 2)
        found = _strangers(per_frame, sizes, source)
        return replace(found, unreadable=unreadable, notes=limit.told())

    return boxes


def _strangers(per_frame: Sequence[tuple[int, np.ndarray, np.ndarray]], sizes: np.ndarray, source: str) -> Found:
    """People without track or keypoints. per_frame: frame, boxes (m, 4), scores (m,)."""
    frame = np.repeat([frame for frame, *_ in per_frame], [len(scores) for *_, scores in per_frame]).astype(np.int64)
    return Found(
        frame=frame,
        person=np.full(len(frame), -1, np.int64),
        boxes=np.concatenate([np.zeros((0, 4)), *(boxes for _, boxes, _ in per_frame)]),
        score=np.concatenate([np.zeros(0), *(scores for *_, scores in per_frame)]),
        sizes=sizes,
        keypoints=[None] * len(frame),
        source=source,
    )


def _sizes(video: Video, frame: np.ndarray) -> np.ndarray:
    """(n, 2) height and width of each frame; the first one's of those that cannot be read, and of any but images."""
    first = video.frames.size()
    if not isinstance(video.frames, ImageFrames):
        return np.tile(first, (len(frame), 1)).astype(np.int64)
    sizes = {used: _image_size(video.frames.paths[used]) or first for used in set(frame.tolist())}
    return np.array([sizes[used] for used in frame.tolist()], np.int64).reshape(-1, 2)


def _image_size(path: Path) -> tuple[int, int] | None:
    try:
        return probe_image(path)
    except OSError:
        return None


def _detecting(boxes: BoxOptions, options: DetectOptions, device: torch.device, batch_size: int) -> BoxSource:
    detector, name = DETECTORS[boxes.source](options.detector, device)
    return detected_boxes(detector, name, options, batch_size)


def _reading(boxes: BoxOptions, options: DetectOptions, device: torch.device, batch_size: int) -> BoxSource:
    if boxes.file is None:
        raise ValueError("a box file is needed")
    return boxes_of_file(read_box_file(boxes.file))


# By `source`: what makes it, from the split's options and the stage's.
SOURCES: dict[str, Callable[[BoxOptions, DetectOptions, torch.device, int], BoxSource]] = {
    "annotations": lambda boxes, options, device, batch_size: annotated_boxes,
    "file": _reading,
    **dict.fromkeys(DETECTORS, _detecting),
}


def box_sources(options: DetectOptions, device: torch.device, batch_size: int) -> dict[str, BoxSource]:
    """The source of each split, one and the same where they do not differ. batch_size: frames per pass of a detector.

    DataError, CheckpointError or ConfigError where a box file, weights or a function cannot be used.
    """
    different = dict.fromkeys((options.train, options.eval))
    made = {boxes: SOURCES[boxes.source](boxes, options, device, batch_size) for boxes in different}
    return {"train": made[options.train], "eval": made[options.eval]}
