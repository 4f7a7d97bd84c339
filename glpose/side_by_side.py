"""The paper's Figure 5: the same frames once per system and once with the truth, inaccurate joints ringed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import cv2
import numpy as np

from glpose.drawing import LEFT, MIDDLE, MISSING, NOBODYS, RIGHT, WRONG, draw_ring, draw_skeleton
from glpose.keypoints import JointSet
from glpose.metrics.paired_poses import PairedPoses

MARGIN = 0.3  # of the larger side of the shown person, on each side
TIGHT = 0.1  # of it in all, where the frame ends sooner
REACH = 0.6  # of that side, how far off estimated joints may lie that a picture makes room for
LEAST_SIDE = 48  # px of a region
RING, SMALL_RING = 9, 6  # px, round a person and in a whole frame
LINE = 2  # px; of people who are not those shown, 1

LIMBS = ((LEFT, "left"), (RIGHT, "right"), (MIDDLE, "middle"), (NOBODYS, "pose that stands for nobody"))
RINGS = ((WRONG, "wrong joint, where it was estimated"), (MISSING, "missing joint, where it is"))

# Of the sheet, px: left of the pictures, the title, lines below it, captions, between pictures, the legend.
GUTTER, TITLE, LINE_HEIGHT, HEADER, GAP, LEGEND = 125, 30, 16, 52, 5, 36
LEAST_WIDTH = 960  # of the sheet, px, for its heading
DPI = 100
GAINS = {"gain": "#7fd18f", "loss": "#ff9a8c"}
PAPER, INK = "#202226", "#ececec"  # dark, as pale limbs are in the legend too


@dataclass(frozen=True)
class View:
    """What of a frame a picture shows, and how large. region: x1, y1, x2, y2, frame px. size: width, height, px.

    person: which of the people of `PairedPoses` it is round; None: the whole frame, with everybody's errors.
    """

    region: tuple[float, float, float, float]
    size: tuple[int, int]
    person: int | None = None

    def points(self, xy: np.ndarray) -> np.ndarray:
        """(..., 2) frame px to picture px."""
        x1, y1, x2, y2 = self.region
        return (xy - [x1, y1]) * [self.size[0] / (x2 - x1), self.size[1] / (y2 - y1)]

    def of(self, frame: np.ndarray) -> np.ndarray:
        """The BGR picture; dark where the region leaves the frame."""
        (x1, y1, x2, y2), (width, height) = self.region, self.size
        scale = np.array([width / (x2 - x1), height / (y2 - y1)])
        if (scale < 1).all():  # or pixels would be skipped
            wide, high = (max(1, round(side * by)) for side, by in zip(frame.shape[1::-1], scale, strict=True))
            frame = cv2.resize(frame, (wide, high), interpolation=cv2.INTER_AREA)
            x1, y1, scale = x1 * scale[0], y1 * scale[1], np.ones(2)
        affine = np.array([[scale[0], 0, -x1 * scale[0]], [0, scale[1], -y1 * scale[1]]])
        return cv2.warpAffine(frame, affine, self.size, flags=cv2.INTER_CUBIC, borderValue=(40, 40, 40))


def view_of_frame(frame: np.ndarray, width: int) -> View:
    """The whole of a BGR frame."""
    height, wide = frame.shape[:2]
    return View((0, 0, wide, height), (width, round(width * height / wide)))


def view_of_person(
    truth: np.ndarray, found: Sequence[np.ndarray], frame: np.ndarray, person: int, size: tuple[int, int]
) -> View:
    """Round a person, with room for joints that were estimated nearby.

    truth: (J, 2) frame px, NaN where absent. found: the same of every system. frame: BGR. size: of the picture.
    """
    low, high = np.nanmin(truth, axis=0), np.nanmax(truth, axis=0)
    side = max(float((high - low).max()), LEAST_SIDE)
    others = np.concatenate([truth, *found])
    others = others[np.isfinite(others).all(axis=1)]
    near = others[((others >= low - REACH * side) & (others <= high + REACH * side)).all(axis=1)]
    limits, aspect = np.array(frame.shape[1::-1], float), np.array([size[0] / size[1], size[1] / size[0]])

    def shaped(extent: np.ndarray) -> np.ndarray:
        """The least extent of the picture's shape that holds this one."""
        return np.maximum(extent, extent[::-1] * aspect)

    wanted, least = shaped(near.max(axis=0) - near.min(axis=0) + 2 * MARGIN * side), shaped(high - low + TIGHT * side)
    inside = np.minimum(limits, limits[::-1] * aspect)  # the largest extent without anything beyond the frame
    extent = np.maximum(np.minimum(wanted, inside), least)
    centre = np.where(wanted > extent, low + high, near.min(axis=0) + near.max(axis=0)) / 2
    low = np.where(extent >= limits, (limits - extent) / 2, np.clip(centre - extent / 2, 0, limits - extent))
    return View((*low.tolist(), *(low + extent).tolist()), size, person)


