"""Feature maps as bytes: one float32 scale per map and channel, unsigned because HRNet's features are post-ReLU."""

from __future__ import annotations

import numpy as np

LEVELS = 255


def quantise(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round (..., H, W) float maps to uint8; also their scales (...,) float32, so that maps ~ values * scale.

    The error is at most half a scale; channels below 3e-36, whose scale float32 cannot hold in full, become zero.
    ValueError for negative or non-finite values.
    """
    top = maps.max(axis=(-2, -1))
    if not np.isfinite(top).all() or not (maps.min(axis=(-2, -1)) >= 0).all():  # NaN fails both
        raise ValueError("features must be finite and not negative to be stored as uint8")
    scale = (top / LEVELS).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 0
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    values = maps * inverse[..., None, None]
    np.rint(values, out=values)
    np.minimum(values, LEVELS, out=values)
    return values.astype(np.uint8), scale


def dequantise(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(..., H, W) uint8 and (...,) float32 -> (..., H, W) float32."""
    return values.astype(np.float32) * scale[..., None, None]
