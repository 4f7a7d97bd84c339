"""Memory of this machine for tensors: what is freed is kept, for fresh pages cost more than many computations."""

from __future__ import annotations

import ctypes

# mallopt's parameters, of glibc's malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
LARGEST = 2**30  # bytes: larger blocks still go back to the system when they are freed


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks for the next tensors instead of giving them back; False for other C libraries.

    By default it maps every large block anew, and the system clears each page at its first touch: a ninth of a head's
    training step, a sixteenth of HRNet's forward pass. The peak stays what it was, but the process keeps it to its end.
    All threads share one arena, as others cannot hold blocks of more than 64 MB.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(ARENA_MAX, 1), mallopt(MMAP_THRESHOLD, LARGEST), mallopt(TRIM_THRESHOLD, 2**31 - 1)])
