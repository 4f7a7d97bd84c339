"""train: the heads, on stored features of the training split held on the device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import store
from glpose.data.dataset import joint_set
from glpose.data.resident import ResidentFeatures, load_resident
from glpose.keypoints import JointSet
from glpose.models.checkpoints import save_checkpoint
from glpose.models.glpose import GLPoseHeads, single_frame
from glpose.options import HeadOptions
from glpose.training import References, stored_references, train_heads
from stages.config import PipelineConfig
from stages.runtime import choose_device
from stages.stage import Context, Stage, shown_output, split_videos
from store.errors import TrainingError
from store.folder import Attempt
from store.record import fingerprint

VERSION = 1
CHECKPOINT = "heads.safetensors"


@dataclass(frozen=True)
class Split:
    """One split on the device, with its stored references."""

    features: ResidentFeatures
    references: References


def variants(config: PipelineConfig) -> dict[str, HeadOptions]:
    """The heads that are trained: GLPose, and beside it the single-frame row."""
    heads = {"glpose": config.train.heads}
    return {**heads, "single_frame": single_frame(config.train.heads)} if config.train.single_frame else heads


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """All options but whether the single-frame row is trained too; the joints where they are the user's own."""
    options = config.train.model_dump(mode="json", exclude={"single_frame"})
    return {**options, "joint_names": joint_set(config.data).joints} if config.data.kind == "coco" else options


def inputs(context: Context, unit: str) -> str:
    """Digest of the features and references of all videos of the training split."""
    return split_digest(context, "train")


def split_digest(context: Context, split: str) -> str:
    """Digest of what extract and index have made of a split's videos."""
    videos = split_videos(context, split)
    return fingerprint([[v, context.commit("extract", v).digest, context.commit("index", v).digest] for v in videos])


def load_split(context: Context, split: str) -> Split:
    """Load what heads need of a split to the device, its references of whatever video of it among them.

    Heads and scores are of whole splits, whatever --videos says. TrainingError if no video has frames in it,
    NotCommitted where one has no features or no index, or the index is of other features.
    """
    config = context.config
    videos = split_videos(context, split)
    if not videos:
        raise TrainingError(f"no video has frames in the {split} split: look at data.{split}")
    for video in videos:
        context.commit("index", video)  # what is missing is told before anything is read
    extract, heads = config.extract, config.train.heads
    device = choose_device(config.runtime)
    stored = store.open(config.work)
    neighbours = stored.neighbours(videos)
    features = load_resident(stored, split, heads.k, extract.crop_size, extract.crop_scale, device, videos)
    return Split(features, stored_references(features, neighbours, heads.n))


def prepare(context: Context) -> Split:
    """Load the training split, once for all variants."""
    return load_split(context, "train")


def make(context: Context, shared: Split, unit: str, attempt: Attempt) -> str:
    """Train one variant's heads and write their checkpoint and the loss of every epoch."""
    config, heads, joints = context.config, variants(context.config)[unit], joint_set(context.config.data)
    losses: list[float] = []
    model = train_heads(
        shared.features, shared.references, len(joints), heads, config.train, config.index,
        report=lambda epoch, epochs, loss: losses.append(loss),
    )  # fmt: skip
    return write_heads(attempt, model, losses, shared.features, joints)


def write_heads(
    attempt: Attempt, model: GLPoseHeads, losses: list[float], features: ResidentFeatures, joints: JointSet
) -> str:
    """Write trained heads and the loss of every epoch; returns one line about them."""
    metadata = {
        "heads": model.options.model_dump_json(),
        "channels": str(features.schema.channels),
        "offsets": json.dumps(model.offsets),
        "joints": joints.name,
        "num_joints": str(len(joints)),
        "backbone": features.schema.backbone,
        "space": features.schema.space,
    }
    save_checkpoint(attempt.path / CHECKPOINT, model.state_dict(), metadata)
    (attempt.path / "losses.json").write_text(json.dumps(losses) + "\n")
    parameters = sum(p.numel() for p in model.parameters())
    attempt.meta = {"loss": losses[-1], "proposals": len(features), "parameters": parameters}
    size = f"{len(features)} proposals, {parameters:,} parameters"
    return f"{size}, {len(losses)} epochs, last loss {losses[-1]:.3g}"


STAGE = Stage(
    name="train",
    version=VERSION,
    after=lambda config: ("extract", "index"),
    parameters=parameters,
    units=lambda context, everything: list(variants(context.config)),
    inputs=inputs,
    prepare=prepare,
    make=make,
    finish=lambda context: [f"  heads in {shown_output(context, 'train')}"],
)
