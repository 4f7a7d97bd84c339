"""Outlines as OpenCV draws them: integers in 1/16 px (`shift=4`)."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from glpose.data.rendered.actions import Array
from glpose.data.rendered.colours import Colour

UNIT = 16
SHIFT = 4


class Polygon(NamedTuple):
    """A convex polygon, points (M, 2) int32 in 1/16 px."""

    points: np.ndarray
    colour: Colour


def fixed(points: Array) -> np.ndarray:
    """(..., 2) px to int32 in 1/16 px; what is far outside any picture is brought nearer, to fit."""
    return np.round(np.clip(points, -8000, 8000) * UNIT).astype(np.int32)


def hull(points: Array) -> np.ndarray:
    """(N, 2) px to the (M, 2) int32 outline of their convex hull, in 1/16 px."""
    return cv2.convexHull(fixed(points))[:, 0]
