"""Features of regions of an image, from the levels of a feature pyramid: mmdetection's RoIAlign, quick on a CPU too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

STRIDES = (4, 8, 16, 32, 64)  # px per cell of P2..P6, also where padding makes P6 a little coarser than its stride
ROI_LEVELS = 4  # P2..P5
ROI_CELLS = 7
ROI_FINEST = 56  # px: regions of up to twice this side are read from P2, of up to four times from P3, ...


def roi_levels(boxes: Tensor) -> Tensor:
    """Which level of the pyramid each box (N, 4) is read from: (N,) int64, 0 for P2 to 3 for P5."""
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return torch.log2(sides / ROI_FINEST + 1e-6).floor().clamp(0, ROI_LEVELS - 1).long()


def roi_features(levels: Sequence[Tensor], boxes: Tensor, images: Tensor) -> Tensor:
    """Features of boxes (N, 4), within the batch's images (N,) int64: (N, channels, 7, 7). levels: P2, P3, ..."""
    chosen = roi_levels(boxes)
    order, parts = [], []
    for number in range(ROI_LEVELS):
        rows = torch.nonzero(chosen == number)[:, 0]
        level, scale = levels[number], 1 / STRIDES[number]
        order.append(rows)
        if level.device.type == "cpu":
            parts.append(align_on_cpu(level, boxes[rows], images[rows], scale))
        else:
            rois = torch.cat([images[rows, None].to(boxes.dtype), boxes[rows]], dim=1)
            # sampling_ratio 0: as many samples per cell as it has pixels
            parts.append(roi_align(level, rois, ROI_CELLS, scale, sampling_ratio=0, aligned=True))
    return torch.cat(parts)[torch.cat(order).argsort()]  # not written row by row: that has a slow gradient


def align_on_cpu(level: Tensor, boxes: Tensor, images: Tensor, scale: float) -> Tensor:
    """Torchvision's `roi_align` as above, several times faster on CPUs: (N, channels, 7, 7) of one level.

    The samples of a bin lie on a grid, so that weights per row and per column say what each pixel adds to their mean;
    pixels are then summed as whole vectors of channels. Sums in another order differ by about 1e-6.
    """
    channels, height, width = level.shape[1:]
    pixels = level.permute(0, 2, 3, 1).flatten(0, 2)  # no copy of a channels-last level
    start = boxes[:, :2] * scale - 0.5
    sides = boxes[:, 2:] * scale - 0.5 - start
    samples = (sides / ROI_CELLS).ceil().long()  # per bin, along x and y
    bags: list[tuple[Tensor, Tensor, Tensor]] = []  # regions, and what each bin of theirs reads: pixels and weights
    for across, down in torch.unique(samples, dim=0).tolist():
        rows = torch.nonzero((samples[:, 0] == across) & (samples[:, 1] == down))[:, 0]
        if across < 1 or down < 1:  # no area: bins that read nothing are zeros
            nothing = level.new_zeros(len(rows) * ROI_CELLS**2, 0)
            bags.append((rows, nothing.long(), nothing))
            continue
        columns, column_weights = _bin_weights(start[rows, 0], sides[rows, 0], across, width)
        lines, line_weights = _bin_weights(start[rows, 1], sides[rows, 1], down, height)
        lines = lines + images[rows, None, None] * height
        index = lines[:, :, None, :, None] * width + columns[:, None, :, None, :]  # (n, 7, 7, down + 1, across + 1)
        weights = line_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
        bags.append((rows, index.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)))
    if not bags:
        return level.new_zeros(0, channels, ROI_CELLS, ROI_CELLS)
    # Summed at once: every call of its own would make a gradient of the whole level.
    counts = torch.cat([index.new_full((len(index),), index.shape[1]) for _, index, _ in bags])
    summed = F.embedding_bag(
        torch.cat([index.flatten() for _, index, _ in bags]),
        pixels,
        offsets=counts.cumsum(0) - counts,
        mode="sum",
        per_sample_weights=torch.cat([weights.flatten() for _, _, weights in bags]),
    )
    cells = summed.view(len(boxes), ROI_CELLS, ROI_CELLS, channels)
    return cells[torch.cat([rows for rows, _, _ in bags]).argsort()].permute(0, 3, 1, 2)


def _bin_weights(start: Tensor, side: Tensor, samples: int, size: int) -> tuple[Tensor, Tensor]:
    """What the 7 bins of n regions read along one axis of `size` pixels: pixels and weights, (n, 7, samples + 1).

    A bin's value is the mean of `samples` linear interpolations, at most a pixel apart. start, side: (n,) of regions.
    """
    step = (side / ROI_CELLS)[:, None, None]
    offsets = (torch.arange(samples, device=side.device) + 0.5) * step / samples
    at = start[:, None, None] + torch.arange(ROI_CELLS, device=side.device)[:, None] * step + offsets
    at = at.clamp(0, size - 1)  # (n, 7, samples)
    pixels = at[..., :1].floor() + torch.arange(samples + 1, device=side.device)
    weights = (1 - (at[..., None, :] - pixels[..., None]).abs()).clamp(min=0).mean(dim=-1)
    return pixels.clamp(max=size - 1).long(), weights
