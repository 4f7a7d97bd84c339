"""Stages on a real scheduler with two worker processes: what they make, what they refuse, what fails."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from dask_processes import (
    PER_VIDEO,
    at,
    command,
    environment,
    project,
    quiet_project,
    scheduler,
    wait_for,
    worker,
    workers_of,
    write_detector,
    write_killing_detector,
)
from distributed import Client
from rich.console import Console
from small_pipelines import RENDERED, attempts, commit_digests, context, glpose_stage, write_pipeline

from stages import cluster
from stages import worker as on_worker
from stages.console import Tally, counting
from stages.run import STAGES, expected_record
from stages.unit import Task
from store.folder import StageFolder
from store.record import fingerprint


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with two workers."""
    folder = tmp_path_factory.mktemp("crew")
    with (
        scheduler(folder) as (address, _),
        worker(folder, address),
        worker(folder, address),
        Client(address, set_as_default=False) as client,
    ):
        wait_for(lambda: len(workers_of(client)) == 2, "two workers")
        yield address


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages have run in one process."""
    return quiet_project(tmp_path_factory.mktemp("quiet"))


def run_stages(config: Path, *arguments: str) -> None:
    for stage in PER_VIDEO:
        code, printed = glpose_stage(config, stage, *arguments)
        assert code == 0, printed
        assert "failed" not in printed and "Traceback" not in printed


# ----------------------------------------------------------------------------------------------------- what is made
def test_two_workers_make_what_one_process_makes(crew: str, quiet: Path, tmp_path: Path) -> None:
    config = project(quiet, tmp_path / "two")
    code, printed = glpose_stage(config, "detect", *at(crew))
    assert code == 0, printed
    assert "detect 0 done, 5 to do" in printed and f"  2 workers of the scheduler at {crew}" in printed
    run_stages(config, *at(crew))
    assert commit_digests(tmp_path / "two" / "work") == commit_digests(quiet / "work")
    begun = attempts(tmp_path / "two" / "work", "extract")  # an attempt's name begins with the time
    people = {video: commit.meta["proposals"] for video, commit in context(config).commits("detect").items()}
    in_order = [people[video] for video in sorted(begun, key=lambda video: begun[video])]
    assert sorted(in_order[:2]) == sorted(people.values())[-2:] != sorted(people.values())[:2]  # longest first
    code, printed = glpose_stage(config, "index", *at("tcp://127.0.0.1:1"))  # nothing to do needs no worker
    assert (code, "index 5 done, 0 to do" in printed) == (0, True)
    for stage in PER_VIDEO:
        assert StageFolder(tmp_path / "two" / "work" / stage).clean() == []


def test_processes_of_this_machine(quiet: Path, tmp_path: Path) -> None:
    config = project(quiet, tmp_path / "local")
    detector = write_detector(tmp_path, '(HERE / ("with-" + os.environ["OMP_WAIT_POLICY"])).touch()')
    alone = project(quiet, tmp_path / "alone")
    assert glpose_stage(alone, "detect", *detector)[0] == 0
    once = len((tmp_path / "loads").read_text().split())

    (tmp_path / "loads").unlink()
    local = ("--set", "cluster={kind: local, workers: 2, threads: 1, dashboard: false}")
    code, printed = glpose_stage(config, "detect", *local, *detector)
    assert (code, "  2 workers on this machine, 1 thread each\n" in printed) == (0, True), printed
    assert commit_digests(tmp_path / "alone" / "work") == commit_digests(tmp_path / "local" / "work")
    assert (tmp_path / "with-PASSIVE").exists()
    loads = Counter((tmp_path / "loads").read_text().split())
    del loads[str(os.getpid())]
    assert len(loads) == 2 and max(loads.values()) <= once  # per process, not per video
    wait_for(lambda: not any(Path(f"/proc/{number}").exists() for number in loads), "the workers' end")


@pytest.mark.slow
def test_two_commands_at_once_lose_nothing_and_write_nothing_twice(crew: str, quiet: Path, tmp_path: Path) -> None:
    config = project(quiet, tmp_path / "twice")
    assert glpose_stage(config, "detect")[0] == 0
    both = [
        subprocess.Popen(
            command(config, "extract", *at(crew)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment(),
        )
        for _ in range(2)
    ]  # fmt: skip
    printed = [each.communicate()[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], printed
    extracted = commit_digests(tmp_path / "twice" / "work")["extract"]
    assert extracted == commit_digests(quiet / "work")["extract"]
    folder = tmp_path / "twice" / "work" / "extract"
    left = {(path.parent.name, path.name) for path in (folder / "data").glob("*/*")}
    assert left == set(attempts(tmp_path / "twice" / "work", "extract").items())


# ----------------------------------------------------------------------------------------------------------- faults
def test_a_video_that_cannot_be_read_fails_alone(crew: str, quiet: Path, tmp_path: Path) -> None:
    config = project(quiet, tmp_path / "bad")
    assert glpose_stage(config, "detect", *at(crew))[0] == 0
    frame = tmp_path / "bad" / "data" / "images" / "train" / "b" / "000002.jpg"
    content = frame.read_bytes()
    frame.write_bytes(bytes(len(content)))
    code, printed = glpose_stage(config, "extract", *at(crew))
    reason = "error: extract: 1 of 5 failed, the others are finished:\n  b: video 'b': frame 2 cannot be decoded"
    assert (code, reason in printed) == (1, True), printed
    assert sorted(attempts(tmp_path / "bad" / "work", "extract")) == ["a", "c", "d", "e"]
    frame.write_bytes(content)
    code, printed = glpose_stage(config, "extract", *at(crew))
    assert (code, "extract 4 done, 1 to do" in printed) == (0, True)
    extracted = commit_digests(tmp_path / "bad" / "work")["extract"]
    assert extracted == commit_digests(quiet / "work")["extract"]


def test_an_error_that_nobody_foresaw_fails_its_video_alone(crew: str, quiet: Path, tmp_path: Path) -> None:
    config = project(quiet, tmp_path / "odd")
    assert glpose_stage(config, "detect", *at(crew))[0] == 0
    (tmp_path / "odd" / "work" / "extract" / "data").mkdir(parents=True)
    (tmp_path / "odd" / "work" / "extract" / "data" / "b").touch()  # where a folder should be
    code, printed = glpose_stage(config, "extract", *at(crew))
    assert (code, "  b: FileExistsError: " in printed, "whose log says more" in printed) == (1, True, True), printed
    assert "Traceback" not in printed
    assert sorted(attempts(tmp_path / "odd" / "work", "extract")) == ["a", "c", "d", "e"]


def test_a_worker_killed_in_the_middle_of_a_video(crew: str, quiet: Path, tmp_path: Path) -> None:
    config, detector = project(quiet, tmp_path / "killed"), write_killing_detector(tmp_path, times=1)
    code, printed = glpose_stage(config, "detect", *at(crew), *detector, "--set", "runtime.frames=1")
    assert code == 0, printed
    assert len(list(tmp_path.glob("killed-*"))) == 1
    alone = project(quiet, tmp_path / "alone")
    assert glpose_stage(alone, "detect", *detector)[0] == 0
    assert commit_digests(tmp_path / "killed" / "work") == commit_digests(tmp_path / "alone" / "work")
    assert len(StageFolder(tmp_path / "killed" / "work" / "detect").clean()) == 1  # what the dead one had begun


def test_a_full_disk_stops_the_stage(crew: str, quiet: Path, tmp_path: Path) -> None:
    config = project(quiet, tmp_path / "full")
    detector = write_detector(
        tmp_path, "from store.errors import DiskFull\nraise DiskFull('the disk is full while writing x')"
    )
    code, printed = glpose_stage(config, "detect", *at(crew), *detector)
    assert (code, printed.endswith("error: the disk is full while writing x\n")) == (1, True), printed
    assert attempts(tmp_path / "full" / "work", "detect") == {}


# ------------------------------------------------------------------------------------------------ unfit, unreachable
def test_no_scheduler_there(quiet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECTING", 0.5)
    config = project(quiet, tmp_path / "nobody")
    code, printed = glpose_stage(config, "detect", *at("tcp://127.0.0.1:1"))
    assert code == 1
    assert "error: no scheduler answers at tcp://127.0.0.1:1 (" in printed
    assert "is it running, and its port open (cluster.address)?" in printed and "Traceback" not in printed


def test_what_workers_make_of_a_video_is_made_of_that_video_alone() -> None:
    """So that they need not list the data set for it; clips that are drawn are no videos yet."""
    assert {name for name, stage in STAGES.items() if stage.distributed and not stage.by_video} <= {"render"}
    assert all(STAGES[name].by_video for name in ("detect", "extract", "crops", "index"))


def test_workers_that_see_other_folders_are_told(crew: str, quiet: Path, tmp_path: Path) -> None:
    config = context(write_pipeline(quiet)).config
    stage = STAGES["detect"]
    record = fingerprint(expected_record(stage, config))
    (tmp_path / "empty").mkdir()
    with Client(crew, set_as_default=False) as client:

        def said(**changes: object) -> tuple[str, str]:
            job = on_worker.Job(config.model_copy(update=changes), "detect", record, "run")
            outcome = client.submit(on_worker.make, job, Task("a"), (), pure=False).result()
            return outcome.status, outcome.line

        status, line = said(work=tmp_path / "nowhere")
        assert status == "unfit"
        assert f"it does not see the work folder {tmp_path}/nowhere: workers need it under the same path" in line
        status, line = said(data=config.data.model_copy(update={"root": tmp_path / "gone"}))
        assert (status, f"it does not see the data folder {tmp_path}/gone" in line) == ("unfit", True)
        status, line = said(work=tmp_path / "empty")
        assert (status, "sees another work folder" in line) == ("unfit", True)
        assert said()[0] == "kept"  # what it sees now is what is there


def test_relative_paths_are_those_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker in another folder finds the same pictures and weights."""
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "photos").mkdir(parents=True)
    there.mkdir()
    cv2.imwrite(str(here / "photos" / "1.png"), np.zeros((8, 8, 3), np.uint8))
    write_pipeline(here, RENDERED | {"photos": "photos"})
    monkeypatch.chdir(here)
    weights = ["extract.checkpoint=backbone.safetensors", "detect.detector.checkpoint=backbone.safetensors"]
    settings = [*weights, "detect.train.source=cascade_rcnn", "detect.eval.source=cascade_rcnn"]
    config = context(Path("pipelines.yaml"), *settings).config
    wanted = expected_record(STAGES["index"], config)  # with those of render, detect and extract
    own = on_worker.anchored(config)
    monkeypatch.chdir(there)
    assert expected_record(STAGES["index"], own) == wanted
    monkeypatch.chdir(here)
    (here / "demo").write_text("a file that is called as weights that ship")
    assert (
        on_worker.anchored(context(Path("pipelines.yaml"), "extract.checkpoint=demo").config).extract.checkpoint
        == "demo"
    )


