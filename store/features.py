"""Writing and reading one video's features: a Zarr v3 group that plain `zarr.open` reads as well."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr
import zarr.errors

from store.errors import CorruptData, StoreError
from store.places import Place, size_fault, sizes
from store.quantise import dequantise, quantise
from store.record import file_digest
from store.schema import FeatureSchema, create_arrays
from store.shard_layout import parse_layout
from store.shard_writer import ShardWriter
from store.shards import ShardReader

GROUP = "features.zarr"  # inside an attempt's folder


class FeatureWriter:
    """Writes one video's features in proposal order; one writer per video, always.

    A proposal's maps are on their way to the disk before the next comes; scales and embeddings are held to the end.
    """

    def __init__(self, folder: Path, schema: FeatureSchema, proposals: int) -> None:
        self.schema = schema
        self._group = zarr.open_group(folder / GROUP, mode="w", zarr_format=3, attributes=schema.attributes)
        create_arrays(self._group, schema, proposals, affine=schema.views > 1)
        folders = {name: folder / GROUP / name for name in ("key", "local") if name in self._group}
        self._shards = {
            name: ShardWriter(path, parse_layout(json.loads((path / "zarr.json").read_text())))
            for name, path in folders.items()
        }
        self._small: dict[str, list[np.ndarray]] = {"embedding": []}
        self._proposals, self._written = proposals, 0

    def append(self, key: np.ndarray, local: np.ndarray, affine: np.ndarray | None = None) -> None:
        """Add the next proposal. key: (V, C, H, W), local: (V, 2k, C, H, W), float32, offsets in the schema's order.

        affine: (V, 2, 3) float64, frame px to the crop px of each view; one view alone is that of the box, and needs
        and stores none. ValueError if a value is not finite, or negative where uint8 is stored, if affines are lacking,
        or if all proposals are there already.
        """
        if self._written == self._proposals:
            raise ValueError(f"{self._proposals} proposals were announced, more are written")
        several = self.schema.views > 1
        if several and (affine is None or affine.shape != (self.schema.views, 2, 3) or not np.isfinite(affine).all()):
            raise ValueError(f"{self.schema.views} views need finite affines, ({self.schema.views}, 2, 3)")
        rows: dict[str, np.ndarray] = {}
        for name, values in {"key": key, "local": local}.items():
            if name not in self._shards:
                continue
            if self.schema.dtype == "uint8":
                rows[name], scale = quantise(values)
                self._small.setdefault(f"{name}_scale", []).append(scale)
            else:
                rows[name] = values.astype(np.float16)
                if not np.isfinite(rows[name]).all():
                    raise ValueError("features must be finite and below 65504 to be stored as float16")
        for name, row in rows.items():  # all are sound: a refused proposal leaves nothing
            self._shards[name].append(row)
        self._small["embedding"].append(key.mean(axis=(-2, -1)))
        if several and affine is not None:
            self._small.setdefault("affine", []).append(affine)
        self._written += 1

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        for shard in self._shards.values():
            shard.close() if kind is None else shard.abandon()
        if kind is not None:
            return
        if self._written != self._proposals:
            raise ValueError(f"{self._proposals} proposals were announced, {self._written} written")
        if self._proposals:
            for name, rows in self._small.items():
                array = _array(self._group, name)
                array[:] = np.stack(rows).astype(array.dtype)


class VideoFeatures:
    """One video's stored features, opened lazily; `features["key"]` is the plain Zarr array of that name.

    `key(rows)` and `local(rows)` give float32 maps; `embedding` is read when asked for. files: what the video's commit
    lists. CorruptData on opening where one is absent (Zarr would read zeros) or has another size.
    """

    def __init__(self, folder: Place, video: str, files: Mapping[str, tuple[int, str]]) -> None:
        self.video = video
        self.path = folder / GROUP
        self._folder, self._files = folder, files
        self._check_files(folder, files)
        try:
            self.group = _open_group(self.path)
            self.schema = FeatureSchema.model_validate(dict(self.group.attrs))
        except (FileNotFoundError, zarr.errors.BaseZarrError, ValueError) as error:
            raise CorruptData(f"features of {video!r} cannot be opened ({error}); run extract again") from None

    def __len__(self) -> int:
        return _array(self.group, "key").shape[0]

    def __getitem__(self, name: str) -> zarr.Array:
        return _array(self.group, name)

    def keys(self) -> list[str]:
        """Names of the arrays."""
        return sorted(self.group.array_keys())

    def dims(self, name: str) -> tuple[str, ...]:
        """Names of an array's dimensions."""
        metadata = self[name].metadata
        return tuple(str(dim) for dim in getattr(metadata, "dimension_names", None) or ())

    @property
    def sizes(self) -> dict[str, int]:
        """Length of every named dimension; one name has one length in all arrays."""
        return {dim: size for name in self.keys() for dim, size in zip(self.dims(name), self[name].shape, strict=True)}

    @property
    def embedding(self) -> np.ndarray:
        """(P, V, C) float32: the mean of each key map over its grid."""
        return self.read("embedding")

    def affine(self, rows: Any = slice(None)) -> np.ndarray | None:
        """(n, V, 2, 3) float64: frame px to the crop px of every view of some proposals; it mirrors if its determinant
        is negative. None where it is not stored: then every view is the clean crop, and its affine that of the box.
        """
        return self.read("affine", rows) if "affine" in self.group else None

    def reader(self, name: str) -> ShardReader:
        """A reader of `key` or `local` into buffers of one's own, for training."""
        return ShardReader(self._folder, f"{GROUP}/{name}", self.video, self._files)

    def key(self, rows: Any = slice(None), views: Sequence[int] | None = None) -> np.ndarray:
        """Key maps of some proposals, (n, V, C, H, W) float32. rows: anything that selects along a numpy axis."""
        return self._maps("key", rows, views)

    def local(
        self, rows: Any = slice(None), views: Sequence[int] | None = None, offsets: Sequence[int] | None = None
    ) -> np.ndarray:
        """Local maps of some proposals, (n, V, 2k, C, H, W) float32. offsets: of frames, as in `schema.offsets`."""
        if not self.schema.offsets:
            lead = self.read("embedding", rows).shape[:-2]
            shown = self.schema.views if views is None else len(views)
            return np.zeros((*lead, shown, 0, *self.schema.map_shape), np.float32)
        chosen = range(len(self.schema.offsets))
        if offsets is not None:
            if strange := [offset for offset in offsets if offset not in self.schema.offsets]:
                stored = ", ".join(map(str, self.schema.offsets))
                raise StoreError(f"features of {self.video!r} have no offset {strange[0]}; they have {stored}")
            chosen = [self.schema.offsets.index(offset) for offset in offsets]
        return self._maps("local", rows, views, chosen)

    def read(self, name: str, rows: Any = slice(None)) -> np.ndarray:
        """Rows of one array as stored. CorruptData, naming the video, where bytes fail their checksum."""
        array = _array(self.group, name)
        try:
            return np.asarray(array.oindex[np.asarray(rows)] if isinstance(rows, (list, np.ndarray)) else array[rows])
        except (ValueError, RuntimeError, OSError) as error:
            raise CorruptData(
                f"features of {self.video!r}: {name} does not match its checksum ({error}); run verify"
            ) from None

    def _check_files(self, folder: Place, files: Mapping[str, tuple[int, str]]) -> None:
        there = sizes(folder)
        for name, (size, digest) in files.items():
            if not name.startswith(f"{GROUP}/"):
                continue
            fault = size_fault(there, name, size)
            if not fault and name.endswith("zarr.json") and file_digest(folder / name) != digest:
                fault = "does not match its checksum"  # such files are small, and nothing else covers them
            if fault:
                raise CorruptData(f"features of {self.video!r} are damaged: {name} {fault}; run verify")

    def _maps(
        self, name: str, rows: Any, views: Sequence[int] | None, positions: Sequence[int] | None = None
    ) -> np.ndarray:
        """Maps of some rows, views and positions along the offsets' axis."""
        chosen, shown = np.arange(len(self))[rows], range(self.schema.views) if views is None else views
        reader, lead = self.reader(name), () if positions is None else (len(positions),)
        values = np.empty((chosen.size, len(shown), *lead, *self.schema.map_shape), reader.layout.dtype)
        reader.read_into(values, chosen.ravel(), shown, positions)
        values = values.reshape(*chosen.shape, *values.shape[1:])
        if self.schema.dtype == "float16":
            return values.astype(np.float32)
        scale = self.read(f"{name}_scale", rows)
        axis = np.ndim(chosen)  # of the views
        scale = scale.take(list(shown), axis=axis)
        return dequantise(values, scale if positions is None else scale.take(list(positions), axis=axis + 1))


def _open_group(path: Place) -> zarr.Group:
    if isinstance(path, Path):
        return zarr.open_group(path, mode="r")
    return zarr.open_group(str(path), mode="r", storage_options=dict(path.storage_options))


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise CorruptData(f"{group.path}: {name} is not an array")
    return array
