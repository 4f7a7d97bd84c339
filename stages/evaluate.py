"""eval: poses of the evaluation split, scored by its data set's own protocol, with pictures to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glpose.data.dataset import VideoRef, inputs_digest, joint_set, open_video
from glpose.drawing import contact_sheet, draw_poses, write_image
from glpose.evaluation import Decoding, decodings, predict_poses
from glpose.film import write_film
from glpose.keypoints import JointSet
from glpose.models.checkpoints import load_heads
from glpose.models.glpose import GLPoseHeads
from glpose.options import EvalOptions
from glpose.runtime import choose_device
from glpose.scoring import EvaluatedVideo, Scores, score_oks, score_pck, score_posetrack, write_recall
from glpose.tables.recall import recall_text
from stages import eval_rows
from stages.config import PipelineConfig
from stages.detect import boxes_in_words
from stages.stage import Context, Stage, shown_output, split_videos
from stages.train import CHECKPOINTS, Split, load_split, split_digest, variants
from store.atomic import write_json
from store.errors import ConfigError
from store.folder import Attempt
from store.places import Place, local_file
from store.record import fingerprint, number_or_none

VERSION = 2
UNIT = "results"
DRAWN_SCORE = 0.1  # joints below this score are not drawn
SHEET_FRAMES = 4
PROBLEMS_SHOWN = 5
OVERLAY_FPS = 10  # slow enough to look at

Scorer = Callable[[Path, Sequence[EvaluatedVideo], EvalOptions], Scores]

# By data.kind: writes predictions and ground truth below a folder, and scores them.
SCORERS: dict[str, Scorer] = {
    "posetrack18": score_posetrack,
    "posetrack17": score_posetrack,
    "posetrack21": score_posetrack,
    "rendered": score_posetrack,
    "jhmdb": score_pck,
    "coco": score_oks,
}


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """All options, PCK's where it is computed, which variants stand in the table, and the joint set if it is a file."""
    unused = {"pck", *eval_rows.FILES} if scorer(config) is score_posetrack else eval_rows.FILES
    options = {**config.eval.model_dump(mode="json", exclude=unused), "variants": list(variants(config))}
    options |= eval_rows.digests(config)
    if config.data.kind == "coco":
        options["joint_set"] = fingerprint(asdict(joint_set(config.data)))
    return options


def inputs(context: Context, unit: str) -> str:
    """Digest of the trained heads, and of the evaluation split's features, references and annotations."""
    heads = [context.commit("train", name).digest for name in variants(context.config)]
    return fingerprint([heads, split_digest(context, "eval"), truth_digests(context)])


def prepare(context: Context) -> Split:
    """Load the evaluation split, with what the trained heads need of it."""
    heads = context.config.train.heads
    return load_split(context, "eval", k=heads.k, n=heads.n)


def make(context: Context, shared: Split, unit: str, attempt: Attempt) -> str:
    """Write ground truth, predictions of every variant, their scores, recall by tag if there are tags, and pictures."""
    config, out = context.config, attempt.path
    poses = {
        _named(name, way, config): found
        for name in variants(config)
        for way, found in zip(
            decodings(config.eval), predict(config, shared, context.output("train", name)), strict=True
        )
    }
    poses |= eval_rows.poses(context, shared)
    videos = evaluated_videos(context, shared, poses)
    scores = scorer(config)(out, videos, config.eval)
    write_json(out / "scores.json", scores.results)
    about = {
        "metric": scores.metric,
        "boxes": boxes_in_words(config),
        "joints": config.eval.joints,
        "videos": len(videos),
    }
    write_json(out / "context.json", about)
    table = _table(config, scores)
    if scores.joints is not None:
        recall = write_recall(out, scores.joints)
        table += "\n\n" + recall_text(recall, row_labels(config), boxes_in_words(config))
    (out / "table.txt").write_text(table + "\n")
    if config.eval.overlay:
        drawn = {variant: videos[0].poses[variant] for variant in variants(config)}
        _draw(out, replace(videos[0], poses=drawn), joint_set(config.data))
    attempt.meta = {"mean": {name: number_or_none(mean) for name, mean in scores.mean.items()}}
    return ""


