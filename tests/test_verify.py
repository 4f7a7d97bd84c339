"""`glpose-stage verify`: damage is found, named, and made good by the next run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_pipelines import attempts, commit_digests, finish_project, glpose_stage, write_pipeline


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
    assert "1 files are damaged" in printed and "extract b: features.zarr/key/c/" in printed
    assert "does not match its checksum" in printed
    assert glpose_stage(done, "verify")[0] == 1  # looking changes nothing

    code, printed = glpose_stage(done, "verify", "--repair")
    assert (code, "the next run makes them again" in printed) == (1, True)
    before = attempts(done.parent / "work", "extract")
    code, printed = glpose_stage(done, "run")
    assert (code, "extract 2 done, 1 to do" in printed) == (0, True)
    after = attempts(done.parent / "work", "extract")
    assert {video for video in after if after[video] != before.get(video)} == {"b"}
    assert commit_digests(done.parent / "work") == whole
    assert glpose_stage(done, "verify")[0] == 0


def test_clean_removes_what_no_commit_names(done: Path) -> None:
    orphan = done.parent / "work" / "extract" / "data" / "b" / "killed"
    orphan.mkdir()
    (orphan / "part").write_text("half")
    assert glpose_stage(done, "verify")[0] == 0 and orphan.exists()
    code, printed = glpose_stage(done, "verify", "--clean")
    assert (code, "1 left by killed runs removed" in printed, orphan.exists()) == (0, True, False)
    assert glpose_stage(done, "verify")[0] == 0
