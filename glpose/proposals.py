"""One video's proposals (person boxes), wherever its boxes come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from glpose.box_sources import BoxSource, Found
from glpose.data.dataset import Video
from glpose.geometry import clip_boxes
from store.tables import BOX


@dataclass(frozen=True)
class Proposals:
    """A video's proposals. table: the columns of `store.tables.PROPOSALS`, in frame order.

    left_out: how many boxes were, by reason. unreadable: frames that a detector could not look at, with the reason.
    notes: what else the sources tell, a line each.
    """

    table: pd.DataFrame
    left_out: dict[str, int]
    unreadable: dict[int, str]
    notes: list[str]


def propose(video: Video, sources: Mapping[str, BoxSource], min_score: float) -> Proposals:
    """All proposals of a video's splits.

    sources: of each split; one that several share looks at their frames in one go. Boxes are clipped to their frames;
    those with NaN (their score included), with less than a pixel inside, or below min_score are left out.
    DataError where a source cannot say anything of the video.
    """
    found = [
        source(video, np.flatnonzero(np.isin(video.split, splits)))
        for source, splits in _by_source(sources).items()
        if np.isin(video.split, splits).any()
    ]
    table = pd.concat([_rows(own, video.split) for own in found or [NOBODY]], ignore_index=True)
    sizes = np.concatenate([NOBODY.sizes, *(own.sizes for own in found)])
    given, scores = table[BOX].to_numpy(), table["score"].to_numpy()
    boxes, usable = clip_boxes(given, sizes[:, 0], sizes[:, 1])
    broken = ~np.isfinite(given).all(axis=1) | ~np.isfinite(scores)
    weak = scores < min_score
    left_out = {
        "with NaN": int(broken.sum()),
        "of no area or outside the frame": int((~usable & ~broken).sum()),
        f"below score {min_score:g}": int((weak & usable).sum()),
    }
    table[BOX] = boxes
    table = table.loc[usable & ~broken & ~weak].sort_values(by="frame", kind="stable").reset_index(drop=True)
    table.insert(0, "video", video.name)
    table.insert(1, "proposal", np.arange(len(table)))
    unreadable = {frame: reason for own in found for frame, reason in own.unreadable.items()}
    return Proposals(
        table,
        {reason: count for reason, count in left_out.items() if count},
        dict(sorted(unreadable.items())),
        [note for own in found for note in own.notes],
    )


def _by_source(sources: Mapping[str, BoxSource]) -> dict[BoxSource, list[str]]:
    out: dict[BoxSource, list[str]] = {}
    for split, source in sources.items():
        out.setdefault(source, []).append(split)
    return out


def _rows(found: Found, split: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "frame": found.frame,
            "person": found.person,
            **dict(zip(BOX, found.boxes.T, strict=True)),
            "score": found.score,
            "source": found.source,
            "split": split[found.frame],
            "keypoints": pd.Series(found.keypoints, dtype=object),
        }
    )


NOBODY = Found(
    frame=np.zeros(0, np.int64),
    person=np.zeros(0, np.int64),
    boxes=np.zeros((0, 4)),
    score=np.zeros(0),
    sizes=np.zeros((0, 2), np.int64),
    keypoints=[],
    source="",
)
