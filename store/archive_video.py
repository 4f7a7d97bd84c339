"""One video in an archive: its arrays, tables and commit as an HDF5 group, and its files made anew from that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from store.errors import CorruptData, StoreError
from store.features import GROUP, VideoFeatures
from store.folder import Commit, StageFolder
from store.hdf5 import (
    DiskFile,
    array_of,
    check_digest,
    group_of,
    label,
    plain_bytes,
    read_array,
    read_json_text,
    set_attributes,
    write_array,
    write_json_text,
)
from store.hdf5_tables import read_columns, write_columns
from store.index import FILE, build_index, read_index, write_index
from store.places import Place, open_binary
from store.schema import FeatureSchema, create_arrays
from store.shard_layout import parse_layout
from store.shard_writer import ShardWriter
from store.tables import SCHEMAS, WRITING

COPY_ROWS = 8  # proposals whose maps are held at a time
Damage = Callable[[], AbstractContextManager[None]]  # `store.hdf5.refusing_damage` of the archive


def write_features(group: h5py.Group, features: VideoFeatures, stage: StageFolder, commit: Commit, disk: DiskFile):
    """Fill the group of a video, a few proposals at a time. CorruptData where a file does not match its commit."""
    _check_files(stage, commit, lambda name: name.startswith(f"{GROUP}/") or name == "proposals.parquet")
    attributes = dict(features.group.attrs)
    _write_commit(group, commit)
    write_json_text(group, "schema", features.schema.attributes)
    write_json_text(group, "attributes", attributes)
    set_attributes(group, {name: _attribute(value) for name, value in attributes.items()})
    for name in features.keys():  # noqa: SIM118 (not a dict)
        _write_blocks(group, name, features, disk)
    if features.schema.offsets:
        _attach_offsets(group, features)
    table = _read_parquet(stage.attempt_path(commit) / "proposals.parquet")
    write_columns(group.create_group("proposals"), table, "proposal")


def read_features(group: h5py.Group, folder: Path, damage: Damage) -> None:
    """Make a video's files in an attempt's folder, a few proposals at a time."""
    with damage():
        schema = FeatureSchema.model_validate(read_json_text(group, "schema"))
        attributes = read_json_text(group, "attributes")
        count = len(array_of(group, "key"))
        affine = f"{GROUP}/affine/zarr.json" in read_commit(group).files
        table = read_columns(group_of(group, "proposals"), SCHEMAS["proposals"])
    made = zarr.open_group(folder / GROUP, mode="w", zarr_format=3, attributes=attributes)
    create_arrays(made, schema, count, affine=affine)
    for name, array in made.arrays():
        with damage():
            stored = array_of(group, name)
            if (stored.shape, stored.dtype) != (array.shape, array.dtype):
                raise ValueError(f"{stored.name} is {stored.dtype} {stored.shape}, not {array.dtype} {array.shape}")
        blocks = _read_blocks(stored, _rows(array), damage)
        if array.shards:
            _write_shards(folder / GROUP / name, blocks)
            continue
        for start, values in blocks:
            array[start : start + len(values)] = values
    pq.write_table(table, folder / "proposals.parquet", **WRITING)


def write_neighbours(group: h5py.Group, stage: StageFolder, commit: Commit) -> None:
    """Fill the group of a video's index. CorruptData where a file does not match its commit."""
    _check_files(stage, commit, {"neighbours.parquet", FILE}.__contains__)
    folder = stage.attempt_path(commit)
    _write_commit(group, commit)
    index = read_index(folder)
    vectors = index.reconstruct_n(0, index.ntotal) if index.ntotal else np.empty((0, index.d), np.float32)
    write_array(group, "vectors", vectors, ("proposal", "channel"))
    write_columns(group.create_group("neighbours"), _read_parquet(folder / "neighbours.parquet"), "row")


def read_neighbours(group: h5py.Group, folder: Path, damage: Damage) -> None:
    """Make the files of a video's index in an attempt's folder."""
    with damage():
        vectors = read_array(group, "vectors")
        table = read_columns(group_of(group, "neighbours"), SCHEMAS["neighbours"])
    write_index(folder, build_index(vectors))
    pq.write_table(table, folder / "neighbours.parquet", **WRITING)


def read_commit(group: h5py.Group) -> Commit:
    """The commit that was exported. KeyError, TypeError or ValueError where it is damaged."""
    value = read_json_text(group, "commit")
    files = {name: (int(size), str(digest)) for name, (size, digest) in value["files"].items()}
    commit = Commit(value["unit"], value["attempt"], value["inputs"], files, value["meta"], value.get("seconds"))
    if commit.digest != value["digest"]:
        raise ValueError("the commit does not match its digest")
    return commit


