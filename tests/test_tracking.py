"""Numbers of people over frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glpose.geometry import box_iou
from glpose.tracking import assign_tracks


def walk(first: float, speed: float, frames: range, top: float = 0.0) -> list[tuple[int, list[float]]]:
    """Boxes of somebody 40 px wide who walks to the side."""
    return [(frame, [first + speed * frame, top, first + speed * frame + 40, top + 100]) for frame in frames]


def tracked(*people: list[tuple[int, list[float]]], patience: int = 5) -> list[list[int]]:
    """The numbers that each of these people gets, frame by frame; rows are given in mixed order."""
    rows = [(frame, who, box) for who, own in enumerate(people) for frame, box in own]
    rows.sort(key=lambda row: (row[0], (row[1] * 7 + row[0]) % 3))
    found = assign_tracks(np.array([row[0] for row in rows]), np.array([row[2] for row in rows], float), patience)
    return [
        [int(number) for number, row in zip(found, rows, strict=True) if row[1] == who] for who in range(len(people))
    ]


def test_two_people_who_pass_each_other_keep_their_numbers() -> None:
    a, b = tracked(walk(0, 8, range(40)), walk(300, -8, range(40), top=10))
    assert len(set(a)) == len(set(b)) == 1 and a[0] != b[0]


def test_who_is_hidden_for_a_while_is_known_again() -> None:
    seen = [row for row in walk(0, 6, range(20)) if row[0] not in (8, 9, 10)]
    assert len(set(tracked(seen)[0])) == 1
    long_gone = [row for row in walk(0, 6, range(30)) if not 8 <= row[0] < 20]
    (numbers,) = tracked(long_gone)
    assert numbers == [0] * 8 + [1] * 10


def test_somebody_elsewhere_is_somebody_else() -> None:
    (a,) = tracked([*walk(0, 0, range(5)), *walk(200, 0, range(5, 9))])
    assert a == [0] * 5 + [1] * 4


def test_nobody() -> None:
    assert assign_tracks(np.zeros(0, int), np.zeros((0, 4)), 5).tolist() == []


def test_overlap() -> None:
    a = np.array([[0, 0, 10, 10], [0, 0, 0, 0]], float)
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30]], float)
    assert box_iou(a, b) == pytest.approx(np.array([[1 / 3, 1, 0], [0, 0, 0]]))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 80), st.integers(0, 80)), max_size=40))
def test_nobody_is_twice_in_a_frame(placed: list[tuple[int, int, int]]) -> None:
    placed.sort(key=lambda row: row[0])
    frames = np.array([frame for frame, *_ in placed], int)
    boxes = np.array([[x, y, x + 30, y + 30] for _, x, y in placed], float).reshape(-1, 4)
    people = assign_tracks(frames, boxes, 3)
    pairs = list(zip(frames.tolist(), people.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert sorted(set(people.tolist())) == list(range(len(set(people.tolist()))))
