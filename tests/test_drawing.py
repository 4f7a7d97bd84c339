"""Pictures: poses are drawn where they are, sheets and videos have the sizes they should."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from glpose.drawing import (
    LEFT,
    MIDDLE,
    RIGHT,
    contact_sheet,
    draw_people,
    draw_poses,
    draw_ring,
    draw_skeleton,
    person_colour,
    write_image,
)
from glpose.keypoints import POSETRACK
from store.errors import DataError

HEIGHT, WIDTH = 120, 200
PEOPLE = np.array([0])


def pose(x: float = 40, score: float = 0.9) -> np.ndarray:
    """(1, 15, 3): joints on a line downwards, 7 px apart."""
    return np.stack([np.full(15, x), 10 + 7 * np.arange(15.0), np.full(15, score)], axis=1)[None]


def black(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def drawn_at(picture: np.ndarray) -> np.ndarray:
    """(n, 2) y, x of what is not black."""
    return np.argwhere(picture.any(axis=2))


def test_a_pose_is_drawn_where_it_is() -> None:
    frame = black()
    picture = draw_poses(frame, pose(), PEOPLE, POSETRACK, 0.1)
    assert not frame.any()  # a copy
    places = drawn_at(picture)
    assert (abs(places[:, 1] - 40) <= 5).all() and places[:, 0].min() >= 5 and places[:, 0].max() <= 10 + 7 * 14 + 5
    for joint in range(15):
        assert picture[10 + 7 * joint, 40].tolist() == list(person_colour(0)), POSETRACK.joints[joint]


def test_weak_joints_and_their_limbs_are_left_out() -> None:
    weak = pose()
    weak[0, 5:, 2] = 0.09
    places = drawn_at(draw_poses(black(), weak, PEOPLE, POSETRACK, 0.1))
    assert 10 + 7 * 4 <= places[:, 0].max() <= 10 + 7 * 4 + 5
    weak[0, :, 2] = 0.09
    assert not draw_poses(black(), weak, PEOPLE, POSETRACK, 0.1).any()
    weak[0, :, 2] = np.nan
    assert not draw_poses(black(), weak, PEOPLE, POSETRACK, 0.1).any()


def test_limbs_join_joints() -> None:
    two = np.zeros((1, 15, 3))
    a, b = POSETRACK.limbs[0]
    two[0, a], two[0, b] = [20, 60, 1], [180, 60, 1]
    assert draw_poses(black(), two, PEOPLE, POSETRACK, 0.1)[60, 100].any()
    two[0, b, 2] = 0
    assert not draw_poses(black(), two, PEOPLE, POSETRACK, 0.1)[60, 100].any()


def test_people_have_colours_of_their_own() -> None:
    both = draw_poses(black(), np.concatenate([pose(40), pose(150)]), np.array([3, 4]), POSETRACK, 0.1)
    assert both[10, 40].tolist() == list(person_colour(3)) and both[10, 150].tolist() == list(person_colour(4))
    assert len({person_colour(number) for number in range(30)}) == 30


def test_joints_outside_the_frame_and_nobody() -> None:
    away = draw_poses(black(), pose(x=-5000), PEOPLE, POSETRACK, 0.1)
    assert not away.any()
    nobody = draw_poses(black(), np.zeros((0, 15, 3)), np.array([], int), POSETRACK, 0.1)
    assert nobody.shape == (HEIGHT, WIDTH, 3) and not nobody.any()


def test_a_skeleton_shows_its_sides() -> None:
    picture, points = black(), pose()[0, :, :2]
    points[3] = np.nan
    draw_skeleton(picture, points, POSETRACK, 1)
    for joint, name in enumerate(POSETRACK.joints):
        expected = RIGHT if "right" in name else LEFT if "left" in name else MIDDLE
        assert picture[10 + 7 * joint, 40].tolist() == list(expected) or joint == 3, name
    one = black()
    draw_skeleton(one, points, POSETRACK, 1, colour=(9, 9, 9))
    assert set(np.unique(one[10, 38:43])) <= set(range(10)) and one.any()


def test_a_ring_is_around_its_point() -> None:
    for dashed in (False, True):
        picture = black()
        draw_ring(picture, np.array([60.0, 50.0]), 9, (0, 0, 255), dashed)
        red = np.argwhere((picture == [0, 0, 255]).all(axis=2))
        assert len(red) > 20 and np.allclose(np.hypot(red[:, 0] - 50, red[:, 1] - 60), 9, atol=2)
        assert np.allclose(red.mean(axis=0), [50, 60], atol=1.5)
        assert not picture[50, 60].any()  # what is inside stays to be seen


def test_contact_sheet() -> None:
    white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    sheet = contact_sheet([("one", [white] * 3), ("two", [white, white[:60]])], tile_width=100)
    label = sheet.shape[0] // 2 - 60
    assert sheet.shape == (2 * (label + 60), 300, 3) and 10 < label < 40
    assert (sheet[label : label + 60] == 255).all()
    second = sheet[2 * label + 60 :]
    assert (second[:30, :200] == 255).all() and (second[31:, :100] == 255).all()
    assert not second[31:, 100:].any() and not second[:, 200:].any()  # the lower tile, and where there is none
    assert (sheet[:label] == 255).any()  # the label's letters


def test_pictures_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"v\.odd cannot be written as an image: give a name that ends in \.jpg or \.png"
    ):
        write_image(tmp_path / "v.odd", black())
    assert list(tmp_path.iterdir()) == []
    write_image(tmp_path / "new" / "v.png", black())
    assert cv2.imread(str(tmp_path / "new" / "v.png")) is not None


def test_sure_joints_are_larger_and_less_transparent() -> None:
    drawn = {score: draw_people(black(), pose(score=score), PEOPLE, POSETRACK) for score in (0.9, 0.3, 0.01, np.nan)}
    assert not drawn[0.01].any() and not drawn[np.nan].any()
    at = (10 + 7 * 4, 40)
    assert drawn[0.9][at].tolist() == list(person_colour(0))
    assert drawn[0.9][at].max() > drawn[0.3][at].max() > 60
    assert len(drawn_at(drawn[0.9])) > len(drawn_at(drawn[0.3]))


def test_people_partly_or_wholly_outside_are_drawn_as_far_as_they_are_inside() -> None:
    for x in (-3, -500, WIDTH + 2, WIDTH + 500):
        picture = draw_people(black(), pose(x), PEOPLE, POSETRACK, np.array([[x - 10, -20, x + 10, 300]]))
        assert picture.any() == (abs(x - WIDTH / 2) < 150)


def test_boxes_carry_peoples_numbers() -> None:
    boxes = np.array([[100, 40, 180, 110.0]])
    picture = draw_people(black(), np.zeros((1, 15, 3)), np.array([7]), POSETRACK, boxes)
    assert picture[40, 140].tolist() == picture[90, 100].tolist() == list(person_colour(7))
    label = picture[28:40, 100:115]
    assert (label == 0).all(axis=2).any() and (label == person_colour(7)).all(axis=2).any()  # black on the colour
    high = draw_people(black(), np.zeros((1, 15, 3)), np.array([7]), POSETRACK, np.array([[100, 0, 180, 110.0]]))
    assert (high[2, 101:108] == person_colour(7)).all()  # the number stays in the picture
