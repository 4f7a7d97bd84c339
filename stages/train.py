"""train: the heads, on stored features of the training split."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

import store
from glpose.data.dataset import joint_set
from glpose.data.resident import positions_within
from glpose.data.windows import SplitFeatures, open_split
from glpose.embeddings import table_embeddings
from glpose.examples import Examples, make_examples
from glpose.models.checkpoints import save_checkpoint, tensors_digest
from glpose.models.glpose import single_frame
from glpose.options import HeadOptions, redraws
from glpose.ranks import Ranks, join_ranks
from glpose.references import References, stored_references
from glpose.runtime import choose_device
from glpose.trained_on import describe
from glpose.training import Trained, train_heads, training_recipe
from glpose.training_log import EpochLog, Progress
from glpose.training_state import load_state
from stages.config import PipelineConfig
from stages.curves import Curves
from stages.last_layer import heads_layer, last_layer, pose_layer
from stages.stage import Context, Stage, shown_output, split_videos
from store.errors import ConfigError, TrainingError
from store.folder import Attempt
from store.places import Place
from store.record import fingerprint

VERSION = 2
CHECKPOINTS = {"last": "heads.safetensors", "best": "best.safetensors"}  # by eval.checkpoint
LOG = "log.csv"


@dataclass(frozen=True)
class Split:
    """One split's features, with its stored references."""

    features: SplitFeatures
    references: References


@dataclass(frozen=True)
class Training:
    """What all variants are trained on: this process's share of the examples, and the held-out ones.

    layer: the backbone's own, where heads read it.
    """

    examples: Examples
    held_out: Examples | None
    ranks: Ranks
    layer: nn.Conv2d | None


def variants(config: PipelineConfig) -> dict[str, HeadOptions]:
    """The heads that are trained: GLPose, and beside it the single-frame row."""
    heads = {"glpose": config.train.heads}
    return {**heads, "single_frame": single_frame(config.train.heads)} if config.train.single_frame else heads


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """All options but whether the single-frame row is trained too; what is read of joints that are the user's own."""
    options = config.train.model_dump(mode="json", exclude={"single_frame"})
    for later in ("prior", "align"):  # as in records from before there were such heads
        if options["heads"][later] == "none":
            del options["heads"][later]
    if config.data.kind != "coco":
        return options
    own = joint_set(config.data)
    mirrored = {} if config.train.augment == "none" else {"flip_pairs": own.flip_pairs}
    return {**options, "joint_names": own.joints, **mirrored}


def inputs(context: Context, unit: str) -> str:
    """Digest of the features and references of all videos of the training split, and of the layer that heads read."""
    digest, start = split_digest(context, "train"), heads_digest(context, context.config.train.heads)
    return digest if start is None else fingerprint([digest, start])


def heads_digest(context: Context, heads: HeadOptions) -> str | None:
    """Digest of the backbone's last layer; None where these heads do not read it."""
    return layer_digest(context) if heads.reads_layer else None


def layer_digest(context: Context) -> str:
    """Digest of the backbone's last layer."""
    return context.once("layer", lambda: tensors_digest(last_layer(context.config).state_dict()))


def split_digest(context: Context, split: str, videos: Sequence[str] | None = None) -> str:
    """Digest of what extract and index have made of a split's videos, by default of all.

    A run looks once at what they have made of a video, and before it loads that: a digest never names what another run
    has made anew meanwhile.
    """

    def made(video: str) -> list[str]:
        return [video, context.commit("extract", video).digest, context.commit("index", video).digest]

    names = split_videos(context, split) if videos is None else videos
    return fingerprint([context.once(f"features of {video}", partial(made, video)) for video in names])


