"""Poses of one video's stored features, a batch of people at a time: memory does not grow with the video."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from glpose.data.resident import Maps, ResidentFeatures, load_rows
from glpose.data.windows import Window
from glpose.evaluation import PLAIN, decode_poses, heatmaps_of, inputs_of
from glpose.geometry import crop_frames
from glpose.models.glpose import GLPoseHeads
from glpose.options import ExtractOptions
from glpose.references import References
from store.features import VideoFeatures
from store.tables import BOX


def stream_poses(
    model: GLPoseHeads,
    features: VideoFeatures,
    table: pd.DataFrame,
    references: References,
    extract: ExtractOptions,
    score: str,
    batch_size: int,
) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows (B,) and their poses (B, J, 3), as `glpose.evaluation.predict_poses` gives them for the whole video.

    table: the video's P proposals, in the order of its features. references: of all of them, rows of the table. Only a
    batch, its local maps and the key maps of its references are in memory.
    """
    device = next(model.parameters()).device
    regions = crop_frames(table[BOX].to_numpy(), extract.crop_size, extract.crop_scale)
    box_scores = table["score"].to_numpy()
    for start in range(0, len(table), batch_size):
        rows = np.arange(start, min(start + batch_size, len(table)))
        window, found = _window(features, table, rows, references.of(rows, model.options.n), model.offsets, device)
        poses = decode_poses(heatmaps_of(model, inputs_of(model, window, found, rows)), regions[rows], PLAIN)
        if score == "product":
            poses[..., 2] *= box_scores[rows, None]
        yield rows, poses


def _window(
    features: VideoFeatures,
    table: pd.DataFrame,
    rows: np.ndarray,
    references: References,
    offsets: tuple[int, ...],
    device: torch.device,
) -> tuple[Window, tuple[Tensor, Tensor]]:
    """Features of a batch: first its own rows, then those that it refers to and does not hold; of these keys alone."""
    others = np.setdiff1d(references.rows[references.rows >= 0], rows)
    own, found = load_rows(features, rows, offsets, device), load_rows(features, others, (), device)
    joined = {name: torch.cat([own[name], found[name]]) for name in found}
    held = ResidentFeatures(
        schema=features.schema,
        offsets=offsets,
        table=table.iloc[np.concatenate([rows, others])],
        key=Maps(joined["key"], joined.get("key_scale")),
        local=Maps(own["local"], own.get("local_scale")) if offsets else None,
        embedding=joined["embedding"],
    )
    places = np.full(len(table) + 1, -1)  # the last stands for a missing one
    places[np.concatenate([rows, others])] = np.arange(len(rows) + len(others))
    pointing = torch.from_numpy(places[references.rows]).to(device), torch.from_numpy(references.similarity).to(device)
    return Window(held, rows, np.arange(len(rows))), pointing
