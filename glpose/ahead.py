"""Work done ahead by a thread, so that reading, computing and writing go on at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

WAITING = 8  # batches that are drawn ahead

LOOK = 0.1  # s between looks of a thread that waits at a full queue at whether anybody still wants its work


def ahead(items: Iterator[Item], depth: int) -> Generator[Item]:
    """The same items in the same order, made by a thread that keeps at most `depth` of them ready.

    An error of theirs is raised in their place. When the consumer stops, for whatever reason, the thread ends after the
    item that it is at, and `items` is closed in it; no thread outlives the generator.
    """
    ready: queue.Queue[tuple[Item | None, BaseException | None, bool]] = queue.Queue(depth)
    unwanted = threading.Event()

    def hand_over(item: Item | None, error: BaseException | None, last: bool) -> None:
        while not unwanted.is_set():
            try:
                return ready.put((item, error, last), timeout=LOOK)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                hand_over(item, None, False)
                if unwanted.is_set():
                    break
            hand_over(None, None, True)
        except BaseException as error:
            hand_over(None, error, True)
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=produce, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = ready.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # pyright: ignore[reportReturnType]
    finally:
        unwanted.set()
        thread.join()


def batches_ahead(batches: Iterable[Sequence[Callable[[], Item]]], workers: int) -> Generator[list[Item]]:
    """The results of each batch's calls, in order, made ahead by `workers` threads. An error is raised in its place."""
    waiting: list[list[Future[Item]]] = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            for batch in batches:
                waiting.append([pool.submit(call) for call in batch])
                if len(waiting) == WAITING:
                    yield [future.result() for future in waiting.pop(0)]
            while waiting:
                yield [future.result() for future in waiting.pop(0)]
        finally:
            for future in [future for batch in waiting for future in batch]:
                future.cancel()


def one_ahead(items: Iterator[Item]) -> Generator[Item]:
    """The same items, each made by a thread while the one before is in use; never more than these two exist."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="one_ahead") as pool:
        try:
            coming = pool.submit(next, items, end)
            while (item := coming.result()) is not end:
                coming = pool.submit(next, items, end)
                yield item  # pyright: ignore[reportReturnType]
                del item
        finally:
            if isinstance(items, Generator):
                pool.submit(items.close)
