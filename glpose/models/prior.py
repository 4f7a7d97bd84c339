"""Heatmaps that heads correct (`heads.prior`): what the backbone's own last layer makes of the features they read.

An extension of the paper's, whose heads start from nothing: with few annotated people those learn less than a
pretrained network knows already. B samples, J joints, T frames: the key frame, then local ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glpose.models.precision import full_precision
from glpose.models.softmax import bounded_softmax

FLOOR = 1e-5  # probability of every pixel, so that no frame forbids a place
SHARP, SPREAD = 0.35, 0.5  # heatmap px on a grid GRID wide: the key frame's blur at first, and more for each frame away
GRID = 36
KEY_POWER, LOCAL_POWER, SLOPE = 1.0, 0.2, 0.3  # at first; SLOPE: more where a frame is sure of a joint
SURE = 0.1  # a map's maximum that counts as neither sure nor unsure: a Gaussian target's of sigma 1.5 is 0.07


class Prior(nn.Module):
    """The frames' heatmaps as probabilities of a joint's place, blurred by how far it may have moved, and multiplied.

    A product of experts: each frame's map is raised to a power that grows with its maximum. Layer, blurs (a sigma per
    frame and joint) and powers are trained with the heads. Without offsets it is of the key frame alone.
    """

    def __init__(self, channels: int, num_joints: int, offsets: Sequence[int]) -> None:
        super().__init__()
        distance = torch.tensor([0, *(abs(offset) for offset in offsets)], dtype=torch.float32)
        self.layer = nn.Conv2d(channels, num_joints, 1)
        self.log_sigma = nn.Parameter((SHARP + SPREAD * distance).log()[:, None].repeat(1, num_joints))  # (T, J)
        power = torch.where(distance == 0, KEY_POWER, LOCAL_POWER)
        self.power = nn.Parameter(power.expm1().log()[:, None].repeat(1, num_joints))  # (T, J), before a softplus
        self.slope = nn.Parameter(torch.full_like(self.power, SLOPE))
        self.height = nn.Parameter(torch.ones(()))  # of a heatmap, for each unit of probability

    def start_from(self, layer: nn.Conv2d, sigma: float, width: int) -> None:
        """Take the backbone's last layer, of these joints, and make heatmaps as high as targets.

        sigma: of the targets, in px of a grid `width` wide. Then heatmaps are the mean of the targets that the
        probabilities expect, which is what the loss of Eq. 6 asks for.
        """
        with torch.no_grad():
            self.layer.load_state_dict(layer.state_dict())
            self.log_sigma += math.log(width / GRID)
            self.height.fill_(2 * math.pi * sigma**2)

    def forward(self, key: Tensor, local: Tensor) -> Tensor:
        """Heatmaps (B, J, H, W) float32. key: (B, C, H, W). local: (B, 2k, C, H, W), ignored without offsets."""
        frames, joints = self.power.shape
        with full_precision(key.device):
            maps = torch.cat([key[:, None], local[:, : frames - 1]], dim=1).float()  # (B, T, C, H, W)
            logits = self.layer(maps.flatten(0, 1)).flatten(2)  # (B T, J, H W)
            likely = bounded_softmax(logits).view(-1, frames * joints, *key.shape[2:])
            sure = (likely.amax(dim=(2, 3)).clamp_min(FLOOR) / SURE).log().view(-1, frames, joints)
            power = F.softplus(self.power + self.slope * sure)  # (B, T, J)
            blurred = self.blur(likely).flatten(2).unflatten(1, (frames, joints))  # (B, T, J, H W)
            product = ((blurred + FLOOR).log() * power[..., None]).sum(dim=1)  # (B, J, H W)
            return self.height * bounded_softmax(product).view(-1, joints, *key.shape[2:])

    def blur(self, maps: Tensor) -> Tensor:
        """Each of (B, T J, H, W) maps under a Gaussian of its own, nothing of which leaves the grid.

        As products of matrices, one for rows and one for columns, which on a CPU take less time than convolutions.
        """
        height, width = maps.shape[2:]
        along_x = maps.transpose(0, 1).flatten(1, 2) @ self.spread(width)  # (T J, B H, W)
        along_x = along_x.unflatten(1, (-1, height)).transpose(2, 3)  # (T J, B, W, H)
        return (along_x.flatten(1, 2) @ self.spread(height)).unflatten(1, (-1, width)).permute(1, 0, 3, 2)

    def spread(self, size: int) -> Tensor:
        """(T J, size, size): from each place on a line, the share that every place gets."""
        at = torch.arange(size, device=self.log_sigma.device)
        variance = (2 * self.log_sigma.flatten()).exp()[:, None, None]
        return bounded_softmax(-((at[:, None] - at) ** 2) / (2 * variance))
