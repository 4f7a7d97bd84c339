"""Training the heads on features held on the device (§ 4.1 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from glpose.data.resident import ResidentFeatures
from glpose.geometry import frame_to_heatmap
from glpose.keypoints import VISIBLE
from glpose.models.glpose import GLPoseHeads
from glpose.options import HeadOptions, IndexOptions, TrainOptions
from glpose.retrieval import find_references, make_gallery
from glpose.targets import draw_targets, heatmap_loss
from store.errors import DataError, TrainingError

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

    fixed: the references that `index` stored; they are used as they are where everyone in scope is the pool, or where
    pools are not redrawn. One seed gives the same weights again on one CPU; on a GPU, as far as its kernels do.
    TrainingError where nothing is annotated, or where the loss is not finite.
    """
    device = features.device
    features = features.nearer(heads.k, heads.causal)
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
        raise ValueError("everyone in scope is the pool: there is nothing to draw")
    gallery = make_gallery(features.table, features.embedding.cpu().numpy(), index)
    found = [find_references(gallery, video, index, n, epoch) for video in gallery.spans]
    rows, similarity = (np.concatenate(parts) for parts in zip(*((f.rows, f.similarity) for f in found), strict=True))
    return References(torch.from_numpy(rows).to(features.device), torch.from_numpy(similarity).to(features.device))


def stored_references(features: ResidentFeatures, neighbours: pd.DataFrame, n: int) -> References:
    """The n best references that `index` stored, for every row. neighbours: `store.Store.neighbours` of its videos.

    DataError where a reference is not among the features.
    """
    held = features.table[["video", "proposal"]].assign(row=np.arange(len(features)))
    others = held.set_axis(["reference_video", "reference", "reference_row"], axis=1)
    found = neighbours.loc[neighbours["rank"] < n].merge(held, on=["video", "proposal"])
    found = found.merge(others, on=["reference_video", "reference"], how="left")
    if len(lost := found.loc[found["reference_row"].isna()]):
        first = lost.iloc[0]
        raise DataError(
            f"proposal {first['proposal']} of {first['video']!r} refers to proposal {first['reference']} of "
            f"{first['reference_video']!r}, which is not loaded ({len(lost)} in all): load all videos of the split"
        )
    rows = np.full((len(features), n), -1)
    similarity = np.full((len(features), n), -np.inf, np.float32)
    where = (found["row"].to_numpy(), found["rank"].to_numpy())
    rows[where], similarity[where] = found["reference_row"], found["similarity"]
    return References(torch.from_numpy(rows).to(features.device), torch.from_numpy(similarity).to(features.device))


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
