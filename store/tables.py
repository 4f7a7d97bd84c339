"""Tables on disk: one Parquet file per video while a stage runs, merged into one file when it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from store.errors import CorruptData
from store.folder import Commit, StageFolder
from store.places import Place, open_binary, writing_file
from store.record import fingerprint

PROPOSALS = pa.schema(
    [
        ("video", pa.string()),
        ("proposal", pa.int32()),  # 0..P-1 within the video, in frame order
        ("frame", pa.int32()),  # 0-based
        ("person", pa.int32()),  # track id, -1 where unknown
        ("x1", pa.float64()),  # box, px in the original frame, clipped to it
        ("y1", pa.float64()),
        ("x2", pa.float64()),
        ("y2", pa.float64()),
        ("score", pa.float32()),  # of the box; 1 for annotations
        ("source", pa.string()),  # where the box comes from
        ("split", pa.string()),  # "train" or "eval"
        ("keypoints", pa.list_(pa.float32())),  # J * 3: x, y in frame px and the flag; null where not annotated
    ]
)
NEIGHBOURS = pa.schema(
    [
        ("video", pa.string()),
        ("proposal", pa.int32()),
        ("rank", pa.int32()),  # 0 is the most similar
        ("reference_video", pa.string()),  # the same video, or with index.scope dataset any of the same split
        ("reference", pa.int32()),  # a proposal of that video, of the same split
        ("similarity", pa.float32()),
    ]
)
BOX = ["x1", "y1", "x2", "y2"]
SCHEMAS: dict[str, pa.Schema] = {"proposals": PROPOSALS, "neighbours": NEIGHBOURS}
ROW_GROUP = (
    1 << 15
)  # rows of a merged table that are written together; in groups of one video each, it reads 25x slower
WRITING: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}  # else flipped bits are read silently


def write_table(folder: Path, name: str, columns: Mapping[str, object] | pd.DataFrame) -> None:
    """Write `folder/name.parquet` with exactly the columns of that table's schema."""
    schema = SCHEMAS[name]
    if isinstance(columns, pd.DataFrame) and columns.empty:
        table = schema.empty_table()  # an empty column of pandas does not say what it would hold
    elif isinstance(columns, pd.DataFrame):
        table = pa.Table.from_pandas(columns[schema.names], schema=schema, preserve_index=False)
    else:
        table = pa.table({key: pa.array(columns[key], type=schema.field(key).type) for key in schema.names}, schema)
    pq.write_table(table, folder / f"{name}.parquet", **WRITING)


def read_table(folder: Place, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read `folder/name.parquet`, or some of its columns. CorruptData where the file cannot be read."""
    return _read(folder / f"{name}.parquet", name, columns).to_pandas()


def merge_tables(stage: StageFolder, commits: Mapping[str, Commit], name: str) -> Place:
    """Write one Parquet file of a table's rows over all committed videos; skipped if it is there already."""
    path = _merged_path(stage, commits, name)
    if path.exists():
        return path
    with writing_file(path) as temporary, pq.ParquetWriter(temporary, SCHEMAS[name], **WRITING) as writer:
        for group in _row_groups(stage, commits, name):
            writer.write_table(group)
    for other in path.parent.glob(f"{name}-*.parquet"):
        if other != path:
            other.unlink(missing_ok=True)
    return path


def read_tables(
    stage: StageFolder, commits: Mapping[str, Commit], name: str, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Rows of a table over these committed videos, in video order; from the merged file where there is one."""
    merged = _merged_path(stage, commits, name)
    if merged.exists():
        try:
            return _read(merged, name, columns).to_pandas()
        except CorruptData:
            if merged.exists():  # else another run has merged anew meanwhile: the parts hold the same
                raise
    parts = [_read(stage.attempt_path(commits[video]) / f"{name}.parquet", name, columns) for video in sorted(commits)]
    if not parts:
        schema = SCHEMAS[name]
        parts = [schema.empty_table().select(list(columns) if columns else schema.names)]
    return pa.concat_tables(parts).to_pandas()


def _row_groups(stage: StageFolder, commits: Mapping[str, Commit], name: str) -> Iterator[pa.Table]:
    """Rows in video order, at least ROW_GROUP at a time, except for the last."""
    parts: list[pa.Table] = []
    rows = 0
    for video in sorted(commits):
        parts.append(_read(stage.attempt_path(commits[video]) / f"{name}.parquet", name, None))
        rows += len(parts[-1])
        if rows >= ROW_GROUP:
            yield pa.concat_tables(parts)
            parts, rows = [], 0
    if parts:
        yield pa.concat_tables(parts)


def _merged_path(stage: StageFolder, commits: Mapping[str, Commit], name: str) -> Place:
    # named after exactly what it merges, so that a stale one is never read
    contents = fingerprint(sorted((commit.unit, commit.attempt) for commit in commits.values()))
    return stage.path / "merged" / f"{name}-{contents[:16]}.parquet"


def spans_of(table: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Video -> its rows [start, stop), of a table that is sorted by video."""
    video = table["video"].to_numpy()
    ends = np.flatnonzero(np.append(video[1:] != video[:-1], True)[: len(video)]) + 1
    return {str(video[stop - 1]): (int(start), int(stop)) for start, stop in zip([0, *ends[:-1]], ends, strict=False)}


def _read(path: Place, name: str, columns: Sequence[str] | None) -> pa.Table:
    try:
        with open_binary(path) as handle:
            table = pq.read_table(handle, columns=list(columns) if columns else None, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise CorruptData(f"{path} cannot be read ({error}); run verify") from None
    if lacking := set(columns or SCHEMAS[name].names).difference(table.schema.names):
        raise CorruptData(
            f"{path} has no column {min(lacking)}: an earlier release wrote it; run its stage again, with --force"
        )
    return table
