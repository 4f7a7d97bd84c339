"""Writing features: sizes, rounding and speed against raw float16; and reading a table of 150,000 proposals.

Part of `python benchmarks/store.py`. Sizes and rounding are of real crops, the annotated people of one clip through the
weights that ship (HRNet-W16, 384 x 288, four frames on each side); times are of generated maps of HRNet-W48's shape.
Writing counts everything between two float32 arrays and a commit: rounding, checksums, SHA-256, sync.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from measuring import Entry, at_most, unmeasured

from store.features import GROUP, FeatureWriter, VideoFeatures
from store.folder import Commit, StageFolder
from store.reader import Store
from store.record import make_record
from store.schema import SHARD_PROPOSALS, FeatureSchema
from store.tables import merge_tables, write_table

OFFSETS = (-4, -3, -2, -1, 1, 2, 3, 4)
RECORD = make_record("extract", 1, {}, {})
PROPOSALS = 2 * SHARD_PROPOSALS
REPEATS = 7
ROWS, VIDEOS, JOINTS = 150_000, 300, 15
CLIP_PEOPLE = 24  # of the real clip
TARGETS = {
    "store_size_uint8_crc32c": 0.502,
    "store_size_uint8_zstd": 0.42,
    "store_uint8_half_steps": 1.0,
    "store_uint8_relative_l2": 0.008,
    "store_write_crc32c": 3.5,
    "store_write_zstd": 4.5,
    "store_write_memory": 3.5,
    "store_table_metadata": 0.3,
}


def measure_writing(clip: Path) -> dict[str, Entry]:
    """All entries. clip: folder of the Bonn clip in the development data; without it sizes are unmeasured."""
    return {**real_features(clip), **write_speed(), **memory(), **table_speed()}


def form(codec: str, channels: int = 48) -> FeatureSchema:
    """The schema of a video at 384 x 288."""
    return FeatureSchema.model_validate(
        {"channels": channels, "height": 96, "width": 72, "stride": 4, "offsets": OFFSETS, "dtype": "uint8",
         "codec": codec, "backbone": "benchmark", "space": "benchmark"}
    )  # fmt: skip


def real_features(clip: Path) -> dict[str, Entry]:
    """Bytes over raw float16, and the error of rounding, on crops of a real clip."""
    names = [name for name in TARGETS if "size" in name or "uint8" in name]
    if not clip.is_dir():
        return {name: unmeasured(TARGETS[name], f"no clip at {clip}; name its folder with --clip") for name in names}
    maps = list(crops_of(clip))
    about = f"{len(maps)} people of the Bonn clip, weights that ship"
    entries: dict[str, Entry] = {}
    raw = sum(key.size + local.size for key, local in maps) * 2
    with tempfile.TemporaryDirectory() as folder:
        for codec in ("crc32c", "zstd"):
            commit = write(Path(folder) / codec, form(codec, channels=maps[0][0].shape[1]), maps)
            size = sum(n for name, (n, _) in commit.files.items() if name.startswith(GROUP))
            name = f"store_size_uint8_{codec}"
            entries[name] = at_most(size / raw, TARGETS[name], f"{size / 1e6:.1f} of {raw / 1e6:.1f} MB; {about}")
            features = VideoFeatures(StageFolder(Path(folder) / codec).attempt_path(commit), "clip", commit.files)
        want = np.stack([np.concatenate([key[:, None], local], axis=1) for key, local in maps])
        got = np.concatenate([features.key()[:, :, None], features.local()], axis=2)
        scale = np.concatenate([features.read("key_scale")[:, :, None], features.read("local_scale")], axis=2)
    error = np.abs(got - want)
    steps = float((error / (np.maximum(scale, 1e-30)[..., None, None] / 2)).max())
    relative = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    # float32 arithmetic on both ways may add some 1e-5 of a step
    entries["store_uint8_half_steps"] = {
        "value": steps, "target": 1.0, "ok": steps <= 1 + 1e-4, "note": f"largest error over half a step; {about}"
    }  # fmt: skip
    entries["store_uint8_relative_l2"] = at_most(relative, TARGETS["store_uint8_relative_l2"], about)
    return entries


def crops_of(clip: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features (1, C, H, W) and (1, 2k, C, H, W) of the first people of the clip."""
    import torch

    from glpose.data.dataset import VideoRef, open_video
    from glpose.extraction import extract_video, load_backbone
    from glpose.options import ExtractOptions

    path = clip / "posetrack18_json" / "test" / "060470979.json"
    video = open_video(VideoRef("clip", "posetrack18", path, clip, {"eval": (0, None)}))
    notes, options = video.annotations, ExtractOptions()
    if notes is None:
        raise SystemExit(f"{path} holds no annotations")
    rows = np.linspace(0, len(notes.frame) - 1, CLIP_PEOPLE).round().astype(int)
    backbone = load_backbone(options, torch.device("cpu"))
    yield from extract_video("clip", video.frames, notes.frame[rows], notes.boxes[rows], backbone, options, 18)


