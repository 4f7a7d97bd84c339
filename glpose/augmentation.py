"""Image augmentation of one person's crop, as the HRNet lineage does it: half body, scale, rotation, flip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glpose.geometry import crop_affine, crop_frame, mirror_affine
from glpose.keypoints import JointSet

HALF_BODY_MARGIN = 1.5  # of the chosen joints' extent (HRNet's `half_body_transform`)
HALF_BODY_LEAST = 8  # joints in view above which half a body may be shown


@dataclass(frozen=True)
class Augmentation:
    """How a crop is cut: the frame-to-crop affine (2, 3), with a horizontal flip of the result or not."""

    affine: np.ndarray
    flip: bool

    def composed(self, crop_width: int) -> np.ndarray:
        """(2, 3) affine from frame px to the px of the flipped crop: `warp_crop` alone makes it."""
        return mirror_affine(self.affine, crop_width - 1) if self.flip else self.affine


def sample_augmentation(
    rng: np.random.Generator,
    box_xyxy: np.ndarray,
    keypoints: np.ndarray | None,
    joints: JointSet,
    crop_size: tuple[int, int],
    crop_scale: float,
    *,
    rotation: float,
    scale: tuple[float, float],
    half_body: float,
    flip: float,
) -> Augmentation:
    """Draw one augmentation. keypoints: (J, 3), frame px; None where unknown, for no half body.

    half_body, flip: probabilities. scale: range that N(1, 0.35) is clipped to. rotation: N(0, rotation) degrees,
    clipped to +-rotation, with probability 0.6.
    """
    region = crop_frame(box_xyxy, crop_size, crop_scale)
    if keypoints is not None:
        present = keypoints[:, 2] > 0
        if present.sum() > HALF_BODY_LEAST and rng.random() < half_body:
            region = _half_body(rng, keypoints, present, joints, crop_size) or region
    region = np.array([region[0], region[1], region[2] * np.clip(rng.normal(1, 0.35), *scale)])
    angle = float(np.clip(rng.normal(0, rotation), -rotation, rotation)) if rng.random() < 0.6 else 0.0
    return Augmentation(crop_affine(region, crop_size, angle), bool(rng.random() < flip))


def augment_keypoints(
    keypoints: np.ndarray, augmentation: Augmentation, joints: JointSet, crop_size: tuple[int, int]
) -> np.ndarray:
    """(J, 3) keypoints from frame px to crop px, mirrored joints exchanged; joints outside the crop become absent."""
    return crop_keypoints(keypoints, augmentation.composed(crop_size[1]), joints, crop_size)


def crop_keypoints(
    keypoints: np.ndarray, affine: np.ndarray, joints: JointSet, crop_size: tuple[int, int]
) -> np.ndarray:
    """(..., J, 3) keypoints from frame px to the px of crops cut by affines (..., 2, 3); float64.

    Where an affine mirrors (its determinant is negative), left and right joints are exchanged. Joints outside the crop
    become absent.
    """
    height, width = crop_size
    out = keypoints.astype(np.float64)
    out[..., :2] = out[..., :2] @ np.swapaxes(affine[..., :2], -1, -2) + affine[..., None, :, 2]
    mirrored = np.linalg.det(affine[..., :2]) < 0
    out = np.where(mirrored[..., None, None], out[..., joints.flip_order, :], out)
    x, y = out[..., 0], out[..., 1]
    out[..., 2] *= (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return out


def half_regions(keypoints: np.ndarray, joints: JointSet, crop_size: tuple[int, int]) -> list[np.ndarray]:
    """The regions (3,) cx, cy, width, frame px, that half-body views of a person start from: two at most.

    keypoints: (J, 3), frame px.
    """
    present = keypoints[:, 2] > 0
    if present.sum() <= HALF_BODY_LEAST:
        return []
    found = [_half_region(keypoints, present & half, crop_size) for half in _halves(joints)]
    return [np.array(region) for region in found if region is not None]


def _half_body(
    rng: np.random.Generator, keypoints: np.ndarray, present: np.ndarray, joints: JointSet, crop_size: tuple[int, int]
) -> tuple[float, float, float] | None:
    upper, lower = _halves(joints)
    return _half_region(keypoints, present & (upper if rng.random() < 0.5 else lower), crop_size)


def _halves(joints: JointSet) -> tuple[np.ndarray, np.ndarray]:
    """(J,) bool each: joints of the upper body, the others."""
    upper = np.isin(np.arange(len(joints)), joints.upper_body)
    return upper, ~upper


def _half_region(
    keypoints: np.ndarray, chosen: np.ndarray, crop_size: tuple[int, int]
) -> tuple[float, float, float] | None:
    points = keypoints[chosen, :2]
    if len(points) < 3:
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    centre = points.mean(axis=0)
    box = np.concatenate([centre - (high - low) / 2, centre + (high - low) / 2])
    cx, cy, width = crop_frame(box, crop_size, HALF_BODY_MARGIN)
    return (cx, cy, width) if width > 1 else None
