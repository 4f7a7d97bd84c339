"""What people are compared by: poses as embeddings by hand, and pipelines whose references are nearest in pose."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from small_pipelines import (
    check_predict_says_what_eval_said,
    commit_digests,
    context,
    glpose_stage,
    write_dataset,
    write_pipeline,
)
from torch import nn

import store
from glpose.embeddings import CELLS, pose_embedding, shares, stored_embeddings, table_embeddings
from glpose.evidence import ROWS
from glpose.keypoints import POSETRACK
from glpose.options import HeadOptions, IndexOptions, index_problem
from glpose.references import references_of, stored_references
from glpose.retrieval import make_gallery
from glpose.single_frame import feature_layer
from stages.evidence import row_references
from stages.train import load_examples, load_split

JOINTS, GRID = 3, (16, 12)
POSES = IndexOptions(embedding="pose")


def spots(*places: tuple[int, int]) -> torch.Tensor:
    """Features (1, J, H, W) that say for certain where each joint is: y, x."""
    maps = torch.zeros(1, JOINTS, *GRID)
    for joint, (y, x) in enumerate(places):
        maps[0, joint, y, x] = 100
    return maps


def as_seen() -> nn.Conv2d:
    """A layer that takes channels for logits of joints."""
    layer = nn.Conv2d(JOINTS, JOINTS, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(JOINTS)[..., None, None])
    return layer


def test_embedding_by_hand() -> None:
    maps = torch.rand(2, JOINTS, *GRID, generator=torch.Generator().manual_seed(0)) * 5
    found = pose_embedding(as_seen(), maps).detach().numpy().reshape(2, JOINTS, *CELLS)
    cell = np.array(GRID) / CELLS
    for person, joint in np.ndindex(2, JOINTS):
        likely = np.exp(maps[person, joint].double().numpy())
        likely /= likely.sum()
        expected = np.zeros(CELLS)
        for y, x in np.ndindex(GRID):
            lines = []
            for at, size, count in zip((y, x), cell, CELLS, strict=True):
                near = np.exp(-((((at + 0.5) / size) - (np.arange(count) + 0.5)) ** 2) / 2)
                lines.append(near / near.sum())
            expected += likely[y, x] * np.outer(*lines)
        np.testing.assert_allclose(found[person, joint] ** 2, expected, rtol=1e-4, atol=1e-7)


def test_products_say_how_alike_poses_are() -> None:
    layer = as_seen()
    own, near, one_off, far = (
        pose_embedding(layer, spots(*places))[0].detach()
        for places in (
            [(2, 2), (8, 6), (14, 10)],
            [(2, 3), (8, 7), (14, 11)],
            [(2, 2), (8, 6), (2, 2)],
            [(14, 10), (1, 1), (1, 1)],
        )
    )
    products = [float(own @ other) for other in (own, near, one_off, far)]
    assert products == sorted(products, reverse=True)
    assert products[0] == pytest.approx(JOINTS, abs=1e-5)
    assert products[1] > JOINTS - 0.2 and products[2] == pytest.approx(JOINTS - 1, abs=0.05) and products[3] < 0.2


def test_cells_share_out_every_place() -> None:
    for size, cells in ((48, 8), (96, 8), (16, 12)):
        own = shares(size, cells)
        assert own.shape == (cells, size)
        torch.testing.assert_close(own.sum(dim=0), torch.ones(size))
        torch.testing.assert_close(own, own.flip(0, 1))


def test_heads_that_weigh_channels_need_features() -> None:
    assert index_problem(HeadOptions(), POSES) is None
    assert "index.embedding pooled" in (index_problem(HeadOptions(per_channel=True), POSES) or "")


# ------------------------------------------------------------------------------------------------------------ pipelines
SETTINGS = ("extract.checkpoint=demo", "index.embedding=pose")


def run(config: Path, verb: str, *settings: str) -> tuple[int, str]:
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    return glpose_stage(config, verb, *arguments)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of references by pose that has run."""
    folder = tmp_path_factory.mktemp("poses")
    write_dataset(folder / "data")
    path = write_pipeline(folder)
    code, printed = run(path, "run", *SETTINGS)
    assert code == 0, printed
    assert "(k=1, n=2, references by pose)" in printed
    return path


