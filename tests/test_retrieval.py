"""Pools, rankings and what is said about them, against brute force."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy_reference as reference
import pytest

from glpose.retrieval import Neighbours, comparable, draw_pools, hubness, rank_all, rank_pools, softmax_entropy

FRAMES = np.repeat(np.arange(20), [1, 2, 3, 2, 0, 4, 1, 1, 2, 2, 3, 0, 1, 2, 2, 1, 3, 1, 2, 1])
SCORES = np.random.default_rng(0).uniform(0, 1, len(FRAMES))
ROWS = np.arange(len(FRAMES))
EMBEDDINGS = np.random.default_rng(1).gamma(1.0, 1.0, (len(FRAMES), 7)).astype(np.float32)


def drawn(
    size: int = 8,
    window: int = 4,
    *,
    video: str = "a",
    rows: np.ndarray = ROWS,
    eligible: np.ndarray = ROWS,
    seed: int = 0,
    epoch: int = 0,
) -> np.ndarray:
    return draw_pools(video, FRAMES, rows, eligible, size, window, seed, epoch)


def candidates(row: int, window: int = 4, min_score: float = 0.0) -> list[int]:
    return reference.candidates(FRAMES.tolist(), SCORES.tolist(), row, window, min_score)


@pytest.mark.parametrize("window", [0, 1, 4, 9])
@pytest.mark.parametrize("min_score", [0.0, 0.5])
def test_pools_follow_the_rule(window: int, min_score: float) -> None:
    pools = drawn(window=window, eligible=np.flatnonzero(min_score <= SCORES))
    for row, pool in enumerate(pools):
        allowed = candidates(row, window, min_score)
        chosen = pool[pool >= 0].tolist()
        assert set(chosen) <= set(allowed)
        assert len(set(chosen)) == len(chosen) == min(8, len(allowed))
        assert (pool[len(chosen) :] == -1).all()
        assert row not in chosen
    if min_score:
        low = np.flatnonzero(min_score > SCORES)
        assert len(low) and not np.isin(pools, low).any()  # no references themselves
        assert (pools[low] >= 0).any(axis=1).all()  # but they get some


def test_a_pool_as_large_as_the_video_holds_all_candidates() -> None:
    for row, pool in enumerate(drawn(size=100)):
        assert sorted(pool[pool >= 0]) == candidates(row)


def test_nobody_outside_the_window() -> None:
    assert (drawn(window=20) == -1).all()
    assert (drawn(eligible=ROWS[:0]) == -1).all()
    assert drawn(size=0).shape == (len(ROWS), 0)


def test_a_draw_depends_on_seed_video_row_and_epoch_alone() -> None:
    pools = drawn()
    np.testing.assert_array_equal(pools, drawn())
    np.testing.assert_array_equal(drawn(rows=np.array([5, 2])), pools[[5, 2]])  # not on what else is drawn
    for other in (drawn(seed=1), drawn(epoch=1), drawn(video="b")):
        assert (np.sort(other, axis=1) != np.sort(pools, axis=1)).any(axis=1).mean() > 0.9
    # two people of one frame have the same candidates, and pools of their own
    assert FRAMES[3] == FRAMES[4] and set(pools[3]) != set(pools[4])


def test_every_candidate_has_its_turn() -> None:
    pools = np.array([drawn(epoch=epoch, rows=np.array([10]))[0] for epoch in range(100)])
    counts = np.bincount(pools.ravel(), minlength=len(ROWS))[candidates(10)]
    expected = 100 * 8 / len(candidates(10))
    assert counts.min() > 0.5 * expected and counts.max() < 1.6 * expected


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


@pytest.mark.parametrize("n", [0, 1, 6, 40])
def test_rankings_are_brute_force(n: int) -> None:
    everyone = [candidates(row) for row in ROWS.tolist()]
    check(rank_pools(EMBEDDINGS, ROWS, drawn(size=50), n), EMBEDDINGS, everyone, n)
    check(rank_all(EMBEDDINGS, FRAMES, ROWS, ROWS, n, window=4), EMBEDDINGS, everyone, n)


def test_rankings_of_a_small_pool() -> None:
    pools = drawn(size=9)
    check(rank_pools(EMBEDDINGS, ROWS, pools, 6), EMBEDDINGS, [[r for r in pool if r >= 0] for pool in pools], 6)


def test_whole_video_honours_the_score() -> None:
    eligible = np.flatnonzero(SCORES >= 0.5)
    allowed = [candidates(row, 2, 0.5) for row in ROWS.tolist()]
    check(rank_all(EMBEDDINGS, FRAMES, ROWS, eligible, 6, window=2), EMBEDDINGS, allowed, 6)


def test_whole_video_without_candidates() -> None:
    found = rank_all(EMBEDDINGS, FRAMES, ROWS, ROWS, 3, window=30)
    assert (found.rows == -1).all() and (found.similarity == -np.inf).all()


def test_cosine_ignores_lengths() -> None:
    lengths = np.random.default_rng(2).uniform(0.1, 10, (len(ROWS), 1)).astype(np.float32)
    units = comparable(EMBEDDINGS * lengths, "cosine")
    for a, b in ((0, 1), (5, 30), (7, 7)):
        wanted = reference.cosine(EMBEDDINGS[a].astype(float), EMBEDDINGS[b].astype(float))
        assert float(units[a] @ units[b]) == pytest.approx(wanted, rel=1e-5)
    found, plain = (rank_all(e, FRAMES, ROWS, ROWS, 6, 4) for e in (units, comparable(EMBEDDINGS, "cosine")))
    np.testing.assert_array_equal(found.rows, plain.rows)
    products = rank_all(comparable(EMBEDDINGS, "inner_product"), FRAMES, ROWS, ROWS, 6, 4)
    assert (products.rows != plain.rows).any()
    assert np.isfinite(comparable(np.zeros((2, 3)), "cosine")).all()


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
    assert np.isnan(hubness(np.full(shape, -1)))


def test_hubness_by_hand() -> None:
    rows = (np.arange(20)[:, None] + np.arange(1, 5)) % 20  # everyone is cited four times
    assert hubness(rows) == pytest.approx(0.1)
    rows[:, 0] = 7
    rows[:, 1] = 8
    assert hubness(rows) == pytest.approx((20 + 20 + 2 + 2) / 80)
    assert hubness(np.where(np.arange(4) < 2, rows, -1)) == pytest.approx(1)
