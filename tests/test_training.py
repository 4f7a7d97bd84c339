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

from glpose import training
from glpose.data.resident import Maps, ResidentFeatures
from glpose.evaluation import predict_poses
from glpose.geometry import crop_frame, heatmap_to_frame
from glpose.models.glpose import GLPoseHeads
from glpose.options import HeadOptions, IndexOptions, TrainOptions
from glpose.retrieval import comparable
from glpose.training import References, draw_references, head_inputs, stored_references, train_heads
from store.errors import DataError, TrainingError
from store.quantise import quantise
from store.schema import FeatureSchema

JOINTS, CHANNELS, GRID, CROP, K = 3, 4, (24, 18), (96, 72), 2
OFFSETS = (-2, -1, 1, 2)
BOXES = ["x1", "y1", "x2", "y2"]


def problem(videos: dict[str, int] | None = None, seed: int = 0) -> ResidentFeatures:
    """Two people a frame whose joints are spots in the channels: easy to learn; dtype uint8 as in a real store."""
    rng = np.random.default_rng(seed)
    rows = [
        (video, 2 * frame + person, frame)
        for video, length in (videos or {"a": 4, "b": 6}).items()
        for frame in range(length)
        for person in range(2)
    ]
    count = len(rows)
    corner = rng.uniform(0, 100, (count, 2))
    boxes = np.concatenate([corner, corner + np.array([60.0, 100.0])], axis=1)
    regions = np.stack([crop_frame(box, CROP, 1.25) for box in boxes])
    xy = rng.integers([3, 3], [GRID[1] - 3, GRID[0] - 3], (count, JOINTS, 2)).astype(float)
    keypoints = np.concatenate([heatmap_to_frame(xy, regions, GRID), np.full((count, JOINTS, 1), 2.0)], axis=-1)
    maps = np.zeros((count, 1 + len(OFFSETS), CHANNELS, *GRID), np.float32)
    for row in range(count):
        maps[row, :, :JOINTS] = 3 * reference.targets(xy[row], np.ones(JOINTS), GRID, 6.0)
    maps += rng.uniform(0, 0.3, maps.shape)
    values, scale = (torch.from_numpy(part) for part in quantise(maps))
    table = pd.DataFrame(rows, columns=["video", "proposal", "frame"])
    table[BOXES] = boxes
    table["score"] = np.float32(rng.uniform(0.3, 1, count))
    table["keypoints"] = list(keypoints)
    return ResidentFeatures(
        schema=FeatureSchema(
            channels=CHANNELS, height=GRID[0], width=GRID[1], stride=4, offsets=OFFSETS, backbone="test", space="test"
        ),
        offsets=OFFSETS,
        table=table,
        regions=regions,
        key=Maps(values[:, 0], scale[:, 0]),
        local=Maps(values[:, 1:], scale[:, 1:]),
        embedding=torch.from_numpy(maps[:, 0].mean(axis=(-2, -1))),
    )


def with_keypoints(features: ResidentFeatures, keypoints: list[Any]) -> ResidentFeatures:
    """The same features, annotated otherwise."""
    table = features.table.copy()
    table["keypoints"] = pd.Series(keypoints, dtype=object)
    return replace(features, table=table)


INDEX = IndexOptions(n=2, pool=4, exclude_window=1)
HEADS = HeadOptions(k=K, n=2, init_std=0.05)


def nobody(features: ResidentFeatures, n: int = 2) -> References:
    """No references at all."""
    return References(torch.full((len(features), n), -1), torch.full((len(features), n), -torch.inf))


def trained(
    features: ResidentFeatures, heads: HeadOptions = HEADS, fixed: References | None = None, **changes: Any
) -> tuple[GLPoseHeads, list[float]]:
    """Heads trained on the features, and the loss of every epoch."""
    index = changes.pop("index", INDEX)
    losses: list[float] = []
    options = TrainOptions.model_validate(
        {"epochs": 2, "batch_size": 8, "lr": 0.01, "milestones": (), "sigma": 6.0} | changes
    )
    model = train_heads(
        features, fixed or nobody(features), JOINTS, heads, options, index,
        report=lambda epoch, epochs, loss: losses.append(loss),
    )  # fmt: skip
    assert not model.training
    return model, losses


def same(a: GLPoseHeads, b: GLPoseHeads) -> bool:
    """Whether all weights and statistics are equal, bit for bit."""
    states = a.state_dict(), b.state_dict()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


