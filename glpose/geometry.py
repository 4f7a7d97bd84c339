"""Boxes, crops and the affine between frame, crop and heatmap pixels: one preprocessing path for every stage.

The pixel convention is the HRNet lineage's, kept so that public weights work:
crop x = (frame x - cx) * crop_width / sw + crop_width / 2, heatmap x = crop x / 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # ImageNet, RGB
STD = np.array([0.229, 0.224, 0.225], np.float32)


def clip_boxes(boxes: np.ndarray, height: int | np.ndarray, width: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clip (n, 4) xyxy boxes (frame px) to the frame; also say which are still boxes (bool (n,)).

    height, width: px, of one frame or of each box's own (n,). A box with a NaN, or with less than one pixel left inside
    its frame, is none.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    low = np.zeros(4)
    high = np.stack(np.broadcast_arrays(width, height, width, height), axis=-1).astype(np.float64)
    clipped = np.clip(boxes, low, high)
    sides = clipped[:, 2:] - clipped[:, :2]
    usable = np.isfinite(boxes).all(axis=1) & (sides >= 1).all(axis=1)
    return clipped, np.asarray(usable)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) intersection over union of boxes (A, 4) and (B, 4) xyxy; 0 where neither has an area."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(own[:, 2:] - own[:, :2], 0, None).prod(axis=-1) for own in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)


def crop_frame(box_xyxy: Sequence[float] | np.ndarray, crop_size: tuple[int, int], scale: float) -> np.ndarray:
    """Centre and width of the region that a box's crop shows: (3,) cx, cy, sw in frame px.

    The box (already clipped to the frame) is widened to the crop's aspect and enlarged by `scale`; the height of the
    region follows from the aspect. crop_size: (height, width) px.
    """
    x1, y1, x2, y2 = (float(v) for v in box_xyxy)
    crop_height, crop_width = crop_size
    aspect = crop_width / crop_height
    width = max(x2 - x1, (y2 - y1) * aspect) * scale
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, width])


def crop_frames(boxes: np.ndarray, crop_size: tuple[int, int], scale: float) -> np.ndarray:
    """(P, 3) `crop_frame` of each of P boxes (P, 4)."""
    return np.array([crop_frame(box, crop_size, scale) for box in boxes]).reshape(-1, 3)


def crop_affine(region: np.ndarray, crop_size: tuple[int, int], rotation: float = 0.0) -> np.ndarray:
    """(2, 3) affine from frame px to crop px for a region (cx, cy, sw); rotation in degrees, clockwise in the image."""
    cx, cy, width = region
    crop_height, crop_width = crop_size
    ratio = crop_width / width
    cos, sin = np.cos(np.deg2rad(rotation)) * ratio, np.sin(np.deg2rad(rotation)) * ratio
    linear = np.array([[cos, -sin], [sin, cos]])
    shift = np.array([crop_width / 2, crop_height / 2]) - linear @ [cx, cy]
    return np.concatenate([linear, shift[:, None]], axis=1)


def mirror_affine(affine: np.ndarray, last: float) -> np.ndarray:
    """Affines (..., 2, 3) to the same crops mirrored left to right: crop x becomes last - x.

    last: crop width - 1 exchanges the crop's first and last pixel. A mirrored affine has a negative determinant.
    """
    mirrored = affine.copy()
    mirrored[..., 0, :] *= -1
    mirrored[..., 0, 2] += last
    return mirrored


def transform_points(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Apply a (2, 3) affine to (..., 2) points."""
    return points @ affine[:, :2].T + affine[:, 2]


def frame_to_heatmap(points: np.ndarray, regions: np.ndarray, heatmap_size: tuple[int, int]) -> np.ndarray:
    """Frame px -> heatmap px for points (n, J, 2) in the crops of regions (n, 3) cx, cy, sw (no rotation)."""
    height, width = heatmap_size
    ratio = width / regions[:, None, 2:3]
    return (points - regions[:, None, :2]) * ratio + np.array([width / 2, height / 2])


def heatmap_to_frame(points: np.ndarray, regions: np.ndarray, heatmap_size: tuple[int, int]) -> np.ndarray:
    """Heatmap px -> frame px; the inverse of `frame_to_heatmap`."""
    height, width = heatmap_size
    return (points - np.array([width / 2, height / 2])) * (regions[:, None, 2:3] / width) + regions[:, None, :2]


def warp_crop(frame: np.ndarray, affine: np.ndarray, crop_size: tuple[int, int]) -> np.ndarray:
    """Cut a crop (crop_height, crop_width, 3) uint8 from a BGR frame; bilinear, black outside the frame."""
    crop_height, crop_width = crop_size
    return cv2.warpAffine(frame, affine, (crop_width, crop_height), flags=cv2.INTER_LINEAR)
