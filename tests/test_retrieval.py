"""Pools, rankings and what is said about them, against brute force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import faiss
import numpy as np
import numpy_reference as reference
import pandas as pd
import pytest

import store.index
from glpose.options import IndexOptions
from glpose.pose_distance import normalised_poses, pose_distance
from glpose.retrieval import (
    Gallery,
    Neighbours,
    comparable,
    draw_pools,
    find_references,
    hubness,
    make_gallery,
    softmax_entropy,
)
from store.index import build_index, on_device, search_outside

PEOPLE = {  # in each frame of each video
    "a": [1, 2, 3, 2, 0, 4, 1, 1, 2, 2, 3, 0, 1, 2, 2, 1, 3, 1, 2, 1],
    "b": [2, 0, 1, 1, 1, 2, 3, 1, 1, 2, 0, 1],
    "c": [1, 1],
}
COUNT = {video: sum(people) for video, people in PEOPLE.items()}
TABLE = pd.concat(
    [
        pd.DataFrame({"video": video, "proposal": range(COUNT[video]), "frame": np.repeat(range(len(people)), people)})
        for video, people in PEOPLE.items()
    ],
    ignore_index=True,
)
TABLE["score"] = np.random.default_rng(0).uniform(0, 1, len(TABLE)).astype(np.float32)
EMBEDDINGS = np.random.default_rng(1).gamma(1.0, 1.0, (len(TABLE), 7)).astype(np.float32)
SCOPES = ["video", "dataset"]


def annotated() -> pd.DataFrame:
    """The table with boxes and poses: joints that are missing, people who are not annotated, boxes of all shapes."""
    rng = np.random.default_rng(2)
    corner, size = rng.uniform(0, 200, (len(TABLE), 2)), rng.uniform(20, 120, (len(TABLE), 2))
    table = TABLE.copy()
    table[["x1", "y1", "x2", "y2"]] = np.concatenate([corner, corner + size], axis=1)
    xy = corner[:, None] + rng.uniform(-0.1, 1.1, (len(TABLE), 5, 2)) * size[:, None]
    flags = rng.choice([0, 1, 2], (len(TABLE), 5, 1), p=[0.3, 0.2, 0.5])
    flags[3] = 0  # annotated, but no joint
    points = np.where(flags > 0, xy, -1e6)  # what absent joints hold must not matter
    nobody = rng.random(len(TABLE)) < 0.15
    flat = np.concatenate([points, flags], axis=-1).reshape(len(TABLE), -1)  # as tables hold them
    table["keypoints"] = pd.Series(
        [None if none else row for none, row in zip(nobody, flat, strict=True)], dtype=object, index=table.index
    )
    return table


POSES = annotated()


def options(**changes: Any) -> IndexOptions:
    return IndexOptions.model_validate({"n": 6, "pool": 8} | changes)


def everyone(chosen: IndexOptions, n: int = 6, epoch: int = 0, table: pd.DataFrame = TABLE) -> Neighbours:
    """References of all proposals of all videos."""
    gallery = make_gallery(table, EMBEDDINGS[table.index], chosen)
    found = [find_references(gallery, video, chosen, n, epoch) for video in gallery.spans]
    return Neighbours(np.concatenate([f.rows for f in found]), np.concatenate([f.similarity for f in found]))


def candidates(
    row: int, scope: str = "video", window: int = 4, min_score: float = 0.0, causal: bool = False
) -> list[int]:
    video, frame, score = (TABLE[name].tolist() for name in ("video", "frame", "score"))
    return reference.candidates(video, frame, score, row, window, min_score, scope, causal)


def pools(chosen: IndexOptions, epoch: int = 0, table: pd.DataFrame = TABLE) -> np.ndarray:
    """(P, pool) rows drawn for every proposal, in order of the rows, -1 first."""
    with mock.patch("glpose.retrieval.cheapest", lambda pools, *_: Neighbours(pools, np.zeros(pools.shape))):
        return np.sort(everyone(chosen, epoch=epoch, table=table).rows, axis=1)


# -------------------------------------------------------------------------------------------------------------- pools
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("window", [0, 1, 4, 9])
@pytest.mark.parametrize("min_score", [0.0, 0.5])
def test_pools_follow_the_rule(scope: str, window: int, min_score: float) -> None:
    drawn = pools(options(scope=scope, exclude_window=window, min_score=min_score))
    for row, pool in enumerate(drawn):
        allowed = candidates(row, scope, window, min_score)
        chosen = pool[pool >= 0].tolist()
        assert set(chosen) <= set(allowed)
        assert len(set(chosen)) == len(chosen) == min(8, len(allowed))
        assert row not in chosen
    if min_score:
        low = np.flatnonzero(TABLE["score"] < min_score)
        assert len(low) and not np.isin(drawn, low).any()  # no references themselves
        assert (drawn[low] >= 0).any(axis=1).mean() > 0.5  # but they get some


@pytest.mark.parametrize("scope", SCOPES)
def test_a_pool_larger_than_the_scope_holds_all_candidates(scope: str) -> None:
    for row, pool in enumerate(pools(options(pool=100, scope=scope))):
        assert pool[pool >= 0].tolist() == candidates(row, scope)


def test_nobody_outside_the_window() -> None:
    assert (pools(options(exclude_window=20)) == -1).all()
    assert (pools(options(min_score=1, scope="dataset")) == -1).all()
    assert pools(options(n=0, pool=0)).shape == (len(TABLE), 0)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_draw_depends_on_seed_video_proposal_and_epoch_alone(scope: str) -> None:
    drawn = pools(options(scope=scope))
    np.testing.assert_array_equal(drawn, pools(options(scope=scope)))
    several = TABLE["video"].to_numpy() == "a"  # of the others there are too few to draw from
    for other in (pools(options(scope=scope, seed=1)), pools(options(scope=scope), epoch=1)):
        assert (other != drawn)[several].any(axis=1).mean() > 0.9
    numbers, excluded = np.array([7, 2, 3]), np.zeros((3, 2), int)
    draw = draw_pools("a", numbers, 40, excluded, 8, seed=0, epoch=0)
    np.testing.assert_array_equal(draw_pools("a", numbers[1:2], 40, excluded[:1], 8, 0, 0), draw[1:2])
    assert (draw_pools("b", numbers, 40, excluded, 8, 0, 0) != draw).any(axis=1).all()
    # two people of one frame have the same candidates, and pools of their own
    frame = TABLE["frame"].to_numpy()
    assert frame[3] == frame[4] and set(drawn[3]) != set(drawn[4])


def test_other_videos_change_nothing_in_a_video() -> None:
    together = everyone(options()).rows
    alone = everyone(options(), table=TABLE.loc[TABLE["video"] == "b"]).rows
    begin = COUNT["a"]
    np.testing.assert_array_equal(together[begin : begin + COUNT["b"]], np.where(alone >= 0, alone + begin, -1))


@pytest.mark.parametrize("pool", [8, "all"])
def test_a_data_set_of_one_video_is_that_video(pool: object) -> None:
    table = TABLE.loc[TABLE["video"] == "a"]
    one, other = (everyone(options(pool=pool, scope=scope), table=table) for scope in SCOPES)
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_array_equal(one.similarity, other.similarity)


def test_every_candidate_has_its_turn() -> None:
    numbers, excluded = np.array([10]), np.array([[5, 12]])
    drawn = np.array([draw_pools("a", numbers, 30, excluded, 8, 0, epoch)[0] for epoch in range(1000)])
    counts = np.bincount(drawn.ravel(), minlength=30)
    assert not counts[5:12].any()
    expected = 1000 * 8 / 23
    allowed = np.delete(counts, range(5, 12))
    assert allowed.min() > 0.8 * expected and allowed.max() < 1.2 * expected
    # and so has every pair of them
    pairs = sum(((drawn == 0).any(axis=1) & (drawn == other).any(axis=1)).sum() for other in (4, 12, 29))
    assert pairs / 3 == pytest.approx(1000 * 8 * 7 / (23 * 22), rel=0.2)


# ------------------------------------------------------------------------------------------------------------ rankings
def check(found: Neighbours, embeddings: np.ndarray, pools: Sequence[Sequence[int]], n: int) -> None:
    """Compare with the reference's ranking of each row's pool."""
    assert found.rows.shape == found.similarity.shape == (len(pools), n)
    for row, pool in enumerate(pools):
        wanted = reference.ranked(embeddings.astype(np.float64), row, pool, n)
        missing = n - len(wanted)
        assert found.rows[row].tolist() == [other for other, _ in wanted] + [-1] * missing
        np.testing.assert_allclose(
            found.similarity[row], [value for _, value in wanted] + [-np.inf] * missing, rtol=1e-5
        )


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("few", [0, 1 << 20])
@pytest.mark.parametrize("n", [0, 1, 6, 40])
def test_rankings_are_brute_force(scope: str, few: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.index, "FEW", few)
    pool = [candidates(row, scope) for row in range(len(TABLE))]
    check(everyone(options(pool=100, n=40, scope=scope), n), EMBEDDINGS, pool, n)
    check(everyone(options(pool="all", scope=scope), n), EMBEDDINGS, pool, n)


def test_rankings_of_a_small_pool() -> None:
    drawn = pools(options(pool=9))
    check(everyone(options(pool=9)), EMBEDDINGS, [[r for r in pool if r >= 0] for pool in drawn], 6)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("few", [0, 1 << 20])
def test_all_in_scope_honour_the_score(scope: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.index, "FEW", few)
    allowed = [candidates(row, scope, 2, 0.5) for row in range(len(TABLE))]
    found = everyone(options(pool="all", scope=scope, exclude_window=2, min_score=0.5))
    check(found, EMBEDDINGS, allowed, 6)


def test_of_equals_the_first_of_the_pool_comes_first() -> None:
    """Embeddings of few kinds: within a kind each pool's own order decides."""
    chosen, alike = options(pool=40, n=40), np.ones_like(EMBEDDINGS)
    alike[::3], alike[1::5] = 2, 3
    gallery = make_gallery(TABLE, alike, chosen)
    with mock.patch("glpose.retrieval.cheapest", lambda pools, *_: Neighbours(pools, np.zeros(pools.shape))):
        drawn = find_references(gallery, "a", chosen, 40).rows
    check(find_references(gallery, "a", chosen, 40), alike, [pool[pool >= 0].tolist() for pool in drawn], 40)


