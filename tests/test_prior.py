"""Heads that correct the backbone's own heatmaps: the product of experts by hand, where it starts, and pipelines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_pipelines import commit_digests, context, glpose_stage, write_backbone, write_dataset, write_pipeline
from torch import nn
from training_problem import HEADS, INDEX, JOINT_SET, drawn, options, problem

from glpose.examples import make_examples
from glpose.heatmaps import decode_argmax
from glpose.keypoints import JHMDB, POSETRACK
from glpose.models.checkpoints import load_heads, load_hrnet, read_metadata, read_state_dict, save_checkpoint
from glpose.models.glpose import GLPoseHeads, single_frame
from glpose.models.hrnet import HRNet
from glpose.models.prior import FLOOR, SURE, Prior
from glpose.options import HeadOptions
from glpose.single_frame import feature_layer, load_single_frame
from glpose.targets import draw_targets, heatmap_loss
from glpose.training import train_heads
from stages.last_layer import heads_layer
from stages.train import CHECKPOINTS
from store.errors import CheckpointError

CHANNELS, JOINTS, GRID = 4, 3, (12, 9)
OFFSETS = (-2, -1, 1, 2)


def lively(offsets: tuple[int, ...] = OFFSETS) -> Prior:
    torch.manual_seed(1)
    prior = Prior(CHANNELS, JOINTS, offsets)
    with torch.no_grad():
        for own in prior.parameters():
            own += 0.3 * torch.randn(own.shape)
        prior.layer.weight.normal_(0, 2)
    return prior


def maps(frames: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.rand(batch, 1 + frames, CHANNELS, *GRID, generator=torch.Generator().manual_seed(2))
    return drawn[:, 0], drawn[:, 1:]


def by_hand(prior: Prior, frames: np.ndarray) -> np.ndarray:
    """(T, C, H, W) of one sample -> (J, H, W), in loops."""
    own = {name: tensor.detach().double().numpy() for name, tensor in prior.state_dict().items()}
    height, width = frames.shape[2:]
    total = np.zeros((JOINTS, height, width))
    y, x = np.mgrid[:height, :width]
    for t, features in enumerate(frames):
        for j in range(JOINTS):
            logits = np.tensordot(own["layer.weight"][j, :, 0, 0], features, 1) + own["layer.bias"][j]
            likely = np.exp(logits - logits.max())
            likely /= likely.sum()
            blurred, sigma = np.zeros_like(likely), np.exp(own["log_sigma"][t, j])
            for at_y, at_x in np.ndindex(height, width):
                spread = np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / (2 * sigma**2))
                blurred += likely[at_y, at_x] * spread / spread.sum()
            surety = np.log(max(likely.max(), FLOOR) / SURE)
            power = np.log1p(np.exp(own["power"][t, j] + own["slope"][t, j] * surety))
            total[j] += power * np.log(blurred + FLOOR)
    product = np.exp(total - total.max(axis=(1, 2), keepdims=True))
    return own["height"] * product / product.sum(axis=(1, 2), keepdims=True)


def test_product_of_the_frames_heatmaps_by_hand() -> None:
    prior, (key, local) = lively(), maps(len(OFFSETS))
    with torch.inference_mode():
        found = prior(key, local).numpy()
    for sample in range(2):
        frames = torch.cat([key[sample, None], local[sample]]).double().numpy()
        np.testing.assert_allclose(found[sample], by_hand(prior, frames), rtol=1e-3, atol=1e-6)


def test_without_offsets_it_is_of_the_key_frame() -> None:
    prior, (key, local) = lively(()), maps(3)
    with torch.inference_mode():
        assert torch.equal(prior(key, local), prior(key, local[:, :0]))
        np.testing.assert_allclose(prior(key, local)[0], by_hand(prior, key[:1].double().numpy()), rtol=1e-3, atol=1e-6)


def test_it_starts_from_what_the_layer_says() -> None:
    """Alone, the key frame's probabilities, as high as targets: where those are of targets, hardly anything is lost."""
    sigma = 1.5
    points = torch.tensor([[[4.0, 6.0], [2.0, 3.0], [6.0, 8.0]]])
    target = draw_targets(points, torch.ones(1, JOINTS), GRID, sigma * 72 / GRID[1])
    layer = nn.Conv2d(JOINTS, JOINTS, 1, bias=True)
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        layer.weight.copy_(torch.eye(JOINTS)[..., None, None])
    prior = Prior(JOINTS, JOINTS, ())
    prior.start_from(layer, sigma, GRID[1])
    with torch.inference_mode():
        found = prior(target.clamp_min(1e-9).log(), torch.zeros(1, 0, JOINTS, *GRID))
    assert torch.equal(prior.layer.weight, layer.weight)
    np.testing.assert_array_equal(decode_argmax(found.numpy())[0][0].round(), points[0])
    everywhere = torch.ones(1, JOINTS)
    assert heatmap_loss(found, target, everywhere) < 0.03 * heatmap_loss(0 * target, target, everywhere)
    assert 0.8 < float(found.max()) < 1.2


