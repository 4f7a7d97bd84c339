"""Every public layout of HRNet weights loads; everything that does not fit says so in one or two lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from glpose.extraction import load_backbone
from glpose.models import checkpoints
from glpose.models.checkpoints import (
    SHIPPED,
    feature_tensors,
    load_cascade_rcnn,
    load_heads,
    load_hrnet,
    read_head_options,
    read_metadata,
    read_state_dict,
    resolve_checkpoint,
    save_checkpoint,
    tensors_digest,
)
from glpose.models.hrnet import HRNet, fold_batch_norm
from glpose.trained_on import read_trained_on
from store.errors import CheckpointError

Tensors = dict[str, Tensor]
WIDTH, JOINTS = 8, 15


def random_tensors(model: HRNet, seed: int = 0) -> Tensors:
    """A state dict with distinct values everywhere, variances above zero."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(tensor.shape, generator=draw) * 0.1 + 0.1 if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return random_tensors(HRNet(WIDTH, JOINTS))


def without_head(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("final_layer.")}


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def mmpose(tensors: Tensors, head: str) -> dict[str, Any]:
    names = {(head + name if name.startswith("final_layer.") else "backbone." + name): t for name, t in tensors.items()}
    meta = {"epoch": 210, "dataset_meta": {"sigmas": np.ones(JOINTS), "names": np.array(["nose"], dtype=object)}}
    return {"meta": meta, "state_dict": names | {"data_preprocessor.mean": torch.ones(3, 1, 1)}}


def official_training(tensors: Tensors) -> dict[str, Any]:
    return {
        "epoch": 140,
        "model": "pose_hrnet",
        "perf": np.float64(0.756),
        "state_dict": prefixed({name: tensor + 1 for name, tensor in tensors.items()}, "module."),
        "best_state_dict": tensors,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99)}]},
    }


def dcpose(tensors: Tensors) -> dict[str, Any]:
    others = {
        "module.rough_pose_estimation_net.extra_layer.weight": torch.ones(2),
        "module.offset_mask_combine_conv.0.conv1.weight": torch.ones(3, 3),
        "module.support_temporal_fuse.conv1.weight": torch.ones(4),
    }
    return {"begin_epoch": 20, "state_dict": prefixed(tensors, "module.rough_pose_estimation_net.") | others}


def posewarper(tensors: Tensors) -> Tensors:
    return tensors | {"offset_feats.0.conv1.weight": torch.ones(2), "deform_conv1.weight": torch.ones(2)}


LAYOUTS: dict[str, Callable[[Tensors], dict[str, Any]]] = {
    "official": lambda t: t,
    "official, DataParallel": lambda t: {"epoch": 1, "state_dict": prefixed(t, "module.")},
    "official training": official_training,
    "mmpose 1": lambda t: mmpose(t, "head."),
    "mmpose 0": lambda t: mmpose(t, "keypoint_head."),
    "DCPose": dcpose,
    "DCPose, bare": lambda t: prefixed(t, "rough_pose_estimation_net."),
    "PoseWarper": posewarper,
    "under a name we never heard of": lambda t: {"model": prefixed(t, "module.pose.preact.")},
    "no counters": lambda t: {name: tensor for name, tensor in t.items() if "num_batches" not in name},
}


def assert_holds(model: HRNet, tensors: Tensors) -> None:
    """The network has exactly these values, in float32."""
    loaded = model.state_dict()
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == (torch.float32 if tensor.is_floating_point() else torch.int64), name
        assert torch.equal(loaded[name], tensor.to(loaded[name].dtype)), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_every_layout_loads(layout: str, zipped: bool, tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(LAYOUTS[layout](tensors), path, _use_new_zipfile_serialization=zipped)
    model = load_hrnet(path)
    assert (model.width, model.num_joints, model.stages, model.training) == (WIDTH, JOINTS, 4, False)
    assert_holds(model, tensors)


def test_classifiers_give_features_and_no_heatmaps(tensors: Tensors, tmp_path: Path) -> None:
    classifier = without_head(tensors) | {
        "incre_modules.0.0.conv1.weight": torch.ones(2),
        "downsamp_modules.0.0.weight": torch.ones(2),
        "final_layer.0.weight": torch.ones(2048, 1024, 1, 1),
        "final_layer.1.running_mean": torch.ones(2048),
        "stage4.2.fuse_layers.1.0.0.0.weight": torch.ones(16, 8, 3, 3),
        "stage4.2.fuse_layers.3.2.0.1.num_batches_tracked": torch.tensor(3),
        "classifier.weight": torch.ones(1000, 2048),
    }
    path = tmp_path / "timm.safetensors"
    safetensors.torch.save_file(classifier, path)
    model = load_hrnet(path)
    assert (model.num_joints, model.final_layer) == (0, None)
    assert_holds(model, without_head(tensors))
    assert model.features(torch.zeros(1, 3, 32, 32)).shape == (1, WIDTH, 8, 8)
    with pytest.raises(CheckpointError, match="no final_layer"):
        model(torch.zeros(1, 3, 32, 32))


def test_short_networks_are_recognised() -> None:
    tensors = random_tensors(HRNet(12, 4, stages=3))
    model = load_hrnet(tensors)
    assert (model.width, model.num_joints, model.stages, model.training) == (12, 4, 3, False)
    assert_holds(model, tensors)
    model = load_hrnet(feature_tensors(model))  # the tensors that a feature space names are enough for features
    assert (model.num_joints, model.stages) == (0, 3)
    assert_holds(model, without_head(tensors))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tensors: Tensors) -> None:
    stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    assert_holds(load_hrnet(stored), stored)


