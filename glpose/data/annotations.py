"""What an annotation file says of one video, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import scipy.io

from glpose.data.json_files import read_json_file
from glpose.data.tags import Tags
from glpose.keypoints import JointSet
from store.errors import DataError


@dataclass(frozen=True)
class Annotations:
    """n annotated people of a video with F frames, in frame order.

    frame_names: (F,) image names as the file spells them. image_ids: (F,) ids that box files may use. labelled: (F,)
    bool. frame: (n,) int, 0-based. person: (n,) int track ids, -1 where missing. boxes: (n, 4) float xyxy, frame px,
    not clipped. keypoints: (n, J, 3) float, flags 0 absent, 1 annotated but not visible, 2 visible. ignored_frame:
    (m,) int, ignored_boxes: (m, 4) float xyxy, frame px: extents of regions whose people may be unannotated. tags: of
    the same n people, where the file says what makes joints hard.
    """

    joints: JointSet
    frame_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    labelled: np.ndarray
    frame: np.ndarray
    person: np.ndarray
    boxes: np.ndarray
    keypoints: np.ndarray
    ignored_frame: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ignored_boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    tags: Tags | None = None


def read_annotation_json(path: Path) -> dict[str, Any]:
    """Load a JSON object, plain or gzipped. DataError naming the file where that fails."""
    data = read_json_file(path, "annotation file")
    if not isinstance(data, dict):
        raise DataError(f"annotation file {path} holds a {type(data).__name__}, not an annotation object")
    return data


def read_mat(path: Path, name: str) -> np.ndarray | None:
    """One variable of a MATLAB file, None where it is not there. DataError where the file is absent or damaged."""
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        value = scipy.io.loadmat(path, variable_names=(name,)).get(name)
    except NotImplementedError:
        raise DataError(f"{path} is a MATLAB file of version 7.3 (HDF5): save it as version 7 (save -v7)") from None
    except Exception as error:  # damaged bytes raise anything: ValueError, TypeError, zlib.error, struct.error, ...
        raise DataError(f"{path} is not a readable MATLAB file ({type(error).__name__} {error})") from None
    return value if isinstance(value, np.ndarray) else None


# what reading a malformed entry may raise
MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)


def explain(error: Exception) -> str:
    """One of `MALFORMED` in words."""
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def check_frames(path: Path, names: list[str]) -> None:
    """DataError where frames have no names, or lie in several folders: those of several videos in one file."""
    for frame, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise DataError(f"{path} is malformed: frame {frame} has no image name")
    folders = sorted({PurePosixPath(name).parent.as_posix() for name in names})
    if len(folders) > 1:
        raise DataError(
            f"{path} holds frames of {len(folders)} videos ({folders[0]}, {folders[1]}); give every video its own file"
        )


def keypoint_boxes(keypoints: np.ndarray, margin: float) -> np.ndarray:
    """(n, 4) xyxy extents of each person's annotated joints, widened by `margin` of each side; NaN without joints."""
    boxes = np.full((len(keypoints), 4), np.nan)
    for row, points in enumerate(keypoints):
        annotated = points[points[:, 2] > 0, :2]
        if len(annotated):
            low, high = annotated.min(axis=0), annotated.max(axis=0)
            grow = (high - low) * margin / 2
            boxes[row] = [*(low - grow), *(high + grow)]
    return boxes


def assemble(
    joints: JointSet,
    frame_names: list[str],
    image_ids: list[str],
    labelled: list[bool],
    people: list[tuple[int, int, np.ndarray, np.ndarray]],
    ignored: Sequence[tuple[int, np.ndarray]] = (),
    tags: Tags | None = None,
) -> Annotations:
    """Sort people (frame, track id, box (4,), keypoints (J, 3)) by frame, keeping the file's order within one.

    A person whose box is missing (NaN) gets the extent of its joints, widened by 30 %. ignored: (frame, box (4,)).
    tags: in the order of `people`.
    """
    order = sorted(range(len(people)), key=lambda row: people[row][0])
    people = [people[row] for row in order]
    boxes = np.array([entry[2] for entry in people], np.float64).reshape(-1, 4)
    keypoints = np.array([entry[3] for entry in people], np.float64).reshape(-1, len(joints), 3)
    missing = np.isnan(boxes).any(axis=1)
    boxes[missing] = keypoint_boxes(keypoints[missing], margin=0.3)
    return Annotations(
        joints=joints,
        frame_names=tuple(frame_names),
        image_ids=tuple(image_ids),
        labelled=np.array(labelled, bool),
        frame=np.array([entry[0] for entry in people], np.int64),
        person=np.array([entry[1] for entry in people], np.int64),
        boxes=boxes,
        keypoints=keypoints,
        ignored_frame=np.array([frame for frame, _ in ignored], np.int64),
        ignored_boxes=np.array([box for _, box in ignored], np.float64).reshape(-1, 4),
        tags=None if tags is None else tags.take(order),
    )


def region_box(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    """(4,) xyxy extent of a polygon's corners, px. ValueError where it has none or one is not finite."""
    corners = np.array([x, y], np.float64)
    if corners.size == 0 or not np.isfinite(corners).all():
        raise ValueError("an ignore region has no corners, or one that is not a number")
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)])