def check_contents(group: h5py.Group, folder: Place, made: Commit, damage: Damage) -> None:
    """Read back what was made of a video's group, or of its index. CorruptData where a value is not the archive's."""
    name = "proposals" if "proposals" in group else "neighbours"
    with damage():
        table = read_columns(group_of(group, name), SCHEMAS[name])
    same = _read_parquet(folder / f"{name}.parquet").equals(table)
    if name == "proposals":
        features = VideoFeatures(folder, made.unit, made.files)
        digests = {name: _digest(features, name) for name in features.keys()}  # noqa: SIM118 (not a dict)
        with damage():
            for array, digest in digests.items():
                check_digest(array_of(group, array), digest)
    else:
        with damage():
            vectors = read_array(group, "vectors")
        index = read_index(folder)
        same &= (index.ntotal, index.d) == vectors.shape
        same &= not index.ntotal or np.array_equal(index.reconstruct_n(0, index.ntotal), vectors)
    if not same:
        raise CorruptData(f"{made.unit!r} could not be rebuilt as it was exported: {folder} differs from the archive")


def _write_commit(group: h5py.Group, commit: Commit) -> None:
    value: Mapping[str, Any] = {
        "unit": commit.unit, "attempt": commit.attempt, "inputs": commit.inputs, "meta": commit.meta,
        "files": {name: list(entry) for name, entry in commit.files.items()}, "digest": commit.digest,
        "seconds": commit.seconds,
    }  # fmt: skip
    write_json_text(group, "commit", value)


def _check_files(stage: StageFolder, commit: Commit, known: Callable[[str], bool]) -> None:
    if unknown := [name for name in commit.files if not known(name)]:
        raise StoreError(f"{commit.unit!r} of {stage.path.name} holds {unknown[0]}, which an archive has no place for")
    if faults := stage.faults(commit):
        raise CorruptData(f"{commit.unit!r} of {stage.path.name} cannot be exported: {faults[0]}; run verify")


def _write_blocks(group: h5py.Group, name: str, features: VideoFeatures, disk: DiskFile) -> None:
    array = features[name]
    storage: dict[str, Any] = {}
    if array.size:
        # where the store compresses, the archive does, by what every HDF5 tool can read
        small = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        storage = {"fletcher32": True, **(small if features.schema.codec == "zstd" else {})}
        storage["chunks"] = array.chunks if array.shards else True
    dataset = group.create_dataset(name, array.shape, array.dtype, **storage)
    label(dataset, features.dims(name))
    digest = hashlib.sha256()
    for start, values in _stored_blocks(features, name):
        dataset[start : start + len(values)] = values
        digest.update(plain_bytes(values))
        disk.check()
    set_attributes(dataset, {"sha256": digest.hexdigest()})


def _read_blocks(stored: h5py.Dataset, rows: int, damage: Damage) -> Iterator[tuple[int, np.ndarray]]:
    """Begin and values of one block of rows after the other; at the end the SHA-256 of all is checked."""
    digest = hashlib.sha256()
    for start in range(0, len(stored), rows):
        with damage():
            values = np.asarray(stored[start : start + rows])
        digest.update(plain_bytes(values))
        yield start, values
    with damage():
        check_digest(stored, digest.hexdigest())


def _write_shards(folder: Path, blocks: Iterator[tuple[int, np.ndarray]]) -> None:
    """Write an array as `FeatureWriter` does, byte for byte."""
    shards = ShardWriter(folder, parse_layout(json.loads((folder / "zarr.json").read_text())))
    try:
        for _, values in blocks:
            for row in values:
                shards.append(row)
    except BaseException:
        shards.abandon()
        raise
    shards.close()


def _stored_blocks(features: VideoFeatures, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Begin and values of one block of rows after the other, out of a store; CorruptData for lost or changed bytes."""
    array = features[name]
    reader = features.reader(name) if array.shards else None
    for start in range(0, len(features), _rows(array)):
        stop = min(start + _rows(array), len(features))
        if reader is None:
            yield start, features.read(name, slice(start, stop))
        else:
            values = np.empty((stop - start, *array.shape[1:]), array.dtype)
            reader.read_into(values, range(start, stop), range(features.schema.views))
            yield start, values


def _digest(features: VideoFeatures, name: str) -> str:
    digest = hashlib.sha256()
    for _, values in _stored_blocks(features, name):
        digest.update(plain_bytes(values))
    return digest.hexdigest()


def _rows(array: zarr.Array) -> int:
    """Rows to copy at a time: of maps a few, of the small arrays, which are one chunk each, all."""
    return COPY_ROWS if array.shards else max(1, array.shape[0])


def _attach_offsets(group: h5py.Group, features: VideoFeatures) -> None:
    write_array(group, "offset", np.array(features.schema.offsets, np.int64), ("offset",))
    scale = array_of(group, "offset")
    scale.make_scale("offset")
    for name in features.keys():  # noqa: SIM118 (not a dict)
        if "offset" in (dims := features.dims(name)):
            array_of(group, name).dims[dims.index("offset")].attach_scale(scale)


def _attribute(value: Any) -> Any:
    """Plain data as HDF5 holds it: texts and numbers as they are, lists of integers, and JSON of whatever else."""
    if isinstance(value, list) and all(isinstance(number, int) for number in value):
        return np.array(value, np.int64)
    return value if isinstance(value, (str, int, float)) else json.dumps(value)


def _read_parquet(path: Place) -> pa.Table:
    # as it lies in the file, metadata and all, which `read_table` leaves out
    with open_binary(path) as handle:
        return pq.read_table(handle, page_checksum_verification=True)
