"""What fine-tuning sees: a proposal's key, local and reference crops, cut from the crop store with augmentation."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from glpose.ahead import batches_ahead
from glpose.augmentation import crop_keypoints, sample_augmentation
from glpose.geometry import warp_crop
from glpose.keypoints import JointSet, least_flag
from glpose.options import ExtractOptions, FinetuneOptions, IndexOptions, TrainOptions, redraws
from glpose.references import References, references_of
from glpose.retrieval import Gallery
from glpose.views import box_affines
from store.crops import CropFile, crop_to_view
from store.errors import TrainingError
from store.tables import BOX


@dataclass(frozen=True)
class CropSplit:
    """The proposals of the train split, P rows, with their stored crops and the embeddings of the backbone before.

    table: columns of `store.tables.PROPOSALS` in order of video and proposal, keypoints (J, 3) float64 or None.
    files: by video, the crops of its rows in their order. gallery: what references are drawn from, of the same rows.
    """

    table: pd.DataFrame
    files: Mapping[str, CropFile]
    gallery: Gallery
    joints: JointSet
    extract: ExtractOptions

    def __len__(self) -> int:
        return len(self.table)

    def annotated(self, least: int) -> np.ndarray:
        """Rows with a joint of at least this flag. TrainingError where there is none."""
        rows = [
            row
            for row, keypoints in enumerate(self.table["keypoints"])
            if keypoints is not None and (keypoints[:, 2] >= least).any()
        ]
        if not rows:
            raise TrainingError(
                "no proposal of the train split has an annotated joint: heads and backbone can only be fine-tuned on "
                "annotated videos (detect.train.source: annotations)"
            )
        return np.array(rows)

    def place(self, row: int) -> tuple[CropFile, int]:
        """The file of a row's crops, and which of its proposals it is."""
        video = self.table["video"].iat[row]
        return self.files[video], row - self.gallery.spans[video][0]


@dataclass(frozen=True)
class Sample:
    """One proposal as it is shown: crops (1 + 2k + n, h, w, 3) uint8 BGR; zeros where a reference is missing.

    keypoints: (J, 3), view px; joints outside the view are absent. similarity: (n,), of the stored embeddings, -inf
    where a reference is missing.
    """

    crops: np.ndarray
    keypoints: np.ndarray
    similarity: np.ndarray


def epoch_rows(split: CropSplit, options: FinetuneOptions, train: TrainOptions, epoch: int) -> list[np.ndarray]:
    """The rows of an epoch's batches, everyone annotated once, in the epoch's own order. epoch: from 1."""
    rows = split.annotated(least_flag(train.joints))
    order = np.random.default_rng([options.seed, epoch, 0]).permutation(rows)
    return [order[start : start + options.batch_size] for start in range(0, len(order), options.batch_size)]


def samples(
    split: CropSplit,
    offsets: tuple[int, ...],
    n: int,
    options: FinetuneOptions,
    train: TrainOptions,
    index: IndexOptions,
    start: int,
    workers: int,
) -> Generator[list[Sample]]:
    """The batches of the steps from `start` on, drawn ahead by `workers` threads. offsets: of the local crops.

    What a step shows depends on the options and its number alone. References are drawn from pools of the stored
    embeddings: for every epoch anew, or, where pools are not redrawn, those that `index` stored.
    """

    def batches() -> Iterator[list[partial[Sample]]]:
        step = 0
        for epoch in range(1, options.epochs + 1):
            plan = epoch_rows(split, options, train, epoch)
            if step + len(plan) > start:
                references = _references(split, index, n, epoch if redraws(train, index) else 0)
                for number, rows in enumerate(plan, start=step):
                    if number >= start:
                        yield [
                            partial(draw_sample, split, int(row), references.of(row), offsets, options, (number, slot))
                            for slot, row in enumerate(rows)
                        ]
            step += len(plan)

    return batches_ahead(batches(), workers)


def draw_sample(
    split: CropSplit,
    row: int,
    references: References,
    offsets: tuple[int, ...],
    options: FinetuneOptions,
    draw: tuple[int, int],
) -> Sample:
    """Cut one proposal's views. references: its own, (n,) rows. draw: step and slot, which seed the augmentation.

    Key and local crops share one affine. References are cut as `extract` cuts them, or, with augment_references, with
    an augmentation of their own each.
    """
    rng = np.random.default_rng([options.seed, *draw, 1])
    affine = _augmented(split, row, options, rng)
    size = split.extract.crop_size
    crops = [*_views(split, row, (0, *offsets), affine)]
    for reference in references.rows.tolist():
        if reference < 0:
            crops.append(np.zeros((*size, 3), np.uint8))
            continue
        view = _augmented(split, reference, options, rng) if options.augment_references else _clean(split, reference)
        crops += _views(split, reference, (0,), view)
    keypoints = crop_keypoints(split.table["keypoints"].iat[row], affine, split.joints, size)
    return Sample(np.stack(crops), keypoints, references.similarity)


def _references(split: CropSplit, index: IndexOptions, n: int, epoch: int) -> References:
    """References of all rows; draw 0 is the one that `index` stored."""
    if n == 0:
        return References(np.zeros((len(split), 0), np.int64), np.zeros((len(split), 0), np.float32))
    return references_of(split.gallery, split.gallery.spans, index, n, epoch)


def _views(split: CropSplit, row: int, offsets: tuple[int, ...], affine: np.ndarray) -> list[np.ndarray]:
    """Views (h, w, 3) of a row's crops at these offsets. affine: (2, 3), frame px -> view px."""
    file, place = split.place(row)
    crops, stored = file.read([place], offsets)
    view = crop_to_view(stored[0], affine)
    return [warp_crop(crop, view, split.extract.crop_size) for crop in crops[0]]


def _clean(split: CropSplit, row: int) -> np.ndarray:
    extract = split.extract
    box = split.table[BOX].iloc[[row]].to_numpy(np.float64)
    return box_affines(box, extract.crop_size, extract.crop_scale)[0]


def _augmented(split: CropSplit, row: int, options: FinetuneOptions, rng: np.random.Generator) -> np.ndarray:
    """(2, 3) affine from frame px to an augmented view, which it may mirror."""
    extract = split.extract
    view = sample_augmentation(
        rng, split.table[BOX].iloc[row].to_numpy(np.float64), split.table["keypoints"].iat[row], split.joints,
        extract.crop_size, extract.crop_scale,
        rotation=options.rotation, scale=options.scale, half_body=options.half_body, flip=options.flip,
    )  # fmt: skip
    return view.composed(extract.crop_size[1])
