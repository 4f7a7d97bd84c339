"""Image crops of one video in one HDF5 file, for training the backbone on images: whole, or absent.

A crop must hold more than the proposal's region, so that every augmented view can be cut out of it again:
`context_region` says how much. The file, which any HDF5 library opens (P proposals, T frames: key, then local):

    affine  (P, 2, 3) float64          frame px -> crop px, one per proposal, the same in all its frames
    crops   (P, T, h, w, 3) uint8      encoding "raw": BGR, one chunk per crop
    jpeg    (bytes,) uint8             encoding "jpeg": all files, one after the other
    ends    (P, T) int64               encoding "jpeg": where each of them ends in `jpeg`

Attributes: format, version, and the fields of `CropSchema`. Every chunk carries a checksum.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import cv2
import h5py
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from store.errors import CorruptData
from store.hdf5 import array_of, creating, open_hdf5, refusing_damage, set_attributes

FORM = "glpose crops"
FORMAT = 1  # readers refuse a newer one
JPEG_CHUNK = 1 << 16  # bytes; what a read may take in vain
SMALL_ROWS = 256  # proposals per chunk of affines and of ends


class CropSchema(BaseModel):
    """What one video's crop file holds; stored as its attributes.

    height, width: of the crops, px. offsets: frame offsets of the local crops, which follow the key frame's; 0 is not
    among them. context: width of the stored region over that of the proposal's own, see `context_region`; where it
    differs between proposals (half bodies), the least. quality: of JPEG; raw crops have none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    video: str
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    offsets: tuple[int, ...]
    context: float = Field(gt=0)
    encoding: Literal["jpeg", "raw"] = "jpeg"
    quality: int = Field(default=95, ge=1, le=100)

    @property
    def frames(self) -> tuple[int, ...]:
        """Offsets of all T crops of a proposal: 0, then `offsets`."""
        return (0, *self.offsets)


def context_region(
    regions: np.ndarray, view_size: tuple[int, int], crop_size: tuple[int, int], *, rotation: float, scale: float
) -> np.ndarray:
    """The least region of the crop's aspect that holds every view of these regions: (3,) cx, cy, width, frame px.

    regions: (m, 3) cx, cy, width, frame px, that a view starts from: the proposal's own and, where half a body may be
    shown, that of each half. A view shows one of them, made up to `scale` times as large and turned by up to
    +-`rotation` degrees, at view_size (height, width) px. crop_size: (height, width) px of the stored crop; its affine
    is that of the returned region. A flip changes nothing. One pixel of the crop goes on every side to the
    interpolation.
    """
    crop_height, crop_width = crop_size
    regions = np.asarray(regions, np.float64).reshape(-1, 3)
    half = np.array(view_extent(view_size, rotation=rotation, scale=scale)) * (regions[:, 2:] / 2)
    low, high = (regions[:, :2] - half).min(axis=0), (regions[:, :2] + half).max(axis=0)
    wide, tall = high - low
    width = max(wide * crop_width / (crop_width - 2), tall * crop_width / (crop_height - 2))
    return np.array([*(low + high) / 2, width])


def view_extent(view_size: tuple[int, int], *, rotation: float, scale: float) -> tuple[float, float]:
    """How far across and down the largest views of a region reach, over the region's width; see `context_region`.

    A w x h rectangle turned by r covers w cos r + h sin r by w sin r + h cos r, which grow up to tan r = h / w and
    w / h. A 384 x 288 view at 45 degrees and 1.35 needs 2.23 times its region's width and 1.69 times its height.
    """
    aspect = view_size[0] / view_size[1]
    turn = np.deg2rad(rotation)
    across, along = min(turn, np.arctan(aspect)), min(turn, np.arctan(1 / aspect))
    return scale * float(np.cos(across) + aspect * np.sin(across)), scale * float(
        aspect * np.cos(along) + np.sin(along)
    )


def crop_to_view(crop_affine: np.ndarray, view_affine: np.ndarray) -> np.ndarray:
    """(2, 3) affine from the px of a stored crop to those of a view; both arguments lead there from frame px."""
    inverse = np.linalg.inv(crop_affine[:, :2])
    linear = view_affine[:, :2] @ inverse
    return np.concatenate([linear, (view_affine[:, 2] - linear @ crop_affine[:, 2])[:, None]], axis=1)


