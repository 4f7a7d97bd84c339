"""A real Dask scheduler and real workers as processes on the loopback, and detectors that do them harm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from distributed import Client
from small_pipelines import glpose_stage, write_dataset, write_pipeline

VIDEOS = ("a", "b", "d", "e")  # to train on; `c` is evaluated on
PER_VIDEO = ("detect", "extract", "index")
ROOT = Path(__file__).parent.parent
PATIENCE = 120.0  # s for anything to happen, on a busy machine

# A detector: one person per frame, whose box depends on the frame. `before` is called once per video and process.
DETECTOR = """
import os, signal, time
from pathlib import Path
import numpy as np
HERE = Path({folder!r})
with open(HERE / "loads", "a") as log:
    log.write(str(os.getpid()) + "\\n")

def before(image):
{before}

def find(images):
    before(images[0])
    edge = [[8.0, 8.0, 40.0 + int(image.mean()) % 16, 80.0] for image in images]
    return [{{"boxes": np.array([box]), "scores": np.array([0.9]), "labels": np.array([0])}} for box in edge]
"""


def write_detector(folder: Path, before: str = "pass") -> tuple[str, ...]:
    """A detector file whose function runs the lines `before` first, with `image` and HERE, its folder; its options."""
    lines = "\n".join(f"    {line}" for line in before.splitlines())
    path = folder / "detector.py"
    path.write_text(DETECTOR.format(folder=str(folder), before=lines))
    settings = ("detect.train.source=python", "detect.eval.source=python", f"detect.detector.model={path}:find")
    return tuple(word for setting in settings for word in ("--set", setting))


def write_killing_detector(folder: Path, times: int, only: str = "True") -> tuple[str, ...]:
    """A detector that kills its process the second time that it is called in it, in so many processes.

    only: a condition on `image`.
    """
    before = f"""seen = HERE / f"seen-{{os.getpid()}}"
if {only}:
    seen.write_text(seen.read_text() + "." if seen.exists() else ".")
    if len(seen.read_text()) >= 2 and len(list(HERE.glob("killed-*"))) < {times}:
        (HERE / f"killed-{{os.getpid()}}").touch()
        os.kill(os.getpid(), signal.SIGKILL)"""
    return write_detector(folder, before)


def quiet_project(folder: Path) -> Path:
    """A new project whose stages have run in this process, one video after the other; the folder."""
    write_dataset(folder / "data", VIDEOS)
    config = write_pipeline(folder)
    for stage in PER_VIDEO:
        code, printed = glpose_stage(config, stage)
        assert code == 0, printed
    return folder


def project(quiet: Path, folder: Path) -> Path:
    """The same project before anything has run: its pipelines.yaml."""
    folder.mkdir(exist_ok=True)
    shutil.copytree(quiet / "data", folder / "data")
    shutil.copy(quiet / "backbone.safetensors", folder)
    return write_pipeline(folder)


def workers_of(client: Client) -> dict[str, int]:
    """Addresses of a scheduler's workers, and the process of each."""
    return cast("dict[str, int]", client.run(os.getpid))


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Return when a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def environment(**more: str) -> dict[str, str]:
    """For processes that import this checkout; one thread each."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
        "DASK_LOGGING__DISTRIBUTED": "critical", **more,
    }  # fmt: skip


def command(config: Path, verb: str, *arguments: str) -> list[str]:
    """`glpose-stage` on the pipeline `small`, for a process of its own."""
    return [sys.executable, "-m", "stages.cli", verb, "-p", "small", "--config", str(config), *arguments]


@contextmanager
def process(arguments: list[str], folder: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, killed with all that it has started when the block ends."""
    with open(folder / "processes.log", "a") as log:
        child = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(**more), start_new_session=True
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, 9)
        child.communicate()


@contextmanager
def scheduler(folder: Path, **more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A scheduler's address and process."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    arguments = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    arguments += ["--scheduler-file", str(file)]
    with process([sys.executable, "-m", "distributed.cli.dask_scheduler", *arguments], folder, **more) as child:
        wait_for(file.exists, "the scheduler")
        wait_for(lambda: file.read_text().endswith("}"), "the scheduler's address")
        yield json.loads(file.read_text())["address"], child


@contextmanager
def worker(folder: Path, address: str, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A worker with its nanny."""
    own = ["--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard", "--local-directory", str(folder)]
    line = [sys.executable, "-m", "distributed.cli.dask_worker", address, *own, *arguments]
    with process(line, folder, **more) as child:
        yield child


def at(address: str) -> tuple[str, ...]:
    """Options that have a command use the workers of a scheduler."""
    return ("--set", f"cluster={{kind: address, address: '{address}'}}")
