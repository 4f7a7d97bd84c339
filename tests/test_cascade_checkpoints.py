"""mmdetection's Cascade R-CNN checkpoints and ours load; whatever does not fit says so in one line."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from glpose.models.cascade_checkpoints import mmdetection_name
from glpose.models.cascade_rcnn import ARCHITECTURES, CascadeRCNN
from glpose.models.checkpoints import load_cascade_rcnn, read_state_dict, save_checkpoint
from glpose.models.hrnet import HRNet
from store.errors import CheckpointError

Tensors = dict[str, Tensor]
FC_CLS = "roi_head.bbox_head.{}.fc_cls.{}"


def shapes(architecture: str, num_classes: int) -> dict[str, torch.Size]:
    """A network's tensors, by our names."""
    with torch.device("meta"):
        model = CascadeRCNN(architecture, num_classes)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def ours() -> Tensors:
    """Distinct values under our names, for the smallest network with 2 classes."""
    draw = torch.Generator().manual_seed(0)
    return {
        name: torch.tensor(3) if name.endswith("num_batches_tracked") else torch.rand(shape, generator=draw) + 0.1
        for name, shape in shapes("resnet18_narrow", 2).items()
    }


@pytest.fixture(scope="module")
def theirs(ours: Tensors) -> Tensors:
    """The same under mmdetection's names."""
    return {mmdetection_name(name): tensor for name, tensor in ours.items()}


def assert_holds(model: CascadeRCNN, tensors: Tensors) -> None:
    """The network has exactly these values, in float32."""
    loaded = model.state_dict()
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == (torch.float32 if tensor.is_floating_point() else torch.int64), name
        assert torch.equal(loaded[name], tensor.to(loaded[name].dtype)), name


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def test_both_spellings_hold_every_tensor_once(ours: Tensors, theirs: Tensors) -> None:
    assert len(theirs) == len(ours)
    assert not theirs.keys() & ours.keys()
    with pytest.raises(ValueError, match=r"'neck\.x' is no tensor"):
        mmdetection_name("neck.x")


@pytest.mark.parametrize(
    ("listing", "architecture", "num_classes"),
    [
        ("r50_coco80", "resnet50", 80),
        ("r101_coco80", "resnet101", 80),
        ("x101_64x4d_coco80", "resnext101_64x4d", 80),
        ("x101_64x4d_person1", "resnext101_64x4d", 1),
    ],
)
def test_names_and_shapes_are_mmdetections(
    shared_data: Path, listing: str, architecture: str, num_classes: int
) -> None:
    recorded = json.loads((shared_data / "vectors" / "cascade" / f"state_dict_{listing}.json").read_text())
    recorded = {name: entry["shape"] if isinstance(entry, dict) else entry for name, entry in recorded.items()}
    names = {mmdetection_name(name): list(shape) for name, shape in shapes(architecture, num_classes).items()}
    assert names == recorded


def test_the_key_map_is_the_recorded_one(shared_data: Path) -> None:
    recorded = json.loads((shared_data / "vectors" / "cascade" / "key_map.json").read_text())
    fill = {"{i}": "2", "{s}": "1", "{p}": "bias", "{rest}": "layer1.0.bn1.running_mean"}
    checked = 0
    for theirs, ours in recorded.items():
        if theirs.startswith("_"):
            continue
        ours = ours.split("  ")[0]
        for blank, value in fill.items():
            theirs, ours = theirs.replace(blank, value), ours.replace(blank, value)
        assert mmdetection_name(ours) == theirs
        checked += 1
    assert checked == 10


@pytest.mark.parametrize(
    ("architecture", "num_classes"), [*((name, 80) for name in ARCHITECTURES), ("resnet50", 1), ("resnet18_narrow", 1)]
)
def test_every_backbone_and_head_is_recognised(architecture: str, num_classes: int) -> None:
    flat = {
        mmdetection_name(name): torch.ones(()).expand(shape)
        for name, shape in shapes(architecture, num_classes).items()
    }
    model = load_cascade_rcnn(flat)
    assert (model.architecture, model.num_classes, model.training) == (architecture, num_classes, False)


def test_every_layout_loads(ours: Tensors, theirs: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "epoch_12.pth"
    meta = {"mmdet_version": "2.28.0", "CLASSES": ("person", "bicycle"), "epoch": 12}
    extras = {
        "roi_head.mask_head.0.convs.0.conv.weight": torch.ones(3),
        "ema_backbone_conv1_weight": torch.ones(3),
        "data_preprocessor.mean": torch.ones(3, 1, 1),
    }
    layouts: list[dict[str, Any]] = [
        {"meta": meta, "state_dict": theirs, "optimizer": {"state": {}, "param_groups": [{"lr": 0.02}]}},
        theirs,
        {"state_dict": prefixed(theirs, "module.") | extras},
        prefixed(theirs, "teacher.detector."),
        {name: tensor for name, tensor in theirs.items() if not name.endswith("num_batches_tracked")},
        {"state_dict": ours},
    ]
    for layout in layouts:
        torch.save(layout, path)
        model = load_cascade_rcnn(path)
        assert not model.training
        counters = any("num_batches_tracked" in name for name in layout.get("state_dict", layout))
        assert_holds(model, {n: t if counters or "num_batches" not in n else torch.tensor(0) for n, t in ours.items()})


def test_safetensors_load_in_both_spellings(ours: Tensors, theirs: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "cascade.safetensors"
    safetensors.torch.save_file(theirs, path)
    model = load_cascade_rcnn(str(path))
    assert_holds(model, ours)
    save_checkpoint(path, model.state_dict(), {"step": "1"})
    assert_holds(load_cascade_rcnn(path), ours)


def test_half_precision_becomes_float32(ours: Tensors, theirs: Tensors) -> None:
    def halved(tensors: Tensors) -> Tensors:
        return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}

    assert_holds(load_cascade_rcnn(halved(theirs)), halved(ours))


def test_the_network_owns_its_memory_and_draws_no_random_numbers(ours: Tensors, theirs: Tensors) -> None:
    state = torch.get_rng_state()
    model = load_cascade_rcnn(theirs)
    assert torch.equal(torch.get_rng_state(), state)
    model.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in ours.items()})
    assert all(tensor.any() for tensor in theirs.values())
    assert all(parameter.requires_grad for parameter in model.parameters())


