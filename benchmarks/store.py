"""The feature store: reading for training against a memory map and plain Zarr; sizes, rounding and writing.

    python benchmarks/store.py [--json FILE] [--clip DIR]

Reading is measured here, the rest in `store_writing`. Wall seconds in one process, readers in turn, median of seven,
the files in the page cache. The features are generated: post-ReLU-like, half of them zero, 48 x 96 x 72, four frames on
each side, in a temporary folder of at most 400 MB. The memory map holds the values as read, uncompressed; only uint8
with crc32c, the default, has targets.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if (here := str(Path(__file__).resolve().parent)) in sys.path:
    sys.path.remove(here)
sys.path.append(here)  # last: this file must not be taken for the package `store`

import numpy as np
import zarr
from measuring import Entry, at_least, at_most, report, wall_seconds
from store_writing import measure_writing

from store.features import GROUP, FeatureWriter
from store.record import file_digest
from store.schema import FeatureSchema
from store.shards import ShardReader

DEFAULT_CLIP = Path(__file__).resolve().parents[2] / "shared" / "data" / "real" / "bonn_060470979"
REPEATS = 7
BLOCK = 32  # proposals
SINGLES = 16  # random proposals, each a request of its own
KINDS = {
    "uint8_crc32c": ("uint8", "crc32c", 2 * BLOCK),
    "uint8_zstd": ("uint8", "zstd", BLOCK),
    "float16_crc32c": ("float16", "crc32c", BLOCK),
    "float16_zstd": ("float16", "zstd", BLOCK),
}
TARGETS = {
    "store_read_block_vs_memmap_uint8_crc32c": 0.35,
    "store_read_block_vs_zarr_uint8_crc32c": 3.0,
    "store_bytes_read_block": 1.02,
    "store_bytes_read_random": 1.02,
}


@dataclass(frozen=True)
class Sources:
    """The same maps of one video behind three readers; `out`: the buffers to fill, by array."""

    readers: dict[str, ShardReader]
    arrays: dict[str, Any]
    raw: dict[str, np.memmap]
    out: dict[str, np.ndarray]

    def fill(self, rows: list[int]) -> None:
        """Ours: stored maps of these proposals into the buffers."""
        for name, reader in self.readers.items():
            reader.read_into(self.out[name][: len(rows)], rows)

    def fill_from_zarr(self, rows: list[int]) -> None:
        """The same rows, neighbours, through Zarr, which allocates its own result."""
        for array in self.arrays.values():
            array[rows[0] : rows[-1] + 1]

    def fill_from_memmap(self, rows: list[int]) -> None:
        """The same rows, neighbours, copied from a raw file in memory."""
        for name, raw in self.raw.items():
            np.copyto(self.out[name][: len(rows)], raw[rows[0] : rows[-1] + 1])


def measure() -> dict[str, Entry]:
    """All entries: name -> {"value", "target", "ok", "note"}."""
    entries: dict[str, Entry] = {}
    for kind, (dtype, codec, proposals) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            sources = generate(Path(folder), dtype, codec, proposals)
            check(sources, proposals)
            entries |= speeds(kind, sources, proposals)
            if kind == "uint8_crc32c":
                entries |= bytes_read(Path(folder), sources, proposals)
    return entries


def speeds(kind: str, sources: Sources, proposals: int) -> dict[str, Entry]:
    """Time of the memory map and of Zarr over ours, for a block of 32 proposals and for random single ones."""
    singles = np.random.default_rng(1).integers(0, proposals, SINGLES).tolist()
    requests = {"block": [list(range(BLOCK))], "random": [[row] for row in singles]}
    entries = {}
    for what, asked in requests.items():
        fills = (sources.fill, sources.fill_from_memmap, sources.fill_from_zarr)
        ours, memmap, plain = wall_seconds(*(partial(fill_each, fill, asked) for fill in fills), repeats=REPEATS)
        size = sum(len(rows) for rows in asked) * sum(out[0].nbytes for out in sources.out.values())
        note = f"{size / 1e6:.0f} MB: ours {ours * 1e3:.1f} ms, "
        entries |= {
            f"store_read_{what}_vs_memmap_{kind}": (memmap / ours, f"{note}np.memmap {memmap * 1e3:.1f} ms"),
            f"store_read_{what}_vs_zarr_{kind}": (plain / ours, f"{note}zarr {zarr.__version__} {plain * 1e3:.1f} ms"),
        }
    return {name: entry(name, value, note) for name, (value, note) in entries.items()}


def entry(name: str, value: float, note: str) -> Entry:
    """An entry whose value must reach its target; without one, it is for information."""
    if name in TARGETS:
        return at_least(value, TARGETS[name], note)
    return {"value": value, "target": None, "ok": True, "note": note}


def fill_each(fill: Callable[[list[int]], None], requests: list[list[int]]) -> None:
    """One call for each request."""
    for rows in requests:
        fill(rows)


def bytes_read(folder: Path, sources: Sources, proposals: int) -> dict[str, Entry]:
    """Bytes read, shard indices included, over bytes of the maps asked for, each time with a fresh reader."""
    ratios: dict[str, tuple[float, str]] = {}
    requests = {"block": (range(BLOCK), "a whole block of 32"), "random": (range(proposals), "worst single proposal")}
    for what, (rows, note) in requests.items():
        found = []
        for asked in [list(rows)] if what == "block" else [[row] for row in rows]:
            for name, reader in open_readers(folder).items():
                out = sources.out[name][: len(asked)]
                found.append(reader.read_into(out, asked) / out.nbytes)
        ratios[f"store_bytes_read_{what}"] = (max(found), f"{note}, key or local, index not yet read")
    return {name: at_most(value, TARGETS[name], note) for name, (value, note) in ratios.items()}


def generate(folder: Path, dtype: str, codec: str, proposals: int) -> Sources:
    """Write a video's features as the store does, and the stored values once more as raw files."""
    schema = FeatureSchema.model_validate(
        {"channels": 48, "height": 96, "width": 72, "stride": 4, "offsets": (-4, -3, -2, -1, 1, 2, 3, 4),
         "dtype": dtype, "codec": codec, "backbone": "generated", "space": "generated"}
    )  # fmt: skip
    rng = np.random.default_rng(0)
    with FeatureWriter(folder, schema, proposals) as writer:
        for _ in range(proposals):
            maps = np.maximum(rng.standard_normal((1, 1 + len(schema.offsets), *schema.map_shape), np.float32), 0)
            writer.append(maps[:, 0], maps[:, 1:])
    group: Any = zarr.open(folder / GROUP, mode="r")
    raw, out = {}, {}
    for name in ("key", "local"):
        array = group[name]
        shape = (proposals, *array.shape[2:])  # the one view has no axis
        with open(folder / f"{name}.raw", "wb") as file:
            for row in range(proposals):
                file.write(array[row].tobytes())
        raw[name] = np.memmap(folder / f"{name}.raw", array.dtype, mode="r", shape=shape)
        out[name] = np.zeros((BLOCK, *shape[1:]), array.dtype)
    return Sources(open_readers(folder), {name: group[name] for name in raw}, raw, out)


def open_readers(folder: Path) -> dict[str, ShardReader]:
    """Fresh readers of the key and local maps."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    files = {name: (size, file_digest(folder / name) if name.endswith(".json") else "") for name, size in sizes.items()}
    return {name: ShardReader(folder, f"{GROUP}/{name}", "generated", files) for name in ("key", "local")}


def check(sources: Sources, proposals: int) -> None:
    """Stop if the shard reader's bytes are not those of the raw files."""
    for start in range(0, proposals, BLOCK):
        rows = list(range(start, start + BLOCK))
        sources.fill(rows)
        if not all(np.array_equal(sources.out[name], sources.raw[name][rows]) for name in sources.out):
            raise SystemExit("the shard reader and Zarr disagree: nothing was measured")


def main() -> int:
    """Measure, print, write; 0 when every target is met."""
    parser = argparse.ArgumentParser(description="The feature store: reading, sizes, rounding, writing.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the entries there")
    parser.add_argument("--clip", type=Path, default=DEFAULT_CLIP, metavar="DIR", help="a real clip, for sizes")
    options = parser.parse_args()
    entries = {**measure(), **measure_writing(options.clip)}
    return report(entries, options.json)


if __name__ == "__main__":
    sys.exit(main())
