"""Stored features held in memory in the stored precision; batches by indexing there, no copies in the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from store.errors import CheckpointError
from store.features import VideoFeatures
from store.reader import Store
from store.schema import FeatureSchema


@dataclass(frozen=True)
class Maps:
    """Maps as stored: values (P, V, ..., C, H, W) uint8 or float16; for uint8 their scales (P, V, ..., C) float32."""

    values: Tensor
    scale: Tensor | None

    def take(self, rows: Tensor, view: Tensor | int = 0) -> Tensor:
        """Rows (B,) as float32 (B, ..., C, H, W), dequantised on the device. view: of all, or (B,) of each."""
        maps = self.values[rows, view].float()
        return maps if self.scale is None else maps.mul_(self.scale[rows, view][..., None, None])


@dataclass(frozen=True)
class ResidentFeatures:
    """Proposals of whole videos of one split, P rows in the order of `table`, and their features on one device.

    table: `Store.table` rows with `keypoints` (J, 3) or None; proposals of a video are consecutive, in the order of
    their `proposal` numbers. offsets: of the local maps held. key, local: of V views; view 0 is the clean one, and the
    only one that references are taken from. embedding: (P, C) float32, of view 0.
    """

    schema: FeatureSchema
    offsets: tuple[int, ...]
    table: pd.DataFrame
    key: Maps
    local: Maps | None
    embedding: Tensor

    def __len__(self) -> int:
        return len(self.table)

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.embedding.device

    def inputs(
        self, rows: Tensor, references: Tensor, view: Tensor | int = 0, reference_view: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Maps that the heads take: key (B, C, H, W), local (B, 2k, C, H, W), references (B, n, C, H, W), float32.

        rows: (B,). references: (B, n) rows, -1 where missing (its map is zero). view: of key and local maps.
        """
        key = self.key.take(rows, view)
        local = key.new_zeros(len(rows), 0, *key.shape[1:]) if self.local is None else self.local.take(rows, view)
        found = self.key.take(references.clamp(min=0).flatten(), reference_view).unflatten(0, references.shape)
        if (missing := references < 0).any():
            found[missing] = 0
        return key, local, found

    def span(self, start: int, stop: int, device: torch.device) -> ResidentFeatures:
        """Rows start .. stop on another device."""
        maps = [
            None
            if held is None
            else Maps(
                held.values[start:stop].to(device), None if held.scale is None else held.scale[start:stop].to(device)
            )
            for held in (self.key, self.local)
        ]
        assert maps[0] is not None
        table = self.table.iloc[start:stop].reset_index(drop=True)
        return replace(self, table=table, key=maps[0], local=maps[1], embedding=self.embedding[start:stop].to(device))


def positions_within(offsets: Sequence[int], k: int) -> list[int]:
    """Positions of the offsets -k .. k among `offsets`."""
    return [position for position, offset in enumerate(offsets) if abs(offset) <= k]


BLOCK = 32  # proposals that are read at once where the device has memory of its own


def load_resident(
    store: Store, table: pd.DataFrame, offsets: Sequence[int], views: Sequence[int], device: torch.device
) -> ResidentFeatures:
    """Load the features of proposals of whole videos to the device.

    table: the proposals, with keypoints, by video and proposal. offsets: local maps to load. views: stored views to
    load, the clean one first. torch.OutOfMemoryError where the device has not enough memory; CheckpointError where
    videos hold features of several backbones.
    """
    held: dict[str, Tensor] = {}  # each array is made once, whole, and filled video by video
    schema: FeatureSchema | None = None
    start = 0
    for video, group in table.groupby("video", sort=False):
        features = store.features(str(video))
        schema = schema or features.schema
        if features.schema.space != schema.space:
            raise CheckpointError(f"video {video!r} holds features of another backbone: run extract for all videos")
        _load_video(held, start, len(table), features, group["proposal"].to_numpy(), offsets, views, device)
        start += len(group)
    if schema is None:
        raise ValueError("the table is empty")
    return ResidentFeatures(
        schema=schema,
        offsets=tuple(offsets),
        table=table.reset_index(drop=True),
        key=Maps(held["key"], held.get("key_scale")),
        local=Maps(held["local"], held.get("local_scale")) if len(offsets) else None,
        embedding=held["embedding"],
    )


def map_bytes(schema: FeatureSchema) -> int:
    """Bytes that one map and its scales take, as they are stored."""
    return int(np.prod(schema.map_shape)) * (1 if schema.dtype == "uint8" else 2) + 4 * schema.channels


def _load_video(
    held: dict[str, Tensor],
    start: int,
    total: int,
    features: VideoFeatures,
    rows: np.ndarray,
    offsets: Sequence[int],
    views: Sequence[int],
    device: torch.device,
) -> None:
    """Fill the rows from `start` on with these proposals, as stored. held: made whole by the first video.

    rows: (n,) of the video. total: rows of all videos.
    """

    def place(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if name not in held:
            held[name] = torch.empty((total, *shape), dtype=dtype, device=device)
        return held[name][start : start + len(rows)]

    stored = torch.uint8 if features.schema.dtype == "uint8" else torch.float16
    chosen = [features.schema.offsets.index(offset) for offset in offsets]
    names: dict[str, tuple[int, ...]] = {"key": (), **({"local": (len(chosen),)} if chosen else {})}
    for name, lead in names.items():
        target = place(name, (len(views), *lead, *features.schema.map_shape), stored)
        _read_maps(target, features, name, rows, views, chosen if lead else None)
        if stored == torch.uint8:
            scale = features.read(f"{name}_scale", rows)[:, list(views)]
            scale = scale[:, :, chosen] if lead else scale
            place(f"{name}_scale", scale.shape[1:], torch.float32).copy_(torch.from_numpy(np.ascontiguousarray(scale)))
    embedding = features.read("embedding", rows)[:, 0]
    place("embedding", embedding.shape[1:], torch.float32).copy_(torch.from_numpy(np.ascontiguousarray(embedding)))


def _read_maps(
    target: Tensor,
    features: VideoFeatures,
    name: str,
    rows: np.ndarray,
    views: Sequence[int],
    offsets: Sequence[int] | None,
) -> None:
    """Read maps straight into memory of this machine; for another device by way of one reused, pinned buffer."""
    reader = features.reader(name)
    if target.device.type == "cpu":
        reader.read_into(target.numpy(), rows, views, offsets)
        return
    buffer = torch.empty((BLOCK, *target.shape[1:]), dtype=target.dtype, pin_memory=target.device.type == "cuda")
    for first in range(0, len(rows), BLOCK):
        part = rows[first : first + BLOCK]
        reader.read_into(buffer[: len(part)].numpy(), part, views, offsets)
        target[first : first + len(part)].copy_(buffer[: len(part)])  # waits: the buffer is filled again next
