"""Stages on Dask workers of this machine: what a second worker adds, and what a video costs the command itself.

    python benchmarks/cluster.py [--videos 1000 10000] [--repeats 3] [--json FILE]

Two single-thread workers extract the same rendered clips as one, each on clusters that stand by; the time is that of
the whole stage. For the command's own cost, detect takes boxes from annotations of one empty frame each, so that
workers have next to nothing to do; CPU seconds are those of the command's process, Dask's scheduler in it included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if (here := str(Path(__file__).resolve().parent)) in sys.path:
    sys.path.remove(here)
sys.path.append(here)  # last: store.py beside this file must not be taken for the package `store`

import cv2
import numpy as np
from measuring import Entry, at_least, at_most, report
from rich.console import Console

from glpose.data.posetrack18 import NAMES
from glpose.data.rendered import ClipOptions, write_clip
from stages.config import PipelineConfig
from stages.run import STAGES, run_stage
from stages.stage import Context
from stages.workers import Workers

QUIET = Console(quiet=True)
CLIP = ClipOptions(height=270, width=480, frames=4, people=(3, 3), occluders=(0, 0))
CLIPS = 8


def pipeline(root: Path, work: Path, workers: int) -> PipelineConfig:
    """A pipeline on a data set of one split, with so many single-thread workers."""
    return PipelineConfig.model_validate(
        {
            "name": "cluster",
            "work": work,
            "data": {"kind": "posetrack18", "root": root, "eval": None},
            "extract": {"crop_size": [192, 144]},
            "runtime": {"device": "cpu", "threads": 1},
            "cluster": {"kind": "local", "workers": workers, "threads": 1, "dashboard": False},
        }
    )


def speedup(folder: Path, repeats: int) -> Entry:
    """Seconds of `extract` with one worker over those with two, median of interleaved repeats."""
    for clip in range(CLIPS):
        write_clip(folder / "clips", "train", f"{clip:03d}", CLIP, seed=0, clip=clip)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    crews = {n: Workers(pipeline(folder / "clips", folder, n), QUIET) for n in seconds}
    with crews[1], crews[2]:
        for repeat in range(repeats + 1):
            for count, crew in crews.items():
                context = Context(pipeline(folder / "clips", folder / f"work-{count}-{repeat}", count))
                run_stage(STAGES["detect"], context, QUIET, workers=crew)
                began = time.perf_counter()
                run_stage(STAGES["extract"], context, QUIET, workers=crew)
                if repeat:  # workers start, and load their libraries, in the first
                    seconds[count].append(time.perf_counter() - began)
    one, two = (statistics.median(seconds[count]) for count in (1, 2))
    note = f"{one:.1f} s against {two:.1f} s: {CLIPS} clips of {CLIP.frames} frames, HRNet-W16 at 192 x 144, one thread"
    return at_least(one / two, 1.8, note)


def empty_videos(root: Path, count: int) -> None:
    """A data set of so many videos of one frame, all the same image, without people."""
    (root / "images").mkdir(parents=True)
    (root / "annotations" / "train").mkdir(parents=True)
    cv2.imwrite(str(root / "images" / "0.png"), np.zeros((64, 64, 3), np.uint8))
    image: dict[str, Any] = {"file_name": "images/0.png", "id": 1, "frame_id": 1, "is_labeled": True, "nframes": 1}
    person = {"id": 1, "name": "person", "keypoints": list(NAMES)}
    content = json.dumps({"images": [image], "annotations": [], "categories": [person]})
    for number in range(count):
        (root / "annotations" / "train" / f"{number:06d}.json").write_text(content)


def driver_costs(folder: Path, counts: list[int]) -> dict[str, Entry]:
    """CPU of the command per video, where all are to do and where none is: of most videos over that of fewest."""
    first: list[float] = []
    again: list[float] = []
    for count in counts:
        root, work = folder / f"videos-{count}", folder / f"work-{count}"
        empty_videos(root, count)
        with Workers(pipeline(root, work, 2), QUIET) as crew:
            # a few videos elsewhere first: they start the workers
            for place, pattern, costs in (
                (folder / f"warm-{count}", "00000?", []),
                (work, "*", first),
                (work, "*", again),
            ):
                context = Context(pipeline(root, place, 2), pattern)
                began = time.process_time()
                run_stage(STAGES["detect"], context, QUIET, workers=crew)
                costs.append((time.process_time() - began) / count)
    ends = f"{counts[0]:,} and {counts[-1]:,} videos"
    return {
        "command_cpu_per_video_growth": at_most(
            first[-1] / first[0], 1.3, f"{1e3 * first[0]:.2f} and {1e3 * first[-1]:.2f} ms a video, {ends}"
        ),
        "command_cpu_per_done_video_growth": at_most(
            again[-1] / again[0], 1.3, f"{1e3 * again[0]:.2f} and {1e3 * again[-1]:.2f} ms a video, {ends}"
        ),
    }


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, nargs=2, default=[1_000, 10_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        entries = {"two_workers_speedup": speedup(Path(name) / "speedup", options.repeats)}
        entries |= driver_costs(Path(name) / "driver", options.videos)
    return report(entries, options.json)


if __name__ == "__main__":
    sys.exit(main())
