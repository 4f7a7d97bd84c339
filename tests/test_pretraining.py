"""Pretraining on generated frames: where it starts, and a few steps that learn and repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from glpose.models.checkpoints import save_checkpoint
from glpose.models.hrnet import HRNet
from glpose.options import PretrainOptions
from glpose.pretraining import held_out_pck, new_network, pretrain
from store.errors import CheckpointError

TINY = PretrainOptions(width=8, crop_size=(64, 48), frames=72, batch_size=8, precision="float32", lr=3e-3)
JOINTS = 15


def run(options: PretrainOptions, workers: int) -> tuple[dict[str, torch.Tensor], list[float], list[int]]:
    """Tensors after a run, the loss of every step, and the crops seen at each."""
    losses: list[float] = []
    seen: list[int] = []

    def report(crops: int, crops_in_all: int, loss: float) -> None:
        assert crops <= crops_in_all
        seen.append(crops)
        losses.append(loss)

    model = pretrain(options, new_network(options, JOINTS), torch.device("cpu"), workers, report)
    assert not model.training
    return model.state_dict(), losses, seen


@pytest.mark.slow
def test_learns_and_repeats_whatever_the_workers() -> None:
    _, losses, seen = run(TINY, workers=1)
    assert seen == list(range(8, 145, 8))  # two crops a frame
    assert losses[0] == pytest.approx(np.log(16 * 12), rel=0.2)  # it begins by knowing nothing
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])

    short = TINY.model_copy(update={"frames": 16})
    (a, few, _), (b, again, _) = run(short, workers=1), run(short, workers=2)
    assert few == again and all(torch.equal(tensor, b[name]) for name, tensor in a.items())
    assert few[0] == losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(("stages", "crop_size"), [(3, (64, 48)), (4, (64, 32))])
def test_mean_squared_error_and_both_depths(stages: int, crop_size: tuple[int, int]) -> None:
    changes = {"loss": "mse", "stages": stages, "crop_size": crop_size, "frames": 8, "precision": "bfloat16"}
    _, losses, _ = run(TINY.model_copy(update=changes), workers=1)
    assert len(losses) == 2 and all(0 < loss < 1 for loss in losses)


def test_new_network_starts_lively_and_the_same_for_one_seed() -> None:
    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        new_network(TINY.model_copy(update={"seed": seed}), JOINTS).eval().state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    model = new_network(TINY, JOINTS)
    with torch.inference_mode():
        assert float(model.features(images).std()) > 0.1
        assert model(images).shape == (2, JOINTS, 16, 12)


def test_network_from_a_checkpoint(tmp_path: Path) -> None:
    start = HRNet(8, JOINTS, stages=3)
    save_checkpoint(tmp_path / "start.safetensors", start.state_dict(), {})
    options = TINY.model_copy(update={"init": tmp_path / "start.safetensors"})
    loaded = new_network(options, JOINTS).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in start.state_dict().items())
    with pytest.raises(CheckpointError, match="W8"):
        new_network(options.model_copy(update={"width": 16}), JOINTS)


def test_a_published_checkpoint_gives_what_fits(tmp_path: Path) -> None:
    torch.manual_seed(3)
    published = HRNet(8, num_joints=17, stages=4)
    save_checkpoint(tmp_path / "coco.safetensors", published.state_dict(), {})
    model = new_network(TINY.model_copy(update={"init": tmp_path / "coco.safetensors"}), JOINTS)
    assert (model.stages, model.num_joints) == (3, JOINTS)
    own, given = model.state_dict(), published.state_dict()
    assert all(torch.equal(own[name], given[name]) for name in own if not name.startswith("final_layer"))
    assert model(torch.rand(1, 3, 64, 48)).shape == (1, JOINTS, 16, 12)


def test_held_out_score_tells_poor_networks() -> None:
    """A network that knows nothing scores near nothing; the score of one network is always the same."""
    torch.manual_seed(0)
    model = HRNet(8, JOINTS, stages=3).eval()
    found = [held_out_pck(TINY, model, torch.device("cpu"), clips=6) for _ in range(2)]
    assert found[0] == found[1] and set(found[0]) == {"visible", "hidden"}
    assert all(0 <= value < 30 for value in found[0].values())