def finish(context: Context) -> list[str]:
    """The table, and where everything is."""
    folder = shown_output(context, "eval", UNIT)
    table = (context.output("eval", UNIT) / "table.txt").read_text().rstrip()
    return [table, f"  predictions, scores and pictures in {folder}"]


def scorer(config: PipelineConfig) -> Scorer:
    """How this data set is scored. ConfigError where it is not annotated, or options do not go with its protocol."""
    if config.data.kind not in SCORERS:
        raise ConfigError(f"data of kind {config.data.kind!r} is not annotated: there is nothing to score against")
    chosen = SCORERS[config.data.kind]
    if config.eval.submission and chosen is not score_posetrack:
        raise ConfigError(f"eval.submission is for the PoseTrack server, not for data of kind {config.data.kind!r}")
    if chosen is score_oks and config.eval.joints == "visible":
        raise ConfigError("OKS counts every annotated joint: eval.joints visible is not for data of kind 'coco'")
    if chosen is score_oks and config.eval.pck.size != "box":
        raise ConfigError("data of kind 'coco' has no torso that all joint sets share: leave eval.pck.size at box")
    if config.eval.checkpoint == "best" and config.train.validation == 0:
        raise ConfigError("eval.checkpoint: best needs held-out videos to choose it on: train with train.validation")
    return chosen


def truth_digests(context: Context) -> list[str]:
    """Digest of the frames and annotations of each video of the evaluation split, taken once in a run."""

    def digests() -> list[str]:
        refs = [context.video(name) for name in split_videos(context, "eval")]
        return [inputs_digest(ref, open_video(ref)) for ref in refs]

    return context.once("eval truth", digests)


def predict(config: PipelineConfig, split: Split, trained: Place) -> list[np.ndarray]:
    """(P, J, 3) poses of all proposals of the split, by heads in a folder that training has filled.

    One for each of `decodings(config.eval)`: what was asked for is the last.
    """
    model = trained_heads(config, split, trained)
    return predict_poses(
        model, split.features, split.references, config.eval.score, config.runtime.batch_size,
        k=config.eval.k, n=config.eval.n, ways=decodings(config.eval), sigma=config.train.sigma,
        flip_order=joint_set(config.data).flip_order,
    )  # fmt: skip


def trained_heads(config: PipelineConfig, split: Split, trained: Place) -> GLPoseHeads:
    """The heads that are evaluated, of a folder that training has filled."""
    with local_file(trained / CHECKPOINTS[config.eval.checkpoint]) as checkpoint:
        return load_heads(checkpoint, space=split.features.schema.space).to(choose_device(config.runtime))


def _named(variant: str, way: Decoding, config: PipelineConfig) -> str:
    """The name of a variant's results: its own for the decoding that was asked for, else with the decoding's."""
    return variant if way == decodings(config.eval)[-1] else f"{variant}_{way.name}"


def evaluated_videos(
    context: Context, split: Split, poses: dict[str, np.ndarray], videos: Sequence[str] | None = None
) -> list[EvaluatedVideo]:
    """Videos of the evaluation split, all by default, each with its share of the poses of each variant, (P, J, 3)."""
    table, found = split.features.table, []
    for name in split_videos(context, "eval") if videos is None else videos:
        rows = (table["video"] == name).to_numpy()
        own = {variant: values[rows] for variant, values in poses.items()}
        found.append(evaluated_video(context, name, table.loc[rows], own))
    return found


def evaluated_video(context: Context, name: str, table: pd.DataFrame, poses: dict[str, np.ndarray]) -> EvaluatedVideo:
    """One video of the evaluation split with its proposals and the poses of each variant."""
    ref = context.video(name)
    video = open_video(ref)
    return EvaluatedVideo(ref, video, *_span(ref, len(video)), table, poses)


def _span(ref: VideoRef, length: int) -> tuple[int, int]:
    start, stop = ref.ranges["eval"]
    return start, length if stop is None else min(stop, length)


