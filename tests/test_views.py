"""Views: seeded augmentations of a proposal and its mirrored crop, as affines; and a pipeline that stores them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_pipelines import attempts, context, finish_project, glpose_stage, write_dataset, write_pipeline

import store
from glpose.augmentation import Augmentation, augment_keypoints, crop_keypoints
from glpose.data.windows import open_split
from glpose.geometry import crop_affine, crop_frame, mirror_affine, warp_crop
from glpose.keypoints import POSETRACK
from glpose.options import ExtractOptions
from glpose.views import box_affines, mirrored_crops, planned_views, view_affines
from stages import extract
from store.errors import StoreError

CROP = (64, 48)


def options(**changes: object) -> ExtractOptions:
    return ExtractOptions.model_validate({"crop_size": CROP} | changes)


def boxes(count: int) -> np.ndarray:
    """(count, 4) boxes in a frame of 120 x 160."""
    corner = np.random.default_rng(7).uniform(0, 90, (count, 2))
    return np.concatenate([corner, corner + np.random.default_rng(8).uniform(10, 60, (count, 2))], axis=1)


def people(count: int) -> list[np.ndarray | None]:
    """(15, 3) keypoints around each box, all joints visible."""
    rng = np.random.default_rng(3)
    low, high = boxes(count)[:, None, :2], boxes(count)[:, None, 2:]
    xy = rng.uniform(low, high, (count, 15, 2))
    return list(np.concatenate([xy, np.full((count, 15, 1), 2.0)], axis=-1))


def affines_of(
    keypoints: Sequence[np.ndarray | None] | None = None,
    video: str = "a",
    views: int = 4,
    mirrored: int | None = None,
    **changes: object,
) -> np.ndarray:
    """(P, V, 2, 3) affines of nine people, or as many as there are keypoints of."""
    keypoints = people(9) if keypoints is None else keypoints
    own = boxes(9)[: len(keypoints)]
    return view_affines(video, own, keypoints, POSETRACK, options(**changes), views, mirrored)


# -------------------------------------------------------------------------------------------------------------- plans
@pytest.mark.parametrize(
    ("splits", "changes", "plan"),
    [
        ({"train"}, {}, (1, None)),
        ({"train"}, {"views": 4}, (4, None)),
        ({"eval"}, {"views": 4}, (1, None)),
        ({"train"}, {"views": 4, "mirror": True}, (4, None)),
        ({"eval"}, {"views": 4, "mirror": True}, (2, 1)),
        ({"train", "eval"}, {"views": 4, "mirror": True}, (5, 4)),
        ({"train", "eval"}, {"mirror": True}, (2, 1)),
        (set(), {"views": 4, "mirror": True}, (1, None)),
    ],
)
def test_views_are_stored_where_their_split_is(
    splits: set[str], changes: dict[str, Any], plan: tuple[int, int | None]
) -> None:
    assert planned_views(splits, options(**changes)) == plan


# -------------------------------------------------------------------------------------------------------------- draws
def test_view_0_is_the_clean_crop() -> None:
    affines = affines_of()
    assert (affines.shape, affines.dtype) == ((9, 4, 2, 3), np.float64)
    np.testing.assert_array_equal(affines[:, 0], box_affines(boxes(9), CROP, 1.25))
    for box, affine in zip(boxes(9), affines[:, 0], strict=True):
        np.testing.assert_array_equal(affine, crop_affine(crop_frame(box, CROP, 1.25), CROP))
    assert box_affines(np.zeros((0, 4)), CROP, 1.25).shape == (0, 2, 3)


def test_a_draw_depends_on_seed_video_proposal_and_view_alone() -> None:
    whole = affines_of()
    np.testing.assert_array_equal(affines_of(), whole)
    np.testing.assert_array_equal(affines_of(views=2), whole[:, :2])  # not on how many there are
    np.testing.assert_array_equal(affines_of(people(9)[:5]), whole[:5])
    for other in (affines_of(video="b"), affines_of(view_seed=1)):
        np.testing.assert_array_equal(other[:, 0], whole[:, 0])
        assert (np.abs(other[:, 1:] - whole[:, 1:]).max(axis=(-2, -1)) > 1e-3).mean() > 0.95
    flat = np.round(whole[:, 1:].reshape(27, 6), 6)
    assert len(np.unique(flat, axis=0)) == 27  # no two alike


def test_draws_keep_to_their_ranges() -> None:
    ranges = {"rotation": 30.0, "scale": [0.8, 1.25], "half_body": 0.0, "flip": 0.5}
    affines = affines_of(views=40, augmentation=ranges)
    clean, drawn = affines[:, :1, :, :2], affines[:, 1:, :, :2]
    size = np.sqrt(np.abs(np.linalg.det(drawn)) / np.linalg.det(clean))  # px per px: the inverse of the region's scale
    assert size.min() >= 1 / 1.25 - 1e-9 and size.max() <= 1 / 0.8 + 1e-9 and size.std() > 0.1
    mirrored = np.linalg.det(drawn) < 0
    assert 0.4 < mirrored.mean() < 0.6
    angle = np.degrees(np.arctan2(drawn[..., 1, 0], drawn[..., 1, 1]))
    assert np.abs(angle).max() <= 30 + 1e-9 and 0.3 < (angle == 0).mean() < 0.5
    still = affines_of(augmentation={"rotation": 0, "scale": [1, 1], "half_body": 0, "flip": 0})
    np.testing.assert_allclose(still, np.repeat(still[:, :1], 4, axis=1))


def test_half_bodies_need_keypoints() -> None:
    always = {"rotation": 0, "scale": [1, 1], "half_body": 1.0, "flip": 0}
    clean = affines_of()[:, :1]
    shown = affines_of(augmentation=always)
    moved = np.abs(shown[:, 1:] - clean).max(axis=(-2, -1)) > 1e-6
    assert moved.all()
    unknown = affines_of(augmentation=always, keypoints=[None] * 9)
    np.testing.assert_array_equal(unknown, np.repeat(clean, 4, axis=1))


def test_augmented_views_need_a_joint_set() -> None:
    with pytest.raises(ValueError, match="joint set"):
        view_affines("a", boxes(2), [None, None], None, options(), 2, None)
    mirror_alone = view_affines("a", boxes(2), [None, None], None, options(), 2, 1)
    np.testing.assert_array_equal(mirror_alone[:, 1], mirrored_crops(mirror_alone[:, 0], CROP))


# ------------------------------------------------------------------------------------------------------- flips, joints
def test_a_flip_is_in_the_affine() -> None:
    """Warping by the composed affine is warping, then mirroring pixels."""
    frame = np.kron(np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    affine = crop_affine(np.array([80.0, 60.0, 70.0]), CROP, 25)
    composed = Augmentation(affine, True).composed(CROP[1])
    assert np.linalg.det(composed[:, :2]) < 0
    crop, mirrored = warp_crop(frame, affine, CROP), warp_crop(frame, composed, CROP)
    assert np.abs(mirrored.astype(int) - crop[:, ::-1]).max() <= 1
    np.testing.assert_array_equal(Augmentation(affine, False).composed(CROP[1]), affine)
    np.testing.assert_allclose(mirror_affine(composed, CROP[1] - 1), affine, atol=1e-12)


def test_keypoints_of_many_views_at_once() -> None:
    affines = affines_of(views=6, mirrored=5)
    keypoints = np.stack([row for row in people(9) if row is not None])
    moved = crop_keypoints(np.repeat(keypoints[:, None], 6, axis=1), affines, POSETRACK, CROP)
    assert moved.shape == (9, 6, 15, 3)
    assert set(np.unique(moved[..., 2])) == {0, 2}  # some are outside
    flipped = np.linalg.det(affines[..., :2]) < 0
    assert flipped[:, 5].all() and 0 < flipped[:, 1:5].mean() < 1
    for row in range(9):
        for view in range(6):
            affine = affines[row, view]
            plain = mirror_affine(affine, CROP[1] - 1) if flipped[row, view] else affine
            one = augment_keypoints(keypoints[row], Augmentation(plain, bool(flipped[row, view])), POSETRACK, CROP)
            np.testing.assert_allclose(moved[row, view], one, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------- a pipeline
def test_a_default_store_is_what_it_was(tmp_path: Path) -> None:
    """Further views are named in the record where there are some, so that stores of earlier releases stay in force."""
    config = write_pipeline(tmp_path)
    names = set(extract.parameters(context(config).config))
    assert names.isdisjoint({"views", "augmentation", "view_seed", "mirror"})
    drawn = context(config, "extract.views=3", "extract.augmentation.flip=0.1").config
    assert set(extract.parameters(drawn)) - names == {"views", "augmentation", "view_seed"}
    assert extract.parameters(drawn)["augmentation"]["flip"] == 0.1
    assert extract.parameters(context(config, "extract.mirror=true").config) == extract.parameters(
        context(config).config
    )


VIEWS: dict[str, dict[str, Any]] = {
    "extract": {"crop_size": [64, 48], "k": 1, "views": 3, "mirror": True},
    "eval": {"decode": "dark", "flip": True},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has run with three views, mirrored ones, DARK and the flip test; its pipelines.yaml."""
    folder = tmp_path_factory.mktemp("views")
    write_dataset(folder / "data")
    config = write_pipeline(folder, **VIEWS)
    code, printed = glpose_stage(config, "run")
    assert code == 0, printed
    return config


