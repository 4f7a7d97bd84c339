"""What is wrong with one video's stored features, map by map: checksums, scales, and embeddings against their maps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
import zarr.errors
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from store.features import GROUP
from store.quantise import LEVELS
from store.schema import FeatureSchema
from store.shard_layout import ShardLayout, parse_layout
from store.shards import index_bytes, parse_index, unpack_map

Read = Callable[[str], tuple[memoryview, str]]  # file -> its contents, good until the next read, and what is wrong

FLOAT32_ROUNDING = 2.0**-24  # relative
FLOAT16_ROUNDING = 2.0**-11  # relative, down to 2**-14; below, values are at most 2**-25 off
FLOAT16_LEAST = 2.0**-25
FLOAT16_EXPONENT = np.uint16(0x7C00)  # all its bits are set in infinities and NaN alone
STEP = 0.5 + LEVELS * 2 * FLOAT32_ROUNDING  # `quantise` multiplies by a rounded 1 / scale before it rounds


@dataclass(frozen=True)
class _Group:
    """What a group's small files say. small: contents of `embedding`, scales and affines; None where damaged."""

    schema: FeatureSchema
    layouts: dict[str, ShardLayout]
    small: dict[str, np.ndarray | None]

    def where(self, array: str, number: int) -> str:
        """Position of a map, or of a row of scales, in words. number: its place in C order."""
        position = np.unravel_index(number, self.layouts[array].shape[:-3])
        named = f"proposal {position[0]}, view {position[1]}"
        return f"{named}, offset {self.schema.offsets[position[2]]}" if len(position) == 3 else named


def verify_features(files: Mapping[str, tuple[int, str]], read: Read, proposals: object) -> Iterator[str]:
    """Read a video's features, every file once, and say what is wrong. Holds one shard, and a mean per key map.

    files: what the commit lists. proposals: how many the commit says there are.
    """
    names = [name for name in files if name.startswith(f"{GROUP}/")]
    shards = [name for name in names if name.split("/")[1] in ("key", "local") and name.split("/")[2] == "c"]
    contents, damaged = {}, set()
    for name in names:
        if name in shards:
            continue
        data, fault = read(name)
        if fault:
            yield f"{name} {fault}"
            damaged.add(name)
        contents[name.removeprefix(f"{GROUP}/")] = bytes(data)
    if any(name.endswith("zarr.json") for name in damaged):
        group = None
    else:
        try:
            group = _open(contents, {name.split("/")[1] for name in damaged})
        except (LookupError, TypeError, ValueError, RuntimeError, OSError, zarr.errors.BaseZarrError) as error:
            yield f"{GROUP} is not of the form that it should have ({error})"
            group = None
    if group is None:  # no shard can be looked into
        for name in shards:
            if fault := read(name)[1]:
                yield f"{name} {fault}"
        return

    if (count := group.layouts["key"].shape[0]) != proposals:
        yield f"features of {count} proposals, {proposals} were committed"
    yield from _scale_faults(group)
    yield from _affine_faults(group)
    means = _Means(group)
    for array, layout in group.layouts.items():
        for shard in range(math.ceil(count / layout.shard_rows)):
            name = f"{GROUP}/{array}/{layout.shard_file(shard)}"
            yield from _shard_faults(group, array, shard, name, read if name in files else None, means)
    yield from means.faults()