def load_split(context: Context, split: str, videos: Sequence[str] | None = None, *, k: int, n: int) -> Split:
    """Bring what heads of k and n need of a split's videos (all by default) to where they can use it.

    Heads and scores are of whole splits, whatever --videos says. TrainingError if no video has frames in it,
    NotCommitted where one has no features or no index, or the index is of other features, StoreError where mirrored
    views are needed and not stored.
    """
    config = context.config
    videos = split_videos(context, split) if videos is None else videos
    if not videos:
        raise TrainingError(f"no video has frames in the {split} split: look at data.{split}")
    split_digest(context, split, videos)  # what is missing is told before anything is read
    stored = store.open(config.work)
    features = open_split(
        stored, split, k, config.extract.crop_size, config.extract.crop_scale, choose_device(config.runtime),
        videos=videos, asked=config.runtime.residency, window=config.train.window,
        views=config.extract.views if split == "train" and config.train.augment == "views" else 1,
        mirrored=split == "eval" and config.eval.flip,
    )  # fmt: skip
    context.tell(f"  {split}: {len(features)} proposals of {len(videos)} videos, {features.residency}")
    return Split(features, stored_references(features.table, stored.neighbours(videos), n))


def with_embeddings(context: Context, features: SplitFeatures) -> SplitFeatures:
    """The same, with what its people are compared by: where that is their poses, read from all key maps."""
    if (layer := pose_layer(context.config)) is None:
        return features
    opened = store.open(context.config.work)
    return replace(features, embedding=table_embeddings(opened, features.table, context.config.index, layer))


def prepare(context: Context) -> Training:
    """Load the training split, or under torchrun this process's share of it, once for all variants."""
    return load_training(context, list(variants(context.config).values()))


def load_training(context: Context, heads: Sequence[HeadOptions]) -> Training:
    """What these heads are trained on, of the videos of the training split that are not held out."""
    config, ranks = context.config, join_ranks()
    videos = split_videos(context, "train")
    chosen = held_out_videos(videos, config.train.validation, config.train.seed)
    if config.index.scope == "dataset" and (chosen or ranks.count > 1):
        raise ConfigError(
            "with index.scope: dataset references are of any video, so that all must be in one process and none can "
            "be held out: leave train.validation at 0 and train without torchrun"
        )
    own = [video for video in videos if video not in chosen]
    if ranks.count > 1:
        own = ranks.share({video: context.commit("extract", video).meta["proposals"] for video in own})
        if not own:
            raise ConfigError(f"{ranks.count} processes have fewer training videos than that: start fewer")
    held_out = load_examples(context, heads, chosen) if chosen else None
    return Training(load_examples(context, heads, own), held_out, ranks, heads_layer(config, heads))


def load_examples(context: Context, heads: Sequence[HeadOptions], videos: Sequence[str] | None = None) -> Examples:
    """What these heads need of videos of the training split (all by default), with truth and stored references."""
    config = context.config
    split = load_split(context, "train", videos, k=max(own.k for own in heads), n=max(own.n for own in heads))
    features = with_embeddings(context, split.features) if redraws(config.train, config.index) else split.features
    return make_examples(features, split.references, joint_set(config.data), config.train)


def held_out_videos(videos: Sequence[str], share: float, seed: int) -> list[str]:
    """Training videos that the best epoch is chosen on: about this share of them, at least one unless it is 0.

    ConfigError where none would be left to train on.
    """
    if share == 0:
        return []
    count = max(1, round(share * len(videos)))
    if count >= len(videos):
        raise ConfigError(f"train.validation = {share} leaves none of {len(videos)} training videos to train on")
    drawn = sorted(videos, key=lambda video: fingerprint([seed, video]))
    return sorted(drawn[:count])


def make(context: Context, shared: Training, unit: str, attempt: Attempt) -> str:
    """Train one variant's heads; write their checkpoints and a line for every epoch."""
    units = {unit: variants(context.config)[unit]}
    return write_heads(context, shared, train_units(context, shared, "train", units)[unit], attempt)


def train_units(context: Context, shared: Training, stage: str, units: dict[str, HeadOptions]) -> dict[str, Trained]:
    """Train heads of some units of a stage in one pass over the features, going on from where one was interrupted."""
    shared.ranks.from_first(list(units))
    config, state = context.config, context.folder(stage).state_path(next(iter(units)))
    with Curves(context, stage, list(units) if shared.ranks.number == 0 else []) as curves:

        def report(progress: Progress) -> None:
            curves.add(progress)
            context.within(str(progress), progress.done)

        try:
            trained = train_heads(
                shared.examples, units, config.train, config.index, report,
                layer=shared.layer, held_out=shared.held_out, state=state, ranks=shared.ranks,
            )  # fmt: skip
        except TrainingError as error:
            kept = "" if state is None or shared.ranks.number else _keep_last_good(config, shared, units, state)
            raise TrainingError(f"{error}{kept}") from None
    if state is not None and shared.ranks.number == 0:
        state.unlink(missing_ok=True)
    return trained


