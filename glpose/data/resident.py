"""Stored features held on the device in the stored precision; batches by indexing there, no copies in the loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from glpose.geometry import crop_frame
from store.errors import CheckpointError, DataError, TrainingError
from store.reader import Store
from store.schema import FeatureSchema
from store.tables import BOX


@dataclass(frozen=True)
class Maps:
    """Maps as stored: values (P, ..., C, H, W) uint8 or float16, and for uint8 their scales (P, ..., C) float32."""

    values: Tensor
    scale: Tensor | None

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Rows as float32, dequantised on the device."""
        maps = self.values[rows].float()
        return maps if self.scale is None else maps * self.scale[rows][..., None, None]


@dataclass(frozen=True)
class ResidentFeatures:
    """All proposals of one split, P rows in the order of `table`, and their features on one device.

    table: `Store.table` rows with `keypoints` (J, 3) or None; proposals of a video are consecutive, in the order of
    their `proposal` numbers. regions: (P, 3) cx, cy, sw of each crop, frame px. offsets: of the local maps held.
    """

    schema: FeatureSchema
    offsets: tuple[int, ...]
    table: pd.DataFrame
    regions: np.ndarray
    key: Maps
    local: Maps | None
    embedding: Tensor

    def __len__(self) -> int:
        return len(self.table)

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.embedding.device

    def nearer(self, k: int) -> ResidentFeatures:
        """The same features with the local maps of offsets -k..k only; nothing is copied."""
        kept = [position for position, offset in enumerate(self.offsets) if abs(offset) <= k]
        if len(kept) == len(self.offsets):
            return self
        local = None
        if kept and self.local is not None:
            chosen = slice(kept[0], kept[-1] + 1)  # offsets rise, so those within k are neighbours
            scale = None if self.local.scale is None else self.local.scale[:, chosen]
            local = Maps(self.local.values[:, chosen], scale)
        return replace(self, offsets=tuple(self.offsets[position] for position in kept), local=local)

    def inputs(self, rows: Tensor, references: Tensor, similarity: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the heads take: key (B, C, H, W), local (B, 2k, C, H, W), references (B, n, C, H, W), similarity (B, n).

        rows: (B,) rows; references: (B, n) rows, -1 where missing (its map is zero).
        """
        key = self.key[rows]
        local = self.local[rows] if self.local is not None else key.new_zeros(len(rows), 0, *key.shape[1:])
        found = self.key[references.clamp(min=0).flatten()].unflatten(0, references.shape)
        return key, local, found * (references >= 0)[..., None, None, None], similarity


def load_resident(
    store: Store,
    split: str,
    k: int,
    crop_size: tuple[int, int],
    crop_scale: float,
    device: torch.device,
    videos: Sequence[str] | None = None,
) -> ResidentFeatures:
    """Load a split's key maps, the local maps of offsets -k..k, embeddings and table to the device.

    DataError where the split has no proposals, CheckpointError where k local frames were not extracted, TrainingError
    where the device has not enough memory.
    """
    table = store.table(keypoints=True)
    table = table.loc[(table["split"] == split) & table["video"].isin(list(videos or store.videos))]
    if table.empty:
        raise DataError(f"the {split} split has no proposals below {store.root}: no boxes, or no frames in the split")
    rows_of = {str(video): group["proposal"].to_numpy() for video, group in table.groupby("video", sort=True)}
    schema = store.features(next(iter(rows_of))).schema
    offsets = tuple(offset for offset in schema.offsets if abs(offset) <= k)
    if len(offsets) < 2 * k:
        stored = len(schema.offsets) // 2
        raise CheckpointError(f"heads with k = {k} need {k} local frames on each side; the store holds {stored}")
    chosen = [schema.offsets.index(offset) for offset in offsets]
    _check_memory(schema, len(table), len(offsets), device)

    parts: dict[str, list[Tensor]] = {}
    for video, rows in rows_of.items():
        features = store.features(video)
        if features.schema.space != schema.space:
            raise CheckpointError(f"video {video!r} holds features of another backbone: run extract for all videos")
        arrays = {"key": features.read("key", rows)[:, 0], "embedding": features.read("embedding", rows)[:, 0]}
        if schema.dtype == "uint8":
            arrays["key_scale"] = features.read("key_scale", rows)[:, 0]
        if offsets:
            arrays["local"] = features.read("local", rows)[:, 0, chosen]
            if schema.dtype == "uint8":
                arrays["local_scale"] = features.read("local_scale", rows)[:, 0, chosen]
        for name, array in arrays.items():
            parts.setdefault(name, []).append(torch.from_numpy(np.ascontiguousarray(array)).to(device))
    # name by name, so that the copies of one array are freed before the next is joined
    joined = {name: torch.cat(parts.pop(name)) for name in list(parts)}
    table = table.sort_values(by=["video", "proposal"], kind="stable").reset_index(drop=True)
    return ResidentFeatures(
        schema=schema,
        offsets=offsets,
        table=table,
        regions=np.stack([crop_frame(box, crop_size, crop_scale) for box in table[BOX].to_numpy()]),
        key=Maps(joined["key"], joined.get("key_scale")),
        local=Maps(joined["local"], joined.get("local_scale")) if offsets else None,
        embedding=joined["embedding"],
    )


def resident_bytes(schema: FeatureSchema, proposals: int, local: int) -> int:
    """Bytes that key maps, `local` local maps and scales of so many proposals take."""
    per_map = int(np.prod(schema.map_shape)) * (1 if schema.dtype == "uint8" else 2) + 4 * schema.channels
    return proposals * (1 + local) * per_map


def _check_memory(schema: FeatureSchema, proposals: int, local: int, device: torch.device) -> None:
    needed = resident_bytes(schema, proposals, local)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * free:
        raise TrainingError(
            f"{proposals} proposals with {local} local frames need {needed / 1e9:.1f} GB on {device}, "
            f"{free / 1e9:.1f} GB are free: use fewer local frames (train.heads.k) or fewer videos (--videos)"
        )
