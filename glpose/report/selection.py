"""Which people of a split are worth a look: largest gains, largest losses, and some from everywhere."""

from __future__ import annotations

import numpy as np
import pandas as pd

from store.tables import spans_of

GAIN, LOSS, EVEN = "gain", "loss", "even"
LEAST_ANNOTATED = 0.5  # of a person's joints: a gain of two joints says little of a pose


def choose_people(table: pd.DataFrame, gain: np.ndarray, annotated: np.ndarray, count: int) -> dict[int, str]:
    """Row -> why it is chosen, at most `count`: a third gains, a third losses, the rest evenly over videos and frames.

    table: of a split, sorted by video and proposal. gain: (P,) how much smaller an error is, NaN where not known.
    annotated: (P,) share of joints that are annotated. Gains and losses are of people with half of them, and of
    different ones, as far as track ids tell. The three kinds take turns, so that the first of
    these people are also a fair choice of fewer. Depends on its arguments alone.
    """
    known = np.flatnonzero(np.isfinite(gain) & (annotated >= LEAST_ANNOTATED))
    order = known[np.argsort(-gain[known], kind="stable")]
    queues = {
        GAIN: [row for row in _once_each(table, order) if gain[row] > 0][: count // 3],
        LOSS: [row for row in _once_each(table, order[::-1]) if gain[row] < 0][: count // 3],
        EVEN: _evenly(table, count),
    }
    chosen: dict[int, str] = {}
    while len(chosen) < count and any(queues.values()):
        for why, queue in queues.items():
            while queue and queue[0] in chosen:
                queue.pop(0)
            if queue and len(chosen) < count:
                chosen[queue.pop(0)] = why
    return chosen


def _once_each(table: pd.DataFrame, rows: np.ndarray) -> list[int]:
    """The first row of each person of a video; a proposal without track id is a person of its own."""
    video, person = table["video"].to_numpy(), table["person"].to_numpy()
    seen, kept = set(), []
    for row in rows.tolist():
        key = (video[row], person[row]) if person[row] >= 0 else (video[row], -1, row)
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return kept


def _evenly(table: pd.DataFrame, count: int) -> list[int]:
    """At most `count` rows: videos take turns, and each gives rows from all over its length."""
    spans = list(spans_of(table).values())
    spans = [spans[place] for place in np.unique(np.linspace(0, len(spans) - 1, min(count, len(spans))).astype(int))]
    each = -(-count // len(spans))
    places = (np.arange(each) + 0.5) / each
    rows = [[int(start + place * (stop - start)) for start, stop in spans] for place in places]
    return list(dict.fromkeys(row for turn in rows for row in turn))[:count]
