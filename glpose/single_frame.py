"""An HRNet's own heatmaps, one frame at a time: the row of every table that no aggregation can take credit for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from glpose.crops import cut_crops, normalise
from glpose.data.video import FrameSource
from glpose.geometry import crop_affine, crop_frames, heatmap_to_frame
from glpose.heatmaps import STRIDE, decode_argmax
from glpose.keypoints import COCO_JOINTS, JHMDB, POSETRACK, JointSet
from glpose.models.checkpoints import load_hrnet, read_metadata
from glpose.models.hrnet import HRNet, fold_batch_norm
from store.errors import CheckpointError, ConfigError

KNOWN_SETS = {own.name: own.joints for own in (POSETRACK, JHMDB)}


@dataclass(frozen=True)
class SingleFrame:
    """An HRNet that predicts a joint set's J joints from a crop, on one device.

    channels: (J,) which of its heatmaps is of which joint. logits: whether its heatmaps are logits over the grid.
    """

    net: HRNet
    channels: list[int]
    logits: bool
    device: torch.device

    def heatmaps(self, crops_bgr: torch.Tensor) -> np.ndarray:
        """(B, h, w, 3) uint8 BGR on the device -> heatmaps (B, J, h/4, w/4) float32, of logits their softmax."""
        with torch.inference_mode():
            maps = self.net(normalise(crops_bgr)).float()[:, self.channels]
            if self.logits:  # only their differences mean something
                maps = maps.flatten(2).softmax(dim=-1).unflatten(2, maps.shape[2:])
            return maps.cpu().numpy()


def checkpoint_joints(source: str | Path, count: int) -> tuple[str, ...] | None:
    """Names of the joints that an HRNet's heatmaps are of, in order; None where nothing tells.

    Ours say it in their metadata. Other people's with 17 have COCO's order (see `COCO_JOINTS`).
    """
    try:
        metadata = read_metadata(source)
    except CheckpointError:  # not safetensors, so not ours
        metadata = {}
    names = tuple(json.loads(metadata["joint_names"])) if "joint_names" in metadata else None
    names = names or KNOWN_SETS.get(metadata.get("joints", "")) or COCO_JOINTS
    return names if len(names) == count else None


def load_single_frame(source: str | Path, joints: JointSet, device: torch.device) -> SingleFrame:
    """Load an HRNet to predict these joints. CheckpointError where it does not predict all of them."""
    hrnet = load_hrnet(source)
    return make_single_frame(hrnet, _channels(source, hrnet, joints, ""), _is_logits(source), device)


def feature_layer(source: str | Path, joints: JointSet) -> nn.Conv2d:
    """The layer that makes logits over the grid, of these joints, from the features that heads read.

    It is what `heads.prior` starts from, and what `heads.align` and `index.embedding: pose` see poses with.

    CheckpointError where a checkpoint has none: where its own reads other features, those of stage 4, or is not trained
    with cross-entropy, or predicts other joints.
    """
    hrnet = load_hrnet(source)
    if hrnet.final_layer is None or hrnet.stages != 3 or not _is_logits(source):
        raise CheckpointError(
            f"{source} has no layer that reads its features as logits, as heads.prior, heads.align and "
            "index.embedding=pose need: pretrain it with pretrain.stages=3 and pretrain.loss=cross_entropy, or leave "
            "them at none, none and pooled"
        )
    channels = _channels(source, hrnet, joints, ", pretrain.stages=3, pretrain.loss=cross_entropy")
    layer = nn.Conv2d(hrnet.width, len(joints), 1)
    with torch.no_grad():
        layer.weight.copy_(hrnet.final_layer.weight[channels])
        layer.bias.copy_(hrnet.final_layer.bias[channels])  # pyright: ignore[reportOptionalMemberAccess, reportOptionalSubscript]
    return layer


def _channels(source: str | Path, hrnet: HRNet, joints: JointSet, options: str) -> list[int]:
    """Which of an HRNet's heatmaps is of which joint. CheckpointError where it does not predict all of them.

    options: more of those to pretrain it with.
    """
    names = checkpoint_joints(source, hrnet.num_joints) or ()
    if lacking := [name for name in joints.joints if name not in names]:
        what = f"{hrnet.num_joints} joints, without {', '.join(lacking[:3])}" if names else "no joints that are known"
        raise CheckpointError(
            f"{source} predicts {what}: pretrain it on this data first (pretrain.source=data, pretrain.init={source}"
            f"{options})"
        )
    return [names.index(name) for name in joints.joints]


def make_single_frame(hrnet: HRNet, channels: Sequence[int], logits: bool, device: torch.device) -> SingleFrame:
    """A network that is at hand, for inference: a copy in eval mode, batch norms folded, channels-last."""
    net = fold_batch_norm(hrnet).to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return SingleFrame(net, list(channels), logits, device)


def predict_frames(
    network: SingleFrame,
    source: FrameSource,
    frames: np.ndarray,
    boxes: np.ndarray,
    crop_size: tuple[int, int],
    crop_scale: float,
    batch_size: int,
) -> np.ndarray:
    """(P, J, 3) float64: x, y in frame px and heatmap maximum, of boxes (P, 4) xyxy in frames (P,), rising.

    DataError where a frame cannot be read, ConfigError for a crop size that the network's branches cannot halve.
    """
    multiple = 32 if network.net.stages == 4 else 16
    if any(side % multiple for side in crop_size):
        raise ConfigError(
            f"the crops of this pipeline are {list(crop_size)} px (extract.crop_size); heatmaps of a whole HRNet need "
            f"multiples of {multiple}"
        )
    regions = crop_frames(boxes, crop_size, crop_scale)
    found = []
    for crops in _batches(source, frames, regions, crop_size, network.device, batch_size):
        points, maxima = decode_argmax(network.heatmaps(torch.stack(crops)))
        found.append(np.concatenate([points, maxima[..., None]], axis=-1))
    if not found:
        return np.zeros((0, len(network.channels), 3))
    poses = np.concatenate(found).astype(np.float64)
    size = (crop_size[0] // STRIDE, crop_size[1] // STRIDE)
    poses[..., :2] = heatmap_to_frame(poses[..., :2], regions, size)
    return poses


def _batches(
    source: FrameSource,
    frames: np.ndarray,
    regions: np.ndarray,
    crop_size: tuple[int, int],
    device: torch.device,
    batch_size: int,
) -> Iterator[list[torch.Tensor]]:
    crops: list[torch.Tensor] = []
    for frame, image in source.read(frames.tolist()):
        affines = [crop_affine(region, crop_size) for region in regions[frames == frame]]
        crops += cut_crops(image, affines, crop_size, device)
        while len(crops) >= batch_size:
            yield crops[:batch_size]
            crops = crops[batch_size:]
    if crops:
        yield crops


def _is_logits(source: str | Path) -> bool:
    """Whether `pretrain` made a checkpoint with cross-entropy, whose heatmaps are logits."""
    try:
        return json.loads(read_metadata(source).get("recipe", "{}")).get("loss") == "cross_entropy"
    except CheckpointError:
        return False