def test_what_a_pipeline_stores(done: Path) -> None:
    stored = store.open(done.parent / "work")
    assert stored.verify() == []
    for video, views, mirrored in (("a", 3, None), ("b", 3, None), ("c", 2, 1)):
        features, table = stored.features(video), stored.table(video, keypoints=True)
        assert (features.schema.views, features.schema.mirrored) == (views, mirrored)
        keypoints = [None if row is None else np.asarray(row) for row in table["keypoints"]]
        own = table[["x1", "y1", "x2", "y2"]].to_numpy()
        wanted = view_affines(video, own, keypoints, POSETRACK, options(), views, mirrored)
        affines = features.affine()
        assert affines is not None and np.array_equal(affines, wanted)
        assert stored.commit(video).meta["views"] == views
        key = features.key()
        for view in range(1, views):  # each view has maps of its own
            assert np.abs(key[:, view] - key[:, 0]).max(axis=(1, 2, 3)).min() > 0.01 * key.max()
    sample = stored.sample(("a", 3), view=2)
    assert np.array_equal(sample.key, stored.features("a").key([3])[0, 2])


def test_views_of_a_split_are_loaded(done: Path) -> None:
    stored, device = store.open(done.parent / "work"), torch.device("cpu")
    for split, views, mirrored, videos, numbers in (
        ("train", 3, False, "ab", [0, 1, 2]),
        ("eval", 1, True, "c", [0, 1]),
    ):
        opened = open_split(stored, split, 1, CROP, 1.25, device, views=views, mirrored=mirrored)
        held, features = opened.held, [stored.features(video) for video in videos]
        assert opened.mirrored == (1 if mirrored else None)
        assert held is not None and held.local is not None
        rows = torch.arange(len(opened))
        for place, number in enumerate(numbers):
            key = np.concatenate([one.key(views=[number])[:, 0] for one in features])
            local = np.concatenate([one.local(views=[number])[:, 0] for one in features])
            np.testing.assert_allclose(held.key.take(rows, place), key, rtol=1e-6)
            np.testing.assert_allclose(held.local.take(rows, place), local, rtol=1e-6)
        np.testing.assert_array_equal(held.embedding, np.concatenate([one.embedding[:, 0] for one in features]))
    with pytest.raises(StoreError, match=r"'a' has no mirrored view, .*extract\.mirror=true"):
        open_split(stored, "train", 1, CROP, 1.25, device, mirrored=True)
    with pytest.raises(StoreError, match="'a' has no view 3; it has 3, numbered from 0"):
        open_split(stored, "train", 1, CROP, 1.25, device, views=4)


