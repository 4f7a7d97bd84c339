"""What is wrong with tables, indices and heads whose bytes are those committed: form, counts, references."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors

from store.index import FILE as INDEX
from store.record import Record
from store.tables import BOX, NEIGHBOURS, PROPOSALS


@dataclass(frozen=True)
class Unit:
    """What a unit's files must agree with. splits: of the proposals of a video, (P,) str; None where not known."""

    name: str
    meta: dict[str, Any]
    record: Record
    splits: Callable[[str], np.ndarray | None]


def file_check(name: str) -> Callable[[memoryview, Unit], Iterator[str]] | None:
    """The function that looks into a file, by its name; None where its bytes are all there is to check.

    It is for files that match their checksum: the libraries that read them do not survive all damage.
    """
    if name.endswith(".safetensors"):
        return _heads
    return {"proposals.parquet": _proposals, "neighbours.parquet": _neighbours, INDEX: _index}.get(name)


def _proposals(data: memoryview, unit: Unit) -> Iterator[str]:
    try:
        table = _table(data, PROPOSALS)
    except (OSError, ValueError) as error:
        yield f"proposals.parquet cannot be read ({error})"
        return
    yield from _counted("proposals.parquet", len(table), unit)
    numbers, frames = table["proposal"].to_numpy(), table["frame"].to_numpy()
    start = np.diff(frames, prepend=frames[:1])
    for what, wrong in (
        ("its number is {proposal}", numbers != np.arange(len(table))),
        ("its video is {video!r}", (table["video"] != unit.name).to_numpy()),
        ("its frame {frame} is not in order", (frames < 0) | (start < 0)),
        ("its split is {split!r}", ~table["split"].isin(["train", "eval"]).to_numpy()),
        ("its box or score is not finite", ~np.isfinite(table[[*BOX, "score"]].to_numpy(float)).all(axis=1)),
    ):
        for row in np.flatnonzero(wrong):
            yield f"proposal {row}: in proposals.parquet {what.format(**table.iloc[row].to_dict())}"


def _neighbours(data: memoryview, unit: Unit) -> Iterator[str]:
    try:
        table = _table(data, NEIGHBOURS)
    except (OSError, ValueError) as error:
        yield f"neighbours.parquet cannot be read ({error})"
        return
    count, n = unit.meta.get("proposals"), unit.record["parameters"].get("n")
    if not isinstance(count, int) or not isinstance(n, int):
        yield "neighbours.parquet cannot be checked: its commit does not say of how many proposals it is"
        return
    proposal, reference = table["proposal"].to_numpy(), table["reference"].to_numpy()
    rank, similarity = table["rank"].to_numpy(), table["similarity"].to_numpy()
    rows = np.arange(len(table))
    begins = np.diff(proposal, prepend=-1) != 0
    expected = rows - np.maximum.accumulate(np.where(begins, rows, 0))
    rises = ~begins & (np.diff(similarity, prepend=np.inf) > 0)
    here = (proposal >= 0) & (proposal < count)
    there, other_split = _references(table, here, unit)
    video = table["reference_video"].to_numpy()
    options = unit.record["parameters"]
    strange = (video != unit.name) & (options.get("scope") != "dataset")
    strange |= (video == unit.name) & (options.get("select") == "other_video")
    itself = (video == unit.name) & (reference == proposal)
    checks = {
        "its video is {video!r}": (table["video"] != unit.name).to_numpy(),
        "there is no such proposal, or it is not in order": ~here | (np.diff(proposal, prepend=-1) < 0),
        "rank {rank} is out of order, or one is missing": (rank != expected) | (rank >= n),
        "reference {reference} is of video {reference_video!r}": strange,
        "reference {reference} is no other proposal of {reference_video!r}": ~there | itself,
        "the similarity to reference {reference} is {similarity}": ~np.isfinite(similarity),
        "reference {reference} is more similar than the one before": rises,
        "reference {reference} is of the other split": other_split,
    }
    for what, wrong in checks.items():
        for row in np.flatnonzero(wrong):
            yield f"proposal {proposal[row]}: in neighbours.parquet {what.format(**table.iloc[row].to_dict())}"
    lacking = int((np.bincount(proposal[here], minlength=count) < n).sum())
    if lacking != unit.meta.get("fewer_than_n"):
        stated = unit.meta.get("fewer_than_n")
        yield f"neighbours.parquet has {lacking} proposals with fewer than {n} references, {stated} were committed"


def _references(table: pd.DataFrame, here: np.ndarray, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """Which references there are, and which of these are of another split than their proposal, as far as is known.

    here: which rows are of a proposal that there is.
    """
    count, own = unit.meta["proposals"], unit.splits(unit.name)
    proposal, reference = table["proposal"].to_numpy(), table["reference"].to_numpy()
    there, other_split = reference >= 0, np.zeros(len(table), bool)
    for video, rows in table.groupby("reference_video", dropna=False).indices.items():
        splits = unit.splits(str(video))
        if video == unit.name:
            there[rows] &= reference[rows] < count
        elif splits is not None:
            there[rows] &= reference[rows] < len(splits)
        if splits is not None and own is not None and len(own) == count:
            rows = rows[there[rows] & here[rows]]
            other_split[rows] = own[proposal[rows]] != splits[reference[rows]]
    return there, other_split


def _index(data: memoryview, unit: Unit) -> Iterator[str]:
    try:
        index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    except RuntimeError as error:
        yield f"{INDEX} cannot be read ({error})"
        return
    yield from _counted(INDEX, index.ntotal, unit)


def _heads(data: memoryview, unit: Unit) -> Iterator[str]:
    try:
        empty = not safetensors.deserialize(bytes(data))
    except safetensors.SafetensorError as error:
        yield f"the heads cannot be read ({error})"
        return
    if empty:
        yield "the heads hold no tensor"


def _counted(name: str, rows: int, unit: Unit) -> Iterator[str]:
    if rows != unit.meta.get("proposals"):
        yield f"{name} has {rows} rows, {unit.meta.get('proposals')} proposals were committed"


def _table(data: memoryview, schema: pa.Schema) -> pd.DataFrame:
    """A Parquet file's rows, page checksums verified. OSError or ValueError where it has another schema."""
    table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    if not table.schema.equals(schema):
        raise ValueError("its columns are not those of its schema")
    return table.to_pandas()
