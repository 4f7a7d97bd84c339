"""The stored views of a proposal: its clean crop, seeded augmentations of it, and its mirror image for the flip test.

A view is an affine from frame px to crop px, shared by the key crop and the local ones. A flip is part of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence

import numpy as np

from glpose.augmentation import sample_augmentation
from glpose.geometry import crop_affine, crop_frames, mirror_affine
from glpose.heatmaps import STRIDE
from glpose.keypoints import JointSet
from glpose.options import ExtractOptions


def planned_views(splits: Collection[str], options: ExtractOptions) -> tuple[int, int | None]:
    """How many views a video stores of each proposal, and which of them is the mirrored one.

    splits: those of the video's proposals. Augmented views are for training, the mirrored one, the last, for
    evaluation: a video without proposals of that split stores none.
    """
    views = options.views if "train" in splits else 1
    return (views + 1, views) if options.mirror and "eval" in splits else (views, None)


def box_affines(boxes: np.ndarray, crop_size: tuple[int, int], crop_scale: float) -> np.ndarray:
    """(P, 2, 3) affines of the clean crops of (P, 4) boxes, frame px."""
    affines = [crop_affine(region, crop_size) for region in crop_frames(boxes, crop_size, crop_scale)]
    return np.array(affines).reshape(-1, 2, 3)


def view_affines(
    video: str,
    boxes: np.ndarray,
    keypoints: Sequence[np.ndarray | None],
    joints: JointSet | None,
    options: ExtractOptions,
    views: int,
    mirrored: int | None,
) -> np.ndarray:
    """(P, V, 2, 3) affines of every view of a video's proposals, frame px to crop px.

    boxes: (P, 4) xyxy, frame px. keypoints: (J, 3) of each, frame px, or None. views, mirrored: see `planned_views`.
    joints: needed where views are augmented. A draw depends on (options.view_seed, video, proposal number, view) alone.
    """
    clean = box_affines(boxes, options.crop_size, options.crop_scale)
    affines = np.repeat(clean[:, None], views, axis=1)
    for view in range(1, views):
        if view == mirrored:
            affines[:, view] = mirrored_crops(clean, options.crop_size)
            continue
        if joints is None:
            raise ValueError("augmented views need the joint set")
        for proposal, (box, points) in enumerate(zip(boxes, keypoints, strict=True)):
            affines[proposal, view] = _draw(video, proposal, view, box, points, joints, options)
    return affines


def mirrored_crops(affines: np.ndarray, crop_size: tuple[int, int]) -> np.ndarray:
    """Affines (..., 2, 3) of the same crops mirrored for the flip test: crop x becomes width - 4 - x.

    Feature pixel i of a stride of 4 sits on crop pixel 4 i, so this mirrors the grid of features onto itself, and
    heatmaps that are mirrored back lie exactly on those of the clean crop. Mirroring pixels (width - 1 - x) puts them
    three quarters of a heatmap pixel to the left, of which HRNet's shift by one pixel leaves a quarter.
    """
    return mirror_affine(affines, crop_size[1] - STRIDE)


def _draw(
    video: str,
    proposal: int,
    view: int,
    box: np.ndarray,
    keypoints: np.ndarray | None,
    joints: JointSet,
    options: ExtractOptions,
) -> np.ndarray:
    """(2, 3) affine of one augmented view."""
    rng = np.random.default_rng([options.view_seed, zlib.crc32(video.encode()), proposal, view])
    ranges = options.augmentation
    drawn = sample_augmentation(
        rng, box, keypoints, joints, options.crop_size, options.crop_scale,
        rotation=ranges.rotation, scale=ranges.scale, half_body=ranges.half_body, flip=ranges.flip,
    )  # fmt: skip
    return drawn.composed(options.crop_size[1])