def test_eval_shows_what_each_option_changes(done: Path) -> None:
    results = done.parent / "work" / "eval" / "latest" / "results"
    table = (results / "table.txt").read_text()
    heads = ("single frame (k=0, n=0)", "GLPose (k=1, n=2)")
    rows = [f"{name}, {way}" for name in heads for way in ("argmax", "DARK", "DARK, flip test")]
    assert [line.split("  ")[0] for line in table.splitlines() if line.startswith(heads)][:6] == rows
    for variant, name in (("single_frame", heads[0]), ("glpose", heads[1])):
        means = [f"{store_mean(done, key):.2f}" for key in (f"{variant}_argmax", f"{variant}_dark", variant)]
        assert f"{name}, AP: {means[0]} argmax -> {means[1]} DARK -> {means[2]} DARK, flip test" in table
    written = {path.name: (path / "c.json").read_text() for path in (results / "predictions").iterdir()}
    assert len(written) == 6 and len(set(written.values())) == 6


def store_mean(config: Path, variant: str) -> float:
    return context(config).commit("eval", "results").meta["mean"][variant]


def test_the_plain_row_is_what_the_plain_options_give(done: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(done.parent, tmp_path / "copy", symlinks=True)
    config = write_pipeline(copy, extract=VIEWS["extract"])
    code, printed = glpose_stage(config, "eval")
    assert code == 1 and "eval.decode: dark -> argmax" in printed and "eval.flip: True -> False" in printed
    before = {variant: store_mean(config, f"{variant}_argmax") for variant in ("glpose", "single_frame")}
    code, printed = glpose_stage(config, "eval", "--force")
    table = printed.split("percent;")[1]
    assert code == 0 and "argmax" not in table and "->" not in table
    assert context(config).commit("eval", "results").meta["mean"] == before


def test_flip_without_mirrored_views_is_refused(done: Path) -> None:
    code, printed = glpose_stage(done, "eval", "--set", "extract.mirror=false")
    assert code != 0 and "eval.flip needs mirrored views in the store: set extract.mirror=true" in printed
    code, printed = glpose_stage(done, "extract", "--set", "extract.views=2")
    assert code == 1 and "extract.views: 3 -> 2" in printed


def test_who_wants_the_flip_test_later_trains_nothing_anew(tmp_path: Path) -> None:
    work = finish_project(tmp_path) / "work"
    config = write_pipeline(tmp_path, eval={"overlay": False})
    before = {stage: attempts(work, stage) for stage in ("extract", "index", "train")}
    code, printed = glpose_stage(config, "eval", "--set", "extract.mirror=true", "--set", "eval.flip=true", "--force")
    assert (
        code == 1 and "'c' has no mirrored view" in printed and "extract.mirror=true and run extract again" in printed
    )
    code, printed = glpose_stage(config, "run", "--set", "extract.mirror=true")
    assert code == 1 and "eval.overlay: True -> False" in printed  # all before eval went through
    after = {stage: attempts(work, stage) for stage in before}
    assert after["train"] == before["train"]
    for stage in ("extract", "index"):
        assert [video for video in "abc" if after[stage][video] != before[stage][video]] == ["c"]
    code, printed = glpose_stage(config, "eval", "--set", "extract.mirror=true", "--set", "eval.flip=true", "--force")
    assert code == 0 and "-> " in printed and "argmax, flip test" in printed