def test_a_score_of_exactly_the_least_is_enough() -> None:
    chosen = options(min_score=float(TABLE["score"].iat[3]))
    assert 3 in make_gallery(TABLE, EMBEDDINGS, chosen).eligible
    assert (everyone(chosen.model_copy(update={"pool": "all"}), 40).rows == 3).any()


@pytest.mark.parametrize("few", [0, 1 << 20])
def test_a_video_without_candidates(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.index, "FEW", few)
    found = everyone(options(pool="all", exclude_window=30), 3)
    assert (found.rows == -1).all() and (found.similarity == -np.inf).all()
    found = everyone(options(pool="all", min_score=1), 3)
    assert (found.rows == -1).all()


def test_long_searches_are_exact_and_the_same_for_any_number_of_threads() -> None:
    """Most rows are excluded, the best ones among them: the search has to go on several times."""
    rng = np.random.default_rng(0)
    vectors = rng.gamma(1.0, 1.0, (3000, 16)).astype(np.float32)
    vectors[500:1500] *= 3
    queries, excluded = vectors[400:1000], np.tile([480, 1490], (600, 1))
    excluded[::7] = [0, 2998]
    found = []
    before = faiss.omp_get_max_threads()
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        found.append(search_outside(build_index(vectors), queries, excluded, 6))
    faiss.omp_set_num_threads(before)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    products = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    number = np.arange(len(vectors))
    products[(number >= excluded[:, :1]) & (number < excluded[:, 1:])] = -np.inf
    order = np.argsort(-products, axis=1)[:, :6]
    wanted = np.where(np.isinf(np.take_along_axis(products, order, 1)), -1, order)
    np.testing.assert_array_equal(found[0][0], wanted)
    assert (found[0][0][::7, 2:] == -1).all()


