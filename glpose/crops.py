"""Crops of a frame: by OpenCV on a CPU, on the GPU where the features are computed there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from glpose.geometry import MEAN, STD, warp_crop

AT_ONCE = 16  # crops that are warped together on a GPU: some 20 MB each on the way


def cut_crops(
    frame: np.ndarray, affines: Sequence[np.ndarray], crop_size: tuple[int, int], device: torch.device
) -> list[Tensor]:
    """Crops (crop_height, crop_width, 3) uint8 BGR on the device, one per affine (2, 3) from frame px to crop px.

    frame: (h, w, 3) uint8 BGR; to a GPU it is uploaded once for all of its crops.
    """
    if device.type == "cpu":
        return [torch.from_numpy(warp_crop(frame, affine, crop_size)) for affine in affines]
    uploaded = torch.from_numpy(frame).to(device)
    parts = [affines[start : start + AT_ONCE] for start in range(0, len(affines), AT_ONCE)]
    return [crop for part in parts for crop in warp_crops(uploaded, part, crop_size)]


def warp_crops(frame: Tensor, affines: Sequence[np.ndarray], crop_size: tuple[int, int]) -> Tensor:
    """`geometry.warp_crop` in torch: (n, crop_height, crop_width, 3) uint8 of a frame (h, w, 3) uint8, on its device.

    Bilinear, black outside. Within one grey level of OpenCV 5; OpenCV 4 rounds coordinates to 1/32 px and differs by
    more at sharp edges.
    """
    height, width = frame.shape[:2]
    crop_height, crop_width = crop_size
    inverse = np.stack([np.linalg.inv(np.vstack([affine, [0, 0, 1]]))[:2] for affine in affines])
    to_frame = torch.from_numpy(inverse).to(frame.device)  # (n, 2, 3) float64: coordinates need more than float32 has
    y, x = torch.meshgrid(
        torch.arange(crop_height, dtype=torch.float64, device=frame.device),
        torch.arange(crop_width, dtype=torch.float64, device=frame.device),
        indexing="ij",
    )
    at = torch.einsum("nij,jhw->nihw", to_frame, torch.stack([x, y, torch.ones_like(x)]))  # (n, 2, h, w) x, y
    low = at.floor()
    part = (at - low).float()[..., None]  # (n, 2, h, w, 1)
    column, row = low.long().unbind(dim=1)

    def pixels(down: int, across: int) -> Tensor:
        i, j = row + down, column + across
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        return frame[i.clamp(0, height - 1), j.clamp(0, width - 1)].float() * inside[..., None]

    across, down = part.unbind(dim=1)
    above = pixels(0, 0) * (1 - across) + pixels(0, 1) * across
    below = pixels(1, 0) * (1 - across) + pixels(1, 1) * across
    return (above * (1 - down) + below * down).round().clamp(0, 255).byte()


def normalise(crops: Tensor) -> Tensor:
    """(n, h, w, 3) uint8 BGR -> (n, 3, h, w) float32 RGB with ImageNet's mean and deviation taken out.

    The result is channels-last in memory, the layout that convolutions prefer.
    """
    scale, shift = (torch.from_numpy(values).to(crops.device) for values in (1 / (255 * STD), MEAN / STD))
    return (crops.flip(-1).float() * scale - shift).permute(0, 3, 1, 2)
