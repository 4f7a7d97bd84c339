"""What people are compared by (`index.embedding`): pooled features, or where the backbone sees their joints.

The latter is an extension of the paper's. B people, J joints, H x W the heatmap grid.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from glpose.options import IndexOptions
from store.features import VideoFeatures
from store.reader import Store

BATCH = 256  # people whose maps are read at once
CELLS = (8, 6)  # that a joint's probabilities are summed over, along height and width


def stored_embeddings(
    features: VideoFeatures, rows: np.ndarray | slice, index: IndexOptions, layer: nn.Conv2d | None = None
) -> np.ndarray:
    """(n, C) float32 of some proposals of a video, of the clean view; for poses (n, J * 48), from its key maps.

    layer: the backbone's own, that makes logits of J joints from its features. ValueError where poses lack it.
    """
    if index.embedding == "pooled":
        return features.read("embedding", rows)[:, 0]
    if layer is None:
        raise ValueError("poses are read from features by the backbone's last layer")
    numbers = np.arange(len(features))[rows]
    found = np.empty((len(numbers), layer.out_channels * CELLS[0] * CELLS[1]), np.float32)
    with torch.inference_mode():
        for start in range(0, len(numbers), BATCH):
            part = slice(start, start + BATCH)
            found[part] = pose_embedding(layer, torch.from_numpy(features.key(numbers[part], views=[0])[:, 0])).numpy()
    return found


def table_embeddings(
    store: Store, table: pd.DataFrame, index: IndexOptions, layer: nn.Conv2d | None = None
) -> np.ndarray:
    """The same of proposals of several videos. table: video and proposal of each, by both; not empty."""
    return np.concatenate(
        [
            stored_embeddings(store.features(str(video)), own["proposal"].to_numpy(), index, layer)
            for video, own in table.groupby("video", sort=False)
        ]
    )


def pose_embedding(layer: nn.Conv2d, key: Tensor) -> Tensor:
    """(B, J * 48): of every joint, the square roots of its probabilities in 8 x 6 cells.

    key: (B, C, H, W). The inner product of two embeddings is the sum, over joints, of the Bhattacharyya coefficients of
    where they are seen: J for equal poses, 0 for poses without a joint in common. Cells overlap, as if probabilities
    were blurred by a cell's width.
    """
    height, width = key.shape[2:]
    likely = layer(key).flatten(2).softmax(dim=-1).unflatten(2, (height, width))
    return (shares(height, CELLS[0]) @ likely @ shares(width, CELLS[1]).T).sqrt().flatten(1)


def shares(size: int, cells: int) -> Tensor:
    """(cells, size): what each cell along a line gets of each place; of one place all cells together get 1."""
    centres = (torch.arange(cells) + 0.5) * size / cells - 0.5
    apart = (torch.arange(size) - centres[:, None]) * cells / size
    return torch.softmax(-(apart**2) / 2, dim=0)
