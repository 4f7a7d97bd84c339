"""Crops and maps as pictures inside a page: small WebP images as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from glpose.data.video import FrameSource
from glpose.geometry import crop_affine, warp_crop

QUALITY = 70  # of photographs
LOSSLESS = 101  # what OpenCV calls it


@dataclass(frozen=True)
class Wanted:
    """One crop: a region (3,) cx, cy, sw of a frame, frame px, and the height of the picture."""

    frame: int
    region: np.ndarray
    height: int


def cut_pictures(source: FrameSource, wanted: Mapping[str, Wanted], crop_size: tuple[int, int]) -> dict[str, str]:
    """Name -> data URI of the crops of one video, each frame decoded once; those of unreadable frames are left out.

    Crops are cut as the network sees them, crop_size (height, width), then made smaller.
    """
    at: dict[int, list[str]] = {}
    for name, crop in wanted.items():
        at.setdefault(crop.frame, []).append(name)
    found = {}
    for frame, image in source.read(at, unreadable={}):
        for name in at[frame]:
            crop = warp_crop(image, crop_affine(wanted[name].region, crop_size), crop_size)
            found[name] = photo(crop, wanted[name].height)
    return {name: found[name] for name in wanted if name in found}


def photo(image: np.ndarray, height: int) -> str:
    """A data URI of a BGR image (h, w, 3) uint8, at most so high."""
    if image.shape[0] > height:
        width = round(image.shape[1] * height / image.shape[0])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return _data_uri(image, QUALITY)


def map_sheet(maps: np.ndarray) -> str:
    """A data URI of maps (rows, columns, H, W) float, 0..1, as grey tiles of one picture, exact to 1 / 255."""
    rows, columns, height, width = maps.shape
    tiles = maps.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    grey = (np.clip(tiles, 0, 1) * 255).round().astype(np.uint8)
    return _data_uri(np.repeat(grey[..., None], 3, axis=2), LOSSLESS)


def _data_uri(image: np.ndarray, quality: int) -> str:
    _, data = cv2.imencode(".webp", np.ascontiguousarray(image), [cv2.IMWRITE_WEBP_QUALITY, quality])
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()
