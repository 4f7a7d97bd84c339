"""The names, dimensions and types of everything a feature store holds (format 1; docs/schema.md lists the same)."""

from __future__ import annotations

from typing import Any, Literal

import zarr
from pydantic import BaseModel, ConfigDict, model_validator
from zarr.codecs import Crc32cCodec, ZstdCodec

SHARD_PROPOSALS = 32  # proposals per shard file

KEY_DIMS = ("proposal", "view", "channel", "y", "x")
LOCAL_DIMS = ("proposal", "view", "offset", "channel", "y", "x")
AFFINE_DIMS = ("proposal", "view", "row", "column")


class FeatureSchema(BaseModel):
    """Shape and storage of one video's features; stored as the Zarr group's attributes.

    offsets: frame offsets of the local maps, in the order of `local`'s axis. stride: crop px per feature px.
    views: of every proposal; view 0 is the clean crop. mirrored: the view that is the clean crop mirrored, if there is
    one, the last; it is for evaluation, all other views but 0 are augmentations to train on.
    space: the feature-space id: features compare only within one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int
    height: int
    width: int
    stride: int
    offsets: tuple[int, ...]
    views: int = 1
    mirrored: int | None = None
    dtype: Literal["uint8", "float16"] = "uint8"
    codec: Literal["crc32c", "zstd"] = "crc32c"
    backbone: str
    space: str

    @model_validator(mode="after")
    def _mirrored_is_a_view(self) -> FeatureSchema:
        if self.mirrored is not None and not 0 < self.mirrored < self.views:
            raise ValueError(f"of {self.views} views none but 0 can be mirrored, not {self.mirrored}")
        return self

    @property
    def attributes(self) -> dict[str, Any]:
        """As plain data; `mirrored` is left out where no view is."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one map."""
        return (self.channels, self.height, self.width)


def create_arrays(group: zarr.Group, schema: FeatureSchema, proposals: int, *, affine: bool) -> None:
    """Create the arrays of one video in an empty group: `key`, `local`, their scales (uint8 only), `embedding`.

    affine: also an array of that name, of the affine of every view. One chunk is one map, one shard is 32 proposals;
    every inner chunk carries a checksum.
    """
    compressor = Crc32cCodec() if schema.codec == "crc32c" else ZstdCodec(level=1, checksum=True)
    maps = {"key": ((schema.views,), KEY_DIMS), "local": ((schema.views, len(schema.offsets)), LOCAL_DIMS)}
    for name, (lead, dims) in maps.items():
        if 0 in lead:
            continue  # no local frames were asked for
        ones = (1,) * len(lead)
        group.create_array(
            name,
            shape=(proposals, *lead, *schema.map_shape),
            chunks=(1, *ones, *schema.map_shape),
            shards=(SHARD_PROPOSALS, *lead, *schema.map_shape),
            dtype=schema.dtype,
            compressors=[compressor],
            dimension_names=dims,
        )
        if schema.dtype == "uint8":
            _small(group, f"{name}_scale", (proposals, *lead, schema.channels), dims[:-2])
    _small(group, "embedding", (proposals, schema.views, schema.channels), KEY_DIMS[:3])
    if affine:
        _small(group, "affine", (proposals, schema.views, 2, 3), AFFINE_DIMS, "float64")


def _small(group: zarr.Group, name: str, shape: tuple[int, ...], dims: tuple[str, ...], dtype: str = "float32") -> None:
    chunks = tuple(max(1, n) for n in shape)  # one chunk: these are read whole
    group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, compressors=[Crc32cCodec()], dimension_names=dims)
