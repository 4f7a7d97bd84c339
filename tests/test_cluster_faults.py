"""Workers killed at any moment, a scheduler that goes, Ctrl-C, a worker that hangs: nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dask_processes import (
    PER_VIDEO,
    at,
    command,
    environment,
    process,
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
from small_pipelines import attempts, commit_digests, glpose_stage

import store
from stages.cluster import count_workers
from store.folder import StageFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages have run in one process."""
    return quiet_project(tmp_path_factory.mktemp("quiet"))


def assert_sound(work: Path) -> None:
    """What is committed is whole, and once; what else lies there is swept."""
    if (work / "extract").is_dir() and attempts(work, "extract"):
        assert store.open(work).verify() == []
    for stage in PER_VIDEO:
        folder = StageFolder(work / stage)
        folder.clean()
        left = {(path.parent.name, path.name) for path in (work / stage / "data").glob("*/*") if path.is_dir()}
        assert left == set(attempts(work, stage).items())


def finished(work: Path) -> int:
    return sum(len(attempts(work, stage)) for stage in PER_VIDEO)


def begin(config: Path, verb: str, *arguments: str) -> subprocess.Popen[str]:
    """A command as a process in a session of its own, that hears Ctrl-C, as a terminal would have it."""
    return subprocess.Popen(
        command(config, verb, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(), start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in the background
    )  # fmt: skip


def wait_until_either(driver: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Return when a condition holds, or the command has ended."""
    wait_for(lambda: condition() or driver.poll() is not None, "the workers, or the command's end")


def test_workers_killed_at_random_moments(quiet: Path, tmp_path: Path) -> None:
    config, moments, kills = project(quiet, tmp_path / "killed"), random.Random(0), 0
    with (
        scheduler(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="20") as (address, _),
        worker(tmp_path, address),
        worker(tmp_path, address),
        Client(address, set_as_default=False) as client,
    ):
        for stage in PER_VIDEO:
            wait_for(lambda: count_workers(client) == 2, "two workers")
            driver = begin(config, stage, *at(address))
            folder = tmp_path / "killed" / "work" / stage / "data"
            while driver.poll() is None and kills < 6:
                before = len(list(folder.glob("*/*")))
                wait_until_either(driver, lambda seen=before, where=folder: len(list(where.glob("*/*"))) > seen)
                time.sleep(moments.uniform(0.0, 0.1))
                with contextlib.suppress(Exception):  # the one asked may be dying
                    os.kill(moments.choice(list(workers_of(client).values())), signal.SIGKILL)
                    kills += 1
                wait_until_either(driver, lambda: count_workers(client) == 2)
            printed = driver.communicate()[0]
            assert (driver.returncode, "Traceback" in printed) == (0, False), printed
    assert kills >= 3
    assert commit_digests(tmp_path / "killed" / "work") == commit_digests(quiet / "work")
    assert_sound(tmp_path / "killed" / "work")


def test_a_video_that_kills_every_worker_is_listed(quiet: Path, tmp_path: Path) -> None:
    config = project(quiet, tmp_path / "deadly")
    only = f"image.sum() == {brightness(tmp_path / 'deadly' / 'data' / 'images' / 'train' / 'b' / '000000.jpg')}"
    detector = write_killing_detector(tmp_path, times=99, only=only)
    text = (tmp_path / "detector.py").read_text().replace(">= 2", ">= 1")
    (tmp_path / "detector.py").write_text(text)
    local = ("--set", "cluster={kind: local, workers: 2, threads: 1, dashboard: false}")
    driver = begin(config, "detect", *local, *detector, "--set", "runtime.frames=1")
    printed = driver.communicate(timeout=300)[0]
    assert driver.returncode == 1
    assert (
        "error: detect: 1 of 5 failed, the others are finished:\n  b: 3 workers died over it, the last at tcp"
        in printed
    )
    assert "Traceback" not in printed
    assert len(list(tmp_path.glob("killed-*"))) == 3
    assert sorted(attempts(tmp_path / "deadly" / "work", "detect")) == ["a", "c", "d", "e"]
    (tmp_path / "detector.py").write_text(text.replace("< 99", "< 0"))
    code, printed = glpose_stage(config, "detect", "--force", *detector, "--set", "runtime.frames=1")
    assert code == 0, printed


def brightness(path: Path) -> int:
    import cv2

    image = cv2.imread(str(path))
    assert image is not None
    return int(image.sum())


def test_a_scheduler_that_goes_and_comes_back(quiet: Path, tmp_path: Path) -> None:
    config, detector = project(quiet, tmp_path / "gone"), write_detector(tmp_path, "time.sleep(0.3)")
    work = tmp_path / "gone" / "work"
    with scheduler(tmp_path) as (address, server), worker(tmp_path, address), worker(tmp_path, address):
        driver = begin(config, "detect", *at(address), *detector, "--set", "runtime.frames=1")
        wait_for(lambda: finished(work) >= 1 or driver.poll() is not None, "a video")
        server.kill()
        printed = driver.communicate(timeout=120)[0]
    assert driver.returncode == 1, printed
    assert f"error: the scheduler at {address} is lost (" in printed
    assert "the same command goes on from here" in printed and "Traceback" not in printed
    before = attempts(work, "detect")
    assert 0 < len(before) < 5
    with scheduler(tmp_path) as (address, _), worker(tmp_path, address):
        code, printed = glpose_stage(config, "detect", *at(address), *detector)
    assert (code, "detect 0 done" in printed) == (0, False), printed
    assert attempts(work, "detect").items() >= before.items()
    assert_sound(work)


@pytest.mark.parametrize("whole_group", [True, False])
def test_interrupted_and_resumed(quiet: Path, tmp_path: Path, whole_group: bool) -> None:
    config, detector = project(quiet, tmp_path / "stopped"), write_detector(tmp_path, "time.sleep(0.3)")
    work = tmp_path / "stopped" / "work"
    local = ("--set", "cluster={kind: local, workers: 2, threads: 1, dashboard: false}", "--set", "runtime.frames=1")
    driver = begin(config, "detect", *local, *detector)
    wait_for(lambda: finished(work) >= 1 or driver.poll() is not None, "a video")
    (os.killpg if whole_group else os.kill)(driver.pid, signal.SIGINT)
    printed = driver.communicate(timeout=60)[0]
    assert driver.returncode == 130, printed
    assert " of 5 done, " in printed and " had begun, " in printed and "Traceback" not in printed
    assert printed.endswith("error: interrupted; the same command goes on from here\n")
    loads = set((tmp_path / "loads").read_text().split())
    wait_for(lambda: not any(Path(f"/proc/{number}").exists() for number in loads), "the workers' end")
    before = attempts(work, "detect")
    assert 0 < len(before) < 5
    code, printed = glpose_stage(config, "detect", *detector)
    assert (code, f"detect {len(before)} done, {5 - len(before)} to do" in printed) == (0, True)
    assert attempts(work, "detect").items() >= before.items()
    assert_sound(work)


def test_a_command_killed_leaves_no_worker(quiet: Path, tmp_path: Path) -> None:
    config, detector = project(quiet, tmp_path / "dead"), write_detector(tmp_path, "time.sleep(0.3)")
    local = ("--set", "cluster={kind: local, workers: 2, threads: 1, dashboard: false}", "--set", "runtime.frames=1")
    driver = begin(config, "detect", *local, *detector)
    wait_for(lambda: finished(tmp_path / "dead" / "work") >= 1 or driver.poll() is not None, "a video")
    driver.kill()
    driver.communicate()
    loads = set((tmp_path / "loads").read_text().split())
    assert len(loads) >= 2
    wait_for(lambda: not any(Path(f"/proc/{number}").exists() for number in loads), "the workers' end")
    code, printed = glpose_stage(config, "detect", *detector)
    assert (code, "detect 0 done" in printed) == (0, False), printed
    assert_sound(tmp_path / "dead" / "work")


def test_a_worker_that_hangs_for_a_while(quiet: Path, tmp_path: Path) -> None:
    """Its video is given to another; when it wakes up, what it goes on to finish is not taken."""
    config = project(quiet, tmp_path / "slow")
    detector = write_detector(
        tmp_path,
        """if not (HERE / "sleeper").exists():
    (HERE / "sleeper").write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(1)  # another thread may take the signal, and this one run on for a moment
    (HERE / "awake").touch()""",
    )
    work = tmp_path / "slow" / "work"
    with (
        scheduler(tmp_path, DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="3s") as (address, _),
        worker(tmp_path, address, "--no-nanny"),
        worker(tmp_path, address, "--no-nanny"),
    ):
        driver = begin(config, "detect", *at(address), *detector)
        printed = driver.communicate(timeout=200)[0]
        assert (driver.returncode, "Traceback" in printed) == (0, False), printed
        before = attempts(work, "detect")
        assert len(before) == 5 and not (tmp_path / "awake").exists()
        sleeper = int((tmp_path / "sleeper").read_text())
        os.kill(sleeper, signal.SIGCONT)
        wait_for((tmp_path / "awake").exists, "the sleeper")
        writing = (work / "detect" / "data").glob
        wait_for(lambda: not list(writing("*/*.writing")) or not Path(f"/proc/{sleeper}").exists(), "its end")
    assert attempts(work, "detect") == before
    assert_sound(work)


SBATCH = """#!/bin/bash
# Slurm for one machine: a job is a process of its own session.
set -e
cp "${@: -1}" JOBS/script-$$
setsid bash JOBS/script-$$ >JOBS/out-$$ 2>&1 &
echo $! >JOBS/pid-$$
echo "Submitted batch job $$"
"""
SCANCEL = """#!/bin/bash
for job in "$@"; do kill -9 -- -$(cat JOBS/pid-$job); done
"""


def test_slurm_jobs(quiet: Path, tmp_path: Path) -> None:
    config = project(quiet, tmp_path / "jobs")
    jobs = tmp_path / "slurm"
    jobs.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (jobs / name).write_text(text.replace("JOBS", str(jobs)))
        (jobs / name).chmod(0o755)
    slurm = (
        f"cluster={{kind: slurm, workers: 2, cores: 1, memory: 4GB, gpus: 1, queue: fast, walltime: '00:10:00', "
        f"directives: [--exclude=node3], logs: {tmp_path}/logs, interface: lo}}"
    )
    line = command(config, "detect", "--set", slurm)
    with process(line, tmp_path, PATH=f"{jobs}:{os.environ['PATH']}") as driver:
        printed = driver.communicate(timeout=200)[0]
    assert driver.returncode == 0, printed
    assert "  2 Slurm jobs asked for, 1 cores and a GPU each" in printed
    assert commit_digests(tmp_path / "jobs" / "work")["detect"] == commit_digests(quiet / "work")["detect"]
    scripts = [path.read_text() for path in jobs.glob("script-*")]
    assert len(scripts) == 2
    for words in ("-p fast", "--cpus-per-task=1", "--gres=gpu:1", "--exclude=node3", "-t 00:10:00"):
        assert f"#SBATCH {words}\n" in scripts[0]
    for words in ("export OMP_WAIT_POLICY=PASSIVE\n", "export GOMP_SPINCOUNT=1000\n", "--nthreads 1 "):
        assert words in scripts[0]
    for path in jobs.glob("pid-*"):
        wait_for(lambda path=path: not Path(f"/proc/{path.read_text().strip()}").exists(), "the job's end")
