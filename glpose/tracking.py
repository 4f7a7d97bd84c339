"""Numbers that people keep from frame to frame: boxes that overlap, after as much movement as before, are one person.

Each frame's boxes are assigned to the tracks at once, by the Hungarian method on the overlap (IoU) of their boxes with
those that the tracks are expected to have, as SORT and ByteTrack do; in place of a Kalman filter a track moves on by
its smoothed velocity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from glpose.geometry import box_iou

LEAST_OVERLAP = 0.25  # IoU below which two boxes are not one person
NEW = 0.5  # share of the newest movement in a track's velocity


@dataclass
class _Track:
    """number: of the person. box: (4,) xyxy px in frame `last`. velocity: (4,) px per frame."""

    number: int
    last: int
    box: np.ndarray
    velocity: np.ndarray

    def expected(self, frame: int) -> np.ndarray:
        return self.box + self.velocity * (frame - self.last)

    def go_on(self, frame: int, box: np.ndarray) -> None:
        moved = (box - self.box) / (frame - self.last)
        self.velocity = NEW * moved + (1 - NEW) * self.velocity
        self.last, self.box = frame, box


def assign_tracks(frame: np.ndarray, boxes: np.ndarray, patience: int) -> np.ndarray:
    """(P,) int64 person of each box, 0, 1, 2 ... in the order in which people are first seen.

    frame: (P,) rising. boxes: (P, 4) xyxy, frame px. patience: frames for which somebody who is not seen is waited for.
    """
    people = np.empty(len(frame), np.int64)
    tracks: list[_Track] = []
    count = 0
    for now, rows in _by_frame(frame):
        tracks = [track for track in tracks if now - track.last <= patience]
        expected = np.array([track.expected(now) for track in tracks]).reshape(-1, 4)
        overlap = box_iou(expected, boxes[rows])
        free = set(range(len(rows)))
        for of_track, of_box in zip(*linear_sum_assignment(-overlap), strict=True):
            if overlap[of_track, of_box] >= LEAST_OVERLAP:
                tracks[of_track].go_on(now, boxes[rows[of_box]])
                people[rows[of_box]] = tracks[of_track].number
                free.remove(of_box)
        for of_box in sorted(free):
            tracks.append(_Track(count, now, boxes[rows[of_box]], np.zeros(4)))
            people[rows[of_box]] = count
            count += 1
    return people


def _by_frame(frame: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Each frame with somebody in it, and its rows."""
    starts = np.flatnonzero(np.r_[True, frame[1:] != frame[:-1]][: len(frame)])
    return [(int(frame[rows[0]]), rows) for rows in np.split(np.arange(len(frame)), starts[1:]) if len(rows)]
