"""index: a FAISS index of every video's embeddings, and each proposal's references, by default the most similar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from glpose.embeddings import stored_embeddings
from glpose.options import IndexOptions
from glpose.retrieval import (
    Gallery,
    Neighbours,
    comparable,
    find_references,
    hubness,
    make_gallery,
    softmax_entropy,
)
from stages.config import PipelineConfig
from stages.last_layer import pose_layer
from stages.stage import Context, Stage, split_videos, video_units
from store.errors import NotCommitted
from store.features import VideoFeatures
from store.folder import Attempt
from store.index import build_index, made_from, write_index
from store.record import number_or_none
from store.tables import BOX, merge_tables, read_table, read_tables, write_table

VERSION = 2
COLUMNS = ["video", "proposal", "frame", "score", "split"]  # of the proposals, that galleries are made of
POSES = [*BOX, "keypoints"]  # and those that the oracle needs besides


@dataclass(frozen=True)
class SplitGallery:
    """The proposals of all videos of a split, and the digest of the features that they were read from."""

    gallery: Gallery
    digest: str


@dataclass(frozen=True)
class Shared:
    """galleries: of every split, with scope dataset. layer: what sees poses, where people are compared by them."""

    galleries: dict[str, SplitGallery]
    layer: nn.Conv2d | None


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """All options. The layer that sees poses is in `extract`'s record, with the rest of its checkpoint."""
    options = config.index.model_dump(mode="json")
    if config.index.embedding == "pooled":  # as in records from before there was another
        del options["embedding"]
    return options


def inputs(context: Context, unit: str) -> str:
    """Digest of the video's features and proposals; with scope dataset, of those of all videos of its splits too.

    NotCommitted while one of them has no features: a pool never shrinks silently.
    """
    features = context.commit("extract", unit)
    return made_from(features, _gallery_digests(context, unit))


def prepare(context: Context) -> Shared:
    """With scope dataset, load the gallery of every split whose videos all have features."""
    layer = pose_layer(context.config)
    if context.config.index.scope == "video":
        return Shared({}, layer)
    return Shared({split: _load_gallery(context, split, layer) for split in context.split_digests}, layer)


def make(context: Context, shared: Shared, unit: str, attempt: Attempt) -> str:
    """Write one video's index and neighbours table; its references are of the split of the proposal alone.

    Pools are those that evaluation uses (epoch 0).
    """
    options = context.config.index
    folder, files = context.output("extract", unit), context.commit("extract", unit).files
    table = read_table(folder, "proposals", _columns(options))
    embeddings = stored_embeddings(VideoFeatures(folder, unit, files), slice(None), options, shared.layer)
    write_index(attempt.path, build_index(comparable(embeddings, options.similarity)))
    parts, similarity = [], [np.empty((0, options.n))]
    for split, rows in table.groupby("split").indices.items():
        if options.scope == "dataset":
            gallery = shared.galleries[str(split)].gallery
        else:
            gallery = make_gallery(table.iloc[rows], embeddings[rows], options)
        found = find_references(gallery, unit, options, options.n)
        parts.append(_long_table(unit, gallery, found))
        similarity.append(found.similarity)
    neighbours = pd.concat(parts).sort_values(by=["proposal", "rank"]) if parts else pd.DataFrame({"reference": []})
    write_table(attempt.path, "neighbours", neighbours)
    values = np.concatenate(similarity)
    lacking = int(np.isneginf(values).any(axis=1).sum())
    attempt.meta = {
        "proposals": len(table),
        "fewer_than_n": lacking,
        "softmax_entropy": number_or_none(softmax_entropy(values)),
    }
    if options.scope == "dataset":
        attempt.meta["gallery"] = {split: shared.galleries[split].digest for split in context.video(unit).ranges}
    else:
        attempt.meta["hubness"] = number_or_none(hubness(neighbours["reference"].to_numpy(), len(table)))
    return f"{lacking} of {len(table)} proposals have fewer than {options.n} references" if lacking else ""


def finish(context: Context) -> list[str]:
    """Merge the tables; say how even the softmax weights and the citations are."""
    folder, commits = context.folder("index"), context.commits("index")
    merge_tables(folder, commits, "neighbours")
    commits = context.current(commits)
    entropies = [c.meta["softmax_entropy"] for c in commits.values() if c.meta["softmax_entropy"] is not None]
    if not entropies:
        return []
    n = context.config.index.n
    if context.config.index.scope == "dataset":
        table = read_tables(folder, commits, "neighbours", ["reference_video", "reference"])
        cited = table.groupby(["reference_video", "reference"]).ngroup().to_numpy()
        hubs, whose = [hubness(cited, sum(c.meta["proposals"] for c in commits.values()))], "all proposals"
    else:
        hubs = [c.meta["hubness"] for c in commits.values() if c.meta["hubness"] is not None]
        whose = "the proposals of a video"
    return [
        f"  softmax entropy {np.mean(entropies):.2f} nats (even weights over {n}: {np.log(n):.2f}); "
        f"the most-cited tenth of {whose} gets {100 * np.mean(hubs):.0f} % of the citations"
    ]


def _columns(options: IndexOptions) -> list[str]:
    return [*COLUMNS, *POSES] if options.select == "oracle" else COLUMNS


def _gallery_digests(context: Context, unit: str) -> dict[str, str]:
    """Of each split of a video, the digest of what its references are looked for in; none with scope video."""
    if context.config.index.scope == "video":
        return {}
    splits = sorted(context.video(unit).ranges)
    for split in splits:
        if split not in context.split_digests:
            lacking = [name for name in split_videos(context, split) if name not in context.features]
            raise NotCommitted(
                f"with index.scope dataset references are of any video of the {split} split, but {lacking[0]!r} "
                f"({len(lacking)} in all) has no features yet: run extract first"
            )
    return {split: context.split_digests[split] for split in splits}


def _load_gallery(context: Context, split: str, layer: nn.Conv2d | None) -> SplitGallery:
    """Read the proposals and embeddings of all videos of a split, in order of their names."""
    folder, videos = context.folder("extract"), split_videos(context, split)
    table = read_tables(folder, context.features, "proposals", _columns(context.config.index))
    table = table.loc[(table["split"] == split) & table["video"].isin(videos)].reset_index(drop=True)
    embeddings = []
    for video, rows in table.groupby("video").indices.items():
        commit = context.features[str(video)]
        features = VideoFeatures(folder.attempt_path(commit), str(video), commit.files)
        own = table["proposal"].to_numpy()[rows]
        embeddings.append(stored_embeddings(features, own, context.config.index, layer))
    whole = np.concatenate(embeddings) if embeddings else np.empty((0, 1), np.float32)
    gallery = make_gallery(table, whole, context.config.index, context.config.runtime.device)
    return SplitGallery(gallery, context.split_digests[split])


def _long_table(video: str, gallery: Gallery, found: Neighbours) -> pd.DataFrame:
    row, rank = np.nonzero(found.rows >= 0)
    reference = found.rows[row, rank]
    return pd.DataFrame(
        {
            "video": video,
            "proposal": gallery.proposals[gallery.spans[video][0] + row],
            "rank": rank,
            "reference_video": gallery.videos_of(reference),
            "reference": gallery.proposals[reference],
            "similarity": found.similarity[row, rank],
        }
    )


STAGE = Stage(
    name="index",
    version=VERSION,
    after=lambda config: ("extract",),
    parameters=parameters,
    units=video_units,
    inputs=inputs,
    prepare=prepare,
    make=make,
    finish=finish,
    distributed=True,
    by_video=True,
)
