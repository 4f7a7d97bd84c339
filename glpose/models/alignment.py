"""Maps of other frames and people, warped onto the key frame's pose (`heads.align`): an extension of the paper's.

The paper aggregates maps place by place, wherever a joint has moved to meanwhile. Here the backbone's own last layer
says where it sees each joint, and every place of another map is moved as the joints around it are. B samples, M other
maps, J joints, H x W the heatmap grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glpose.models.precision import full_precision
from glpose.models.softmax import LEAST

AROUND = 1 / 24  # of the grid's width: how far around its peak a joint's probability is taken to be of the joint
REACH = 1 / 9  # of the grid's width: how far from a joint its move is felt
BODY = 0.02  # what the whole body's move weighs everywhere; a joint that is sure in both maps weighs 1 where it is


class Alignment(nn.Module):
    """Warps maps onto the key frame's pose, as a layer that is not trained sees it: the backbone's own."""

    def __init__(self, channels: int, num_joints: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", torch.zeros(num_joints, channels))
        self.register_buffer("bias", torch.zeros(num_joints))

    def start_from(self, layer: nn.Conv2d) -> None:
        """Take the backbone's last layer, of these joints."""
        self.weight.copy_(layer.weight.detach().flatten(1))
        assert layer.bias is not None
        self.bias.copy_(layer.bias.detach())

    def forward(self, key: Tensor, others: Tensor) -> Tensor:
        """The others (B, M, C, H, W), warped. key: (B, C, H, W). No gradient is of where they are moved."""
        with full_precision(key.device):
            with torch.no_grad():
                move = self.moves(key.float(), others.float())
            return moved(others.float(), move).to(others.dtype)

    def moves(self, key: Tensor, others: Tensor) -> Tensor:
        """(B, M, 2, H, W) px x, y: how far from each place of the key frame the same of the body is in the others."""
        maps = torch.cat([key[:, None], others], dim=1)  # (B, 1 + M, C, H, W)
        logits = self.weight @ maps.flatten(3) + self.bias[:, None]  # (B, 1 + M, J, H W)
        points, sure = joints_seen(logits.flatten(0, 1).unflatten(2, maps.shape[3:]))
        points, sure = points.unflatten(0, maps.shape[:2]), sure.unflatten(0, maps.shape[:2])
        return spread_moves(points[:, 0], points[:, 1:], sure[:, :1] * sure[:, 1:], key.shape[2], key.shape[3])


def joints_seen(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Where joints are seen: (N, J, 2) px x, y, the mean around the peak, and (N, J) the probability that is there.

    logits: (N, J, H, W).
    """
    height, width = logits.shape[2:]
    top, peak = logits.flatten(2).max(dim=-1)
    share = (logits - top[..., None, None]).clamp_min(LEAST).exp()  # (N, J, H, W), the peak's is 1
    y, x = (torch.arange(size, device=logits.device) for size in (height, width))
    near_y = bell(y - (peak // width)[..., None], AROUND * width)  # (N, J, H)
    near_x = bell(x - (peak % width)[..., None], AROUND * width)  # (N, J, W)
    rows = (share @ near_x[..., None]).squeeze(-1) * near_y  # (N, J, H)
    columns = (near_y[..., None, :] @ share).squeeze(-2) * near_x  # (N, J, W)
    around = rows.sum(dim=-1)
    points = torch.stack([(columns * x).sum(dim=-1), (rows * y).sum(dim=-1)], dim=-1) / around[..., None]
    return points, around / share.sum(dim=(2, 3))


def spread_moves(key: Tensor, others: Tensor, sure: Tensor, height: int, width: int) -> Tensor:
    """(B, M, 2, H, W) px: the mean of the joints' moves at each place, nearer and surer ones weighing more.

    key: (B, J, 2) px. others: (B, M, J, 2) px. sure: (B, M, J), what each joint weighs. Far from all joints it is the
    mean of them all, the body's.
    """
    move = others - key[:, None]
    body = (sure[..., None] * move).sum(dim=2) / sure.sum(dim=2, keepdim=True).clamp_min(1e-6)  # (B, M, 2)
    x, y = (torch.arange(size, device=key.device) for size in (width, height))
    near_x, near_y = bell(x - key[..., :1], REACH * width), bell(y - key[..., 1:], REACH * width)
    near = (near_y[..., :, None] * near_x[..., None, :]).flatten(2)  # (B, J, H W)
    own = (sure[..., None] * (move - body[:, :, None])).transpose(2, 3).flatten(1, 2) @ near  # (B, 2 M, H W)
    spread = body[..., None] + own.unflatten(1, (-1, 2)) / (sure @ near + BODY)[:, :, None]
    return spread.unflatten(3, (height, width))


def moved(maps: Tensor, move: Tensor) -> Tensor:
    """Maps (B, M, C, H, W) with, at each place, what is `move` (B, M, 2, H, W) px x, y from it; bilinear.

    Beyond the grid is what is at its edge.
    """
    height, width = maps.shape[-2:]
    y, x = torch.arange(height, device=maps.device)[:, None], torch.arange(width, device=maps.device)
    # grid_sample's coordinates: -1 and 1 are the outer edges of the first and last pixel
    grid = torch.stack([(2 * (move[:, :, 0] + x) + 1) / width - 1, (2 * (move[:, :, 1] + y) + 1) / height - 1], dim=-1)
    found = F.grid_sample(
        maps.flatten(0, 1), grid.flatten(0, 1), mode="bilinear", padding_mode="border", align_corners=False
    )
    return found.view_as(maps)


def bell(distance: Tensor, sigma: float) -> Tensor:
    """A Gaussian of peak 1."""
    return (-(distance**2) / (2 * sigma**2)).clamp_min(LEAST).exp()
