"""Small clips in JHMDB's layout: a walking figure, its joints, its mask, split files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import scipy.io

from glpose.keypoints import JHMDB

HEIGHT, WIDTH, FRAMES = 96, 128, 6

# A standing figure, px from its neck, in the order of JHMDB.
FIGURE = np.array(
    [(0, 0), (0, 20), (0, -12), (-8, 2), (8, 2), (-6, 28), (6, 28), (-12, 12), (12, 12), (-7, 42), (7, 42), (-14, 22),
     (14, 22), (-7, 56), (7, 56)],
    float,
)  # fmt: skip


def figure_positions(frames: int = FRAMES) -> np.ndarray:
    """0-based (F, 15, 2): the figure walking to the right."""
    return FIGURE + np.array([30.0, 24.0]) + np.arange(frames)[:, None, None] * [8.0, 0.0]


def figure_mask(positions: np.ndarray) -> np.ndarray:
    """(h, w, F) uint8: body parts 1-3 around the joints."""
    mask = np.zeros((HEIGHT, WIDTH, len(positions)), np.uint8)
    for frame, points in enumerate(positions):
        for joint, (x, y) in enumerate(points.astype(int)):
            mask[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3, frame] = 1 + joint % 3
    return mask


def write_clip(root: Path, action: str, clip: str, positions: np.ndarray, mask: np.ndarray | None) -> None:
    """One clip in JHMDB's layout. positions: 0-based (F, 15, 2), written 1-based as MATLAB does."""
    folders = {name: root / name / action / clip for name in ("joint_positions", "Rename_Images", "puppet_mask")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    pos_img = positions.transpose(2, 1, 0) + 1
    scipy.io.savemat(folders["joint_positions"] / "joint_positions.mat", {"pos_img": pos_img, "scale": [1.0]})
    if mask is not None:
        scipy.io.savemat(folders["puppet_mask"] / "puppet_mask.mat", {"part_mask": mask}, do_compression=True)
    for frame, points in enumerate(positions):
        picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        for a, b in JHMDB.limbs:
            ends = np.nan_to_num(points[[a, b]]).astype(int).tolist()
            cv2.line(picture, ends[0], ends[1], (40, 160, 240), 3)
        cv2.imwrite(str(folders["Rename_Images"] / f"{frame + 1:05d}.png"), picture)


def write_splits(root: Path, action: str, lines: list[str], number: int = 1) -> None:
    """One split file in the naming of sub_splits."""
    (root / "sub_splits").mkdir(parents=True, exist_ok=True)
    (root / "sub_splits" / f"{action}_test_split_{number}.txt").write_text("\n".join(lines) + "\n")