def test_the_network_owns_its_memory_and_draws_no_random_numbers(tensors: Tensors) -> None:
    state = torch.get_rng_state()
    model = load_hrnet(tensors)
    assert torch.equal(torch.get_rng_state(), state)
    before = tensors["conv1.weight"].clone()
    model.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in tensors.items()})
    assert before.any() and torch.equal(tensors["conv1.weight"], before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_width_asked_for_is_checked(tensors: Tensors) -> None:
    assert load_hrnet(tensors, width=WIDTH).width == WIDTH
    with pytest.raises(CheckpointError, match="checkpoint is W8, W48 was asked for"):
        load_hrnet(tensors, width=48)


def message(source: Any) -> str:
    """What the user reads when `source` cannot be loaded: at most two lines."""
    with pytest.raises(CheckpointError) as caught:
        load_hrnet(source)
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


def test_missing_tensors_are_named_and_counted(tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    save_checkpoint(path, {name: t for name, t in tensors.items() if not name.startswith("layer1.0.")}, {})
    text = message(path)
    assert str(path) in text
    assert "20 missing (layer1.0.conv1.weight, layer1.0.bn1.weight, layer1.0.bn1.bias, ...)" in text


def test_a_whole_network_that_lost_its_fourth_stage_is_not_taken_for_a_short_one(tensors: Tensors) -> None:
    lost = {name: tensor for name, tensor in tensors.items() if not name.startswith(("transition3.", "stage4."))}
    assert "4 stages" in message(lost) and "missing (transition3.3.0.0.weight," in message(lost)


def test_misshapen_tensors_are_named_with_both_shapes(tensors: Tensors) -> None:
    text = message(tensors | {"stage4.1.branches.2.0.conv1.weight": torch.ones(32, 31, 3, 3)})
    assert "1 misshapen (stage4.1.branches.2.0.conv1.weight (32, 31, 3, 3) instead of (32, 32, 3, 3))" in text
    assert "final_layer.weight (15, 8, 3, 3) instead of (15, 8, 1, 1)" in message(
        tensors | {"final_layer.weight": torch.ones(15, 8, 3, 3)}
    )


@pytest.mark.parametrize("name", ["stage3.4.branches.0.0.conv1.weight", "layer1.4.conv1.weight", "conv1.bias"])
def test_unknown_tensors_within_the_network_are_refused(name: str, tensors: Tensors) -> None:
    assert f"1 unknown ({name})" in message(tensors | {name: torch.ones(8, 8, 3, 3)})


def test_other_networks_are_refused() -> None:
    text = message({"conv1.weight": torch.ones(64, 3, 7, 7), "layer2.0.conv1.weight": torch.ones(1)})
    assert "holds no HRNet" in text and "2 in all (conv1.weight, layer2.0.conv1.weight)" in text


def test_two_networks_in_one_file_are_refused(tensors: Tensors) -> None:
    text = message(prefixed(tensors, "student.") | prefixed(tensors, "teacher."))
    assert "holds 2 HRNets, under student., teacher." in text


def test_a_state_dict_without_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.pth"
    torch.save({"epoch": 3, "state_dict": {}}, path)
    assert f"{path} holds no state dict" in message(path)
    torch.save([torch.ones(3)], path)
    assert f"{path} holds no state dict" in message(path)


class Payload:
    """Unpickling it without care would create a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


class Config:
    """A harmless object of somebody's package, as training checkpoints often hold."""


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickles_of_other_objects_are_refused_and_not_run(zipped: bool, tensors: Tensors, tmp_path: Path) -> None:
    path, witness = tmp_path / "evil.pth", tmp_path / "witness"
    torch.save({"state_dict": tensors, "a": Payload(witness)}, path, _use_new_zipfile_serialization=zipped)
    text = message(path)
    assert f"{path} is refused" in text and "mkdir" in text
    assert not witness.exists()
    torch.load(path, weights_only=False)
    assert witness.exists()  # so the file was dangerous indeed

    torch.save({"state_dict": tensors, "cfg": Config()}, path, _use_new_zipfile_serialization=zipped)
    assert "Config" in message(path) and "weights_only=False" in message(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files_are_named(kind: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{kind}"
    tensors = {f"tensor{i}": torch.rand(100) for i in range(20)}
    if kind == "safetensors":
        save_checkpoint(path, tensors, {})
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    assert read_state_dict(path).keys() == tensors.keys()
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match=f"{path} is not a whole checkpoint"):
        read_state_dict(path)


def test_a_saved_web_page_is_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_text("<!DOCTYPE html><html>Too many downloads</html>")
    assert f"{path} is not a whole checkpoint" in message(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    absent = tmp_path / "absent.pth"
    assert message(absent) == f"checkpoint {absent} does not exist; shipped checkpoints are: {', '.join(SHIPPED)}"
    assert "is a folder" in message(tmp_path)


def test_names_and_paths_resolve(tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.safetensors"
    save_checkpoint(path, tensors, {})
    assert resolve_checkpoint(str(path)) == resolve_checkpoint(path) == path
    with pytest.raises(CheckpointError, match="demo"):
        resolve_checkpoint("dmeo")

    monkeypatch.setattr(checkpoints, "PACKAGE", tmp_path)
    with pytest.raises(CheckpointError, match="'demo' is not in this installation"):
        resolve_checkpoint("demo")
    save_checkpoint(tmp_path / SHIPPED["demo"], tensors, {})
    assert resolve_checkpoint("demo") == tmp_path / SHIPPED["demo"]
    assert load_hrnet("demo").num_joints == JOINTS


def test_saved_checkpoints_read_back_whole(tmp_path: Path) -> None:
    strided = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tensors = {
        "a": strided,
        "shared": strided,
        "view": strided[:, 1],
        "half": torch.rand(3).half(),
        "n": torch.tensor(7),
    }
    path = tmp_path / "new" / "head.safetensors"
    save_checkpoint(path, {"old": torch.ones(1)}, {"step": "1"})
    save_checkpoint(path, tensors, {"step": "2", "feature_space": "abc"})
    back = read_state_dict(path)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in tensors.items())
    assert read_metadata(path) == {"step": "2", "feature_space": "abc"}
    assert [entry.name for entry in path.parent.iterdir()] == ["head.safetensors"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "head.safetensors"
    save_checkpoint(path, {"a": torch.ones(1)}, {})

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, {"a": torch.zeros(1)}, {})
    assert read_state_dict(path)["a"].item() == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["head.safetensors"]


def test_metadata_of_other_files(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, path)
    assert read_metadata(path) == {}
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=str(path)):
        read_metadata(path)


def test_the_digest_names_values_names_shapes_and_dtypes() -> None:
    a, b = torch.arange(6.0).reshape(2, 3), torch.tensor(1.5)
    digest = tensors_digest({"a": a, "b": b})
    assert len(digest) == 64
    assert tensors_digest({"b": b.clone(), "a": a.t().contiguous().t()}) == digest  # order and strides do not matter
    changed = [
        {"a": a, "b": b + 1e-6},
        {"a": a, "c": b},
        {"a": a.reshape(3, 2), "b": b},
        {"a": a.view(torch.int32), "b": b},
        {"a": a},
        {"a": b, "b": a},
    ]
    assert len({digest, *map(tensors_digest, changed)}) == 1 + len(changed)
    # Written down, since feature stores on disk carry it.
    assert digest == "d4d79591f2d4f2b0973e58abf58c34e3dca281c3bc1d7fb5bd6574a6fa686be5"


def test_the_digest_of_the_features_knows_what_they_depend_on(tensors: Tensors) -> None:
    def digest(changed: Tensors) -> str:
        return tensors_digest(feature_tensors(load_hrnet(changed)))

    same = digest(tensors)
    for name in ("stage4.0.branches.0.0.conv1.weight", "final_layer.bias", "stage3.3.fuse_layers.2.0.0.0.weight"):
        assert digest(tensors | {name: tensors[name] + 1}) == same, name
    assert digest(tensors | {"bn1.num_batches_tracked": torch.tensor(9)}) == same
    short = HRNet(WIDTH, JOINTS, stages=3)
    assert digest({name: tensors[name] for name in short.state_dict()}) == same
    for name in ("conv1.weight", "stage3.3.fuse_layers.0.2.1.bias", "stage3.3.branches.1.3.bn2.running_mean"):
        assert digest(tensors | {name: tensors[name] + 1}) != same, name
    with pytest.raises(CheckpointError, match="before fold_batch_norm"):
        feature_tensors(fold_batch_norm(load_hrnet(tensors)))


def test_what_ships_goes_together() -> None:
    heads = read_trained_on("demo-heads")
    options = heads.extract.model_copy(update={"checkpoint": "demo"})
    backbone = load_backbone(options, torch.device("cpu"))
    model = load_heads(resolve_checkpoint("demo-heads"), space=backbone.space)
    assert model.options == heads.heads and model.num_joints == JOINTS
    detector = load_cascade_rcnn(resolve_checkpoint("demo-detector"))
    assert detector.num_classes == 1 and detector.size == (480, 288)
    assert sum(resolve_checkpoint(name).stat().st_size for name in SHIPPED) < 25e6


def test_malformed_words_about_heads_are_told(tmp_path: Path) -> None:
    path = resolve_checkpoint("demo-heads")
    metadata = {**read_metadata(path), "heads": '{"k": "many"}'}
    save_checkpoint(tmp_path / "odd.safetensors", read_state_dict(path), metadata)
    with pytest.raises(CheckpointError, match="what it says of its heads is malformed"):
        read_head_options(tmp_path / "odd.safetensors")
    assert read_head_options("demo-heads").n == 6
