"""Training and prediction on features held in memory: they learn, repeat bit for bit, and refuse what cannot work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy_reference as reference
import pandas as pd
import pytest
import torch
from torch import Tensor
from training_problem import (
    BOXES,
    CHANNELS,
    CROP,
    GRID,
    HEADS,
    INDEX,
    JOINTS,
    K,
    drawn,
    held,
    nobody,
    problem,
    same,
    trained,
    with_keypoints,
)

from glpose import batches
from glpose.data.resident import Maps
from glpose.data.windows import SplitFeatures
from glpose.evaluation import predict_poses
from glpose.options import HeadOptions, IndexOptions
from glpose.references import References, draw_references, head_inputs, in_window, stored_references
from glpose.retrieval import Gallery, comparable
from store.errors import DataError, TrainingError


# ------------------------------------------------------------------------------------------------------------ learning
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_learns_where_the_joints_are(precision: str) -> None:
    features = problem()
    model, losses = trained(features, epochs=18, milestones=(14,), precision=precision)
    assert len(losses) == 18 and losses[-1] < 0.1 * losses[0]
    references = drawn(features)
    [poses] = predict_poses(model, features, references, "product", batch_size=7)
    assert poses.shape == (20, JOINTS, 3)
    truth = np.stack(features.table["keypoints"].tolist())
    pixel = features.regions[:, 2] / GRID[1]  # frame px
    assert (np.abs(poses[..., :2] - truth[..., :2]).max(axis=(1, 2)) <= pixel).all()
    assert 0.3 < np.median(poses[..., 2] / features.table["score"].to_numpy()[:, None]) < 1.3

    [alone] = predict_poses(model, features, references, "heatmap", batch_size=20)
    np.testing.assert_allclose(poses[..., 2], alone[..., 2] * features.table["score"].to_numpy()[:, None], atol=1e-5)
    np.testing.assert_allclose(poses[..., :2], alone[..., :2])


def test_layers_compute_in_the_precision_asked_for() -> None:
    features = problem({"a": 4})
    (exact,), (rounded,) = (
        trained(features, epochs=1, batch_size=8, precision=precision)[1] for precision in ("float32", "bfloat16")
    )
    assert rounded == pytest.approx(exact, rel=0.02) and rounded != exact


@pytest.mark.parametrize(
    "changes",
    [{"k": 0}, {"n": 0}, {"k": 0, "n": 0, "enhancement": False}, {"per_channel": True}],
    ids=str,
)
def test_variants_train_and_predict(changes: dict[str, Any]) -> None:
    heads = HEADS.model_copy(update=changes)
    features = problem()
    model, losses = trained(features, heads, epochs=8)
    assert losses[-1] < 0.6 * losses[0]
    [poses] = predict_poses(model, features, drawn(features, n=heads.n), "product", batch_size=8)
    assert poses.shape == (20, JOINTS, 3) and np.isfinite(poses).all()


def test_one_seed_gives_the_same_weights() -> None:
    features = problem({"a": 6})
    first, losses = trained(features, seed=3)
    torch.rand(5)  # whatever was drawn before
    again, losses_again = trained(features, seed=3)
    other, _ = trained(features, seed=4)
    assert same(first, again) and losses == losses_again
    assert not same(first, other)


def test_seed_sets_the_first_weights() -> None:
    features = problem({"a": 4})
    first, again, other = (trained(features, seed=seed, lr=1e-30, epochs=1)[0] for seed in (3, 3, 4))
    assert same(first, again)
    assert all(
        not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True) if a.ndim == 4
    )


def test_every_epoch_has_its_own_order_and_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    features, seen, pools = problem({"a": 5}), [], []

    def inputs(window: Any, references: Any, rows: np.ndarray, products: bool, view: Any = 0) -> Any:
        seen.append(rows.tolist())
        return head_inputs(window, references, rows, products, view)

    def draw(gallery: Gallery, videos: list[str], index: IndexOptions, n: int, epoch: int) -> References:
        pools.append((videos, n, epoch))
        return draw_references(gallery, videos, index, n, epoch)

    monkeypatch.setattr(batches, "head_inputs", inputs)
    monkeypatch.setattr(batches, "draw_references", draw)
    for seed in (0, 0, 1):
        trained(features, seed=seed, epochs=3, batch_size=4)
    assert pools == [(["a"], 2, 1), (["a"], 2, 2), (["a"], 2, 3)] * 3
    assert [len(batch) for batch in seen] == [4, 4, 2] * 9
    orders = [[row for batch in seen[start : start + 3] for row in batch] for start in range(0, 27, 3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[:3] == orders[3:6]
    assert len({tuple(order) for order in orders}) == 6  # another for every epoch and for another seed


def test_learning_rate_drops_after_the_milestones() -> None:
    features = problem()
    plain, _ = trained(features, epochs=1)
    stopped, losses = trained(features, epochs=3, milestones=(1,), gamma=1e-30)
    for (name, a), b in zip(plain.named_parameters(), stopped.parameters(), strict=True):
        assert torch.equal(a, b), name  # nothing was learnt after the first epoch
    assert len(losses) == 3


# --------------------------------------------------------------------------------------------------------- references
def test_pools_are_drawn_anew_for_every_epoch() -> None:
    features = problem()
    epochs = [drawn(features, epoch=epoch) for epoch in (0, 1, 2, 1)]
    np.testing.assert_array_equal(epochs[1].rows, epochs[3].rows)
    assert (epochs[0].rows != epochs[1].rows).any() and (epochs[1].rows != epochs[2].rows).any()


def test_drawn_references_are_of_the_same_video_and_outside_the_window() -> None:
    features = problem()
    video, frame = features.table["video"].to_numpy(), features.table["frame"].to_numpy()
    found = drawn(features, epoch=1)
    embeddings = features.embedding
    for row, (rows, similarity) in enumerate(zip(found.rows.tolist(), found.similarity.tolist(), strict=True)):
        for other, value in zip(rows, similarity, strict=True):
            assert video[other] == video[row] and abs(frame[other] - frame[row]) > 1
            assert value == pytest.approx(float(embeddings[row] @ embeddings[other]), rel=1e-5)
        assert similarity[0] >= similarity[1]


def test_references_of_low_score_are_left_out() -> None:
    features = problem()
    scores = features.table["score"].to_numpy()
    found = drawn(features, INDEX.model_copy(update={"min_score": 0.6}), epoch=1).rows
    assert (scores[found[found >= 0]] >= 0.6).all()
    assert (found[scores < 0.6] >= 0).any()


def test_redrawing_is_used_or_not_as_asked() -> None:
    features = problem({"a": 6})
    fixed, none = drawn(features), nobody(features)
    redrawn, redrawn_too = (trained(features, fixed=given)[0] for given in (fixed, none))
    assert same(redrawn, redrawn_too)  # what was stored is not used
    kept, kept_too = (trained(features, fixed=given, redraw_pool=False)[0] for given in (fixed, none))
    assert not same(kept, kept_too) and not same(kept, redrawn)
    everyone = IndexOptions(n=2, pool="all")
    assert same(trained(features, fixed=fixed, index=everyone)[0], kept)
    with pytest.raises(ValueError, match="nothing to draw"):
        drawn(features, everyone)


def part_of(whole: SplitFeatures, rows: np.ndarray) -> SplitFeatures:
    """Some proposals' table and embeddings; their maps are not looked at."""
    return replace(whole, table=whole.table.iloc[rows].reset_index(drop=True), embedding=whole.embedding[rows])