class CropWriter:
    """Writes one video's crops in proposal order; holds one proposal and HDF5's cache of a few MB, no more.

    Use it in a `with` block: the file takes its name when the block ends without an error and all are there.
    """

    def __init__(self, path: Path, schema: CropSchema, proposals: int) -> None:
        self.path, self.schema = path, schema
        self._proposals, self._written, self._end = proposals, 0, 0

    def append(self, crops: np.ndarray, affine: np.ndarray) -> None:
        """Add the next proposal. crops: (T, h, w, 3) uint8 BGR, in the order of `schema.frames`. affine: (2, 3).

        ValueError for another shape or type, or if all proposals are there already; DiskFull where the disk is.
        """
        form, row = self.schema, self._written
        if row == self._proposals:
            raise ValueError(f"{self._proposals} proposals were announced, more are written")
        shape = (len(form.frames), form.height, form.width, 3)
        if crops.shape != shape or crops.dtype != np.uint8:
            raise ValueError(f"crops must be uint8 {shape}, these are {crops.dtype} {crops.shape}")
        if np.shape(affine) != (2, 3) or not np.isfinite(affine).all():
            raise ValueError("an affine must be (2, 3) finite numbers")
        if form.encoding == "raw":
            array_of(self._file, "crops")[row] = crops
        else:
            self._append_jpeg(row, crops)
        array_of(self._file, "affine")[row] = affine
        self._disk.check()
        self._written += 1

    def __enter__(self) -> CropWriter:
        with ExitStack() as stack:
            self._file, self._disk = stack.enter_context(creating(self.path, FORM, FORMAT))
            attributes = self.schema.model_dump()
            set_attributes(self._file, {**attributes, "offsets": np.array(self.schema.offsets, np.int64)})
            self._create()
            stack.push(self._complete)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        self._stack.__exit__(kind, value, trace)

    def _complete(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        if kind is None and self._written != self._proposals:
            raise ValueError(f"{self._proposals} proposals were announced, {self._written} written")

    def _create(self) -> None:
        form, count = self.schema, self._proposals
        shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], Any]] = {"affine": ((2, 3), (2, 3), np.float64)}
        if form.encoding == "raw":
            crop = (form.height, form.width, 3)
            shapes["crops"] = ((len(form.frames), *crop), (1, *crop), np.uint8)
        else:
            shapes["ends"] = ((len(form.frames),), (len(form.frames),), np.int64)
            self._file.create_dataset("jpeg", (0,), np.uint8, chunks=(JPEG_CHUNK,), maxshape=(None,), fletcher32=True)
        for name, (shape, chunk, dtype) in shapes.items():
            rows = 1 if name == "crops" else SMALL_ROWS
            self._file.create_dataset(
                name, (count, *shape), dtype, chunks=(rows, *chunk), maxshape=(None, *shape), fletcher32=True
            )

    def _append_jpeg(self, row: int, crops: np.ndarray) -> None:
        files = [encode_jpeg(crop, self.schema.quality) for crop in crops]
        ends = self._end + np.cumsum([len(file) for file in files])
        data = array_of(self._file, "jpeg")
        data.resize((int(ends[-1]),))
        data[self._end :] = np.concatenate(files)
        array_of(self._file, "ends")[row] = ends
        self._end = int(ends[-1])