def test_index_ranks_by_pose(config: Path) -> None:
    opened, layer = store.open(config.parent / "work"), feature_layer("demo", POSETRACK)
    table, features = opened.table("c"), opened.features("c")
    with torch.inference_mode():
        expected = pose_embedding(layer, torch.from_numpy(features.key()[:, 0])).numpy()
    found = faiss.read_index(str(config.parent / "work/index/latest/c/index.faiss"))
    np.testing.assert_allclose(found.reconstruct_n(0, found.ntotal), expected, atol=1e-6)
    own = stored_embeddings(features, np.array([2, 0]), POSES, layer)
    np.testing.assert_allclose(own, expected[[2, 0]], atol=1e-6)
    neighbours = opened.neighbours("c")
    assert len(neighbours) and set(neighbours["rank"]) == {0, 1}
    pairs = neighbours[["proposal", "reference"]].to_numpy()
    products = np.einsum("pc,pc->p", expected[pairs[:, 0]], expected[pairs[:, 1]])
    np.testing.assert_allclose(neighbours["similarity"], products, rtol=1e-5)
    assert products.max() > 10  # of 15: people in like poses
    assert set(table["split"]) == {"eval"}


def test_pools_are_drawn_again_by_pose(config: Path) -> None:
    """What training draws in epoch 0 is what `index` stored."""
    own = context(config, *SETTINGS)
    learnt = load_examples(own, [HeadOptions(k=1, n=2)])
    gallery = make_gallery(learnt.split.table, learnt.split.embedding, own.config.index)
    drawn = references_of(gallery, learnt.split.spans, own.config.index, 2)
    np.testing.assert_array_equal(drawn.rows, learnt.fixed.rows)
    np.testing.assert_allclose(drawn.similarity, learnt.fixed.similarity, rtol=1e-5)


def test_pooled_features_stay_what_they_were(config: Path) -> None:
    """Another record for poses alone; and other references."""
    opened = store.open(config.parent / "work")
    table = opened.table("c")
    pooled = table_embeddings(opened, table, IndexOptions())
    np.testing.assert_array_equal(pooled, opened.features("c").embedding[:, 0])
    for stage in ("detect", "extract", "index"):
        code, printed = run(config, stage, SETTINGS[0], f"work={config.parent / 'other'}")
        assert code == 0, printed
    other = store.open(config.parent / "other")
    assert commit_digests(config.parent / "other")["extract"] == commit_digests(config.parent / "work")["extract"]
    layer = feature_layer("demo", POSETRACK)
    gallery = make_gallery(table, pooled, IndexOptions(n=2, pool=3, exclude_window=1))
    found = references_of(gallery, ["c"], IndexOptions(n=2, pool=3, exclude_window=1), 2)
    np.testing.assert_array_equal(found.rows, stored_references(table, other.neighbours("c"), 2).rows)
    assert not np.array_equal(found.rows, stored_references(table, opened.neighbours("c"), 2).rows)
    with pytest.raises(ValueError, match="last layer"):
        stored_embeddings(opened.features("c"), slice(None), POSES)
    assert stored_embeddings(opened.features("c"), slice(None), POSES, layer).shape[1] == 15 * 48


def test_the_evidences_row_has_the_references_of_such_an_index(config: Path) -> None:
    """Of a pipeline that compares pooled features, too: the row brings options of its own."""
    pooled, layer = context(config, SETTINGS[0]), feature_layer("demo", POSETRACK)
    index = ROWS["pose"].index_options(pooled.config.index)
    assert index.embedding == "pose" and index.pool == "all"
    split = load_split(context(config, *SETTINGS), "eval", k=1, n=2).features
    found = row_references(pooled, split, index, None, layer)
    embeddings = table_embeddings(store.open(config.parent / "work"), split.table, index, layer)
    frames = split.table["frame"].to_numpy()
    for row, own in enumerate(found.rows):
        far = np.flatnonzero(abs(frames - frames[row]) > index.exclude_window)
        nearest = far[np.argsort(-(embeddings[far] @ embeddings[row]), kind="stable")][: index.n]
        assert set(own[own >= 0]) == set(nearest)


def test_predict_finds_such_references_too(config: Path, tmp_path: Path) -> None:
    check_predict_says_what_eval_said(config.parent, "demo", tmp_path)


def test_a_backbone_without_the_layer_and_fine_tuning_are_told(config: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    code, printed = run(write_pipeline(tmp_path), "run", SETTINGS[1])
    assert code == 1 and "index.embedding=pose need" in " ".join(printed.split()), printed
    code, printed = glpose_stage(
        config, "finetune", "--set", SETTINGS[0], "--set", SETTINGS[1], "--out", str(tmp_path / "fine")
    )
    assert code != 0 and "index.embedding=pooled" in " ".join(printed.split()), printed