def write(root: Path, schema: FeatureSchema, maps: list[tuple[np.ndarray, np.ndarray]]) -> Commit:
    """Write and commit one video as `extract` does; its commit."""
    stage = StageFolder(root)
    stage.begin(RECORD)
    with stage.writing(RECORD, "clip", "") as attempt, FeatureWriter(attempt.path, schema, len(maps)) as writer:
        for key, local in maps:
            writer.append(key, local)
    return stage.commit_of(RECORD, "clip")


def generated(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Maps like HRNet-W48's, half of them zero."""
    rng = np.random.default_rng(0)
    few = []
    for _ in range(min(count, 16)):
        maps = np.maximum(rng.standard_normal((1, 1 + len(OFFSETS), 48, 96, 72), np.float32), 0)
        few.append((maps[:, 0], maps[:, 1:]))
    return [few[k % len(few)] for k in range(count)]


def write_speed() -> dict[str, Entry]:
    """Wall time of writing and committing over that of the same maps as raw float16, written and synced."""
    maps = generated(PROPOSALS)
    half = [(key.astype(np.float16), local.astype(np.float16)) for key, local in maps[:16]]

    def raw(folder: Path) -> None:
        with open(folder / "raw", "wb") as file:
            for row in range(len(maps)):
                for values in half[row % len(half)]:
                    values.tofile(file)
            file.flush()
            os.fsync(file.fileno())

    calls: dict[str, Callable[[Path], object]] = {
        "raw": raw,
        "crc32c": lambda folder: write(folder, form("crc32c"), maps),
        "zstd": lambda folder: write(folder, form("zstd"), maps),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(REPEATS + 1):
        for name, call in calls.items():
            gc.collect()
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                call(Path(folder))
                if repeat:
                    seconds[name].append(time.perf_counter() - start)
    wall = {name: statistics.median(values) for name, values in seconds.items()}
    size = len(maps) * (1 + len(OFFSETS)) * 48 * 96 * 72 * 2 / 1e6
    note = f"{size:.0f} MB of float16; raw {wall['raw']:.2f} s, ours "
    return {
        f"store_write_{codec}": at_most(
            wall[codec] / wall["raw"], TARGETS[f"store_write_{codec}"], f"{note}{wall[codec]:.2f} s"
        )
        for codec in ("crc32c", "zstd")
    }


def memory() -> dict[str, Entry]:
    """Peak memory that writing adds, over the bytes of a shard of keys and locals; in a process of its own."""
    code = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import store_writing as w; w.print_memory()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = int(done.stdout)
    shard = SHARD_PROPOSALS * (1 + len(OFFSETS)) * 48 * 96 * 72
    note = f"{added / 1e6:.0f} MB for shards of {shard / 1e6:.0f} MB, {4 * PROPOSALS} proposals"
    return {"store_write_memory": at_most(added / shard, TARGETS["store_write_memory"], note)}


def print_memory() -> None:
    """Bytes that the peak of this process grows by while a video is written."""
    maps = generated(4 * PROPOSALS)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "first", form("crc32c"), maps[:1])  # what is imported and allocated once
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
        before = _resident("VmRSS")
        write(Path(folder) / "second", form("crc32c"), maps)
        print(_resident("VmHWM") - before)


def _resident(what: str) -> int:
    """Bytes that the kernel says of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{what}:")).split()[1]) * 1024


def table_speed() -> dict[str, Entry]:
    """Time of `table()` over that of reading all columns, embeddings aside, at 150,000 rows."""
    rng = np.random.default_rng(0)
    per, nothing = ROWS // VIDEOS, np.zeros((1, 1, 1, 1), np.float32)
    tiny = form("crc32c").model_copy(update={"channels": 1, "height": 1, "width": 1, "offsets": (1,)})
    with tempfile.TemporaryDirectory() as folder:
        stage = StageFolder(Path(folder) / "extract")
        stage.begin(RECORD)
        for number in range(VIDEOS):
            name = f"{number:06d}"
            table = pd.DataFrame(
                {"video": name, "proposal": range(per), "frame": np.arange(per) // 10, "person": np.arange(per) % 10,
                 **{side: rng.uniform(0, 1000, per) for side in ("x1", "y1", "x2", "y2")},
                 "score": rng.uniform(0, 1, per), "source": "annotation", "split": "train",
                 "keypoints": list(rng.uniform(0, 1000, (per, 3 * JOINTS)).astype(np.float32))}
            )  # fmt: skip
            with stage.writing(RECORD, name, "") as attempt:
                write_table(attempt.path, "proposals", table)
                with FeatureWriter(attempt.path, tiny, per) as writer:
                    for _ in range(per):
                        writer.append(nothing, nothing[:, None])
        merge_tables(stage, stage.commits(RECORD), "proposals")
        opened = Store(Path(folder))
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for repeat in range(REPEATS + 1):
            for keypoints, found in seconds.items():
                gc.collect()
                start = time.perf_counter()
                opened.table(keypoints=keypoints)
                if repeat:
                    found.append(time.perf_counter() - start)
    few, every = statistics.median(seconds[False]), statistics.median(seconds[True])
    note = f"{ROWS} rows of {VIDEOS} videos: {few:.3f} s, with keypoints {every:.3f} s"
    return {"store_table_metadata": at_most(few / every, TARGETS["store_table_metadata"], note)}
