"""Predictions and ground truth of an evaluation split as files, and their scores, by each data set's own protocol.

All write ground_truth/ and predictions/VARIANT/, and score exactly those files, so that anyone can score them again.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glpose.data import predictions
from glpose.data.annotations import Annotations
from glpose.data.coco import choose_category
from glpose.data.dataset import Video, VideoRef, ground_truth
from glpose.data.poses import PoseFile, write_poses
from glpose.metrics import oks, pck, posetrack, recall_by_tag
from glpose.options import EvalOptions
from store.errors import DataError
from store.tables import BOX

GROUND_TRUTH, PREDICTIONS, SUBMISSION = "ground_truth", "predictions", "submission"
JOINTS, RECALL = "joints.parquet", "recall_by_tag.csv"


@dataclass(frozen=True)
class EvaluatedVideo:
    """A video with the poses predicted in its frames [start, stop).

    table: its n proposals there, as in `store.tables`. poses: variant -> (n, J, 3) x, y in frame px, score.
    """

    ref: VideoRef
    video: Video
    start: int
    stop: int
    table: pd.DataFrame
    poses: dict[str, np.ndarray]


@dataclass(frozen=True)
class Scores:
    """What a protocol says of several variants.

    metric: its name, as tables print it. results: variant -> plain data. mean: variant -> percent, NaN where nothing
    was annotated. table: from variant -> label, a text table of those rows. problems: what the protocol could not score
    as it should, one line each. joints: of annotations with tags, `recall_by_tag.joint_table` of every variant, in
    frames of the video, with its name in the column `row`.
    """

    metric: str
    results: dict[str, dict[str, object]]
    mean: dict[str, float]
    table: Callable[[dict[str, str]], str]
    problems: list[str]
    joints: pd.DataFrame | None = None


def write_posetrack(out: Path, videos: Sequence[EvaluatedVideo]) -> None:
    """Write ground truth and the predictions of every variant, in the form of the videos' own PoseTrack version."""
    for video in videos:
        truth = ground_truth(video.ref, video.start, video.stop)
        _write_json(out / GROUND_TRUTH / f"{video.ref.name}.json", truth)
        frame, boxes = video.table["frame"].to_numpy() - video.start, video.table[BOX].to_numpy()
        for variant, poses in video.poses.items():
            if video.ref.format == "posetrack17":
                names = [entry["image"][0]["name"] for entry in truth["annolist"]]
                content = predictions.posetrack17(names, frame, boxes, poses)
            else:
                content = predictions.posetrack18(truth["images"], frame, boxes, poses)
            _write_json(out / PREDICTIONS / variant / f"{video.ref.name}.json", content)


def score_posetrack(out: Path, videos: Sequence[EvaluatedVideo], options: EvalOptions) -> Scores:
    """AP as poseval computes it."""
    write_posetrack(out, videos)
    results = {
        variant: posetrack.evaluate(out / GROUND_TRUTH, out / PREDICTIONS / variant, joints=options.joints)
        for variant in videos[0].poses
    }
    if options.submission:
        for variant in results:
            zip_predictions(out / PREDICTIONS / variant, out / SUBMISSION / f"{variant}.zip")
    annotated = any(result.frames for result in results.values())

    def table(labels: dict[str, str]) -> str:
        if not annotated:  # as in a test set: zeros would look like a score
            return "nobody is annotated in these videos: predictions are written, nothing is scored"
        return posetrack.format_table({labels[v]: results[v] for v in labels}, details=True)

    return Scores(
        metric="AP",
        results={variant: result.as_json() for variant, result in results.items()},
        mean={variant: result.mean if annotated else math.nan for variant, result in results.items()},
        table=table,
        problems=list(dict.fromkeys(problem for result in results.values() for problem in result.problems)),
        joints=_tagged_joints(out, videos),
    )


def write_pck(out: Path, videos: Sequence[EvaluatedVideo]) -> None:
    """Write ground truth and the predictions of every variant as `glpose.data.poses` describes them."""
    for video in videos:
        truth = _annotated(video)
        write_poses(out / GROUND_TRUTH / f"{video.ref.name}.json", truth)
        for variant, poses in video.poses.items():
            found = PoseFile(
                video=truth.video,
                joints=truth.joints,
                frame_names=truth.frame_names,
                frame=video.table["frame"].to_numpy() - video.start,
                boxes=video.table[BOX].to_numpy(),
                score=video.table["score"].to_numpy(),
                keypoints=poses,
            )
            write_poses(out / PREDICTIONS / variant / f"{video.ref.name}.json", found)


