"""HRNet, the backbone: Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation", CVPR 2019.

Parameter names are those of the authors' pose_hrnet checkpoints. Branch b works at 1 / 2**(b + 2) of the image's size
with width * 2**b channels; every stage adds a branch, and every module of a stage ends in a fusion of all branches.
The features that GLPose aggregates are branch 0 of stage 3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from store.errors import CheckpointError

BLOCKS = 4  # residual blocks in layer1 and in every branch of every module
MODULES = {2: 1, 3: 4, 4: 3}  # modules of each stage

Network = TypeVar("Network", bound=nn.Module)


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, *then: nn.Module) -> nn.Sequential:
    """Convolution without bias, batch norm (eps 1e-5 and momentum 0.1, torch's defaults), then the rest."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), *then)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is 1x1 + batch norm where the number of channels changes."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(c_in, c_out, 3)
        self.conv2, self.bn2 = conv_bn(c_out, c_out, 3)
        self.downsample = conv_bn(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, h, w) -> (B, c_out, h, w)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide, and a shortcut like BasicBlock's."""

    def __init__(self, c_in: int, c_mid: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(c_in, c_mid, 1)
        self.conv2, self.bn2 = conv_bn(c_mid, c_mid, 3)
        self.conv3, self.bn3 = conv_bn(c_mid, 4 * c_mid, 1)
        self.downsample = conv_bn(c_in, 4 * c_mid, 1) if c_in != 4 * c_mid else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, h, w) -> (B, 4 c_mid, h, w)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


class FusionModule(nn.Module):
    """One module of a stage: BLOCKS residual blocks on every branch, then each row of the fusion mixes all branches.

    channels: of each branch. rows: how many fusion rows (output branches) exist, all by default.
    """

    def __init__(self, channels: Sequence[int], rows: int | None = None) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c, c) for _ in range(BLOCKS))) for c in channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(fuse_path(channels, j, i) for j in range(len(channels)))
            for i in range(len(channels) if rows is None else rows)
        )

    def forward(self, xs: Sequence[Tensor], rows: int | None = None) -> list[Tensor]:
        """Per branch b (B, channels[b], h / 2**b, w / 2**b) -> the same, of the first `rows` branches (None: all)."""
        xs = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        outs = []
        for paths in list(self.fuse_layers.children())[:rows]:
            y, other, *others = (path(x) for path, x in zip(paths.children(), xs, strict=True))
            y = y + other  # not in place: y itself may be xs[0], which the other rows still read
            for other in others:
                y += other
            outs.append(F.relu(y, inplace=True))
        return outs


