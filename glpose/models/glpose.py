"""GLPose's heads: everything after the backbone, on one page. Equation numbers are the paper's (10.1145/3519305).

B samples, C feature channels (48 for HRNet-W48), H x W the heatmap grid (96 x 72), J joints, 2k local frames, n
non-local references.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glpose.models.alignment import Alignment
from glpose.models.hrnet import BasicBlock, init_weights
from glpose.models.prior import Prior
from glpose.models.softmax import bounded_softmax
from glpose.options import HeadOptions

HEAD_KERNELS = {"mlp": 1, "3x3": 3, "5x5": 5}  # an MLP over channels at each location is a 1x1 convolution


def local_weights(offsets: tuple[int, ...], options: HeadOptions) -> Tensor:
    """T of Eq. 2 for each offset: (2k,). Nearer frames weigh more; a frame's weight is the same for every k."""
    distance = torch.tensor([abs(offset) for offset in offsets], dtype=torch.float32)
    if not options.weighted:
        return torch.ones_like(distance)
    weights = {
        "inverse": 1 / distance,
        "linear": options.k + 1 - distance,
        "exponential": torch.exp(1 - distance),
        "uniform": torch.ones_like(distance),
    }[options.local_weight]
    return weights / weights.sum() if options.normalise_local and len(offsets) else weights


def nonlocal_weights(similarity: Tensor, options: HeadOptions) -> Tensor:
    """Eq. 3: softmax over the n references, (B, n) or (B, n, C) per channel; -inf marks a missing one, weight 0."""
    present = torch.isfinite(similarity)
    if not options.weighted or similarity.shape[1] == 0:
        return present.to(similarity.dtype)
    logits = (similarity / options.temperature).masked_fill(~present, -torch.inf)
    weights = bounded_softmax(logits.masked_fill(~present.any(dim=1, keepdim=True), 0.0), dim=1)
    return weights * present


class GLPoseHeads(nn.Module):
    """Heatmaps of the key frame from its own, its local and its non-local feature maps.

    offsets: the local frames' offsets, in the order of the maps given to `forward`; 2k of them, or k where
    `options.causal` leaves out those after the key frame.
    """

    def __init__(self, channels: int, num_joints: int, offsets: tuple[int, ...], options: HeadOptions) -> None:
        super().__init__()
        width = options.width or channels
        self.options, self.offsets, self.num_joints = options, offsets, num_joints
        self.local_weight: Tensor
        self.register_buffer("local_weight", local_weights(offsets, options), persistent=False)  # (2k,)

        maps = 1 + len(offsets) + options.n
        blocks = [BasicBlock(channels * maps, width), *(BasicBlock(width, width) for _ in range(options.blocks - 1))]
        self.aggregate = nn.Sequential(*blocks)
        if options.enhancement:
            self.psi = nn.Conv2d(channels, 1 if options.mask == "spatial" else width, 3, padding=1)
            self.combine = BasicBlock(width + channels, channels) if options.combine == "block" else None
        head_channels = channels if options.enhancement else width
        kernel = HEAD_KERNELS[options.head]
        self.head = nn.Conv2d(head_channels, num_joints, kernel, padding=kernel // 2)
        init_weights(self, options.init_std)
        fused = offsets if options.prior == "frames" else ()
        self.alignment = Alignment(channels, num_joints) if options.aligns else None
        self.prior = Prior(channels, num_joints, fused) if options.prior != "none" else None

    def forward(self, key: Tensor, local: Tensor, references: Tensor, similarity: Tensor) -> Tensor:
        """Heatmaps (B, J, H, W).

        key: (B, C, H, W). local: (B, 2k, C, H, W). references: (B, n, C, H, W). similarity: (B, n), or (B, n, C) for
        per-channel weights; -inf for a missing reference, whose map is ignored.
        """
        local, references, similarity = self.seen(key, local, references, similarity)
        local, references = self.aligned(key, local, references)
        w_local = self.local_weight.to(key.dtype)  # (2k,)
        w_nonlocal = nonlocal_weights(similarity, self.options).to(key.dtype)
        if w_nonlocal.dim() == 2:
            w_nonlocal = w_nonlocal[..., None]  # (B, n, 1 or C)
        weighted = [key[:, None], local * w_local[:, None, None, None], references * w_nonlocal[..., None, None]]
        stack = torch.cat(weighted, dim=1).flatten(1, 2)  # (B, (1 + 2k + n) C, H, W)
        s = self.aggregate(stack)  # (B, width, H, W)                                  Eq. 4
        f = self.enhance(s, key) if self.options.enhancement else s  #                 Eq. 5
        heatmaps = self.head(f)
        return heatmaps if self.prior is None else heatmaps + self.prior(key, local)

    def seen(self, key: Tensor, local: Tensor, references: Tensor, similarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Local maps, references and similarities as the heads take them: of the control `key_copies`, copies."""
        if self.options.inputs != "key_copies":
            return local, references, similarity
        copies = key[:, None].expand(-1, len(self.offsets) + self.options.n, -1, -1, -1)
        equal = key.new_zeros(key.shape[0], self.options.n)  # each as similar to the key frame as the others
        return copies[:, : len(self.offsets)], copies[:, len(self.offsets) :], equal

    def aligned(self, key: Tensor, local: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Local maps and references, warped onto the key frame's pose where that is asked for."""
        if self.alignment is None:
            return local, references
        warped = self.alignment(key, torch.cat([local, references], dim=1))
        return warped[:, : local.shape[1]], warped[:, local.shape[1] :]

    def enhance(self, s: Tensor, key: Tensor) -> Tensor:
        """F of Eq. 5, (B, C, H, W): the aggregate s where the key frame saw nothing, and the key frame."""
        repaired = self.mask(key) * s
        return repaired + key if self.combine is None else self.combine(torch.cat([repaired, key], dim=1))

    def mask(self, key: Tensor) -> Tensor:
        """Of Eq. 5, (B, 1 or width, H, W) within 0..1: near 1 where the key frame saw nothing."""
        return 1 - torch.sigmoid(self.psi(key))


def single_frame(options: HeadOptions) -> HeadOptions:
    """The single-frame row: the same heads without local frames, references or enhancement."""
    return options.model_copy(update={"k": 0, "n": 0, "enhancement": False})
