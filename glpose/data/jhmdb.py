"""JHMDB and Sub-JHMDB as distributed (http://jhmdb.is.tue.mpg.de): one person per clip, up to 40 frames of 320 x 240.

    joint_positions/ACTION/CLIP/joint_positions.mat   pos_img (2, 15, F): x, y of every joint in every frame
    Rename_Images/ACTION/CLIP/00001.png ...           the frames
    ReCompress_Videos/ACTION/CLIP.avi                 the same frames, read where the folder of PNGs is absent or empty
    puppet_mask/ACTION/CLIP/puppet_mask.mat           part_mask (h, w, F), nonzero on the person
    sub_splits/ACTION_test_split_N.txt                "CLIP.avi 1" (train) or "CLIP.avi 2" (test), for N = 1, 2, 3
    splits/ACTION_test_splitN.txt                     the same for all of JHMDB, named without the last underscore

| ours | JHMDB |
|---|---|
| frame | number of the image, less one; of an AVI, the decoded frames in order (its header counts empty ones as well) |
| video | CLIP, with "_" for the characters that a folder of ours cannot be named with: "(", ")", "!" |
| 15 joints | `pos_img`, in its order; its "face" is our head |
| x, y | `pos_img` less 1: MATLAB's first pixel is 1, ours is 0 |
| flag 0 absent | NaN (not in the files as distributed) |
| flag 1 annotated, not visible | outside the frame: the puppet is fitted to the whole body (not in Sub-JHMDB) |
| flag 2 visible | any other: JHMDB does not say which joints are covered |
| box | extent of `part_mask`; of the joints, widened by 30 %, in frames where there is no mask or an empty one |
| labelled | `pos_img` has the frame |
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from glpose.data.annotations import Annotations, assemble, read_mat
from glpose.data.video import FrameSource, ImageFrames, is_hidden, open_frames
from glpose.keypoints import HIDDEN, JHMDB, VISIBLE
from store.errors import DataError
from store.folder import as_unit_name

SPLITS: dict[str, Literal["train", "eval"]] = {"1": "train", "2": "eval"}


@dataclass(frozen=True)
class Clip:
    """A line of a split file."""

    action: str
    name: str
    split: Literal["train", "eval"]


def read_splits(folder: Path, number: int) -> list[Clip]:
    """The clips of split 1, 2 or 3 of all actions, in the order of the files. DataError naming file and line."""
    pattern = re.compile(rf"(.+)_test_split_?{number}\.txt")
    paths = sorted(path for path in folder.glob("*.txt") if not is_hidden(path))
    found = [(match[1], path) for path in paths if (match := pattern.fullmatch(path.name))]
    if not found:
        raise DataError(f"{folder} holds no files of split {number} (ACTION_test_split_{number}.txt): see data.splits")
    clips = []
    for action, path in found:
        for line, text in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if not text.strip():
                continue
            name, _, part = text.strip().rpartition(" ")
            name = name.strip().removesuffix(".avi")
            if part not in SPLITS or not name:
                raise DataError(f"{path}, line {line}: {text.strip()!r} is neither 'CLIP.avi 1' nor 'CLIP.avi 2'")
            if "/" in name or "\\" in name or name in (".", ".."):
                raise DataError(f"{path}, line {line}: {name!r} is not the name of a clip")
            clips.append(Clip(action, name, SPLITS[part]))
    return clips


def read(positions: Path, images: Path, video: Path | None, masks: Path | None) -> tuple[Annotations, FrameSource, str]:
    """One clip's annotation, its frames, and where its boxes come from: "annotation:mask", "annotation:joints" or both.

    positions: ACTION/CLIP/joint_positions.mat. images: folder of ACTION/CLIP/00001.png; frame names are relative to
    it. video: CLIP.avi, for clips without PNGs there. masks: puppet_mask.mat, which may be absent. DataError, naming
    the file, where one cannot be used.
    """
    clip = f"{positions.parent.parent.name}/{positions.parent.name}"
    pos_img = _variable(positions, "pos_img")
    if pos_img.ndim == 2:  # MATLAB drops a last dimension of 1
        pos_img = pos_img[..., None]
    if pos_img.ndim != 3 or pos_img.shape[:2] != (2, len(JHMDB)) or pos_img.shape[2] == 0:
        raise DataError(f"{positions}: pos_img is {pos_img.shape}, not (2, {len(JHMDB)}, frames)")
    length = pos_img.shape[2]

    frames = _frames(clip, length, images, video)
    names = frames.names
    height, width = frames.size()

    keypoints = _keypoints(pos_img, height, width)
    boxes = np.full((length, 4), np.nan)
    if masks is not None and masks.exists():
        found = mask_boxes(_read_mask(masks, height, width))[:length]
        boxes[: len(found)] = found
    by_mask = ~np.isnan(boxes).any(axis=1)
    source = "+".join([*(["mask"] if by_mask.any() else []), *([] if by_mask.all() else ["joints"])])

    people = [(frame, 0, boxes[frame], keypoints[frame]) for frame in range(length)]
    ids = [f"{images.name}/{name}" for name in names]
    labelled = [frame < length for frame in range(len(names))]
    return assemble(JHMDB, names, ids, labelled, people), frames, f"annotation:{source}"


def _frames(clip: str, length: int, images: Path, video: Path | None) -> FrameSource:
    """The frames of ACTION/CLIP, at least `length`, all called as the PNGs are. DataError where there are none."""
    folder, called = images / clip, as_unit_name(clip.rpartition("/")[2])
    there = folder.iterdir() if folder.is_dir() else ()
    if count := sum(1 for path in there if path.suffix == ".png" and not is_hidden(path)):
        names = _image_names(clip, max(length, count))
        return ImageFrames(called, tuple(images / name for name in names), names)
    if video is None or not video.is_file():
        raise DataError(
            f"the frames of {clip}: there are no PNGs in {folder} (data.images), and there is no {video} (data.videos)"
        )
    decoded = open_frames(called, video)
    if len(decoded.names) < length:
        raise DataError(f"{video} has {len(decoded.names)} frames; {length} of {clip} are annotated")
    return replace(decoded, names=_image_names(clip, len(decoded.names)))


def _image_names(clip: str, count: int) -> list[str]:
    return [f"{clip}/{number:05d}.png" for number in range(1, count + 1)]


def mask_boxes(mask: np.ndarray) -> np.ndarray:
    """(F, 4) xyxy extents, px, of what is nonzero in a mask (h, w, F); NaN if nothing. x2 - x1 counts columns."""
    sides = []
    for used in ((mask != 0).any(axis=0), (mask != 0).any(axis=1)):  # columns (w, F), rows (h, F)
        sides.append((used.argmax(axis=0), len(used) - used[::-1].argmax(axis=0)))
    (x1, x2), (y1, y2) = sides
    boxes = np.stack([x1, y1, x2, y2], axis=1).astype(np.float64)
    boxes[~(mask != 0).any(axis=(0, 1))] = np.nan
    return boxes


def _keypoints(pos_img: np.ndarray, height: int, width: int) -> np.ndarray:
    """(F, 15, 3) from pos_img (2, 15, F)."""
    xy = pos_img.transpose(2, 1, 0) - 1.0
    # a pixel is half a pixel wide on each side of its centre
    inside = ((xy >= -0.5) & (xy < np.array([width, height]) - 0.5)).all(axis=-1)
    keypoints = np.concatenate([xy, np.where(inside, VISIBLE, HIDDEN)[..., None]], axis=-1)
    keypoints[~np.isfinite(xy).all(axis=-1)] = 0
    return keypoints


def _read_mask(path: Path, height: int, width: int) -> np.ndarray:
    mask = _variable(path, "part_mask")
    mask = mask[..., None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or mask.shape[:2] != (height, width):
        raise DataError(f"{path}: part_mask is {mask.shape}; the frames are {height} x {width}")
    return mask


def _variable(path: Path, name: str) -> np.ndarray:
    """One numeric array of a MATLAB file. DataError where the file is absent, damaged or without it."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; JHMDB has one for every clip of its split files")
    array = read_mat(path, name)
    if array is None or array.dtype.kind not in "fiub":
        raise DataError(f"{path} holds no numbers called {name!r}: is it JHMDB's file?")
    return array
