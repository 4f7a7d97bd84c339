"""Poses drawn over frames: an overlay video and a contact sheet that a person can look at."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from glpose.keypoints import JointSet
from store.atomic import replacing
from store.errors import DataError

LABEL = cv2.FONT_HERSHEY_SIMPLEX
SURE, UNSEEN = 0.6, 0.05  # scores of joints that `draw_people` draws wholly, and not at all
# BGR, where errors are shown: limbs by side, as swapped sides are a common one, and rings around joints.
LEFT, RIGHT, MIDDLE, NOBODYS = (255, 170, 60), (90, 215, 90), (235, 235, 235), (175, 175, 175)
WRONG, MISSING = (50, 50, 255), (0, 200, 255)


def person_colour(person: int) -> tuple[int, int, int]:
    """A BGR colour for a person number, far from its neighbours' (golden-ratio hues)."""
    red, green, blue = colorsys.hsv_to_rgb((person * 0.61803) % 1, 0.75, 1.0)
    return int(255 * blue), int(255 * green), int(255 * red)


def draw_poses(
    frame: np.ndarray, poses: np.ndarray, people: np.ndarray, joints: JointSet, least_score: float
) -> np.ndarray:
    """A copy of a BGR frame with limbs and joints; joints below `least_score` are left out.

    poses: (n, J, 3) x, y in frame px, score. people: (n,) numbers that choose the colours.
    """
    out = frame.copy()
    scale = max(1, round(frame.shape[0] / 400))
    for pose, person in zip(poses, people, strict=True):
        colour = person_colour(int(person))
        drawn = pose[:, 2] >= least_score
        for a, b in joints.limbs:
            if drawn[a] and drawn[b]:
                cv2.line(out, _pixel(pose[a]), _pixel(pose[b]), colour, 2 * scale, cv2.LINE_AA)
        for joint in np.flatnonzero(drawn):
            cv2.circle(out, _pixel(pose[joint]), 2 * scale + 1, colour, -1, cv2.LINE_AA)
            cv2.circle(out, _pixel(pose[joint]), 2 * scale + 1, (255, 255, 255), scale, cv2.LINE_AA)
    return out


def draw_people(
    frame: np.ndarray, poses: np.ndarray, people: np.ndarray, joints: JointSet, boxes: np.ndarray | None = None
) -> np.ndarray:
    """A copy of a BGR frame with people in colours of their own; the surer a joint, the larger and less transparent.

    poses: (n, J, 3) x, y in frame px, score: at SURE and above a joint is wholly drawn, below UNSEEN not at all. A limb
    is as sure as the lesser of its joints. people: (n,) numbers. boxes: (n, 4) xyxy, frame px, to draw with them.
    """
    out = frame.copy()
    scale = max(1.0, min(frame.shape[:2]) / 400)
    for row, (pose, person) in enumerate(zip(poses, people, strict=True)):
        colour = person_colour(int(person))
        sure = np.where(pose[:, 2] >= UNSEEN, np.clip(pose[:, 2] / SURE, 0, 1), 0)  # NaN is not drawn
        for a, b in joints.limbs:
            if least := min(sure[a], sure[b]):
                _blended_line(out, pose[a], pose[b], colour, round(2.5 * scale), float(least))
        for joint in np.argsort(sure):
            if sure[joint]:
                _blended_dot(out, pose[joint], colour, scale, float(sure[joint]))
        if boxes is not None:
            _named_box(out, boxes[row], f"{person}", colour, scale)
    return out


def _blended_line(
    out: np.ndarray, a: np.ndarray, b: np.ndarray, colour: tuple[int, int, int], width: int, opacity: float
) -> None:
    def draw(part: np.ndarray, at: np.ndarray) -> None:
        cv2.line(part, _pixel(a - at), _pixel(b - at), colour, width, cv2.LINE_AA)

    _blended(out, np.stack([a, b]), width, opacity, draw)


def _blended_dot(
    out: np.ndarray, point: np.ndarray, colour: tuple[int, int, int], scale: float, opacity: float
) -> None:
    radius = round(scale * (1.5 + 2.5 * opacity))

    def draw(part: np.ndarray, at: np.ndarray) -> None:
        cv2.circle(part, _pixel(point - at), radius, colour, -1, cv2.LINE_AA)
        cv2.circle(part, _pixel(point - at), radius, (255, 255, 255), max(1, round(scale / 2)), cv2.LINE_AA)

    _blended(out, point[None], radius + 2, opacity, draw)


