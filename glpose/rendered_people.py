"""People of endless rendered frames as a single-frame network trains on them: no data to download."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import cv2
import numpy as np

from glpose.augmentation import augment_keypoints, sample_augmentation
from glpose.data.rendered import Clip, ClipOptions
from glpose.data.rendered.sets import SETS
from glpose.geometry import warp_crop
from glpose.keypoints import POSETRACK, JointSet
from glpose.labelled_people import Batch, Example
from glpose.options import PretrainOptions

FRAMES_PER_CLIP = 4  # several moments of one scene: drawing a background costs more than drawing a frame
CLIP_SIZES = ((270, 480), (360, 480), (300, 400), (400, 300))  # (height, width) px


@dataclass(frozen=True)
class RenderedPeople:
    """Clip after clip; crops and their order depend on the options alone."""

    options: PretrainOptions
    joints: JointSet = POSETRACK

    @property
    def steps(self) -> int:
        """Steps of a whole training."""
        frames = self.options.frames
        return self.options.steps or max(1, frames * 2 // self.options.batch_size)  # a frame shows two people or more

    @property
    def identity(self) -> str:
        """Tells these people from others, for a training that goes on."""
        return "rendered frames"

    def batches(self, start: tuple[int, int], workers: int) -> Generator[Batch]:
        """Endless batches from position `start` on: a clip, and how many of its crops were used before.

        workers: processes that draw frames.
        """
        clip, used = start
        held: list[Example] = []
        # spawn: torch's threads do not survive a fork
        with ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
        ) as pool:
            waiting: list[Future[list[Example]]] = []
            try:
                while True:
                    while len(waiting) < 4 * workers + 8:
                        waiting.append(pool.submit(draw_crops, self.options, clip + len(waiting)))
                    drawn = waiting.pop(0).result()
                    while used < len(drawn):
                        held.append(drawn[used])
                        used += 1
                        if len(held) == self.options.batch_size:
                            crops, keypoints = zip(*held, strict=True)
                            yield Batch(np.stack(crops), np.stack(keypoints).astype(np.float32), (clip, used))
                            held = []
                    clip, used = clip + 1, 0
            finally:
                for future in waiting:
                    future.cancel()


def clip_options(clip: int, name: str) -> ClipOptions:
    """What the scene of a clip is like, with the bodies of a set."""
    height, width = CLIP_SIZES[clip % len(CLIP_SIZES)]
    return ClipOptions(height, width, people=(1, 4), occluders=(0, 3), bodies=SETS[name].bodies)


def draw_crops(options: PretrainOptions, clip: int) -> list[Example]:
    """Augmented crops of everyone in a few frames of one clip."""
    rng = np.random.default_rng([options.seed, clip, 1])
    scene = Clip(clip_options(clip, "pretrain"), options.seed + SETS["pretrain"].seed, clip)
    out = []
    for frame in rng.choice(len(scene), FRAMES_PER_CLIP, replace=False):
        image, labels = scene.frame(int(frame))
        for keypoints, box in zip(labels.keypoints, labels.boxes, strict=True):
            if (keypoints[:, 2] > 0).sum() < 3:
                continue
            view = sample_augmentation(
                rng, box, keypoints, POSETRACK, options.crop_size, options.crop_scale,
                rotation=options.rotation, scale=options.scale, half_body=options.half_body, flip=options.flip,
            )  # fmt: skip
            crop = warp_crop(image, view.composed(options.crop_size[1]), options.crop_size)
            out.append((crop, augment_keypoints(keypoints, view, POSETRACK, options.crop_size)))
    return out
