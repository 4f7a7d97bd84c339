"""index: a FAISS index of every video's embeddings, and each proposal's most similar references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from glpose.options import IndexOptions
from glpose.retrieval import Neighbours, comparable, find_references, hubness, softmax_entropy
from stages.config import PipelineConfig
from stages.stage import Context, Stage, nothing, video_units
from store.features import VideoFeatures
from store.folder import Attempt
from store.index import build_index, made_from, write_index
from store.record import number_or_none
from store.tables import merge_tables, read_table, read_tables, write_table

VERSION = 1


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """All options."""
    return config.index.model_dump(mode="json")


def inputs(context: Context, unit: str) -> str:
    """Digest of the video's features and proposals."""
    return made_from(context.commit("extract", unit))


def make(context: Context, shared: None, unit: str, attempt: Attempt) -> str:
    """Write one video's index and neighbours table."""
    options = context.config.index
    folder, files = context.output("extract", unit), context.commit("extract", unit).files
    table = read_table(folder, "proposals")
    embeddings = comparable(VideoFeatures(folder, unit, files).embedding[:, 0], options.similarity)
    write_index(attempt.path, build_index(embeddings))
    found = neighbours_by_split(unit, table, embeddings, options)
    write_table(attempt.path, "neighbours", _long_table(unit, found))
    lacking = int((found.rows < 0).any(axis=1).sum())
    attempt.meta = {
        "proposals": len(table),
        "fewer_than_n": lacking,
        "softmax_entropy": number_or_none(softmax_entropy(found.similarity)),
        "hubness": number_or_none(hubness(found.rows)),
    }
    return f"{lacking} of {len(table)} proposals have fewer than {options.n} references" if lacking else ""


def neighbours_by_split(video: str, table: pd.DataFrame, embeddings: np.ndarray, options: IndexOptions) -> Neighbours:
    """References of every proposal of a video, from its own split alone; pools as evaluation uses them (epoch 0)."""
    found = _nobody(len(table), options.n)
    frames, scores = table["frame"].to_numpy(), table["score"].to_numpy()
    for split in sorted(table["split"].unique()):
        rows = np.flatnonzero((table["split"] == split).to_numpy())
        ranked = find_references(video, frames, scores, rows, embeddings, options, options.n, epoch=0)
        found.rows[rows], found.similarity[rows] = ranked.rows, ranked.similarity
    return found


def load_neighbours(context: Context, videos: list[str]) -> dict[str, Neighbours]:
    """What `make` wrote, as arrays again, by video."""
    folder, n = context.folder("index"), context.config.index.n
    commits = {video: context.commit("index", video) for video in videos}
    # a video without any reference has no row in the table
    out = {video: _nobody(commits[video].meta["proposals"], n) for video in videos}
    for video, table in read_tables(folder, commits, "neighbours").groupby("video"):
        where = (table["proposal"].to_numpy(), table["rank"].to_numpy())
        out[str(video)].rows[where] = table["reference"]
        out[str(video)].similarity[where] = table["similarity"]
    return out


def finish(context: Context) -> list[str]:
    """Merge the tables; say how even the softmax weights and the citations are."""
    commits = context.commits("index")
    merge_tables(context.folder("index"), commits, "neighbours")
    entropies = [c.meta["softmax_entropy"] for c in commits.values() if c.meta["softmax_entropy"] is not None]
    hubs = [c.meta["hubness"] for c in commits.values() if c.meta["hubness"] is not None]
    if not entropies:
        return []
    n = context.config.index.n
    return [
        f"  softmax entropy {np.mean(entropies):.2f} nats (even weights over {n}: {np.log(n):.2f}); "
        f"the most-cited tenth of the proposals gets {100 * np.mean(hubs):.0f} % of the citations"
    ]


def _nobody(proposals: int, n: int) -> Neighbours:
    return Neighbours(np.full((proposals, n), -1, np.int64), np.full((proposals, n), -np.inf, np.float32))


def _long_table(video: str, found: Neighbours) -> pd.DataFrame:
    proposal, rank = np.nonzero(found.rows >= 0)
    return pd.DataFrame(
        {
            "video": video,
            "proposal": proposal,
            "rank": rank,
            "reference": found.rows[proposal, rank],
            "similarity": found.similarity[proposal, rank],
        }
    )


STAGE = Stage(
    name="index",
    version=VERSION,
    after=lambda config: ("extract",),
    parameters=parameters,
    units=video_units,
    inputs=inputs,
    prepare=nothing,
    make=make,
    finish=finish,
    distributed=True,
)