def test_a_gpu_is_used_where_faiss_finds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the transfer: there may be no GPU here."""
    moved: list[int] = []

    class Index:
        """What a GPU's index is to a search: no `IndexFlat`, and at most 40 results a query."""

        def __init__(self, index: faiss.Index) -> None:
            self.index, self.ntotal = index, index.ntotal

        def search(self, queries: np.ndarray, count: int) -> Any:
            assert count <= 40
            return self.index.search(queries, count)  # pyright: ignore[reportCallIssue]

        def reconstruct_batch(self, rows: np.ndarray) -> np.ndarray:
            return self.index.reconstruct_batch(rows)  # pyright: ignore[reportCallIssue]

    def to_gpu(resources: object, number: int, index: faiss.Index) -> Index:
        moved.append(number)
        return Index(index)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda index: index.index, raising=False)
    monkeypatch.setattr(store.index, "GPU_MOST", 40)
    chosen = options(pool="all", scope="dataset", exclude_window=30)  # several searches, the last by the CPU
    on_cpu = everyone(chosen)
    for device, number in (("auto", 0), ("cuda", 0), ("cuda:1", 1)):
        gallery = make_gallery(TABLE, EMBEDDINGS, chosen, device)
        found = [find_references(gallery, video, chosen, 6).rows for video in gallery.spans]
        np.testing.assert_array_equal(np.concatenate(found), on_cpu.rows)
        assert moved.pop() == number and not moved
    plain = build_index(EMBEDDINGS)
    assert on_device(plain, "cpu") is plain
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert on_device(plain, "cuda") is plain


