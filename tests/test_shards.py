"""The shard reader: the same bytes as zarr.open, from any thread or process, read sparingly, and never damaged ones."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from crc32c import crc32c
from numcodecs.zstd import Zstd

from store.errors import CorruptData, StoreError
from store.features import GROUP, FeatureWriter
from store.record import file_digest
from store.schema import FeatureSchema
from store.shard_layout import parse_layout
from store.shard_writer import ShardWriter
from store.shards import ShardReader

C, H, W = 3, 6, 5
KINDS = [(dtype, codec) for dtype in ("uint8", "float16") for codec in ("crc32c", "zstd")]


def schema(**changes: Any) -> FeatureSchema:
    options = {
        "channels": C, "height": H, "width": W, "stride": 4, "offsets": (-2, -1, 1, 2), "backbone": "b", "space": "abc",
    }  # fmt: skip
    return FeatureSchema.model_validate({**options, **changes})


def write(folder: Path, form: FeatureSchema, proposals: int, zero: Sequence[int] = (), seed: int = 0) -> None:
    """Maps like HRNet's; those of the proposals `zero` hold nothing but zeros."""
    rng = np.random.default_rng(seed)
    with FeatureWriter(folder, form, proposals) as writer:
        for proposal in range(proposals):
            values = rng.normal(size=(form.views, 1 + len(form.offsets), *form.map_shape)).astype(np.float32)
            values = np.maximum(values, 0) * (proposal not in zero)
            writer.append(values[:, 0], values[:, 1:], np.ones((form.views, 2, 3)))


def committed(folder: Path) -> dict[str, tuple[int, str]]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, file_digest(path)) for path in paths}


def reader_of(folder: Path, name: str, files: dict[str, tuple[int, str]] | None = None) -> ShardReader:
    return ShardReader(folder, f"{GROUP}/{name}", "clip", committed(folder) if files is None else files)


def stored(folder: Path, name: str) -> np.ndarray:
    """The whole array as plain Zarr reads it."""
    group: Any = zarr.open(folder / GROUP, mode="r")
    return group[name][:]


