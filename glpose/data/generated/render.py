"""Painting: polygons of several instants into one blurred, textured layer, and layers over a background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from glpose.data.generated.backdrop import noise_tile
from glpose.data.generated.figures import UNIT, Polygon

OCCLUDER = 255  # the owner of label map pixels that something other than a person covers


@dataclass(frozen=True)
class Layer:
    """One person or thing, averaged over the exposure: colour (h, w, 3) float32 premultiplied by coverage, and what it
    leaves of the picture behind it, (h, w, 3) float32 in 0..1, at (left, top) px in the frame.
    """

    colour: np.ndarray
    behind: np.ndarray
    left: int
    top: int


def extent(polygons: Sequence[Polygon], items: frozenset[int] | None = None) -> np.ndarray | None:
    """(4,) float64 xyxy px around the silhouette (of some items), not clipped; None without polygons."""
    parts = [p.points for p in polygons if p.solid and (items is None or p.item in items)]
    if not parts:
        return None
    points = np.concatenate(parts) / UNIT
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def paint_layer(
    instants: Sequence[Sequence[Polygon]], size: tuple[int, int], texture: float, seed: int, zoom: float
) -> Layer | None:
    """Average the instants' paintings. size: (height, width) px; texture: strength of brightness noise that moves with
    the layer; seed: picks the noise; zoom: px per noise cell. None where nothing falls inside the frame.
    """
    height, width = size
    boxes = [box for polygons in instants if (box := extent(polygons)) is not None]
    if not boxes:
        return None
    whole = np.array(boxes)
    low, high = np.floor(whole[:, :2].min(axis=0)) - 2, np.ceil(whole[:, 2:].max(axis=0)) + 3
    left, top = int(np.clip(low[0], 0, width)), int(np.clip(low[1], 0, height))
    right, bottom = int(np.clip(high[0], 0, width)), int(np.clip(high[1], 0, height))
    if right <= left or bottom <= top:
        return None
    total = np.zeros((bottom - top, right - left, 4), np.uint16)
    canvas = np.zeros((height, width, 4), np.uint8)
    window = canvas[top:bottom, left:right]
    for polygons in instants:
        window[:] = 0
        for _, points, (b, g, r), _ in polygons:
            # Antialiased painting of (b, g, r, 255) on zeros leaves colours premultiplied by coverage.
            cv2.fillConvexPoly(canvas, points, (b, g, r, 255.0), cv2.LINE_AA, 4)
        total += window
    *channels, alpha = cv2.split(total.astype(np.float32))
    if texture > 0:
        factor = _texture(alpha.shape, texture, seed, zoom, whole[len(whole) // 2], (left, top))
        factor *= np.float32(1 / len(instants))
        colour = cv2.merge([channel * factor for channel in channels])
    else:
        colour = cv2.merge(channels) * np.float32(1 / len(instants))
    # Three equal channels: arithmetic with a trailing axis of one is several times slower.
    behind = cv2.cvtColor(1 - alpha * np.float32(1 / (255 * len(instants))), cv2.COLOR_GRAY2BGR)
    return Layer(colour, behind, left, top)


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


def cast_shadow(frame: np.ndarray, x: float, y: float, radius: float, strength: float) -> None:
    """Darken an ellipse on the ground, in place. x, y, radius: px; the ellipse is a quarter as high as wide."""
    height, width = frame.shape[:2]
    w, h = max(3, int(2.6 * radius)), max(3, int(0.7 * radius))
    left, top = int(x - w / 2), int(y - h / 2)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + w, width), min(top + h, height)
    if x1 <= x0 or y1 <= y0:
        return
    across = (np.arange(x0, x1, dtype=np.float32) - left) / w * 2 - 1
    down = (np.arange(y0, y1, dtype=np.float32) - top) / h * 2 - 1
    dark = np.clip(1 - across[None] ** 2 - down[:, None] ** 2, 0, 1) * np.float32(strength)
    frame[y0:y1, x0:x1] *= 1 - dark[..., None]


def label_map(instants: Sequence[tuple[int, Sequence[Polygon]]], size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint16: what is on top at every pixel, 0 for the background, else owner * 32 + item with owner >= 1.

    instants: (owner, polygons at the middle of the exposure) per layer, far to near.
    """
    out = np.zeros(size, np.uint16)
    for owner, polygons in instants:
        for polygon in polygons:
            if polygon.solid:
                cv2.fillConvexPoly(out, polygon.points, float(owner * 32 + polygon.item), cv2.LINE_8, 4)
    return out


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
