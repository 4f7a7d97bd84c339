"""Painting meshes: layers averaged over an exposure, and depth maps."""

from __future__ import annotations

import cv2
import numpy as np

from glpose.data.rendered.actions import Array
from glpose.data.rendered.figure import Ints
from glpose.data.rendered.layers import Layer
from glpose.data.rendered.shapes import SHIFT, fixed

FINER = (
    2  # layers are painted at so many times the resolution: OpenCV's smooth edges would show seams between triangles
)


def window_of(points: Array, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) whole px round points (..., 2), clipped to size (height, width); None if outside."""
    low, high = points.reshape(-1, 2).min(axis=0), points.reshape(-1, 2).max(axis=0)
    left, top = (int(np.clip(value, 0, limit)) for value, limit in zip(np.floor(low) - 1, size[::-1], strict=True))
    right, bottom = (int(np.clip(value, 0, limit)) for value, limit in zip(np.ceil(high) + 2, size[::-1], strict=True))
    return None if right <= left or bottom <= top else (left, top, right, bottom)


def painting_order(px: Array, depth: Array, faces: Ints) -> Ints:
    """Rows of faces (F, 3) that face the camera, far to near. px: (V, 2) px; depth: (V,) metres."""
    a, b, c = (px[faces[:, corner]] for corner in range(3))
    turned = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    order = np.argsort(-depth[faces].sum(axis=1), kind="stable")
    return order[turned[order] < 0]


def paint_mesh(px: Array, faces: Ints, colours: Array, size: tuple[int, int]) -> Layer | None:
    """The mean of a mesh's pictures at S instants. None where nothing falls inside the frame.

    px: (S, V, 2) px; faces: (F, 3) in painting order; colours: (F, 3) BGR 0..255; size: (height, width).
    """
    box = window_of(px, size)
    if box is None:
        return None
    left, top, right, bottom = box
    shape = (FINER * (bottom - top), FINER * (right - left), 4)
    total, canvas = np.zeros(shape, np.uint16), np.empty(shape, np.uint8)
    fill = np.column_stack([np.clip(colours, 0, 255).astype(np.uint8), np.full(len(colours), 255)]).tolist()
    corners = fixed((px - (left, top)) * FINER)
    for instant in corners:
        canvas[:] = 0
        for triangle, colour in zip(instant[faces], fill, strict=True):
            cv2.fillConvexPoly(canvas, triangle, colour, cv2.LINE_8, SHIFT)
        total += canvas
    mean = cv2.resize(total.astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    mean *= np.float32(1 / len(px))
    # Three equal channels: arithmetic with a trailing axis of one is several times slower.
    behind = cv2.cvtColor(1 - mean[..., 3] * np.float32(1 / 255), cv2.COLOR_GRAY2BGR)
    return Layer(np.ascontiguousarray(mean[..., :3]), behind, left, top)


def depth_map(px: Array, depth: Array, faces: Ints, box: tuple[int, int, int, int]) -> np.ndarray:
    """(bottom - top, right - left) float32 metres from the camera of the nearest face, inf where there is none.

    px: (V, 2) px; depth: (V,) metres; faces: (F, 3) in painting order; box: (left, top, right, bottom) px.
    """
    left, top, right, bottom = box
    out = np.full((bottom - top, right - left), np.inf, np.float32)
    corners = fixed(px - (left, top))
    for triangle, metres in zip(corners[faces], depth[faces].mean(axis=1).tolist(), strict=True):
        cv2.fillConvexPoly(out, triangle, metres, cv2.LINE_8, SHIFT)
    return out
