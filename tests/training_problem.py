"""A small training problem held in memory: joints are spots in the channels of the features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy_reference as reference
import pandas as pd
import torch

from glpose.data.resident import Maps, ResidentFeatures
from glpose.data.windows import Mode, Residency, SplitFeatures, join
from glpose.examples import make_examples
from glpose.geometry import crop_frame, heatmap_to_frame
from glpose.keypoints import JointSet
from glpose.models.glpose import GLPoseHeads
from glpose.options import HeadOptions, IndexOptions, TrainOptions
from glpose.references import References, draw_references
from glpose.retrieval import make_gallery
from glpose.training import train_heads
from store.quantise import quantise
from store.schema import FeatureSchema

JOINT_SET = JointSet("three", ("left", "right", "top"), ((0, 1),), {}, (), ())
JOINTS, CHANNELS, GRID, CROP, K = 3, 4, (24, 18), (96, 72), 2
OFFSETS = (-2, -1, 1, 2)
BOXES = ["x1", "y1", "x2", "y2"]


def problem(videos: dict[str, int] | None = None, seed: int = 0) -> SplitFeatures:
    """Two people a frame whose joints are spots in the channels: easy to learn; dtype uint8 as in a real store."""
    rng = np.random.default_rng(seed)
    rows = [
        (video, 2 * frame + person, frame)
        for video, length in (videos or {"a": 4, "b": 6}).items()
        for frame in range(length)
        for person in range(2)
    ]
    count = len(rows)
    corner = rng.uniform(0, 100, (count, 2))
    boxes = np.concatenate([corner, corner + np.array([60.0, 100.0])], axis=1)
    regions = np.stack([crop_frame(box, CROP, 1.25) for box in boxes])
    xy = rng.integers([3, 3], [GRID[1] - 3, GRID[0] - 3], (count, JOINTS, 2)).astype(float)
    keypoints = np.concatenate([heatmap_to_frame(xy, regions, GRID), np.full((count, JOINTS, 1), 2.0)], axis=-1)
    maps = np.zeros((count, 1 + len(OFFSETS), CHANNELS, *GRID), np.float32)
    for row in range(count):
        maps[row, :, :JOINTS] = 3 * reference.targets(xy[row], np.ones(JOINTS), GRID, 6.0)
    maps += rng.uniform(0, 0.3, maps.shape)
    values, scale = (torch.from_numpy(part) for part in quantise(maps))
    table = pd.DataFrame(rows, columns=["video", "proposal", "frame"])
    table[BOXES] = boxes
    table["score"] = np.float32(rng.uniform(0.3, 1, count))
    table["keypoints"] = list(keypoints)
    held = ResidentFeatures(
        schema=FeatureSchema(
            channels=CHANNELS, height=GRID[0], width=GRID[1], stride=4, offsets=OFFSETS, backbone="test", space="test"
        ),
        offsets=OFFSETS,
        table=table,
        key=Maps(values[:, None, 0], scale[:, None, 0]),
        local=Maps(values[:, None, 1:], scale[:, None, 1:]),
        embedding=torch.from_numpy(maps[:, 0].mean(axis=(-2, -1))),
    )
    return SplitFeatures(
        schema=held.schema,
        offsets=OFFSETS,
        table=table,
        embedding=held.embedding.numpy(),
        regions=regions,
        device=torch.device("cpu"),
        residency=Residency("device", None, 0, None),
        held=held,
    )


def held(split: SplitFeatures) -> ResidentFeatures:
    """The features of a problem, which are all in memory."""
    assert split.held is not None
    return split.held


def in_windows(split: SplitFeatures, window: int, mode: Mode) -> SplitFeatures:
    """The same split in windows of at most so many proposals, all in memory or read one after the other."""

    def read(table: pd.DataFrame) -> ResidentFeatures:
        return join([held(split).span(*split.spans[str(video)], split.device) for video in table["video"].unique()])

    residency = Residency(mode, window, 0, None)
    return replace(split, residency=residency, held=None if mode == "disk" else split.held, read=read)


def with_keypoints(split: SplitFeatures, keypoints: list[Any]) -> SplitFeatures:
    """The same features, annotated otherwise."""
    table = split.table.copy()
    table["keypoints"] = pd.Series(keypoints, dtype=object)
    return replace(split, table=table)


INDEX = IndexOptions(n=2, pool=4, exclude_window=1)
HEADS = HeadOptions(k=K, n=2, init_std=0.05)


def nobody(split: SplitFeatures, n: int = 2) -> References:
    """No references at all."""
    return References(np.full((len(split), n), -1), np.full((len(split), n), -np.inf, np.float32))


def drawn(split: SplitFeatures, index: IndexOptions = INDEX, n: int = 2, epoch: int = 0) -> References:
    """References of all proposals, drawn for an epoch."""
    return draw_references(make_gallery(split.table, split.embedding, index), list(split.spans), index, n, epoch)


def options(**changes: Any) -> TrainOptions:
    """A short training's."""
    short = {"epochs": 2, "batch_size": 8, "lr": 0.01, "milestones": (), "sigma": 6.0}
    return TrainOptions.model_validate(short | changes)


def trained(
    split: SplitFeatures, heads: HeadOptions = HEADS, fixed: References | None = None, **changes: Any
) -> tuple[GLPoseHeads, list[float]]:
    """Heads trained on the split, and the loss of every epoch."""
    index = changes.pop("index", INDEX)
    own = options(**changes)
    examples = make_examples(split, fixed or nobody(split), JOINT_SET, own)
    result = train_heads(examples, {"only": heads}, own, index, report=lambda progress: None)["only"]
    assert not result.model.training
    return result.model, [line.loss for line in result.log]


def same(a: GLPoseHeads, b: GLPoseHeads) -> bool:
    """Whether all weights and statistics are equal, bit for bit."""
    states = a.state_dict(), b.state_dict()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
