"""Keeping freed memory changes no result, and is refused quietly where the C library is another."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from glpose.host_memory import keep_freed_memory

FAULTS = """
import resource, sys, torch
from glpose.host_memory import keep_freed_memory
kept = sys.argv[1] == "kept" and keep_freed_memory()
torch.zeros(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.zeros(2**24)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's, of Linux")
def test_large_tensors_find_their_pages_again() -> None:
    """Page faults of allocating 64 MB twenty times over: a fresh process each, as the setting cannot be taken back."""
    faults = {}
    for how in ("plain", "kept"):
        command = [sys.executable, "-c", FAULTS, how]
        done, count = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        if how == "kept" and done == "False":
            pytest.skip("this C library is not glibc")
        faults[how] = int(count)
    assert faults["kept"] < 0.5 * faults["plain"]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert keep_freed_memory() is False
