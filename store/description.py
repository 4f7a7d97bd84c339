"""What a store holds, told from its commits: no more than one video of each form is opened."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from store.errors import CorruptData
from store.features import GROUP, VideoFeatures
from store.folder import Commit, StageFolder
from store.schema import FeatureSchema

ATTRIBUTES = f"{GROUP}/zarr.json"  # the group's; equal checksums mean equal schemas, so one of each is read
FLOAT16_BYTES = 2


@dataclass(frozen=True)
class Entry:
    """One proposal's part of an array. dims: names of all its dimensions, `proposal` first, which shape leaves out."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def raw_bytes(self) -> int:
        """Bytes as raw float16 of what is a map; scales and means are no part of the raw features."""
        return math.prod(self.shape) * FLOAT16_BYTES if self.dims[-2:] == ("y", "x") else 0


def proposals_of(commit: Commit) -> int:
    """Number of proposals of a video. CorruptData where its commit does not say."""
    count = commit.meta.get("proposals")
    if not isinstance(count, int):
        raise CorruptData(f"the commit of {commit.unit!r} does not say how many proposals it has; run extract again")
    return count


def schemas_of(stage: StageFolder, commits: Mapping[str, Commit]) -> dict[str, FeatureSchema]:
    """Schema by video. CorruptData where one is missing or not what was committed."""
    known: dict[tuple[int, str] | None, FeatureSchema] = {}
    for commit in commits.values():
        entry = commit.files.get(ATTRIBUTES)
        if entry not in known:
            known[entry] = _read_schema(stage, commit)
    return {video: known[commit.files.get(ATTRIBUTES)] for video, commit in commits.items()}


def describe(
    stage: StageFolder, commits: Mapping[str, Commit], index: StageFolder, indexed: Mapping[str, Commit]
) -> pd.DataFrame:
    """One row per array and per file beside them, and the total; `store.Store.describe` tells the columns."""
    rows: dict[tuple[str, Entry | None], dict[str, int]] = {}
    known: dict[tuple[int, str] | None, dict[str, Entry]] = {}
    for of, made in ((stage, commits), (index, indexed)):
        for video, commit in made.items():
            entries: dict[str, Entry] = {}
            if of == stage:
                form = commit.files.get(ATTRIBUTES)
                if form not in known:
                    known[form] = _entries(VideoFeatures(stage.attempt_path(commit), video, commit.files))
                entries = known[form]
            for part, size in _bytes_by_part(commit).items():
                entry = entries.get(part)
                row = rows.setdefault((part, entry), {"videos": 0, "proposals": 0, "bytes": 0, "raw": 0})
                proposals = proposals_of(commits[video])
                row["videos"] += 1
                row["proposals"] += proposals
                row["bytes"] += size
                row["raw"] += proposals * (entry.raw_bytes if entry else 0)
    total = {
        "videos": len(commits),
        "proposals": sum(map(proposals_of, commits.values())),
        "bytes": sum(row["bytes"] for row in rows.values()),
        "raw": sum(row["raw"] for row in rows.values()),
    }
    lines = [_line(part, entry, row) for (part, entry), row in rows.items()]
    return pd.DataFrame([*lines, _line("total", None, total)]).set_index("part")


def _line(part: str, entry: Entry | None, row: Mapping[str, int]) -> dict[str, Any]:
    return {
        "part": part,
        "dims": entry.dims if entry else (),
        "shape": entry.shape if entry else (),
        "dtype": entry.dtype if entry else "",
        "videos": row["videos"],
        "proposals": row["proposals"],
        "bytes": row["bytes"],
        "ratio_to_float16": row["bytes"] / row["raw"] if row["raw"] else np.nan,
    }


def _entries(features: VideoFeatures) -> dict[str, Entry]:
    """Entry by name of array."""
    arrays = {name: features[name] for name in features.keys()}  # noqa: SIM118 (not a dict)
    return {name: Entry(features.dims(name), array.shape[1:], str(array.dtype)) for name, array in arrays.items()}


def _bytes_by_part(commit: Commit) -> dict[str, int]:
    """Bytes by name of array, or of file where it is not an array's."""
    sizes: dict[str, int] = {}
    for path, (size, _) in commit.files.items():
        pieces = path.split("/")
        part = pieces[1] if pieces[0] == GROUP and len(pieces) > 2 else pieces[-1]
        sizes[part] = sizes.get(part, 0) + size
    return sizes


def _read_schema(stage: StageFolder, commit: Commit) -> FeatureSchema:
    path, committed = stage.attempt_path(commit) / ATTRIBUTES, commit.files.get(ATTRIBUTES)
    where = f"features of {commit.unit!r} are damaged: {ATTRIBUTES}"
    try:
        content = path.read_bytes()
    except OSError:
        raise CorruptData(f"{where} is missing; run verify") from None
    if committed is None or hashlib.sha256(content).hexdigest() != committed[1]:
        raise CorruptData(f"{where} is not the one committed; run verify")
    try:
        return FeatureSchema.model_validate(json.loads(content)["attributes"])
    except (KeyError, TypeError, ValueError):
        raise CorruptData(f"{ATTRIBUTES} of {commit.unit!r} does not describe features; run extract again") from None
