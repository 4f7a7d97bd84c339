"""Non-local references: pools, ranking by similarity, and what the similarities look like (Eq. 3)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from glpose.options import IndexOptions
from store.index import build_index, search_outside


@dataclass(frozen=True)
class Neighbours:
    """The most similar proposals of each of Q proposals, best first.

    rows: (Q, n) int64 row of the reference, -1 where the pool held fewer than n. similarity: (Q, n) float32, -inf
    there.
    A missing reference gets weight 0 and an all-zero map; with no reference at all the heads see zeros in those slots.
    """

    rows: np.ndarray
    similarity: np.ndarray


def comparable(embeddings: np.ndarray, similarity: str) -> np.ndarray:
    """Embeddings (P, C) whose inner product is the similarity: as they are, or scaled to length 1 for cosine."""
    if similarity == "cosine":
        embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(embeddings, np.float32)


def find_references(
    video: str,
    frames: np.ndarray,
    scores: np.ndarray,
    rows: np.ndarray,
    embeddings: np.ndarray,
    options: IndexOptions,
    n: int,
    epoch: int,
) -> Neighbours:
    """The n references of each of `rows`, the proposals of one video and one split.

    frames: (P,) rising. scores: (P,) of the boxes; those below `options.min_score` are no references, but get some.
    rows: (Q,) rising. embeddings: (P, C) from `comparable`. epoch: another draw of the pools each; evaluation's is 0.
    """
    eligible = rows[scores[rows] >= options.min_score]
    window = options.exclude_window
    if options.pool == "all":
        return rank_all(embeddings, frames, rows, eligible, n, window)
    pools = draw_pools(video, frames, rows, eligible, options.pool, window, options.seed, epoch)
    return rank_pools(embeddings, rows, pools, n)


def excluded_rows(frames: np.ndarray, queries: np.ndarray, window: int) -> np.ndarray:
    """(Q, 2): positions [start, stop) in `frames` that lie within `window` frames of each query frame.

    frames: (P,) rising. queries: (Q,) frames.
    """
    start = np.searchsorted(frames, queries - window, "left")
    return np.stack([start, np.searchsorted(frames, queries + window, "right")], axis=1)


def draw_pools(
    video: str,
    frames: np.ndarray,
    rows: np.ndarray,
    eligible: np.ndarray,
    size: int,
    window: int,
    seed: int,
    epoch: int,
) -> np.ndarray:
    """(Q, size) rows drawn at random, without repetition, for each of `rows`; -1 where there are fewer.

    frames: (P,) rising. rows: (Q,) proposals to draw for. eligible: (E,) rising rows that may be drawn: of the same
    split and of sufficient score. Rows within `window` frames are never drawn. A draw depends on (seed, video, row,
    epoch) and its candidates alone, not on what other videos there are.
    """
    pools = np.full((len(rows), size), -1, np.int64)
    video_number = zlib.crc32(video.encode())
    ranges = excluded_rows(frames[eligible], frames[rows], window)
    for position, (start, stop) in enumerate(ranges):
        candidates = np.concatenate([eligible[:start], eligible[stop:]])
        rng = np.random.default_rng([seed, video_number, int(rows[position]), epoch])
        drawn = rng.permutation(len(candidates))[:size]
        pools[position, : len(drawn)] = candidates[drawn]
    return pools


def rank_pools(embeddings: np.ndarray, rows: np.ndarray, pools: np.ndarray, n: int) -> Neighbours:
    """The n most similar of each row's pool. embeddings: (P, C) from `comparable`; pools: (Q, size) rows or -1."""
    similarity = np.einsum("qc,qpc->qp", embeddings[rows], embeddings[pools], dtype=np.float32)
    similarity[pools < 0] = -np.inf
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :n]
    return Neighbours(np.take_along_axis(pools, best, 1), np.take_along_axis(similarity, best, 1))


def rank_all(
    embeddings: np.ndarray, frames: np.ndarray, rows: np.ndarray, eligible: np.ndarray, n: int, window: int
) -> Neighbours:
    """The n most similar of all eligible rows outside `window` frames, by FAISS. embeddings: (P, C), `comparable`."""
    excluded = excluded_rows(frames, frames[rows], window)
    return Neighbours(*search_outside(build_index(embeddings), rows, eligible, excluded, n))


def softmax_entropy(similarity: np.ndarray) -> float:
    """Mean entropy, in nats, of the softmax over each proposal's references: log n if all weigh the same, 0 for one."""
    with np.errstate(invalid="ignore"):
        logits = similarity - similarity.max(axis=1, keepdims=True, initial=-np.inf)
    logits = logits[np.isfinite(similarity).any(axis=1)].astype(np.float64)
    if not len(logits):
        return float("nan")
    weights = np.exp(logits)
    weights /= weights.sum(axis=1, keepdims=True)
    return float(-(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1).mean())


def hubness(rows: np.ndarray) -> float:
    """Share of all references that go to the most-cited tenth of the proposals (0.1 when citations spread evenly)."""
    cited = rows[rows >= 0]
    if not len(cited):
        return float("nan")
    counts = np.sort(np.bincount(cited, minlength=len(rows)))[::-1]
    return float(counts[: max(1, len(rows) // 10)].sum() / len(cited))