def chosen_checkpoint(context: Context, variant: str) -> Place:
    """File of a variant's heads after the epoch that `eval.checkpoint` names. ConfigError where there is no best one.

    NotCommitted where they are not trained.
    """
    path = context.output("train", variant) / CHECKPOINTS[context.config.eval.checkpoint]
    if not path.exists():
        raise ConfigError("eval.checkpoint: best is not there: heads were trained without held-out videos")
    return path


def write_heads(context: Context, shared: Training, trained: Trained, attempt: Attempt) -> str:
    """Write one variant's checkpoints and its log; what to tell of it."""
    model, examples = trained.model, shared.examples
    metadata = heads_metadata(context.config, shared, model.options, model.offsets)
    save_checkpoint(attempt.path / CHECKPOINTS["last"], model.state_dict(), metadata)
    if trained.best is not None:
        save_checkpoint(attempt.path / CHECKPOINTS["best"], trained.best, metadata)
    with open(attempt.path / LOG, "w", newline="") as file:
        writer = csv.DictWriter(file, [own.name for own in fields(EpochLog)])
        writer.writeheader()
        writer.writerows(asdict(line) for line in trained.log)
    last, parameters = trained.log[-1], sum(p.numel() for p in model.parameters())
    attempt.meta = {"loss": last.loss, "proposals": len(examples.split), "parameters": parameters}
    if examples.split.residency.window is not None:
        attempt.meta["window"] = examples.split.residency.window
    best = "" if trained.best is None else f", best on held-out videos after epoch {trained.best_epoch}"
    size = f"{len(examples.split)} proposals, {parameters:,} parameters"
    return f"{size}, {last.epoch} epochs, last loss {last.loss:.3g}, PCK {last.pck:.1f}{best}"


def heads_metadata(
    config: PipelineConfig, shared: Training, heads: HeadOptions, offsets: Sequence[int]
) -> dict[str, str]:
    """What a checkpoint says of its heads, of the features and references that they read, and of their joints."""
    schema, joints = shared.examples.split.schema, shared.examples.joints
    return {
        "heads": heads.model_dump_json(),
        "channels": str(schema.channels),
        "offsets": json.dumps(list(offsets)),
        "joints": joints.name,
        "num_joints": str(len(joints)),
        "backbone": schema.backbone,
        "space": schema.space,
        **describe(config.extract, config.index, joints),
    }


def _keep_last_good(config: PipelineConfig, shared: Training, units: Mapping[str, HeadOptions], state: Path) -> str:
    """Write the weights after the last epoch that went well as checkpoints in the state's place; words on where.

    The state itself would only lead to the same loss again.
    """
    recipe = training_recipe(
        shared.examples, shared.held_out, units, config.train, config.index, shared.layer, shared.ranks
    )
    epoch, parts = load_state(state, recipe)
    if not parts:
        return ""
    offsets = shared.examples.split.offsets
    for unit, heads in units.items():
        own = [offsets[position] for position in positions_within(offsets, heads.k, heads.causal)]
        path = state.with_name(f"{unit}-epoch-{epoch}.safetensors")
        save_checkpoint(path, parts[unit]["model"], heads_metadata(config, shared, heads, own))
    state.unlink()
    return f"; the weights after epoch {epoch} are in {state.parent}"


def follow(context: Context) -> None:
    """What all processes of torchrun but the first do: train with it whatever it trains, and write nothing."""
    ranks, shared = join_ranks(), None
    while units := ranks.from_first(None):
        shared = shared or prepare(context)
        own = {unit: variants(context.config)[unit] for unit in units}
        train_heads(
            shared.examples, own, context.config.train, context.config.index, lambda progress: None,
            layer=shared.layer, held_out=shared.held_out,
            state=context.folder("train").state_path(next(iter(own))), ranks=ranks,
        )  # fmt: skip


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