def _blended(
    out: np.ndarray, points: np.ndarray, margin: int, opacity: float, draw: Callable[[np.ndarray, np.ndarray], None]
) -> None:
    """Draw on a copy of the part around points (n, 3) and blend it in. draw: takes the part and its corner (3,)."""
    size = out.shape[1], out.shape[0]
    low = np.clip(np.floor(points[:, :2].min(axis=0)).astype(int) - margin, 0, size)
    high = np.clip(np.ceil(points[:, :2].max(axis=0)).astype(int) + margin + 1, 0, size)
    if (high <= low).any():  # outside of the frame
        return
    place = out[low[1] : high[1], low[0] : high[0]]
    part = place.copy()
    draw(part, np.array([*low, 0]))
    cv2.addWeighted(part, opacity, place, 1 - opacity, 0, dst=place)


def _named_box(out: np.ndarray, box: np.ndarray, name: str, colour: tuple[int, int, int], scale: float) -> None:
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    cv2.rectangle(out, (x1, y1), (x2, y2), colour, max(1, round(scale)))
    size, thickness = 0.5 * scale, max(1, round(scale))
    (width, height), below = cv2.getTextSize(name, LABEL, size, thickness)
    top = max(y1 - height - below - 2, 0)  # above the box, or inside where that is outside of the frame
    cv2.rectangle(out, (x1, top), (x1 + width + 4, top + height + below + 2), colour, -1)
    cv2.putText(out, name, (x1 + 2, top + height + 1), LABEL, size, (0, 0, 0), thickness, cv2.LINE_AA)


def draw_skeleton(
    picture: np.ndarray, pose: np.ndarray, joints: JointSet, thickness: int, colour: tuple[int, int, int] | None = None
) -> None:
    """Draw limbs and joints into a BGR picture; pose: (J, 2) x, y in its px, NaN where absent. colour None: by side."""
    there = np.isfinite(pose[:, 0]) & np.isfinite(pose[:, 1])
    sides = [RIGHT if "right" in name else LEFT if "left" in name else MIDDLE for name in joints.joints]
    for a, b in joints.limbs:
        if there[a] and there[b]:
            ends = {sides[a], sides[b]} - {MIDDLE}
            limb = colour or (ends.pop() if len(ends) == 1 else MIDDLE)
            cv2.line(picture, _pixel(pose[a]), _pixel(pose[b]), limb, thickness, cv2.LINE_AA)
    for joint in np.flatnonzero(there):
        cv2.circle(picture, _pixel(pose[joint]), thickness + 1, colour or sides[joint], -1, cv2.LINE_AA)


def draw_ring(picture: np.ndarray, point: np.ndarray, radius: int, colour: tuple[int, int, int], dashed: bool) -> None:
    """Draw a ring into a BGR picture around a point (2,) x, y in its px, on a darker one that sets it off."""
    arcs = [(start, start + 30) for start in range(0, 360, 60)] if dashed else [(0, 360)]
    for shade, thickness in (((20, 20, 20), 4), (colour, 2)):
        for start, stop in arcs:
            cv2.ellipse(picture, _pixel(point), (radius, radius), 0, start, stop, shade, thickness, cv2.LINE_AA)


def draw_boxes(frame: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """A copy of a BGR frame with boxes (n, 4) xyxy, frame px, and their scores (n,)."""
    out = frame.copy()
    scale = max(1, round(frame.shape[0] / 400))
    for number, ((x1, y1, x2, y2), score) in enumerate(zip(boxes, scores, strict=True)):
        colour, corner = person_colour(number), (round(float(x1)), round(float(y1)))
        cv2.rectangle(out, corner, (round(float(x2)), round(float(y2))), colour, scale, cv2.LINE_AA)
        at = (corner[0] + 2, max(corner[1] - 3 * scale, 12 * scale))
        cv2.putText(out, f"{score:.2f}", at, LABEL, 0.4 * scale, colour, scale, cv2.LINE_AA)
    return out


def write_image(path: Path, picture: np.ndarray) -> None:
    """Write one BGR picture in the format of the file's suffix, whole or not at all. DataError where OpenCV cannot."""
    try:
        _, data = cv2.imencode(path.suffix, picture)
    except cv2.error:
        raise DataError(f"{path} cannot be written as an image: give a name that ends in .jpg or .png") from None
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())


def contact_sheet(rows: list[tuple[str, list[np.ndarray]]], tile_width: int) -> np.ndarray:
    """Labelled rows of pictures, each scaled to `tile_width`; rows may differ in length."""
    strips = []
    for label, pictures in rows:
        tiles = [_fit(picture, tile_width) for picture in pictures]
        height = max(tile.shape[0] for tile in tiles)
        strip = np.hstack([_pad(tile, height, tile.shape[1]) for tile in tiles])
        bar = np.full((22, strip.shape[1], 3), 32, np.uint8)
        cv2.putText(bar, label, (6, 16), LABEL, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        strips.append(np.vstack([bar, strip]))
    width = max(strip.shape[1] for strip in strips)
    return np.vstack([_pad(strip, strip.shape[0], width) for strip in strips])


def _fit(picture: np.ndarray, width: int) -> np.ndarray:
    height = round(picture.shape[0] * width / picture.shape[1])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def _pad(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    missing = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, missing)


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
