"""What the benchmarks share: CPU times of calls in turn, and the entries of their JSON."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Entry = dict[str, Any]  # {"value", "target", "ok", "note"}


def cpu_seconds(*calls: Callable[[], object], repeats: int = 7) -> list[float]:
    """Median process CPU seconds of each, called in turn; one unmeasured call of each before."""
    seconds: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, record in zip(calls, seconds, strict=True):
            gc.collect()
            start = time.process_time()
            call()
            if repeat:
                record.append(time.process_time() - start)
    return [statistics.median(record) for record in seconds]


@contextmanager
def inputs_in_memory() -> Iterator[None]:
    """Keeps the garbage collector off all that exists already: what is parsed must not cost any side collections."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def at_most(value: float, target: float, note: str) -> Entry:
    """An entry whose value must not exceed its target."""
    return {"value": value, "target": target, "ok": value <= target, "note": note}


def at_least(value: float, target: float, note: str) -> Entry:
    """An entry whose value must reach its target."""
    return {"value": value, "target": target, "ok": value >= target, "note": note}


def unmeasured(target: float, note: str) -> Entry:
    """An entry without a value."""
    return {"value": None, "target": target, "ok": False, "note": f"unmeasured: {note}"}
