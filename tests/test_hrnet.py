"""HRNet against the official code's vectors, and its cut, its short form and its folded form against itself."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy_reference as reference
import pytest
import torch
from torch import Tensor, nn

from glpose.models.checkpoints import feature_tensors
from glpose.models.hrnet import FusionModule, HRNet, fold_batch_norm, init_weights
from store.errors import CheckpointError

Network = TypeVar("Network", bound=nn.Module)
CROPS = {48: (384, 288), 32: (256, 192)}  # width -> (H, W) of the reference inputs


@pytest.fixture(scope="module")
def vectors(shared_data: Path) -> Path:
    """Folder of what the official implementation computes."""
    folder = shared_data / "vectors" / "hrnet"
    if not folder.is_dir():
        pytest.skip("needs the HRNet reference vectors (../shared/data/vectors/hrnet), which are not in the repository")
    return folder


def listing(vectors: Path, width: int) -> list[dict[str, Any]]:
    """The official network's tensors, in order: name, shape, dtype, and cut where the features need them."""
    return json.loads((vectors / f"state_dict_w{width}.json").read_text())["keys"]


def recipe(vectors: Path) -> ModuleType:
    """The module that makes the reference weights and inputs."""
    spec = importlib.util.spec_from_file_location("hrnet_recipe", vectors / "recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def relative_l2(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> float:
    """norm(a - b) / norm(b) in float64, for equal shapes."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert x.shape == y.shape
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def lively(model: Network, seed: int = 0) -> Network:
    """The network in eval mode with random weights that keep signals alive, and batch norms that are no identities."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 4:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=draw)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1, generator=draw)
        elif tensor.is_floating_point():
            tensor.uniform_(0.8, 1.2, generator=draw)
    return model.eval()


def images(height: int = 64, width: int = 96) -> Tensor:
    """(2, 3, height, width) float32 noise, the same in every call."""
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def small() -> HRNet:
    return lively(HRNet(width=8, num_joints=5))


@pytest.mark.parametrize("width", [48, 32])
def test_same_numbers_as_the_official_code(vectors: Path, width: int) -> None:
    maker, reference = recipe(vectors), np.load(vectors / f"ref_w{width}_g1.npz")
    weights = {e["name"]: torch.from_numpy(maker.tensor(e["name"], e["shape"], 1.0)) for e in listing(vectors, width)}
    model = HRNet(width)
    model.load_state_dict(weights)
    model.eval()
    crops = torch.from_numpy(maker.image(2, *CROPS[width]))
    down, right = reference["stride_yx"]
    with torch.inference_mode():
        features, heatmaps = model.features(crops), model(crops)
        folded = fold_batch_norm(model).to(memory_format=torch.channels_last)
        fast = folded.features(crops.to(memory_format=torch.channels_last))
    assert features.shape == (2, width, CROPS[width][0] // 4, CROPS[width][1] // 4)
    assert relative_l2(features[:, :, ::down, ::right], reference["stage3_b0_sub"]) < 1e-5
    assert relative_l2(heatmaps[:, :, ::down, ::right], reference["heat_sub"]) < 1e-5
    assert relative_l2(fast[:, :, ::down, ::right], reference["stage3_b0_sub"]) < 1e-5


@pytest.mark.parametrize("width", [48, 32])
def test_names_shapes_and_order_are_the_official_ones(vectors: Path, width: int) -> None:
    whole, short = HRNet(width), HRNet(width, stages=3)
    official = [(e["name"], tuple(e["shape"])) for e in listing(vectors, width)]
    assert [(name, tuple(tensor.shape)) for name, tensor in whole.state_dict().items()] == official

    cut = [e["name"] for e in listing(vectors, width) if e["cut"]]
    head = ["final_layer.weight", "final_layer.bias"]
    assert list(short.state_dict()) == cut + head
    assert len(cut) == 930
    assert sum(1 for name, _ in short.named_parameters() if name not in head) == 465
    assert set(feature_tensors(whole)) == {name for name in cut if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("stages", [3, 4])
@pytest.mark.parametrize("width", [8, 12, 16, 18])
def test_any_width_gives_stride_four_maps(width: int, stages: int) -> None:
    model = HRNet(width, num_joints=15, stages=stages).eval()
    with torch.inference_mode():
        assert model.features(images(32, 64)).shape == (2, width, 8, 16)
        assert model(images(32, 64)).shape == (2, 15, 8, 16)


def test_features_are_what_the_full_forward_passes_through(small: HRNet) -> None:
    seen: list[list[Tensor]] = []

    def keep(_module: nn.Module, _inputs: object, branches: list[Tensor]) -> None:
        seen.append(branches)

    hook = small.stage3[-1].register_forward_hook(keep)
    with torch.inference_mode():
        small(images())
        hook.remove()
        features = small.features(images())
    assert [len(branches) for branches in seen] == [3]
    assert torch.equal(features, seen[0][0])
    assert features.min() >= 0 < features.std()


def test_coarser_branches_are_added_pixel_by_pixel() -> None:
    """Row 0 of a fusion: each coarser branch through a 1x1 convolution and batch norm, every pixel repeated."""
    fusion = lively(FusionModule([2, 3, 4]))
    xs = [
        torch.randn(1, c, 8 // 2**b, 12 // 2**b, generator=torch.Generator().manual_seed(b))
        for b, c in enumerate([2, 3, 4])
    ]
    with torch.inference_mode():
        found = fusion(xs, rows=1)[0][0].double().numpy()
        branches = [branch(x)[0].double().numpy() for branch, x in zip(fusion.branches, xs, strict=True)]
    weights = {name: tensor.double().numpy() for name, tensor in fusion.state_dict().items()}
    wanted = branches[0]
    for b in (1, 2):
        mixed = reference.conv(branches[b], weights[f"fuse_layers.0.{b}.0.weight"])
        mixed = reference.batch_norm(mixed, weights, f"fuse_layers.0.{b}.1")
        wanted = wanted + mixed.repeat(2**b, axis=1).repeat(2**b, axis=2)
    np.testing.assert_allclose(found, np.maximum(wanted, 0), atol=1e-5)


def test_features_compute_only_what_branch_zero_needs(small: HRNet) -> None:
    ran: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, _output, name=name: ran.add(name))
        for name, module in small.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.inference_mode():
        small.features(images(32, 32))
    for hook in hooks:
        hook.remove()
    assert ran == {name.removesuffix(".weight") for name, t in feature_tensors(small).items() if t.ndim == 4}


def test_the_short_network_is_the_whole_one_up_to_the_features(small: HRNet) -> None:
    short = HRNet(width=8, num_joints=5, stages=3).eval()
    whole = small.state_dict()
    short.load_state_dict({name: whole[name] for name in short.state_dict()})
    head = small.final_layer
    assert head is not None
    with torch.inference_mode():
        features = small.features(images())
        assert torch.equal(short.features(images()), features)
        assert torch.equal(short(images()), head(features))
        assert short.features(images(48, 80)).shape == (2, 8, 12, 20)  # 16 divides them, 32 does not


@pytest.mark.parametrize("stages", [3, 4])
def test_folding_leaves_the_outputs(stages: int) -> None:
    model = lively(HRNet(width=8, num_joints=5, stages=stages)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_batch_norm(model)
    assert model.training and not folded.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()
    fast = folded.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert relative_l2(fast.features(images()), model.features(images())) < 1e-5
        assert relative_l2(fast(images()), model(images())) < 1e-5


def test_every_tensor_learns() -> None:
    model = lively(HRNet(width=8, num_joints=5)).train()
    model(images()).square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_initialisation_is_the_official_one() -> None:
    model = lively(HRNet(width=8))
    init_weights(model)
    for name, tensor in model.named_parameters():
        if tensor.ndim == 4:
            assert 0.0005 < tensor.std() < 0.0015, name
        else:
            norm_scale = "bn" in name or ".1." in name or "downsample" in name
            expected = 1.0 if name.endswith("weight") and norm_scale else 0.0
            assert torch.equal(tensor, torch.full_like(tensor, expected)), name


@pytest.mark.parametrize(("stages", "size", "multiple"), [(4, (48, 64), 32), (4, (64, 50), 32), (3, (40, 64), 16)])
def test_heatmaps_of_sizes_that_do_not_halve_evenly_are_refused(stages: int, size: tuple[int, int], multiple: int):
    model = HRNet(width=8, stages=stages)
    with pytest.raises(ValueError, match=rf"{size[0]} x {size[1]}.*divisible by {multiple}"):
        model(images(*size))


@pytest.mark.parametrize("stages", [3, 4])
def test_features_need_sizes_divisible_by_16(stages: int) -> None:
    model = HRNet(width=8, stages=stages)
    assert model.features(images(48, 64)).shape[-2:] == (12, 16)
    with pytest.raises(ValueError, match=r"40 x 64.*divisible by 16"):
        model.features(images(40, 64))


def test_a_network_without_head_gives_features_only() -> None:
    model = HRNet(width=8, num_joints=0).eval()
    with torch.inference_mode():
        assert model.features(images(32, 32)).shape == (2, 8, 8, 8)
        with pytest.raises(CheckpointError, match="no final_layer"):
            model(images(32, 32))


@pytest.mark.parametrize("arguments", [(0, 17, 4), (8, -1, 4), (8, 17, 2), (8, 17, 5)])
def test_networks_that_do_not_exist_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="width >= 1"):
        HRNet(*arguments)