def test_rows_know_their_videos() -> None:
    gallery: Gallery = make_gallery(TABLE, EMBEDDINGS, options())
    assert gallery.videos_of(np.arange(len(TABLE))).tolist() == TABLE["video"].tolist()
    assert gallery.spans["b"] == (COUNT["a"], COUNT["a"] + COUNT["b"])
    assert make_gallery(TABLE.iloc[:0], EMBEDDINGS[:0], options()).spans == {}


def test_cosine_ignores_lengths() -> None:
    lengths = np.random.default_rng(2).uniform(0.1, 10, (len(TABLE), 1)).astype(np.float32)
    units = comparable(EMBEDDINGS * lengths, "cosine")
    for a, b in ((0, 1), (5, 30), (7, 7)):
        wanted = reference.cosine(EMBEDDINGS[a].astype(float), EMBEDDINGS[b].astype(float))
        assert float(units[a] @ units[b]) == pytest.approx(wanted, rel=1e-5)
    chosen = options(pool="all", similarity="cosine")
    galleries = make_gallery(TABLE, EMBEDDINGS * lengths, chosen), make_gallery(TABLE, EMBEDDINGS, chosen)
    found, plain = (find_references(gallery, "a", chosen, 6) for gallery in galleries)
    np.testing.assert_array_equal(found.rows, plain.rows)
    assert (everyone(options(pool="all")).rows[: COUNT["a"]] != plain.rows).any()
    assert np.isfinite(comparable(np.zeros((2, 3)), "cosine")).all()


# ------------------------------------------------------------------------------------------------------------ controls
def controlled(select: str, **changes: Any) -> IndexOptions:
    """Options of one way to choose; references of another video are looked for in all."""
    return options(select=select, **({"scope": "dataset"} if select == "other_video" else {}) | changes)


CONTROLS = ["least_similar", "random", "other_video", "oracle"]


def members(drawn: np.ndarray) -> list[list[int]]:
    return [pool[pool >= 0].tolist() for pool in drawn]


def distances(row: int, pool: Sequence[int]) -> list[tuple[float, int]]:
    """Of those of the pool who can be compared with the row's pose, nearest first."""
    boxes = POSES[["x1", "y1", "x2", "y2"]].to_numpy().tolist()
    points = [None if p is None else np.reshape(p, (-1, 3)) for p in POSES["keypoints"]]
    found, own = [], points[row]
    for other in pool:
        theirs = points[other]
        if own is not None and theirs is not None:
            distance = reference.pose_distance(own, boxes[row], theirs, boxes[other])
            found += [] if distance is None else [(distance, other)]
    return sorted(found)


def similarities_are_of_embeddings(found: Neighbours) -> bool:
    """Whatever references are chosen by."""
    row, rank = np.nonzero(found.rows >= 0)
    wanted = np.full(found.rows.shape, -np.inf)
    wanted[row, rank] = (EMBEDDINGS.astype(np.float64)[row] * EMBEDDINGS[found.rows[row, rank]]).sum(axis=1)
    np.testing.assert_allclose(found.similarity, wanted, rtol=1e-5)
    return found.similarity.dtype == np.float32


def by_similarity(row: int, chosen: Sequence[int]) -> list[int]:
    """The most similar first, whatever they were chosen by."""
    return [other for other, _ in reference.ranked(EMBEDDINGS.astype(np.float64), row, chosen, len(chosen))]


@pytest.mark.parametrize("pool", [9, "all"])
@pytest.mark.parametrize("select", ["most_similar", *CONTROLS])
def test_fewer_are_the_most_similar_of_those_chosen(select: str, pool: object) -> None:
    """So that heads get the same of an index as of a draw, whatever n others are trained with at once."""
    chosen = controlled(select, pool=pool)
    many = everyone(chosen, table=POSES)
    assert similarities_are_of_embeddings(many)
    assert (many.rows >= 0).mean() > 0.5
    for n in (0, 1, 3):
        few = everyone(chosen, n, table=POSES)
        np.testing.assert_array_equal(few.rows, many.rows[:, :n])
        np.testing.assert_array_equal(few.similarity, many.similarity[:, :n])
    for row, rows in enumerate(many.rows.tolist()):
        there = [other for other in rows if other >= 0]
        assert len(set(there)) == len(there) and row not in there
        assert rows == by_similarity(row, there) + [-1] * (6 - len(there))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("few", [0, 1 << 20])
