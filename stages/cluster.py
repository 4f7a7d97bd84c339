"""Where workers come from: processes of this machine, a scheduler that runs already, or Slurm jobs."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from glpose import WAITING
from glpose.options import LocalCluster, RunningCluster, SlurmCluster
from stages import worker
from stages.config import PipelineConfig
from store.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from distributed import Client, SpecCluster

LOOPBACK = "127.0.0.1"
CONNECTING = 20.0  # s to wait for a scheduler's answer
STARTING = 120.0  # s to wait for the first of our own processes: each imports torch
ENDING = 10.0  # s
TRIES = 3  # workers of our own that may die over one unit
# For every worker, before it is started. A worker's memory is what the network needs, none of Dask's business: a worker
# that it paused would never go on.
ENVIRONMENT = {
    **WAITING,
    "DASK_LOGGING__DISTRIBUTED": "error",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False",
}


@dataclass(frozen=True)
class Cluster:
    """A connection to workers. words: who they are. threads: of torch in each; None: their own choice, or the
    configuration's. own: ended with the run.
    """

    client: Client
    words: str
    threads: int | None = None
    own: SpecCluster | None = None

    def close(self) -> None:
        """End the workers if they are our own, else have them free what they hold."""
        with contextlib.suppress(Exception):  # what is lost cannot be closed
            if self.own is None:
                self.client.run(worker.forget, wait=False)
            self.client.close(timeout=ENDING)
        with contextlib.suppress(Exception):
            if self.own is not None:
                self.own.sync(_end_processes, self.own, callback_timeout=ENDING)
                self.own.close(timeout=ENDING)


def connect(config: PipelineConfig) -> Cluster:
    """Start, or find, the workers that `cluster` names. ClusterError where that fails."""
    import distributed  # noqa: F401 (it sets the level of its log)

    options = config.cluster
    logging.getLogger("distributed").setLevel(logging.ERROR)
    logging.getLogger("tornado").setLevel(logging.CRITICAL)  # what an interrupted call leaves in its loop
    if isinstance(options, LocalCluster):
        return _local(options, config)
    if isinstance(options, SlurmCluster):
        return _slurm(options, config)
    if isinstance(options, RunningCluster):
        return _running(options)
    raise ConfigError("cluster.kind is none: there are no workers")


def _local(options: LocalCluster, config: PipelineConfig) -> Cluster:
    """Processes of this machine; where there are GPUs, each process sees one of them."""
    from dask.system import CPU_COUNT
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = _gpus() if config.runtime.device in ("auto", "cuda") else 0
    count = options.workers or gpus or max(1, CPU_COUNT // 4)
    threads = options.threads or config.runtime.threads or max(1, CPU_COUNT // count)
    board = options.dashboard and importlib.util.find_spec("bokeh") is not None
    common = {"nthreads": 1, "memory_limit": 0, "host": LOOPBACK, "dashboard": False}
    spec = {
        number: {
            "cls": Nanny,
            "options": {**common, "env": {"CUDA_VISIBLE_DEVICES": str(number % gpus)} if gpus else {}},
        }
        for number in range(count)
    }
    scheduler = {
        "cls": Scheduler,
        "options": {"host": LOOPBACK, "port": 0, "dashboard": board, "dashboard_address": f"{LOOPBACK}:0"},
    }
    with _settings(threads):
        own = SpecCluster(workers=spec, scheduler=scheduler, silence_logs=False)
        client = _client(own, STARTING)
    each = f"GPU {'each' if count <= gpus else 'shared'}" if gpus else f"{threads} thread{'s' * (threads > 1)} each"
    words = f"{count} worker{'s' * (count > 1)} on this machine, {each}"
    return Cluster(client, _with_dashboard(words, client, board), threads, own)


def _slurm(options: SlurmCluster, config: PipelineConfig) -> Cluster:
    """Slurm jobs of one worker each."""
    if shutil.which("sbatch") is None:
        raise ClusterError("cluster.kind slurm: there is no sbatch on this machine; run the command on a login node")
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError:
        raise ClusterError(
            "cluster.kind slurm needs dask-jobqueue: pip install -e '.[slurm]' in the checkout"
        ) from None
    threads = config.runtime.threads or options.cores
    board = importlib.util.find_spec("bokeh") is not None
    exports = {**ENVIRONMENT, **_thread_counts(threads)}
    with _settings(threads):
        own = SLURMCluster(
            cores=1,  # videos at a time
            processes=1,
            job_cpu=options.cores,
            memory=options.memory,
            walltime=options.walltime,
            queue=options.queue,
            account=options.account,
            interface=options.interface,
            job_extra_directives=[*(["--gres=gpu:1"] * options.gpus), *options.directives],
            job_script_prologue=[*(f"export {key}={value}" for key, value in exports.items()), *options.prologue],
            log_directory=str(options.logs),
            scheduler_options={"dashboard": board, "dashboard_address": ":0"},
        )
        own.scale(jobs=options.workers)
        client = _client(own, CONNECTING)
    words = f"{options.workers} Slurm jobs asked for, {options.cores} cores{' and a GPU' * options.gpus} each"
    return Cluster(client, _with_dashboard(words, client, board), threads, own)


def _running(options: RunningCluster) -> Cluster:
    """Whatever workers a scheduler has."""
    client = _client(options.address, CONNECTING)
    count = count_workers(client)
    words = f"{count} worker{'s' * (count != 1)} of the scheduler at {options.address}"
    return Cluster(client, _with_dashboard(words, client, board=True))


async def _end_processes(own: SpecCluster) -> None:
    """Kill the processes of this machine: all that they could still do is to free their memory, which takes seconds."""
    from distributed import Nanny

    nannies = [each for each in own.workers.values() if isinstance(each, Nanny)]
    await asyncio.gather(*(nanny.close(timeout=0.1) for nanny in nannies))


def count_workers(client: Client) -> int:
    """How many workers a scheduler has now. OSError where it is gone."""
    return len(cast("dict[str, int]", client.nthreads()))


def _client(target: Any, timeout: float) -> Client:
    from distributed import Client

    try:
        return Client(target, timeout=timeout, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(
            f"no scheduler answers at {target} ({reason}): is it running, and its port open (cluster.address)?"
        ) from None


@contextlib.contextmanager
def _settings(threads: int) -> Iterator[None]:
    """Dask's settings while scheduler and workers of our own are started."""
    from dask import config

    environment = {**ENVIRONMENT, **_thread_counts(threads)}
    with config.set(
        {
            "distributed.nanny.pre-spawn-environ": environment,
            "distributed.worker.daemon": False,  # workers may have processes of their own
            "distributed.worker.preload": ["stages.worker"],
            "distributed.scheduler.allowed-failures": TRIES - 1,
        }
    ):
        yield


def _thread_counts(threads: int) -> dict[str, str]:
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def _with_dashboard(words: str, client: Client, board: bool) -> str:
    return f"{words}; {client.dashboard_link}" if board and client.dashboard_link else words


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