def _open(contents: Mapping[str, bytes], damaged: set[str]) -> _Group:
    """Open a group by what its small files hold. damaged: arrays whose values are not to be used."""
    buffer = default_buffer_prototype().buffer
    kept = {name: buffer.from_bytes(data) for name, data in contents.items()}
    group = zarr.open_group(MemoryStore(kept), mode="r")
    schema = FeatureSchema.model_validate(dict(group.attrs))
    layouts = {
        name: parse_layout(json.loads(contents[f"{name}/zarr.json"]))
        for name in (("key", "local") if schema.offsets else ("key",))
    }
    count, small = layouts["key"].shape[0], {}
    lead = {"key": (count, schema.views), "local": (count, schema.views, len(schema.offsets))}
    for name, layout in layouts.items():
        form = (layout.shape, layout.dtype, layout.codec)
        if form != ((*lead[name], *schema.map_shape), np.dtype(schema.dtype), schema.codec):
            raise ValueError(f"{name} is {layout.dtype} {layout.shape} with {layout.codec}")
    shapes: dict[str, tuple[int, ...]] = {"embedding": (*lead["key"], schema.channels)}
    if "affine" in group:  # stores of earlier releases have none
        shapes["affine"] = (*lead["key"], 2, 3)
    if schema.dtype == "uint8":
        shapes |= {f"{name}_scale": (*lead[name], schema.channels) for name in layouts}
    for name, shape in shapes.items():
        array, dtype = group[name], np.dtype("float64" if name == "affine" else "float32")
        if not isinstance(array, zarr.Array) or array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name} is not {dtype} {shape}")
        small[name] = None if name in damaged else np.asarray(array[:])
    return _Group(schema, layouts, small)


def _scale_faults(group: _Group) -> Iterator[str]:
    for array in group.layouts:
        scales = group.small.get(f"{array}_scale")
        if scales is None:
            continue
        rows = scales.reshape(-1, scales.shape[-1])
        wrong = ~(np.isfinite(rows) & (rows >= 0))
        for number in np.flatnonzero(wrong.any(axis=1)).tolist():
            channel = int(np.argmax(wrong[number]))
            yield f"{group.where(array, number)}: {array}_scale of channel {channel} is {rows[number, channel]}"


def _affine_faults(group: _Group) -> Iterator[str]:
    """Affines that cut no crop, or that mirror where the schema says otherwise."""
    affines = group.small.get("affine")
    if affines is None:
        return
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.linalg.det(affines[..., :2])
    finite = np.isfinite(affines).all(axis=(-2, -1)) & np.isfinite(size)
    for number in np.flatnonzero(~finite | (size == 0)).tolist():
        yield f"{group.where('key', number)}: affine cuts no crop: {affines.reshape(-1, 6)[number].tolist()}"
    for view, mirrors in ((0, False), (group.schema.mirrored, True)):
        if view is None:
            continue
        for row in np.flatnonzero(finite[:, view] & (size[:, view] != 0) & ((size[:, view] < 0) != mirrors)).tolist():
            yield f"proposal {row}, view {view}: affine {'does not mirror' if mirrors else 'mirrors the clean crop'}"


def _shard_faults(group: _Group, array: str, shard: int, name: str, read: Read | None, means: _Means) -> Iterator[str]:
    """Faults of one shard's maps. read: None where the commit has no such file: then every map is zero."""
    layout, first = group.layouts[array], shard * group.layouts[array].shard_maps
    maps = min(layout.shard_maps, math.prod(layout.shape[:-3]) - first)
    last = min((shard + 1) * layout.shard_rows, layout.shape[0]) - 1
    proposals = f"proposals {first // math.prod(layout.shape[1:-3])} to {last}"
    index = np.full((maps, 2), -1, np.int64)
    data, fault = memoryview(b""), ""
    if read is not None:
        data, fault = read(name)
        end = len(data) - index_bytes(layout)
        parsed = parse_index(data[end:], layout, end) if end >= 0 else None
        if parsed is None:
            yield f"{proposals}: {name} {fault or 'has an index that does not match its checksum'}"
            means.unknown(array, range(first, first + maps))
            return
        index, sound = (part[:maps] for part in parsed)
        if not sound.all() or _overlap(index):
            wrong = "points outside the file" if not sound.all() else "has maps that overlap"
            yield f"{proposals}: the index of {name} {wrong}"
            means.unknown(array, range(first, first + maps))
            return
    scales = group.small.get(f"{array}_scale")
    scratch, named = memoryview(bytearray(layout.map_bytes)), False
    for number, (begin, length) in enumerate(index.tolist(), start=first):
        if begin < 0:
            if scales is not None and scales.reshape(-1, scales.shape[-1])[number].any():
                yield f"{group.where(array, number)}: {array} is not in {name}, though its scale is not 0"
            continue
        values = unpack_map(layout.codec, data[begin : begin + length], scratch)
        if values is None:
            yield f"{group.where(array, number)}: {array} does not match its checksum ({name})"
            means.unknown(array, [number])
            named = True
        elif not means.add(array, number, np.frombuffer(values, layout.dtype)):
            yield f"{group.where(array, number)}: {array} holds values that are not finite"
    if fault and not named:
        yield f"{proposals}: {name} {fault}, though its maps match theirs"


