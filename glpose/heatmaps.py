"""From heatmaps back to points: the convention of the HRNet lineage. Targets are drawn in `glpose.targets`."""

from __future__ import annotations

import math

import numpy as np

STRIDE = 4  # crop pixels per heatmap pixel
REFERENCE_WIDTH = 72  # heatmap width at which sigma is quoted
TINY = 1e-10  # values below, whose logarithm says nothing, count as this


def scaled_sigma(sigma: float, width: int) -> float:
    """Heatmap pixels of a grid `width` wide. sigma: those of a grid 72 wide."""
    return sigma * width / REFERENCE_WIDTH


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


def decode_dark(heatmaps: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """DARK (Zhang et al., Distribution-Aware Coordinate Representation, CVPR 2020): the peak of a Gaussian, subpixel.

    Every map is smoothed by a Gaussian of the targets' own sigma, so that it has one peak; from there one Newton step
    goes to the top of its logarithm, for a Gaussian a parabola. heatmaps: (..., J, H, W) float. sigma: of the targets,
    at a heatmap 72 wide. Returns points (..., J, 2) x, y in heatmap pixels (float64) and the maxima (..., J) of the
    maps as they are.

    What lies beyond the grid counts as zero, which draws peaks inwards: those within 2 sigma of an edge, and maps
    without a proper peak, are decoded by `decode_argmax`.
    """
    points, maxima = decode_argmax(heatmaps)
    height, width = heatmaps.shape[-2:]
    sigma = scaled_sigma(sigma, width)
    maps = heatmaps.reshape(-1, height, width)
    smooth = _smoothing(height, sigma).astype(maps.dtype) @ maps @ _smoothing(width, sigma).astype(maps.dtype)
    y, x = np.divmod(smooth.reshape(len(maps), -1).argmax(axis=1), width)
    margin = max(1, math.ceil(2 * sigma))
    inner = (x >= margin) & (x < width - margin) & (y >= margin) & (y < height - margin)
    rows = np.flatnonzero(inner & (maxima.ravel() > 0))
    x, y, around = x[rows], y[rows], np.arange(-1, 2)
    windows = smooth[rows[:, None, None], y[:, None, None] + around[:, None], x[:, None, None] + around]
    step = _newton_step(np.log(np.maximum(windows, TINY)))
    sound = (np.abs(step) <= 1).all(axis=1)  # false for NaN
    flat = points.reshape(-1, 2)
    flat[rows[sound]] = np.stack([x, y], axis=1)[sound] + step[sound]
    return flat.reshape(points.shape), maxima


def _smoothing(size: int, sigma: float) -> np.ndarray:
    """(size, size) matrix that smooths along one axis."""
    distance = np.arange(size)[:, None] - np.arange(size)
    return np.exp(-(distance**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))


def _newton_step(windows: np.ndarray) -> np.ndarray:
    """(n, 2) x, y from the middle of windows (n, 3, 3) to the top of the parabola through each, NaN without one."""
    (nw, n, ne), (w, centre, e), (sw, s, se) = windows.transpose(1, 2, 0)
    dx, dy = (e - w) / 2, (s - n) / 2
    dxx, dyy, dxy = e - 2 * centre + w, s - 2 * centre + n, (se - sw - ne + nw) / 4
    curvature = dxx * dyy - dxy**2
    curvature = np.where((dxx < 0) & (curvature > 0), curvature, np.nan)  # downwards in all directions
    return np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=1) / curvature[:, None]
