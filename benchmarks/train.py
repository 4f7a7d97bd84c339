"""Training from the store: against the bare step, against the backbone in the loop, and how fast a split loads.

    python benchmarks/train.py [--json FILE] [--repeats N]

Features of HRNet-W48 at 384 x 288 (48 x 96 x 72), the full recipe (k = 4, n = 6), random contents, one thread. The bare
step has its batch ready on the device in float32. The backbone in the loop is the frozen one of extraction, on 15 ready
crops a sample. Loading is from a cold page cache, against reading one file of as many bytes front to back. Steps are
measured on a CPU, in its seconds, and on a GPU where there is one, on the clock.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

if (here := str(Path(__file__).resolve().parent)) in sys.path:
    sys.path.remove(here)
sys.path.append(here)  # last: store.py beside this file must not be taken for the package `store`

import numpy as np
import pandas as pd
import torch
from measuring import Entry, at_least, report, seconds_of, wall_seconds, without_gpu

import store
from glpose.batches import Batch, Portion, make_batch, portions
from glpose.data.windows import SplitFeatures, open_split
from glpose.examples import Examples, make_examples
from glpose.host_memory import keep_freed_memory
from glpose.keypoints import POSETRACK
from glpose.models.glpose import GLPoseHeads
from glpose.models.hrnet import HRNet, fold_batch_norm
from glpose.options import HeadOptions, IndexOptions, TrainOptions
from glpose.ranks import Ranks
from glpose.references import References
from glpose.training import Trainee, new_trainee, train_step
from store.features import FeatureWriter
from store.folder import StageFolder
from store.record import make_record
from store.schema import FeatureSchema
from store.tables import merge_tables, write_table

CROP = (384, 288)
PEOPLE, VIDEOS = 96, 4  # proposals of each video; 1.1 GB in all
BATCH, LOOP_BATCH = 4, 1
STEP_SHARE, LOOP_GAIN, LOAD_SHARE = 0.95, 20.0, 0.8
CPU = torch.device("cpu")
OFFSETS = (-4, -3, -2, -1, 1, 2, 3, 4)
SCHEMA = FeatureSchema(channels=48, height=96, width=72, stride=4, offsets=OFFSETS, backbone="random", space="random")
HEADS, INDEX, RECIPE = HeadOptions(), IndexOptions(), TrainOptions(epochs=1)


def write_store(work: Path) -> None:
    """A store of random features, with annotated people."""
    rng = np.random.default_rng(0)
    folder, record = StageFolder(work / "extract"), make_record("extract", 1, {}, {})
    folder.begin(record)
    maps = np.maximum(rng.standard_normal((32, 1, 1 + len(OFFSETS), *SCHEMA.map_shape), np.float32), 0)
    for number in range(VIDEOS):
        with folder.writing(record, f"v{number}", "random") as attempt:
            with FeatureWriter(attempt.path, SCHEMA, PEOPLE) as writer:
                for row in range(PEOPLE):
                    own = maps[row % len(maps)]
                    writer.append(own[:, 0], own[:, 1:])
            write_table(attempt.path, "proposals", people(rng, f"v{number}"))
            attempt.meta = {"proposals": PEOPLE, "space": SCHEMA.space, "backbone": SCHEMA.backbone}
    merge_tables(folder, folder.commits(record), "proposals")


def people(rng: np.random.Generator, video: str) -> pd.DataFrame:
    """Proposals of one video, a person a frame."""
    joints = np.concatenate([rng.uniform(20, 180, (PEOPLE, 15, 2)), np.full((PEOPLE, 15, 1), 2.0)], axis=2)
    rows = np.arange(PEOPLE)
    return pd.DataFrame(
        {
            "video": video, "proposal": rows, "frame": rows, "person": 0, "x1": 0.0, "y1": 0.0, "x2": 150.0,
            "y2": 200.0, "score": 1.0, "source": "annotation", "split": "train",
            "keypoints": list(joints.reshape(PEOPLE, -1)),
        }
    )  # fmt: skip


def opened(work: Path, device: torch.device = CPU) -> SplitFeatures:
    """The split, held in memory, of a GPU its own."""
    return open_split(store.open(work), "train", 4, CROP, 1.25, device, asked="device")


def first_portion(examples: Examples) -> Portion:
    """All of the first epoch, with references drawn."""
    (portion,) = portions(examples, {"own": HEADS}, RECIPE, INDEX, BATCH, {1: 1})
    return portion


def step_entry(examples: Examples, trainee: Trainee, repeats: int) -> Entry:
    """The step on a batch that is ready over the step that gathers its own."""
    portion = first_portion(examples)
    rows = portion.batches[0]
    gather = partial(make_batch, examples, portion, rows, False, RECIPE, (0,))
    ready = ready_batch(gather())

    def stored() -> None:
        train_step(trainee, gather(), 1e-3, RECIPE, Ranks())

    def bare() -> None:
        train_step(trainee, ready, 1e-3, RECIPE, Ranks())

    device = ready.points.device
    theirs, ours, gathering = seconds_of(device, bare, stored, gather, repeats=repeats)
    note = f"{BATCH} samples: bare {theirs:.3g} s, from the store {ours:.3g} s, of which gathering {gathering:.3g} s"
    return at_least(theirs / ours, STEP_SHARE, note)


def ready_batch(like: Batch) -> Batch:
    """Random tensors of a batch's shapes."""
    inputs = like.inputs
    key, local, references = (torch.rand_like(maps) for maps in (inputs.key, inputs.local, inputs.references))
    own = replace(inputs, key=key, local=local, references=references)
    return Batch(own, like.points, like.weight, torch.rand_like(like.targets))


