"""Maps warped onto the key frame's pose: known moves undone, the field by hand, heads and pipelines that align."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_pipelines import check_predict_says_what_eval_said, glpose_stage, write_dataset, write_pipeline
from torch import Tensor, nn

from glpose.keypoints import POSETRACK
from glpose.models.alignment import AROUND, BODY, REACH, Alignment, joints_seen, moved, spread_moves
from glpose.models.checkpoints import read_state_dict
from glpose.models.glpose import GLPoseHeads, single_frame
from glpose.options import HeadOptions
from glpose.single_frame import feature_layer
from stages.train import CHECKPOINTS

JOINTS, GRID = 3, (32, 24)
PLACES = [(8.0, 9.0), (16.0, 12.0), (24.0, 11.0)]  # y, x of each joint
SURE = 30.0  # logit of a joint's peak: nothing else is likely


def spots(*places: tuple[float, float]) -> Tensor:
    """Features (JOINTS, H, W) of one channel a joint: a blob where it is."""
    y, x = torch.arange(GRID[0])[:, None], torch.arange(GRID[1])
    return torch.stack([torch.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / 8) for at_y, at_x in places])


def as_seen() -> Alignment:
    """Joints are where their channels are high."""
    alignment, layer = Alignment(JOINTS, JOINTS), nn.Conv2d(JOINTS, JOINTS, 1)
    with torch.no_grad():
        layer.weight.copy_(SURE * torch.eye(JOINTS)[..., None, None])
        layer.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]
    alignment.start_from(layer)
    return alignment


def test_copies_of_the_key_frame_stay_what_they_are() -> None:
    key = spots(*PLACES)[None]
    torch.testing.assert_close(as_seen()(key, key[:, None].expand(-1, 4, -1, -1, -1))[0], key.expand(4, -1, -1, -1))


def test_a_body_that_has_moved_as_a_whole_is_moved_back() -> None:
    key = spots(*PLACES)
    for down, right in ((0, 3), (-4, 2), (2.5, -1.25)):
        other = spots(*((y + down, x + right) for y, x in PLACES))
        found = as_seen()(key[None], other[None, None])[0, 0]
        inside = (found - key)[:, 4:-4, 4:-4]  # beyond the edge is what is at it
        assert inside.abs().max() < (0.01 if down == int(down) else 0.1)  # bilinear, off the grid
        assert (other - key).abs().max() > 0.7


def test_joints_that_move_apart_are_each_moved_back() -> None:
    key, other = spots(*PLACES), spots((8, 13), (16, 12), (22, 7))
    found = as_seen()(key[None], other[None, None])[0, 0]
    for joint, (y, x) in enumerate(PLACES):
        peak = found[joint].argmax().item()
        assert abs(peak // GRID[1] - y) <= 1 and abs(peak % GRID[1] - x) <= 1


def test_a_joint_that_is_not_seen_moves_as_those_around_it() -> None:
    """Hidden in the key frame, it is taken from where the rest of the body has gone, and pulls nothing there."""
    key, other = spots(*PLACES), spots(*((y + 3, x - 2) for y, x in PLACES))
    key[1] = 0
    found = as_seen()(key[None], other[None, None])[0, 0]
    torch.testing.assert_close(found[1], spots(*PLACES)[1], atol=0.05, rtol=0)


def test_joints_seen_by_hand() -> None:
    logits = 6 * torch.rand(2, JOINTS, *GRID, generator=torch.Generator().manual_seed(0))
    points, sure = joints_seen(logits)
    sigma = AROUND * GRID[1]
    for sample, joint in np.ndindex(2, JOINTS):
        likely = np.exp(logits[sample, joint].double().numpy())
        likely /= likely.sum()
        top = np.unravel_index(likely.argmax(), GRID)
        y, x = np.mgrid[: GRID[0], : GRID[1]]
        near = likely * np.exp(-((y - top[0]) ** 2 + (x - top[1]) ** 2) / (2 * sigma**2))
        assert float(sure[sample, joint]) == pytest.approx(near.sum(), rel=1e-4)
        mean = [(near * x).sum() / near.sum(), (near * y).sum() / near.sum()]
        np.testing.assert_allclose(points[sample, joint], mean, rtol=1e-4)


def test_moves_by_hand() -> None:
    draw = torch.Generator().manual_seed(1)
    key, others = 20 * torch.rand(1, JOINTS, 2, generator=draw), 20 * torch.rand(1, 2, JOINTS, 2, generator=draw)
    sure = torch.rand(1, 2, JOINTS, generator=draw)
    found = spread_moves(key, others, sure, *GRID)[0].double().numpy()
    for number in range(2):
        weight, moves = sure[0, number].numpy(), (others[0, number] - key[0]).numpy()
        body = weight @ moves / weight.sum()
        for y, x in ((0, 0), (5, 20), (31, 3)):
            near = weight * np.exp(-((key[0].numpy() - [x, y]) ** 2).sum(axis=1) / (2 * (REACH * GRID[1]) ** 2))
            expected = body + near @ (moves - body) / (near.sum() + BODY)
            np.testing.assert_allclose(found[number, :, y, x], expected, rtol=1e-4, atol=1e-4)


def test_moved_takes_what_is_there() -> None:
    maps = torch.rand(1, 2, 3, *GRID, generator=torch.Generator().manual_seed(2))
    by = torch.zeros(1, 2, 2, *GRID)
    by[:, 1, 0], by[:, 1, 1] = 2, -1  # x, y
    found = moved(maps, by)
    torch.testing.assert_close(found[:, 0], maps[:, 0])
    torch.testing.assert_close(found[0, 1, :, 1:, :-2], maps[0, 1, :, :-1, 2:])
    torch.testing.assert_close(found[0, 1, :, 0, :-2], maps[0, 1, :, 0, 2:])  # beyond the edge is what is at it


def test_features_learn_through_it_and_the_layer_does_not() -> None:
    alignment = as_seen()
    key, others = spots(*PLACES)[None].requires_grad_(), spots(*PLACES)[None, None].clone().requires_grad_()
    alignment(key, others).sum().backward()
    assert others.grad is not None and others.grad.abs().sum() > 0 and key.grad is None
    assert not list(alignment.parameters())


def test_features_in_bfloat16_stay_so() -> None:
    """As `finetune.precision: bfloat16` has them; where they are moved to is computed in float32."""
    key, other = spots(*PLACES), spots(*((y, x + 3) for y, x in PLACES))
    wanted = as_seen()(key[None], other[None, None])
    with torch.autocast("cpu", torch.bfloat16):
        found = as_seen()(key[None].bfloat16(), other[None, None].bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=0.02, rtol=0)


# ---------------------------------------------------------------------------------------------------------------- heads
OFFSETS = (-2, -1, 1, 2)


def heads(**changes: object) -> GLPoseHeads:
    torch.manual_seed(0)
    options = HeadOptions.model_validate({"k": 2, "n": 2, "init_std": 0.2, "align": "pose"} | changes)
    own = GLPoseHeads(JOINTS, JOINTS, OFFSETS, options).eval()
    if own.alignment is not None:
        own.alignment.load_state_dict(as_seen().state_dict())
    return own


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a person who walks, and two who stand elsewhere; the last reference is missing."""
    frames = [spots(*((y, x + offset) for y, x in PLACES)) for offset in (0, *OFFSETS)]
    references = [spots(*((y + 2, x) for y, x in PLACES)), torch.zeros(JOINTS, *GRID)]
    similarity = torch.tensor([[0.0, -torch.inf]])
    return frames[0][None], torch.stack(frames[1:])[None], torch.stack(references)[None], similarity