# ------------------------------------------------------------------------------------------------------------ learning
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_learns_where_the_joints_are(precision: str) -> None:
    features = problem()
    model, losses = trained(features, epochs=18, milestones=(14,), precision=precision)
    assert len(losses) == 18 and losses[-1] < 0.1 * losses[0]
    references = draw_references(features, INDEX, 2, epoch=0)
    [poses] = predict_poses(model, features, references, "product", batch_size=7)
    assert poses.shape == (20, JOINTS, 3)
    truth = np.stack(features.table["keypoints"].tolist())
    pixel = features.regions[:, 2] / GRID[1]  # frame px
    assert (np.abs(poses[..., :2] - truth[..., :2]).max(axis=(1, 2)) <= pixel).all()
    assert 0.3 < np.median(poses[..., 2] / features.table["score"].to_numpy()[:, None]) < 1.3

    [alone] = predict_poses(model, features, references, "heatmap", batch_size=20)
    np.testing.assert_allclose(poses[..., 2], alone[..., 2] * features.table["score"].to_numpy()[:, None], atol=1e-5)
    np.testing.assert_allclose(poses[..., :2], alone[..., :2])


@pytest.mark.parametrize(
    "changes",
    [{"k": 0}, {"n": 0}, {"k": 0, "n": 0, "enhancement": False}, {"per_channel": True}, {"head_input": "S"}],
    ids=str,
)
def test_variants_train_and_predict(changes: dict[str, Any]) -> None:
    heads = HEADS.model_copy(update=changes)
    features = problem().nearer(heads.k)
    model, losses = trained(features, heads, epochs=8)
    assert losses[-1] < 0.6 * losses[0]
    [poses] = predict_poses(model, features, draw_references(features, INDEX, heads.n, 0), "product", batch_size=8)
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
    features, batches, drawn = problem({"a": 5}), [], []

    def inputs(features: ResidentFeatures, references: References, heads: HeadOptions, batch: Tensor) -> Any:
        batches.append(batch.tolist())
        return head_inputs(features, references, heads, batch)

    def draw(features: ResidentFeatures, index: IndexOptions, n: int, epoch: int) -> References:
        drawn.append((n, epoch))
        return draw_references(features, index, n, epoch)

    monkeypatch.setattr(training, "head_inputs", inputs)
    monkeypatch.setattr(training, "draw_references", draw)
    for seed in (0, 0, 1):
        trained(features, seed=seed, epochs=3, batch_size=4)
    assert drawn == [(2, 1), (2, 2), (2, 3)] * 3
    assert [len(batch) for batch in batches] == [4, 4, 2] * 9
    orders = [[row for batch in batches[start : start + 3] for row in batch] for start in range(0, 27, 3)]
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
    epochs = [draw_references(features, INDEX, 2, epoch) for epoch in (0, 1, 2, 1)]
    assert torch.equal(epochs[1].rows, epochs[3].rows)
    assert not torch.equal(epochs[0].rows, epochs[1].rows) and not torch.equal(epochs[1].rows, epochs[2].rows)


def test_drawn_references_are_of_the_same_video_and_outside_the_window() -> None:
    features = problem()
    video, frame = features.table["video"].to_numpy(), features.table["frame"].to_numpy()
    found = draw_references(features, INDEX, 2, epoch=1)
    embeddings = features.embedding.numpy()
    for row, (rows, similarity) in enumerate(zip(found.rows.tolist(), found.similarity.tolist(), strict=True)):
        for other, value in zip(rows, similarity, strict=True):
            assert video[other] == video[row] and abs(frame[other] - frame[row]) > 1
            assert value == pytest.approx(float(embeddings[row] @ embeddings[other]), rel=1e-5)
        assert similarity[0] >= similarity[1]


def test_references_of_low_score_are_left_out() -> None:
    features = problem()
    scores = features.table["score"].to_numpy()
    found = draw_references(features, INDEX.model_copy(update={"min_score": 0.6}), 2, epoch=1).rows.numpy()
    assert (scores[found[found >= 0]] >= 0.6).all()
    assert (found[scores < 0.6] >= 0).any()


