"""From heatmaps back to points: the convention of the HRNet lineage. Targets are drawn in `glpose.targets`."""

from __future__ import annotations

import numpy as np

STRIDE = 4  # crop pixels per heatmap pixel
REFERENCE_WIDTH = 72  # heatmap width at which sigma is quoted


def decode_argmax(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Peak of every heatmap, moved a quarter pixel towards its higher neighbour in x and in y.

    heatmaps: (..., J, H, W) float. Returns points (..., J, 2) x, y in heatmap pixels (float64) and maxima (..., J).
    As in HRNet's `get_final_preds`, a peak on the first two or the last row or column of the grid is not moved at all,
    and a map whose maximum is not positive decodes to (0, 0).
    """
    *lead, height, width = heatmaps.shape
    flat = heatmaps.reshape(-1, height * width)
    peak = flat.argmax(axis=1)
    rows = np.arange(len(flat))
    maxima = flat[rows, peak]
    y, x = np.divmod(peak, width)
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    grid = flat.reshape(-1, height, width)
    xi, yi = np.clip(x, 1, width - 2), np.clip(y, 1, height - 2)
    shift_x = np.sign(grid[rows, yi, xi + 1] - grid[rows, yi, xi - 1]) * 0.25
    shift_y = np.sign(grid[rows, yi + 1, xi] - grid[rows, yi - 1, xi]) * 0.25
    points = np.stack([x + shift_x * inner, y + shift_y * inner], axis=1)
    points[maxima <= 0] = 0.0
    return points.reshape(*lead, 2), maxima.reshape(lead)
