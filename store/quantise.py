"""Feature maps as bytes: one float32 scale per map and channel, unsigned because HRNet's features are post-ReLU."""

from __future__ import annotations

import numpy as np

LEVELS = 255
BLOCK = 2**17  # numbers that are rounded at a time: several passes over them stay in a core's cache


def quantise(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round (..., H, W) float maps to uint8; also their scales (...,) float32, so that maps ~ values * scale.

    The error is at most half a scale; channels below 3e-36, whose scale float32 cannot hold in full, become zero.
    ValueError for negative or non-finite values.
    """
    height, width = maps.shape[-2:]
    channels = maps.reshape(-1, height * width)
    values, scale = np.empty(channels.shape, np.uint8), np.empty(len(channels), np.float32)
    step = max(1, BLOCK // max(1, channels.shape[1]))
    for start in range(0, len(channels), step):
        own = slice(start, start + step)
        values[own], scale[own] = _quantise(channels[own])
    return values.reshape(maps.shape), scale.reshape(maps.shape[:-2])


def _quantise(channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, H W) float -> (n, H W) uint8 and (n,) float32."""
    top = channels.max(axis=1)
    if not np.isfinite(top).all() or not (channels.min(axis=1) >= 0).all():  # NaN fails both
        raise ValueError("features must be finite and not negative to be stored as uint8")
    scale = (top / LEVELS).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 0
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    rounded = channels * inverse[:, None]  # the largest is LEVELS but for its rounding
    return np.rint(rounded, out=rounded).astype(np.uint8), scale


def dequantise(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(..., H, W) uint8 and (...,) float32 -> (..., H, W) float32."""
    return values.astype(np.float32) * scale[..., None, None]
