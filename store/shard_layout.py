"""How a sharded array lies on disk: the part of Zarr v3 that `store.schema` writes, and a refusal of the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DTYPES = {"uint8": np.dtype("u1"), "float16": np.dtype("<f2")}
LITTLE_ENDIAN = ("bytes", {"endian": "little"})
CRC32C = ("crc32c", {})
CHECKSUM_BYTES = 4  # of a CRC-32C, little endian, behind what it covers
NOT_STORED = 2**64 - 1  # both numbers of an index entry beyond the last row; and of maps that zarr-python leaves out
FIELDS = {
    "zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs",
    "attributes", "dimension_names", "storage_transformers",
}  # fmt: skip
SHARDING_FIELDS = {"chunk_shape", "codecs", "index_codecs", "index_location"}


@dataclass(frozen=True)
class ShardLayout:
    """How one array lies on disk. shape: (P, V, C, H, W) or (P, V, 2k, C, H, W); codec: of one map, crc32c or zstd."""

    shape: tuple[int, ...]
    dtype: np.dtype
    codec: str
    shard_rows: int

    @property
    def map_bytes(self) -> int:
        """Bytes of one map in memory."""
        return math.prod(self.shape[-3:]) * self.dtype.itemsize

    @property
    def shard_maps(self) -> int:
        """Maps of a whole shard."""
        return self.shard_rows * math.prod(self.shape[1:-3])

    def shard_file(self, shard: int) -> str:
        """Path of a shard inside the array's folder."""
        return f"c/{shard}" + "/0" * (len(self.shape) - 1)


def parse_layout(metadata: Mapping[str, Any]) -> ShardLayout:
    """The layout that an array's zarr.json describes; ValueError, KeyError or TypeError if not one of `store.schema`'s.

    The names are those of the Zarr v3 specification and its sharding, bytes, crc32c and zstd codecs.
    """
    (grid, sizes), (keys, separator) = _named(metadata["chunk_grid"]), _named(metadata["chunk_key_encoding"])
    [(outer, sharding)] = map(_named, metadata["codecs"])
    [(first, order), (codec, options)] = map(_named, sharding["codecs"])
    shape, shard, chunk = (tuple(n) for n in (metadata["shape"], sizes["chunk_shape"], sharding["chunk_shape"]))
    dtype = DTYPES[metadata["data_type"]]
    understood = {
        "fields": metadata.keys() <= FIELDS and sharding.keys() <= SHARDING_FIELDS,
        "zarr_format": metadata["zarr_format"] == 3 and metadata["node_type"] == "array",
        "storage_transformers": not metadata.get("storage_transformers"),
        "shape": len(shape) in (5, 6) and shape[0] >= 0 and min(shape[1:]) > 0,
        "chunk_grid": grid == "regular" and shard[0] > 0 and shard[1:] == shape[1:],
        "chunk_shape": chunk == (1,) * (len(shape) - 3) + shape[-3:],
        "chunk_key_encoding": keys == "default" and separator.get("separator", "/") == "/",
        "fill_value": metadata["fill_value"] == 0,
        "codecs": outer == "sharding_indexed",
        "index_location": sharding.get("index_location", "end") == "end",
        "index_codecs": [_named(one) for one in sharding["index_codecs"]] == [LITTLE_ENDIAN, CRC32C],
        "byte order": (first, order) == LITTLE_ENDIAN or (first == "bytes" and dtype.itemsize == 1 and not order),
        "checksum": (codec, options) == CRC32C or (codec == "zstd" and options.get("checksum") is True),
    }
    if strange := [name for name, known in understood.items() if not known]:
        raise ValueError(f"unknown {', '.join(strange)}")
    return ShardLayout(shape, dtype, codec, shard[0])


def _named(extension: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return extension["name"], extension.get("configuration") or {}
