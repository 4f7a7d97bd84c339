"""Devices and threads: speed settings that never change a record."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import torch

from glpose.host_memory import keep_freed_memory
from glpose.options import RuntimeOptions
from glpose.ranks import local_rank
from store.errors import ConfigError

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds that it may use of every so many, or "max"


def choose_device(options: RuntimeOptions) -> torch.device:
    """The device to compute on; also sets this process's CPU threads, how it keeps memory, and how a GPU convolves.

    ConfigError for a device that is not there.
    """
    keep_freed_memory()
    torch.set_num_threads(options.threads or min(torch.get_num_threads(), given_cores()))
    if not options.tf32:  # else as whoever runs this process has it
        torch.backends.cudnn.allow_tf32 = False
    cv2.setNumThreads(1)  # frames and crops are small, and its threads would stand in the way of torch's
    if options.device == "auto":
        return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        return torch.empty(0, device=options.device).device  # with its number, as tensors on it have
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"runtime.device = {options.device!r} cannot be used: {str(error).splitlines()[0]}") from None


def workers_taken(options: RuntimeOptions) -> int:
    """Processes that draw frames and threads that read them: as many as asked for, or one for each core given."""
    return options.workers or given_cores()


def given_cores(quota: Path = CPU_QUOTA) -> int:
    """Cores that this process may use, at least 1: by its affinity and its container's quota, not the machine's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        used, period = quota.read_text().split()
        return max(1, min(cores, math.ceil(int(used) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return cores