def test_stored_references_become_rows_of_the_split() -> None:
    """A split that begins inside its videos: proposal numbers are not its rows."""
    whole = problem()
    part = part_of(whole, np.flatnonzero(whole.table["proposal"] >= 3))
    stored = pd.DataFrame(
        [("a", 3, 0, "a", 5, 0.5), ("a", 3, 1, "b", 4, 0.25), ("b", 4, 0, "a", 3, 0.125), ("b", 4, 2, "a", 4, 0.1)],
        columns=["video", "proposal", "rank", "reference_video", "reference", "similarity"],
    )
    begin = np.count_nonzero(part.table["video"] == "a")  # row of proposal 3 of "b"
    found = stored_references(part.table, stored, 2)
    assert found.rows[[0, begin + 1]].tolist() == [[2, begin + 1], [0, -1]]
    assert found.similarity[[0, begin + 1]].tolist() == [[0.5, 0.25], [0.125, -np.inf]]
    assert (found.rows >= 0).sum() == 3 and ((found.rows < 0) == np.isneginf(found.similarity)).all()
    assert not len(stored_references(part.table, stored.iloc[:0], 2).rows[:, 2:].ravel())
    # what other proposals refer to is not looked at; what a held one refers to must be there
    stored.loc[4] = ["b", 0, 0, "b", 0, 0.5]
    np.testing.assert_array_equal(stored_references(part.table, stored, 2).rows, found.rows)
    stored.loc[5] = ["b", 5, 0, "b", 2, 0.5]
    with pytest.raises(
        DataError, match=r"proposal 5 of 'b' refers to proposal 2 of 'b', which is not loaded \(1 in all"
    ):
        stored_references(part.table, stored, 2)


