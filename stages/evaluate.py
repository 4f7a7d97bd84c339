"""eval: poses of the evaluation split, scored as PoseTrack does, with pictures to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glpose.data import predictions
from glpose.data.dataset import VideoRef, ground_truth, open_video
from glpose.drawing import contact_sheet, draw_poses, write_image, write_video
from glpose.evaluation import predict_poses
from glpose.keypoints import POSETRACK
from glpose.metrics.posetrack import PoseTrackResult, evaluate, format_table
from glpose.models.checkpoints import load_heads
from stages.config import PipelineConfig
from stages.detect import box_sources
from stages.runtime import choose_device
from stages.stage import Context, Stage
from stages.train import CHECKPOINT, Split, load_split, split_digest, split_videos, variants
from store.folder import Attempt
from store.record import fingerprint
from store.tables import BOX

VERSION = 1
UNIT = "results"
DRAWN_SCORE = 0.1  # joints below this score are not drawn
SHEET_FRAMES = 4


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """All options, and which variants stand in the table."""
    return {**config.eval.model_dump(mode="json"), "variants": list(variants(config))}


def inputs(context: Context, unit: str) -> str:
    """Digest of the trained heads and of the features and references of the evaluation split."""
    heads = [context.commit("train", name).digest for name in variants(context.config)]
    return fingerprint([heads, split_digest(context, "eval")])


def make(context: Context, shared: Split, unit: str, attempt: Attempt) -> str:
    """Write ground truth, predictions of every variant, their scores, and the pictures."""
    options, out = context.config.eval, attempt.path
    refs = [context.video(name) for name in split_videos(context, "eval")]
    spans = {ref.name: _span(ref) for ref in refs}
    truth = {ref.name: ground_truth(ref, *spans[ref.name]) for ref in refs}
    for name, content in truth.items():
        _write(out / "ground_truth" / f"{name}.json", content)

    device, table = choose_device(context.config.runtime), shared.features.table
    results: dict[str, PoseTrackResult] = {}
    poses: dict[str, np.ndarray] = {}
    for variant in variants(context.config):
        checkpoint = context.output("train", variant) / CHECKPOINT
        model = load_heads(checkpoint, space=shared.features.schema.space).to(device)
        features = shared.features.nearer(model.options.k)
        poses[variant] = predict_poses(
            model, features, shared.references, options.score, context.config.runtime.batch_size
        )
        for ref in refs:
            rows = (table["video"] == ref.name).to_numpy()
            content = _prediction(ref, spans[ref.name], truth[ref.name], table.loc[rows], poses[variant][rows])
            _write(out / "predictions" / variant / f"{ref.name}.json", content)
        results[variant] = evaluate(out / "ground_truth", out / "predictions" / variant, joints=options.joints)
    _write(out / "scores.json", {name: result.as_json() for name, result in results.items()})
    _write(out / "context.json", {"boxes": box_sources(context.config), "joints": options.joints, "videos": len(refs)})
    (out / "table.txt").write_text(_table(context.config, results) + "\n")
    if options.overlay:
        _draw(out, refs[0], spans[refs[0].name], table, poses)
    attempt.meta = {"mean": {name: _finite(result.mean) for name, result in results.items()}}
    return ""


def finish(context: Context) -> list[str]:
    """The table, and where everything is."""
    folder = context.config.work / "eval" / "latest" / UNIT
    table = (context.output("eval", UNIT) / "table.txt").read_text().rstrip()
    return [table, f"  predictions, scores and pictures in {folder}"]


def _table(config: PipelineConfig, results: dict[str, PoseTrackResult]) -> str:
    heads = config.train.heads
    labels = {"glpose": f"GLPose (k={heads.k}, n={heads.n})", "single_frame": "single frame (k=0, n=0)"}
    rows = {labels[name]: results[name] for name in sorted(results, reverse=True)}
    lines = [f"AP on the eval split, percent; boxes: {box_sources(config)}; joints: {config.eval.joints}"]
    if config.note:
        lines.append(config.note)
    return "\n".join([*lines, format_table(rows, details=True)])


def _span(ref: VideoRef) -> tuple[int, int]:
    start, stop = ref.ranges["eval"]
    length = len(open_video(ref).frames.names)
    return start, length if stop is None else min(stop, length)


def _prediction(
    ref: VideoRef, span: tuple[int, int], truth: dict[str, Any], table: pd.DataFrame, poses: np.ndarray
) -> dict[str, Any]:
    """A prediction file of the video's format, over the frames of the span."""
    frame, boxes = table["frame"].to_numpy() - span[0], table[BOX].to_numpy()
    if ref.format == "posetrack17":
        names = [entry["image"][0]["name"] for entry in truth["annolist"]]
        return predictions.posetrack17(names, frame, boxes, poses)
    return predictions.posetrack18(truth["images"], frame, boxes, poses)


def _draw(out: Path, ref: VideoRef, span: tuple[int, int], table: pd.DataFrame, poses: dict[str, np.ndarray]) -> None:
    """An overlay video of GLPose's poses on one video, and a sheet of a few frames of every variant."""
    video = open_video(ref)
    mine = (table["video"] == ref.name).to_numpy()
    frames, people = table["frame"].to_numpy(), table["person"].to_numpy()

    def drawn(picture: np.ndarray, frame: int, variant: str) -> np.ndarray:
        rows = mine & (frames == frame)
        numbers = np.where(people[rows] >= 0, people[rows], np.arange(rows.sum()))
        return draw_poses(picture, poses[variant][rows], numbers, POSETRACK, DRAWN_SCORE)

    write_video(
        out / "overlay.mp4", (drawn(picture, f, "glpose") for f, picture in video.frames.read(range(*span))), 10
    )
    chosen = np.unique(np.linspace(span[0], span[1] - 1, SHEET_FRAMES).round().astype(int)).tolist()
    pictures = dict(video.frames.read(chosen))
    rows = [
        (
            f"{ref.name}: {variant}, frames {', '.join(map(str, chosen))}",
            [drawn(pictures[f], f, variant) for f in chosen],
        )
        for variant in sorted(poses, reverse=True)
    ]
    write_image(out / "contact_sheet.png", contact_sheet(rows, tile_width=480))


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) + "\n")


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else value


STAGE = Stage(
    name="eval",
    version=VERSION,
    after=lambda config: ("extract", "index", "train"),
    parameters=parameters,
    units=lambda context, everything: [UNIT],
    inputs=inputs,
    prepare=lambda context: load_split(context, "eval"),
    make=make,
    finish=finish,
)
