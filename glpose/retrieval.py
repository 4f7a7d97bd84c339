"""Non-local references: pools, the choice from them, and what the similarities look like (Eq. 3)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import faiss
import numpy as np
import pandas as pd

from glpose.options import TAKES_MOST_SIMILAR, IndexOptions
from glpose.pose_distance import nearest_poses, normalised_poses, pose_distance
from store.index import build_index, on_device, search_outside
from store.tables import spans_of


@dataclass(frozen=True)
class Gallery:
    """Proposals of one split among which references are looked for; `index.scope` says whether across its videos.

    P rows, in order of video and proposal. spans: video -> its rows [start, stop). proposals: (P,) their numbers within
    their videos. frames: (P,), rising within a video. embeddings: (P, C) float32, from `comparable`. eligible: (E,)
    rising rows that may be references. poses: (P, J, 3), from `normalised_poses`, for the oracle alone. device: where
    the index over all videos is searched, see `store.index`.
    """

    spans: dict[str, tuple[int, int]]
    proposals: np.ndarray
    frames: np.ndarray
    embeddings: np.ndarray
    eligible: np.ndarray
    poses: np.ndarray | None = None
    device: str = "cpu"

    @cached_property
    def index(self) -> faiss.Index:
        """FAISS index over all videos: number i in it is row eligible[i]."""
        return on_device(build_index(self.embeddings[self.eligible]), self.device)

    def videos_of(self, rows: np.ndarray) -> np.ndarray:
        """Names of the videos that rows are of."""
        starts = [start for start, _ in self.spans.values()]
        return np.array(list(self.spans), object)[np.searchsorted(starts, rows, "right") - 1]


@dataclass(frozen=True)
class Neighbours:
    """The references of each of Q proposals, the most similar first.

    rows: (Q, n) int64 row of the reference in the gallery, -1 where the pool held fewer than n. similarity: (Q, n)
    float32 of their embeddings, whatever they were chosen by, -inf there.
    A missing reference gets weight 0 and an all-zero map; with no reference at all the heads see zeros in those slots.
    """

    rows: np.ndarray
    similarity: np.ndarray


def comparable(embeddings: np.ndarray, similarity: str) -> np.ndarray:
    """Embeddings (P, C) whose inner product is the similarity: as they are, or scaled to length 1 for cosine."""
    if similarity == "cosine":
        embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(embeddings, np.float32)


def make_gallery(table: pd.DataFrame, embeddings: np.ndarray, options: IndexOptions, device: str = "cpu") -> Gallery:
    """A gallery of proposals of one split.

    table: video, proposal, frame and score of each, in order of video and proposal; for the oracle the box and
    keypoints too. Proposals whose box scores below `options.min_score`, and for the oracle those without annotation,
    are no references, but the former get some. embeddings: (P, C), as stored.
    """
    usable = table["score"].to_numpy() >= options.min_score
    poses = normalised_poses(table) if options.select == "oracle" else None
    if poses is not None:
        usable &= poses[..., 2].any(axis=1)
    return Gallery(
        spans=spans_of(table),
        proposals=table["proposal"].to_numpy(),
        frames=table["frame"].to_numpy(),
        embeddings=comparable(embeddings, options.similarity),
        eligible=np.flatnonzero(usable),
        poses=poses,
        device=device,
    )


def find_references(gallery: Gallery, video: str, options: IndexOptions, n: int, epoch: int = 0) -> Neighbours:
    """The n references of each proposal of one video of the gallery.

    They are of the same video, or with `options.scope` dataset of any, but not within `options.exclude_window` frames
    of the proposal itself, nor with `options.causal` of later ones; with `options.select` other_video, of others alone.
    epoch: another draw of the pools each; evaluation's is 0. Where others than the most similar of the pool are asked
    for, `options.n` are chosen so, whatever n is, and the n most similar of these returned.
    """
    if options.select in TAKES_MOST_SIMILAR:
        return _choose(gallery, video, options, n, epoch)
    chosen = _choose(gallery, video, options, options.n, epoch)
    return cheapest(chosen.rows, chosen.similarity, -chosen.similarity, n)


def excluded_range(frames: np.ndarray, queries: np.ndarray, window: int) -> np.ndarray:
    """(Q, 2): positions [start, stop) in `frames` that lie within `window` frames of each query frame.

    frames: (P,) rising. queries: (Q,) frames.
    """
    start = np.searchsorted(frames, queries - window, "left")
    return np.stack([start, np.searchsorted(frames, queries + window, "right")], axis=1)


def draw_pools(
    video: str, proposals: np.ndarray, candidates: int, excluded: np.ndarray, size: int, seed: int, epoch: int
) -> np.ndarray:
    """(Q, size) candidates drawn at random, without repetition, for each proposal; -1 where there are fewer.

    proposals: (Q,) numbers within the video. candidates: how many there are; they are numbered from 0. excluded: (Q, 2)
    numbers [start, stop) that are not drawn. A draw depends on (seed, video, proposal, epoch) and on its candidates
    alone, not on what else is drawn.
    """
    hidden = excluded[:, 1] - excluded[:, 0]
    count = candidates - hidden
    generator = np.random.default_rng([seed, zlib.crc32(video.encode()), epoch])
    uniform = generator.random((int(proposals.max(initial=-1)) + 1, size))[proposals].T
    # Floyd's sampling for all proposals at once: a number that is drawn already stands for the last one
    place = np.arange(size)[:, None]
    last = count - size + place  # (size, Q)
    drawn = (uniform * (last + 1)).astype(np.int64)
    for number in range(1, size):
        repeated = (drawn[:number] == drawn[number]).any(axis=0)
        drawn[number, repeated] = last[number, repeated]
    drawn = np.where(count > size, drawn, np.where(place < count, place, -1))
    return np.where(drawn >= excluded[:, 0], drawn + hidden, drawn).T


def pool_similarity(embeddings: np.ndarray, queries: np.ndarray, pools: np.ndarray) -> np.ndarray:
    """(Q, size) float32 similarity of each query to those of its pool, -inf for -1.

    embeddings: (P, C), from `comparable`. queries: (Q, C). pools: (Q, size) rows of the embeddings, or -1.
    """
    similarity = np.einsum("qc,qpc->qp", queries, embeddings[pools], dtype=np.float32)
    similarity[pools < 0] = -np.inf
    return similarity


def cheapest(pools: np.ndarray, similarity: np.ndarray, cost: np.ndarray, n: int) -> Neighbours:
    """The n of each pool that cost least, the cheapest first; of equals the first. All (Q, size); -1 costs inf."""
    order = np.argsort(cost, axis=1, kind="stable")[:, :n]
    return Neighbours(np.take_along_axis(pools, order, 1), np.take_along_axis(similarity, order, 1))


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


def hubness(cited: np.ndarray, proposals: int) -> float:
    """Share of all references that go to the most-cited tenth of the proposals (0.1 when citations spread evenly).

    cited: a number for each reference, that tells the proposal; proposals: how many there are.
    """
    if not len(cited):
        return float("nan")
    counts = np.sort(np.unique(cited, return_counts=True)[1])[::-1]
    return float(counts[: max(1, proposals // 10)].sum() / len(cited))


def _rows(candidates: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Rows of candidates by their numbers, -1 for -1."""
    return np.append(candidates, -1)[numbers]