def _overlap(index: np.ndarray) -> bool:
    stored = index[index[:, 0] >= 0]
    stored = stored[np.argsort(stored[:, 0])]
    return bool((stored[1:, 0] < stored[:-1].sum(axis=1)).any())


class _Means:
    """Means of all key maps, as they come, to compare the embeddings with. A map that is not stored is zero."""

    def __init__(self, group: _Group) -> None:
        self._group = group
        self._counted = group.schema.dtype == "uint8"
        shape = group.layouts["key"].shape
        self._mean = np.zeros((shape[0] * shape[1], shape[2]))
        self._size = self._mean if self._counted else np.zeros_like(self._mean)  # means of absolute values
        self._known = np.ones(len(self._mean), bool)

    def add(self, array: str, number: int, values: np.ndarray) -> bool:
        """Take in a map; whether all of it is finite."""
        rows = values.reshape(self._group.schema.channels, -1)
        # told by the exponent's bits, ten times as fast as np.isfinite, which has no instruction for float16
        if not self._counted and (rows.view(np.uint16) & FLOAT16_EXPONENT).max() == FLOAT16_EXPONENT:
            self.unknown(array, [number])
            return False
        if array == "key" and self._counted:
            self._mean[number] = rows.sum(axis=1, dtype=np.uint32) / rows.shape[1]
        elif array == "key":
            exact = rows.astype(np.float32)
            self._mean[number] = exact.mean(axis=1, dtype=np.float64)
            self._size[number] = np.abs(exact).mean(axis=1, dtype=np.float64)
        return True

    def unknown(self, array: str, numbers: Any) -> None:
        """Leave out damaged maps."""
        if array == "key":
            self._known[list(numbers)] = False

    def faults(self) -> Iterator[str]:
        """Embeddings that are further from the mean of their stored map than rounding can take them.

        The writer's own mean, in float32 over n values, adds at most n roundings.
        """
        embedding, scale = self._group.small["embedding"], self._group.small.get("key_scale")
        if embedding is None or (self._counted and scale is None):
            return
        rows = embedding.reshape(self._mean.shape)
        mean, size, bound = self._mean, self._size * (1 + 2 * FLOAT16_ROUNDING) + FLOAT16_LEAST, FLOAT16_LEAST
        if scale is not None:
            scales = scale.reshape(rows.shape).astype(np.float64)
            mean, size = mean * scales, (mean + STEP) * scales
            bound = STEP * scales + LEVELS * np.finfo(np.float32).tiny  # what `quantise` makes zero
        else:
            bound = bound + FLOAT16_ROUNDING * size
        values = math.prod(self._group.schema.map_shape[1:])
        bound = bound + (values + 2) * FLOAT32_ROUNDING * size
        with np.errstate(invalid="ignore"):
            right = np.abs(rows - mean) <= bound  # NaN is wrong
        wrong = self._known & ~right.all(axis=1)
        if scale is not None:
            wrong &= np.isfinite(scale.reshape(rows.shape)).all(axis=1)  # told before
        for number in np.flatnonzero(wrong).tolist():
            channel = int(np.argmin(right[number]))
            found, mapped = rows[number, channel], mean[number, channel]
            where = self._group.where("key", number)
            yield f"{where}: embedding is not the mean of key: {found:.6g} in channel {channel}, key's is {mapped:.6g}"
