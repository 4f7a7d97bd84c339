"""What is in force of a stage, as far as it can be read, and what is wrong with the records that say so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from store.errors import CorruptData, StoreError
from store.folder import FORMAT, Commit, StageFolder, check_unit_name
from store.places import Place, read_text, texts
from store.record import Record, fingerprint

MADE_AGAIN = ": without it, the next run makes the unit again"


@dataclass(frozen=True)
class InForce:
    """The record in force and its commits, by unit; None where nothing was begun, or where stage.json is damaged.

    faults: of stage.json, records and commit records, a line each. damaged: the commit records among them, of any
    record. lost: whether records/ lacks the record in force.
    """

    record: Record | None
    commits: dict[str, Commit] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    damaged: list[Place] = field(default_factory=list)
    lost: bool = False


def read_in_force(folder: StageFolder) -> InForce:
    """Read what names a stage's outputs. StoreError for a newer format, and where S3 cannot be read."""
    faults: list[str] = []
    record = _record_in_force(folder, faults)
    known: dict[str, Record] = {}
    contents = texts(folder.path / "records", "*.json")
    if record is not None:
        known[fingerprint(record)[:16]] = record
    for name, text in contents.items():
        stem = name.removesuffix(".json")
        value = _parsed(text)
        if not isinstance(value, dict) or _digest(value)[:16] != stem:
            faults.append(f"records/{name} does not match its digest" + _way_out(stem, stem in known))
        else:
            known[stem] = value
    begun = {stem.removesuffix(".json") for stem in contents}
    digests = sorted(path.name for path in (folder.path / "commit").glob("*") if not path.name.startswith("."))
    for digest in digests:
        if digest not in begun:
            faults.append(f"records/{digest}.json is missing" + _way_out(digest, digest in known))
    if record is None and digests and not faults:
        faults.append("stage.json is missing: the next run puts the configured record in force")
    found: dict[str, dict[str, Commit]] = {}
    damaged: list[Place] = []
    for digest in digests:
        if digest in known:
            found[digest] = _commits(folder, known[digest], digest, faults, damaged)
    if record is None:
        return InForce(None, {}, faults, damaged)
    digest = fingerprint(record)[:16]
    lost = _digest(_parsed(contents.get(f"{digest}.json", ""))) != fingerprint(record)
    return InForce(record, found.get(digest, {}), faults, damaged, lost)


def repair_records(folder: StageFolder, found: InForce) -> None:
    """Remove damaged commit records, so that the next run makes their units again; note the record in force anew."""
    for path in found.damaged:
        path.unlink(missing_ok=True)
    if found.record is not None and found.lost:
        (folder.path / "records" / f"{fingerprint(found.record)[:16]}.json").unlink(missing_ok=True)
        folder.begin(found.record)


def stray_links(folder: StageFolder, commits: Mapping[str, Commit]) -> list[str]:
    """Links for people that do not lead to what is in force: no fault, as programs follow commits."""
    latest = folder.path / "latest"
    if not isinstance(latest, Path):
        return []
    return [
        f"latest/{unit} is not what is in force: the next run mends the link"
        for unit, commit in commits.items()
        if (link := latest / unit).is_symlink() and link.readlink() != Path("..") / "data" / unit / commit.attempt
    ]


def _record_in_force(folder: StageFolder, faults: list[str]) -> Record | None:
    try:
        record = folder.record_in_force()
    except CorruptData as error:
        faults.append(str(error))
        return None
    if record is None:
        return None
    pointer = folder.path / "stage.json"
    expected = {"format": FORMAT, "digest": _digest(record), "record": record}
    if _parsed(read_text(pointer)) != expected:
        faults.append(f"{pointer} does not match its digest; delete it and run the stage again")
        return None
    return record


def _commits(
    folder: StageFolder, record: Record, digest: str, faults: list[str], damaged: list[Place]
) -> dict[str, Commit]:
    """The sound commits of a record; the others are noted."""
    place = folder.path / "commit" / digest
    try:
        commits = folder.commits(record)  # all at once, where none is damaged
    except CorruptData:
        commits = {}
        for name in texts(place, "*.json"):
            unit = name.removesuffix(".json")
            try:
                commits[unit] = folder.commit_of(record, unit)
            except CorruptData:
                faults.append(f"commit/{digest}/{name} is damaged" + MADE_AGAIN)
                damaged.append(place / name)
    for unit, commit in list(commits.items()):
        if not _is_sound(unit, commit):
            faults.append(f"commit/{digest}/{unit}.json is damaged" + MADE_AGAIN)
            damaged.append(place / f"{unit}.json")
            del commits[unit]
    return commits


def _way_out(digest: str, in_force: bool) -> str:
    if in_force:
        return ""
    return f": put it back, or delete it and commit/{digest}, which holds what was made with other parameters"


def _is_sound(unit: str, commit: Commit) -> bool:
    """Whether a commit record is named as its unit, and leads to files of its own attempt alone."""
    try:
        check_unit_name(commit.unit)
        check_unit_name(commit.attempt)
    except (StoreError, TypeError):
        return False
    inside = all(
        name and not PurePosixPath(name).is_absolute() and ".." not in name.split("/") for name in commit.files
    )
    whole = all(size >= 0 and len(digest) == 64 for size, digest in commit.files.values())
    return commit.unit == unit and inside and whole and isinstance(commit.meta, dict) and isinstance(commit.inputs, str)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _digest(value: Any) -> str:
    """The fingerprint, or "" where a value has none: a number that JSON cannot hold."""
    try:
        return fingerprint(value)
    except ValueError:
        return ""