def test_least_similar(scope: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.index, "FEW", few)
    pool = members(pools(options(pool=9, scope=scope)))  # the pools of the most similar
    everybody = [candidates(row, scope) for row in range(len(TABLE))]
    for chosen, of in ((options(pool=9, scope=scope), pool), (options(pool="all", scope=scope), everybody)):
        least = [by_similarity(row, own)[-6:] for row, own in enumerate(of)]
        check(everyone(chosen.model_copy(update={"select": "least_similar"})), EMBEDDINGS, least, 6)


@pytest.mark.parametrize("pool", [9, "all"])
@pytest.mark.parametrize("scope", SCOPES)
def test_random_ones(scope: str, pool: object) -> None:
    chosen = options(select="random", pool=pool, scope=scope)
    found = everyone(chosen)
    for row, rows in enumerate(found.rows):
        allowed = candidates(row, scope)
        assert set(rows[rows >= 0].tolist()) <= set(allowed)
        assert (rows >= 0).sum() == min(6, len(allowed))
    np.testing.assert_array_equal(everyone(chosen).rows, found.rows)
    best = everyone(options(pool=pool, scope=scope))
    for other in (best, everyone(chosen.model_copy(update={"seed": 1})), everyone(chosen, epoch=1)):
        assert (np.sort(other.rows) != np.sort(found.rows))[: COUNT["a"]].any(axis=1).mean() > 0.9


@pytest.mark.parametrize("pool", [8, "all"])
def test_each_candidate_is_as_likely_as_the_others(pool: object) -> None:
    chosen, row = options(select="random", pool=pool), 20
    gallery = make_gallery(TABLE, EMBEDDINGS, chosen)
    drawn = [find_references(gallery, "a", chosen, 6, epoch).rows[row] for epoch in range(1000)]
    found, counts = np.unique(drawn, return_counts=True)
    assert found.tolist() == candidates(row)
    expected = 6000 / len(found)
    assert counts.min() > 0.8 * expected and counts.max() < 1.2 * expected


@pytest.mark.parametrize("few", [0, 1 << 20])
@pytest.mark.parametrize("pool", [100, "all"])
def test_most_similar_of_other_videos(pool: object, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.index, "FEW", few)
    video = TABLE["video"].to_numpy()
    score = TABLE["score"].to_numpy() >= 0.2
    allowed = [np.flatnonzero((video != video[row]) & score).tolist() for row in range(len(TABLE))]
    check(everyone(controlled("other_video", pool=pool, min_score=0.2)), EMBEDDINGS, allowed, 6)
    one = everyone(controlled("other_video", pool=pool), table=TABLE.loc[video == "a"])
    assert (one.rows == -1).all() and np.isneginf(one.similarity).all()


def test_pools_of_other_videos_are_drawn_of_all_of_them() -> None:
    chosen, row = controlled("other_video"), 20
    gallery = make_gallery(TABLE, EMBEDDINGS, chosen)
    found = [find_references(gallery, "a", chosen, 6, epoch).rows[row] for epoch in range(100)]
    assert len(np.unique(found)) > 6 and np.min(found) >= COUNT["a"]  # the best six of all would be the same six


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("pool", [9, "all"])
def test_the_oracle_takes_the_nearest_pose(scope: str, pool: object) -> None:
    chosen = options(select="oracle", scope=scope, pool=pool)
    shows = [points is not None and points.reshape(-1, 3)[:, 2].any() for points in POSES["keypoints"]]
    if pool == "all":
        of = [candidates(row, scope) for row in range(len(TABLE))]
    else:
        of = members(pools(chosen, table=POSES))
        assert all(shows[other] for pool in of for other in pool)  # nobody is drawn who cannot be chosen
    found = everyone(chosen, table=POSES)
    assert similarities_are_of_embeddings(found)
    for row, rows in enumerate(found.rows):
        assert rows[rows >= 0].tolist() == by_similarity(row, [other for _, other in distances(row, of[row])[:6]])
    assert not all(shows) and (found.rows[~np.array(shows)] == -1).all()
    best = everyone(options(scope=scope, pool=pool))
    assert (found.rows != best.rows).any(axis=1).mean() > 0.5


