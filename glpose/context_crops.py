"""Crops with room around the box, from which every augmented view can be cut again: what `store.crops` holds."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import numpy as np

from glpose.augmentation import half_regions
from glpose.data.video import FrameSource
from glpose.extraction import source_frames
from glpose.geometry import crop_affine, crop_frame, warp_crop
from glpose.keypoints import JointSet
from glpose.options import CropOptions, ExtractOptions
from store.crops import context_region, view_extent

ROUNDED_TO = 16  # px: sides of JPEG's blocks of colour


def context_size(extract: ExtractOptions, options: CropOptions) -> tuple[int, int]:
    """(height, width) px of the stored crops: what the largest view of a region takes up, `density` px for each of its.

    At 384 x 288, 45 degrees and 1.35: 656 x 656.
    """
    across, down = view_extent(extract.crop_size, rotation=options.rotation, scale=options.scale)
    per_width = extract.crop_size[1] * options.density
    height, width = (math.ceil((side * per_width + 2) / ROUNDED_TO) * ROUNDED_TO for side in (down, across))
    return height, width


def context_affine(
    box: np.ndarray, keypoints: np.ndarray | None, joints: JointSet, extract: ExtractOptions, options: CropOptions
) -> np.ndarray:
    """(2, 3) affine from frame px to a proposal's stored crop. box: (4,) xyxy, keypoints: (J, 3), frame px."""
    regions = [crop_frame(box, extract.crop_size, extract.crop_scale)]
    if options.half_body and keypoints is not None:
        regions += half_regions(keypoints, joints, extract.crop_size)
    size = context_size(extract, options)
    region = context_region(np.array(regions), extract.crop_size, size, rotation=options.rotation, scale=options.scale)
    return crop_affine(region, size)


def cut_context_crops(
    source: FrameSource,
    frames: np.ndarray,
    affines: Sequence[np.ndarray],
    size: tuple[int, int],
    k: int,
    edge: str,
    unreadable: Sequence[int] = (),
) -> Generator[np.ndarray]:
    """Crops (1 + 2k, h, w, 3) uint8 BGR of each proposal: of the key frame, then of every local frame.

    frames: (P,) rising key frames. affines: one per proposal, from frame px to crops of this size (h, w). Holds 2k + 1
    frames. Frames before and after a clip, and unreadable ones, are as in `glpose.extraction`. DataError where another
    frame cannot be read.
    """
    wanted = source_frames(frames, len(source.names), k, edge, unreadable)  # (P, 1 + 2k)
    images = source.read(np.unique(wanted).tolist())
    held: dict[int, np.ndarray] = {}
    latest = -1
    for affine, own in zip(affines, wanted, strict=True):
        while latest < own.max():
            latest, image = next(images)
            held[latest] = image
        held = {frame: image for frame, image in held.items() if frame >= own[0] - k}
        crops = {frame: warp_crop(held[frame], affine, size) for frame in np.unique(own).tolist()}
        yield np.stack([crops[frame] for frame in own.tolist()])
