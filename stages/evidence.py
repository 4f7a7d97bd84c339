"""evidence: the rows of `glpose.evidence`, trained and scored clip by clip, so that clips can be drawn again."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

import store
from glpose.data.dataset import joint_set, open_video
from glpose.data.truth import truth_of
from glpose.data.windows import SplitFeatures
from glpose.embeddings import table_embeddings
from glpose.evaluation import predict_poses
from glpose.evidence import EVERY_K, EVERY_N, ROWS, Row
from glpose.examples import Examples
from glpose.metrics.posetrack import Samples, pair_folders, score_video
from glpose.metrics.posetrack_files import read_video
from glpose.metrics.recall_by_tag import count_by_tag
from glpose.metrics.resampling import Measured
from glpose.options import IndexOptions
from glpose.references import References, references_of
from glpose.retrieval import make_gallery
from glpose.row_names import choose_names
from glpose.scoring import GROUND_TRUTH, PREDICTIONS, score_posetrack
from glpose.training import train_heads
from glpose.training_log import Progress
from stages import train
from stages.ablate import check_reach
from stages.config import PipelineConfig
from stages.evaluate import evaluated_videos, truth_digests
from stages.last_layer import last_layer
from stages.stage import Context, Stage, no_lines
from stages.train import Split, layer_digest, load_examples, load_split, split_digest
from store.errors import ConfigError
from store.folder import Attempt
from store.places import Place, local_file
from store.record import fingerprint
from store.tables import BOX

VERSION = 2  # the oracle goes by annotated people, whatever boxes are of
SAMPLES, ANNOTATED, COUNTS = "samples.parquet", "annotated.parquet", "counts.parquet"
HARD = "occluded"  # the tag whose recall is reported beside AP


@dataclass(frozen=True)
class Splits:
    """Both splits' features, with the references that `index` stored; the backbone's last layer, where rows need it."""

    train: Examples
    test: Split
    layer: nn.Conv2d | None


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """What changes the rows: the recipe that they share, and how they are scored; heatmaps are decoded by argmax."""
    return {"train": train.parameters(config), "score": config.eval.score, "joints": config.eval.joints}


def units(context: Context, everything: bool) -> list[str]:
    """Names of the rows that are asked for."""
    return asked_rows(context.config)


def asked_rows(config: PipelineConfig) -> list[str]:
    """Names of the rows that are asked for.

    ConfigError for a row that does not exist, that needs more than is stored, or references that are not of this index,
    and for options that rows are not trained or scored with, or that their names would belie.
    """
    base = config.train.heads
    if (base.k, base.n) != (EVERY_K, EVERY_N):
        raise ConfigError(
            f"rows of the evidence are of k = {EVERY_K} and n = {EVERY_N} where they do not say otherwise: leave "
            f"train.heads.k and n at that, not at {base.k} and {base.n}"
        )
    unused = {
        "train.augment": config.train.augment == "none",
        "train.validation": config.train.validation == 0,
        "eval.k": config.eval.k is None,
        "eval.n": config.eval.n is None,
        "eval.flip": not config.eval.flip,
        "eval.decode": config.eval.decode == "argmax",
        "eval.checkpoint": config.eval.checkpoint == "last",
    }
    if given := [name for name, is_default in unused.items() if not is_default]:
        raise ConfigError(f"rows of the evidence are trained and scored without {', '.join(given)}: leave the default")
    names = choose_names(list(ROWS), config.evidence.rows, "the evidence", "--rows")
    for name in names:
        row = ROWS[name]
        check_reach(f"row {name!r} of the evidence", row.head_options(base), row.index_options(config.index), config)
    return names


def inputs(context: Context, unit: str) -> str:
    """Digest of the features and references of both splits, of the annotations, and of what the row changes."""
    splits = [split_digest(context, name) for name in ("train", "eval")] + truth_digests(context)
    row = ROWS[unit]
    read_by = [layer_digest(context)] if _reads_layer(context.config, row) else []
    return fingerprint([splits, row.single, dict(row.heads), dict(row.index), *read_by])


def prepare(context: Context) -> Splits:
    """Load both splits once for all rows."""
    config = context.config
    rows = [ROWS[name] for name in asked_rows(config)]
    heads = [row.head_options(config.train.heads) for row in rows]
    layer = last_layer(config) if any(_reads_layer(config, row) for row in rows) else None
    test = load_split(context, "eval", k=max(own.k for own in heads), n=max(own.n for own in heads))
    return Splits(load_examples(context, heads), test, layer)


def make(context: Context, shared: Splits, unit: str, attempt: Attempt) -> str:
    """Train one row, predict, and write what its clips add to AP and to recall by tag."""
    config, row = context.config, ROWS[unit]
    heads, index = row.head_options(config.train.heads), row.index_options(config.index)

    def report(progress: Progress) -> None:
        context.within(str(progress), progress.done)

    examples, test = shared.train, shared.test
    if row.index:
        examples = replace(examples, fixed=row_references(context, examples.split, index, None, shared.layer))
        test = Split(test.features, row_references(context, test.features, index, test.references, shared.layer))
    trained = train_heads(examples, {unit: heads}, config.train, index, report, layer=shared.layer)[unit]
    batch_size = config.runtime.batch_size
    (poses,) = predict_poses(trained.model, test.features, test.references, config.eval.score, batch_size)
    videos = evaluated_videos(context, test, {unit: poses})
    with tempfile.TemporaryDirectory(prefix="glpose-") as folder:
        scores = score_posetrack(Path(folder), videos, config.eval.model_copy(update={"submission": False}))
        if scores.joints is None:
            raise ConfigError("the evidence needs annotations with tags (data.kind: rendered)")
        _write(attempt.path, Path(folder) / GROUND_TRUTH, Path(folder) / PREDICTIONS / unit, scores.joints)
    attempt.meta = {"ap": scores.mean[unit], "loss": trained.log[-1].loss}
    return f"AP {scores.mean[unit]:.2f}"


def read_measured(place: Place) -> tuple[list[str], Measured]:
    """What one row's unit has written: names of its clips, and what they add to AP and to recall of hidden joints."""
    tables = []
    for name in (SAMPLES, ANNOTATED, COUNTS):
        with local_file(place / name) as path:
            tables.append(pd.read_parquet(path))
    samples, annotated, counts = tables
    clips = annotated.index.tolist()
    own = dict(tuple(samples.groupby("video")))
    hidden = counts[counts["tag"] == HARD].set_index("video").reindex(clips, fill_value=0)
    nothing = samples.iloc[:0]
    return clips, Measured(
        tuple(_samples(own.get(clip, nothing), annotated.loc[clip].to_numpy()) for clip in clips),
        hidden["right_pck10"].to_numpy(),
        hidden["joints_all"].to_numpy(),
    )


