"""The heads, targets and loss against the paper's equations in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy_reference as reference
import pytest
import torch

from glpose.models.glpose import GLPoseHeads, local_weights, nonlocal_weights, single_frame
from glpose.options import HeadOptions
from glpose.targets import draw_targets, grid_cross_entropy, heatmap_loss

CHANNELS, JOINTS, GRID = 6, 5, (12, 9)
NAMED = (
    "local_weight", "normalise_local", "temperature", "blocks", "enhancement", "combine", "causal", "inputs",
    "weighted",
)  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    **{
        f"local {kind}{' normalised' * normalise}": {"local_weight": kind, "normalise_local": normalise}
        for kind in ("inverse", "linear", "exponential", "uniform")
        for normalise in (False, True)
    },
    "per channel": {"per_channel": True},
    "per channel, temperature": {"per_channel": True, "temperature": 0.3},
    "temperature": {"temperature": 2.5},
    "one block": {"blocks": 1},
    "five blocks": {"blocks": 5},
    "narrow": {"width": 4},
    "wide": {"width": 9},
    "no enhancement": {"enhancement": False},
    "no enhancement, narrow": {"enhancement": False, "width": 4},
    "channel mask": {"mask": "channel"},
    "channel mask, wide": {"mask": "channel", "width": 9},
    "sum": {"combine": "sum"},
    "sum, channel mask": {"combine": "sum", "mask": "channel"},
    "mlp": {"head": "mlp"},
    "5x5": {"head": "5x5"},
    "k = 0": {"k": 0},
    "k = 1": {"k": 1},
    "past frames": {"causal": True},
    "past frames, linear, normalised": {"causal": True, "local_weight": "linear", "normalise_local": True},
    "no weights": {"weighted": False},
    "no weights, per channel": {"weighted": False, "per_channel": True},
    "copies": {"inputs": "key_copies"},
    "copies, per channel": {"inputs": "key_copies", "per_channel": True},
    "copies of the past, no weights": {"inputs": "key_copies", "causal": True, "weighted": False},
    "n = 0": {"n": 0},
    "k = n = 0": {"k": 0, "n": 0},
    "single frame": {"k": 0, "n": 0, "enhancement": False},
}


def lively_heads(options: HeadOptions) -> GLPoseHeads:
    """Heads in eval mode with weights that keep signals alive, and batch norms that are no identities."""
    offsets = tuple(offset for offset in range(-options.k, 0 if options.causal else options.k + 1) if offset)
    heads = GLPoseHeads(CHANNELS, JOINTS, offsets, options).eval()
    draw = torch.Generator().manual_seed(0)
    for name, tensor in heads.state_dict().items():
        if tensor.ndim == 4:
            tensor.normal_(0, 1.5 * tensor[0].numel() ** -0.5, generator=draw)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.3, generator=draw)
        elif tensor.is_floating_point():
            tensor.uniform_(0.6, 1.4, generator=draw)
    return heads


def features(options: HeadOptions, missing: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Key, local, references and similarity of two samples; the first lacks its last `missing` references."""
    rng = np.random.default_rng(1)
    key = np.maximum(rng.normal(0.3, 1, (2, CHANNELS, *GRID)), 0)
    frames = options.k if options.causal else 2 * options.k
    local = np.maximum(rng.normal(0.3, 1, (2, frames, CHANNELS, *GRID)), 0)
    references = np.maximum(rng.normal(0.3, 1, (2, options.n, CHANNELS, *GRID)), 0)
    products = np.array(
        [[reference.embedding(key[b]) * reference.embedding(r) for r in references[b]] for b in range(2)]
    ).reshape(2, options.n, CHANNELS)
    similarity = products if options.per_channel else products.sum(axis=-1)
    if missing:
        similarity[0, -missing:] = -np.inf
    return key, local, references, similarity


