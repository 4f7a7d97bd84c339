"""Which frame each local crop is really of, and why where it is not the one at its offset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glpose.extraction import source_frames
from glpose.options import HeadOptions

CONTROL = "a control: a copy of the key frame"
LEFT_OUT = "left out by eval.k: a copy of the key frame"
UNREADABLE = "unreadable: the key frame again"
EDGE = {
    "repeat_key": "past the clip's edge: the key frame again",
    "clamp": "past the clip's edge: its last frame again",
}


def local_frames(
    frames: np.ndarray,
    length: int,
    offsets: Sequence[int],
    heads: HeadOptions,
    edge: str,
    *,
    unreadable: Sequence[int] = (),
    k: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Frames (B, 2k) that heads see at their offsets beside key frames (B,) of a clip, and notes (B, 2k) str.

    A note says why it is another frame, and is empty where it is not. edge: of extract. k: of `with_fewer`.
    """
    wanted = frames[:, None] + np.array(offsets, np.int64)
    notes = np.full(wanted.shape, "", dtype=object)
    most = max(map(abs, offsets), default=0)
    place = [offset + most - (offset > 0) for offset in offsets]  # among -most .. -1, 1 .. most
    seen = source_frames(frames, length, most, edge, unreadable)[:, 1:][:, place]
    notes[np.isin(wanted, np.array(unreadable, np.int64))] = UNREADABLE
    notes[(wanted < 0) | (wanted >= length)] = EDGE[edge]
    copies = np.full(len(offsets), heads.inputs == "key_copies")
    if k is not None:
        left_out = np.abs(offsets) > k
        notes[:, left_out], copies = LEFT_OUT, copies | left_out
    if heads.inputs == "key_copies":
        notes[:] = CONTROL
    return np.where(copies, frames[:, None], seen), notes
