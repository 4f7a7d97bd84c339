"""`glpose-stage verify`: damage is found, named, and made good by the next run."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from small_pipelines import attempts, commit_digests, context, finish_project, glpose_stage, write_pipeline

from stages.index import inputs
from stages.verify import verify
from store.errors import CorruptData
from store.folder import StageFolder
from store.tables import read_table, write_table


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run."""
    return finish_project(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project; its pipelines.yaml."""
    folder = shutil.copytree(finished, tmp_path / "done", symlinks=True)
    return write_pipeline(folder)


def shard(config: Path, video: str) -> Path:
    """A shard file of a video's key maps."""
    attempt = attempts(config.parent / "work", "extract")[video]
    folder = config.parent / "work" / "extract" / "data" / video / attempt
    return next(path for path in sorted((folder / "features.zarr" / "key" / "c").rglob("*")) if path.is_file())


def test_sound_outputs_verify(done: Path) -> None:
    code, printed = glpose_stage(done, "verify")
    assert code == 0
    assert "extract: 3 finished" in printed and "eval: 1 finished" in printed


def test_damage_is_named_and_repaired(done: Path) -> None:
    whole = commit_digests(done.parent / "work")
    path = shard(done, "b")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, printed = glpose_stage(done, "verify")
    assert code == 1
    assert "1 fault; verify --repair has the next run mend it:" in printed
    named = r"extract b: proposal \d+, view 0: key does not match its checksum \(features.zarr/key/c/"
    assert re.search(named, printed)
    assert glpose_stage(done, "verify")[0] == 1  # looking changes nothing

    code, printed = glpose_stage(done, "verify", "--repair")
    assert (code, "the next run makes what is damaged again" in printed) == (1, True)
    before = attempts(done.parent / "work", "extract")
    code, printed = glpose_stage(done, "run")
    assert (code, "extract 2 done, 1 to do" in printed) == (0, True)
    after = attempts(done.parent / "work", "extract")
    assert {video for video in after if after[video] != before.get(video)} == {"b"}
    assert commit_digests(done.parent / "work") == whole
    assert glpose_stage(done, "verify")[0] == 0


def test_clean_removes_what_no_commit_names(done: Path) -> None:
    orphan = done.parent / "work" / "extract" / "data" / "b" / "17-dead"
    orphan.mkdir()
    (orphan / "part").write_text("half")
    assert glpose_stage(done, "verify")[0] == 0 and orphan.exists()
    code, printed = glpose_stage(done, "verify", "--clean")
    assert (code, "1 left by killed runs removed" in printed, orphan.exists()) == (0, True, False)
    assert glpose_stage(done, "verify")[0] == 0


def test_records_that_are_damaged_stop_the_sweep(done: Path) -> None:
    """A record that cannot be read no longer says which attempts are its own."""
    work = done.parent / "work"
    [path] = (work / "detect" / "records").iterdir()
    path.write_text("{}")
    whole, kept = commit_digests(work), sorted((work / "detect" / "data").rglob("*"))
    code, printed = glpose_stage(done, "verify", "--clean")
    assert code == 1 and f"detect: records/{path.name} does not match its digest" in printed
    assert "nothing removed, as its records are damaged" in printed
    assert sorted((work / "detect" / "data").rglob("*")) == kept
    assert glpose_stage(done, "verify", "--clean", "--repair")[0] == 1  # the record in force is written anew first
    assert sorted((work / "detect" / "data").rglob("*")) == kept and commit_digests(work) == whole
    assert glpose_stage(done, "verify")[0] == 0


def test_a_damaged_record_in_force_is_named(done: Path) -> None:
    path = done.parent / "work" / "extract" / "stage.json"
    whole = commit_digests(done.parent / "work")
    path.write_text(path.read_text().replace('"k": 1', '"k": 2'))
    code, printed = glpose_stage(done, "verify", "--repair")
    assert code == 1 and "stage.json does not match its digest; delete it and run the stage again" in printed
    assert "Traceback" not in printed
    path.unlink()
    assert glpose_stage(done, "run")[0] == 0
    assert commit_digests(done.parent / "work") == whole and glpose_stage(done, "verify")[0] == 0


def remake(config: Path, stage: str, unit: str, inputs: str, change: Callable[[Path], None]) -> None:
    """Commit a changed copy of a unit: what is wrong with it then matches its checksums."""
    folder = StageFolder(config.parent / "work" / stage)
    record = folder.record_in_force()
    assert record is not None
    commit = folder.commit_of(record, unit)
    with folder.writing(record, unit, inputs, replace=commit) as attempt:
        source = folder.attempt_path(commit)
        assert isinstance(source, Path)
        shutil.copytree(source, attempt.path, dirs_exist_ok=True)
        attempt.meta = commit.meta
        change(attempt.path)


def test_references_are_held_against_the_splits(done: Path) -> None:
    def split(folder: Path) -> None:
        table = read_table(folder, "proposals")
        table.loc[len(table) - 1, "split"] = "eval"
        write_table(folder, "proposals", table)

    remake(done, "extract", "b", context(done).commit("extract", "b").inputs, split)
    assert glpose_stage(done, "verify")[0] == 0  # neighbours of what was there before are stale, not wrong
    remake(done, "index", "b", inputs(context(done), "b"), lambda folder: None)
    code, printed = glpose_stage(done, "verify")
    assert code == 1 and printed.count("index b: ") == printed.count(" is of the other split") >= 2
    last = context(done).commit("extract", "b").meta["proposals"] - 1
    assert f"index b: proposal {last}: in neighbours.parquet reference " in printed


def test_fast_reads_no_contents(done: Path) -> None:
    path = shard(done, "b")
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    told = io.StringIO()
    verify(context(done), Console(file=told), clean=False, repair=False, fast=True)
    assert "extract: 3 finished" in told.getvalue()
    path.write_bytes(content[:-1])
    with pytest.raises(CorruptData, match=f"extract b: features.zarr/key/c/.* has {len(content) - 1} bytes"):
        verify(context(done), Console(file=told), clean=False, repair=True, fast=True)
    assert set(attempts(done.parent / "work", "extract")) == {"a", "c"}


def test_a_terminal_is_shown_how_far_it_is(done: Path) -> None:
    told = io.StringIO()
    verify(context(done), Console(file=told, force_terminal=True, width=120), clean=False, repair=False)
    assert "verify eval" in told.getvalue() and "MB" in told.getvalue()
