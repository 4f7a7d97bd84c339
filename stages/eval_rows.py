"""Rows of eval beside the trained variants: heads given as a file, and an HRNet's own heatmaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from glpose.data.dataset import joint_set, open_video
from glpose.evaluation import decodings, predict_poses
from glpose.models.checkpoints import (
    SHIPPED,
    load_heads,
    load_hrnet,
    read_head_options,
    read_metadata,
    resolve_checkpoint,
)
from glpose.models.glpose import GLPoseHeads
from glpose.options import HeadOptions, IndexOptions, index_problem
from glpose.runtime import choose_device
from glpose.single_frame import load_single_frame, predict_frames
from glpose.trained_on import check_joints
from stages.config import PipelineConfig
from stages.stage import Context, split_videos
from stages.train import Split
from store.errors import CheckpointError
from store.record import file_digest
from store.tables import BOX

HEADS, HRNET = "given_heads", "hrnet"
FILES = {"heads", "single_frame_hrnet"}  # options of eval that name files: in its record they are digests


def digests(config: PipelineConfig) -> dict[str, Any]:
    """For the record: digests of the files of the rows that are asked for. CheckpointError where one is not there."""
    named = {HEADS: config.eval.heads, HRNET: config.eval.single_frame_hrnet}
    return {row: file_digest(resolve_checkpoint(name)) for row, name in named.items() if name is not None}


def labels(config: PipelineConfig) -> dict[str, str]:
    """Row -> its name in tables, of those that are asked for. CheckpointError where eval.heads holds no heads."""
    found = {}
    if config.eval.heads is not None:
        heads = read_head_options(config.eval.heads)
        how = "fine-tuned GLPose" if "before" in read_metadata(config.eval.heads) else "given heads"
        how = config.eval.heads if config.eval.heads in SHIPPED else how
        found[HEADS] = f"{how} ({in_words(heads, config.index)})"
    if config.eval.single_frame_hrnet is not None:
        found[HRNET] = f"HRNet-W{load_hrnet(config.eval.single_frame_hrnet).width} alone"
    return found


def in_words(heads: HeadOptions, index: IndexOptions, *, k: int | None = None, n: int | None = None) -> str:
    """How many local frames and references heads see, and which, where they are not the paper's.

    k, n: fewer, that they are shown; None: as many as they were trained with.
    """
    words = [
        f"{name}={trained}" if fewer in (None, trained) else f"{name}={fewer} of {trained} trained"
        for name, fewer, trained in (("k", k, heads.k), ("n", n, heads.n))
    ]
    if heads.inputs == "key_copies":
        words.append("fed copies of the key frame")
    elif heads.n:
        words += [f"references: {index.select}"] if index.select != "most_similar" else []
        words += ["references by pose"] if index.embedding == "pose" else []
        words += ["references of earlier frames"] if index.causal and not heads.causal else []
    if heads.causal:
        words.append("causal")
    if heads.aligns:
        words.append(f"aligned by {heads.align}")
    if heads.prior != "none":
        words.append(f"prior: {heads.prior}")
    return ", ".join(words if heads.weighted else [*words, "no weights"])


def poses(context: Context, shared: Split) -> dict[str, np.ndarray]:
    """Row -> (P, J, 3) poses of all proposals of the evaluation split, of the rows that are asked for.

    CheckpointError for heads of another feature space, of other joints, of more frames or references than this
    pipeline's, or that its references are not for, and for an HRNet that does not predict the data's joints.
    """
    config, found = context.config, {}
    if config.eval.heads is not None:
        found[HEADS] = _of_heads(context, shared)
    if config.eval.single_frame_hrnet is not None:
        found[HRNET] = _of_hrnet(context, shared)
    return found


def heads_poses(context: Context, shared: Split, path: Path) -> np.ndarray:
    """(P, J, 3) poses of all proposals of a split by the heads in a file, which see all that they were trained with.

    CheckpointError for heads of another feature space, of other joints, or that this pipeline's references are not for.
    """
    return _predict(context, shared, path, load_heads(path, space=shared.features.schema.space))


def _of_heads(context: Context, shared: Split) -> np.ndarray:
    config = context.config
    assert config.eval.heads is not None
    model = load_heads(config.eval.heads, space=shared.features.schema.space)
    own, most = model.options, config.train.heads
    if own.k > most.k or own.n > most.n:
        raise CheckpointError(
            f"{config.eval.heads} needs k = {own.k}, n = {own.n}; train.heads here has k = {most.k}, n = {most.n}"
        )
    return _predict(context, shared, config.eval.heads, model)


def _predict(context: Context, shared: Split, path: str | Path, model: GLPoseHeads) -> np.ndarray:
    config = context.config
    check_joints(path, joint_set(config.data))
    if problem := index_problem(model.options, config.index):
        raise CheckpointError(f"{path}: {problem}")
    (found,) = predict_poses(
        model.to(choose_device(config.runtime)), shared.features, shared.references, config.eval.score,
        config.runtime.batch_size, ways=decodings(config.eval)[-1:], sigma=config.train.sigma,
        flip_order=joint_set(config.data).flip_order,
    )  # fmt: skip
    return found


def _of_hrnet(context: Context, shared: Split) -> np.ndarray:
    config, table = context.config, shared.features.table
    assert config.eval.single_frame_hrnet is not None
    network = load_single_frame(config.eval.single_frame_hrnet, joint_set(config.data), choose_device(config.runtime))
    out = np.zeros((len(table), len(network.channels), 3))
    for video in split_videos(context, "eval"):
        rows = (table["video"] == video).to_numpy()
        own = table.loc[rows]
        out[rows] = predict_frames(
            network, open_video(context.video(video)).frames, own["frame"].to_numpy(), own[BOX].to_numpy(),
            config.extract.crop_size, config.extract.crop_scale, config.runtime.batch_size,
        )  # fmt: skip
    if config.eval.score == "product":
        out[..., 2] *= table["score"].to_numpy()[:, None]
    return out