def read(reader: ShardReader, rows: Sequence[int] | np.ndarray, views: Any = 0, offsets: Any = None) -> np.ndarray:
    """A fresh buffer full of something else, filled."""
    lead = [len(rows)] + ([] if isinstance(views, int) else [len(views)])
    if len(reader.layout.shape) == 6:
        lead.append(reader.layout.shape[2] if offsets is None else len(offsets))
    out = np.full((*lead, *reader.layout.shape[-3:]), 77, reader.layout.dtype)
    reader.read_into(out, rows, views, offsets)
    return out


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 proposals, 2 views, uint8 and crc32c."""
    folder = tmp_path_factory.mktemp("plain")
    write(folder, schema(views=2), 40)
    return folder


# -------------------------------------------------------------------------------------------------------- equal bytes
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize(("dtype", "codec"), KINDS)
def test_same_as_zarr(tmp_path: Path, dtype: str, codec: str, views: int) -> None:
    write(tmp_path, schema(dtype=dtype, codec=codec, views=views), 70)
    key, local = stored(tmp_path, "key"), stored(tmp_path, "local")
    keys, locals_ = reader_of(tmp_path, "key"), reader_of(tmp_path, "local")
    assert (len(keys), keys.layout.dtype, keys.layout.codec) == (70, np.dtype(dtype), codec)
    every = list(range(views))
    for rows in (range(70), range(32, 64), [69, 0, 0, 33, 69], np.array([5], np.int32), [64, 69, 65]):
        assert np.array_equal(read(keys, rows, every), key[list(rows)])
        assert np.array_equal(read(locals_, rows, every), local[list(rows)])
        assert np.array_equal(read(keys, rows, views - 1), key[list(rows), views - 1])
        assert np.array_equal(read(locals_, rows), local[list(rows), 0])
    for offsets in ([0], [1, 2], [3, 0, 3], []):
        assert np.array_equal(read(locals_, [40, 2], 0, offsets), local[[40, 2], 0][:, offsets])
        assert np.array_equal(read(locals_, [40, 2], every[::-1], offsets), local[[40, 2], ::-1][:, :, offsets])
    assert read(keys, []).shape == (0, C, H, W)


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize(("dtype", "codec"), KINDS)
def test_maps_of_zeros_only(tmp_path: Path, dtype: str, codec: str, rewritten: bool) -> None:
    write(tmp_path, schema(dtype=dtype, codec=codec), 70, zero=[1, *range(32, 64), 69])
    want = {name: stored(tmp_path, name) for name in ("key", "local")}
    if rewritten:  # zarr-python stores no such map, and no file for a shard of them
        group: Any = zarr.open(tmp_path / GROUP, mode="r+")
        for name, values in want.items():
            shutil.rmtree(tmp_path / GROUP / name / "c")
            group[name][:] = values
    assert (tmp_path / GROUP / "key/c/1").exists() != rewritten
    for name, values in want.items():
        assert np.array_equal(read(reader_of(tmp_path, name), range(70)), values[:, 0])


def test_files_are_those_that_zarr_would_write(tmp_path: Path) -> None:
    for codec in ("crc32c", "zstd"):
        write(tmp_path / codec, schema(codec=codec, views=2), 40)
        ours = committed(tmp_path / codec)
        group: Any = zarr.open(tmp_path / codec / GROUP, mode="r+")
        for name in ("key", "local"):
            group[name][:] = group[name][:]
        theirs = committed(tmp_path / codec)
        assert {name: size for name, (size, _) in ours.items()} == {name: size for name, (size, _) in theirs.items()}


@pytest.mark.parametrize("row", [np.zeros((1, C, H, W), np.float32), np.zeros((2, C, H, W), np.uint8)])
def test_a_row_of_another_form_is_refused(tmp_path: Path, row: np.ndarray) -> None:
    write(tmp_path, schema(), 1)
    layout = reader_of(tmp_path, "key").layout
    with pytest.raises(ValueError, match="a row is uint8 of shape"):
        ShardWriter(tmp_path / "other", layout).append(row)


def test_a_buffer_is_reused(plain: Path) -> None:
    reader, want = reader_of(plain, "key"), stored(plain, "key")[:, 0]
    out = np.empty((3, C, H, W), np.uint8)
    for rows in ([1, 2, 3], [39, 1, 5]):
        reader.read_into(out, rows)
        assert np.array_equal(out, want[rows])
    reader.read_into(np.empty((5, C, H, W), np.uint8)[1:4], [1, 2, 3])  # part of a larger one


def test_nothing_stored(tmp_path: Path) -> None:
    write(tmp_path, schema(), 0)
    reader = reader_of(tmp_path, "key")
    assert (len(reader), read(reader, []).shape) == (0, (0, C, H, W))
    with pytest.raises(IndexError):
        read(reader, [0])


def test_short_reads_are_continued(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.preadv
    sizes = []

    def some(file: int, buffers: Sequence[Any], begin: int) -> int:
        sizes.append(len(buffers))
        return whole(file, [buffers[0][:7]], begin)

    monkeypatch.setattr(os, "preadv", some)
    assert np.array_equal(read(reader_of(plain, "local"), range(40), [0, 1]), stored(plain, "local"))
    assert 1 < max(sizes) <= 1024


# ------------------------------------------------------------------------------------------------------- no more bytes
def test_reads_little_more_than_needed(tmp_path: Path) -> None:
    form = schema(channels=48, height=96, width=72, offsets=(-1, 1))
    maps = np.random.default_rng(0).random((1, 2, *form.map_shape), np.float32)
    with FeatureWriter(tmp_path, form, 33) as writer:
        for _ in range(33):
            writer.append(maps[:, 0], maps)
    for rows, offsets in ((range(32), [0, 1]), ([32], [0, 1]), ([7], [1]), ([3, 32, 3], [0])):
        reader = reader_of(tmp_path, "local")
        out = np.empty((len(rows), len(offsets), *form.map_shape), np.uint8)
        first, again = (reader.read_into(out, rows, 0, offsets) for _ in range(2))
        maps_needed = len(set(rows)) * len(offsets)
        assert again == maps_needed * (out[0, 0].nbytes + 4)
        assert first - again == len({row // 32 for row in rows}) * (32 * 2 * 16 + 4)  # the index, once
        assert first <= 1.02 * maps_needed * out[0, 0].nbytes


@pytest.mark.parametrize("codec", ["crc32c", "zstd"])
def test_neighbours_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    write(tmp_path, schema(codec=codec), 40)
    whole, begins = os.preadv, []

    def counted(file: int, buffers: Sequence[Any], begin: int) -> int:
        begins.append(begin)
        return whole(file, buffers, begin)

    monkeypatch.setattr(os, "preadv", counted)
    read(reader_of(tmp_path, "key"), range(32))
    assert len(begins) == 2  # index, maps
    begins.clear()
    read(reader_of(tmp_path, "key"), [1, 2, 3, 7, 39])
    assert len(begins) == 5  # two indices; 1 to 3, 7, 39


# ---------------------------------------------------------------------------------------------------------- wrong calls
@pytest.mark.parametrize(
    "buffer",
    [
        np.empty((2, C, H, W), np.float16),
        np.empty((3, C, H, W), np.uint8),
        np.empty((2, 1, C, H, W), np.uint8),
        np.empty((2, C, H, W, 2), np.uint8)[..., 0],
        np.broadcast_to(np.uint8(0), (2, C, H, W)),
    ],
)
def test_a_wrong_buffer_is_refused(plain: Path, buffer: np.ndarray) -> None:
    with pytest.raises(ValueError, match="buffer must be"):
        reader_of(plain, "key").read_into(buffer, [0, 1])


def test_what_is_not_there_is_refused(plain: Path) -> None:
    for bad in ({"rows": [40]}, {"rows": [-1]}, {"rows": [0], "views": 2}, {"rows": [0], "offsets": [4]}):
        with pytest.raises(IndexError, match="must be from 0 to"):
            read(reader_of(plain, "local"), **bad)
    for rows in ([0.5], [[0, 1]], [True]):
        with pytest.raises(ValueError, match="list of numbers"):
            read(reader_of(plain, "local"), rows)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="key has no offsets"):
        read(reader_of(plain, "key"), [0], 0, [0])


# -------------------------------------------------------------------------------------------------------------- damage
@pytest.mark.parametrize("name", ["key", "local"])
@pytest.mark.parametrize(("dtype", "codec"), KINDS)
def test_a_flipped_bit_is_never_returned_as_data(tmp_path: Path, dtype: str, codec: str, name: str) -> None:
    write(tmp_path, schema(dtype=dtype, codec=codec), 40)
    files, want = committed(tmp_path), stored(tmp_path, name)[:, 0]
    shard = tmp_path / GROUP / name / ("c/1" + "/0" * (want.ndim))
    sound = shard.read_bytes()
    rng = np.random.default_rng(0)
    refused, positions = 0, rng.choice(len(sound), 100, replace=False)
    for position in positions.tolist():
        damaged = bytearray(sound)
        damaged[position] ^= 1 << int(rng.integers(8))
        shard.write_bytes(damaged)
        reader = reader_of(tmp_path, name, files)
        try:
            got = read(reader, range(40))
        except CorruptData as error:
            assert f"features of 'clip' are damaged: {name} of proposal 3" in str(error)
            refused += 1
        else:
            assert np.array_equal(got, want), f"byte {position} of {len(sound)}"
        assert np.array_equal(read(reader, [31, 2]), want[[31, 2]])  # the other shard is sound
    if codec == "crc32c":
        assert refused == len(positions)
    assert refused > 0.95 * len(positions)  # a few bits of a Zstandard block carry nothing


@pytest.mark.parametrize("codec", ["crc32c", "zstd"])
def test_the_damaged_map_is_named(tmp_path: Path, codec: str) -> None:
    form = schema(codec=codec, views=2)
    write(tmp_path, form, 40)
    files, want = committed(tmp_path), stored(tmp_path, "local")
    shard = tmp_path / GROUP / "local/c/1/0/0/0/0/0"
    data = bytearray(shard.read_bytes())
    index = np.frombuffer(data[-32 * 8 * 16 - 4 : -4], "<u8").reshape(32, 2, 4, 2)
    begin, length = index[5, 1, 2].tolist()  # of proposal 37
    data[begin + length - 1] ^= 1
    shard.write_bytes(data)
    reader = reader_of(tmp_path, "local", files)
    with pytest.raises(CorruptData, match="local of proposal 37, view 1, local map 2: it does not match its checksum"):
        read(reader, [39, 37], 1)
    for rows, views, offsets in (([37], 0, None), ([39, 36, 3], 1, None), ([37], 1, [0, 1, 3])):  # all others are there
        assert np.array_equal(read(reader, rows, views, offsets), want[rows, views][:, offsets or slice(None)])


def shard_with(index: np.ndarray, maps: bytes) -> bytes:
    raw = index.astype("<u8").tobytes()
    return maps + raw + crc32c(raw).to_bytes(4, "little")


@pytest.mark.parametrize("codec", ["crc32c", "zstd"])
@pytest.mark.parametrize(
    "entry", [(2**64 - 1, 94), (0, 2**64 - 1), (2**64 - 2, 94), (0, 0), (10**6, 94), (3000, 2**63), (2**63, 2**63)]
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, codec: str, entry: tuple[int, int]) -> None:
    write(tmp_path, schema(codec=codec), 3)
    shard = tmp_path / GROUP / "key/c/0/0/0/0/0"
    data = shard.read_bytes()
    index = np.frombuffer(data[-32 * 16 - 4 : -4], "<u8").reshape(32, 2).copy()
    index[1] = entry
    shard.write_bytes(shard_with(index, data[: -32 * 16 - 4]))
    with pytest.raises(CorruptData, match=r"'clip' .* key of proposal 1, view 0: the shard's index points outside"):
        read(reader_of(tmp_path, "key"), [2])


@pytest.mark.parametrize(
    "frame",
    [
        lambda values: Zstd(level=1, checksum=False).encode(values),  # would not be checked
        lambda values: Zstd(level=1, checksum=True).encode(values[:-1]),  # would leave a byte of the buffer as it was
        lambda values: Zstd(level=1, checksum=True).encode(np.append(values, 0)),
        lambda values: bytes(values),
        lambda values: b"\0",
    ],
)
def test_zstd_frames_of_another_kind_are_refused(tmp_path: Path, frame: Callable[[np.ndarray], bytes]) -> None:
    write(tmp_path, schema(codec="zstd"), 1)
    maps = frame(stored(tmp_path, "key").ravel())
    index = np.full((32, 2), 2**64 - 1, np.uint64)
    index[0] = 0, len(maps)
    (tmp_path / GROUP / "key/c/0/0/0/0/0").write_bytes(shard_with(index, bytes(maps)))
    with pytest.raises(CorruptData, match="key of proposal 0, view 0: it does not match its checksum"):
        read(reader_of(tmp_path, "key"), [0])


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"bytes, \d+ were committed"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), r"bytes, \d+ were committed"),
        (lambda path: path.write_bytes(b""), r"has 0 bytes, \d+ were committed"),
    ],
)
def test_a_lost_or_cut_shard_is_refused(tmp_path: Path, damage: Callable[[Path], None], fault: str) -> None:
    write(tmp_path, schema(), 40)
    files = committed(tmp_path)
    warm = reader_of(tmp_path, "key", files)
    read(warm, range(40))
    damage(tmp_path / GROUP / "key/c/1/0/0/0/0")
    for reader in (warm, reader_of(tmp_path, "key", files)):  # a known index is no excuse
        with pytest.raises(CorruptData, match=f"'clip' are damaged: key of proposal 33, view 0: c/1/0/0/0/0 .*{fault}"):
            read(reader, [33, 2])
        assert read(reader, [2]).any()


def test_a_shard_too_short_for_its_index(tmp_path: Path) -> None:
    write(tmp_path, schema(), 3)
    (tmp_path / GROUP / "key/c/0/0/0/0/0").write_bytes(b"short")
    with pytest.raises(CorruptData, match="key of proposal 0, view 0: the shard's file ends too early"):
        read(reader_of(tmp_path, "key"), [1])


def test_what_cannot_be_read_is_no_traceback(tmp_path: Path) -> None:
    write(tmp_path, schema(), 3)
    files = committed(tmp_path)
    shard = tmp_path / GROUP / "key/c/0/0/0/0/0"
    shard.unlink()
    shard.symlink_to(shard.name)
    with pytest.raises(StoreError, match="features of 'clip': key/c/0/0/0/0/0 cannot be read"):
        read(reader_of(tmp_path, "key", files), [1])


# -------------------------------------------------------------------------------------------------------------- layout
def test_a_changed_or_lost_description_is_refused(tmp_path: Path) -> None:
    write(tmp_path, schema(), 3)
    files, path = committed(tmp_path), tmp_path / GROUP / "key/zarr.json"
    for change in (lambda: path.write_bytes(path.read_bytes() + b"\n"), path.unlink):
        change()
        with pytest.raises(CorruptData, match=r"features of 'clip': key/zarr\.json "):
            reader_of(tmp_path, "key", files)


def test_another_array_is_refused(tmp_path: Path) -> None:
    write(tmp_path, schema(), 3)
    with pytest.raises(StoreError, match=r"features of 'clip': embedding/zarr\.json is not of a form that training"):
        reader_of(tmp_path, "embedding")


def sharding(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata["codecs"][0]["configuration"]


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no checksum": lambda m: sharding(m)["codecs"].pop(),
    "another compressor": lambda m: sharding(m)["codecs"][1].update(name="blosc"),
    "compressor before checksum": lambda m: sharding(m)["codecs"].insert(1, {"name": "gzip"}),
    "memory order": lambda m: sharding(m)["codecs"].insert(0, {"name": "transpose", "configuration": {"order": [0]}}),
    "zstd without checksum": lambda m: sharding(m)["codecs"][1].update(name="zstd", configuration={"level": 1}),
    "byte order": lambda m: sharding(m)["codecs"][0].update(configuration={"endian": "big"}),
    "index first": lambda m: sharding(m).update(index_location="start"),
    "index unchecked": lambda m: sharding(m)["index_codecs"].pop(),
    "index byte order": lambda m: sharding(m)["index_codecs"][0].update(configuration={"endian": "big"}),
    "not sharded": lambda m: m["codecs"][0].update(name="bytes"),
    "sharding option": lambda m: sharding(m).update(subchunk_write_order="c"),
    "around the shard": lambda m: m["codecs"].append({"name": "crc32c"}),
    "dtype": lambda m: m.update(data_type="float32"),
    "dtype with options": lambda m: m.update(data_type={"name": "uint8"}),
    "fill value": lambda m: m.update(fill_value=1),
    "no fill value": lambda m: m.pop("fill_value"),
    "file names": lambda m: m["chunk_key_encoding"].update(configuration={"separator": "."}),
    "grid": lambda m: m["chunk_grid"].update(name="rectilinear"),
    "several shards a proposal": lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[32, 1, 2, C, H, W]),
    "chunk of two maps": lambda m: sharding(m).update(chunk_shape=[1, 1, 2, C, H, W]),
    "part of a map": lambda m: sharding(m).update(chunk_shape=[1, 1, 1, C, H, 1]),
    "dimensions": lambda m: m.update(shape=[3, H, W]),
    "empty dimension": lambda m: m.update(shape=[3, 0, 4, C, H, W]),
    "storage transformer": lambda m: m.update(storage_transformers=[{"name": "x"}]),
    "format": lambda m: m.update(zarr_format=4),
    "group": lambda m: m.update(node_type="group"),
    "new field": lambda m: m.update(scaling=2),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_it_does_not_understand_is_refused(tmp_path: Path, what: str) -> None:
    write(tmp_path, schema(), 3)
    path = tmp_path / GROUP / "local/zarr.json"
    metadata = json.loads(path.read_text())
    assert parse_layout(metadata).shape == (3, 1, 4, C, H, W)
    CHANGES[what](metadata)
    path.write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match=r"features of 'clip': local/zarr\.json is not of a form that training reads"):
        reader_of(tmp_path, "local")


# -------------------------------------------------------------------------------------------------- threads, processes
def test_threads_share_a_reader(tmp_path: Path) -> None:
    write(tmp_path, schema(codec="zstd"), 70)
    reader, want = reader_of(tmp_path, "local"), stored(tmp_path, "local")[:, 0]
    rng = np.random.default_rng(0)
    requests = [rng.integers(0, 70, 6).tolist() for _ in range(60)]
    with ThreadPoolExecutor(4) as pool:
        for rows, got in zip(requests, pool.map(lambda rows: read(reader, rows), requests), strict=True):
            assert np.array_equal(got, want[rows])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_reads_the_same(plain: Path, method: str) -> None:
    reader, rows = reader_of(plain, "local"), [39, 0, 33, 0]
    here = read(reader, rows)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert np.array_equal(pool.submit(read, reader, rows).result(), here)
    assert np.array_equal(here, stored(plain, "local")[rows, 0])


def test_a_reader_is_cheap_to_send_and_holds_no_file(plain: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    reader = reader_of(plain, "local")
    size = len(pickle.dumps(reader))
    read(reader, range(40))
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(pickle.dumps(reader)) == size < 2000
    copy = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(read(copy, [3]), read(reader, [3]))