def draw_system(frame: np.ndarray, view: View, pairs: PairedPoses, number: int, joints: JointSet) -> np.ndarray:
    """A system's poses in a frame, wrong joints ringed where they were estimated, missing ones where they are.

    frame: BGR; number: which one it is of the video.
    """
    picture = view.of(frame)
    for pose in pairs.loose[pairs.loose_frame == number]:
        draw_skeleton(picture, view.points(pose), joints, LINE, NOBODYS)
    people = _people(view, pairs, number)
    for row in people:
        draw_skeleton(picture, view.points(pairs.found[row]), joints, _line(view, row))
    for row in people if view.person is None else [view.person]:
        truth, found = view.points(pairs.truth[row]), view.points(pairs.found[row])
        for joint in np.flatnonzero(pairs.counts[row] & ~pairs.right[row]):
            missing = not np.isfinite(found[joint]).all()
            where, colour = (truth[joint], MISSING) if missing else (found[joint], WRONG)
            draw_ring(picture, where, SMALL_RING if view.person is None else RING, colour, dashed=missing)
    return picture


def draw_truth(frame: np.ndarray, view: View, pairs: PairedPoses, number: int, joints: JointSet) -> np.ndarray:
    """What is annotated in a frame; arguments as of `draw_system`."""
    picture = view.of(frame)
    for row in _people(view, pairs, number):
        draw_skeleton(picture, view.points(pairs.truth[row]), joints, _line(view, row))
    return picture


def _people(view: View, pairs: PairedPoses, number: int) -> list[int]:
    """The frame's people, the shown one last and so on top."""
    return sorted(np.flatnonzero(pairs.frame == number).tolist(), key=lambda row: row == view.person)


def _line(view: View, row: int) -> int:
    return LINE if view.person in (None, row) else 1


def write_sheet(
    path: Path,
    rows: Sequence[tuple[str, Sequence[np.ndarray], Sequence[str]]],
    captions: Sequence[tuple[str, str]],
    heading: Sequence[str],
) -> None:
    """Write a PNG: a row of pictures per system, a column per frame, with a legend.

    rows: label, one BGR picture per frame, and what stands in the corner of each. captions: two lines above
    each column, the first in colour where it begins with "gain" or "loss". heading: lines above all, first a title.
    """
    from matplotlib.figure import Figure  # here, for it takes long to import; no pyplot: nothing is shown on a screen

    widths = [picture.shape[1] + GAP for picture in rows[0][1]]
    heights = [max(picture.shape[0] for picture in pictures) + GAP for _, pictures, _ in rows]
    top = TITLE + LINE_HEIGHT * (len(heading) - 1) + HEADER
    width, height = max(GUTTER + sum(widths), LEAST_WIDTH), top + sum(heights) + LEGEND
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)

    def write(x: float, y: float, text: str, size: int, **how: Any) -> None:
        """At px from the upper left corner."""
        figure.text(x / width, 1 - y / height, text, fontsize=size, parse_math=False, **{"color": INK, **how})

    for number, line in enumerate(heading):
        write(10, 10 + LINE_HEIGHT * number + 6 * (number > 0), line, 8 if number else 11, va="top")
    lefts = [GUTTER + sum(widths[:column]) for column in range(len(widths))]
    for left, (first, second) in zip(lefts, captions, strict=True):
        write(left + 1, top - 23, first, 9, va="bottom", color=GAINS.get(first.split()[0], INK))
        write(left + 1, top - 7, second, 8, va="bottom")
    for number, (label, pictures, corners) in enumerate(rows):
        y = top + sum(heights[:number])
        write(GUTTER - 10, y + heights[number] / 2, "\n".join(_lines(label)), 9, ha="right", va="center")
        for left, picture, corner in zip(lefts, pictures, corners, strict=True):
            high, wide = picture.shape[:2]
            axes = figure.add_axes((left / width, 1 - (y + high) / height, wide / width, high / height))
            axes.imshow(picture[..., ::-1], interpolation="none", aspect="auto")
            axes.set_axis_off()
            if corner:
                write(left + 7, y + 7, corner, 10, va="top", bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 3})
    figure.legend(
        handles=_legend(), loc="lower left", bbox_to_anchor=(0, 0), ncols=6, fontsize=8, frameon=False,
        labelcolor=INK, handlelength=1.5, columnspacing=1.6,
    )  # fmt: skip
    figure.savefig(path, format="png", dpi=DPI)


def _lines(label: str) -> list[str]:
    """A label as it fits beside the pictures; what is in brackets begins a line."""
    return [line for part in label.replace(" (", "\n(").splitlines() for line in wrap(part, 16)]


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    limbs = [Line2D([], [], color=_rgb(colour), lw=3, label=label) for colour, label in LIMBS]
    rings = [
        Line2D([], [], ls="", marker="o", ms=9, mfc="none", mew=2, mec=_rgb(colour), label=label)
        for colour, label in RINGS
    ]
    return [*limbs, *rings]


def _rgb(bgr: tuple[int, int, int]) -> tuple[float, float, float]:
    blue, green, red = bgr
    return red / 255, green / 255, blue / 255
