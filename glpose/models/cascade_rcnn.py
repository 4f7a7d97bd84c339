"""Cascade R-CNN, the person detector: Cai and Vasconcelos, "Cascade R-CNN", CVPR 2018.

A ResNet with a feature pyramid (FPN) proposes regions, and three heads refine their boxes one after the other. Made of
torchvision's parts, with mmdetection 3.3's values wherever the two differ, so that its public weights give its boxes.
Parameter names are those of torchvision's detectors. Boxes are (x1, y1, x2, y2) in network px (the resized image,
before padding; `image_size` is its height and width) until `detect` takes them back to the given image's px.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import batched_nms, clip_boxes_to_image

from glpose.models.roi_features import ROI_CELLS, STRIDES, roi_features
from store.errors import DataError

PIXEL_MEAN = (123.675, 116.28, 103.53)  # ImageNet's, RGB, 0..255
PIXEL_STD = (58.395, 57.12, 57.375)
PAD_MULTIPLE = 32

ANCHOR_SIDE = 8  # strides
ANCHOR_RATIOS = (0.5, 1.0, 2.0)  # height : width
PROPOSALS = 1000  # kept per level before suppression, and per image after it
PROPOSAL_NMS = 0.7

# What one unit of (dx, dy, dw, dh) means, in sides of the box for the centre, in their logarithm for the sides.
PROPOSAL_STDS = (1.0, 1.0, 1.0, 1.0)
STAGE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
LOG_SIDE_LIMIT = math.log(1000 / 16)

MIN_SCORE = 0.05
NMS = 0.5
PERSON = 0  # label


@dataclass(frozen=True)
class Architecture:
    """A ResNet and the widths of what stands on it."""

    block: type[BasicBlock] | type[Bottleneck]
    layers: tuple[int, int, int, int]  # blocks in layer1..layer4
    groups: int = 1
    width_per_group: int = 64
    channels: int = 256  # of every pyramid level
    hidden: int = 1024  # of the box heads
    stem: int = 64  # channels of the first convolution, doubled by layer2..layer4


ARCHITECTURES = {
    "resnet18_half": Architecture(BasicBlock, (2, 2, 2, 2), channels=64, hidden=128, stem=32),  # ours, for CPUs
    "resnet18_narrow": Architecture(BasicBlock, (2, 2, 2, 2), channels=64, hidden=128),
    "resnet50": Architecture(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Architecture(Bottleneck, (3, 4, 23, 3)),
    "resnext101_32x4d": Architecture(Bottleneck, (3, 4, 23, 3), groups=32, width_per_group=4),
    "resnext101_64x4d": Architecture(Bottleneck, (3, 4, 23, 3), groups=64, width_per_group=4),
}


class Detections(TypedDict):
    """What one image shows, best first: n boxes."""

    boxes: np.ndarray  # (n, 4) float32, xyxy px of the given image
    scores: np.ndarray  # (n,) float32
    labels: np.ndarray  # (n,) int64, 0 is person


class Refined(NamedTuple):
    """What one stage of the cascade makes of N regions, those of a batch's images one after the other."""

    logits: Tensor  # (N, num_classes + 1), background last
    deltas: Tensor  # (N, 4) from the regions to `boxes`, in units of the stage's STAGE_STDS
    boxes: Tensor  # (N, 4), clipped to the image