def _samples(table: pd.DataFrame, n_gt: np.ndarray) -> Samples:
    columns = [table[name].to_numpy() for name in ("joint", "score", "correct")]
    return Samples(*columns, n_gt=n_gt, frames=0)


def row_references(
    context: Context, split: SplitFeatures, index: IndexOptions, stored: References | None, layer: nn.Conv2d | None
) -> References:
    """References of all proposals of a split, of an index with other options than the stored one; epoch 0's pools.

    The oracle goes by the annotated poses that boxes are of; a box of nobody keeps its `stored` references, so that
    having none does not give it away.
    """
    table = split.table
    if index.select == "oracle":
        table = _with_true_poses(context, table)
    embeddings = table_embeddings(store.open(context.config.work), table, index, layer)
    gallery = make_gallery(table, embeddings, index)
    found = references_of(gallery, split.spans, index, index.n)
    if stored is None or index.select != "oracle":
        return found
    nobodys, n = table["keypoints"].isna().to_numpy()[:, None], stored.rows.shape[1]
    return References(
        np.where(nobodys, stored.rows, found.rows[:, :n]),
        np.where(nobodys, stored.similarity, found.similarity[:, :n]),
    )


def _reads_layer(config: PipelineConfig, row: Row) -> bool:
    """Whether a row's heads read the backbone's last layer, or its references are seen with it."""
    return row.head_options(config.train.heads).reads_layer or row.index_options(config.index).embedding == "pose"


def _with_true_poses(context: Context, table: pd.DataFrame) -> pd.DataFrame:
    """The table with annotated poses in the place of those it has: None for a box that is nobody's."""
    poses: list[np.ndarray | None] = []
    for name, own in table.groupby("video", sort=False):
        video = open_video(context.video(str(name)))
        frame, boxes = own["frame"].to_numpy(), own[BOX].to_numpy(np.float64)
        truth = truth_of(frame, boxes, video.annotations, video.frames.size(), len(joint_set(context.config.data)))
        poses += [pose if (pose[:, 2] > 0).any() else None for pose in truth.keypoints]
    return table.assign(keypoints=pd.Series(poses, index=table.index, dtype=object))


def _write(out: Path, truth: Path, predicted: Path, joints: pd.DataFrame) -> None:
    samples, annotated = [], {}
    for gt, pred in pair_folders(truth, predicted)[0]:
        found, _ = score_video(read_video(gt), None if pred is None else read_video(pred))
        name = gt.name.removesuffix(".json")
        table = pd.DataFrame({"joint": found.joint, "score": found.score, "correct": found.correct})
        samples.append(table.assign(video=name))
        annotated[name] = found.n_gt
    pd.concat(samples, ignore_index=True).to_parquet(out / SAMPLES, index=False)
    table = pd.DataFrame.from_dict(annotated, orient="index")
    table.columns = table.columns.astype(str)
    table.to_parquet(out / ANNOTATED)
    count_by_tag(joints).to_parquet(out / COUNTS, index=False)


STAGE = Stage(
    name="evidence",
    version=VERSION,
    after=lambda config: ("extract", "index"),
    parameters=parameters,
    units=units,
    inputs=inputs,
    prepare=prepare,
    make=make,
    finish=no_lines,
)