def fuse_path(channels: Sequence[int], source: int, target: int) -> nn.Module:
    """What branch `source` goes through before it is added to branch `target` of a fusion."""
    c_in, c_out = channels[source], channels[target]
    if source > target:  # coarse to fine
        return conv_bn(c_in, c_out, 1, 1, nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"))
    if source == target:
        return nn.Identity()
    halvings = [conv_bn(c_in, c_in, 3, 2, nn.ReLU(inplace=True)) for _ in range(target - source - 1)]
    return nn.Sequential(*halvings, conv_bn(c_in, c_out, 3, 2))  # fine to coarse: only the last changes the channels


def transition(channels: Sequence[int]) -> nn.ModuleList:
    """Opens a stage of len(channels) branches: the last branch comes from the one before it at half the size."""
    kept = [nn.Identity() for _ in channels[:-1]]
    return nn.ModuleList([*kept, nn.Sequential(conv_bn(channels[-2], channels[-1], 3, 2, nn.ReLU(inplace=True)))])


class HRNet(nn.Module):
    """HRNet-W`width` for images (B, 3, H, W) float, RGB, ImageNet-normalised.

    width: channels of branch 0. num_joints: heatmaps; 0 builds no final_layer, and then only `features` works.
    stages: 4 is the published network. 3 ends at the features: the last stage-3 module has only its branch-0 fusion
    row, and final_layer reads the features themselves. H and W are divisible by 32 for the heatmaps of 4 stages, by 16
    for those of 3 and for the features of either.
    A new network has `init_weights`'s weights and is in train mode, like every torch module.
    checkpointing: set it to train in less memory: of the stem and of every module only the outputs are kept, and what
    is within is computed again in the backward pass. Results are the same.
    """

    def __init__(self, width: int = 48, num_joints: int = 17, stages: int = 4) -> None:
        super().__init__()
        if width < 1 or num_joints < 0 or stages not in (3, 4):
            got = f"{width}, {num_joints}, {stages}"
            raise ValueError(f"HRNet needs width >= 1, num_joints >= 0 and stages 3 or 4, not {got}")
        self.width, self.num_joints, self.stages = width, num_joints, stages
        self.checkpointing = False
        c = [width * 2**branch for branch in range(4)]

        self.conv1, self.bn1 = conv_bn(3, 64, 3, 2)
        self.conv2, self.bn2 = conv_bn(64, 64, 3, 2)
        self.layer1 = nn.Sequential(Bottleneck(64, 64), *(Bottleneck(256, 64) for _ in range(BLOCKS - 1)))
        self.transition1 = nn.ModuleList(
            [
                conv_bn(256, c[0], 3, 1, nn.ReLU(inplace=True)),
                nn.Sequential(conv_bn(256, c[1], 3, 2, nn.ReLU(inplace=True))),
            ]
        )
        self.stage2 = nn.ModuleList(FusionModule(c[:2]) for _ in range(MODULES[2]))
        self.transition2 = transition(c[:3])
        self.stage3 = nn.ModuleList(FusionModule(c[:3]) for _ in range(MODULES[3] - 1))
        self.stage3.append(FusionModule(c[:3], rows=1 if stages == 3 else None))
        if stages == 4:
            self.transition3 = transition(c)
            self.stage4 = nn.ModuleList(FusionModule(c) for _ in range(MODULES[4] - 1))
            self.stage4.append(FusionModule(c, rows=1))
        self.final_layer = nn.Conv2d(width, num_joints, 1) if num_joints else None
        init_weights(self)

    def features(self, images: Tensor) -> Tensor:
        """Branch 0 of stage 3, after the last fusion's ReLU: (B, 3, H, W) -> (B, width, H/4, W/4), all >= 0.

        Computes only what that branch needs. Raises ValueError for an H or W that the branches cannot halve evenly.
        """
        return self._run(self.stage3[-1], self._to_last_fusion(images, multiple=16), 1)[0]

    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps: (B, 3, H, W) -> (B, num_joints, H/4, W/4).

        Raises ValueError for an H or W that the branches cannot halve evenly, CheckpointError without a final_layer.
        """
        if self.final_layer is None:
            raise CheckpointError("this HRNet has no final_layer (num_joints is 0): it gives features, not heatmaps")
        multiple = 32 if self.stages == 4 else 16
        xs = self._run(self.stage3[-1], self._to_last_fusion(images, multiple))  # with stages=3, branch 0 alone
        if self.stages == 4:
            xs = _open(self.transition3, xs)
            for module in self.stage4:
                xs = self._run(module, xs)
        return self.final_layer(xs[0])

    def _to_last_fusion(self, images: Tensor, multiple: int) -> list[Tensor]:
        """(B, 3, H, W) -> the last stage-3 module's input, per branch b (B, width 2**b, H / 2**(b+2), W / 2**(b+2))."""
        height, width = images.shape[-2:]
        if height % multiple or width % multiple:
            raise ValueError(f"images are {height} x {width} (H x W): HRNet needs both divisible by {multiple} here")
        x = self._run(self._stem, images)
        for block in self.layer1:
            x = self._run(block, x)  # (B, 256, H/4, W/4)
        xs = [path(x) for path in self.transition1]
        for module in self.stage2:
            xs = self._run(module, xs)
        xs = _open(self.transition2, xs)
        for module in list(self.stage3)[:-1]:
            xs = self._run(module, xs)
        return xs

    def _stem(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)  # (B, 64, H/2, W/2)
        return F.relu(self.bn2(self.conv2(x)), inplace=True)  # (B, 64, H/4, W/4)

    def _run(self, part: Callable[..., Any], *inputs: Any) -> Any:
        """part(*inputs), with `checkpointing` to be computed again in the backward pass."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return part(*inputs)
        again = lambda: (nullcontext(), _statistics_kept(self))  # noqa: E731
        return checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=again)


def _open(paths: nn.ModuleList, xs: list[Tensor]) -> list[Tensor]:
    """Apply a `transition`: n branches -> n + 1."""
    return [path(x) for path, x in zip(paths, [*xs, xs[-1]], strict=True)]


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms in train mode do as ever, but their statistics stay: they have seen this batch before."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d) and layer.training]
    counts = [layer.num_batches_tracked.clone() for layer in layers if layer.num_batches_tracked is not None]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum, count in zip(layers, momenta, counts, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count


def init_weights(module: nn.Module, std: float = 0.001) -> None:
    """The official initialisation, in place: convolutions N(0, std), biases 0, batch norms 1 and 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=std)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def fold_batch_norm(model: Network) -> Network:
    """A copy for inference, in eval mode and without gradients, with batch norms folded into their convolutions.

    A batch norm is folded into the convolution registered just before it, so this fits networks that apply them in that
    order. The outputs agree to about 1e-6 relative; the tensors are others, so take digests before folding.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for parent in list(folded.modules()):
        for (conv_name, conv), (bn_name, bn) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, bn))
                setattr(parent, bn_name, nn.Identity())
    return folded