def test_training_starts_it_as_the_grid_is_wide() -> None:
    """On 18 columns: as high as targets of sigma 6 (of 72 columns) expect, the key frame blurred by 0.35 px of 36."""
    split, own, layer = problem({"a": 3}), options(epochs=1, lr=1e-30), nn.Conv2d(CHANNELS, JOINTS, 1)
    heads, examples = HEADS.model_copy(update={"prior": "key"}), make_examples(split, drawn(split), JOINT_SET, own)
    prior = train_heads(examples, {"a": heads}, own, INDEX, lambda _: None, layer=layer)["a"].model.prior
    assert prior is not None and split.schema.width == 18 and torch.equal(prior.layer.weight, layer.weight)
    assert prior.height.item() == pytest.approx(2 * np.pi * (6 * 18 / 72) ** 2)
    assert prior.log_sigma[0].exp().tolist() == pytest.approx([0.35 * 18 / 36] * JOINTS)


def test_a_sure_frame_outweighs_an_unsure_one() -> None:
    prior = Prior(1, 1, (-1,))
    prior.layer.weight.data.fill_(1.0)
    key = torch.zeros(1, 1, *GRID)  # knows nothing
    seen = key.clone()
    seen[..., 4, 7] = 9
    with torch.inference_mode():
        found = prior(key, seen[:, None])
    assert divmod(int(found.flatten().argmax()), GRID[1]) == (4, 7)


def test_heads_add_to_it_and_everything_learns() -> None:
    torch.manual_seed(0)
    heads = GLPoseHeads(CHANNELS, JOINTS, OFFSETS, HeadOptions(k=2, n=1, prior="frames", init_std=0.2)).eval()
    key, local = maps(4)
    references, similarity = torch.rand(2, 1, CHANNELS, *GRID), torch.zeros(2, 1)
    assert heads.prior is not None
    found = heads(key, local, references, similarity)
    alone, heads.prior = heads.prior, None
    torch.testing.assert_close(found, heads(key, local, references, similarity) + alone(key, local))
    heads.prior = alone
    found.square().sum().backward()
    assert all(own.grad is not None and own.grad.abs().sum() > 0 for own in alone.parameters())


def test_copies_of_the_key_frame_are_all_that_the_control_sees() -> None:
    torch.manual_seed(0)
    options = HeadOptions(k=2, n=0, prior="frames", inputs="key_copies")
    heads = GLPoseHeads(CHANNELS, JOINTS, OFFSETS, options).eval()
    key, local = maps(4)
    nothing = torch.zeros(2, 0, CHANNELS, *GRID), torch.zeros(2, 0)
    with torch.inference_mode():
        assert torch.equal(heads(key, local, *nothing), heads(key, 1 - local, *nothing))