def test_redrawing_is_used_or_not_as_asked() -> None:
    features = problem({"a": 6})
    fixed, none = draw_references(features, INDEX, 2, epoch=0), nobody(features)
    redrawn, redrawn_too = (trained(features, fixed=given)[0] for given in (fixed, none))
    assert same(redrawn, redrawn_too)  # what was stored is not used
    kept, kept_too = (trained(features, fixed=given, redraw_pool=False)[0] for given in (fixed, none))
    assert not same(kept, kept_too) and not same(kept, redrawn)
    everyone = IndexOptions(n=2, pool="all")
    assert same(trained(features, fixed=fixed, index=everyone)[0], kept)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_references(features, everyone, 2, 1)


def part_of(whole: ResidentFeatures, rows: np.ndarray) -> ResidentFeatures:
    """Some proposals' table and embeddings; their maps are not looked at."""
    return replace(
        whole, table=whole.table.iloc[rows].reset_index(drop=True), embedding=whole.embedding[torch.from_numpy(rows)]
    )


def test_stored_references_become_rows_of_the_split() -> None:
    """A split that begins inside its videos: proposal numbers are not its rows."""
    whole = problem()
    part = part_of(whole, np.flatnonzero(whole.table["proposal"] >= 3))
    stored = pd.DataFrame(
        [("a", 3, 0, "a", 5, 0.5), ("a", 3, 1, "b", 4, 0.25), ("b", 4, 0, "a", 3, 0.125), ("b", 4, 2, "a", 4, 0.1)],
        columns=["video", "proposal", "rank", "reference_video", "reference", "similarity"],
    )
    begin = np.count_nonzero(part.table["video"] == "a")  # row of proposal 3 of "b"
    found = stored_references(part, stored, 2)
    assert found.rows[[0, begin + 1]].tolist() == [[2, begin + 1], [0, -1]]
    assert found.similarity[[0, begin + 1]].tolist() == [[0.5, 0.25], [0.125, -np.inf]]
    assert (found.rows >= 0).sum() == 3 and ((found.rows < 0) == torch.isneginf(found.similarity)).all()
    assert not len(stored_references(part, stored.iloc[:0], 2).rows[:, 2:].flatten())
    # what other proposals refer to is not looked at; what a held one refers to must be there
    stored.loc[4] = ["b", 0, 0, "b", 0, 0.5]
    assert torch.equal(stored_references(part, stored, 2).rows, found.rows)
    stored.loc[5] = ["b", 5, 0, "b", 2, 0.5]
    with pytest.raises(
        DataError, match=r"proposal 5 of 'b' refers to proposal 2 of 'b', which is not loaded \(1 in all"
    ):
        stored_references(part, stored, 2)


@pytest.mark.parametrize("scope", ["video", "dataset"])
def test_what_is_stored_is_the_draw_of_epoch_0(scope: str) -> None:
    """Numbers of proposals decide, not rows: in a split that begins inside its videos as in whole ones."""
    whole, index = problem(), INDEX.model_copy(update={"scope": scope})
    part = part_of(whole, np.flatnonzero(whole.table["proposal"] >= 3))
    drawn = draw_references(part, index, 2, epoch=0)
    names = part.table[["video", "proposal"]].to_numpy().tolist()
    stored = pd.DataFrame(
        [
            (*names[row], rank, *names[other], float(drawn.similarity[row, rank]))
            for row, found in enumerate(drawn.rows.tolist())
            for rank, other in enumerate(found)
            if other >= 0
        ],
        columns=["video", "proposal", "rank", "reference_video", "reference", "similarity"],
    )
    again = stored_references(part, stored, 2)
    assert torch.equal(again.rows, drawn.rows) and torch.equal(again.similarity, drawn.similarity)
    across = stored["video"].to_numpy() != stored["reference_video"].to_numpy()
    assert across.any() == (scope == "dataset")


def test_pools_of_a_whole_split_are_drawn_anew_for_every_epoch() -> None:
    features, index = problem(), INDEX.model_copy(update={"scope": "dataset"})
    video, frame = features.table["video"].to_numpy(), features.table["frame"].to_numpy()
    epochs = [draw_references(features, index, 2, epoch).rows.numpy() for epoch in (1, 2, 1)]
    np.testing.assert_array_equal(epochs[0], epochs[2])
    assert (epochs[0] != epochs[1]).any(axis=1).mean() > 0.5
    for rows in epochs:
        other_video = video[rows] != video[:, None]
        assert (other_video | (np.abs(frame[rows] - frame[:, None]) > 1)).all()
        assert 0.2 < other_video.mean() < 0.9
    assert same(trained(features, index=index)[0], trained(features, index=index)[0])
    assert not same(trained(features, index=index)[0], trained(features)[0])


