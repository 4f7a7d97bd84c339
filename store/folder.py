"""One stage's outputs on disk: attempts, commits, and the record in force.

    STAGE/stage.json                       the record in force, and its digest
    STAGE/records/DIGEST.json              every record that was ever begun
    STAGE/commit/DIGEST/UNIT.json          one small file per finished unit: its attempt, files, sizes, checksums
    STAGE/data/UNIT/ATTEMPT/...            what one attempt wrote; never written to again
    STAGE/data/UNIT/ATTEMPT.writing        locked for as long as the attempt's writer lives
    STAGE/unfinished/UNIT.state            what an interrupted training of a unit goes on from
    STAGE/latest/UNIT                      link to the attempt in force, for people; programs follow commits

A unit is a video, or whatever else a stage makes one of at a time. A writer fills a fresh attempt and publishes a
commit for it; readers follow commits only, so what a killed writer left is invisible. In S3 there are no locks and no
links: `stage.json` and replaced commits move by conditional put.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from store.atomic import is_disk_full, parse_json
from store.attempts import abandoned, attempt_name, forget, fresh_folder, seal, started, sweep_leftovers
from store.errors import AlreadyCommitted, CorruptData, DiskFull, NotCommitted, StoreError
from store.places import (
    Place,
    publish_if_absent,
    read_json,
    read_text,
    remove_if,
    remove_tree,
    size_fault,
    sizes,
    swap,
    texts,
)
from store.record import Record, file_digest, fingerprint

FORMAT = 1  # of everything a stage folder holds; readers refuse a newer one
UNIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@ -]{0,199}")


def check_unit_name(name: str) -> str:
    """Return `name` if it can be a folder's name anywhere; StoreError for paths, `..` and odd characters."""
    if not UNIT_NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise StoreError(
            f"video name {name!r} cannot be used as a folder name: use letters, digits, '_', '-', '.', '+', '=', '@' "
            "and spaces, no path and no '..'"
        )
    return name


def as_unit_name(title: str) -> str:
    """A title as a folder may be called, "_" for each character that it may not hold. StoreError where none is left."""
    name = re.sub(r"[^A-Za-z0-9_.+=@ -]", "_", title)
    name = re.sub(r"^[^A-Za-z0-9_]|[ .]$", "_", name)
    return check_unit_name(name)


@dataclass(frozen=True)
class Commit:
    """What one finished unit consists of. `files`: path inside the attempt -> (bytes, SHA-256).

    Not CRC-32C: chunks that end in their own CRC-32C all have the same one, whatever they hold.
    seconds: what making it took, by the clock; None where that was not noted.
    """

    unit: str
    attempt: str
    inputs: str
    files: dict[str, tuple[int, str]]
    meta: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())

    @cached_property
    def digest(self) -> str:
        """Identifies the contents, whoever wrote them and how fast: SHA-256 over names, sizes, checksums and meta."""
        return fingerprint({"files": {k: list(v) for k, v in self.files.items()}, "meta": self.meta})


