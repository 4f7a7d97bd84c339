"""Where a posed body stands before the camera, and where that is in the picture.

Camera frame: x to the image's right, y up from the ground, z away from the camera, metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glpose.data.generated.skeleton import Array, Posed


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


@dataclass(frozen=True)
class Placed:
    """A body in front of the camera for S instants: points (S, 27, 3) in camera metres, and the axes of pelvis, trunk
    and head (S, 3, 3), whose columns are left, up and forward there. The last instant is the exposure's middle.
    """

    points: Array
    pelvis: Array
    trunk: Array
    head: Array


def place(posed: Posed, x: Array, z: Array, yaw: Array) -> Placed:
    """Turn by yaw and move to (x, z), each (S,)."""
    c, s, zero = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)
    turn = np.stack([c, zero, s, zero, zero + 1, zero, s, zero, -c], axis=-1).reshape(-1, 3, 3)
    points = np.einsum("sij,svj->svi", turn, posed.points)
    points[..., 0] += x[:, None]
    points[..., 2] += z[:, None]
    return Placed(points, turn @ posed.pelvis, turn @ posed.trunk, turn @ posed.head)


def between(placed: Placed, shares: Array) -> Placed:
    """More instants from three: start, end and middle of an exposure, in this order.

    shares: (S,) -0.5 (start) to 0.5 (end), the last 0. Points follow a parabola; the axes are the middle's.
    """
    start, end, middle = placed.points
    u = shares[:, None, None]
    points = middle + u * (end - start) + 2 * u * u * (start + end - 2 * middle)
    return Placed(points, placed.pelvis[-1:], placed.trunk[-1:], placed.head[-1:])
