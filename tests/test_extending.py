"""docs/extending.md: its changes, made in a copy of the checkout, all together, give a pipeline that runs."""

from __future__ import annotations

import compileall
import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_pipelines import NAME, STAGE_OPTIONS, write_dataset
from torchvision.models import resnet18

from glpose.data import posetrack18
from glpose.data.annotations import read_annotation_json

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r'^```(diff|python) title="([^"]+)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with all changes of the page."""
    copy = tmp_path_factory.mktemp("extended")
    for package in ("glpose", "stages", "store"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) == PAGE.read_text().count("title=") > 15
    for kind, name, block in blocks:
        if kind == "python":
            assert not (copy / name).exists()
            (copy / name).write_text(block)
            continue
        lines = block.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        text = (copy / name).read_text()
        assert text.count(old) == 1, f"{name} has this {text.count(old)} times:\n{old}"
        (copy / name).write_text(text.replace(old, new))
    return copy


def write_csv_dataset(root: Path) -> None:
    """The first person of each frame of rendered clips, as the page's reader has them."""
    write_dataset(root / "made")
    for split, names in (("train", "ab"), ("val", "c")):
        folder = root / "annotations" / split
        folder.mkdir(parents=True)
        for name in names:
            shutil.copytree(root / "made" / "images" / split / name, root / "images" / name)
            path = root / "made" / "annotations" / split / f"{name}.json"
            notes = posetrack18.parse(path, read_annotation_json(path))
            with open(folder / f"{name}.csv", "w", newline="") as handle:
                for frame in sorted(set(notes.frame.tolist())):
                    person = notes.frame.tolist().index(frame)
                    csv.writer(handle).writerow([frame, *notes.keypoints[person].ravel().tolist()])


def test_the_changes_apply_and_compile(extended: Path) -> None:
    assert compileall.compile_dir(extended, quiet=1)


@pytest.mark.slow
def test_the_changes_run(extended: Path, tmp_path: Path) -> None:
    write_csv_dataset(tmp_path / "data")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    options: dict[str, Any] = {**STAGE_OPTIONS, "work": "work", "data": {"kind": "csv", "root": "data"}}
    options["extract"] = {**options["extract"], "checkpoint": "resnet18.pth"}
    options["train"] = {**options["train"], "heads": {**options["train"]["heads"], "head": "residual"}}
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump({"pipelines": {NAME: options}}))
    code = (
        "import sys; from stages.cli import main; import glpose, store\n"
        f"assert glpose.__file__.startswith({str(extended)!r})\n"
        f"sys.argv = ['glpose-stage', 'run', '-p', {NAME!r}]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(extended)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PCK@0.2 of max(w, h) (annotation:joints)" in done.stdout
    look = (
        "import store; from safetensors import safe_open\n"
        "f = store.open('work').features('a'); print(f.schema.backbone, f.key([0]).shape)\n"
        "heads = safe_open('work/train/latest/glpose/heads.safetensors', 'pt')\n"
        "print(sorted(name for name in heads.keys() if name.startswith('head.'))[-2:])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", look], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(extended)},
    )  # fmt: skip
    assert seen.stdout.splitlines() == ["resnet18_stem (1, 1, 64, 16, 12)", "['head.1.bias', 'head.1.weight']"]


@pytest.mark.slow
def test_the_changed_code_passes_the_checks(extended: Path) -> None:
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert ruff is not None
    done = subprocess.run(
        [ruff, "check", "--config", str(ROOT / "pyproject.toml"), "--no-cache", "."], cwd=extended,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
