"""Annotated frames as a detector trains on them: in random order, size, place and colours, in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from glpose.ahead import batches_ahead
from glpose.data.dataset import Video
from glpose.data.video import read_frame
from glpose.geometry import clip_boxes
from glpose.models.cascade_rcnn import PIXEL_MEAN, resized_size
from glpose.options import TrainDetectorOptions

LEAST_SIDE = 4  # px of the network's input: smaller people are neither examples nor counterexamples
LEAST_SHARE = 0.3  # of a person within the picture, below which it is the same


@dataclass(frozen=True)
class LabelledFrame:
    """A frame whose people are annotated.

    image: reads it, (h, w, 3) uint8 BGR; DataError where it cannot be read. boxes: (n, 4), ignored: (m, 4) xyxy, frame
    px. tall: higher than wide.
    """

    image: Callable[[], np.ndarray]
    boxes: np.ndarray
    ignored: np.ndarray
    tall: bool


@dataclass(frozen=True)
class Picture:
    """What a detector is shown: pixels (H, W, 3) uint8 BGR; in its px, people (n, 4), ignored regions (m, 4)."""

    pixels: np.ndarray
    people: np.ndarray
    ignored: np.ndarray


def labelled_frames(videos: Sequence[Video], split: str) -> list[LabelledFrame]:
    """The labelled frames of a split, those without people too."""
    out = []
    for video in videos:
        notes = video.annotations
        if notes is None:
            continue
        height, width = video.frames.size()
        for frame in np.flatnonzero((video.split == split) & notes.labelled).tolist():
            boxes, usable = clip_boxes(notes.boxes[notes.frame == frame], height, width)
            ignored, visible = clip_boxes(notes.ignored_boxes[notes.ignored_frame == frame], height, width)
            image = partial(read_frame, video.frames, frame)
            out.append(LabelledFrame(image, boxes[usable], ignored[visible], height > width))
    return out


def augment(
    rng: np.random.Generator, image: np.ndarray, frame: LabelledFrame, options: TrainDetectorOptions
) -> Picture:
    """A frame at a random size and place on a canvas of `options.size`, mirrored or not, its colours changed.

    image: the frame's, (h, w, 3) uint8 BGR. People too small or mostly outside now belong to what is ignored.
    """
    width, height = options.size[::-1] if frame.tall else options.size
    fitted = resized_size(image.shape[0], image.shape[1], options.size)
    factor = float(np.exp(rng.uniform(*np.log(options.scale))))
    high, wide = (max(1, round(side * factor)) for side in fitted)
    top, left = (int(rng.integers(min(0, room), max(0, room) + 1)) for room in (height - high, width - wide))
    resized = cv2.resize(image, (wide, high), interpolation=cv2.INTER_LINEAR)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = np.round(PIXEL_MEAN[::-1])
    rows, columns = slice(max(0, top), min(height, top + high)), slice(max(0, left), min(width, left + wide))
    pixels[rows, columns] = resized[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]

    factors = np.array([wide / image.shape[1], high / image.shape[0]] * 2)
    people, ignored = (boxes * factors + [left, top, left, top] for boxes in (frame.boxes, frame.ignored))
    if rng.random() < options.flip:
        pixels, people, ignored = pixels[:, ::-1], _mirrored(people, width), _mirrored(ignored, width)
    seen, _ = clip_boxes(people, height, width)
    sides, whole = seen[:, 2:] - seen[:, :2], (people[:, 2:] - people[:, :2]).prod(axis=1)
    clear = (sides >= LEAST_SIDE).all(axis=1) & (sides.prod(axis=1) >= LEAST_SHARE * whole)
    ignored, there = clip_boxes(np.concatenate([ignored, people[~clear]]), height, width)
    pixels = _recoloured(rng, pixels, options.colour)
    return Picture(pixels, seen[clear].astype(np.float32), ignored[there].astype(np.float32))


def _mirrored(boxes: np.ndarray, width: int) -> np.ndarray:
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def _recoloured(rng: np.random.Generator, picture: np.ndarray, change: float) -> np.ndarray:
    """Other saturation, contrast and brightness, each by a factor of 1 - change .. 1 + change."""
    saturation, contrast, brightness = rng.uniform(1 - change, 1 + change, 3).astype(np.float32)
    x = picture.astype(np.float32)
    grey = x.mean(axis=2, keepdims=True)
    x = grey + (x - grey) * saturation
    x = (x - 128) * contrast + 128
    return np.clip(x * brightness, 0, 255).astype(np.uint8)


def batches(
    options: TrainDetectorOptions, frames: Sequence[LabelledFrame], start: int, workers: int
) -> Iterator[list[Picture]]:
    """The batches of the steps from `start` on, drawn ahead by `workers` threads. DataError for an unreadable frame."""
    return batches_ahead(_batches(options, frames, start), workers)


def _batches(
    options: TrainDetectorOptions, frames: Sequence[LabelledFrame], start: int
) -> Iterator[list[Callable[[], Picture]]]:
    per_epoch = len(epoch_batches(options, frames, 0))
    shuffled: list[list[LabelledFrame]] = []
    for step in range(start, options.steps):
        epoch, number = divmod(step, per_epoch)
        if number == 0 or not shuffled:
            shuffled = epoch_batches(options, frames, epoch)
        yield [partial(_draw, options, frame, step, slot) for slot, frame in enumerate(shuffled[number])]


def epoch_batches(
    options: TrainDetectorOptions, frames: Sequence[LabelledFrame], epoch: int
) -> list[list[LabelledFrame]]:
    """Every frame once, in the epoch's own order; wide and tall ones apart, the last batch of each filled up."""
    rng = np.random.default_rng([options.seed, epoch, 0])
    groups: dict[bool, list[LabelledFrame]] = defaultdict(list)
    for frame in frames:
        groups[frame.tall].append(frame)
    out = []
    for _, group in sorted(groups.items()):
        count = -(-len(group) // options.batch_size)
        rows = np.resize(rng.permutation(len(group)), (count, options.batch_size))
        out += [[group[row] for row in batch] for batch in rows.tolist()]
    return [out[number] for number in rng.permutation(len(out))]


def _draw(options: TrainDetectorOptions, frame: LabelledFrame, step: int, slot: int) -> Picture:
    return augment(np.random.default_rng([options.seed, step, slot, 1]), frame.image(), frame, options)
