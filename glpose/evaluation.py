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

    score: "product", heatmap maximum x box score, or "heatmap", the maximum alone. k, n: let the heads see fewer local
    frames, those further away replaced by the key frame as past a clip's edge, or fewer references, the others missing.
    """
    features = features.nearer(model.options.k, model.options.causal)
    if n is not None:
        references = fewer_references(references, n)
    size = (features.schema.height, features.schema.width)
    box_scores = features.table["score"].to_numpy()
    poses = []
    for rows in torch.arange(len(features)).split(batch_size):
        with torch.inference_mode():
            key, local, *found = head_inputs(features, references, model.options, rows.to(features.device))
            if k is not None:
                local = fewer_local_frames(key, local, features.offsets, k)
            heatmaps = model(key, local, *found)
        points, maxima = decode_argmax(heatmaps.float().cpu().numpy())
        joint_scores = maxima * box_scores[rows.numpy(), None] if score == "product" else maxima
        xy = heatmap_to_frame(points, features.regions[rows.numpy()], size)
        poses.append(np.concatenate([xy, joint_scores[..., None]], axis=-1))
    return np.concatenate(poses)


def fewer_references(references: References, n: int) -> References:
    """The first n references of each; those after them count as missing."""
    kept = torch.arange(references.rows.shape[1], device=references.rows.device) < n
    return References(references.rows.where(kept, -1), references.similarity.where(kept, -torch.inf))


def fewer_local_frames(key: Tensor, local: Tensor, offsets: tuple[int, ...], k: int) -> Tensor:
    """Local maps (B, 2k, C, H, W) with the key map (B, C, H, W) in place of those more than k frames away."""
    far = torch.tensor([abs(offset) > k for offset in offsets], dtype=torch.bool, device=key.device)
    return torch.where(far[:, None, None, None], key[:, None], local)
