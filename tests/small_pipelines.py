"""Pipelines so small that all stages run in a second or two: tiny clips, a tiny untrained backbone."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml

import glpose
import store
from glpose.data.rendered import ClipOptions, write_clip
from glpose.models.checkpoints import save_checkpoint
from glpose.models.hrnet import HRNet
from stages.cli import main
from stages.config import load_pipeline
from stages.run import STAGES
from stages.stage import Context
from store.folder import StageFolder

NAME = "small"
CLIP = ClipOptions(96, 128, frames=6, people=(2, 3), occluders=(0, 1), blur_samples=1, hardness=0.3)
STAGE_OPTIONS: dict[str, Any] = {
    "extract": {"crop_size": [64, 48], "k": 1},
    "index": {"n": 2, "pool": 3, "exclude_window": 1},
    "train": {"epochs": 1, "batch_size": 4, "milestones": [], "heads": {"k": 1, "n": 2, "blocks": 1}},
    "runtime": {"device": "cpu", "threads": 1},
}
RENDERED = {
    "kind": "rendered", "train_clips": 2, "eval_clips": 1, "frames": 6, "height": 96, "width": 128, "people": [2, 3],
    "occluders": [0, 1],
}  # fmt: skip


def write_backbone(path: Path, width: int = 8) -> Path:
    """An untrained HRNet that ends at the features; batch norms that have seen noise keep its features alive."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = HRNet(width, num_joints=15, stages=3).train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        model(torch.randn(8, 3, 64, 48))
        save_checkpoint(path, model.state_dict(), {})
    return path


def write_dataset(root: Path, train: Sequence[str] = ("a", "b"), evaluate: Sequence[str] = ("c",)) -> None:
    """A PoseTrack18-style data set of rendered clips."""
    for split, names in (("train", train), ("val", evaluate)):
        for name in names:
            write_clip(root, split, name, CLIP, seed=2, clip=ord(name[0]))


def write_pipeline(folder: Path, data: dict[str, Any] | None = None, **changes: dict[str, Any]) -> Path:
    """A pipelines.yaml of one pipeline, `small`, on folder/data, working in folder/work; its path.

    data: another data block. changes: merged into the options of a stage.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "backbone.safetensors"
    if not checkpoint.exists():
        write_backbone(checkpoint)
    blocks = {name: {**block, **changes.get(name, {})} for name, block in {**STAGE_OPTIONS, **changes}.items()}
    blocks["extract"] = {"checkpoint": str(checkpoint), **blocks["extract"]}
    data = data or {"kind": "posetrack18", "root": str(folder / "data")}
    path = folder / "pipelines.yaml"
    path.write_text(yaml.safe_dump({"pipelines": {NAME: {"work": str(folder / "work"), "data": data, **blocks}}}))
    return path


def context(config: Path, *settings: str, videos: str = "*") -> Context:
    """The context of one run of the pipeline `small`."""
    return Context(load_pipeline(config, NAME, settings), videos)


def glpose_stage(config: Path, verb: str, *arguments: str) -> tuple[int, str]:
    """Run a command on the pipeline `small` in this process; exit code, and all that it printed."""
    printed = io.StringIO()
    command = ["glpose-stage", verb, "-p", NAME, "--config", str(config), *arguments]
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        mock.patch.object(sys, "argv", command),
    ):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), printed.getvalue()
    return 0, printed.getvalue()


def finish_project(folder: Path) -> Path:
    """Run the whole pipeline on a new data set of two training videos, one to evaluate on; the folder."""
    write_dataset(folder / "data")
    code, printed = glpose_stage(write_pipeline(folder), "run")
    assert code == 0, printed
    return folder


def commit_digests(work: Path) -> dict[str, dict[str, str]]:
    """Contents of everything that is in force: stage -> unit -> digest."""
    return {
        name: {unit: commit.digest for unit, commit in folder.commits(record).items()}
        for name in STAGES
        if (record := (folder := StageFolder(work / name)).record_in_force()) is not None
    }


def check_predict_says_what_eval_said(folder: Path, backbone: str, scratch: Path) -> None:
    """`predict` of the clip `c` of a project that has run, in its boxes and with its heads, finds what eval wrote."""
    proposals = store.open(folder / "work").table("c")
    found = [
        {"image_name": f"c/{row['frame']:06d}.jpg", "score": row["score"],
         "bbox": [row["x1"], row["y1"], row["x2"] - row["x1"], row["y2"] - row["y1"]]}
        for row in proposals.to_dict("records")
    ]  # fmt: skip
    (scratch / "boxes.json").write_text(json.dumps(found))
    heads = folder / "work" / "train" / "latest" / "glpose" / "heads.safetensors"
    clip = folder / "data" / "images" / "val" / "c"
    table = glpose.predict(clip, boxes=scratch / "boxes.json", device="cpu", heads=str(heads), backbone=backbone)
    results = folder / "work" / "eval" / "latest" / "results" / "predictions" / "glpose" / "c.json"
    expected = json.loads(results.read_text())
    assert len(table) == len(expected["annotations"]) > 5
    names = expected["categories"][0]["keypoints"]
    for joint in ("nose", "left_wrist", "right_ankle"):
        column = names.index(joint)
        points = [own["keypoints"][3 * column : 3 * column + 2] for own in expected["annotations"]]
        np.testing.assert_allclose(table[[f"{joint}_x", f"{joint}_y"]], points, atol=2e-3)
        scores = [own["scores"][column] for own in expected["annotations"]]
        np.testing.assert_allclose(table[f"{joint}_score"], scores, rtol=1e-4, atol=1e-7)


def attempts(work: Path, stage: str) -> dict[str, str]:
    """Unit -> the attempt that is in force."""
    folder = StageFolder(work / stage)
    record = folder.record_in_force()
    return {} if record is None else {unit: commit.attempt for unit, commit in folder.commits(record).items()}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Name, size and time of every file and link below a folder: equal where nothing was written."""
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }
