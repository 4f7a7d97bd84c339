"""verify: what a stage has finished against what its commits say, every object read once.

`read_in_force` reads the records; `verify_stage` checks the units that they name, `repair` takes back the damaged ones.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from store.errors import CorruptData, StoreError
from store.features import GROUP
from store.folder import Commit, StageFolder
from store.places import Place, size_fault, sizes
from store.tables import SCHEMAS, read_table, read_tables
from store.verify_features import verify_features
from store.verify_files import Unit, file_check
from store.verify_records import InForce, read_in_force, repair_records, stray_links

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["InForce", "Verdict", "read_in_force", "repair", "verify_stage"]

LINES = 20  # told of one unit
PIECE = 1 << 20  # bytes hashed at a time, while they are in the processor's cache

Progress = Callable[[int], None]  # is told of bytes done
Splits = Callable[[Commit, str], np.ndarray | None]  # of a video's proposals as a unit of neighbours saw them, if known


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a stage. records: lines of what is no unit's. units: lines by damaged unit. notes: no faults.

    merged: tables that do not hold what the units' do; nothing but copies.
    """

    records: list[str]
    units: dict[str, list[str]] = field(default_factory=dict)
    merged: list[Place] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self, stage: str) -> list[str]:
        """All faults, "STAGE: ..." and "STAGE UNIT: ..."."""
        merged = [f"{stage}: merged/{path.name} is not what its videos' tables hold" for path in self.merged]
        own = [f"{stage}: {line}" for line in self.records] + merged
        return own + [f"{stage} {unit}: {line}" for unit, lines in self.units.items() for line in lines]


def verify_stage(
    folder: StageFolder,
    found: InForce,
    *,
    fast: bool = False,
    progress: Progress = lambda done: None,
    splits: Splits = lambda commit, video: None,
) -> Verdict:
    """Check everything that is in force of a stage.

    fast: only that all objects are there, with their sizes, by one listing; no contents are read. progress: is told of
    every object's bytes, `Commit.bytes` in all. splits: for neighbours, those of the proposals that they refer to.
    Memory: one shard of a video's features and its means, and the tables of all videos.

    StoreError where something is there but cannot be read (its rights, the network): that is no damage.
    """
    units: dict[str, list[str]] = {}
    reader = _Reader(progress)
    there = _by_attempt(sizes(folder.path / "data")) if found.commits else {}
    for unit, commit in found.commits.items():
        sizes_there = there.get((unit, commit.attempt), {})
        if fast:
            faults = {name: size_fault(sizes_there, name, size) for name, (size, _) in commit.files.items()}
            lines = [f"{name} {fault}" for name, fault in faults.items() if fault]
            progress(commit.bytes)
        else:
            lines = list(_unit_faults(folder, found, commit, sizes_there, reader, splits))
        if lines:
            units[unit] = [*lines[:LINES], *([f"and {len(lines) - LINES} more"] if len(lines) > LINES else [])]
    merged = [] if fast or units else _wrong_merges(folder, found.commits)
    return Verdict(found.faults, units, merged, stray_links(folder, found.commits))


def repair(folder: StageFolder, found: InForce, verdict: Verdict) -> None:
    """Take back the commits of damaged units, and of no others, so that the next run makes them again.

    Damaged commit records and merged tables are removed, a damaged copy of the record in force is written anew.
    """
    if found.record is not None:
        for unit in verdict.units:
            folder.withdraw(found.record, found.commits[unit])
    for path in verdict.merged:
        path.unlink(missing_ok=True)
    repair_records(folder, found)


def _unit_faults(
    folder: StageFolder,
    found: InForce,
    commit: Commit,
    there: Mapping[str, int],
    reader: _Reader,
    splits: Splits,
) -> Iterator[str]:
    path = folder.attempt_path(commit)

    def read(name: str) -> tuple[memoryview, str]:
        if fault := size_fault(there, name, commit.files[name][0]):
            reader.progress(commit.files[name][0])
            return memoryview(b""), fault
        return reader.read(path / name, *commit.files[name])

    unit = Unit(commit.unit, commit.meta, found.record or {}, partial(splits, commit))
    if f"{GROUP}/zarr.json" in commit.files:
        yield from verify_features(commit.files, read, commit.meta.get("proposals"))
        uncommitted = (name for name in there if name.startswith(f"{GROUP}/") and name not in commit.files)
        yield from (f"{name} was not committed, but Zarr would read it" for name in uncommitted)
    for name in commit.files:
        if name.startswith(f"{GROUP}/") and f"{GROUP}/zarr.json" in commit.files:
            continue
        data, fault = read(name)
        if fault:
            yield f"{name} {fault}"
        elif check := file_check(name):
            yield from check(data, unit)


def _by_attempt(files: Mapping[str, int]) -> dict[tuple[str, str], dict[str, int]]:
    """(unit, attempt) -> bytes of its files, of a listing of `data`."""
    out: dict[tuple[str, str], dict[str, int]] = {}
    for path, size in files.items():
        unit, _, rest = path.partition("/")
        attempt, _, name = rest.partition("/")
        out.setdefault((unit, attempt), {})[name] = size
    return out


def _wrong_merges(folder: StageFolder, commits: Mapping[str, Commit]) -> list[Place]:
    """The merged tables, if they differ from what they were merged from."""
    wrong: list[Place] = []
    for name in SCHEMAS:
        merges = [path for path in (folder.path / "merged").glob(f"{name}-*.parquet") if not path.name.startswith(".")]
        if not merges or not commits:
            continue
        parts = [read_table(folder.attempt_path(commits[unit]), name) for unit in sorted(commits)]
        expected = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
        try:
            same = read_tables(folder, commits, name).equals(expected)
        except (CorruptData, pa.ArrowException, ValueError, LookupError):  # a damaged footer may say anything
            same = False
        if not same:
            wrong += merges
    return wrong


class _Reader:
    """Reads whole objects, each once, into a buffer that is used again, and compares them with their SHA-256."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._buffer = np.empty(0, np.uint8)

    def read(self, path: Place, size: int, digest: str) -> tuple[memoryview, str]:
        """An object's contents, good until the next call, and what is wrong with it, "" if nothing."""
        try:
            data, found = self._local(path, size) if isinstance(path, Path) else self._remote(path)
        except FileNotFoundError:
            return memoryview(b""), "is missing"
        except OSError as error:
            if error.errno != errno.EIO:
                raise StoreError(f"{path} cannot be read ({error.strerror or error})") from None
            return memoryview(b""), "cannot be read from its disk"
        return data, "" if found == digest else "does not match its checksum"

    def _local(self, path: Path, size: int) -> tuple[memoryview, str]:
        if len(self._buffer) < size:
            self._buffer = np.empty(size, np.uint8)
        data, hashed, done = self._buffer.data[:size], hashlib.sha256(), 0
        with open(path, "rb", buffering=0) as handle:
            while done < size and (got := handle.readinto(data[done : done + PIECE])):
                hashed.update(data[done : done + got])
                done += got
                self.progress(got)
        return data[:done], hashed.hexdigest()

    def _remote(self, path: UPath) -> tuple[memoryview, str]:
        data = cast(bytes, path.fs.cat_file(path.path))  # one request, where read_bytes makes two
        self.progress(len(data))
        return memoryview(data), hashlib.sha256(data).hexdigest()
