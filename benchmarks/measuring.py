"""What the benchmarks share: CPU times of calls in turn, and the entries of their JSON."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whoever measures without torch does not have its memory and garbage measured
    import torch

Entry = dict[str, Any]  # {"value", "target", "ok", "note"}


def report(entries: dict[str, Entry], json_file: Path | None) -> int:
    """Print the entries, write them if a file is named; 0 when every target is met, for `sys.exit`."""
    for name, entry in entries.items():
        verdict = "ok" if entry["ok"] else "NOT MET"
        wanted = "for information" if entry["target"] is None else f"target {entry['target']:g} {verdict}"
        value = "-" if entry["value"] is None else f"{entry['value']:.3g}"
        print(f"{name:<54}{value:<8}{wanted:<21}{entry['note']}")
    if json_file:
        json_file.write_text(json.dumps(entries, indent=1) + "\n")
    return 0 if all(entry["ok"] for entry in entries.values()) else 1


def cpu_seconds(*calls: Callable[[], object], repeats: int = 7) -> list[float]:
    """Median process CPU seconds of each, called in turn; one unmeasured call of each before."""
    return _medians(time.process_time, calls, repeats)


def seconds_of(device: torch.device, *calls: Callable[[], object], repeats: int = 7) -> list[float]:
    """CPU seconds where calls run on a CPU; of a GPU on the clock, until what they began there is done."""
    if device.type == "cpu":
        return cpu_seconds(*calls, repeats=repeats)

    import torch

    def whole(call: Callable[[], object]) -> None:
        call()
        torch.cuda.synchronize()

    return wall_seconds(*(partial(whole, call) for call in calls), repeats=repeats)


def wall_seconds(*calls: Callable[[], object], repeats: int = 7) -> list[float]:
    """The same on the clock, for what waits for disks or a GPU."""
    return _medians(time.perf_counter, calls, repeats)


def _medians(clock: Callable[[], float], calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    seconds: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, record in zip(calls, seconds, strict=True):
            gc.collect()
            start = clock()
            call()
            if repeat:
                record.append(clock() - start)
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
    """An entry without a value: its target is not met."""
    return {"value": None, "target": target, "ok": False, "note": f"unmeasured: {note}"}


def without_gpu() -> Entry:
    """An entry that needs a GPU, where there is none: for information."""
    return {"value": None, "target": None, "ok": True, "note": "unmeasured: no GPU at hand"}