@dataclass(frozen=True)
class StageFolder:
    """The outputs of one stage below `path`, a folder or a place in S3; holds no open file."""

    path: Place

    def record_in_force(self) -> Record | None:
        """The record whose commits readers see, or None before the stage was ever begun."""
        text = self._pointer_text()
        return None if text is None else self._record_of(text)

    def begin(self, record: Record) -> None:
        """Note a record; it comes into force at once if the stage has none yet."""
        publish_if_absent(self._record_path(fingerprint(record)), json.dumps(record, indent=1))
        publish_if_absent(self.path / "stage.json", _pointer(record))

    def begun(self, digest: str) -> Record:
        """A record that was begun, by its fingerprint. NotCommitted where it never was."""
        path = self._record_path(digest)
        record = read_json(path)
        if not isinstance(record, dict) or fingerprint(record) != digest:
            raise CorruptData(f"{path} is damaged; delete it and run the stage again")
        return record

    def put_in_force(self, record: Record, expected: Record) -> None:
        """Move the pointer from `expected` to `record`. StoreError if another run has moved it meanwhile."""
        text = self._pointer_text()
        if text and self._record_of(text) == expected and swap(self.path / "stage.json", text, _pointer(record)):
            return
        if self.record_in_force() != record:  # else another run has finished the same
            raise StoreError(f"{self.path}: another run has put other parameters in force meanwhile; look with status")

    def commits(self, record: Record) -> dict[str, Commit]:
        """Finished units of a record, by name."""
        return _commits(self._commit_folder(record))

    def committed(self, record: Record) -> list[str]:
        """Names of a record's finished units, whatever their commits hold."""
        return [name.removesuffix(".json") for name in texts(self._commit_folder(record), "*.json")]

    def is_finished(self, record: Record, unit: str) -> bool:
        """Whether a unit has a commit; one look, whatever the number of units."""
        return (self._commit_folder(record) / f"{check_unit_name(unit)}.json").exists()

    def commit_of(self, record: Record, unit: str) -> Commit:
        """The commit of one unit. NotCommitted if it is not finished."""
        path = self._commit_folder(record) / f"{check_unit_name(unit)}.json"
        if not path.exists():
            raise NotCommitted(f"{self.path.name} has no finished output for {unit!r} in {self.path.parent}")
        return _commit(path, read_text(path))

    def attempt_path(self, commit: Commit) -> Place:
        """Folder of what the commit's attempt wrote."""
        return self.path / "data" / commit.unit / commit.attempt

    @contextmanager
    def writing(self, record: Record, unit: str, inputs: str, *, replace: Commit | None = None) -> Iterator[Attempt]:
        """A fresh attempt for one unit; when the block ends without an error, it is synced and published.

        replace: the stale commit that this one takes the place of; without it, publishing happens only if the unit has
        no commit. AlreadyCommitted if another writer was first. A full disk gives a StoreError; either way, and on any
        other exception, nothing of the attempt stays.
        """
        name, began = attempt_name(), time.monotonic()
        folder = self.path / "data" / check_unit_name(unit) / name
        try:
            with fresh_folder(folder) as filled:
                attempt = Attempt(filled)
                yield attempt
                files = seal(filled, folder)
                seconds = time.monotonic() - began if attempt.seconds is None else attempt.seconds
                self._publish(record, Commit(unit, name, inputs, files, attempt.meta, round(seconds, 3)), replace)
        except BaseException as error:
            if not self._is_published(record, unit, name):  # an interrupt may come right after publishing
                remove_tree(folder)
            if is_disk_full(error):
                where = self.path if isinstance(self.path, Path) else tempfile.gettempdir()  # S3 has no disk to fill
                raise DiskFull(
                    f"the disk is full while writing {unit!r} of {self.path.name} below {where}; finished videos "
                    "are safe: free some space and run the same command again"
                ) from None
            raise

    def state_path(self, unit: str) -> Path | None:
        """File that an interrupted training of a unit goes on from; None in S3, where it starts anew."""
        return self.path / "unfinished" / f"{unit}.state" if isinstance(self.path, Path) else None

    def is_at_work(self) -> bool:
        """Whether a process writes a unit now, or an interrupted training waits to go on. In S3 nobody can tell."""
        if not isinstance(self.path, Path):
            return False
        markers = self.path.glob("data/*/*.writing")
        attempts = [marker.with_name(marker.name.removesuffix(".writing")) for marker in markers]
        return any(self.path.glob("unfinished/*.state")) or not all(abandoned(attempt) for attempt in attempts)

    def faults(self, commit: Commit) -> list[str]:
        """Read every file of a commit: one plain line per file that is missing, or differs in size or checksum."""
        folder, found = self.attempt_path(commit), []
        there = sizes(folder)
        for name, (size, digest) in commit.files.items():
            if fault := size_fault(there, name, size):
                found.append(f"{name} {fault}")
            elif file_digest(folder / name) != digest:
                found.append(f"{name} does not match its checksum")
        return found

    def withdraw(self, record: Record, commit: Commit) -> None:
        """Take a commit back, so that the next run makes its unit again; `clean` then removes the attempt."""
        path = self._commit_folder(record) / f"{commit.unit}.json"
        text = read_text(path)
        if _commit(path, text).attempt == commit.attempt:
            remove_if(path, text)

    def remove(self, record: Record, commit: Commit) -> None:
        """Take a commit back for good, with its attempt and the link to it."""
        self.withdraw(record, commit)
        link = self.path / "latest" / commit.unit
        if isinstance(link, Path) and link.is_symlink() and link.readlink().name == commit.attempt:
            link.unlink(missing_ok=True)
        remove_tree(self.attempt_path(commit))

    def link_latest(self, commits: Mapping[str, Commit]) -> None:
        """Make `latest/UNIT` point at what these commits name; not in S3, which has no links."""
        folder = self.path / "latest"
        if not isinstance(folder, Path):
            return
        folder.mkdir(exist_ok=True)
        for unit, commit in commits.items():
            target = Path("..") / "data" / unit / commit.attempt
            link = folder / unit
            if link.is_symlink() and link.readlink() == target:
                continue
            temporary = folder / f".{unit}.{uuid.uuid4().hex[:8]}"
            temporary.symlink_to(target, target_is_directory=True)
            os.replace(temporary, link)

    def clean(self) -> list[Place]:
        """Remove attempts that no commit of any record names and no living writer holds; return what was removed.

        Folders that are not named as attempts are somebody else's, and stay.
        """
        attempts = [path for path in sorted(self.path.glob("data/*/*"), key=str) if started(path.name)]
        idle = [folder for folder in attempts if folder.is_dir() and abandoned(folder)]
        # read after looking at the locks: a writer that has let go meanwhile has published before
        kept = {
            (commit.unit, commit.attempt)
            for folder in self.path.glob("commit/*")
            for commit in _commits(folder).values()
        }
        removed = [folder for folder in idle if (folder.parent.name, folder.name) not in kept]
        for folder in removed:
            remove_tree(folder)
        for folder in idle:
            forget(folder)
        sweep_leftovers(self.path)
        return removed

    def _pointer_text(self) -> str | None:
        try:
            return read_text(self.path / "stage.json")
        except FileNotFoundError:
            return None

    def _record_of(self, text: str) -> Record:
        pointer = self.path / "stage.json"
        value = parse_json(pointer, text)
        try:
            written = int(value["format"])
            if written > FORMAT:
                raise StoreError(
                    f"{self.path} has store format {written}; this program reads up to {FORMAT}: upgrade glpose"
                )
            record, digest = dict(value["record"]), value["digest"]
        except (KeyError, TypeError, ValueError):
            raise CorruptData(f"{pointer} is not a stage record; delete it and run the stage again") from None
        if digest != fingerprint(record):
            raise CorruptData(f"{pointer} does not match its digest; delete it and run the stage again")
        return record

    def _is_published(self, record: Record, unit: str, attempt: str) -> bool:
        try:
            return self.commit_of(record, unit).attempt == attempt
        except StoreError:
            return False

    def _publish(self, record: Record, commit: Commit, replace: Commit | None) -> None:
        path = self._commit_folder(record) / f"{commit.unit}.json"
        value = {
            "format": FORMAT,
            "unit": commit.unit,
            "attempt": commit.attempt,
            "inputs": commit.inputs,
            "files": {name: list(entry) for name, entry in commit.files.items()},
            "meta": commit.meta,
            "seconds": commit.seconds,
        }
        text = json.dumps({**value, "checksum": fingerprint(value)}, indent=1) + "\n"
        if replace is None:
            if not publish_if_absent(path, text):
                raise AlreadyCommitted(f"{commit.unit!r} of {self.path.name} was finished by another run meanwhile")
            return
        old = read_text(path) if path.exists() else ""
        if not old or _commit(path, old).attempt != replace.attempt or not swap(path, old, text):
            raise AlreadyCommitted(f"{commit.unit!r} of {self.path.name} was replaced by another run meanwhile")

    def _record_path(self, digest: str) -> Place:
        return self.path / "records" / f"{digest[:16]}.json"

    def _commit_folder(self, record: Record) -> Place:
        return self.path / "commit" / fingerprint(record)[:16]


@dataclass
class Attempt:
    """A folder of this machine to fill, and facts about the unit that go into its commit (plain JSON data).

    seconds: what making it took, where that is not how long it was written.
    """

    path: Path
    meta: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None


def _pointer(record: Record) -> str:
    return json.dumps({"format": FORMAT, "digest": fingerprint(record), "record": record}, indent=1) + "\n"


def _commits(folder: Place) -> dict[str, Commit]:
    return {name.removesuffix(".json"): _commit(folder / name, text) for name, text in texts(folder, "*.json").items()}


def _commit(path: Place, text: str) -> Commit:
    value = parse_json(path, text)
    if isinstance(value, dict) and isinstance(value.get("format"), int) and value["format"] > FORMAT:
        raise StoreError(
            f"{path} has store format {value['format']}; this program reads up to {FORMAT}: upgrade glpose"
        )
    try:
        checksum = value.pop("checksum")
        files = {name: (int(size), str(digest)) for name, (size, digest) in value["files"].items()}
        seconds = None if value.get("seconds") is None else float(value["seconds"])
        commit = Commit(value["unit"], value["attempt"], value["inputs"], files, value["meta"], seconds)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CorruptData(f"{path} is not a commit record; delete it and run the stage again") from None
    if checksum != fingerprint(value):
        raise CorruptData(f"{path} is damaged: it does not match its checksum; delete it and run the stage again")
    return commit
