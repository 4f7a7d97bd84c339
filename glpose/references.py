"""Non-local references of a split's proposals, drawn or as `index` stored them, and what heads are given of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from glpose.data.resident import positions_within
from glpose.data.windows import SplitFeatures, Window
from glpose.options import HeadOptions, IndexOptions
from glpose.retrieval import Gallery, find_references
from store.errors import DataError, TrainingError


@dataclass(frozen=True)
class References:
    """Non-local references of P proposals: rows (P, n) int64, -1 where missing, and similarities (P, n), -inf there."""

    rows: np.ndarray
    similarity: np.ndarray

    def of(self, rows: np.ndarray, n: int | None = None) -> References:
        """The first n references of some proposals, all by default."""
        return References(self.rows[rows, :n], self.similarity[rows, :n])


@dataclass(frozen=True)
class HeadInputs:
    """What heads are given for B proposals, of the largest k and n that anyone asks for. float32, on the device.

    key: (B, C, H, W). local: (B, 2k, C, H, W), of the frames at `offsets`. references: (B, n, C, H, W). similarity:
    (B, n), -inf where missing. products: (B, n, C), Eq. 3's product left unsummed, where it is asked for.
    """

    offsets: tuple[int, ...]
    key: Tensor
    local: Tensor
    references: Tensor
    similarity: Tensor
    products: Tensor | None

    def of(self, heads: HeadOptions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments of `GLPoseHeads.forward` for heads of fewer local frames or references."""
        chosen = positions_within(self.offsets, heads.k, heads.causal)
        local = self.local[:, chosen[0] : chosen[-1] + 1] if chosen else self.local[:, :0]  # offsets rise
        similarity = self.products if heads.per_channel else self.similarity
        assert similarity is not None
        return self.key, local, self.references[:, : heads.n], similarity[:, : heads.n]


def head_inputs(
    window: Window,
    references: tuple[Tensor, Tensor],
    rows: np.ndarray,
    products: bool,
    view: Tensor | int = 0,
    reference_view: int = 0,
) -> HeadInputs:
    """Inputs for rows (B,) of the split that are in a window.

    references: from `in_window`. products: whether any heads weigh channels apart. view: of key and local maps.
    reference_view: of the references' maps; similarities are always the clean view's.
    """
    features, own = window.features, np.searchsorted(window.rows, rows)
    where = references[0].device
    batch = torch.from_numpy(window.places[own]).to(where)
    own = torch.from_numpy(own).to(where)
    others, similarity = references[0][own], references[1][own]
    key, local, found = features.inputs(batch, others, view, reference_view)
    unsummed = None
    if products:
        unsummed = features.embedding[batch][:, None] * features.embedding[others.clamp(min=0)]
        unsummed = torch.where((others >= 0)[..., None], unsummed, -torch.inf)
    return HeadInputs(features.offsets, key, local, found, similarity, unsummed)


def draw_references(gallery: Gallery, videos: Sequence[str], index: IndexOptions, n: int, epoch: int) -> References:
    """References of all proposals of some videos from freshly drawn pools: a new draw for each epoch.

    Evaluation's is epoch 0. Rows are those of the gallery.
    """
    if not isinstance(index.pool, int):
        raise ValueError("everyone in scope is the pool: there is nothing to draw")
    return references_of(gallery, videos, index, n, epoch)


def references_of(gallery: Gallery, videos: Iterable[str], index: IndexOptions, n: int, epoch: int = 0) -> References:
    """References of all proposals of some videos, as `find_references` finds them; rows are those of the gallery."""
    found = [find_references(gallery, video, index, n, epoch) for video in videos]
    return References(np.concatenate([f.rows for f in found]), np.concatenate([f.similarity for f in found]))


def stored_references(table: pd.DataFrame, neighbours: pd.DataFrame, n: int) -> References:
    """The n best references that `index` stored, for every row of a split's table, as rows of it.

    neighbours: `store.Store.neighbours` of its videos. DataError where a reference is not in the table.
    """
    held = table[["video", "proposal"]].assign(row=np.arange(len(table)))
    others = held.set_axis(["reference_video", "reference", "reference_row"], axis=1)
    found = neighbours.loc[neighbours["rank"] < n].merge(held, on=["video", "proposal"])
    found = found.merge(others, on=["reference_video", "reference"], how="left")
    if len(lost := found.loc[found["reference_row"].isna()]):
        first = lost.iloc[0]
        raise DataError(
            f"proposal {first['proposal']} of {first['video']!r} refers to proposal {first['reference']} of "
            f"{first['reference_video']!r}, which is not loaded ({len(lost)} in all): load all videos of the split"
        )
    rows = np.full((len(table), n), -1)
    similarity = np.full((len(table), n), -np.inf, np.float32)
    where = (found["row"].to_numpy(), found["rank"].to_numpy())
    rows[where], similarity[where] = found["reference_row"], found["similarity"]
    return References(rows, similarity)


def in_window(split: SplitFeatures, window: Window, references: References) -> tuple[Tensor, Tensor]:
    """References of a window's proposals as places among its features: rows, similarity (R, n), on the device.

    references: of the window's rows, in order. TrainingError where one of them is outside the window.
    """
    places = np.full(len(split) + 1, -1)  # the last stands for a missing one
    places[window.rows] = window.places
    if len(window.features) == len(split):
        places[:-1] = np.arange(len(split))
    rows = places[references.rows]
    if (rows[references.rows >= 0] < 0).any():
        raise TrainingError(
            "references of other videos (index.scope: dataset) need the whole split on the device: it does not fit, or "
            "runtime.residency or train.window says otherwise"
        )
    return torch.from_numpy(rows).to(split.device), torch.from_numpy(references.similarity).to(split.device)
