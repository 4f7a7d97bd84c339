"""Extraction: the stage against the bare network, the network against HRNet as published, and memory in long videos.

    python benchmarks/extract.py [--json FILE] [--repeats N] [--clip DIR]

HRNet-W48 at 384 x 288 with random weights, one thread. The stage's time is of one video from its frames to its commit
(decoding, cropping, network, store), that of the bare network of as many ready crops in batches of the same size; wall
clock, in turn, median. Crops of the Bonn clip, for the error of bfloat16, are of the development data.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import statistics
import subprocess
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
import torch
from measuring import Entry, at_least, at_most, cpu_seconds, report, unmeasured, without_gpu
from rich.console import Console

from glpose.data.dataset import open_video
from glpose.data.listing import list_videos
from glpose.data.rendered import ClipOptions, write_clip
from glpose.data.video import open_frames
from glpose.extraction import Backbone, extract_video, feature_schema, load_backbone, source_frames
from glpose.film import write_film
from glpose.host_memory import MMAP_THRESHOLD, TRIM_THRESHOLD, keep_freed_memory
from glpose.models.checkpoints import save_checkpoint
from glpose.models.hrnet import HRNet, fold_batch_norm
from glpose.options import ExtractOptions, PoseTrack18Data, RuntimeOptions
from stages import detect, extract
from stages.config import PipelineConfig
from stages.run import run_stage
from stages.stage import Context
from stages.unit import Task, make_unit
from store.features import FeatureWriter

DEFAULT_CLIP = Path(here).parent.parent / "shared" / "data" / "real" / "bonn_060470979"
CROP = (384, 288)
FRAMES, PEOPLE, BATCH = 5, 2, 8
GPU_FRAMES = 60  # of which batches are filled
LARGE_BATCH = RuntimeOptions().batch_size  # what extraction takes by default
STAGE_SHARE = 0.90
FLOAT32_GAIN, BFLOAT16_GAIN = 1.9, 3.5
BFLOAT16_ERROR = 0.02
LENGTHS = (50, 800)  # frames
FLAT = 1.1


def untrained(width: int) -> HRNet:
    """A whole HRNet whose batch norms have the statistics of noise, so that features keep their scale."""
    torch.manual_seed(0)
    model = HRNet(width, num_joints=17).train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(4, 3, 128, 96))
    return model.eval()


# -------------------------------------------------------------------------------------------------------------- stage
def stage_share(folder: Path, checkpoint: Path, device: str, repeats: int) -> tuple[float, str]:
    """Crops a second of the whole stage over those of the bare network, and the same in words."""
    length, batch_size = (FRAMES, BATCH) if device == "cpu" else (GPU_FRAMES, LARGE_BATCH)
    options = ClipOptions(540, 960, frames=length, people=(PEOPLE, PEOPLE), occluders=(0, 0))
    if not (folder / "annotations").is_dir():
        write_clip(folder, "train", "clip", options, seed=0, clip=0)
    config = PipelineConfig.model_validate(
        {
            "name": "extract",
            "work": folder / "work",
            "data": {"kind": "posetrack18", "root": folder, "eval": None},
            "extract": {"checkpoint": str(checkpoint)},
            "runtime": {"device": device, "threads": 1, "batch_size": batch_size},
        }
    )
    context = Context(config)
    run_stage(detect.STAGE, context, Console(quiet=True))
    backbone = extract.prepare(context)
    table = context.commit("detect", "clip").meta["proposals"]
    frames = open_video(context.video("clip")).annotations
    assert frames is not None and table == len(frames.frame)
    crops = sum(len(np.unique(row)) for row in source_frames(frames.frame, length, config.extract.k, "repeat_key"))
    ready = torch.rand(crops, *CROP, 3, device=backbone.device).permute(0, 3, 1, 2)
    stage, bare = [], []
    for number in range(repeats + 1):
        start = time.perf_counter()
        with torch.inference_mode():
            for batch in ready.split(batch_size):
                backbone.net.features(batch).cpu()
        bare.append(time.perf_counter() - start)
        start = time.perf_counter()
        outcome = make_unit(extract.STAGE, context, backbone, {"attempt": number}, Task("clip"))
        stage.append(time.perf_counter() - start)
        if outcome.status != "made":
            raise SystemExit(f"nothing was measured: {outcome.line}")
    seconds = statistics.median(bare[1:]), statistics.median(stage[1:])  # the first ones warm up
    note = f"{crops} crops: bare network {crops / seconds[0]:.2f} crops/s, stage {crops / seconds[1]:.2f}"
    return seconds[0] / seconds[1], note


# ------------------------------------------------------------------------------------------------------------ network
def network_gain(model: HRNet, repeats: int) -> dict[str, Entry]:
    """CPU seconds a crop of HRNet as published, in memory as torch finds it, over those of ours.

    Targets are for the batches that extraction runs by default (the published configurations test 24 or 32 at a time);
    for information, ours so against the published network in the small batches that suit it best on a CPU.
    """
    large = torch.randn(LARGE_BATCH, 3, *CROP)
    small, last = large[:BATCH], large.to(memory_format=torch.channels_last)
    folded: Any = fold_batch_norm(model)
    ours = folded.to(memory_format=torch.channels_last)
    rough = fold_batch_norm(model).to(torch.bfloat16).to(memory_format=torch.channels_last)  # pyright: ignore

    def whole(x: torch.Tensor) -> None:
        as_torch_finds_it()
        model(x)
        keep_freed_memory()

    with torch.inference_mode():
        times = cpu_seconds(
            lambda: whole(large),
            lambda: whole(small),
            lambda: ours.features(last),
            lambda: rough.features(last.bfloat16()),
            repeats=repeats,
        )
    sizes = (LARGE_BATCH, BATCH, LARGE_BATCH, LARGE_BATCH)
    official, suited, exact, lower = (seconds / size for seconds, size in zip(times, sizes, strict=True))
    whole_note = f"s a crop; whole HRNet-W48 {official:.2f} s"
    note = f"{exact:.2f} s a crop; whole HRNet-W48 in batches of {BATCH} {suited:.2f} s"
    entries = {
        "extract_float32_vs_official": at_least(official / exact, FLOAT32_GAIN, f"{exact:.2f} {whole_note}"),
        "extract_float32_vs_official_small_batches": {
            "value": suited / exact,
            "target": None,
            "ok": True,
            "note": note,
        },
    }
    cpu: Any = torch.cpu
    note = f"{lower:.2f} {whole_note}"
    if cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported():
        entries["extract_bfloat16_vs_official"] = at_least(official / lower, BFLOAT16_GAIN, note)
    else:
        entries["extract_bfloat16_vs_official"] = unmeasured(BFLOAT16_GAIN, "this CPU has no bfloat16 instructions")
    return entries


def as_torch_finds_it() -> None:
    """Memory as glibc keeps it by itself once it has seen large blocks: those above 32 MB are mapped each time."""
    if keep_freed_memory():
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(MMAP_THRESHOLD, 2**25)
        mallopt(TRIM_THRESHOLD, 2**26)


def bfloat16_error(clip: Path, checkpoints: dict[str, str]) -> dict[str, Entry]:
    """Relative L2 error that bfloat16 makes in features of real crops."""
    if not clip.is_dir():
        return {"extract_bfloat16_error": unmeasured(BFLOAT16_ERROR, f"no real clip in {clip}; name one with --clip")}
    data = PoseTrack18Data.model_validate(
        {"root": clip, "annotations": "posetrack18_json", "train": None, "eval": {"subset": "test"}}
    )
    video = open_video(list_videos(data)[0])
    notes = video.annotations
    assert notes is not None
    entries = {}
    for name, checkpoint in checkpoints.items():
        maps = []
        for precision in ("float32", "bfloat16"):
            options = ExtractOptions.model_validate({"checkpoint": checkpoint, "k": 0, "precision": precision})
            backbone = load_backbone(options, torch.device("cpu"))
            found = extract_video("clip", video.frames, notes.frame[:8], notes.boxes[:8], backbone, options, BATCH)
            maps.append(np.concatenate([key for key, _ in found]))
        error = float(np.linalg.norm(maps[0] - maps[1]) / np.linalg.norm(maps[0]))
        note = f"relative L2, 8 people of the Bonn clip, {name} weights"
        if name == "demo":
            entries["extract_bfloat16_error"] = at_most(error, BFLOAT16_ERROR, note)
        else:  # of weights that nobody would use: for information
            entries[f"extract_bfloat16_error_{name}"] = {"value": error, "target": None, "ok": True, "note": note}
    return entries


# ------------------------------------------------------------------------------------------------------------- memory
def memory() -> dict[str, Entry]:
    """Peak memory of extracting a long video over that of a short one, a process each."""
    peaks = []
    frame = np.random.default_rng(0).integers(0, 256, (270, 480, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for frames in LENGTHS:
            path = Path(folder) / f"{frames}.mp4"
            write_film(path, (frame for _ in range(frames)), 25)
            command = [sys.executable, __file__, "--peak-of", str(path)]
            peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    note = f"{peaks[0] / 1e6:.0f} MB for {LENGTHS[0]} frames, {peaks[1] / 1e6:.0f} MB for {LENGTHS[1]}"
    return {"extract_peak_memory_long_over_short": at_most(peaks[1] / peaks[0], FLAT, note)}


def peak_of(path: Path) -> int:
    """Peak resident bytes of this process after storing features of two people in every frame, by a small network."""
    options = ExtractOptions.model_validate({"crop_size": [128, 96]})
    net = fold_batch_norm(untrained(8))
    backbone = Backbone(net, "hrnet_w8", "none", torch.device("cpu"))
    source = open_frames("v", path)
    frames = np.repeat(np.arange(len(source.names)), 2)
    boxes = np.tile([[40.0, 30, 200, 250], [230, 40, 300, 200]], (len(source.names), 1))
    with (
        tempfile.TemporaryDirectory() as folder,
        FeatureWriter(Path(folder), feature_schema(options, backbone), len(frames)) as writer,
    ):
        for key, local in extract_video("v", source, frames, boxes, backbone, options, BATCH):
            writer.append(key, local)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# -------------------------------------------------------------------------------------------------------------- entry
def main() -> int:
    """Measure, print, write; 0 when every target is met."""
    parser = argparse.ArgumentParser(description="Extraction: shares of the network's speed, and memory.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the entries there")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="of every timed call")
    parser.add_argument("--clip", type=Path, default=DEFAULT_CLIP, metavar="DIR", help="the Bonn clip")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    if options.peak_of is not None:
        print(peak_of(options.peak_of))
        return 0
    entries = memory()
    with tempfile.TemporaryDirectory() as folder:
        model = untrained(48)
        checkpoint = Path(folder) / "w48.safetensors"
        save_checkpoint(checkpoint, model.state_dict(), {})
        entries |= network_gain(model, options.repeats)
        share, note = stage_share(Path(folder) / "data", checkpoint, "cpu", options.repeats)
        entries["extract_stage_vs_network"] = at_least(share, STAGE_SHARE, note)
        if torch.cuda.is_available():
            share, note = stage_share(Path(folder) / "data_gpu", checkpoint, "cuda", options.repeats)
            entries["extract_gpu_stage_vs_network"] = at_least(share, STAGE_SHARE, note)
        else:
            entries["extract_gpu_stage_vs_network"] = without_gpu()
        entries |= bfloat16_error(options.clip, {"demo": "demo", "w48_random": str(checkpoint)})
    return report(entries, options.json)


if __name__ == "__main__":
    sys.exit(main())
