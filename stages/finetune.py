"""finetune: the backbone reopened; writes a folder with a new backbone, and the heads that belong to its features."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
from rich.console import Console

import store
from glpose.data.dataset import joint_set
from glpose.embeddings import table_embeddings
from glpose.extraction import load_backbone
from glpose.finetuning import finetune as train_network
from glpose.finetuning import load_trainable
from glpose.finetuning_crops import CropSplit
from glpose.keypoints import least_flag
from glpose.models.checkpoints import feature_tensors, load_heads, read_metadata, save_checkpoint
from glpose.models.glpose import GLPoseHeads
from glpose.models.hrnet import HRNet
from glpose.retrieval import make_gallery
from glpose.runtime import choose_device, workers_taken
from stages.config import PipelineConfig
from stages.console import say, training_bar
from stages.crops import open_crops, train_proposals
from stages.run import STAGES, check_owner, expected_record, survey
from stages.stage import Context, split_videos
from stages.train import chosen_checkpoint
from store.errors import ConfigError, NotCommitted, RecordMismatch, StoreError, TrainingError
from store.places import local_file
from store.record import difference

VARIANT = "glpose"
BACKBONE, HEADS, STATE = "backbone.safetensors", "heads.safetensors", "training.state"


def finetune(context: Context, out: Path, console: Console) -> Path:
    """Train on and write both checkpoints into the folder `out`, which it returns. StoreError if they are there.

    Meanwhile `out` holds the training's state: an interrupted one goes on from there. NotCommitted where crops,
    features or heads are missing, RecordMismatch where they were made with other parameters, ConfigError where people
    are compared by poses, or `eval.checkpoint` names heads that are not there.
    """
    if (out / HEADS).exists() or ((out / BACKBONE).exists() and not (out / STATE).exists()):  # heads come last
        raise StoreError(f"{out} holds fine-tuned weights already: name another folder with --out, or delete it")
    check_owner(context)
    config = context.config
    if config.index.embedding == "pose":
        raise ConfigError(
            "a fine-tuned backbone has no last layer to see poses with: fine-tune with index.embedding=pooled"
        )
    _check_made(context)
    device = choose_device(config.runtime)
    space = load_backbone(config.extract, device).space
    with local_file(chosen_checkpoint(context, VARIANT)) as checkpoint:
        heads, metadata = load_heads(checkpoint, space=space), read_metadata(checkpoint)
    net, split = load_trainable(config.extract.checkpoint, config.extract.width), load_split(context)
    count = len(split.annotated(least_flag(config.train.joints)))
    crops = 1 + len(heads.offsets) + heads.options.n
    say(console, f"finetune: {count} annotated proposals of {len(split.files)} videos, {crops} crops each, on {device}")
    began = time.monotonic()
    with training_bar(console, "finetune") as told:
        seen: list[int] = []

        def report(step: int, steps: int, loss: float) -> None:
            seen.append(step)
            speed = len(seen) * config.finetune.batch_size / (time.monotonic() - began)
            told(step, steps, f"loss {loss:.4g}, {speed:.3g} samples/s")

        train_network(
            split, net, heads, config.finetune, config.train, config.index, device, workers_taken(config.runtime),
            report, out / STATE,
        )  # fmt: skip
    _write(config, out, net, heads, metadata)
    (out / STATE).unlink(missing_ok=True)
    for line in _next_steps(config, out):
        say(console, line)
    return out


def _write(config: PipelineConfig, out: Path, net: HRNet, heads: GLPoseHeads, metadata: dict[str, str]) -> None:
    """Write both checkpoints; heads last, which name the space of the backbone's features."""
    recipe = {"recipe": config.finetune.model_dump_json(), "before": metadata["space"]}
    save_checkpoint(out / BACKBONE, feature_tensors(net), recipe)
    extract = config.extract.model_copy(update={"checkpoint": str(out / BACKBONE)})
    space = load_backbone(extract, choose_device(config.runtime)).space
    save_checkpoint(out / HEADS, heads.state_dict(), {**metadata, **recipe, "space": space})


def _next_steps(config: PipelineConfig, out: Path) -> list[str]:
    heads = config.train.heads
    without = [f"--set train.heads.{name}=none" for name in ("prior", "align") if getattr(heads, name) != "none"]
    settings = [
        f"--set extract.checkpoint={out / BACKBONE}", f"--set eval.heads={out / HEADS}", *without,
        f"--set work={config.work}-finetuned",
    ]  # fmt: skip
    return [
        f"{out}: {BACKBONE} and {HEADS}, which reads its features; stored features are of the backbone before. Next:",
        f"  glpose-stage run -p {config.name} {' '.join(settings)}",
    ]


def _check_made(context: Context) -> None:
    """Crops, features, references and heads must be there, of these options. The error says what to run."""
    name = context.config.name
    commands = {
        "crops": f"glpose-stage extract -p {name} --crops",
        "train": f"glpose-stage run -p {name}",
    }
    for stage, command in commands.items():
        record = context.folder(stage).record_in_force()
        if record is None:
            what = {"crops": "no crops are stored yet", "train": "no heads are trained yet"}[stage]
            raise NotCommitted(f"finetune: {what}; run {command}")
        if changes := difference(record, expected_record(STAGES[stage], context.config)):
            raise RecordMismatch(
                f"finetune needs {stage} as configured, but it was run with other parameters:\n  "
                + "\n  ".join(changes)
                + f"\nrun {command} --force first"
            )
        found = survey(STAGES[stage], context, look=False)
        if left := [*found.todo, *found.broken]:
            raise NotCommitted(f"finetune: {stage} is not finished ({len(left)} to do); run {command}")


def load_split(context: Context) -> CropSplit:
    """Proposals, crops and stored embeddings of the whole train split."""
    config = context.config
    videos = split_videos(context, "train")
    table = pd.concat([train_proposals(context, video) for video in videos], ignore_index=True)
    if table.empty:
        raise TrainingError("the train split has no proposals: there is nothing to fine-tune on")
    stored = store.open(config.work)
    held = table["video"].value_counts()
    gallery = make_gallery(table, table_embeddings(stored, table, config.index), config.index)
    files = {video: open_crops(context, video) for video in videos}
    for video, file in files.items():
        if len(file) != (expected := held.get(video, 0)):
            raise StoreError(f"the crops of {video!r} are of {len(file)} proposals, not {expected}: make them anew")
    return CropSplit(table, files, gallery, joint_set(config.data), config.extract)
