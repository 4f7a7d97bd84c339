"""Backbone features of one video's proposals: frames decoded once, crops computed once, all at the same time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glpose.ahead import ahead
from glpose.batch_limit import BatchLimit
from glpose.crops import cut_crops, normalise
from glpose.data.video import FrameSource
from glpose.geometry import MEAN, STD
from glpose.heatmaps import STRIDE
from glpose.models.checkpoints import feature_tensors, load_hrnet, tensors_digest
from glpose.models.hrnet import HRNet, fold_batch_norm
from glpose.options import ExtractOptions
from glpose.views import box_affines
from store.errors import DataError
from store.features import FeatureWriter
from store.record import fingerprint
from store.schema import FeatureSchema

VERSION = 1  # bump when the stored numbers change; part of the feature-space id


AHEAD = 2  # batches that wait between two steps of the work

Job = tuple[int, int, np.ndarray]  # a proposal, a view of it, and the slots of that view's maps that one crop fills


@dataclass(frozen=True)
class Backbone:
    """An HRNet ready to extract on one device. space: the feature-space id, see `load_backbone`.

    dtype: that the network computes in. limit: how large a batch the device has been found to hold.
    """

    net: HRNet
    name: str
    space: str
    device: torch.device
    dtype: torch.dtype = torch.float32
    limit: BatchLimit = field(default_factory=lambda: BatchLimit("crops", "runtime.batch_size"))


def load_backbone(options: ExtractOptions, device: torch.device) -> Backbone:
    """Load the checkpoint for extraction: eval mode, batch norms folded, channels-last.

    The feature-space id covers everything that features depend on but the images: tensors, cut, crop size and scale,
    normalisation, code version. Heads trained in one space do not fit another. Neither the network's precision nor that
    of the store is part of it: their errors are of one size (docs/method.md). CheckpointError where loading fails.
    """
    hrnet = load_hrnet(options.checkpoint, width=options.width)
    space = fingerprint(
        {
            "tensors": tensors_digest(feature_tensors(hrnet)),
            "cut": "stage3.branch0",
            "crop_size": list(options.crop_size),
            "crop_scale": options.crop_scale,
            "normalisation": [MEAN.tolist(), STD.tolist()],
            "version": VERSION,
        }
    )
    dtype = torch.bfloat16 if options.precision == "bfloat16" else torch.float32
    net = fold_batch_norm(hrnet).to(device, dtype)
    net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Backbone(net, f"hrnet_w{hrnet.width}", space, device, dtype)


def feature_schema(
    options: ExtractOptions, backbone: Backbone, views: int = 1, mirrored: int | None = None, *, causal: bool = False
) -> FeatureSchema:
    """How a video's features of this backbone are stored. views, mirrored: see `glpose.views.planned_views`.

    causal: of the local frames those before the key frame alone.
    """
    height, width = options.crop_size
    return FeatureSchema(
        channels=backbone.net.width,
        height=height // STRIDE,
        width=width // STRIDE,
        stride=STRIDE,
        offsets=local_offsets(options.k)[: options.k if causal else None],
        views=views,
        mirrored=mirrored,
        dtype=options.dtype,
        codec=options.codec,
        backbone=backbone.name,
        space=backbone.space,
    )


def local_offsets(k: int) -> tuple[int, ...]:
    """Offsets of the local frames: -k .. -1, 1 .. k."""
    return tuple(offset for offset in range(-k, k + 1) if offset)


def source_frames(frames: np.ndarray, length: int, k: int, edge: str, unreadable: Sequence[int] = ()) -> np.ndarray:
    """(P, 1 + 2k) frame that each map is cropped from: the key frame, then t + offset for every local offset.

    Past the clip's edge: the key frame again (`repeat_key`), or the clip's first or last frame (`clamp`). For an
    unreadable frame, the key frame.
    """
    wanted = frames[:, None] + np.array([0, *local_offsets(k)])
    if edge == "clamp":
        wanted = np.clip(wanted, 0, length - 1)
    there = (wanted >= 0) & (wanted < length) & ~np.isin(wanted, np.array(unreadable, np.int64))
    return np.where(there, wanted, frames[:, None])


def extract_video(
    video: str,
    source: FrameSource,
    frames: np.ndarray,
    boxes: np.ndarray,
    backbone: Backbone,
    options: ExtractOptions,
    batch_size: int,
    unreadable: Sequence[int] = (),
    affines: np.ndarray | None = None,
    *,
    causal: bool = False,
) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """Yield, proposal by proposal, key maps (V, C, H, W) and local maps (V, 2k, C, H, W), float32.

    causal: k local maps, of the frames before the key frame alone.

    frames: (P,) rising key frames. boxes: (P, 4) xyxy, frame px. affines: (P, V, 2, 3), frame px to crop px of every
    view; by default the clean crops of the boxes alone, V = 1. The same crop is cut from every local frame; for
    unreadable ones, which detection has passed over, the key frame stands. Reading, the network and the caller go on at
    the same time. Memory is bounded by the views of the proposals of 2k + 1 frames and a few batches. DataError where a
    frame cannot be read or a feature is not finite.
    """
    if affines is None:
        affines = box_affines(boxes, options.crop_size, options.crop_scale)[:, None]
    sources = source_frames(frames, len(source.names), options.k, options.edge, unreadable)
    sources = sources[:, : 1 + options.k] if causal else sources  # which come first
    views = affines.shape[1]
    maps: dict[int, np.ndarray] = {}  # proposal -> (V, 1 + 2k, C, H, W), until every slot is filled
    missing: dict[int, int] = {}
    done = 0
    batches = ahead(_batches(source, sources, affines, backbone.device, options, batch_size), AHEAD)
    with closing(ahead(_computed(backbone, batches), AHEAD)) as computed:
        for jobs, features in computed:
            for (proposal, view, slots), feature in zip(jobs, features, strict=True):
                if not np.isfinite((feature.min(), feature.max())).all():  # NaN is passed on
                    raise DataError(
                        f"video {video!r}: the features of proposal {proposal} are not finite; is the checkpoint sound?"
                    )
                if proposal not in maps:
                    maps[proposal] = np.empty((views, sources.shape[1], *feature.shape), np.float32)
                    missing[proposal] = views * sources.shape[1]
                maps[proposal][view, slots] = feature
                missing[proposal] -= len(slots)
            while missing.get(done) == 0:
                del missing[done]
                complete = maps.pop(done)
                yield complete[:, 0], complete[:, 1:]
                done += 1


def store_features(
    folder: Path,
    video: str,
    schema: FeatureSchema,
    affines: np.ndarray,
    maps: Generator[tuple[np.ndarray, np.ndarray]],
) -> Iterator[int]:
    """Write the features that `extract_video` yields below a folder, and yield the number of each written proposal.

    schema: from `feature_schema`. affines: (P, V, 2, 3), as `extract_video` took them. The features are whole when the
    iterator has ended. DataError for features that the schema's dtype cannot hold.
    """
    with closing(maps), FeatureWriter(folder, schema, len(affines)) as writer:
        for proposal, (key, local) in enumerate(maps):
            try:
                writer.append(key, local, affines[proposal])
            except ValueError as error:
                raise DataError(f"video {video!r}, proposal {proposal}: {error}") from None
            yield proposal


def _batches(
    source: FrameSource,
    sources: np.ndarray,
    affines: np.ndarray,
    device: torch.device,
    options: ExtractOptions,
    batch_size: int,
) -> Iterator[tuple[list[Job], list[Tensor]]]:
    """Batches of jobs and their crops (h, w, 3) uint8 BGR on the device, frame by frame."""
    proposals_at = defaultdict(list)
    for proposal, row in enumerate(sources):
        for frame in np.unique(row):
            proposals_at[int(frame)].append(proposal)
    jobs: list[Job] = []
    crops: list[Tensor] = []
    for frame, image in source.read(proposals_at):
        own = [(proposal, view) for proposal in proposals_at[frame] for view in range(affines.shape[1])]
        jobs += [(proposal, view, np.flatnonzero(sources[proposal] == frame)) for proposal, view in own]
        crops += cut_crops(image, [affines[job] for job in own], options.crop_size, device)
        while len(jobs) >= batch_size:
            yield jobs[:batch_size], crops[:batch_size]
            jobs, crops = jobs[batch_size:], crops[batch_size:]
    if jobs:
        yield jobs, crops


def _computed(
    backbone: Backbone, batches: Generator[tuple[list[Job], list[Tensor]]]
) -> Iterator[tuple[list[Job], list[np.ndarray]]]:
    """Features (C, H, W) float32 of every job's crop."""
    torch.set_num_threads(torch.get_num_threads())  # OpenMP's number of threads is each thread's own
    with closing(batches):
        for jobs, crops in batches:
            yield jobs, backbone.limit.run(lambda part: _features(backbone, part), crops)


def _features(backbone: Backbone, crops: Sequence[Tensor]) -> list[np.ndarray]:
    with torch.inference_mode():
        images = normalise(torch.stack(list(crops))).to(backbone.dtype)
        return list(backbone.net.features(images).float().contiguous().cpu().numpy())
