"""Heatmap targets drawn on the device, and the loss of Eq. 6."""

from __future__ import annotations

import torch
from torch import Tensor

from glpose.heatmaps import scaled_sigma


def draw_targets(points: Tensor, present: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Target heatmaps (B, J, H, W) float32 with peak 1, as HRNet draws them.

    points: (B, J, 2) x, y in heatmap px. present: (B, J), zero where there is no target. size: (H, W). sigma: heatmap
    pixels at a grid 72 wide; it scales with the grid. The Gaussian sits on the rounded pixel int(x + 0.5) and is zero
    beyond 3 sigma in x or in y.
    """
    height, width = size
    sigma = scaled_sigma(sigma, width)
    centre = torch.floor(torch.where(present[..., None] > 0, points, 0).float() + 0.5)  # absent points may be NaN
    dx = torch.arange(width, device=points.device) - centre[..., 0, None]  # (B, J, W)
    dy = torch.arange(height, device=points.device) - centre[..., 1, None]  # (B, J, H)
    row = torch.exp(-(dx**2) / (2 * sigma**2)) * (dx.abs() <= 3 * sigma)
    column = torch.exp(-(dy**2) / (2 * sigma**2)) * (dy.abs() <= 3 * sigma)
    return column[..., :, None] * row[..., None, :] * (present > 0)[..., None, None]


def heatmap_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Eq. 6: the mean over joints (and samples) of v_m * MSE. predicted, target: (B, J, H, W); weight v_m: (B, J)."""
    per_joint = (predicted.float() - target).square().mean(dim=(-2, -1))
    return (per_joint * weight).mean()


def grid_cross_entropy(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of each map's softmax over the grid against its target (scaled to sum to 1); mean over joints.

    predicted, target: (B, J, H, W); weight: (B, J). The maps' values are then logits: their peaks mean what heatmaps'
    do, their heights do not.
    """
    wanted = target.flatten(2) / target.flatten(2).sum(dim=-1, keepdim=True).clamp(min=1e-6)
    per_joint = -(wanted * predicted.float().flatten(2).log_softmax(dim=-1)).sum(dim=-1)
    return (per_joint * weight).sum() / weight.sum().clamp(min=1)


HIT = 0.05  # of the grid's width and height


def heatmap_hits(predicted: Tensor, points: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """How many joints' peaks are near their place, and how many joints there are: what HRNet calls accuracy.

    predicted: (B, J, H, W). points: (B, J, 2) heatmap px. weight: (B, J), zero where a joint does not count. Near is
    within an ellipse of half axes 0.05 W and 0.05 H. Two scalars on the device.
    """
    height, width = predicted.shape[-2:]
    peak = predicted.flatten(2).argmax(dim=-1)
    place = torch.stack([peak % width, peak // width], dim=-1)
    wanted = torch.floor(points + 0.5)
    size = torch.tensor([width, height], device=points.device)
    near = ((place - wanted) / size).square().sum(dim=-1) < HIT**2
    return (near & (weight > 0)).sum(), (weight > 0).sum()
