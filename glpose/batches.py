"""Batches of stored features for training: the windows of an epoch, then samples of a window, on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from glpose.data.resident import ResidentFeatures
from glpose.data.windows import Window
from glpose.examples import Examples
from glpose.feature_warp import draw_warps, warp_maps, warp_points
from glpose.options import HeadOptions, IndexOptions, TrainOptions
from glpose.references import HeadInputs, draw_references, in_window, inputs_at
from glpose.retrieval import make_gallery
from glpose.targets import draw_targets

ORDER, VIEWS, WARPS = range(3)  # what is drawn, each by generators of its own


class Samples(NamedTuple):
    """A window's R proposals as samples, on the device: what is known of them before their maps are gathered.

    place: (R,) among the window's features. references, similarity: (R, n), places and similarities. view: (R,), of
    its maps, points and weights. points: (R, J, 2) heatmap px. weight: (R, J).
    """

    place: Tensor
    references: Tensor
    similarity: Tensor
    view: Tensor
    points: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Portion:
    """A window of one epoch. batches: rows of the split. steps: batches of the whole epoch, in all its windows."""

    epoch: int
    steps: int
    last: bool
    window: Window
    samples: Samples
    batches: list[np.ndarray]

    def positions(self, rows: np.ndarray) -> Tensor:
        """Where rows (B,) of the split are among the samples, on the device."""
        own = torch.from_numpy(np.searchsorted(self.window.rows, rows))
        device = self.samples.place.device
        return own.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else own.to(device)


@dataclass(frozen=True)
class Batch:
    """B samples on the device. weight: (B, J), v_m of Eq. 6. points: (B, J, 2) heatmap px. targets: (B, J, H, W)."""

    inputs: HeadInputs
    points: Tensor
    weight: Tensor
    targets: Tensor


def plan_epoch(examples: Examples, options: TrainOptions, epoch: int) -> tuple[list[list[str]], list[np.ndarray]]:
    """Videos of an epoch's windows, and the rows that each of them trains on, in the order in which they come.

    Windows without anybody to train on are left out.
    """
    order = generator(options.seed, ORDER, epoch)
    windows = [videos for videos in examples.split.window_videos(order) if len(examples.rows_of(videos))]
    return windows, [order.permutation(examples.rows_of(videos)) for videos in windows]


def portions(
    examples: Examples,
    variants: Mapping[str, HeadOptions],
    options: TrainOptions,
    index: IndexOptions,
    size: int,
    steps: Mapping[int, int],
) -> Iterator[Portion]:
    """The windows of the epochs that `steps` names, each epoch's in an order of its own, in batches of `size`.

    steps: batches of each epoch. Where there are too few, because another process has more, the last comes again.
    """
    split = examples.split
    n = max(heads.n for heads in variants.values())
    redraw = options.redraw_pool and n > 0 and isinstance(index.pool, int)
    gallery = make_gallery(split.table, split.embedding, index) if redraw else None
    for epoch, total in steps.items():
        windows, rows = plan_epoch(examples, options, epoch)
        views = generator(options.seed, VIEWS, epoch).integers(examples.views, size=len(split))
        left = total
        for number, (videos, own) in enumerate(zip(windows, rows, strict=True), start=1):
            window, last = split.window(videos), number == len(windows)
            if gallery is not None:
                found = draw_references(gallery, videos, index, n, epoch)
            else:
                found = examples.fixed.of(window.rows, n)
            batches = [own[start : start + size] for start in range(0, len(own), size)]
            if last:
                batches += [batches[-1]] * (left - len(batches))
            left -= len(batches)
            samples = _samples(examples, window, in_window(split, window, found), views[window.rows])
            yield Portion(epoch, total, last, window, samples, batches)


def _samples(examples: Examples, window: Window, references: tuple[Tensor, Tensor], view: np.ndarray) -> Samples:
    """references: from `in_window`. view: (R,) of each of the window's rows."""
    arrays = (view, examples.points[window.rows, view], examples.weight[window.rows, view])
    place, *drawn = (torch.from_numpy(array).to(references[0].device) for array in (window.places, *arrays))
    return Samples(place, *references, *drawn)


def warps_of(examples: Examples, count: int, options: TrainOptions, seed: tuple[int, ...]) -> Tensor | None:
    """Warps of so many samples, on the device; None where none are asked for."""
    if options.augment != "warp":
        return None
    size = (examples.split.schema.height, examples.split.schema.width)
    drawn = draw_warps(generator(options.seed, WARPS, *seed), count, size, options.warp)
    return drawn.to(examples.split.device)


def make_batch(
    examples: Examples,
    features: ResidentFeatures,
    samples: Samples,
    own: Tensor,
    affines: Tensor | None,
    products: bool,
    options: TrainOptions,
) -> Batch:
    """Gather some of a window's samples, warp them if asked, and draw their targets, by work on the device alone.

    own: (B,) positions among the samples. affines: `warps_of` them. products: whether any heads weigh channels apart.
    """
    size = (examples.split.schema.height, examples.split.schema.width)
    place, references, similarity, view, points, weight = (values[own] for values in samples)
    inputs = inputs_at(features, place, (references, similarity), products, view if examples.views > 1 else 0)
    if affines is not None:
        inputs = replace(inputs, key=warp_maps(inputs.key, affines), local=warp_maps(inputs.local, affines))
        points, weight = warp_points(points, weight, affines, examples.joints.flip_order, size)
    return Batch(inputs, points, weight, draw_targets(points, weight, size, options.sigma))


def generator(*seed: int) -> np.random.Generator:
    """Draws that depend on these numbers alone, so that a resumed training draws the same."""
    return np.random.default_rng(seed)
