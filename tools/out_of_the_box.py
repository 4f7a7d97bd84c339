"""How well the weights that ship do on a data set's eval split, in annotated boxes and by `predict`: rows of Markdown.

python tools/out_of_the_box.py -p bonn --set data.root=DIR

Only annotated frames are looked at. A joint that the data set and the weights both have is right within 0.1 of the
larger side of the extent of these joints of the person: found by the network alone in boxes as annotated, and by
`predict` of these frames with boxes of its own, which are matched one to one, by an IoU of 0.5; who has none is found
nowhere.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from glpose.data.annotations import keypoint_boxes
from glpose.data.dataset import Video, open_video
from glpose.data.truth import match_annotations
from glpose.keypoints import POSETRACK, JointSet
from glpose.metrics.recall_by_tag import EXTENT_SHARE
from glpose.options import PredictOptions, RuntimeOptions
from glpose.predictor import Predictor
from glpose.runtime import choose_device
from glpose.single_frame import SingleFrame, load_single_frame, predict_frames
from stages.config import find_config, load_pipeline
from stages.stage import Context
from store.tables import BOX

ALIASES = {"neck": "head_bottom"}  # of JHMDB


def shared_joints(joints: JointSet) -> tuple[list[int], list[int]]:
    """Numbers of the joints that a set and ours both have, in the set and in ours."""
    names = [ALIASES.get(name, name) for name in joints.joints]
    theirs = [number for number, name in enumerate(names) if name in POSETRACK.joints]
    return theirs, [POSETRACK.joints.index(names[number]) for number in theirs]


def measure(video: Video, network: SingleFrame, predictor: Predictor) -> np.ndarray:
    """Counts of one video: (people, found, joints, right in annotated boxes, right by predict)."""
    notes = video.annotations
    assert notes is not None
    video = replace(video, split=np.where(notes.labelled, video.split, ""))
    chosen = np.flatnonzero(video.split[notes.frame] == "eval")
    frame, boxes = notes.frame[chosen], notes.boxes[chosen]
    theirs, ours = shared_joints(notes.joints)
    truth = notes.keypoints[chosen][:, theirs]
    extent = keypoint_boxes(truth, margin=0)
    within = EXTENT_SHARE * (extent[:, 2:] - extent[:, :2]).max(axis=1)

    def right(poses: np.ndarray, rows: np.ndarray) -> int:
        away = np.linalg.norm(poses[:, ours, :2] - truth[rows, :, :2], axis=-1)
        return int(((away <= within[rows, None]) & (truth[rows, :, 2] > 0)).sum())

    how = predictor.extract
    alone = predict_frames(
        network, video.frames, frame, boxes, how.crop_size, how.crop_scale, predictor.runtime.batch_size
    )
    with tempfile.TemporaryDirectory() as work:
        prediction = predictor.predict(video, Path(work), lambda *_: None)
    table, size = prediction.table, video.frames.size()
    owner = match_annotations(table["frame"].to_numpy(), table[BOX].to_numpy(), notes, size)
    place = np.full(len(notes.frame), -1)
    place[chosen] = np.arange(len(chosen))
    found = np.flatnonzero((owner >= 0) & (place[owner] >= 0))
    rights = right(alone, np.arange(len(chosen))), right(prediction.poses[found], place[owner[found]])
    return np.array([len(chosen), len(found), (truth[..., 2] > 0).sum(), *rights])


def main(
    pipeline: Annotated[str, typer.Option("-p", "--pipeline")],
    settings: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006
    videos: Annotated[str, typer.Option("--videos")] = "*",
    least: Annotated[float, typer.Option("--min-score")] = 0.2,
) -> None:
    """Print the row of a pipeline's data set."""
    context = Context(load_pipeline(find_config(None), pipeline, settings), videos)
    options, runtime = PredictOptions(min_score=least), RuntimeOptions()
    network = load_single_frame(options.backbone, POSETRACK, choose_device(runtime))
    predictor = Predictor(options, runtime)
    chosen = [ref for ref in context.videos if "eval" in ref.ranges]
    counts = np.sum([measure(open_video(ref), network, predictor) for ref in chosen], axis=0)
    people, found, joints, alone, predicted = counts.tolist()
    print("| data set | people | found | network alone, annotated boxes | `predict` |\n|---|---|---|---|---|")
    print(
        f"| {pipeline} | {people} | {100 * found / people:.0f} % | {100 * alone / joints:.1f} | "
        f"{100 * predicted / joints:.1f} |"
    )


if __name__ == "__main__":
    typer.run(main)
