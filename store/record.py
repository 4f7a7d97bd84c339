"""Stage records: what made a stage's outputs, their fingerprint, and the difference between two of them."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upath import UPath

Record = dict[str, Any]


def canonical_json(value: Any) -> str:
    """JSON with one spelling per value: sorted keys, no spaces, no NaN. Raises ValueError for what JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def number_or_none(value: float) -> float | None:
    """A number as JSON can hold it: None for NaN."""
    return None if math.isnan(value) else value


def file_digest(path: Path | UPath) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while part := handle.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def make_record(stage: str, version: int, parameters: dict[str, Any], after: dict[str, Record]) -> Record:
    """The record of a stage: its name, code version, parameters that change results, and the records before it.

    The records of earlier stages stand in it whole, so that a difference can be told by the parameter's own name.
    """
    return {"stage": stage, "version": version, "parameters": parameters, "after": after}


def difference(old: Record, new: Record) -> list[str]:
    """One line `stage.key: old -> new` per parameter or code version that differs, in alphabetical order."""
    before, now = _flatten(old), _flatten(new)
    return [
        f"{key}: {_show(before, key)} -> {_show(now, key)}"
        for key in sorted(before.keys() | now.keys())
        # compared as the fingerprint sees them: an absent key is not null, 1 is not 1.0
        if key not in before or key not in now or canonical_json(before[key]) != canonical_json(now[key])
    ]


def _flatten(record: Record) -> dict[str, Any]:
    stage = record["stage"]
    flat: dict[str, Any] = {f"{stage} code version": record["version"]}
    for key, value in record["parameters"].items():
        _flatten_values(f"{stage}.{key}", value, flat)
    for earlier in record["after"].values():
        flat.update(_flatten(earlier))
    return flat


def _flatten_values(prefix: str, value: Any, flat: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _flatten_values(f"{prefix}.{key}", inner, flat)
    else:
        flat[prefix] = value


def _show(flat: dict[str, Any], key: str) -> str:
    if key not in flat:
        return "nothing"
    value = flat[key]
    if value is None:
        return "null"
    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return value[:12]  # a digest
    return str(value)