@pytest.mark.parametrize("scope", ["video", "dataset"])
def test_what_is_stored_is_the_draw_of_epoch_0(scope: str) -> None:
    """Numbers of proposals decide, not rows: in a split that begins inside its videos as in whole ones."""
    whole, index = problem(), INDEX.model_copy(update={"scope": scope})
    part = part_of(whole, np.flatnonzero(whole.table["proposal"] >= 3))
    fresh = drawn(part, index)
    names = part.table[["video", "proposal"]].to_numpy().tolist()
    stored = pd.DataFrame(
        [
            (*names[row], rank, *names[other], float(fresh.similarity[row, rank]))
            for row, found in enumerate(fresh.rows.tolist())
            for rank, other in enumerate(found)
            if other >= 0
        ],
        columns=["video", "proposal", "rank", "reference_video", "reference", "similarity"],
    )
    again = stored_references(part.table, stored, 2)
    np.testing.assert_array_equal(again.rows, fresh.rows)
    np.testing.assert_array_equal(again.similarity, fresh.similarity)
    across = stored["video"].to_numpy() != stored["reference_video"].to_numpy()
    assert across.any() == (scope == "dataset")


def test_pools_of_a_whole_split_are_drawn_anew_for_every_epoch() -> None:
    features, index = problem(), INDEX.model_copy(update={"scope": "dataset"})
    video, frame = features.table["video"].to_numpy(), features.table["frame"].to_numpy()
    epochs = [drawn(features, index, epoch=epoch).rows for epoch in (1, 2, 1)]
    np.testing.assert_array_equal(epochs[0], epochs[2])
    assert (epochs[0] != epochs[1]).any(axis=1).mean() > 0.5
    for rows in epochs:
        other_video = video[rows] != video[:, None]
        assert (other_video | (np.abs(frame[rows] - frame[:, None]) > 1)).all()
        assert 0.2 < other_video.mean() < 0.9
    assert same(trained(features, index=index)[0], trained(features, index=index)[0])
    assert not same(trained(features, index=index)[0], trained(features)[0])


