"""Poses of stored proposals, and their scores."""

from __future__ import annotations

import numpy as np
import torch

from glpose.data.windows import SplitFeatures
from glpose.geometry import heatmap_to_frame
from glpose.heatmaps import decode_argmax
from glpose.models.glpose import GLPoseHeads
from glpose.references import References, head_inputs, in_window


def predict_poses(
    model: GLPoseHeads, split: SplitFeatures, references: References, score: str, batch_size: int
) -> np.ndarray:
    """(P, J, 3) float64: x, y in frame px and a score per joint, for every proposal of the split.

    references: of all of them, as `index` stored them. score: "product", heatmap maximum x box score, or "heatmap", the
    maximum alone.
    """
    size = (split.schema.height, split.schema.width)
    box_scores = split.table["score"].to_numpy()
    poses = np.empty((len(split), model.head.out_channels, 3))
    for videos in split.window_videos():
        window = split.window(videos)
        found = in_window(split, window, references.of(window.rows, model.options.n))
        for start in range(0, len(window.rows), batch_size):
            rows = window.rows[start : start + batch_size]
            with torch.inference_mode():
                inputs = head_inputs(window, found, rows, model.options.per_channel)
                heatmaps = model(*inputs.of(model.options))
            points, maxima = decode_argmax(heatmaps.float().cpu().numpy())
            poses[rows, :, :2] = heatmap_to_frame(points, split.regions[rows], size)
            poses[rows, :, 2] = maxima * box_scores[rows, None] if score == "product" else maxima
    return poses
