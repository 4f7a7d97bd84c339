"""Fine-tuning: the backbone reopened, trained on together with the heads, all crops of a proposal through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from glpose.crops import normalise
from glpose.finetuning_crops import CropSplit, Sample, epoch_rows, samples
from glpose.heatmaps import STRIDE
from glpose.keypoints import least_flag
from glpose.models.checkpoints import feature_tensors, load_hrnet, tensors_digest
from glpose.models.glpose import GLPoseHeads
from glpose.models.hrnet import HRNet
from glpose.options import FinetuneOptions, IndexOptions, TrainOptions
from glpose.schedules import warm_cosine
from glpose.targets import draw_targets, heatmap_loss
from glpose.training_state import check_finite, load_same_state, save_state

SAVED_EVERY = 100  # steps
DEPTHS = {  # of HRNet's layers: how many times lr_decay
    "stage3": 0, "transition2": 0,
    "stage2": 1, "transition1": 1,
    "layer1": 2, "conv1": 2, "bn1": 2, "conv2": 2, "bn2": 2,
}  # fmt: skip
Report = Callable[[int, int, float], None]  # steps done, steps in all, loss


def load_trainable(checkpoint: str | Path, width: int | None = None) -> HRNet:
    """The part of an HRNet that features come from, to be trained: stages=3, no final_layer, eval mode.

    CheckpointError as of `load_hrnet`.
    """
    given = load_hrnet(checkpoint, width=width)
    with torch.random.fork_rng(devices=[]):
        net = HRNet(given.width, num_joints=0, stages=3)
    net.load_state_dict(net.state_dict() | feature_tensors(given))
    return net.eval()


def finetune(
    split: CropSplit,
    net: HRNet,
    heads: GLPoseHeads,
    options: FinetuneOptions,
    train: TrainOptions,
    index: IndexOptions,
    device: torch.device,
    workers: int,
    report: Report,
    state: Path,
) -> None:
    """Train `net` (from `load_trainable`) and `heads` in place; both end in eval mode.

    workers: threads that cut crops; what a step shows does not depend on them. state: file that the training is saved
    to every 100 steps and at its end; where it is there, training goes on from it, to the same weights. StoreError
    where it is of another training; TrainingError where nobody is annotated, or the loss or a gradient is no number.
    """
    steps = sum(len(epoch_rows(split, options, train, epoch)) for epoch in range(1, options.epochs + 1))
    net.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    heads.to(device).train()
    net.checkpointing = options.checkpointing
    groups = parameter_groups(net, heads, options)
    optimiser = torch.optim.Adam(groups)
    recipe = _recipe(split, net, heads, options, train, index)
    done, saved = load_same_state(state, recipe)
    if done:
        net.load_state_dict(saved["net"])
        heads.load_state_dict(saved["heads"])
        optimiser.load_state_dict(saved["optimiser"])
    net.train(options.batch_norm == "trained" and options.backbone_lr > 0)
    trained = [parameter for group in groups for parameter in group["params"]]
    drawn = samples(split, heads.offsets, heads.options.n, options, train, index, done, workers)
    with closing(drawn):
        for step, batch in enumerate(drawn, start=done):
            with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
                heatmaps = forward(net, heads, batch, options, index.similarity, device)
            loss = _loss(heatmaps, batch, split.extract.crop_size, train)
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * warm_cosine(step, steps)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            check_finite(loss, trained, step, "lower finetune.lr and finetune.backbone_lr", state)
            optimiser.step()
            if (step + 1) % SAVED_EVERY == 0 or step + 1 == steps:
                parts = {"net": net.state_dict(), "heads": heads.state_dict(), "optimiser": optimiser.state_dict()}
                save_state(state, recipe, step + 1, parts)
            report(step + 1, steps, loss.item())
    net.checkpointing = False
    net.eval()
    heads.eval()


def parameter_groups(net: HRNet, heads: GLPoseHeads, options: FinetuneOptions) -> list[dict]:
    """The optimiser's groups: heads, then the backbone from its features down, each with its peak learning rate.

    With a backbone_lr of 0 the backbone is not among them, and its parameters need no gradients.
    """
    net.requires_grad_(options.backbone_lr > 0)
    groups = [{"params": list(heads.parameters()), "lr": options.lr, "peak": options.lr}]
    if options.backbone_lr == 0:
        return groups
    for depth in sorted(set(DEPTHS.values())):
        peak = options.backbone_lr * options.lr_decay**depth
        own = [tensor for name, tensor in net.named_parameters() if DEPTHS[name.split(".")[0]] == depth]
        groups.append({"params": own, "lr": peak, "peak": peak})
    return groups


def forward(
    net: HRNet,
    heads: GLPoseHeads,
    batch: Sequence[Sample],
    options: FinetuneOptions,
    similarity: str,
    device: torch.device,
) -> Tensor:
    """Heatmaps (B, J, H, W) of a batch: all its crops through the backbone, the features through the heads.

    With grad: key, features of local and reference crops are computed without gradients, and so are constants.
    """
    images = normalise(torch.from_numpy(np.stack([own.crops for own in batch])).to(device).flatten(0, 1))
    images = images.unflatten(0, (len(batch), -1))  # (B, 1 + 2k + n, 3, h, w)
    if options.grad == "all" or images.shape[1] == 1:
        features = net.features(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    else:
        with torch.no_grad():
            others = net.features(images[:, 1:].flatten(0, 1)).unflatten(0, (len(batch), -1))
        features = torch.cat([net.features(images[:, 0])[:, None], others], dim=1)
    k2 = len(heads.offsets)
    key, local, references = features[:, 0], features[:, 1 : 1 + k2], features[:, 1 + k2 :]
    stored = torch.from_numpy(np.stack([own.similarity for own in batch])).to(device)  # (B, n), -inf where missing
    there = torch.isfinite(stored)
    references = references * there[..., None, None, None]
    if options.similarity == "current" or heads.options.per_channel:
        weights = _similarity(key, references, similarity, heads.options.per_channel)
        stored = weights.masked_fill(~there.reshape(*there.shape, *[1] * (weights.dim() - 2)), -torch.inf)
    return heads(key, local, references, stored)


def _similarity(key: Tensor, references: Tensor, similarity: str, per_channel: bool) -> Tensor:
    """(B, n), or (B, n, C) unsummed: Eq. 3's products of embeddings, with gradients. key: (B, C, H, W)."""
    query, others = key.float().mean(dim=(-2, -1))[:, None], references.float().mean(dim=(-2, -1))
    if similarity == "cosine":
        query, others = nn.functional.normalize(query, dim=-1), nn.functional.normalize(others, dim=-1)
    products = query * others
    return products if per_channel else products.sum(dim=-1)


def _loss(heatmaps: Tensor, batch: Sequence[Sample], crop_size: tuple[int, int], train: TrainOptions) -> Tensor:
    keypoints = torch.from_numpy(np.stack([own.keypoints for own in batch]).astype(np.float32)).to(heatmaps.device)
    weight = (keypoints[..., 2] >= least_flag(train.joints)).float()
    size = (crop_size[0] // STRIDE, crop_size[1] // STRIDE)
    return heatmap_loss(heatmaps, draw_targets(keypoints[..., :2] / STRIDE, weight, size, train.sigma), weight)


def _recipe(
    split: CropSplit,
    net: HRNet,
    heads: GLPoseHeads,
    options: FinetuneOptions,
    train: TrainOptions,
    index: IndexOptions,
) -> str:
    """Identifies a training: options, proposals, and the weights that it starts from."""
    start = f"from {tensors_digest(net.state_dict())} {tensors_digest(heads.state_dict())}"
    own = options.model_dump_json(exclude={"checkpointing"})
    theirs = train.model_dump_json(include={"sigma", "joints", "redraw_pool"})
    return " ".join(
        [own, theirs, index.model_dump_json(), heads.options.model_dump_json(), f"{len(split)} proposals", start]
    )
