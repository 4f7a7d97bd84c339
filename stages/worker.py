"""What runs in a worker of a cluster: it loads what a stage's units share once, then makes one unit at a time.

Only plain, small data comes back: an `Outcome`, never features, tables or exceptions.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# As in stages.cli.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

if TYPE_CHECKING:
    from glpose.data.dataset import VideoRef
    from stages.config import PipelineConfig
    from stages.stage import Context
    from stages.unit import Outcome, Task
    from store.record import Record


@dataclass(frozen=True)
class Job:
    """A stage of a run. record: the fingerprint of the record that its units are made for.

    run: tells this run's from others', whose units share what they have read of earlier outputs.
    """

    config: PipelineConfig
    stage: str
    record: str
    run: str


@dataclass(frozen=True)
class _Loaded:
    job: Job
    context: Context
    record: Record
    shared: Any


_loaded: _Loaded | None = None  # of this process: what the stage at work has loaded


def dask_setup(_: Any) -> None:
    """Dask calls this in workers that the command starts: Ctrl-C is for the command, which then ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def make(job: Job, task: Task, found: tuple[VideoRef, ...]) -> Outcome:
    """Make one unit of a stage in this process. found: its video, so that the data set need not be listed again."""
    from stages.run import STAGES
    from stages.unit import Outcome, make_unit
    from store.errors import GLPoseError
    from store.places import is_store_failure

    try:
        loaded = _load(job)
    except GLPoseError as error:
        return Outcome(task.unit, "unfit", f"worker {_name()}: {error}")
    except Exception as error:  # a GPU that is no more, libraries that do not fit
        traceback.print_exc()
        return Outcome(task.unit, "unfit", f"worker {_name()} cannot begin {job.stage}: {_words(error)}")
    try:
        return make_unit(STAGES[job.stage], loaded.context.of(found), loaded.shared, loaded.record, task)
    except Exception as error:
        if is_store_failure(error):
            return Outcome(task.unit, "unfit", f"worker {_name()}: the object store failed ({error})")
        traceback.print_exc()  # for the worker's log
        forget()  # whatever broke may have broken it too
        return Outcome(task.unit, "failed", f"{_words(error)} (on worker {_name()}, whose log says more)")


def forget() -> None:
    """Free what this process holds of the stage it was last at work for."""
    global _loaded
    if _loaded is None:
        return
    _loaded = None
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _load(job: Job) -> _Loaded:
    """What the units of a stage share, loaded when its first one comes. ClusterError where this worker does not fit."""
    global _loaded
    if _loaded is None or _loaded.job != job:
        forget()
        from stages.run import STAGES
        from stages.stage import Context

        context = Context(job.config)
        _loaded = _Loaded(job, context, _checked_record(job, context), STAGES[job.stage].prepare(context))
    return _loaded


def _checked_record(job: Job, context: Any) -> Record:
    """The record to make units for, as the command has written it. ClusterError where this worker would not make it."""
    from stages.run import STAGES, expected_record
    from store.errors import ClusterError, NotCommitted
    from store.record import difference

    if (threads := _tasks_at_once()) > 1:
        raise ClusterError(
            f"it makes {threads} videos at once: start workers with --nthreads 1, and give them more threads by "
            "runtime.threads"
        )
    root = getattr(job.config.data, "root", None)
    for name, path in (("work", job.config.work), ("data", root)):
        if isinstance(path, Path) and not path.is_dir():
            raise ClusterError(f"it does not see the {name} folder {path}: workers need it under the same path")
    try:
        record = context.folder(job.stage).begun(job.record)
    except NotCommitted:
        raise ClusterError(
            f"it sees another work folder {job.config.work} than the command: workers need the same one"
        ) from None
    own = expected_record(STAGES[job.stage], job.config)
    if changes := difference(record, own):
        lines = "\n  ".join(changes)
        raise ClusterError(f"it would make {job.stage} otherwise than the command:\n  {lines}\ninstall the same glpose")
    return record


def anchored(config: PipelineConfig) -> PipelineConfig:
    """The same configuration without relative paths, as a worker may have another current folder.

    Only a detector's FILE.py:FUNCTION stays as it is spelled, which is what its record and its boxes say.
    """
    detect, extract = config.detect, config.extract
    detector = detect.detector.model_copy(update={"checkpoint": _anchored_checkpoint(detect.detector.checkpoint)})
    changes = {
        "detect": detect.model_copy(update={"detector": detector}),
        "extract": extract.model_copy(update={"checkpoint": _anchored_checkpoint(extract.checkpoint)}),
    }
    return _anchored(config.model_copy(update=changes))


def _anchored_checkpoint(name_or_path: str | None) -> str | None:
    from glpose.models.checkpoints import SHIPPED

    return name_or_path if name_or_path is None or name_or_path in SHIPPED else str(Path(name_or_path).absolute())


def _anchored(options: Any) -> Any:
    from glpose.options import Options

    changes = {}
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, Options):
            changes[name] = _anchored(value)
        elif isinstance(value, Path):
            changes[name] = value.absolute()
    return options.model_copy(update=changes)


def _tasks_at_once() -> int:
    from distributed import get_worker

    return get_worker().state.nthreads


def _name() -> str:
    from distributed import get_worker

    worker = get_worker()
    return worker.address if worker.ip == "127.0.0.1" else f"{worker.address} ({os.uname().nodename})"


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
