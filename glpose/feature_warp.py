"""Augmentation of stored features: an affine warp of the maps, with the targets' points warped alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glpose.options import WarpOptions


def draw_warps(rng: np.random.Generator, count: int, size: tuple[int, int], options: WarpOptions) -> Tensor:
    """(count, 2, 3) float32 affines, heatmap px -> heatmap px, about the middle of the grid.

    rng draws, for each: an angle N(0, rotation) clipped to +-rotation with probability 0.6, a size N(1, 0.35) clipped
    to `scale`, and a horizontal flip. As with images, a larger scale shows more, so that the person becomes smaller.
    """
    height, width = size
    turned = rng.random(count) < 0.6
    angle = np.deg2rad(np.clip(rng.normal(0, 1, count), -1, 1) * options.rotation * turned)
    ratio = 1 / np.clip(rng.normal(1, 0.35, count), *options.scale)
    mirror = np.where(rng.random(count) < options.flip, -1.0, 1.0)
    linear = np.empty((count, 2, 2))
    linear[:, 0] = np.stack([mirror * np.cos(angle) * ratio, -mirror * np.sin(angle) * ratio], axis=1)
    linear[:, 1] = np.stack([np.sin(angle) * ratio, np.cos(angle) * ratio], axis=1)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = middle - linear @ middle
    return torch.from_numpy(np.concatenate([linear, shift[..., None]], axis=2).astype(np.float32))


def warp_maps(maps: Tensor, affines: Tensor) -> Tensor:
    """Maps (B, ..., C, H, W) under affines (B, 2, 3) from their px to the result's; bilinear, zero outside."""
    height, width = maps.shape[-2:]
    size = torch.tensor([width, height], dtype=affines.dtype, device=affines.device)
    inverse = torch.linalg.inv(affines[:, :, :2])
    shift = -inverse @ affines[:, :, 2:]
    # grid_sample's coordinates: -1 and 1 are the outer edges of the first and last pixel, so px x is (2 x + 1) / W - 1
    linear = inverse * size[None, :] / size[:, None]
    offset = (2 * (inverse @ ((size - 1) / 2)[:, None] + shift).squeeze(-1) + 1) / size - 1
    grid = F.affine_grid(
        torch.cat([linear, offset[..., None]], dim=2), [len(maps), 1, height, width], align_corners=False
    )
    flat = maps.flatten(1, -3)
    return F.grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False).view_as(maps)


def warp_points(
    points: Tensor, weight: Tensor, affines: Tensor, flip_order: Sequence[int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Points (B, J, 2), heatmap px, and weights (B, J) under affines (B, 2, 3); what leaves the grid weighs nothing.

    Where an affine mirrors, joints take their mirror images' places.
    """
    warped = points @ affines[:, :, :2].transpose(1, 2) + affines[:, None, :, 2]
    mirrored = torch.linalg.det(affines[:, :, :2]) < 0
    order = torch.tensor(flip_order, device=points.device)
    warped = torch.where(mirrored[:, None, None], warped[:, order], warped)
    weight = torch.where(mirrored[:, None], weight[:, order], weight)
    limit = torch.tensor([size[1], size[0]], device=points.device)
    return warped, weight * ((warped >= 0) & (warped < limit)).all(dim=-1)
