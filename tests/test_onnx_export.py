"""Heads as ONNX files: what onnxruntime makes of them, what they say of themselves, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from small_pipelines import context, finish_project, glpose_stage

from glpose.keypoints import POSETRACK
from glpose.models.checkpoints import load_heads
from glpose.models.glpose import GLPoseHeads
from glpose.onnx_export import input_shapes, write_onnx
from glpose.options import HeadOptions
from glpose.references import head_inputs, in_window
from stages.train import CHECKPOINTS, load_split
from store.errors import CheckpointError, ConfigError

CHANNELS, GRID = 6, (12, 9)

VARIANTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "default": ({}, {"key", "local", "references", "similarity"}),
    "per channel": ({"per_channel": True, "temperature": 0.3}, {"key", "local", "references", "similarity"}),
    "past frames, no weights, sum": (
        {"causal": True, "weighted": False, "combine": "sum"}, {"key", "local", "references", "similarity"},
    ),
    "local only, on S": ({"n": 0, "enhancement": False, "head": "mlp"}, {"key", "local"}),
    "non-local only": ({"k": 0, "mask": "channel"}, {"key", "references", "similarity"}),
    "single frame": ({"k": 0, "n": 0, "enhancement": False}, {"key"}),
    "copies": ({"inputs": "key_copies"}, {"key"}),
    "prior": ({"n": 0, "prior": "frames"}, {"key", "local"}),
    "aligned": ({"align": "pose"}, {"key", "local", "references", "similarity"}),
}  # fmt: skip


def lively_heads(**changes: Any) -> GLPoseHeads:
    """Heads whose weights and statistics keep signals alive."""
    options = HeadOptions.model_validate({"k": 2, "n": 3, "init_std": 0.1} | changes)
    offsets = tuple(o for o in range(-options.k, 0 if options.causal else options.k + 1) if o)
    torch.manual_seed(0)
    heads = GLPoseHeads(CHANNELS, 5, offsets, options).eval()
    for name, tensor in heads.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.6, 1.4)
    return heads


@pytest.mark.parametrize(("changes", "names"), VARIANTS.values(), ids=VARIANTS.keys())
def test_onnxruntime_gives_the_same_heatmaps(changes: dict[str, Any], names: set[str], tmp_path: Path) -> None:
    """For any batch, with missing references, or without any."""
    heads = lively_heads(**changes)
    assert write_onnx(heads, CHANNELS, GRID, tmp_path / "h.onnx", {"a": "b"}) < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "h.onnx", providers=["CPUExecutionProvider"])
    assert {entry.name for entry in session.get_inputs()} == names == set(input_shapes(heads, CHANNELS, GRID))
    assert session.get_modelmeta().custom_metadata_map == {"a": "b"}
    rng = np.random.default_rng(0)
    frames, n = len(heads.offsets), heads.options.n
    for batch in (1, 4):
        shapes = {"key": (), "local": (frames,), "references": (n,)}
        maps = {name: rng.gamma(1, 1, (batch, *lead, CHANNELS, *GRID)) for name, lead in shapes.items()}
        per_channel = heads.options.per_channel
        similarity = rng.normal(0, 9, (batch, n, CHANNELS) if per_channel else (batch, n))
        similarity[0] = -np.inf
        similarity[-1, 2:] = -np.inf
        arrays = {name: array.astype(np.float32) for name, array in {**maps, "similarity": similarity}.items()}
        with torch.inference_mode():
            wanted = heads(*(torch.from_numpy(arrays[name]) for name in ("key", "local", "references", "similarity")))
        found = session.run(["heatmaps"], {name: arrays[name] for name in names})[0]
        assert wanted.std() > 0.05
        np.testing.assert_allclose(np.asarray(found), wanted.numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that has run; its pipelines.yaml."""
    return finish_project(tmp_path_factory.mktemp("done")) / "pipelines.yaml"


