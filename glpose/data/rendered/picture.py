"""From the scene to the picture: defocus, sensor noise and compression."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np


@lru_cache(maxsize=1)
def noise_tile() -> np.ndarray:
    """(1024, 1024) float32 standard normal noise, the same in every process: frames take windows of it."""
    return np.random.default_rng(20220).standard_normal((1024, 1024)).astype(np.float32)


def degrade(frame: np.ndarray, blur: float, noise: float, offset: tuple[int, int], quality: int | None) -> np.ndarray:
    """Defocus (sigma px), sensor noise (sigma grey levels) and JPEG artefacts (quality, or None); returns uint8.

    frame: (H, W, 3) float32; offset: (row, column) of the noise window in the shared tile.
    """
    height, width = frame.shape[:2]
    if blur > 0.15:
        frame = cv2.GaussianBlur(frame, (0, 0), blur)
    if noise > 0.2:
        tile = noise_tile()
        reach = (min(height, 1024), min(width, 1024))
        row, column = offset[0] % (1025 - reach[0]), offset[1] % (1025 - reach[1])
        grain = tile[row : row + reach[0], column : column + reach[1]]
        if reach != (height, width):
            grain = cv2.copyMakeBorder(grain, 0, height - reach[0], 0, width - reach[1], cv2.BORDER_REFLECT)
        # One window for brightness and another, shifted, for colour: cheaper than three independent ones.
        shared = grain * np.float32(noise)
        frame = frame + cv2.merge([shared + 0.5 * shared[::-1], shared, shared + 0.5 * shared[:, ::-1]])
    # Saturating conversion in one pass, rounding to nearest.
    out = cv2.convertScaleAbs(np.maximum(frame, 0))
    if quality is not None:
        ok, data = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if ok else None
        out = out if decoded is None else np.asarray(decoded)
    return out
