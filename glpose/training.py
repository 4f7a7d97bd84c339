"""Training the heads on features held on the device (§ 4.1 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glpose.data.resident import ResidentFeatures
from glpose.geometry import frame_to_heatmap
from glpose.keypoints import VISIBLE
from glpose.models.glpose import GLPoseHeads
from glpose.options import HeadOptions, IndexOptions, TrainOptions
from glpose.retrieval import Neighbours, comparable, find_references
from glpose.targets import draw_targets, heatmap_loss
from store.errors import TrainingError

Report = Callable[[int, int, float], None]  # epoch (from 1), epochs, mean loss


@dataclass(frozen=True)
class References:
    """Each row's non-local references: rows (P, n) int64, -1 where missing, and similarities (P, n), -inf there."""

    rows: Tensor
    similarity: Tensor


def train_heads(
    features: ResidentFeatures,
    fixed: References,
    num_joints: int,
    heads: HeadOptions,
    options: TrainOptions,
    index: IndexOptions,
    report: Report,
) -> GLPoseHeads:
    """Train heads on every annotated proposal of `features`; returns them in eval mode.

    fixed: the references that `index` stored; they are used as they are where pools are the whole video or are not
    redrawn. One seed gives the same weights again on one CPU; on a GPU, as far as its kernels do. TrainingError where
    nothing is annotated, or where the loss is not finite.
    """
    device = features.device
    features = features.nearer(heads.k)
    points, weight, rows = _targets(features, num_joints, options)
    torch.manual_seed(options.seed)
    order = torch.Generator().manual_seed(options.seed)
    model = GLPoseHeads(features.schema.channels, num_joints, features.offsets, heads).to(device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, list(options.milestones), options.gamma)
    size = (features.schema.height, features.schema.width)
    redraw = options.redraw_pool and heads.n > 0 and isinstance(index.pool, int)
    for epoch in range(1, options.epochs + 1):
        references = draw_references(features, index, heads.n, epoch) if redraw else fixed
        total = 0.0
        for step, chosen in enumerate(torch.randperm(len(rows), generator=order).split(options.batch_size)):
            batch = rows[chosen].to(device)
            targets = draw_targets(points[batch], weight[batch], size, options.sigma)
            with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
                heatmaps = model(*head_inputs(features, references, heads, batch))
            loss = heatmap_loss(heatmaps, targets, weight[batch])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss became {value} in epoch {epoch}, step {step + 1}: lower train.lr, or set "
                    "train.precision=float32"
                )
            total += value * len(chosen)
        schedule.step()
        report(epoch, options.epochs, total / len(rows))
    return model.eval()


def head_inputs(
    features: ResidentFeatures, references: References, heads: HeadOptions, batch: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `GLPoseHeads.forward` takes, for these rows and the first n of their references."""
    rows, similarity = references.rows[batch, : heads.n], references.similarity[batch, : heads.n]
    if heads.per_channel:  # Eq. 3's product left unsummed
        products = features.embedding[batch][:, None] * features.embedding[rows.clamp(min=0)]
        similarity = torch.where((rows >= 0)[..., None], products, -torch.inf)
    return features.inputs(batch, rows, similarity)


def draw_references(features: ResidentFeatures, index: IndexOptions, n: int, epoch: int) -> References:
    """References from freshly drawn pools, for every row: a new draw for each epoch (evaluation's is epoch 0)."""
    if not isinstance(index.pool, int):
        raise ValueError("the whole video is the pool: there is nothing to draw")
    embeddings = comparable(features.embedding.cpu().numpy(), index.similarity)
    found = []
    for video, group in features.table.groupby("video", sort=True):
        start = int(group.index[0])
        rows = np.arange(len(group))
        frames, scores = group["frame"].to_numpy(), group["score"].to_numpy()
        own = embeddings[start : start + len(rows)]
        ranked = find_references(str(video), frames, scores, rows, own, index, n, epoch)
        found.append(Neighbours(np.where(ranked.rows >= 0, ranked.rows + start, -1), ranked.similarity))
    return _on(features.device, found)


def stored_references(features: ResidentFeatures, neighbours: dict[str, Neighbours], n: int) -> References:
    """The references that `index` stored, for every row. neighbours: video -> (all its proposals, in order)."""
    found = []
    for video, group in features.table.groupby("video", sort=True):
        numbers = group["proposal"].to_numpy()
        stored = neighbours[str(video)]
        position = np.full(len(stored.rows) + 1, -1)  # proposal number -> row here; -1 stays -1
        position[numbers] = np.arange(group.index[0], group.index[0] + len(numbers))
        rows = position[stored.rows[numbers, :n]]
        found.append(Neighbours(rows, np.where(rows >= 0, stored.similarity[numbers, :n], -np.inf)))
    return _on(features.device, found)


def _on(device: torch.device, found: list[Neighbours]) -> References:
    rows = np.concatenate([part.rows for part in found])
    similarity = np.concatenate([part.similarity for part in found]).astype(np.float32)
    return References(torch.from_numpy(rows).to(device), torch.from_numpy(similarity).to(device))


def _targets(features: ResidentFeatures, num_joints: int, options: TrainOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Heatmap points (P, J, 2), loss weights v_m (P, J), and the rows that can be trained on."""
    size = (features.schema.height, features.schema.width)
    keypoints = np.zeros((len(features), num_joints, 3))
    annotated = []
    for row, points in enumerate(features.table["keypoints"]):
        if points is not None:
            keypoints[row] = points
            annotated.append(row)
    points = frame_to_heatmap(keypoints[..., :2], features.regions, size)
    inside = ((points >= 0) & (points < [size[1], size[0]])).all(axis=-1)
    least = VISIBLE if options.joints == "visible" else 1
    weight = (keypoints[..., 2] >= least) & inside
    rows = [row for row in annotated if weight[row].any()]
    if not rows:
        raise TrainingError(
            "no proposal of the train split has an annotated joint inside its crop: heads can only be trained on "
            "annotated videos (detect.train.source: annotations)"
        )
    as_tensor = lambda array: torch.from_numpy(array.astype(np.float32)).to(features.device)  # noqa: E731
    return as_tensor(points), as_tensor(weight), torch.tensor(rows)