def message(source: Any) -> str:
    """What the user reads when `source` cannot be loaded: one line."""
    with pytest.raises(CheckpointError) as caught:
        load_cascade_rcnn(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "backbone.conv1.weight",
        "backbone.layer1.0.conv2.weight",
        "backbone.layer3.1.bn2.running_var",
        "neck.fpn_convs.3.conv.bias",
        "rpn_head.rpn_conv.weight",
        "rpn_head.rpn_cls.weight",
        "roi_head.bbox_head.0.shared_fcs.1.weight",
        FC_CLS.format(0, "weight"),
        FC_CLS.format(2, "bias"),
        "roi_head.bbox_head.1.fc_reg.bias",
    ],
)
def test_any_missing_or_misshapen_tensor_is_named(name: str, theirs: Tensors) -> None:
    given = "the state dict does not fit Cascade R-CNN on resnet18_narrow with 2 classes: tensors"
    assert message({n: t for n, t in theirs.items() if n != name}) == f"{given} 1 missing ({name})"
    shape = tuple(theirs[name].shape)
    wrong = (shape[0] + 1, *shape[1:])
    text = message(theirs | {name: torch.zeros(wrong)})
    assert text == f"{given} 1 misshapen ({name} {wrong} instead of {shape})"


def test_tensors_are_named_as_the_checkpoint_names_them(ours: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    save_checkpoint(path, {name: t for name, t in ours.items() if not name.startswith("rpn.")}, {})
    text = message(path)
    assert str(path) in text
    assert "6 missing (rpn.head.conv.0.0.weight, rpn.head.conv.0.0.bias, rpn.head.cls_logits.weight, ...)" in text


def test_boxes_per_class_are_named(theirs: Tensors) -> None:
    text = message(theirs | {"roi_head.bbox_head.2.fc_reg.weight": torch.ones(8, 128)})
    assert "(roi_head.bbox_head.2.fc_reg.weight (8, 128) instead of (4, 128))" in text


@pytest.mark.parametrize(
    "name",
    [
        "backbone.layer2.0.conv2_offset.weight",  # deformable convolutions
        "neck.fpn_convs.0.gn.weight",
        "roi_head.semantic_head.convs.0.conv.weight",
        "roi_head.bbox_head.3.fc_cls.weight",
    ],
)
def test_parts_that_would_change_the_boxes_are_refused(name: str, theirs: Tensors) -> None:
    assert f"1 unknown ({name})" in message(theirs | {name: torch.ones(3)})


def test_other_networks_are_refused(theirs: Tensors) -> None:
    assert "holds no R-CNN" in message(HRNet(8, 0, stages=3).state_dict())
    assert "holds no state dict" in message({})

    one_stage = {re.sub(r"bbox_head\.0\.", "bbox_head.", name): tensor for name, tensor in theirs.items()}
    one_stage = {name: tensor for name, tensor in one_stage.items() if not re.search(r"bbox_head\.\d", name)}
    text = message(one_stage)  # mmdetection's Faster R-CNN
    assert "24 missing (roi_head.bbox_head.0.shared_fcs.0.weight" in text
    assert "8 unknown (roi_head.bbox_head." in text

    deeper = theirs | {"backbone.layer3.35.conv1.weight": torch.ones(3)}
    assert "another backbone than resnet18_half, resnet18_narrow, resnet50," in message(deeper)
    assert "36 blocks in layer3, conv2 of layer1 (64, 64, 3, 3)" in message(deeper)
    assert "holds 2 detectors, under student., teacher.: pass a dict of one" in message(
        prefixed(theirs, "student.") | prefixed(theirs, "teacher.")
    )


def test_caffe_style_weights_are_refused(theirs: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "cascade_rcnn_r50_caffe_fpn_1x_coco.pth"
    torch.save(theirs, path)
    assert f"{path} is of mmdetection's caffe style" in message(path)


class Config:
    """A harmless object of somebody's package."""


def test_pickles_of_other_objects_are_refused(theirs: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "epoch_12.pth"
    torch.save({"state_dict": theirs, "cfg": Config()}, path)
    with pytest.raises(CheckpointError, match=f"{path} is refused: it holds a .*Config"):
        load_cascade_rcnn(path)
    torch.save(Config(), path)
    with pytest.raises(CheckpointError, match="is refused"):
        load_cascade_rcnn(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_cascade_rcnn(tmp_path / "absent.pth")


def test_the_logs_in_a_training_checkpoint_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as mmengine pickles its HistoryBuffer: an object with arrays and its own bound methods
    class HistoryBuffer:
        def __init__(self) -> None:
            self.history, self.methods = np.zeros(3), {"mean": self.mean}

        def mean(self) -> float:
            return float(self.history.mean())

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["mmengine.logging.history_buffer"], "HistoryBuffer", HistoryBuffer, raising=False)
    path = tmp_path / "epoch_12.pth"
    torch.save({"state_dict": {"a.weight": torch.ones(2)}, "message_hub": {"log": {"loss": HistoryBuffer()}}}, path)
    assert list(read_state_dict(path)) == ["a.weight"]
