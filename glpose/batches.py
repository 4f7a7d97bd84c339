"""Batches of stored features for training: the windows of an epoch, then samples of a window, on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from glpose.data.windows import Window
from glpose.examples import Examples
from glpose.feature_warp import draw_warps, warp_maps, warp_points
from glpose.options import HeadOptions, IndexOptions, TrainOptions, redraws
from glpose.references import HeadInputs, draw_references, head_inputs, in_window
from glpose.retrieval import make_gallery
from glpose.targets import draw_targets

ORDER, VIEWS, WARPS = range(3)  # what is drawn, each by generators of its own


@dataclass(frozen=True)
class Portion:
    """A window of one epoch. batches: rows of the split. steps: batches of the whole epoch, in all its windows.

    references: places among the window's features, and similarities, (R, n) each. views: (P,) of the split's proposals.
    """

    epoch: int
    steps: int
    last: bool
    window: Window
    references: tuple[Tensor, Tensor]
    views: np.ndarray
    batches: list[np.ndarray]


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
    gallery = make_gallery(split.table, split.embedding, index) if n and redraws(options, index) else None
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
            yield Portion(epoch, total, last, window, in_window(split, window, found), views, batches)


def make_batch(
    examples: Examples,
    portion: Portion,
    rows: np.ndarray,
    products: bool,
    options: TrainOptions,
    warps: tuple[int, ...],
) -> Batch:
    """Gather samples, warp them if asked, and draw their targets. rows: (B,) of the split. warps: seed of the warps."""
    split, device = examples.split, examples.split.device
    size = (split.schema.height, split.schema.width)
    view = portion.views[rows]
    points = torch.from_numpy(examples.points[rows, view]).to(device)
    weight = torch.from_numpy(examples.weight[rows, view]).to(device)
    inputs = head_inputs(
        portion.window,
        portion.references,
        rows,
        products,
        torch.from_numpy(view).to(device) if examples.views > 1 else 0,
    )
    if options.augment == "warp":
        affines = draw_warps(generator(options.seed, WARPS, *warps), len(rows), size, options.warp).to(device)
        inputs = replace(inputs, key=warp_maps(inputs.key, affines), local=warp_maps(inputs.local, affines))
        points, weight = warp_points(points, weight, affines, examples.joints.flip_order, size)
    return Batch(inputs, points, weight, draw_targets(points, weight, size, options.sigma))


def generator(*seed: int) -> np.random.Generator:
    """Draws that depend on these numbers alone, so that a resumed training draws the same."""
    return np.random.default_rng(seed)