def test_heads_see_what_is_aligned() -> None:
    """A body that moves as a whole is to them one that does not."""
    key, local, references, similarity = inputs()
    still = key[:, None].expand_as(local)
    here = torch.stack([key[0], torch.zeros_like(key[0])])[None]
    with torch.inference_mode():
        found, plain = heads()(key, local, references, similarity), heads(align="none")
        torch.testing.assert_close(found, plain(key, still, here, similarity), atol=0.005, rtol=0)
        assert (found - plain(key, local, references, similarity)).abs().max() > 0.05


def test_the_control_sees_copies_and_a_single_frame_nothing_to_align() -> None:
    key, local, references, similarity = inputs()
    with torch.inference_mode():
        found = [heads(inputs="key_copies", align=own)(key, local, references, similarity) for own in ("none", "pose")]
    assert torch.equal(*found)
    for own in (heads(inputs="key_copies").options, single_frame(HeadOptions(align="pose"))):
        assert own.align == "pose" and not own.aligns and not own.reads_layer
    assert heads(n=0).options.aligns and heads(k=0).options.reads_layer


def test_heads_without_it_are_the_papers() -> None:
    """The same tensors and the same first weights."""
    plain, own = heads(align="none").state_dict(), heads().state_dict()
    assert set(own) - set(plain) == {"alignment.weight", "alignment.bias"}
    assert all(torch.equal(tensor, own[name]) for name, tensor in plain.items())


# ------------------------------------------------------------------------------------------------------------ pipelines
def run(config: Path, verb: str, *settings: str, force: bool = False) -> tuple[int, str]:
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    return glpose_stage(config, verb, *arguments, *(["--force"] if force else []))


def test_a_pipeline_that_aligns(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    config, settings = write_pipeline(tmp_path), ["extract.checkpoint=demo"]
    code, printed = run(config, "run", *settings)
    assert code == 0, printed
    settings += ["train.heads.align=pose"]
    code, printed = run(config, "train", *settings)
    assert code == 1 and "train.heads.align" in printed  # another recipe: nothing is overwritten unasked
    code, printed = run(config, "run", *settings, force=True)
    assert code == 0, printed
    assert "GLPose (k=1, n=2, aligned by pose) " in printed and "single frame (k=0, n=0) " in printed
    held = read_state_dict(tmp_path / "work/train/latest/glpose" / CHECKPOINTS["last"])
    layer = feature_layer("demo", POSETRACK)
    assert torch.equal(held["alignment.weight"], layer.weight.flatten(1))  # as it was
    check_predict_says_what_eval_said(tmp_path, "demo", tmp_path)


def test_a_backbone_without_the_layer_is_told_before_training(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    code, printed = run(write_pipeline(tmp_path), "run", "train.heads.align=pose")
    assert code == 1 and "pretrain.stages=3" in " ".join(printed.split()), printed