class CropFile:
    """One video's stored crops: any of them, without reading the others.

    May be pickled, and handed to forked and spawned processes: each opens the file for itself. video: whose crops are
    expected. NotCommitted where there is no file; CorruptData, naming file and video, where it is not a whole crop file
    of that video; StoreError where it is of a newer format.
    """

    def __init__(self, path: Path, video: str) -> None:
        self.path, self.video = path, video
        self._file: h5py.File | None = None
        self._process = 0
        with refusing_damage(path, self._contents):
            file = self._open()
            self.schema = _read_schema(file)
            self._count = len(array_of(file, "affine"))
            self._check_shapes(file)
        if self.schema.video != video:
            raise CorruptData(f"{self._contents}: {path} holds those of {self.schema.video!r}")

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def read(self, rows: Any = slice(None), offsets: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Crops (n, t, h, w, 3) uint8 BGR, and their affines (n, 2, 3) float64, frame px -> crop px.

        rows: anything that selects along an axis of proposals. offsets: frame offsets, 0 for the key frame, in any
        order; all of `schema.frames` by default. IndexError for rows, ValueError for offsets that are not there;
        CorruptData where bytes fail their checksum.
        """
        chosen, slots = self._select(rows, offsets)
        form = self.schema
        crops = np.empty((len(chosen), len(slots), form.height, form.width, 3), np.uint8)
        if form.encoding == "raw":
            with refusing_damage(self.path, self._contents):
                stored = array_of(self._open(), "crops")
                for place, row in enumerate(chosen):
                    for position, slot in enumerate(slots):
                        stored.read_direct(crops, np.s_[row, slot], np.s_[place, position])
        else:
            for place, files in enumerate(self._encoded(chosen, slots)):
                for position, file in enumerate(files):
                    crops[place, position] = self._decode(file, int(chosen[place]))
        return crops, self.affines(chosen)

    def encoded(self, rows: Any = slice(None), offsets: Sequence[int] | None = None) -> list[list[np.ndarray]]:
        """The JPEG files themselves, (bytes,) uint8 each: a list per row, as `read` takes them. ValueError for raw."""
        if self.schema.encoding != "jpeg":
            raise ValueError(f"the crops of {self.video!r} are stored raw")
        return self._encoded(*self._select(rows, offsets))

    def affines(self, rows: Any = slice(None)) -> np.ndarray:
        """Affines (n, 2, 3) float64, frame px -> crop px."""
        chosen, _ = self._select(rows, ())
        with refusing_damage(self.path, self._contents):
            return _rows(array_of(self._open(), "affine"), chosen)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _contents(self) -> str:
        return f"crops of {self.video!r}"

    def _open(self) -> h5py.File:
        # HDF5's state must not be shared with a forked process
        if self._file is None or self._process != os.getpid():
            self._file, self._process = open_hdf5(self.path, FORM, FORMAT, self._contents), os.getpid()
        return self._file

    def _check_shapes(self, file: h5py.File) -> None:
        form, count = self.schema, self._count
        lead = (count, len(form.frames))
        expected: dict[str, tuple[int, ...]] = {"affine": (count, 2, 3)}
        if form.encoding == "raw":
            expected["crops"] = (*lead, form.height, form.width, 3)
        else:
            expected["ends"] = lead
        for name, shape in expected.items():
            if (found := array_of(file, name).shape) != shape:
                raise ValueError(f"{name} is {found}, not {shape}")

    def _select(self, rows: Any, offsets: Sequence[int] | None) -> tuple[np.ndarray, list[int]]:
        chosen = np.atleast_1d(np.arange(self._count)[rows])
        frames = self.schema.frames
        if absent := set(offsets or ()) - set(frames):
            raise ValueError(f"{self._contents} are of offsets {frames}, not of {sorted(absent)}")
        return chosen, [frames.index(offset) for offset in (frames if offsets is None else offsets)]

    def _encoded(self, rows: np.ndarray, slots: list[int]) -> list[list[np.ndarray]]:
        with refusing_damage(self.path, self._contents):
            file = self._open()
            data, ends = array_of(file, "jpeg"), array_of(file, "ends")
            found = []
            for row in rows:
                stops = ends[row].tolist()
                starts = [int(ends[row - 1, -1]) if row else 0, *stops[:-1]]
                if starts[0] < 0 or stops[-1] > len(data) or not all(map(operator.lt, starts, stops)):
                    raise ValueError(f"the JPEG files of proposal {row} cannot be placed")
                found.append([data[starts[slot] : stops[slot]] for slot in slots])
            return found

    def _decode(self, file: np.ndarray, row: int) -> np.ndarray:
        crop = cv2.imdecode(file, cv2.IMREAD_COLOR)
        if crop is None or crop.shape != (self.schema.height, self.schema.width, 3):
            raise CorruptData(f"{self._contents}: a JPEG file of proposal {row} in {self.path} cannot be decoded")
        return crop


def encode_jpeg(crop: np.ndarray, quality: int) -> np.ndarray:
    """A crop (h, w, 3) uint8 BGR as a JPEG file, (bytes,) uint8."""
    return cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]


def _read_schema(file: h5py.File) -> CropSchema:
    values: dict[str, Any] = {}
    for name in CropSchema.model_fields:
        value = file.attrs[name]
        values[name] = value.decode() if isinstance(value, bytes) else np.asarray(value).tolist()
    return CropSchema.model_validate(values)


def _rows(dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Rows in any order, repeats allowed, which h5py itself does not take."""
    unique, back = np.unique(rows, return_inverse=True)
    return dataset[unique][back] if len(unique) else np.empty((0, *dataset.shape[1:]), dataset.dtype)
