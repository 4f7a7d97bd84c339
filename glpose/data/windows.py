"""A split's features where heads can use them: all on the device, or whole videos of it at a time.

Where references are of the same video (`index.scope: video`), a window of whole videos holds all that its proposals
need; where they are of any, only the whole split does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from glpose.data.resident import Maps, ResidentFeatures, View, load_resident, map_bytes
from glpose.geometry import crop_frames
from store.errors import CheckpointError, DataError, TrainingError
from store.reader import Store
from store.schema import FeatureSchema
from store.tables import BOX, spans_of

USED = 0.8  # share of the free memory that is counted on
Mode = Literal["device", "host", "disk"]
Asked = Literal["auto", "device", "host", "disk"]


@dataclass(frozen=True)
class Residency:
    """Where a split's features are while they are used.

    mode: device, all of them on the device; host, all in this machine's memory, disk, in the store alone: then windows
    go to the device, the next one while one is in use. window: proposals of a window at most, but for a video of more,
    which is one of its own (null: the whole split).
    needed, free: bytes of the split, and on the device (None where it does not say).
    """

    mode: Mode
    window: int | None
    needed: int
    free: int | None

    def __str__(self) -> str:
        """Such as `18.2 GB needed, 64.1 GB free: all on the device`."""
        there = "" if self.free is None else f", {self.free / 1e9:.1f} GB free"
        where = {"device": "all on the device", "host": "kept in this machine's memory", "disk": "read from the store"}
        windows = "" if self.window is None else f", in windows of at most {self.window} proposals or one video"
        return f"{self.needed / 1e9:.1f} GB needed{there}: {where[self.mode]}{windows}"


@dataclass(frozen=True)
class Window:
    """Whole videos of a split on the device.

    rows: (R,) int64, the videos' proposals among the split's, rising. places: (R,) of each among `features`, which hold
    these proposals alone or the whole split.
    """

    features: ResidentFeatures
    rows: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class SplitFeatures:
    """Features of one split, whole or window by window; table and embeddings always whole, in host memory.

    table: `Store.table` rows with keypoints, by video and proposal. embedding: (P, C) float32, of the clean view.
    regions: (P, 3) cx, cy, sw of the clean view's crop, frame px. held: the features in device or host memory, None
    where windows are read from the store. affines: (P, V, 2, 3) float64, frame px to crop px of the V views in memory
    but the mirrored one; None where the clean view is all. mirrored: number of the mirrored one in memory, if any.
    """

    schema: FeatureSchema
    offsets: tuple[int, ...]
    table: pd.DataFrame
    embedding: np.ndarray
    regions: np.ndarray
    device: torch.device
    residency: Residency
    held: ResidentFeatures | None
    read: Callable[[pd.DataFrame], ResidentFeatures] | None = None
    affines: np.ndarray | None = None
    mirrored: int | None = None

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """Video -> its rows [start, stop)."""
        return spans_of(self.table)

    def window(self, videos: Sequence[str]) -> Window:
        """Some videos' features on the device."""
        rows = np.concatenate([np.arange(*self.spans[video]) for video in videos])
        if self.held is not None and self.held.device == self.device:
            return Window(self.held, rows, rows)
        if self.held is not None:
            parts = [self.held.span(*self.spans[video], self.device) for video in videos]
            return Window(join(parts), rows, np.arange(len(rows)))
        assert self.read is not None
        return Window(self.read(self.table.iloc[rows]), rows, np.arange(len(rows)))

    def window_videos(self, order: np.random.Generator | None = None) -> list[list[str]]:
        """Videos of each window, by name within it."""
        videos = list(self.spans)
        if self.residency.window is None:
            return [videos]
        if order is not None:
            videos = [videos[place] for place in order.permutation(len(videos))]
        sizes = {video: stop - start for video, (start, stop) in self.spans.items()}
        return fill_windows(videos, sizes, self.residency.window)


