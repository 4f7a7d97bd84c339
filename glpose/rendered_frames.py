"""Rendered frames as networks train on them: drawn once, held as JPEG, read like those of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import cv2
import numpy as np

from glpose.data.rendered import Clip, ClipOptions
from glpose.data.rendered.sets import SETS
from glpose.detector_frames import LEAST_SHARE, LabelledFrame
from glpose.labelled_people import Person

QUALITY = 92
DRAWN_AHEAD = 8  # clips for each process
FRAMES_PER_CLIP = 4  # several moments of one scene: drawing a background costs more than drawing a frame
CLIP_SIZES = ((270, 480), (360, 480), (300, 400), (400, 300))  # (height, width) px
LEAST_JOINTS = 3  # within the picture, for a person to be learnt from


@dataclass(frozen=True)
class RenderedFrame:
    """A frame with its people: boxes (n, 4) float64 xyxy round visible pixels and keypoints (n, 15, 3), frame px.

    jpeg: the picture. visible: (n,) share of each person that nothing covers. tall: higher than wide.
    """

    jpeg: bytes
    boxes: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray
    tall: bool

    def image(self) -> np.ndarray:
        """(h, w, 3) uint8 BGR."""
        return np.asarray(cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR))


def rendered_frames(name: str, count: int, workers: int, advance: Callable[[int], None]) -> list[RenderedFrame]:
    """`count` frames with the bodies of a set, a few of every scene; they depend on name and count alone.

    workers: processes that draw. advance: is told how many frames are there now.
    """
    frames: list[RenderedFrame] = []
    clips = range(-(-count // FRAMES_PER_CLIP))
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:  # spawn: torch's threads do not survive a fork
        for drawn in pool.map(partial(draw_frames, name), clips, chunksize=DRAWN_AHEAD):
            frames += drawn
            advance(min(len(frames), count))
    return frames[:count]


def draw_frames(name: str, clip: int) -> list[RenderedFrame]:
    """A few frames of one scene of a set."""
    options = clip_options(clip, name)
    scene = Clip(options, SETS[name].seed, clip)
    out = []
    for frame in np.sort(np.random.default_rng([0, clip, 2]).choice(len(scene), FRAMES_PER_CLIP, replace=False)):
        image, labels = scene.frame(int(frame))
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        boxes, tall = labels.boxes.astype(np.float64), options.height > options.width
        out.append(RenderedFrame(jpeg, boxes, labels.keypoints, labels.visible, tall))
    return out


def clip_options(clip: int, name: str) -> ClipOptions:
    """What the scene of a clip is like, with the bodies of a set."""
    height, width = CLIP_SIZES[clip % len(CLIP_SIZES)]
    return ClipOptions(height, width, people=(1, 4), occluders=(0, 3), bodies=SETS[name].bodies)


def to_detect(frames: Sequence[RenderedFrame]) -> list[LabelledFrame]:
    """The frames as a detector trains on them: people of whom less than 30 % can be seen are to be ignored."""
    clear = [frame.visible >= LEAST_SHARE for frame in frames]
    return [
        LabelledFrame(frame.image, frame.boxes[seen], frame.boxes[~seen], frame.tall)
        for frame, seen in zip(frames, clear, strict=True)
    ]


def rendered_people(frames: Sequence[RenderedFrame]) -> list[Person]:
    """Everyone in the frames with three joints or more in the picture, as a single-frame network trains on them."""
    return [
        Person(frame.image, box, keypoints)
        for frame in frames
        for box, keypoints in zip(frame.boxes, frame.keypoints, strict=True)
        if (keypoints[:, 2] > 0).sum() >= LEAST_JOINTS
    ]
