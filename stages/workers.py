"""The workers of a run: each is given one unit at a time, and what becomes of it is told as it comes.

A worker never has a second unit waiting: when it dies, the one that it was making is tried elsewhere, and no other is
held against it. The scheduler sees short messages alone (stages/worker.py).
"""

from __future__ import annotations

import contextlib
import queue
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, cast

from rich.console import Console

from stages import worker
from stages.cluster import Cluster, connect, count_workers
from stages.config import PipelineConfig
from stages.console import Tally, say
from stages.stage import Context, Stage
from stages.unit import Outcome, Task
from store.errors import ClusterError
from store.record import Record, fingerprint

if TYPE_CHECKING:
    from distributed import Client, Future

COUNTING = 1.0  # s between looks at how many workers there are
ALONE = 10.0  # s without any worker, after which that is told


class Workers:
    """The workers of one run, as `cluster` names them: started when first needed, ended with the block."""

    def __init__(self, config: PipelineConfig, console: Console) -> None:
        """Nothing is started yet."""
        self._config, self._console = config, console
        self._cluster: Cluster | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers that were started here; have others free what they hold. `make` starts them again."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def make(
        self, stage: Stage, context: Context, record: Record, tasks: Sequence[Task], tally: Tally
    ) -> Generator[Outcome]:
        """Make units in the order of `tasks`, as workers become free; outcomes as they come.

        ClusterError where workers cannot be had or used, or the scheduler is lost.
        """
        if self._cluster is None:
            self._cluster = connect(self._config)
            say(self._console, f"  {self._cluster.words}")
        client = self._cluster.client
        run = uuid.uuid4().hex[:8]
        job = worker.Job(_for_workers(context.config, self._cluster.threads), stage.name, fingerprint(record), run)
        waiting, running = list(reversed(tasks)), cast("dict[Future, str]", {})
        ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        crew = _Crew(client, self._console)
        try:
            while waiting or running:
                while waiting and len(running) < crew.size():
                    task = waiting.pop()
                    found = (context.video(task.unit),) if stage.by_video else ()
                    key = f"glpose-{stage.name}-{run}-{task.unit}"
                    future = client.submit(worker.make, job, task, found, key=key, pure=False)
                    future.add_done_callback(ended.put)
                    running[future] = task.unit
                    tally.begin(task.unit)
                for future in _all_of(ended):
                    yield _outcome(client, future, running.pop(future))
        except (OSError, TimeoutError) as error:
            raise _lost(client, str(error)) from None
        finally:
            if running:
                with contextlib.suppress(Exception):  # what is lost needs no cancelling
                    client.cancel(list(running))


def _for_workers(config: PipelineConfig, threads: int | None) -> PipelineConfig:
    """A configuration as workers are given it: no relative path, and as many threads as they have."""
    runtime = config.runtime.model_copy(update={"threads": threads or config.runtime.threads})
    return worker.anchored(config.model_copy(update={"runtime": runtime}))


class _Crew:
    """How many workers there are; looked at once a second."""

    def __init__(self, client: Client, console: Console) -> None:
        self._client, self._console = client, console
        self._size, self._looked, self._seen, self._told = 1, -COUNTING, time.monotonic(), False

    def size(self) -> int:
        """Workers, and 1 where there is none, so that a unit waits for the first."""
        now = time.monotonic()
        if now - self._looked < COUNTING:
            return self._size
        found, self._looked = count_workers(self._client), now
        if found:
            self._seen, self._told = now, False
        elif now - self._seen > ALONE and not self._told:
            self._told = True
            say(self._console, f"  {_address(self._client)} has no worker; waiting for one")
        self._size = max(found, 1)
        return self._size


def _all_of(ended: queue.SimpleQueue[Future]) -> Iterator[Future]:
    """What has ended; within a second, so that new workers are seen."""
    with contextlib.suppress(queue.Empty):
        yield ended.get(timeout=COUNTING)
        while True:
            yield ended.get_nowait()


def _outcome(client: Client, future: Future, unit: str) -> Outcome:
    """What a worker says of a unit, or Dask of the worker."""
    from distributed import KilledWorker

    if future.status == "finished":
        return future.result()
    if future.status == "cancelled":
        raise _lost(client, "the connection broke")
    error = future.exception()
    if isinstance(error, KilledWorker):
        tries = error.allowed_failures + 1
        reason = f"{tries} workers died over it, the last at {error.last_worker.address}: is there enough memory?"
        return Outcome(unit, "failed", reason)
    raise ClusterError(
        f"a worker cannot take a task ({type(error).__name__}: {error}): install the same glpose on all of them"
    )


def _lost(client: Client, reason: str) -> ClusterError:
    return ClusterError(
        f"{_address(client)} is lost ({reason}); finished videos are safe: the same command goes on from here"
    )


def _address(client: Client) -> str:
    return f"the scheduler at {client.scheduler.address}" if client.scheduler else "the scheduler"