# ------------------------------------------------------------------------------------------------------ inputs of heads
def test_inputs_are_the_maps_asked_for() -> None:
    features = problem()
    assert features.local is not None and features.local.scale is not None and features.key.scale is not None
    references = References(torch.tensor([[5, 2, 1], [-1, -1, -1], [3, -1, -1]]).repeat(7, 1)[:20], torch.rand(20, 3))
    key, local, found, similarity = head_inputs(features, references, HEADS, torch.tensor([6, 1, 2]))
    whole = features.key.values.float() * features.key.scale[..., None, None]
    assert torch.equal(key, whole[[6, 1, 2]])
    assert torch.equal(local, (features.local.values.float() * features.local.scale[..., None, None])[[6, 1, 2]])
    assert torch.equal(found[0], whole[[5, 2]])
    assert not found[1].any() and torch.equal(found[2, 0], whole[3]) and not found[2, 1].any()
    assert torch.equal(similarity, references.similarity[[6, 1, 2], :2])


def test_products_per_channel() -> None:
    features = problem()
    references = References(torch.tensor([[5, -1]]).repeat(20, 1), torch.zeros(20, 2))
    similarity = head_inputs(features, references, HeadOptions(k=K, n=2, per_channel=True), torch.tensor([7]))[3]
    assert torch.equal(similarity[0, 0], features.embedding[7] * features.embedding[5])
    assert torch.isneginf(similarity[0, 1]).all() and similarity.shape == (1, 2, CHANNELS)


def test_nearer_keeps_the_middle_offsets() -> None:
    features = problem()
    assert features.local is not None
    rows, none, empty = torch.tensor([3]), torch.full((1, 0), -1), torch.zeros(1, 0)
    local = features.inputs(rows, none, empty)[1]
    near = features.nearer(1)
    assert near.offsets == (-1, 1) and near.local is not None
    assert torch.equal(near.inputs(rows, none, empty)[1], local[:, 1:3])
    assert near.local.values.data_ptr() == features.local.values[:, 1:].data_ptr()  # not copied
    alone = features.nearer(0)
    assert alone.offsets == () and alone.inputs(rows, none, empty)[1].shape == (1, 0, CHANNELS, *GRID)
    assert features.nearer(2) is features and features.nearer(9) is features


def test_heads_with_fewer_local_frames_use_the_nearer_ones() -> None:
    """Other maps at offsets -2 and 2 change nothing for k = 1, and something for k = 2."""
    features = problem({"a": 6})
    assert features.local is not None
    values = features.local.values.clone()
    values[:, [0, 3]] = 255 - values[:, [0, 3]]
    other = replace(features, local=replace(features.local, values=values))
    for k, equal in ((1, True), (2, False)):
        heads = HEADS.model_copy(update={"k": k})
        models = [trained(part.nearer(k), heads, epochs=1)[0] for part in (features, other)]
        assert same(*models) == equal
        assert models[0].offsets == features.nearer(k).offsets


# ----------------------------------------------------------------------------------------------------- weights and loss
def first_loss(features: ResidentFeatures, joints: str) -> float:
    """Loss of heads that answer nothing: the weighted mean of the squared targets."""
    heads = HeadOptions(k=0, n=0, init_std=1e-12)
    return trained(features.nearer(0), heads, epochs=1, batch_size=64, joints=joints)[1][0]


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


def test_features_that_are_not_finite_end_training() -> None:
    features = problem()
    values = features.key.values.half()
    values[4, 1, 3, 3] = torch.inf
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf)"):
        trained(replace(features, key=Maps(values, None)), epochs=1)


def test_comparable_is_what_references_are_ranked_by() -> None:
    features = problem()
    cosine = draw_references(features, INDEX.model_copy(update={"similarity": "cosine"}), 2, epoch=1)
    units: Tensor = torch.from_numpy(comparable(features.embedding.numpy(), "cosine"))
    wanted = (units[:, None] * units[cosine.rows]).sum(dim=-1)
    torch.testing.assert_close(cosine.similarity, wanted)
    assert float(cosine.similarity.max()) <= 1 + 1e-6
