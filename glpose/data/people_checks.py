"""What is wrong with the people that an annotation file has in a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from glpose.data.annotations import Annotations
from glpose.data.dataset import VideoRef
from glpose.data.faults import Fault, px
from glpose.geometry import clip_boxes
from glpose.metrics.posetrack_files import parse_video
from store.errors import DataError


def check_people(video: str, notes: Annotations, height: int, width: int) -> list[Fault]:
    """People whose box or joints do not fit a frame of `height` x `width` px, who have none, or another's track id."""
    keypoints = notes.keypoints
    people = [_who(track) for track in notes.person.tolist()]
    faults = check_boxes(video, notes.frame.tolist(), notes.boxes, people, height, width)
    joint = keypoints[..., 2] > 0
    x, y = keypoints[..., 0], keypoints[..., 1]
    away = np.maximum(np.maximum(-x, x - width), np.maximum(-y, y - height))
    for row in np.flatnonzero(~joint.any(axis=1)).tolist():
        faults.append(_fault("no_joints", video, notes, row, "none is annotated"))
    for row, j in np.argwhere(joint & (away > width)).tolist():
        faults.append(
            _fault("far_joint", video, notes, row, f"{notes.joints.joints[j]} at ({x[row, j]:.0f}, {y[row, j]:.0f})")
        )
    seen: set[tuple[int, int]] = set()
    for frame, track in zip(notes.frame.tolist(), notes.person.tolist(), strict=True):
        if track >= 0 and (frame, track) in seen:
            faults.append(Fault("same_track", video, frame, _who(track)))
        seen.add((frame, track))
    return faults


def check_boxes(
    video: str, frames: Sequence[int], boxes: np.ndarray, whose: Sequence[str], height: int, width: int
) -> list[Fault]:
    """Boxes (n, 4) xyxy px that do not fit their frame of `height` x `width` px. frames, whose: (n,) of each box."""
    clipped, inside = clip_boxes(boxes, height, width)
    area = _areas(boxes)
    some = np.isfinite(boxes).all(axis=1) & (area > 0)
    beyond = inside & (_areas(clipped) < 0.5 * area)
    outside = some & ~inside
    faults = [
        Fault(kind, video, frames[row], f"{whose[row]}: {_box(boxes[row], height, width)}")
        for kind, rows in (("no_area", ~some), ("outside", outside), ("beyond", beyond))
        for row in np.flatnonzero(rows).tolist()
    ]
    if outside.sum() > len(boxes) / 2:
        what = f"{outside.sum()} of {len(boxes)} boxes lie outside of {px((height, width))}: were the images resized?"
        faults.append(Fault("misfit", video, None, what))
    return faults


def check_posetrack(ref: VideoRef, content: dict[str, Any]) -> list[Fault]:
    """What scoring by PoseTrack's protocol needs of an annotation file's content, and what PoseTrack18 says twice."""
    faults = []
    images = [] if "annolist" in content else content["images"]
    if odd := [frame for frame, image in enumerate(images) if image.get("nframes", len(images)) != len(images)]:
        what = f"nframes is {images[odd[0]]['nframes']}, {len(images)} frames are listed"
        faults.append(Fault("nframes", ref.name, odd[0], what))
    try:
        poses = parse_video(ref.path, content)
    except DataError as error:
        return [*faults, Fault("unscorable", ref.name, None, str(error))]
    joints = np.bincount(poses.point_person[poses.joint >= 0], minlength=len(poses.person_frame))
    headless = (joints > 0) & ~(poses.head_size > 0)  # NaN: no box at all
    for row in np.flatnonzero(headless):
        who = _who(int(np.nan_to_num(poses.track_id[row], nan=-1)))
        faults.append(Fault("no_head", ref.name, int(poses.person_frame[row]), who))
    return faults


def _areas(boxes: np.ndarray) -> np.ndarray:
    """(n,) px²; 0 where a side is not positive, NaN where it is not a number."""
    with np.errstate(invalid="ignore", over="ignore"):  # infinite sides
        return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def _fault(kind: str, video: str, notes: Annotations, row: int, what: str) -> Fault:
    track = int(notes.person[row])
    return Fault(kind, video, int(notes.frame[row]), f"{_who(track)}: {what}")


def _who(track: int) -> str:
    return "a person without track id" if track < 0 else f"track {track}"


def _box(box: np.ndarray, height: int, width: int) -> str:
    corners = ", ".join(f"{side:.0f}" for side in box)
    return f"box ({corners}) in a frame of {px((height, width))}"
