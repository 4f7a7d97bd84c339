"""Poses of stored proposals, and their scores."""

from __future__ import annotations

import numpy as np
import torch

from glpose.data.resident import ResidentFeatures
from glpose.geometry import heatmap_to_frame
from glpose.heatmaps import decode_argmax
from glpose.models.glpose import GLPoseHeads
from glpose.training import References, head_inputs


def predict_poses(
    model: GLPoseHeads, features: ResidentFeatures, references: References, score: str, batch_size: int
) -> np.ndarray:
    """(P, J, 3) float64: x, y in frame px and a score per joint, for every row of `features`.

    score: "product", heatmap maximum x box score, or "heatmap", the maximum alone.
    """
    features = features.nearer(model.options.k)
    size = (features.schema.height, features.schema.width)
    box_scores = features.table["score"].to_numpy()
    poses = []
    for rows in torch.arange(len(features)).split(batch_size):
        with torch.inference_mode():
            heatmaps = model(*head_inputs(features, references, model.options, rows.to(features.device)))
        points, maxima = decode_argmax(heatmaps.float().cpu().numpy())
        joint_scores = maxima * box_scores[rows.numpy(), None] if score == "product" else maxima
        xy = heatmap_to_frame(points, features.regions[rows.numpy()], size)
        poses.append(np.concatenate([xy, joint_scores[..., None]], axis=-1))
    return np.concatenate(poses)
