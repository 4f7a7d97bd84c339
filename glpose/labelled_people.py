"""Annotated people of a data set as a single-frame network trains on them: augmented crops, in batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from glpose.ahead import batches_ahead
from glpose.augmentation import augment_keypoints, sample_augmentation
from glpose.data.dataset import Video
from glpose.data.video import read_frame
from glpose.geometry import clip_boxes, warp_crop
from glpose.keypoints import JointSet
from glpose.options import PretrainOptions
from store.errors import TrainingError

Example = tuple[np.ndarray, np.ndarray]  # a crop (h, w, 3) uint8 BGR, keypoints (J, 3) float64, crop px


@dataclass(frozen=True)
class Batch:
    """crops (B, h, w, 3) uint8 BGR; keypoints (B, J, 3) float32, crop px."""

    crops: np.ndarray
    keypoints: np.ndarray


@dataclass(frozen=True)
class Person:
    """A person with an annotated joint in one frame: box (4,) xyxy, clipped, keypoints (J, 3), frame px.

    image: reads the frame, (h, w, 3) uint8 BGR; DataError where it cannot be read.
    """

    image: Callable[[], np.ndarray]
    box: np.ndarray
    keypoints: np.ndarray


def labelled_people(videos: Sequence[Video], split: str) -> list[Person]:
    """Everyone in the labelled frames of a split whose box and joints can be used."""
    out = []
    for video in videos:
        notes = video.annotations
        if notes is None:
            continue
        boxes, usable = clip_boxes(notes.boxes, *video.frames.size())
        wanted = usable & (notes.keypoints[..., 2] > 0).any(axis=1)
        wanted &= notes.labelled[notes.frame] & (video.split[notes.frame] == split)
        for row in np.flatnonzero(wanted).tolist():
            image = partial(read_frame, video.frames, int(notes.frame[row]))
            out.append(Person(image, boxes[row], notes.keypoints[row]))
    return out


@dataclass(frozen=True)
class LabelledPeople:
    """Everyone once an epoch, in the epoch's own order; a step's crops depend on the options and its number alone."""

    options: PretrainOptions
    people: Sequence[Person]
    joints: JointSet

    @property
    def steps(self) -> int:
        """Steps of a whole training. TrainingError where there is nobody."""
        if not self.people:
            raise TrainingError("nobody in the train split has an annotated joint: there is nothing to learn from")
        return self.options.steps or self.options.epochs * self._per_epoch

    @property
    def identity(self) -> str:
        """Tells these people from others, for a training that goes on."""
        return f"{len(self.people)} people with {', '.join(self.joints.joints)}"

    def batches(self, start: int, workers: int) -> Generator[Batch]:
        """The batches of the steps from `start` on, drawn ahead by threads. DataError where a frame cannot be read."""
        for drawn in batches_ahead(self._batches(start), workers):
            crops, keypoints = zip(*drawn, strict=True)
            yield Batch(np.stack(crops), np.stack(keypoints).astype(np.float32))

    @property
    def _per_epoch(self) -> int:
        return -(-len(self.people) // self.options.batch_size)

    def _batches(self, start: int) -> Iterator[list[Callable[[], Example]]]:
        for step in range(start, self.steps):
            epoch, number = divmod(step, self._per_epoch)
            order = np.random.default_rng([self.options.seed, epoch, 0]).permutation(len(self.people))
            whole = np.resize(order, self._per_epoch * self.options.batch_size)  # the last batch is filled up
            rows = whole[number * self.options.batch_size :][: self.options.batch_size]
            yield [partial(self._draw, self.people[row], step, slot) for slot, row in enumerate(rows.tolist())]

    def _draw(self, person: Person, step: int, slot: int) -> Example:
        options = self.options
        view = sample_augmentation(
            np.random.default_rng([options.seed, step, slot, 1]),
            person.box, person.keypoints, self.joints, options.crop_size, options.crop_scale,
            rotation=options.rotation, scale=options.scale, half_body=options.half_body, flip=options.flip,
        )  # fmt: skip
        crop = warp_crop(person.image(), view.composed(options.crop_size[1]), options.crop_size)
        return crop, augment_keypoints(person.keypoints, view, self.joints, options.crop_size)