# ------------------------------------------------------------------------------------------------------ inputs of heads
def inputs_of(
    split: SplitFeatures, heads: HeadOptions, references: References, rows: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Arguments of the heads for some rows of a split that is held whole."""
    window = split.window(list(split.spans))
    found = in_window(split, window, references)
    return head_inputs(window, found, np.array(rows), heads.per_channel).of(heads)


def test_inputs_are_the_maps_asked_for() -> None:
    split = problem()
    key_maps, local_maps = held(split).key, held(split).local
    assert local_maps is not None and local_maps.scale is not None and key_maps.scale is not None
    rows = np.tile([[5, 2, 1], [-1, -1, -1], [3, -1, -1]], (7, 1))[:20]
    references = References(rows, np.random.default_rng(0).random((20, 3)).astype(np.float32))
    key, local, found, similarity = inputs_of(split, HEADS, references, [6, 1, 2])
    whole = key_maps.values[:, 0].float() * key_maps.scale[:, 0, :, None, None]
    assert torch.equal(key, whole[[6, 1, 2]])
    assert torch.equal(local, (local_maps.values[:, 0].float() * local_maps.scale[:, 0, ..., None, None])[[6, 1, 2]])
    assert torch.equal(found[0], whole[[5, 2]])
    assert not found[1].any() and torch.equal(found[2, 0], whole[3]) and not found[2, 1].any()
    np.testing.assert_array_equal(similarity, references.similarity[[6, 1, 2], :2])


def test_products_per_channel() -> None:
    split = problem()
    references = References(np.tile([[5, -1]], (20, 1)), np.zeros((20, 2), np.float32))
    similarity = inputs_of(split, HeadOptions(k=K, n=2, per_channel=True), references, [7])[3]
    assert torch.equal(similarity[0, 0], torch.from_numpy(split.embedding[7] * split.embedding[5]))
    assert torch.isneginf(similarity[0, 1]).all() and similarity.shape == (1, 2, CHANNELS)


def test_fewer_local_frames_are_the_nearer_ones() -> None:
    split = problem()
    local = inputs_of(split, HEADS, nobody(split), [3])[1]
    assert torch.equal(inputs_of(split, HEADS.model_copy(update={"k": 1}), nobody(split), [3])[1], local[:, 1:3])
    alone = inputs_of(split, HEADS.model_copy(update={"k": 0}), nobody(split), [3])[1]
    assert alone.shape == (1, 0, CHANNELS, *GRID)


def test_heads_with_fewer_local_frames_use_the_nearer_ones() -> None:
    """Other maps at offsets -2 and 2 change nothing for k = 1, and something for k = 2."""
    split = problem({"a": 6})
    maps = held(split).local
    assert maps is not None
    values = maps.values.clone()
    values[:, :, [0, 3]] = 255 - values[:, :, [0, 3]]
    other = replace(split, held=replace(held(split), local=Maps(values, maps.scale)))
    for k, equal, offsets in ((1, True, (-1, 1)), (2, False, (-2, -1, 1, 2))):
        heads = HEADS.model_copy(update={"k": k})
        models = [trained(part, heads, epochs=1)[0] for part in (split, other)]
        assert same(*models) == equal
        assert models[0].offsets == offsets


# ----------------------------------------------------------------------------------------------------- weights and loss
def first_loss(features: SplitFeatures, joints: str) -> float:
    """Loss of heads that answer nothing: the weighted mean of the squared targets."""
    heads = HeadOptions(k=0, n=0, init_std=1e-12)
    return trained(features, heads, epochs=1, batch_size=64, joints=joints)[1][0]


@pytest.mark.parametrize("joints", ["annotated", "visible"])
def test_loss_counts_the_joints_it_should(joints: str) -> None:
    """Absent joints and joints outside the crop never, hidden ones unless only visible ones are asked for."""
    features = problem({"a": 3})
    keypoints = [points.copy() for points in features.table["keypoints"]]
    for points, flags in zip(
        keypoints, ([2, 1, 0], [1, 1, 1], [2, 2, 2], [0, 0, 0], [2, 2, 1], [2, 1, 2]), strict=True
    ):
        points[:, 2] = flags
    keypoints[2][0, 0] -= 500
    keypoints[4][1, 1] += 500
    weights = {
        "annotated": [[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]],  # the fourth person has no joint at all
        "visible": [[1, 0, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1]],  # the second has no visible one
    }[joints]
    people = [0, 1, 2, 4, 5] if joints == "annotated" else [0, 2, 4, 5]
    targets = []
    for person in people:
        xy = [
            np.divide(reference.crop_point(point[:2], list(box), CROP, 1.25), 4)
            for point, box in zip(keypoints[person], [features.table[BOXES].to_numpy()[person]] * JOINTS, strict=True)
        ]
        targets.append(reference.targets(np.array(xy), np.ones(JOINTS), GRID, 6.0))
    wanted = reference.loss(np.zeros_like(targets), np.array(targets), np.array(weights))
    assert first_loss(with_keypoints(features, keypoints), joints) == pytest.approx(wanted, rel=1e-4)


def test_people_without_annotation_are_not_trained_on() -> None:
    features = problem({"a": 6})
    keypoints = list(features.table["keypoints"])
    some = with_keypoints(features, [points if row % 3 else None for row, points in enumerate(keypoints)])
    absent = [points if row % 3 else points * [1, 1, 0] for row, points in enumerate(keypoints)]
    assert same(trained(some)[0], trained(with_keypoints(features, absent))[0])
    assert not same(trained(some)[0], trained(features)[0])


@pytest.mark.parametrize("keypoints", [None, np.zeros((JOINTS, 3)), np.array([[-9e3, 0, 2]] * JOINTS)])
def test_nothing_to_train_on(keypoints: np.ndarray | None) -> None:
    features = problem({"a": 2})
    with pytest.raises(TrainingError, match="annotated"):
        trained(with_keypoints(features, [keypoints] * 4))


def test_hidden_joints_alone_are_nothing_to_train_on_if_only_visible_ones_count() -> None:
    features = problem({"a": 2})
    hidden = with_keypoints(features, [points * [1, 1, 0.5] for points in features.table["keypoints"]])
    assert trained(hidden)[1]
    with pytest.raises(TrainingError):
        trained(hidden, joints="visible")


def test_loss_that_is_not_finite_ends_training() -> None:
    with pytest.raises(TrainingError, match=r"epoch \d+, step \d+.*train\.lr"):
        trained(problem(), lr=1e30, epochs=5)


@pytest.mark.parametrize("kind", ["key", "local"])
def test_features_that_are_not_finite_end_training(kind: str) -> None:
    split = problem()
    maps = {"key": held(split).key, "local": held(split).local}
    values = {name: own.take(torch.arange(20))[:, None].half() for name, own in maps.items() if own is not None}
    values[kind][(4, 0, 0, 1, 3, 3) if kind == "local" else (4, 0, 1, 3, 3)] = torch.inf
    features = replace(held(split), **{name: Maps(own, None) for name, own in values.items()})
    with pytest.raises(DataError, match="features of proposal 4 of 'a' are not finite"):
        trained(replace(split, held=features), epochs=1)


def test_comparable_is_what_references_are_ranked_by() -> None:
    features = problem()
    cosine = drawn(features, INDEX.model_copy(update={"similarity": "cosine"}), epoch=1)
    units = comparable(features.embedding, "cosine")
    wanted = (units[:, None] * units[cosine.rows]).sum(axis=-1)
    np.testing.assert_allclose(cosine.similarity, wanted, rtol=1e-5)
    assert float(cosine.similarity.max()) <= 1 + 1e-6
