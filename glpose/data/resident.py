"""Stored features held in memory in the stored precision; batches by indexing there, no copies in the loop."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from store.errors import CheckpointError, StoreError
from store.features import VideoFeatures
from store.reader import Store
from store.schema import FeatureSchema

View = int | Literal["mirrored"]  # a stored view by its number, or the one that is mirrored


@dataclass(frozen=True)
class Maps:
    """Maps as stored: values (P, V, ..., C, H, W) uint8 or float16; for uint8 their scales (P, V, ..., C) float32."""

    values: Tensor
    scale: Tensor | None

    def take(self, rows: Tensor, view: Tensor | int = 0) -> Tensor:
        """Rows (B,) as float32 (B, ..., C, H, W), dequantised on the device. view: of all, or (B,) of each."""
        if isinstance(view, int):
            chosen = Maps(self.values[:, view], None if self.scale is None else self.scale[:, view])
        else:
            rows = rows * self.values.shape[1] + view
            chosen = Maps(self.values.flatten(0, 1), None if self.scale is None else self.scale.flatten(0, 1))
        maps = chosen.values.index_select(0, rows)
        return maps.float() if chosen.scale is None else maps * chosen.scale.index_select(0, rows)[..., None, None]


TYPES = {"uint8": torch.uint8, "float16": torch.float16}  # by how a store holds its maps


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


def positions_within(offsets: Sequence[int], k: int, causal: bool = False) -> list[int]:
    """Positions of the offsets -k .. k, or -k .. -1 if causal, among `offsets`."""
    return [position for position, offset in enumerate(offsets) if -k <= offset <= (-1 if causal else k)]


BLOCK = 32  # proposals that are read at once: those of a shard
READERS = 4  # threads: while one waits for the disk, others check and copy


def load_resident(
    store: Store, table: pd.DataFrame, offsets: Sequence[int], views: Sequence[View], device: torch.device
) -> ResidentFeatures:
    """Load the features of proposals of whole videos to the device.

    table: the proposals, with keypoints, by video and proposal. offsets: local maps to load. views: stored views to
    load, the clean one first. torch.OutOfMemoryError where the device has not enough memory; CheckpointError where
    videos hold features of several backbones, StoreError where one has no such view.
    """
    videos = {str(video): group["proposal"].to_numpy() for video, group in table.groupby("video", sort=False)}
    opened = {video: store.features(video) for video in videos}
    schema = next(iter(opened.values())).schema
    for video, features in opened.items():
        if features.schema.space != schema.space:
            raise CheckpointError(f"video {video!r} holds features of another backbone: run extract for all videos")
    numbers = {video: [_number_of(features, view) for view in views] for video, features in opened.items()}
    held = _empty(schema, len(table), len(offsets), len(views), device)
    buffers = threading.local()
    parts = []
    start = 0
    for video, rows in videos.items():
        for first in range(0, len(rows), BLOCK):
            own = rows[first : first + BLOCK]
            parts.append((video, own, {name: array[start : start + len(own)] for name, array in held.items()}))
            start += len(own)
    with ThreadPoolExecutor(READERS, thread_name_prefix="load_resident") as pool:
        waiting = [
            pool.submit(_load_part, opened[video], own, targets, offsets, numbers[video], buffers)
            for video, own, targets in parts
        ]
        for done in waiting:
            done.result()
    return ResidentFeatures(
        schema=schema,
        offsets=tuple(offsets),
        table=table.reset_index(drop=True),
        key=Maps(held["key"], held.get("key_scale")),
        local=Maps(held["local"], held.get("local_scale")) if len(offsets) else None,
        embedding=held["embedding"],
    )


def load_rows(
    features: VideoFeatures, rows: np.ndarray, offsets: Sequence[int], device: torch.device
) -> dict[str, Tensor]:
    """The clean view of some proposals of a video, in any order, as stored: key, local, their scales and embedding.

    offsets: local maps to load; with none, `local` is left out. Shapes are those of `ResidentFeatures`, with V = 1.
    """
    held = _empty(features.schema, len(rows), len(offsets), 1, device)
    buffers = threading.local()
    for first in range(0, len(rows), BLOCK):
        part = {name: array[first : first + BLOCK] for name, array in held.items()}
        _load_part(features, rows[first : first + BLOCK], part, offsets, [0], buffers)
    return held


def map_bytes(schema: FeatureSchema) -> int:
    """Bytes that one map and, of uint8, its scales take, as they are stored."""
    values = int(np.prod(schema.map_shape))
    return values + 4 * schema.channels if schema.dtype == "uint8" else 2 * values


def _number_of(features: VideoFeatures, view: View) -> int:
    """The number of a stored view of a video, whose videos need not all store as many."""
    schema = features.schema
    if view != "mirrored" and 0 <= view < schema.views:
        return view
    if view != "mirrored":
        raise StoreError(f"video {features.video!r} has no view {view}; it has {schema.views}, numbered from 0")
    if schema.mirrored is None:
        raise StoreError(
            f"video {features.video!r} has no mirrored view, which the flip test needs: set extract.mirror=true and "
            "run extract again"
        )
    return schema.mirrored


def _empty(schema: FeatureSchema, rows: int, offsets: int, views: int, device: torch.device) -> dict[str, Tensor]:
    """Arrays for so many proposals, by their names in the store."""
    leads: dict[str, tuple[int, ...]] = {"key": (rows, views), **({"local": (rows, views, offsets)} if offsets else {})}
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]]
    shapes = {name: ((*lead, *schema.map_shape), TYPES[schema.dtype]) for name, lead in leads.items()}
    if schema.dtype == "uint8":
        shapes |= {f"{name}_scale": ((*lead, schema.channels), torch.float32) for name, lead in leads.items()}
    shapes["embedding"] = ((rows, schema.channels), torch.float32)
    return {name: torch.empty(shape, dtype=dtype, device=device) for name, (shape, dtype) in shapes.items()}


def _load_part(
    features: VideoFeatures,
    rows: np.ndarray,
    targets: dict[str, Tensor],
    offsets: Sequence[int],
    views: Sequence[int],
    buffers: threading.local,
) -> None:
    """Fill the targets with these proposals (n,) of a video, as stored. buffers: of this thread, to be used again."""
    chosen = [features.schema.offsets.index(offset) for offset in offsets]
    for name, target in targets.items():
        if name in ("key", "local"):
            _read_maps(target, features, name, rows, views, chosen if name == "local" else None, buffers)
            continue
        small = features.read(name, rows)
        small = small[:, 0] if name == "embedding" else small[:, list(views)]
        small = small[:, :, chosen] if name == "local_scale" else small
        target.copy_(torch.from_numpy(np.ascontiguousarray(small)))


def _read_maps(
    target: Tensor,
    features: VideoFeatures,
    name: str,
    rows: np.ndarray,
    views: Sequence[int],
    offsets: Sequence[int] | None,
    buffers: threading.local,
) -> None:
    """Read maps straight into memory of this machine; for another device by way of a pinned buffer."""
    reader = features.reader(name)
    if target.device.type == "cpu":
        reader.read_into(target.numpy(), rows, views, offsets)
        return
    if not hasattr(buffers, name):
        pinned = target.device.type == "cuda"
        setattr(buffers, name, torch.empty((BLOCK, *target.shape[1:]), dtype=target.dtype, pin_memory=pinned))
    buffer = getattr(buffers, name)[: len(rows)]
    reader.read_into(buffer.numpy(), rows, views, offsets)
    target.copy_(buffer)  # waits: the buffer is filled again next