def resized_size(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) px of an image made as large as `size`, (long side, short side) px, allows; 1 at the least."""
    factor = min(size[0] / max(height, width), size[1] / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def to_input(images: Sequence[np.ndarray], image_size: tuple[int, int], device: torch.device) -> Tensor:
    """B images (h, w, 3) BGR uint8 -> (B, 3, H, W) float32 on the device, RGB, normalised, zeros right and below.

    Resized to image_size, without antialiasing and in uint8, as the weights were trained; H and W are the next
    multiples of 32. Channels-last in memory, as is then all that convolutions make of it: faster.
    """
    height, width = image_size
    resized = np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR) for image in images])
    x = torch.from_numpy(resized).to(device).permute(0, 3, 1, 2).flip(1).float()
    x = (x - x.new_tensor(PIXEL_MEAN)[:, None, None]) / x.new_tensor(PIXEL_STD)[:, None, None]
    return F.pad(x, (0, -width % PAD_MULTIPLE, 0, -height % PAD_MULTIPLE))


def grid_anchors(height: int, width: int, stride: int, device: torch.device | str = "cpu") -> Tensor:
    """Anchors of one level's (height, width) cells: (height * width * 3, 4), by row, column and ratio.

    Centred on the cells' top left corners; neither rounded nor clipped.
    """
    root = torch.tensor(ANCHOR_RATIOS, device=device).sqrt()
    sides = stride * ANCHOR_SIDE * torch.stack([1 / root, root], dim=1)  # (3, 2) width, height
    y = torch.arange(height, device=device) * stride
    x = torch.arange(width, device=device) * stride
    centres = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1)[:, :, None]  # (h, w, 1, 2)
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=-1).flatten(0, 2)


def decode_boxes(boxes: Tensor, deltas: Tensor, stds: Sequence[float], image_size: tuple[int, int]) -> Tensor:
    """Move and scale boxes (..., 4) by deltas (..., 4) in units of `stds`, and clip them to the image."""
    shift, log_scale = (deltas * deltas.new_tensor(stds)).split(2, dim=-1)
    sides = boxes[..., 2:] - boxes[..., :2]
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2 + sides * shift
    sides = sides * log_scale.clamp(-LOG_SIDE_LIMIT, LOG_SIDE_LIMIT).exp()
    return clip_boxes_to_image(torch.cat([centres - sides / 2, centres + sides / 2], dim=-1), image_size)


def encode_boxes(boxes: Tensor, wanted: Tensor, stds: Sequence[float]) -> Tensor:
    """The deltas (n, 4), in units of `stds`, by which `decode_boxes` makes boxes (n, 4) into the wanted ones (n, 4)."""
    sides, wanted_sides = boxes[:, 2:] - boxes[:, :2], wanted[:, 2:] - wanted[:, :2]
    shift = (wanted[:, :2] + wanted[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2 / sides
    return torch.cat([shift, (wanted_sides / sides).log()], dim=1) / boxes.new_tensor(stds)


class Level(NamedTuple):
    """What the region proposal network says of one pyramid level, whose n anchors go by row, column and ratio."""

    logits: Tensor  # (B, n) of "here is something"
    deltas: Tensor  # (B, n, 4)
    anchors: Tensor  # (n, 4)


class RegionProposals(nn.Module):
    """The region proposal network (RPN) on P2..P6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = RPNHead(channels, len(ANCHOR_RATIOS))

    def forward(self, levels: Sequence[Tensor], image_size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """Levels (B, channels, h, w) -> per image at most 1000 boxes (n, 4) and their scores (n,), best first."""
        return self.propose(self.predict(levels), image_size)

    def predict(self, levels: Sequence[Tensor]) -> list[Level]:
        """Levels (B, channels, h, w) -> what each of their anchors is."""
        predicted = []
        for stride, logits, deltas in zip(STRIDES, *self.head(list(levels)), strict=True):
            height, width = logits.shape[-2:]
            anchors = grid_anchors(height, width, stride, logits.device)
            logits, deltas = logits.float(), deltas.float()  # of lower precision under autocast
            logits = logits.permute(0, 2, 3, 1).flatten(1)  # (B, h w 3)
            deltas = deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)  # (B, h w 3, 4)
            predicted.append(Level(logits, deltas, anchors))
        return predicted

    def propose(self, predicted: Sequence[Level], image_size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """The best anchors of each image, moved, without those that a better one of their level covers."""
        boxes, scores, level_ids = [], [], []
        for number, (logits, deltas, anchors) in enumerate(predicted):
            found, index = logits.sigmoid().topk(min(PROPOSALS, len(anchors)), dim=1)
            deltas = deltas.gather(1, index[:, :, None].expand(-1, -1, 4))
            boxes.append(decode_boxes(anchors[index], deltas, PROPOSAL_STDS, image_size))
            scores.append(found)
            level_ids.append(torch.full_like(index[0], number))
        ids = torch.cat(level_ids)
        return [_suppress(*image, ids) for image in zip(torch.cat(boxes, dim=1), torch.cat(scores, dim=1), strict=True)]


def _suppress(boxes: Tensor, scores: Tensor, level_ids: Tensor) -> tuple[Tensor, Tensor]:
    """One image's proposals without those of no area and those that a better one of their level covers."""
    solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    boxes, scores = boxes[solid], scores[solid]
    kept = batched_nms(boxes, scores, level_ids[solid], PROPOSAL_NMS)[:PROPOSALS]
    return boxes[kept], scores[kept]


class BoxPredictor(nn.Module):
    """Class logits and one set of box deltas, the same for all classes."""

    def __init__(self, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(hidden, num_classes + 1)
        self.bbox_pred = nn.Linear(hidden, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, hidden) -> (N, num_classes + 1), (N, 4)."""
        return self.cls_score(x), self.bbox_pred(x)


class CascadeHead(nn.Module):
    """Three box heads, each on the boxes of the one before."""

    def __init__(self, channels: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.box_head = nn.ModuleList(TwoMLPHead(channels * ROI_CELLS**2, hidden) for _ in STAGE_STDS)
        self.box_predictor = nn.ModuleList(BoxPredictor(hidden, num_classes) for _ in STAGE_STDS)

    def forward(
        self, levels: Sequence[Tensor], proposals: Sequence[Tensor], image_size: tuple[int, int]
    ) -> list[Refined]:
        """Levels P2, P3, ... (B, channels, h, w) and each image's proposals (n, 4) -> what each stage makes of them."""
        levels = [level.float() for level in levels]
        boxes = torch.cat(list(proposals))
        images = torch.cat([torch.full_like(own[:, 0], image).long() for image, own in enumerate(proposals)])
        stages = []
        for stage in range(len(STAGE_STDS)):
            stages.append(self.refine(stage, levels, boxes, images, image_size))
            boxes = stages[-1].boxes
        return stages

    def refine(
        self, stage: int, levels: Sequence[Tensor], boxes: Tensor, images: Tensor, image_size: tuple[int, int]
    ) -> Refined:
        """One stage on boxes (N, 4) of the batch's images (N,) int64. levels: float32."""
        logits, deltas = self.box_predictor[stage](self.box_head[stage](roi_features(levels, boxes, images)))
        logits, deltas = logits.float(), deltas.float()
        return Refined(logits, deltas, decode_boxes(boxes, deltas, STAGE_STDS[stage], image_size))


class NarrowResNet(ResNet):
    """A ResNet of basic blocks whose first convolution has `stem` channels instead of 64."""

    def __init__(self, layers: Sequence[int], stem: int) -> None:
        super().__init__(BasicBlock, [1, 1, 1, 1])
        self.conv1 = nn.Conv2d(3, stem, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.inplanes = stem
        self.layer1 = self._make_layer(BasicBlock, stem, layers[0])
        self.layer2 = self._make_layer(BasicBlock, stem * 2, layers[1], stride=2)
        self.layer3 = self._make_layer(BasicBlock, stem * 4, layers[2], stride=2)
        self.layer4 = self._make_layer(BasicBlock, stem * 8, layers[3], stride=2)


def _body(kind: Architecture) -> ResNet:
    if kind.stem != 64:
        return NarrowResNet(kind.layers, kind.stem)
    return ResNet(kind.block, list(kind.layers), groups=kind.groups, width_per_group=kind.width_per_group)


class CascadeRCNN(nn.Module):
    """Cascade R-CNN of one of ARCHITECTURES for `num_classes` classes, of which the first is person.

    size: (long side, short side) px that images are resized to fit into. New weights are torchvision's random ones.
    """

    def __init__(
        self, architecture: str = "resnet50", num_classes: int = 80, size: tuple[int, int] = (1333, 800)
    ) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES or num_classes < 1:
            known = ", ".join(ARCHITECTURES)
            raise ValueError(
                f"CascadeRCNN needs num_classes >= 1 and one of {known}, not {num_classes}, {architecture}"
            )
        self.architecture, self.num_classes, self.size = architecture, num_classes, size
        kind = ARCHITECTURES[architecture]
        outputs = {f"layer{layer}": f"P{layer + 1}" for layer in range(1, 5)}
        widths = [kind.stem * 2**layer * kind.block.expansion for layer in range(4)]
        # P2..P5, and every second cell of P5
        self.backbone = BackboneWithFPN(_body(kind), outputs, widths, kind.channels)
        self.rpn = RegionProposals(kind.channels)
        self.roi_heads = CascadeHead(kind.channels, kind.hidden, num_classes)

    @torch.inference_mode()
    def detect(
        self,
        images: Sequence[np.ndarray],
        all_classes: bool = False,
        max_per_image: int | None = None,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
        nms: float = NMS,
    ) -> list[Detections]:
        """What each image (h, w, 3) BGR uint8 shows, in the given order: persons alone, or all classes.

        Scores are above 0.05; within a class no two boxes overlap by an IoU above `nms`. As in mmdetection, a box may
        have no area. max_per_image keeps the best (mmdetection's own output is all_classes with 100). Images of one
        size are computed as one batch. Call it in eval mode; `fold_batch_norm` of the network is a little faster.
        bfloat16, float16: the layers compute in it, boxes and scores do not. Faster where the processor can, but
        detections move and some change. Raises DataError for other arrays.
        """
        shapes = [_checked_shape(image, number) for number, image in enumerate(images)]
        found: dict[int, Detections] = {}
        device = next(self.parameters()).device
        for height, width in dict.fromkeys(shapes):
            numbers = [number for number, shape in enumerate(shapes) if shape == (height, width)]
            image_size = resized_size(height, width, self.size)
            x = to_input([images[number] for number in numbers], image_size, device)
            with torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32"):
                levels = list(self.backbone(x).values())
                proposals = [boxes for boxes, _ in self.rpn(levels, image_size)]
                stages = self.roi_heads(levels, proposals, image_size)
            probs = torch.stack([stage.logits for stage in stages]).mean(dim=0).softmax(dim=1)  # (N, num_classes + 1)
            probs = probs[:, :-1] if all_classes else probs[:, PERSON : PERSON + 1]
            back = probs.new_tensor([width / image_size[1], height / image_size[0]] * 2)
            counts = [len(boxes) for boxes in proposals]
            per_image = zip((stages[-1].boxes * back).split(counts), probs.split(counts), strict=True)
            found |= {n: _select(*own, nms, max_per_image) for n, own in zip(numbers, per_image, strict=True)}
        return [found[number] for number in range(len(shapes))]


def _select(boxes: Tensor, probs: Tensor, nms: float, max_per_image: int | None) -> Detections:
    """One image's detections out of its boxes (n, 4) px and class probabilities (n, classes)."""
    rows, labels = torch.nonzero(probs > MIN_SCORE, as_tuple=True)
    boxes, scores = boxes[rows], probs[rows, labels]
    kept = batched_nms(boxes, scores, labels, nms)[:max_per_image]
    return Detections(
        boxes=boxes[kept].cpu().numpy(), scores=scores[kept].cpu().numpy(), labels=labels[kept].cpu().numpy()
    )


def _checked_shape(image: np.ndarray, number: int) -> tuple[int, int]:
    """(height, width) of an image. DataError for what `detect` cannot take."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise DataError(
            f"image {number} of those given to the detector is {image.shape} {image.dtype}; "
            "it takes a sequence of BGR images (h, w, 3) uint8"
        )
    return image.shape[0], image.shape[1]