def fill_windows(videos: Sequence[str], sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Videos in their order, as many a window as have at most `most` proposals together; sorted within a window."""
    windows: list[list[str]] = []
    count = most
    for video in videos:
        if count + sizes[video] > most:
            windows.append([])
            count = 0
        windows[-1].append(video)
        count += sizes[video]
    return [sorted(window) for window in windows]


def join(parts: Sequence[ResidentFeatures]) -> ResidentFeatures:
    """Features of several videos as one."""
    first = parts[0]

    def joined(maps: Sequence[Maps | None]) -> Maps | None:
        present = [part for part in maps if part is not None]
        if not present:
            return None
        scales = [part.scale for part in present if part.scale is not None]
        return Maps(torch.cat([part.values for part in present]), torch.cat(scales) if scales else None)

    key = joined([part.key for part in parts])
    assert key is not None
    return replace(
        first,
        table=pd.concat([part.table for part in parts], ignore_index=True),
        key=key,
        local=joined([part.local for part in parts]),
        embedding=torch.cat([part.embedding for part in parts]),
    )


def open_split(
    store: Store,
    split: str,
    k: int,
    crop_size: tuple[int, int],
    crop_scale: float,
    device: torch.device,
    *,
    videos: Sequence[str] | None = None,
    asked: Asked = "auto",
    window: int | None = None,
    views: int = 1,
    mirrored: bool = False,
) -> SplitFeatures:
    """A split's features with local maps of offsets -k..k, brought to where `asked` says, or to where they fit.

    window: proposals of a window at most; None: the whole split where it fits, else as many as fit twice. mirrored:
    with the mirrored view too, after the `views` first ones. DataError where the split has no proposals,
    CheckpointError where so many local frames were not extracted, StoreError where a view was not, TrainingError where
    memory is too small.
    """
    table = store.table(keypoints=True)
    table = table.loc[(table["split"] == split) & table["video"].isin(list(videos or store.videos))]
    if table.empty:
        raise DataError(f"the {split} split has no proposals below {store.root}: no boxes, or no frames in the split")
    table = table.sort_values(by=["video", "proposal"], kind="stable").reset_index(drop=True)
    schema = store.features(str(table["video"].iloc[0])).schema
    offsets = tuple(offset for offset in schema.offsets if abs(offset) <= k)
    if len(offsets) < 2 * k:
        stored = len(schema.offsets) // 2
        raise CheckpointError(f"heads with k = {k} need {k} local frames on each side; the store holds {stored}")
    spans = spans_of(table)
    sizes = {video: stop - start for video, (start, stop) in spans.items()}
    shown: list[View] = [*range(views), *(["mirrored"] if mirrored else [])]
    plan = plan_residency(sizes, map_bytes(schema) * len(shown) * (1 + len(offsets)), device, asked, window)

    def read(part: pd.DataFrame, where: torch.device = device) -> ResidentFeatures:
        try:
            return load_resident(store, part, offsets, shown, where)
        except torch.OutOfMemoryError:
            fewer = "lower train.window, or use" if part["video"].iloc[0] != part["video"].iloc[-1] else "use"
            raise TrainingError(
                f"{len(part)} proposals do not fit into the memory of {where}: {fewer} fewer local frames "
                "(train.heads.k)"
            ) from None

    places = {"device": device, "host": torch.device("cpu")}
    held = read(table, places[plan.mode]) if plan.mode in places else None
    embedding = held.embedding.cpu().numpy() if held is not None else _embeddings(store, table, spans)
    return SplitFeatures(
        schema=schema,
        offsets=offsets,
        table=table,
        embedding=embedding,
        regions=crop_frames(table[BOX].to_numpy(), crop_size, crop_scale),
        device=device,
        residency=plan,
        held=held,
        read=read,
        affines=_affines(store, table, spans, views) if views > 1 else None,
        mirrored=views if mirrored else None,
    )


def _embeddings(store: Store, table: pd.DataFrame, spans: Mapping[str, tuple[int, int]]) -> np.ndarray:
    proposals = table["proposal"].to_numpy()
    parts = [
        store.features(video).read("embedding", proposals[start:stop])[:, 0] for video, (start, stop) in spans.items()
    ]
    return np.concatenate(parts)


def _affines(store: Store, table: pd.DataFrame, spans: Mapping[str, tuple[int, int]], views: int) -> np.ndarray:
    proposals, parts = table["proposal"].to_numpy(), []
    for video, (start, stop) in spans.items():
        stored = store.features(video).affine(proposals[start:stop])
        assert stored is not None  # videos of several views have them
        parts.append(stored[:, :views])
    return np.concatenate(parts)


def plan_residency(
    sizes: Mapping[str, int], each: int, device: torch.device, asked: Asked, window: int | None
) -> Residency:
    """Where features of videos of so many proposals are kept, and in what windows they are used.

    each: bytes of one proposal. TrainingError where not even two windows fit on the device, of the largest video too.
    """
    needed, largest = sum(sizes.values()) * each, max(sizes.values())
    free, host = free_bytes(device), free_bytes(torch.device("cpu"))
    fits = free is None or needed <= USED * free
    if asked == "device" and not fits:
        assert free is not None
        raise TrainingError(
            f"{needed / 1e9:.1f} GB of features do not fit on {device}, {free / 1e9:.1f} GB are free: leave "
            "runtime.residency at auto, or use fewer local frames (train.heads.k) or videos (data.train.videos)"
        )
    if asked == "device" or (asked == "auto" and fits):
        return Residency("device", window, needed, free)
    in_host = host is None or needed <= USED * host
    mode: Mode = asked if asked != "auto" else ("host" if device.type != "cpu" and in_host else "disk")
    if mode == "host" and not in_host:
        raise TrainingError(f"{needed / 1e9:.1f} GB of features do not fit into memory: use runtime.residency=disk")
    room = None if free is None else int(USED * free / (2 * each))  # one window in use, the next on its way
    most = max(window or 0, largest)
    if room is not None and most > room:
        raise TrainingError(
            f"two windows of {most} proposals need {2 * most * each / 1e9:.1f} GB on {device}: "
            + (
                "lower train.window"
                if most > largest
                else "its largest video is too long; use fewer local frames (train.heads.k)"
            )
        )
    return Residency(mode, window or room or largest, needed, free)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can be had on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:  # unlike sysconf's free pages, this counts the page cache, which gives way
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    available = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if available is None else int(available.split()[1]) * 1024