def score_pck(out: Path, videos: Sequence[EvaluatedVideo], options: EvalOptions) -> Scores:
    """PCK of one person per frame."""
    write_pck(out, videos)
    joints, how = annotations_of(videos[0]).joints, options.pck
    results = {
        variant: pck.evaluate(
            out / GROUND_TRUTH, out / PREDICTIONS / variant, joints, how.alpha, how.size, options.joints
        )
        for variant in videos[0].poses
    }
    size = "max(w, h)" if how.size == "box" else "the torso"
    sources = sorted({video.video.box_source for video in videos})
    return Scores(
        metric=f"PCK@{how.alpha:g} of {size} ({', '.join(sources)})",
        results={variant: result.as_json() for variant, result in results.items()},
        mean={variant: result.mean for variant, result in results.items()},
        table=lambda labels: "\n".join(
            [pck.format_table({labels[v]: results[v] for v in labels}, details=True), *pck.conventions(joints)]
        ),
        problems=[],
    )


def write_oks(out: Path, videos: Sequence[EvaluatedVideo], options: EvalOptions) -> None:
    """Write one COCO annotation file of all videos, and a result file of every variant."""
    joints, source = annotations_of(videos[0]).joints, videos[0].ref.path
    truth: dict[str, Any] = {}
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in videos[0].poses}
    for video in videos:
        content = ground_truth(video.ref, video.start, video.stop)
        category, _ = choose_category(content["categories"], joints, str(source))
        ids = [image["id"] for image in content["images"]]
        lists = [key for key in ("images", "annotations", "videos") if key in content]
        truth = {**content, **{key: truth.get(key, []) + content[key] for key in lists}}
        frame, columns = video.table["frame"].to_numpy() - video.start, joints.indices_of(category["keypoints"])
        for variant, poses in video.poses.items():
            ranks = predictions.coco_scores(poses[..., 2], video.table["score"].to_numpy(), options.score)
            found[variant] += predictions.coco(ids, frame, ranks, poses, category["id"], columns)
    _write_json(out / GROUND_TRUTH / predictions.COCO_FILE, truth)
    for variant, poses in found.items():
        _write_json(out / PREDICTIONS / variant / predictions.COCO_FILE, poses)


def score_oks(out: Path, videos: Sequence[EvaluatedVideo], options: EvalOptions) -> Scores:
    """OKS AP as pycocotools computes it, and PCK by joint group."""
    write_oks(out, videos, options)
    joints, alpha, truth = (
        annotations_of(videos[0]).joints,
        options.pck.alpha,
        out / GROUND_TRUTH / predictions.COCO_FILE,
    )
    results = {
        variant: oks.evaluate(truth, out / PREDICTIONS / variant / predictions.COCO_FILE, joints, alpha=alpha)
        for variant in videos[0].poses
    }
    return Scores(
        metric="OKS AP",
        results={variant: result.as_json() for variant, result in results.items()},
        mean={variant: result.mean for variant, result in results.items()},
        table=lambda labels: oks.format_table({labels[v]: results[v] for v in labels}),
        problems=list(dict.fromkeys(problem for result in results.values() for problem in result.problems)),
    )


def zip_predictions(folder: Path, path: Path) -> None:
    """Zip a folder's prediction files as posetrack.net takes them: one JSON per video, named as its annotation file, at
    the root of the archive (the server finds no results in a folder inside it).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.glob("*.json")):
            archive.write(file, file.name)


def write_recall(out: Path, joints: pd.DataFrame) -> pd.DataFrame:
    """Write the joints of `Scores` and their recall by tag, which is returned."""
    joints.to_parquet(out / JOINTS, index=False)
    table = recall_by_tag.recall_of_rows(joints)
    table.to_csv(out / RECALL, index=False)
    return table


def annotations_of(video: EvaluatedVideo) -> Annotations:
    """What is annotated in a video. DataError where nobody is."""
    if video.video.annotations is None:
        raise DataError(f"video {video.ref.name!r} has no annotations: there is nothing to score against")
    return video.video.annotations


def _tagged_joints(out: Path, videos: Sequence[EvaluatedVideo]) -> pd.DataFrame | None:
    """Joints of all variants, from the files that are scored; None where no video has tags, or nobody is annotated."""
    if all(video.video.annotations is None or video.video.annotations.tags is None for video in videos):
        return None
    start, tables = {video.ref.name: video.start for video in videos}, []
    for variant in videos[0].poses:
        table = recall_by_tag.joint_table(out / GROUND_TRUTH, out / PREDICTIONS / variant)
        table["frame"] += np.array([start[name] for name in table["video"]], np.int64)
        table.insert(0, "row", variant)
        tables.append(table)
    joints = pd.concat(tables, ignore_index=True)
    return joints if len(joints) else None


def _annotated(video: EvaluatedVideo) -> PoseFile:
    notes = annotations_of(video)
    rows = np.flatnonzero((notes.frame >= video.start) & (notes.frame < video.stop))
    return PoseFile(
        video=video.ref.name,
        joints=notes.joints.joints,
        frame_names=notes.frame_names[video.start : video.stop],
        frame=notes.frame[rows] - video.start,
        boxes=notes.boxes[rows],
        score=np.ones(len(rows)),
        keypoints=notes.keypoints[rows],
    )


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) + "\n")