def loop_entry(examples: Examples, trainee: Trainee, repeats: int) -> Entry:
    """Samples a second from the store over those with the frozen backbone in the loop."""
    torch.manual_seed(0)
    net = fold_batch_norm(HRNet(48, num_joints=0, stages=3).eval())
    device = next(trainee.module.parameters()).device
    net = net.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    samples = LOOP_BATCH if device.type == "cpu" else BATCH  # a GPU's step costs its launches, whatever its batch
    crops = torch.randn(samples * 15, 3, *CROP, device=device).to(memory_format=torch.channels_last)
    portion = first_portion(examples)
    small, batch = portion.batches[0][:samples], portion.batches[0]

    def in_loop() -> None:
        with torch.inference_mode():
            maps = net.features(crops).contiguous().unflatten(0, (samples, 15))
        own = make_batch(examples, portion, small, False, RECIPE, (0,))
        key, local, references = (part.clone() for part in (maps[:, 0], maps[:, 1:9], maps[:, 9:]))
        inputs = replace(own.inputs, key=key, local=local, references=references)
        train_step(trainee, Batch(inputs, own.points, own.weight, own.targets), 1e-3, RECIPE, Ranks())

    def stored() -> None:
        train_step(trainee, make_batch(examples, portion, batch, False, RECIPE, (0,)), 1e-3, RECIPE, Ranks())

    theirs, ours = seconds_of(device, in_loop, stored, repeats=min(repeats, 3))
    a_sample = theirs / samples, ours / len(batch)
    note = (
        f"a sample: backbone in the loop {a_sample[0]:.3g} s, from the store {a_sample[1]:.3g} s; "
        f"FLOP bound {bound():.0f}"
    )
    return at_least(a_sample[0] / a_sample[1], LOOP_GAIN, note)


@cache
def bound() -> float:
    """FLOPs of the step with 15 crops through the backbone over those of the step alone."""
    from torch.utils.flop_counter import FlopCounterMode

    heads = GLPoseHeads(48, 15, OFFSETS, HEADS)
    maps = [torch.rand(1, *lead, *SCHEMA.map_shape) for lead in ((), (8,), (6,))]
    with FlopCounterMode(display=False) as alone:
        heads(*maps, torch.zeros(1, 6)).sum().backward()
    with FlopCounterMode(display=False) as crop, torch.inference_mode():
        HRNet(48, num_joints=0, stages=3).eval().features(torch.zeros(1, 3, *CROP))
    return (alone.get_total_flops() + 15 * crop.get_total_flops()) / alone.get_total_flops()


def training_entries(work: Path, device: torch.device, repeats: int) -> dict[str, Entry]:
    """Both comparisons of training on a device."""
    split = opened(work, device)
    fixed = References(np.full((len(split), 6), -1), np.full((len(split), 6), -np.inf, np.float32))
    examples = make_examples(split, fixed, POSETRACK, RECIPE)
    trainee = new_trainee(examples, HEADS, RECIPE, Ranks())
    name = "train" if device.type == "cpu" else "train_gpu"
    return {
        f"{name}_step_from_store": step_entry(examples, trainee, repeats),
        f"{name}_against_backbone_in_loop": loop_entry(examples, trainee, repeats),
    }


def load_entries(work: Path, repeats: int) -> dict[str, Entry]:
    """Sequential reading of one file over loading the split, both from a cold page cache; and from a warm one."""
    size = sum(path.stat().st_size for path in (work / "extract" / "data").rglob("*") if path.is_file())
    plain = work / "plain.bin"
    with open(plain, "wb") as file:
        for _ in range(size // 2**24 + 1):
            file.write(os.urandom(2**24)[: size - file.tell()])
        os.fsync(file.fileno())
    buffer = bytearray(2**23)
    kept = torch.empty(size, dtype=torch.uint8)  # where a reader of the plain file would put it

    def read_plain(*, cold: bool) -> None:
        if cold:
            drop_cache(work)
        into, place = kept.numpy().data, 0
        with open(plain, "rb", buffering=0) as file:
            while count := file.readinto(into[place : place + len(buffer)]):
                place += count

    def load(*, cold: bool) -> None:
        if cold:
            drop_cache(work)
        opened(work)

    entries = {}
    for name, cold in (("cold", True), ("warm", False)):
        theirs, ours = wall_seconds(partial(read_plain, cold=cold), partial(load, cold=cold), repeats=min(repeats, 5))
        note = f"{size / 1e9:.2f} GB: one file {size / theirs / 1e9:.2f} GB/s, the split {size / ours / 1e9:.2f} GB/s"
        entry = at_least(theirs / ours, LOAD_SHARE, note)
        entries[f"train_load_{name}"] = entry if cold else {**entry, "target": None, "ok": True}
    return entries


def drop_cache(folder: Path) -> None:
    """Have the system forget the files of a folder, which have all been synced."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def random_store() -> Iterator[Path]:
    """A folder with the store, which goes when the block ends."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        write_store(Path(folder) / "work")
        yield Path(folder) / "work"


def main() -> int:
    """Measure, print, write; 0 when every target is met."""
    parser = argparse.ArgumentParser(description="Training from the store.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the entries there")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # for the bare step too
    with random_store() as work:
        entries = load_entries(work, options.repeats)
        entries |= training_entries(work, CPU, options.repeats)
        if torch.cuda.is_available():
            entries |= training_entries(work, torch.device("cuda", torch.cuda.current_device()), options.repeats)
        else:
            entries |= dict.fromkeys(("train_gpu_step_from_store", "train_gpu_against_backbone_in_loop"), without_gpu())
    return report(entries, options.json)


if __name__ == "__main__":
    sys.exit(main())
