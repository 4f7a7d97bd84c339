"""How idle OpenMP threads wait: what `import glpose` sets, against sleeping at once and against torch's own spinning.

    python benchmarks/waiting.py [--seconds 4] [--repeats 3] [--json FILE]

Forward and backward of six small convolutions, as the heads train them, in processes of their own that use all cores:
one alone, then two that share the cores. Rates are steps a second of a process, median of interleaved repeats.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

if (here := str(Path(__file__).resolve().parent)) in sys.path:
    sys.path.remove(here)
sys.path.append(here)  # last: store.py beside this file must not be taken for the package `store`

from measuring import Entry, at_least, report

WAITS = {
    "ours": {},
    "sleeping": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spinning": {"GOMP_SPINCOUNT": "300000"},  # GNU OpenMP's default
}
STEPS = """
import sys, time
import glpose
import torch
from torch import nn
layers = [layer for _ in range(6) for layer in (nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())]
net, x = nn.Sequential(*layers), torch.randn(8, 16, 48, 36)
net(x).sum().backward()
began, steps = time.perf_counter(), 0
while (passed := time.perf_counter() - began) < float(sys.argv[1]):
    net(x).sum().backward()
    steps += 1
print(steps / passed)
"""


def rates(waits: dict[str, str], processes: int, seconds: float) -> list[float]:
    """Steps a second of each of so many processes at once."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-P", "-c", STEPS, str(seconds)]
    started = [
        subprocess.Popen(command, env={**inherited, **waits}, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    return [float(process.communicate()[0]) for process in started]


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[tuple[str, int], list[float]] = {(name, n): [] for name in WAITS for n in (1, 2)}
    for _ in range(options.repeats):
        for name, processes in found:
            found[name, processes] += rates(WAITS[name], processes, options.seconds)
    rate = {key: statistics.median(values) for key, values in found.items()}

    def against(other: str, processes: int, target: float) -> Entry:
        ours, theirs = rate["ours", processes], rate[other, processes]
        return at_least(ours / theirs, target, f"{ours:.1f} against {theirs:.1f} steps/s, {processes} at once")

    entries = {
        "alone_against_sleeping": against("sleeping", 1, 1.0),
        "alone_against_spinning": against("spinning", 1, 0.7),
        "sharing_against_sleeping": against("sleeping", 2, 0.7),
        "sharing_against_spinning": against("spinning", 2, 2.0),
    }
    return report(entries, options.json)


if __name__ == "__main__":
    sys.exit(main())