def _choose(gallery: Gallery, video: str, options: IndexOptions, n: int, epoch: int) -> Neighbours:
    """The n of each proposal's pool that `options.select` prefers, the preferred first."""
    start, stop = gallery.spans[video]
    candidates, excluded = _in_scope(gallery, start, stop, options)
    queries = gallery.embeddings[start:stop]
    if options.pool == "all" and options.select not in ("random", "oracle"):
        index = gallery.index if candidates is gallery.eligible else build_index(gallery.embeddings[candidates])
        least = options.select == "least_similar"
        found, similarity = search_outside(index, -queries if least else queries, excluded, n)
        if least:
            similarity = np.where(found < 0, -np.inf, -similarity)
        return Neighbours(_rows(candidates, found), similarity)
    if options.pool == "all" and gallery.poses is not None:
        drawn = nearest_poses(gallery.poses[start:stop], gallery.poses[candidates], excluded, n)
    else:  # n at random of a pool that is drawn, or of all, are a draw of n
        size = n if options.select == "random" or options.pool == "all" else options.pool
        numbers = gallery.proposals[start:stop]
        drawn = draw_pools(video, numbers, len(candidates), excluded, size, options.seed, epoch)
    pools, distance = _rows(candidates, drawn), None
    if gallery.poses is not None:
        distance = np.where(pools < 0, np.inf, pose_distance(gallery.poses[start:stop], gallery.poses[pools]))
        pools = np.where(np.isinf(distance), -1, pools)
    similarity = pool_similarity(gallery.embeddings, queries, pools)
    if options.select == "least_similar":
        return cheapest(pools, similarity, np.where(pools < 0, np.inf, similarity), n)
    return cheapest(pools, similarity, -similarity if distance is None else distance, n)


def _in_scope(gallery: Gallery, start: int, stop: int, options: IndexOptions) -> tuple[np.ndarray, np.ndarray]:
    """Rows that may be references of the proposals of a video's rows start to stop, and (Q, 2) numbers [first, end)
    among them that each may not take.
    """
    first, last = np.searchsorted(gallery.eligible, (start, stop))  # the video's own
    if options.select == "other_video":
        return gallery.eligible, np.tile([first, last], (stop - start, 1))
    own = gallery.frames[gallery.eligible[first:last]]
    excluded = excluded_range(own, gallery.frames[start:stop], options.exclude_window)
    if options.causal:
        excluded[:, 1] = len(own)
    if options.scope == "dataset":
        return gallery.eligible, excluded + first
    return gallery.eligible[first:last], excluded
