"""Which frames are shown: the largest gains and losses, ties, frames of one video apart."""

from __future__ import annotations

import numpy as np

from glpose.comparison_frames import Gain, choose_gains, frame_gains, gains_and_losses, person_gains
from glpose.metrics.paired_poses import PairedPoses


def pairs(frames: list[int], right: list[list[int]], joints: int = 4) -> PairedPoses:
    """People in frames, of whose `joints` joints some are right."""
    shape = (len(frames), joints)
    mask = np.zeros(shape, bool)
    for person, own in enumerate(right):
        mask[person, own] = True
    xy = np.zeros((*shape, 2))
    nobody = np.zeros(0, int)
    return PairedPoses(np.array(frames), xy, np.ones(shape, bool), xy, mask, nobody, xy[:0])


def gain(video: str, frame: int, value: int, person: int | None = None) -> Gain:
    return Gain(video, frame, person, value)


def everything(own: dict[str, PairedPoses]) -> dict[str, np.ndarray]:
    return {video: pair.counts for video, pair in own.items()}


def test_gains_of_people_and_frames() -> None:
    ours = {"a": pairs([0, 0, 3], [[0, 1, 2], [], [0, 1]])}
    theirs = {"a": pairs([0, 0, 3], [[0], [2, 3], [0, 1]])}
    people = person_gains(ours, theirs, everything(ours))
    assert people == [gain("a", 0, 2, 0), gain("a", 0, -2, 1), gain("a", 3, 0, 2)]
    assert frame_gains(people) == [gain("a", 0, 0), gain("a", 3, 0)]


def test_joints_outside_the_mask_count_for_nobody() -> None:
    ours, theirs = {"a": pairs([0, 1], [[0, 1, 2], [3]])}, {"a": pairs([0, 1], [[], []])}
    mask = np.array([[1, 0, 0, 1], [0, 0, 0, 0]], bool)
    assert person_gains(ours, theirs, {"a": mask}) == [gain("a", 0, 1, 0)]  # who has no such joint is left out


def test_the_largest_gains_and_losses() -> None:
    gains = [gain("a", 0, 3), gain("b", 0, 5), gain("c", 0, -2), gain("d", 0, -4), gain("e", 0, 0), gain("f", 0, 1)]
    up, down = gains_and_losses(gains, 2, 5, apart=5)
    assert up == [gain("b", 0, 5), gain("a", 0, 3)]
    assert down == [gain("d", 0, -4), gain("c", 0, -2)]  # fewer than asked: no gain is called a loss, nor is 0


def test_ties_go_to_the_first_video_frame_and_person() -> None:
    gains = [gain("b", 0, 2), gain("a", 7, 2), gain("a", 1, 2, 5), gain("a", 1, 2, 4)]
    for order in (gains, gains[::-1]):
        assert choose_gains(order, 2, apart=5) == [gain("a", 1, 2, 4), gain("b", 0, 2)]


def test_one_frame_per_video_before_a_second_of_any() -> None:
    gains = [gain("a", 0, 9), gain("a", 20, 8), gain("a", 40, 7), gain("b", 0, 1)]
    assert choose_gains(gains, 2, apart=5) == [gain("a", 0, 9), gain("b", 0, 1)]
    assert choose_gains(gains, 3, apart=5) == [gain("a", 0, 9), gain("a", 20, 8), gain("b", 0, 1)]


def test_frames_of_one_video_lie_apart() -> None:
    gains = [gain("a", 10, 9), gain("a", 14, 8), gain("a", 6, 8), gain("a", 15, 2), gain("a", 10, 8, 3)]
    assert choose_gains(gains, 9, apart=5) == [gain("a", 10, 9), gain("a", 15, 2)]
    assert choose_gains([], 3, apart=5) == [] and choose_gains(gains, 0, apart=5) == []
