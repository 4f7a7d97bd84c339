"""Warps of stored features: maps and points move together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from training_problem import HEADS, INDEX, JOINT_SET, drawn, options, problem, same, trained, with_keypoints

from glpose.batches import make_batch, portions
from glpose.examples import make_examples
from glpose.feature_warp import draw_warps, warp_maps, warp_points
from glpose.options import WarpOptions
from glpose.targets import draw_targets

SIZE = (24, 18)  # height, width of the grid
STILL = WarpOptions(rotation=0, scale=(1, 1), flip=0)


def warps(count: int = 64, **options: Any) -> torch.Tensor:
    return draw_warps(np.random.default_rng(0), count, SIZE, STILL.model_copy(update=options))


def test_no_warp_changes_nothing() -> None:
    maps = torch.rand(4, 3, 2, *SIZE)
    torch.testing.assert_close(warp_maps(maps, warps(4)), maps, atol=1e-5, rtol=0)
    points, weight = torch.rand(4, 3, 2) * 17, torch.ones(4, 3)
    moved, kept = warp_points(points, weight, warps(4), [1, 0, 2], SIZE)
    torch.testing.assert_close(moved, points, atol=1e-4, rtol=0)
    assert torch.equal(kept, weight)


def test_a_flip_mirrors_maps_and_exchanges_joints() -> None:
    maps, affines = torch.rand(2, 5, *SIZE), warps(2, flip=1.0)
    torch.testing.assert_close(warp_maps(maps, affines), maps.flip(-1), atol=1e-5, rtol=0)
    points = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]).repeat(2, 1, 1)
    weight = torch.tensor([[1.0, 0.0, 1.0]]).repeat(2, 1)
    moved, kept = warp_points(points, weight, affines, JOINT_SET.flip_order, SIZE)
    torch.testing.assert_close(moved[0], torch.tensor([[14.0, 4.0], [16.0, 2.0], [12.0, 6.0]]))
    assert kept[0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("options", [{"rotation": 45.0}, {"scale": (0.65, 1.35)}, {"rotation": 45.0, "flip": 0.5}])
def test_spots_follow_their_points(options: dict[str, Any]) -> None:
    """Where a spot's centre stays inside the grid, the warped spot's centre of mass is where its point goes."""
    affines = warps(**options)
    points = torch.tensor([[[8.0, 12.0], [11.0, 9.0], [6.0, 14.0]]]).repeat(len(affines), 1, 1)
    spots = draw_targets(points, torch.ones(len(affines), 3), SIZE, 5.0)
    moved = warp_maps(spots, affines)
    wanted, weight = warp_points(points, torch.ones(len(affines), 3), affines, [0, 1, 2], SIZE)
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    mass = moved.sum(dim=(-2, -1))
    centre = torch.stack([(moved * x).sum(dim=(-2, -1)) / mass, (moved * y).sum(dim=(-2, -1)) / mass], dim=-1)
    inner = ((wanted > 5) & (wanted < torch.tensor([12.0, 18.0]))).all(dim=-1) & (weight > 0)
    assert inner.float().mean() > 0.5
    assert (centre - wanted)[inner].abs().max() < 0.25


def test_draws_keep_to_their_ranges() -> None:
    affines = warps(4000, rotation=45.0, scale=(0.65, 1.35), flip=0.5).numpy().astype(np.float64)
    linear = affines[:, :, :2]
    sizes = 1 / np.sqrt(np.abs(np.linalg.det(linear)))
    assert 0.65 - 1e-5 <= sizes.min() < 0.66 and 1.34 < sizes.max() <= 1.35 + 1e-5
    angles = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 1, 1]))
    assert -45.01 <= angles.min() < -44.9 and 44.9 < angles.max() < 45.01
    assert 0.37 < (np.abs(angles) < 1e-6).mean() < 0.43  # not turned
    assert 0.46 < (np.linalg.det(linear) < 0).mean() < 0.54
    middle = np.array([(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2])
    np.testing.assert_allclose(linear @ middle + affines[:, :, 2], np.tile(middle, (4000, 1)), atol=1e-5)


def test_points_that_leave_the_grid_do_not_count() -> None:
    affines = torch.tensor([[[1.0, 0.0, 10.0], [0.0, 1.0, 0.0]]])
    moved, weight = warp_points(torch.tensor([[[2.0, 3.0], [9.0, 3.0]]]), torch.ones(1, 2), affines, [0, 1], SIZE)
    assert weight.tolist() == [[1, 0]] and moved[0, 0].tolist() == [12, 3]


def test_key_and_local_maps_of_a_batch_are_warped_alike_and_references_not() -> None:
    split = problem()
    seen = [points * [[1, 1, row % 2], [1, 1, 1], [1, 1, 1]] for row, points in enumerate(split.table["keypoints"])]
    split, rows = with_keypoints(split, seen), np.array([0, 1, 5, 9])
    batches = []
    for changes in ({}, {"augment": "warp", "warp": STILL.model_copy(update={"flip": 1.0})}):
        own = options(redraw_pool=False, **changes)
        examples = make_examples(split, drawn(split), JOINT_SET, own)
        (portion,) = portions(examples, {"only": HEADS}, own, INDEX, 99, {1: 1})
        batches.append(make_batch(examples, portion, rows, False, own, (0,)))
    plain, mirrored = batches
    for name in ("key", "local"):
        a, b = getattr(plain.inputs, name), getattr(mirrored.inputs, name)
        torch.testing.assert_close(b, a.flip(-1), atol=1e-4, rtol=0)
        assert (b - a).abs().max() > 1
    assert torch.equal(mirrored.inputs.references, plain.inputs.references)
    order = JOINT_SET.flip_order
    torch.testing.assert_close(mirrored.weight, plain.weight[:, order])
    torch.testing.assert_close(mirrored.points[..., 0], SIZE[1] - 1 - plain.points[:, order, 0])
    torch.testing.assert_close(mirrored.points[..., 1], plain.points[:, order, 1])
    torch.testing.assert_close(mirrored.targets, plain.targets[:, order].flip(-1))
    assert (plain.weight == 0).any() and (plain.weight > 0).any()


def test_training_on_warped_features_learns_and_repeats() -> None:
    split = problem({"a": 6})
    first, losses = trained(split, augment="warp", epochs=10)
    assert losses[-1] < 0.7 * losses[0]
    assert same(first, trained(split, augment="warp", epochs=10)[0])
    assert not same(first, trained(split, epochs=10)[0])
    still = {"rotation": 0.0, "scale": (1.0, 1.0), "flip": 0.0}
    alone = HEADS.model_copy(update={"n": 0})
    unmoved, plain = (trained(split, alone, epochs=1, **own)[1] for own in ({"augment": "warp", "warp": still}, {}))
    assert unmoved == pytest.approx(plain, rel=1e-4)
