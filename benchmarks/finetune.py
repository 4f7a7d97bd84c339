"""Fine-tuning: what gradient checkpointing saves and costs, and what gradients through the key crop alone do.

    python benchmarks/finetune.py [--json FILE]

One step, forward and backward, of HRNet-W16 at 192 x 144 with the full recipe (15 crops a sample), one thread, in CPU
seconds. Memory is what a step adds to the peak of a process of its own, over a smaller step before.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

if (here := str(Path(__file__).resolve().parent)) in sys.path:
    sys.path.remove(here)
sys.path.append(here)  # last: store.py beside this file must not be taken for the package `store`

import numpy as np
import torch
from measuring import Entry, at_most, cpu_seconds, report

from glpose.extraction import local_offsets
from glpose.finetuning import forward
from glpose.finetuning_crops import Sample
from glpose.models.glpose import GLPoseHeads
from glpose.models.hrnet import HRNet
from glpose.options import FinetuneOptions, HeadOptions

WIDTH, CROP, JOINTS, BATCH = 16, (192, 144), 15, 2
WAYS = {
    "plain": FinetuneOptions(),
    "checkpointing": FinetuneOptions(checkpointing=True),
    "key": FinetuneOptions(grad="key"),
}
MB = 1e6


def step(options: FinetuneOptions, batch: int = BATCH) -> Callable[[], None]:
    """A call that makes one forward and backward pass of so many samples, 15 crops each."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    heads_options = HeadOptions()
    net = HRNet(WIDTH, num_joints=0, stages=3).eval()
    net.checkpointing = options.checkpointing
    heads = GLPoseHeads(WIDTH, JOINTS, local_offsets(heads_options.k), heads_options).train()
    rng = np.random.default_rng(0)
    maps = 1 + 2 * heads_options.k + heads_options.n
    samples = [
        Sample(rng.integers(0, 256, (maps, *CROP, 3), np.uint8), np.zeros((JOINTS, 3)), np.zeros(heads_options.n))
        for _ in range(batch)
    ]

    def call() -> None:
        net.zero_grad()
        heads.zero_grad()
        forward(net, heads, samples, options, "inner_product", torch.device("cpu")).square().mean().backward()

    return call


def peak_bytes(name: str) -> float:
    """What a step adds to the largest memory of a process, which has made one of a single sample before."""
    options = WAYS[name]
    step(options, batch=1)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(options, batch=1 + BATCH)()
    return 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def main() -> int:
    """Measure, print and write the entries; 0 if all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None, help="write the entries there")
    parser.add_argument("--peak-of", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print(peak_bytes(arguments.peak_of))
        return 0

    memory = {}
    for name in WAYS:  # each in a process of its own: a peak never sinks
        command = [sys.executable, __file__, "--peak-of", name]
        memory[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    plain, checkpointing, key = cpu_seconds(*map(step, WAYS.values()), repeats=3)
    about = f"HRNet-W{WIDTH}, {CROP[0]} x {CROP[1]}, {BATCH} samples of 15 crops, 1 thread"
    entries: dict[str, Entry] = {
        "memory_checkpointing": at_most(
            memory["checkpointing"] / memory["plain"],
            0.5,
            f"{about}: {memory['checkpointing'] / MB:.0f} against {memory['plain'] / MB:.0f} MB",
        ),
        "time_checkpointing": at_most(checkpointing / plain, 1.5, f"CPU seconds {checkpointing:.2f} over {plain:.2f}"),
        "memory_key": at_most(
            memory["key"] / memory["plain"], 0.4, f"grad: key against all: {memory['key'] / MB:.0f} MB"
        ),
        "time_key": at_most(key / plain, 0.5, f"CPU seconds {key:.2f} over {plain:.2f}"),
    }
    return report(entries, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
