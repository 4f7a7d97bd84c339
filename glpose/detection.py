"""People in the frames of one video, by a detector: frames decoded once and ahead, in batches, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import nms

from glpose.ahead import ahead
from glpose.data.video import FrameSource
from glpose.models.cascade_rcnn import PERSON, Detections
from glpose.options import DetectorOptions
from store.errors import DataError

# Images (h, w, 3) uint8 BGR, all of one size -> what each one shows, in their order; boxes in the image's px.
Detector = Callable[[Sequence[np.ndarray]], Sequence[Detections]]


@dataclass(frozen=True)
class FramePeople:
    """People of one frame, best first. boxes: (n, 4) float64 xyxy, frame px. scores: (n,). size: (height, width) px."""

    frame: int
    boxes: np.ndarray
    scores: np.ndarray
    size: tuple[int, int]


def detect_people(
    source: FrameSource,
    frames: Iterable[int],
    detector: Detector,
    options: DetectorOptions,
    min_score: float,
    batch_size: int,
    unreadable: dict[int, str] | None = None,
) -> Iterator[FramePeople]:
    """The people of every wanted frame, in order, those of frames without people too.

    A batch holds frames of one size: where a video's size changes, a new one begins. unreadable: takes the frames that
    cannot be read, with the reason; without it they are a DataError, as is a useless answer of the detector.
    """
    batch: list[tuple[int, np.ndarray]] = []
    with closing(ahead(source.read(frames, unreadable), batch_size)) as images:
        for frame, image in images:
            if batch and (len(batch) == batch_size or batch[0][1].shape != image.shape):
                yield from _detect(batch, detector, options, min_score)
                batch = []
            batch.append((frame, image))
    if batch:
        yield from _detect(batch, detector, options, min_score)


def _detect(
    batch: list[tuple[int, np.ndarray]], detector: Detector, options: DetectorOptions, min_score: float
) -> Iterator[FramePeople]:
    found = detector([image for _, image in batch])
    if len(found) != len(batch):
        raise DataError(f"the detector gave {len(found)} answers for {len(batch)} frames; it owes one for each")
    for (frame, image), own in zip(batch, found, strict=True):
        try:
            boxes, scores = _people(own, options, min_score)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise DataError(
                f"the detector's answer for frame {frame} is not boxes (n, 4), scores (n,), labels (n,): {error}"
            ) from None
        yield FramePeople(frame, boxes, scores, (image.shape[0], image.shape[1]))


def _people(own: Detections, options: DetectorOptions, min_score: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) and scores (n,) of the persons that are kept, best first."""
    boxes = np.asarray(own["boxes"], np.float64).reshape(-1, 4)
    scores = np.asarray(own["scores"], np.float64).reshape(len(boxes))
    chosen = np.flatnonzero((np.asarray(own["labels"]).reshape(len(boxes)) == PERSON) & (scores >= min_score))
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    kept = nms(torch.from_numpy(boxes[chosen]), torch.from_numpy(scores[chosen]), options.nms).numpy()
    chosen = chosen[kept[: options.max_people]]
    return boxes[chosen], scores[chosen]
