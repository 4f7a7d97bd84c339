"""Stores in other people's hands: copied elsewhere, moved, and not to be written to."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from small_pipelines import context, finish_project, glpose_stage, snapshot, write_pipeline

import store
from glpose.data.windows import open_split
from glpose.examples import make_examples
from glpose.keypoints import POSETRACK
from glpose.references import stored_references
from glpose.training import train_heads
from stages.export import import_
from store.errors import NotCommitted


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run."""
    return finish_project(tmp_path_factory.mktemp("done"))


@pytest.fixture
def read_only(done: Path, tmp_path: Path) -> Generator[Path]:
    """A copy of its work folder in which nobody may write, as far as this user can be kept from it."""
    root = tmp_path / "work"
    shutil.copytree(done / "work", root, symlinks=True)
    paths = [root, *(path for path in root.rglob("*") if not path.is_symlink())]
    for path in paths:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    yield root
    for path in paths:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def test_a_read_only_store_opens_and_trains(read_only: Path, done: Path) -> None:
    before = snapshot(read_only)
    opened = store.open(read_only)
    assert len(opened.table(keypoints=True)) == len(store.open(done / "work").table())
    assert opened.verify() == [] and len(opened.describe()) and len(opened.neighbours())
    small = context(done / "pipelines.yaml", f"work={read_only}")
    extract, train = small.config.extract, small.config.train
    split = open_split(opened, "train", 1, extract.crop_size, extract.crop_scale, torch.device("cpu"))
    references = stored_references(split.table, opened.neighbours(["a", "b"]), train.heads.n)
    examples = make_examples(split, references, POSETRACK, train)
    seen: list[float] = []
    result = train_heads(
        examples, {"own": train.heads}, train, small.config.index, report=lambda progress: seen.append(progress.loss)
    )
    assert [line.loss for line in result["own"].log] == pytest.approx([seen[-1]]) and np.isfinite(seen).all()
    assert snapshot(read_only) == before
    if os.geteuid() != 0:  # root may write all the same
        with pytest.raises(PermissionError):
            (read_only / "x").write_text("")


def test_a_moved_store_still_works(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "project", symlinks=True)
    (tmp_path / "project" / "work").rename(tmp_path / "elsewhere")
    opened, was = store.open(tmp_path / "elsewhere"), store.open(done / "work")
    assert opened.videos == was.videos and opened.verify() == []
    assert opened.table().equals(was.table()) and opened.neighbours().equals(was.neighbours())
    assert np.array_equal(opened.features("a").key(), was.features("a").key())
    assert (tmp_path / "elsewhere" / "extract" / "latest" / "a" / "features.zarr").is_dir()
    config = write_pipeline(tmp_path / "project")
    moved = ("--set", f"work={tmp_path / 'elsewhere'}")
    code, printed = glpose_stage(config, "run", *moved)
    assert code == 0 and printed.count(" 0 to do") == 5, printed


def test_an_index_of_other_features_is_not_used(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "project", symlinks=True)
    config, root = write_pipeline(tmp_path / "project"), tmp_path / "project" / "work"
    before = store.open(root)
    code, printed = glpose_stage(config, "extract", "--force", "--set", "extract.crop_scale=1.5")
    assert code == 0, printed
    after = store.open(root)
    for ask in (after.neighbours, lambda: after.neighbours("a"), lambda: after.sample(0)):
        with pytest.raises(NotCommitted, match=r"the index of 'a' .* is of other features: run glpose-stage index"):
            ask()
    assert len(after.table()) and len(after.describe())
    assert glpose_stage(config, "index", "--force", "--set", "extract.crop_scale=1.5")[0] == 0
    assert len(after.sample(0).similarity) == 2
    with pytest.raises(NotCommitted, match="or open the store again"):
        before.neighbours()


def test_an_imported_store_can_be_verified_and_exported(done: Path, tmp_path: Path) -> None:
    config, imported = done / "pipelines.yaml", tmp_path / "imported"
    assert glpose_stage(config, "export", "--hdf5", str(tmp_path / "a.h5"))[0] == 0
    import_(tmp_path / "a.h5", str(imported), Console(quiet=True))
    for command in (["verify"], ["inspect"], ["export", "--hdf5", str(tmp_path / "b.h5")]):
        code, printed = glpose_stage(config, *command, "--set", f"work={imported}")
        assert code == 0, printed
    assert repr(store.open(imported).sample(0)).startswith("Sample('a', proposal 0, frame ")