def compare(heads: GLPoseHeads, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    """Assert that heads and reference agree; returns the reference's heatmaps (B, J, H, W)."""
    with torch.inference_mode():
        found = heads(*(torch.from_numpy(array.astype(np.float32)) for array in inputs)).numpy()
    weights = {name: tensor.double().numpy() for name, tensor in heads.state_dict().items()}
    named = {name: getattr(heads.options, name) for name in NAMED}
    wanted = np.stack([reference.heatmaps(weights, *sample, **named) for sample in zip(*inputs, strict=True)])
    assert found.shape == (2, JOINTS, *GRID)
    assert wanted.std() > 0.05  # otherwise agreement within the tolerance would mean nothing
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    return wanted


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_heads_follow_the_equations(changes: dict[str, Any]) -> None:
    options = HeadOptions.model_validate(changes)
    compare(lively_heads(options), features(options))


@pytest.mark.parametrize("option", sorted(set(NAMED) | {"mask", "head", "width", "per_channel"}))
def test_every_option_changes_the_heatmaps(option: str) -> None:
    """Otherwise agreement above would not show that an option does anything."""
    other: dict[str, Any] = {
        "local_weight": "uniform", "normalise_local": True, "temperature": 0.5, "blocks": 2, "enhancement": False,
        "combine": "sum", "mask": "channel", "head": "mlp", "width": 4, "per_channel": True,
        "causal": True, "inputs": "key_copies", "weighted": False,
    }  # fmt: skip
    default, changed = HeadOptions(), HeadOptions.model_validate({option: other[option]})
    results = [compare(lively_heads(options), features(options)) for options in (default, changed)]
    assert np.abs(results[0] - results[1]).max() > 1e-3


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("missing", [1, 5, 6])
def test_missing_references_weigh_nothing(missing: int, per_channel: bool, weighted: bool) -> None:
    options = HeadOptions(per_channel=per_channel, weighted=weighted)
    heads, inputs = lively_heads(options), features(options, missing)
    wanted = compare(heads, inputs)
    inputs[2][0, -missing:] = 1e6  # whatever their maps hold
    np.testing.assert_array_equal(compare(heads, inputs), wanted)


def test_heads_fed_copies_see_the_key_frame_alone() -> None:
    options = HeadOptions(inputs="key_copies")
    heads, (key, *others) = lively_heads(options), features(options)
    other_person = features(options, missing=2)
    wanted = compare(heads, (key, *others))
    np.testing.assert_array_equal(compare(heads, (key, others[0] + 1, others[1] * 2, other_person[3])), wanted)
    # as heads of the same weights see it where all frames and all references are like the key frame
    plain = lively_heads(HeadOptions())
    copies = (np.repeat(key[:, None], 8, axis=1), np.repeat(key[:, None], 6, axis=1), np.full((2, 6), 3.0))
    np.testing.assert_allclose(compare(plain, (key, *copies)), wanted, atol=1e-6)


def test_weights_of_local_frames() -> None:
    offsets = (-4, -3, -2, -1, 1, 2, 3, 4)
    weights = {kind: local_weights(offsets, HeadOptions(local_weight=kind)) for kind in ("inverse", "linear")}
    np.testing.assert_allclose(weights["inverse"], [1 / 4, 1 / 3, 1 / 2, 1, 1, 1 / 2, 1 / 3, 1 / 4], rtol=1e-6)
    np.testing.assert_allclose(weights["linear"], [1, 2, 3, 4, 4, 3, 2, 1])
    # a frame's weight does not depend on how many frames there are
    np.testing.assert_allclose(local_weights((-2, -1, 1, 2), HeadOptions(k=2)), weights["inverse"][2:6])
    assert local_weights((), HeadOptions(k=0, normalise_local=True)).shape == (0,)
    # past frames weigh as they do beside later ones
    past = local_weights((-4, -3, -2, -1), HeadOptions(causal=True))
    np.testing.assert_allclose(past, weights["inverse"][:4])
    assert local_weights(offsets, HeadOptions(weighted=False)).tolist() == [1] * 8


def test_weights_of_references_by_hand() -> None:
    similarity = torch.tensor([[0.0, float(np.log(3)), -torch.inf], [-torch.inf] * 3])
    np.testing.assert_allclose(nonlocal_weights(similarity, HeadOptions()), [[0.25, 0.75, 0], [0, 0, 0]], atol=1e-7)
    np.testing.assert_allclose(nonlocal_weights(similarity, HeadOptions(temperature=0.5))[0], [0.1, 0.9, 0], atol=1e-7)


def test_new_heads_start_small() -> None:
    torch.manual_seed(0)
    state = GLPoseHeads(16, JOINTS, (-1, 1), HeadOptions(k=1, n=2)).state_dict()
    for name, tensor in state.items():
        if tensor.ndim == 4 and tensor.numel() > 1000:
            assert 0.0009 < tensor.std() < 0.0011, name
        elif name.endswith("bias"):
            assert (tensor == 0).all(), name


def test_single_frame_row_keeps_the_other_options() -> None:
    options = single_frame(HeadOptions(head="5x5", width=8, blocks=2))
    assert (options.k, options.n, options.enhancement) == (0, 0, False)
    assert (options.head, options.width, options.blocks) == ("5x5", 8, 2)


def test_sum_needs_equal_widths() -> None:
    with pytest.raises(ValueError, match="combine"):
        GLPoseHeads(CHANNELS, JOINTS, (), HeadOptions(k=0, combine="sum", width=4))
    unused = HeadOptions(k=0, n=0, combine="sum", width=4, enhancement=False)  # nothing is added, so nothing must fit
    maps = torch.rand(1, CHANNELS, 8, 6)
    heads = GLPoseHeads(CHANNELS, JOINTS, (), unused)
    assert heads(maps, maps[:, None][:, :0], maps[:, None][:, :0], torch.zeros(1, 0)).shape == (1, JOINTS, 8, 6)


POINTS = np.array([[4.0, 6.0], [4.5, 6.5], [4.49, 7.51], [0.0, 0.0], [8.9, 11.9], [20.0, 3.0], [2.0, 50.0], [3.0, 3.0]])
PRESENT = np.array([1, 1, 1, 1, 1, 1, 1, 0])  # the fifth rounds to off the grid, the next two lie far off


@pytest.mark.parametrize("sigma", [3.0, 8.0, 20.0])
def test_targets_are_gaussians_on_rounded_pixels(sigma: float) -> None:
    found = draw_targets(torch.from_numpy(POINTS)[None], torch.from_numpy(PRESENT)[None], GRID, sigma)[0].numpy()
    wanted = reference.targets(POINTS, PRESENT, GRID, sigma)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_array_equal(found > 0, wanted > 0)
    assert [found[0, 6, 4], found[1, 7, 5], found[2, 8, 4], found[3, 0, 0]] == [1, 1, 1, 1]
    assert found[4].max() < 1
    assert not found[7].any()


def test_target_of_the_full_grid_is_hrnets() -> None:
    """Sigma 3 at 96 x 72: a patch of 19 x 19, exp(-1/18) one pixel away."""
    target = draw_targets(torch.tensor([[[30.2, 40.0]]]), torch.ones(1, 1), (96, 72), 3.0)[0, 0].numpy()
    rows, columns = np.nonzero(target)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (31, 49, 21, 39)
    assert target[40, 30] == 1
    np.testing.assert_allclose([target[40, 31], target[49, 39]], [np.exp(-1 / 18), np.exp(-9)], rtol=1e-5)


def test_absent_joints_may_lie_anywhere() -> None:
    points = torch.tensor([[[float("nan"), 1.0], [float("inf"), 1.0]]])
    assert (draw_targets(points, torch.zeros(1, 2), GRID, 8.0) == 0).all()


def test_loss_is_equation_6() -> None:
    rng = np.random.default_rng(2)
    predicted, target = rng.normal(size=(2, 3, JOINTS, *GRID))
    weight = rng.integers(0, 2, (3, JOINTS)).astype(float)
    as_tensors = [torch.from_numpy(array.astype(np.float32)) for array in (predicted, target, weight)]
    found = float(heatmap_loss(*as_tensors))
    assert found == pytest.approx(reference.loss(predicted, target, weight), rel=1e-5)
    as_tensors[0][torch.from_numpy(weight) == 0] += 100  # joints of weight 0 do not count
    assert float(heatmap_loss(*as_tensors)) == pytest.approx(found, rel=1e-6)


def test_loss_by_hand() -> None:
    predicted, target = torch.full((1, 2, 2, 2), 3.0), torch.ones(1, 2, 2, 2)
    assert float(heatmap_loss(predicted, target, torch.tensor([[1.0, 0.0]]))) == 2  # (4 + 0) / 2 joints


def test_cross_entropy_over_the_grid() -> None:
    """Even logits cost the grid's logarithm; logits that are the target's logarithm cost its entropy."""
    points, weight = torch.tensor([[[4.0, 6.0], [2.0, 2.0]]]), torch.tensor([[1.0, 0.0]])
    target = draw_targets(points, weight, GRID, 12.0)
    even = grid_cross_entropy(torch.zeros_like(target), target, weight)
    assert float(even) == pytest.approx(np.log(GRID[0] * GRID[1]), rel=1e-5)
    wanted = target[0, 0].double().numpy()
    wanted /= wanted.sum()
    entropy = -(wanted[wanted > 0] * np.log(wanted[wanted > 0])).sum()
    perfect = grid_cross_entropy(target.clamp(min=1e-30).log(), target, weight)
    assert float(perfect) == pytest.approx(entropy, rel=1e-4)
    assert float(grid_cross_entropy(torch.zeros_like(target), target, 0 * weight)) == 0