def test_trained_heads_are_exported(done: Path, tmp_path: Path) -> None:
    """And give the same heatmaps of stored features."""
    file = tmp_path / "new" / "heads.onnx"
    code, printed = glpose_stage(done, "export", "--onnx", str(file))
    assert code == 0, printed
    assert "glpose, 15 joints, maps of 8 x 16 x 12" in " ".join(printed.split())
    small = context(done)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    loaded = load_split(small, "eval", k=1, n=2)
    split = loaded.features
    assert json.loads(said["joints"]) == list(POSETRACK.joints)
    assert (said["k"], said["n"], json.loads(said["offsets"])) == ("1", "2", [-1, 1])
    assert (said["space"], json.loads(said["crop_size"])) == (split.schema.space, [64, 48])
    assert HeadOptions.model_validate_json(said["heads"]) == small.config.train.heads
    assert (said["similarity"], said["backbone"]) == ("inner_product", split.schema.backbone)
    window = split.window(list(split.spans))
    inputs = head_inputs(window, in_window(split, window, loaded.references), window.rows, products=False)
    arguments = inputs.of(small.config.train.heads)
    names = ("key", "local", "references", "similarity")
    found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, arguments, strict=True)})[0]
    heads = load_heads(done.parent / "work/train/latest/glpose" / CHECKPOINTS["last"], space=said["space"])
    with torch.inference_mode():
        wanted = heads(*arguments).numpy()
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-4)


def test_another_variant(done: Path, tmp_path: Path) -> None:
    file = tmp_path / "single.onnx"
    assert glpose_stage(done, "export", "--onnx", str(file), "--variant", "single_frame")[0] == 0
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["key"]
    assert session.get_modelmeta().custom_metadata_map["n"] == "0"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "give one of --hdf5 FILE and --onnx FILE"),
        (["--onnx", "a.onnx", "--hdf5", "a.h5"], 2, "give one of --hdf5 FILE and --onnx FILE"),
        (["--onnx", "a.onnx", "--set", "eval.checkpoint=best"], 2, "trained without held-out videos"),
        (["--onnx", "a.onnx", "--variant", "glopse"], 1, "no finished output for 'glopse'"),
    ],
)
def test_what_cannot_be_exported(done: Path, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    arguments = [str(tmp_path / part) if part.endswith(".onnx") else part for part in arguments]
    found, printed = glpose_stage(done, "export", *arguments)
    assert found == code and words in " ".join(printed.replace("│", "").split())
    assert not list(tmp_path.iterdir())


def test_files_are_not_overwritten(done: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.onnx"
    file.write_text("mine")
    code, printed = glpose_stage(done, "export", "--onnx", str(file))
    assert code == 1 and "exists already" in printed and file.read_text() == "mine"


def test_nothing_is_trained_yet(done: Path, tmp_path: Path) -> None:
    elsewhere = ("--set", f"work={tmp_path / 'work'}")
    code, printed = glpose_stage(done, "export", "--onnx", str(tmp_path / "a.onnx"), *elsewhere)
    assert code == 1 and "train has not run yet for pipeline 'small'" in printed


def test_heads_of_other_joints_are_refused(done: Path, tmp_path: Path) -> None:
    other = ("--set", "data={kind: jhmdb, root: x}")
    code, printed = glpose_stage(done, "export", "--onnx", str(tmp_path / "a.onnx"), *other)
    assert code == 1 and "predict 15 joints (posetrack), the pipeline's data has 15 joints (jhmdb)" in printed


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_packages_that_are_not_there(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"needs the extra onnx: pip install"):
        write_onnx(lively_heads(), CHANNELS, GRID, tmp_path / "h.onnx", {})
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        """A runtime that is off by a little."""

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            with torch.inference_mode():
                arrays = [torch.from_numpy(inputs[name]) for name in ("key", "local", "references", "similarity")]
                return [heads(*arrays).numpy() + np.float32(2e-4)]

    heads = lively_heads()
    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    with pytest.raises(CheckpointError, match=r"not written: .* differ from torch's by 0\.0002"):
        write_onnx(heads, CHANNELS, GRID, tmp_path / "h.onnx", {})
    assert not list(tmp_path.iterdir())
