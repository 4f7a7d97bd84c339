"""Layers: what one person or thing shows in an exposure, and how it is laid over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from glpose.data.rendered.picture import noise_tile
from glpose.data.rendered.shapes import SHIFT, UNIT, Polygon


@dataclass(frozen=True)
class Layer:
    """One person or thing, averaged over the exposure: colour (h, w, 3) float32 premultiplied by coverage, and what it
    leaves of the picture behind it, (h, w, 3) float32 in 0..1, at (left, top) px in the frame.
    """

    colour: np.ndarray
    behind: np.ndarray
    left: int
    top: int


def paint_polygons(
    instants: Sequence[Sequence[Polygon]], size: tuple[int, int], texture: float, seed: int, zoom: float
) -> Layer | None:
    """The mean of the instants' pictures. None where nothing falls inside the frame.

    size: (height, width) px; texture: strength of brightness noise that moves with the layer; seed: picks the noise;
    zoom: px per noise cell.
    """
    height, width = size
    boxes = np.array([_extent(polygons) for polygons in instants])
    low, high = np.floor(boxes[:, :2].min(axis=0)) - 2, np.ceil(boxes[:, 2:].max(axis=0)) + 3
    left, top = int(np.clip(low[0], 0, width)), int(np.clip(low[1], 0, height))
    right, bottom = int(np.clip(high[0], 0, width)), int(np.clip(high[1], 0, height))
    if right <= left or bottom <= top:
        return None
    total = np.zeros((bottom - top, right - left, 4), np.uint16)
    canvas = np.zeros((height, width, 4), np.uint8)
    window = canvas[top:bottom, left:right]
    for polygons in instants:
        window[:] = 0
        for points, (b, g, r) in polygons:
            # Antialiased painting of (b, g, r, 255) on zeros leaves colours premultiplied by coverage.
            cv2.fillConvexPoly(canvas, points, (b, g, r, 255.0), cv2.LINE_AA, SHIFT)
        total += window
    *channels, alpha = cv2.split(total.astype(np.float32))
    factor = _texture(alpha.shape, texture, seed, zoom, boxes[len(boxes) // 2], (left, top))
    factor *= np.float32(1 / len(instants))
    colour = cv2.merge([channel * factor for channel in channels])
    # Three equal channels: arithmetic with a trailing axis of one is several times slower.
    behind = cv2.cvtColor(1 - alpha * np.float32(1 / (255 * len(instants))), cv2.COLOR_GRAY2BGR)
    return Layer(colour, behind, left, top)


def _extent(polygons: Sequence[Polygon]) -> np.ndarray:
    """(4,) xyxy px round all of them."""
    points = np.concatenate([polygon.points for polygon in polygons]) / UNIT
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _texture(
    shape: tuple[int, ...], strength: float, seed: int, zoom: float, box: np.ndarray, corner: tuple[int, int]
) -> np.ndarray:
    """(h, w) float32 factors around 1: noise at two scales that keeps its place relative to the layer's own box."""
    tile, (h, w) = noise_tile(), shape[:2]
    start = np.random.default_rng(seed).integers(0, 700, 2)
    out = np.ones(shape, np.float32)
    for share, cell in ((0.7, 3.0 * zoom), (0.5, zoom)):
        cells = tile[start[0] : start[0] + 300, start[1] : start[1] + 300]
        shift = np.array([corner[0] - (box[0] + box[2]) / 2, corner[1] - box[1]]) / cell
        matrix = np.array([[1 / cell, 0, shift[0] + 150], [0, 1 / cell, shift[1] + 20]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out += share * strength * cv2.warpAffine(cells, matrix, (w, h), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.maximum(out, 0.2)


def composite(frame: np.ndarray, layer: Layer) -> None:
    """Lay a layer over frame (H, W, 3) float32, in place."""
    h, w = layer.behind.shape[:2]
    window = frame[layer.top : layer.top + h, layer.left : layer.left + w]
    window *= layer.behind
    window += layer.colour