def test_pose_distance_by_hand() -> None:
    """Two joints, a third of the size apart in x; the same pose elsewhere and twice as large is no distance away."""
    table = pd.DataFrame(
        [[0, 0, 30, 60], [100, 50, 160, 170], [0, 0, 30, 60], [0, 0, 30, 60]], columns=["x1", "y1", "x2", "y2"]
    )
    table["keypoints"] = pd.Series(
        [
            np.array([[10, 10, 2], [20, 40, 1], [5, 5, 0]]), np.array([[120, 70, 2], [140, 130, 2], [0, 0, 0]]),
            np.array([[30, 10, 2], [20, 40, 2], [1, 1, 2]]), np.array([[0, 0, 0], [0, 0, 0], [9, 9, 1]]),
        ],
        dtype=object,
    )  # fmt: skip
    poses = normalised_poses(table)
    found = pose_distance(poses, np.repeat(poses[None], 4, axis=0))
    np.testing.assert_allclose(found[0], [0, 0, (20 / 60) / 2, np.inf], atol=1e-12)
    np.testing.assert_allclose(found[:3, 3], [np.inf] * 3)  # one of three joints is too little
    assert found[3, 2] == pytest.approx(np.hypot(8, 8) / 60)  # but all of those that this person shows
    assert normalised_poses(table.iloc[:0]).shape == (0, 0, 3)
    nobody = table.assign(keypoints=None)
    assert np.isinf(pose_distance(normalised_poses(nobody), normalised_poses(nobody)[None].repeat(4, axis=0))).all()


@pytest.mark.parametrize("pool", [9, "all"])
@pytest.mark.parametrize("select", ["most_similar", "least_similar", "random", "oracle"])
def test_causal_pools_are_of_earlier_frames(select: str, pool: object) -> None:
    chosen = options(select=select, causal=True, pool=pool, exclude_window=2)
    found = everyone(chosen, table=POSES)
    frame, video = TABLE["frame"].to_numpy(), TABLE["video"].to_numpy()
    row, rank = np.nonzero(found.rows >= 0)
    other = found.rows[row, rank]
    assert (frame[other] < frame[row] - 2).all() and (video[other] == video[row]).all() and len(other) > 100
    if select == "most_similar":
        check(
            everyone(options(causal=True, pool=100 if pool == 9 else "all", exclude_window=2)),
            EMBEDDINGS, [candidates(row, window=2, causal=True) for row in range(len(TABLE))], 6,
        )  # fmt: skip
        assert (found.rows[frame < 3] == -1).all()  # nobody was there before them


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"select": "other_video"}, "needs scope dataset"),
        ({"causal": True, "scope": "dataset"}, "causal needs scope video"),
    ],
)
def test_choices_that_make_no_sense(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        options(**changes)


# --------------------------------------------------------------------------------------------------- what is said


def test_entropy_by_hand() -> None:
    even, one = np.zeros((3, 4)), np.array([[0.0, -np.inf, -np.inf]])
    assert softmax_entropy(even) == pytest.approx(np.log(4))
    assert softmax_entropy(one) == pytest.approx(0)
    quarter = np.log([[1.0, 3.0]])
    assert softmax_entropy(quarter) == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)))
    nobody = np.full((1, 3), -np.inf)
    assert softmax_entropy(np.concatenate([one, nobody])) == pytest.approx(0)  # those without references do not count


@pytest.mark.parametrize("shape", [(5, 0), (0, 3), (0, 0), (2, 3)])
def test_entropy_and_hubness_of_nothing(shape: tuple[int, int]) -> None:
    """No references asked for, no proposals, or nobody with a reference."""
    assert np.isnan(softmax_entropy(np.full(shape, -np.inf, np.float32)))
    assert np.isnan(hubness(np.empty(0), shape[0]))


def test_hubness_by_hand() -> None:
    rows = (np.arange(20)[:, None] + np.arange(1, 5)) % 20  # everyone is cited four times
    assert hubness(rows.ravel(), 20) == pytest.approx(0.1)
    rows[:, 0] = 7
    rows[:, 1] = 8
    assert hubness(rows.ravel(), 20) == pytest.approx((20 + 20 + 2 + 2) / 80)
    assert hubness(rows[:, :2].ravel(), 20) == pytest.approx(1)
    assert hubness(np.array([3, 3, 5]), 4) == pytest.approx(2 / 3)  # one at least is the most-cited tenth
