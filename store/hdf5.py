"""HDF5 files that are whole or absent, and whose damage is told apart from data: what crops and archives share.

Files are written in the form of HDF5 1.10, the oldest whose descriptions carry checksums; data carry Fletcher-32.
Short texts have a fixed length, because HDF5 keeps variable ones outside every checksum.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from store.atomic import is_disk_full, replacing
from store.errors import CorruptData, NotCommitted, StoreError


class DiskFile(io.FileIO):
    """The file under an HDF5 file that is being written; `check` raises the first error of writing.

    After an error it takes everything and writes nothing: the HDF5 library crashes the process when a write fails.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+b")
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise what writing has met so far."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Write all of `data`, or note why not."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self._error is None and len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size, or note why not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return self.tell() if size is None else size


@contextmanager
def creating(path: Path, form: str, version: int) -> Iterator[tuple[h5py.File, DiskFile]]:
    """Write an HDF5 file under a temporary name; it takes the name `path` when the block ends without an error.

    form, version: what the file says it is. Call the `DiskFile`'s `check` now and then. DiskFull where it is.
    """
    with replacing(path) as temporary, DiskFile(temporary) as disk:
        try:
            with h5py.File(disk, "w", libver=("v110", "v110")) as file:
                set_attributes(file, {"format": form, "version": version})
                yield file, disk
        finally:
            disk.check()  # before anything that HDF5 makes of it


def open_hdf5(path: Path, form: str, version: int, contents: str) -> h5py.File:
    """Open a file of `creating` for reading. contents: what it holds, for messages.

    NotCommitted where it is absent, CorruptData where it is not a whole file of this form, StoreError for a newer one.
    """
    if not path.is_file():
        raise NotCommitted(f"{contents}: {path} does not exist")
    with open(path, "rb"):  # says plainly why a file cannot be read
        pass
    with refusing_damage(path, contents):
        file = h5py.File(path, "r")
    try:
        with refusing_damage(path, contents):
            found, written = text_of(file.attrs["format"]), int(np.asarray(file.attrs["version"]))
        if found != form:
            raise CorruptData(f"{contents}: {path} is not a {form} file")
        if written > version:
            raise StoreError(
                f"{contents}: {path} has format {written}; this program reads up to {version}: upgrade glpose"
            )
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def refusing_damage(path: Path, contents: str) -> Iterator[None]:
    """Within it, whatever h5py says of a damaged file becomes CorruptData that names the file and what it holds."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        if is_disk_full(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorruptData(f"{contents}: {path} is damaged ({reason})") from None


def set_attributes(target: h5py.HLObject, values: dict[str, Any]) -> None:
    """Set attributes: numbers, sequences of numbers, and texts as UTF-8 of fixed length."""
    for name, value in values.items():
        target.attrs[name] = fixed_text([value])[0] if isinstance(value, str) else value


def fixed_text(values: Sequence[str]) -> np.ndarray:
    """Texts as an array of UTF-8 of one fixed length, which h5py reads back as bytes."""
    encoded = [value.encode() for value in values]
    length = max([1, *map(len, encoded)])
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", length))


def text_of(value: Any) -> str:
    """A text that was written with a fixed length. TypeError for what is none."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} in place of a text")
    return value.decode()


def write_array(parent: h5py.Group, name: str, values: np.ndarray, dims: Sequence[str] = ()) -> None:
    """Write a whole array, its dimensions' names as HDF5 dimension labels, its SHA-256 as the attribute `sha256`."""
    storage = {"chunks": True, "fletcher32": True} if values.size and values.ndim else {}
    dataset = parent.create_dataset(name, data=values, dtype=values.dtype, **storage)
    label(dataset, dims)
    set_attributes(dataset, {"sha256": hashlib.sha256(plain_bytes(values)).hexdigest()})


def read_array(parent: h5py.Group, name: str) -> np.ndarray:
    """Read what `write_array` wrote. ValueError where it does not match its SHA-256."""
    dataset = array_of(parent, name)
    values = np.asarray(dataset[()], dataset.dtype)
    check_digest(dataset, hashlib.sha256(plain_bytes(values)).hexdigest())
    return values


def write_json_text(parent: h5py.Group, name: str, value: Any) -> None:
    """Write plain data as one text of JSON."""
    write_array(parent, name, fixed_text([json.dumps(value)]).reshape(()))


def read_json_text(parent: h5py.Group, name: str) -> Any:
    """Read what `write_json_text` wrote. ValueError where it does not match its SHA-256."""
    return json.loads(text_of(read_array(parent, name)[()]))


def array_of(parent: h5py.Group, name: str) -> h5py.Dataset:
    """An array by its name. TypeError where the name is that of a group."""
    dataset = parent[name]
    if not isinstance(dataset, h5py.Dataset):
        raise TypeError(f"{dataset.name} is not an array")
    return dataset


def group_of(parent: h5py.Group, name: str) -> h5py.Group:
    """A group by its name. TypeError where the name is that of an array."""
    group = parent[name]
    if not isinstance(group, h5py.Group):
        raise TypeError(f"{group.name} is not a group")
    return group


def label(dataset: h5py.Dataset, dims: Sequence[str]) -> None:
    """Name an array's dimensions."""
    for axis, dim in enumerate(dims):
        dataset.dims[axis].label = dim


def plain_bytes(values: np.ndarray) -> memoryview:
    """An array's values in C order, as the bytes that `sha256` is taken of."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def check_digest(dataset: h5py.Dataset, digest: str) -> None:
    """ValueError where an array's attribute `sha256` is another."""
    if text_of(dataset.attrs["sha256"]) != digest:
        raise ValueError(f"{dataset.name} does not match its SHA-256")