def test_workers_of_another_version_are_refused(quiet: Path, tmp_path: Path) -> None:
    config = project(quiet, tmp_path / "old")
    preload = (
        "import dataclasses; from stages.run import STAGES as s; "
        "s['detect'] = dataclasses.replace(s['detect'], version=0)"
    )
    with scheduler(tmp_path) as (address, _), worker(tmp_path, address, "--preload", preload):
        code, printed = glpose_stage(config, "detect", *at(address))
    assert code == 1
    assert "error: worker tcp://127.0.0.1:" in printed
    version = STAGES["detect"].version
    assert f"it would make detect otherwise than the command:\n  detect code version: {version} -> 0\n" in printed
    assert "install the same glpose" in printed
    assert attempts(tmp_path / "old" / "work", "detect") == {}


@pytest.mark.slow
def test_workers_that_make_several_videos_at_once_are_refused(quiet: Path, tmp_path: Path) -> None:
    config = project(quiet, tmp_path / "wide")
    with scheduler(tmp_path) as (address, _), worker(tmp_path, address, "--nthreads", "2"):
        code, printed = glpose_stage(config, "detect", *at(address))
    assert (code, "it makes 2 videos at once: start workers with --nthreads 1" in printed) == (1, True), printed


def test_the_bar_counts() -> None:
    tally = Tally(counting(Console(quiet=True)), "extract", 3)
    tally.begin("a")
    assert str(tally) == "extract a"
    tally.begin("b")
    assert str(tally) == "extract, 2 running"
    tally.end("a", failed=True)
    assert str(tally) == "extract b, 1 failed"
    tally.end("b", people=5)
    assert str(tally).startswith("extract, 1 failed, ") and str(tally).endswith(" people/s")
    assert (tally.done, tally.failed, tally.total) == (2, 1, 3)


def test_slurm_without_slurm(quiet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, printed = glpose_stage(project(quiet, tmp_path / "x"), "detect", "--set", "cluster={kind: slurm, workers: 2}")
    assert (code, "cluster.kind slurm: there is no sbatch on this machine" in printed) == (1, True)