def test_without_a_prior_heads_are_the_papers() -> None:
    """The same tensors and the same first weights."""
    states = []
    for prior in ("none", "key"):
        torch.manual_seed(0)
        states.append(GLPoseHeads(CHANNELS, JOINTS, OFFSETS, HeadOptions(k=2, prior=prior)).state_dict())
    assert not any(name.startswith("prior.") for name in states[0])
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_the_single_frame_row_has_the_key_frames() -> None:
    options = single_frame(HeadOptions(prior="frames"))
    assert options.prior == "frames" and options.k == 0
    heads = GLPoseHeads(CHANNELS, JOINTS, (), options)
    assert heads.prior is not None and heads.prior.power.shape == (1, JOINTS)


# ------------------------------------------------------------------------------------------------- the backbone's layer
def test_layer_of_the_network_that_ships() -> None:
    """Of features, it gives the network's own heatmaps."""
    layer, network = feature_layer("demo", POSETRACK), load_single_frame("demo", POSETRACK, torch.device("cpu"))
    net, images = load_hrnet("demo"), torch.rand(1, 3, 64, 48)
    assert network.channels == list(range(len(POSETRACK)))
    with torch.inference_mode():
        torch.testing.assert_close(layer(net.features(images)), net(images), atol=1e-4, rtol=1e-4)


def test_checkpoints_without_such_a_layer_are_refused(tmp_path: Path) -> None:
    published = tmp_path / "coco.safetensors"
    save_checkpoint(published, HRNet(8, num_joints=17, stages=4).state_dict(), {})
    for source in (published, write_backbone(tmp_path / "mse.safetensors")):
        with pytest.raises(CheckpointError, match=r"pretrain.stages=3 and pretrain.loss=cross_entropy"):
            feature_layer(source, POSETRACK)
    words = r"15 joints, without .*pretrain.init=demo, pretrain.stages=3, pretrain.loss=cross_entropy\)"
    with pytest.raises(CheckpointError, match=words):
        feature_layer("demo", JHMDB)


# ------------------------------------------------------------------------------------------------------------ pipelines
PRIOR = "train.heads.prior"


def run(config: Path, verb: str, *settings: str, force: bool = False) -> tuple[int, str]:
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    return glpose_stage(config, verb, *arguments, *(["--force"] if force else []))


def test_a_pipeline_with_a_prior(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    config, slow = write_pipeline(tmp_path), ["extract.checkpoint=demo", "train.lr=1e-6"]
    code, printed = run(config, "run", *slow)
    assert code == 0, printed
    before = commit_digests(tmp_path / "work")
    code, printed = run(config, "train", *slow, f"{PRIOR}=key")
    assert code == 1 and "train.heads.prior" in printed  # another recipe: nothing is overwritten unasked
    code, printed = run(config, "run", *slow, f"{PRIOR}=frames", force=True)
    assert code == 0, printed
    assert "GLPose (k=1, n=2, prior: frames) " in printed and "single frame (k=0, n=0, prior: key) " in printed
    after = commit_digests(tmp_path / "work")
    assert {name for name in before if before[name] != after[name]} == {"train", "eval"}
    path = tmp_path / "work/train/latest/glpose" / CHECKPOINTS["last"]
    small = context(config, *slow, f"{PRIOR}=frames")
    wanted = heads_layer(small.config, [small.config.train.heads])
    assert wanted is not None
    held = read_state_dict(path)
    torch.testing.assert_close(held["prior.layer.weight"], wanted.weight, atol=1e-4, rtol=0)  # hardly trained
    assert held["prior.power"].shape == (3, len(POSETRACK))
    assert load_heads(path, space=read_metadata(path)["space"]).prior is not None


@pytest.mark.parametrize("setting", [f"{PRIOR}=key", "train.heads.align=pose", "index.embedding=pose"])
def test_a_backbone_without_the_layer_is_told_before_anything_is_made(tmp_path: Path, setting: str) -> None:
    write_dataset(tmp_path / "data")
    config = write_pipeline(tmp_path)
    code, printed = run(config, "run", setting)
    assert code == 1 and "pretrain.stages=3" in " ".join(printed.split()), printed
    assert not (tmp_path / "work").exists()
    assert run(config, "run")[0] == 0
    code, printed = run(config, "status", setting)
    assert code == 0 and "the next run:" in printed, printed
