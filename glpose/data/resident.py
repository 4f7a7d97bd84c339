"""Stored features held on the device in the stored precision; batches by indexing there, no copies in the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from glpose.geometry import crop_frame
from store.errors import CheckpointError, DataError, StoreError, TrainingError
from store.features import VideoFeatures
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


BLOCK = 32  # proposals that are read at once where the device has memory of its own


def load_resident(
    store: Store,
    split: str,
    k: int,
    crop_size: tuple[int, int],
    crop_scale: float,
    device: torch.device,
    videos: Sequence[str] | None = None,
    view: int | Literal["mirrored"] = 0,
) -> ResidentFeatures:
    """Load a split's key maps, the local maps of offsets -k..k, embeddings and table to the device.

    view: which stored view of every proposal. DataError where the split has no proposals, StoreError where a video has
    no such view, CheckpointError where k local frames were not extracted, TrainingError where the device has not enough
    memory.
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

    held: dict[str, Tensor] = {}  # each array is made once, whole, and filled video by video
    start = 0
    try:
        for video, rows in rows_of.items():
            features = store.features(video)
            if features.schema.space != schema.space:
                raise CheckpointError(f"video {video!r} holds features of another backbone: run extract for all videos")
            _load_video(held, start, len(table), features, rows, _view_of(features, view), chosen, device)
            start += len(rows)
    except torch.OutOfMemoryError:
        raise _too_large(schema, len(table), len(offsets), device) from None
    table = table.sort_values(by=["video", "proposal"], kind="stable").reset_index(drop=True)
    return ResidentFeatures(
        schema=schema,
        offsets=offsets,
        table=table,
        regions=np.stack([crop_frame(box, crop_size, crop_scale) for box in table[BOX].to_numpy()]),
        key=Maps(held["key"], held.get("key_scale")),
        local=Maps(held["local"], held.get("local_scale")) if offsets else None,
        embedding=held["embedding"],
    )


def resident_bytes(schema: FeatureSchema, proposals: int, local: int) -> int:
    """Bytes that key maps, `local` local maps and scales of so many proposals take."""
    per_map = int(np.prod(schema.map_shape)) * (1 if schema.dtype == "uint8" else 2) + 4 * schema.channels
    return proposals * (1 + local) * per_map


def _view_of(features: VideoFeatures, view: int | Literal["mirrored"]) -> int:
    schema = features.schema
    if view == "mirrored" and schema.mirrored is None:
        raise StoreError(
            f"video {features.video!r} has no mirrored view, which the flip test needs: run extract anew with "
            "--set extract.mirror=true --force"
        )
    number = schema.mirrored if view == "mirrored" else view
    if number is None or not 0 <= number < schema.views:
        raise StoreError(f"video {features.video!r} has no view {view}; it has {schema.views}, numbered from 0")
    return number


def _load_video(
    held: dict[str, Tensor],
    start: int,
    total: int,
    features: VideoFeatures,
    rows: np.ndarray,
    view: int,
    offsets: Sequence[int],
    device: torch.device,
) -> None:
    """Fill the rows from `start` on with one view of these proposals, as stored. held: made whole by the first video.

    rows: (n,) of the video. offsets: positions along the local maps' axis. total: rows of all videos.
    """

    def place(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if name not in held:
            held[name] = torch.empty((total, *shape), dtype=dtype, device=device)
        return held[name][start : start + len(rows)]

    stored = torch.uint8 if features.schema.dtype == "uint8" else torch.float16
    names: dict[str, tuple[int, ...]] = {"key": (), **({"local": (len(offsets),)} if offsets else {})}
    for name, lead in names.items():
        target = place(name, (*lead, *features.schema.map_shape), stored)
        _read_maps(target, features, name, rows, view, offsets if lead else None)
        if stored == torch.uint8:
            scale = features.read(f"{name}_scale", rows)[:, view]
            scale = scale[:, list(offsets)] if lead else scale
            place(f"{name}_scale", scale.shape[1:], torch.float32).copy_(torch.from_numpy(np.ascontiguousarray(scale)))
    embedding = features.read("embedding", rows)[:, view]
    place("embedding", embedding.shape[1:], torch.float32).copy_(torch.from_numpy(np.ascontiguousarray(embedding)))


def _read_maps(
    target: Tensor, features: VideoFeatures, name: str, rows: np.ndarray, view: int, offsets: Sequence[int] | None
) -> None:
    """Read maps straight into memory of this machine; for another device by way of one reused, pinned buffer."""
    reader = features.reader(name)
    if target.device.type == "cpu":
        reader.read_into(target.numpy(), rows, view, offsets)
        return
    buffer = torch.empty((BLOCK, *target.shape[1:]), dtype=target.dtype, pin_memory=target.device.type == "cuda")
    for first in range(0, len(rows), BLOCK):
        part = rows[first : first + BLOCK]
        reader.read_into(buffer[: len(part)].numpy(), part, view, offsets)
        target[first : first + len(part)].copy_(buffer[: len(part)])  # waits: the buffer is filled again next


def _check_memory(schema: FeatureSchema, proposals: int, local: int, device: torch.device) -> None:
    free = _free_bytes(device)
    if free is not None and resident_bytes(schema, proposals, local) > 0.8 * free:
        raise _too_large(schema, proposals, local, device)


def _too_large(schema: FeatureSchema, proposals: int, local: int, device: torch.device) -> TrainingError:
    free, needed = _free_bytes(device), resident_bytes(schema, proposals, local)
    there = "" if free is None else f", {free / 1e9:.1f} GB are free"
    return TrainingError(
        f"{proposals} proposals with {local} local frames need {needed / 1e9:.1f} GB on "
        f"{device}{there}: use fewer local frames (train.heads.k) or fewer videos (data.train.videos)"
    )


def _free_bytes(device: torch.device) -> int | None:
    """Bytes that can be had on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:  # unlike sysconf's free pages, this counts the page cache, which gives way
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    available = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if available is None else int(available.split()[1]) * 1024
