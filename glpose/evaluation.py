"""Poses of stored proposals, and their scores."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from glpose.data.resident import ResidentFeatures
from glpose.geometry import heatmap_to_frame
from glpose.heatmaps import decode_argmax
from glpose.models.glpose import GLPoseHeads
from glpose.training import References, head_inputs


def predict_poses(
    model: GLPoseHeads,
    features: ResidentFeatures,
    references: References,
    score: str,
    batch_size: int,
    k: int | None = None,
    n: int | None = None,
) -> np.ndarray:
    """(P, J, 3) float64: x, y in frame px and a score per joint, for every row of `features`.

    score: "product", heatmap maximum x box score, or "heatmap", the maximum alone. k, n: of `with_fewer`.
    """
    features = features.nearer(model.options.k, model.options.causal)
    size = (features.schema.height, features.schema.width)
    box_scores = features.table["score"].to_numpy()
    poses = []
    for rows in torch.arange(len(features)).split(batch_size):
        with torch.inference_mode():
            inputs = head_inputs(features, references, model.options, rows.to(features.device))
            heatmaps = model(*with_fewer(inputs, model.offsets, k, n))
        points, maxima = decode_argmax(heatmaps.float().cpu().numpy())
        joint_scores = maxima * box_scores[rows.numpy(), None] if score == "product" else maxima
        xy = heatmap_to_frame(points, features.regions[rows.numpy()], size)
        poses.append(np.concatenate([xy, joint_scores[..., None]], axis=-1))
    return np.concatenate(poses)


def with_fewer(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor], offsets: tuple[int, ...], k: int | None, n: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `GLPoseHeads.forward` takes, as it would be with fewer local frames or references; None: with all of them.

    Local maps of more than k frames away become the key frame's, as past a clip's edge; references after the first n
    count as missing. offsets: of the local maps.
    """
    key, local, references, similarity = inputs
    if k is not None:
        far = torch.tensor([abs(offset) > k for offset in offsets], dtype=torch.bool, device=key.device)
        local = torch.where(far[:, None, None, None], key[:, None], local)
    if n is not None:
        similarity = torch.cat([similarity[:, :n], torch.full_like(similarity[:, n:], -torch.inf)], dim=1)
    return key, local, references, similarity
