"""A pinhole camera. Its frame: x to the image's right, y up from the ground, z away from the camera, metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glpose.data.rendered.actions import Array


@dataclass(frozen=True)
class Camera:
    """A pinhole: focal length in px, height over the ground in metres, and the principal point (px, px)."""

    focal: float
    height: float
    centre: tuple[float, float]

    def project(self, points: Array) -> tuple[Array, Array]:
        """Points (..., 3): sideways, up, away, metres. Returns (..., 2) px and (...) px per metre."""
        scale = self.focal / np.maximum(points[..., 2], 0.25)
        x = self.centre[0] + points[..., 0] * scale
        y = self.centre[1] + (self.height - points[..., 1]) * scale
        return np.stack([x, y], axis=-1), scale
