"""Which frames to show of two systems: where one has most more joints right than the other, and where most fewer.

A gain is how many more joints one system has right than the other, of a person or of everybody in a frame; joints of
people whom neither finds count for neither. Frames are taken by falling gain, one per video; when every video with a
gain has given one, a second of each, and so on. Those of one video lie `apart` frames from each other, so that pictures
differ. Of equal gains the first video by name goes first, then the first frame and person: nothing is left to chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from glpose.metrics.paired_poses import PairedPoses

Masks = Mapping[str, np.ndarray]  # video -> (P, J) bool, the joints that are counted


class Gain(NamedTuple):
    """How many more joints are right in a frame of a video, of one person, or of all of them (None).

    person: which of the P people of the video's `PairedPoses`.
    """

    video: str
    frame: int
    person: int | None
    gain: int


def person_gains(of: Mapping[str, PairedPoses], against: Mapping[str, PairedPoses], masks: Masks) -> list[Gain]:
    """The gain of every annotated person, of the videos in `of`. masks: count these joints; people without any have no
    gain.
    """
    found = []
    for video, ours in of.items():
        counts = masks[video]
        gain = (counts & ours.right).sum(axis=1) - (counts & against[video].right).sum(axis=1)  # (P,)
        people = np.flatnonzero(counts.any(axis=1)).tolist()
        found += [Gain(video, int(ours.frame[row]), row, int(gain[row])) for row in people]
    return found


def frame_gains(people: Sequence[Gain]) -> list[Gain]:
    """The gain of every frame, of what its people have."""
    total: dict[tuple[str, int], int] = {}
    for one in people:
        total[one.video, one.frame] = total.get((one.video, one.frame), 0) + one.gain
    return [Gain(video, frame, None, gain) for (video, frame), gain in total.items()]


def choose_gains(gains: Sequence[Gain], count: int, apart: int) -> list[Gain]:
    """At most `count` of the largest gains, above 0, by falling gain."""
    left = sorted((one for one in gains if one.gain > 0), key=_order)
    chosen: list[Gain] = []
    while left and len(chosen) < count:
        seen: set[str] = set()  # videos that have given a frame in this round
        later = []
        for one in left:
            if any(one.video == other.video and abs(one.frame - other.frame) < apart for other in chosen):
                continue
            if one.video in seen or len(chosen) == count:
                later.append(one)
                continue
            chosen.append(one)
            seen.add(one.video)
        left = later
    return sorted(chosen, key=_order)


def gains_and_losses(
    gains: Sequence[Gain], most_gains: int, most_losses: int, apart: int
) -> tuple[list[Gain], list[Gain]]:
    """The largest gains, and the largest losses, which are chosen alike."""
    down = choose_gains([_turned(one) for one in gains], most_losses, apart)
    return choose_gains(gains, most_gains, apart), [_turned(one) for one in down]


def _order(one: Gain) -> tuple[int, str, int, int]:
    return -one.gain, one.video, one.frame, -1 if one.person is None else one.person


def _turned(one: Gain) -> Gain:
    return one._replace(gain=-one.gain)
