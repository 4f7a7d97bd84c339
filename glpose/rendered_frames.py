"""Rendered frames as a detector trains on them: drawn once, held as JPEG, read like those of a data set."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import cv2
import numpy as np

from glpose.data.rendered import Clip
from glpose.data.rendered.sets import SETS
from glpose.detector_frames import LEAST_SHARE, LabelledFrame
from glpose.rendered_people import FRAMES_PER_CLIP, clip_options

QUALITY = 92
DRAWN_AHEAD = 8  # clips for each process


def rendered_frames(
    name: str, seed: int, count: int, workers: int, advance: Callable[[int], None]
) -> list[LabelledFrame]:
    """`count` frames with the bodies of a set, a few of every scene; they depend on name, seed and count alone.

    People of whom less than 30 % can be seen are to be ignored, as are those that far outside. workers: processes that
    draw. advance: is told how many frames are there now.
    """
    frames: list[LabelledFrame] = []
    clips = range(-(-count // FRAMES_PER_CLIP))
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:  # spawn: torch's threads do not survive a fork
        for drawn in pool.map(partial(draw_frames, name, seed), clips, chunksize=DRAWN_AHEAD):
            frames += [
                LabelledFrame(partial(_decoded, jpeg), boxes, ignored, tall) for jpeg, boxes, ignored, tall in drawn
            ]
            advance(min(len(frames), count))
    return frames[:count]


def draw_frames(name: str, seed: int, clip: int) -> list[tuple[bytes, np.ndarray, np.ndarray, bool]]:
    """A few frames of one scene: JPEG, people's boxes (n, 4), those to be ignored (m, 4), higher than wide."""
    rng = np.random.default_rng([seed, clip, 2])
    options = clip_options(clip, name)
    scene = Clip(options, seed + SETS[name].seed, clip)
    out = []
    for frame in np.sort(rng.choice(len(scene), FRAMES_PER_CLIP, replace=False)).tolist():
        image, labels = scene.frame(frame)
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        boxes, clear = labels.boxes.astype(np.float64), labels.visible >= LEAST_SHARE
        out.append((jpeg, boxes[clear], boxes[~clear], options.height > options.width))
    return out


def _decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