def variant_labels(config: PipelineConfig) -> dict[str, str]:
    """What tables call each variant."""
    prior = ", prior: key" if config.train.heads.prior != "none" else ""  # all frames there are
    return {"glpose": f"GLPose ({heads_in_words(config)})", "single_frame": f"single frame (k=0, n=0{prior})"}


def row_labels(config: PipelineConfig) -> dict[str, str]:
    """Rows of `scores.json`, in the order of the table -> what the table calls them."""
    labels, ways = variant_labels(config), decodings(config.eval)
    own = {
        _named(variant, way, config): labels[variant] + (f", {way.words}" if len(ways) > 1 else "")
        for variant in sorted(variants(config), reverse=True)
        for way in ways
    }
    return own | eval_rows.labels(config)


def _table(config: PipelineConfig, scores: Scores) -> str:
    labels = variant_labels(config)
    heading = (
        f"{scores.metric} on the eval split, percent; boxes: {boxes_in_words(config)}; joints: {config.eval.joints}"
    )
    ways, ordered = decodings(config.eval), sorted(variants(config), reverse=True)
    rows = scores.table(row_labels(config))
    notes = [_effect(config, variant, labels[variant], scores) for variant in ordered] if len(ways) > 1 else []
    notes += [f"note: {problem}" for problem in scores.problems[:PROBLEMS_SHOWN]]
    if len(scores.problems) > PROBLEMS_SHOWN:
        notes.append(f"note: {len(scores.problems) - PROBLEMS_SHOWN} more in scores.json")
    return "\n".join([heading, *([config.note] if config.note else []), rows, *notes])


def _effect(config: PipelineConfig, variant: str, label: str, scores: Scores) -> str:
    """What DARK and the flip test change, on the same heatmaps."""
    steps = [f"{scores.mean[_named(variant, way, config)]:.2f} {way.words}" for way in decodings(config.eval)]
    return f"{label}, {scores.metric}: {' -> '.join(steps)}"


def heads_in_words(config: PipelineConfig) -> str:
    """What the evaluated heads see, as a table says it."""
    return eval_rows.in_words(config.train.heads, config.index, k=config.eval.k, n=config.eval.n)


def _draw(out: Path, evaluated: EvaluatedVideo, joints: JointSet) -> None:
    """An overlay video of GLPose's poses on one video, and a sheet of a few frames of every variant."""
    source, span = evaluated.video.frames, (evaluated.start, evaluated.stop)
    frames, people = evaluated.table["frame"].to_numpy(), evaluated.table["person"].to_numpy()

    def drawn(picture: np.ndarray, frame: int, variant: str) -> np.ndarray:
        rows = frames == frame
        numbers = np.where(people[rows] >= 0, people[rows], np.arange(rows.sum()))
        return draw_poses(picture, evaluated.poses[variant][rows], numbers, joints, DRAWN_SCORE)

    chosen = np.unique(np.linspace(span[0], span[1] - 1, SHEET_FRAMES).round().astype(int)).tolist()
    pictures: dict[int, np.ndarray] = {}  # of the sheet, kept while the video goes by

    def overlaid() -> Iterator[np.ndarray]:
        for frame, picture in source.read(range(*span), unreadable={}):  # such frames show nobody: left out
            if frame in chosen:
                pictures[frame] = picture
            yield drawn(picture, frame, "glpose")

    write_film(out / "overlay.mp4", overlaid(), OVERLAY_FPS)
    if not pictures:  # none of them can be read
        return
    rows = [
        (
            f"{evaluated.ref.name}: {variant}, frames {', '.join(map(str, chosen))}",
            [drawn(pictures[f], f, variant) for f in chosen if f in pictures],
        )
        for variant in sorted(evaluated.poses, reverse=True)
    ]
    write_image(out / "contact_sheet.png", contact_sheet(rows, tile_width=480))


STAGE = Stage(
    name="eval",
    version=VERSION,
    after=lambda config: ("extract", "index", "train"),
    parameters=parameters,
    units=lambda context, everything: [UNIT],
    inputs=inputs,
    prepare=prepare,
    make=make,
    finish=finish,
)
