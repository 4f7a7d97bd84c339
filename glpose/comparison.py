"""Poses of several systems on the same videos, joint by joint: written or taken, and paired with the annotated people
as the data set's protocol does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from glpose.data.dataset import ground_truth
from glpose.data.given_predictions import Span, take_coco, take_pose_files, take_posetrack
from glpose.data.predictions import COCO_FILE
from glpose.metrics import paired_poses, pck
from glpose.metrics.paired_poses import PairedPoses
from glpose.metrics.posetrack import MATCH_DISTANCE
from glpose.metrics.recall_by_tag import joint_table, tag_masks
from glpose.options import EvalOptions
from glpose.scoring import (
    GROUND_TRUTH,
    PREDICTIONS,
    EvaluatedVideo,
    Scores,
    annotations_of,
    score_oks,
    score_pck,
    score_posetrack,
    write_oks,
    write_pck,
    write_posetrack,
)
from store.errors import DataError

TAGS = {"hidden": "occluded", "rapid": "rapid", "defocused": "defocused"}  # as --tag says it -> of recall_by_tag
Videos = Sequence[EvaluatedVideo]


@dataclass(frozen=True)
class Protocol:
    """One data set's own way.

    write(out, videos, options): ground truth and predictions of every variant, below `out`, as `glpose.scoring` does.
    take(source, videos, out, row): predictions of any system beside that ground truth, as those of a row; the videos
    that it has. pair(out, videos, row, options): by video; frames are the video's own. right(options): in words, when a
    joint is right.
    """

    write: Callable[[Path, Videos, EvalOptions], None]
    take: Callable[[Path, Videos, Path, str], list[str]]
    pair: Callable[[Path, Videos, str, EvalOptions], dict[str, PairedPoses]]
    right: Callable[[EvalOptions], str]


def tagged(out: Path, videos: Videos, row: str, tag: str) -> dict[str, np.ndarray]:
    """Video -> (P, J) bool, joints of a tag, one of TAGS, of the people of `pair`. DataError where no joint has it."""
    if all(annotations_of(video).tags is None for video in videos):
        raise DataError(f"nothing says which joints are {tag}: --tag is for data with tags, such as rendered clips")
    joints = joint_table(out / GROUND_TRUTH, out / PREDICTIONS / row)
    has = tag_masks(joints)[TAGS[tag]]
    if not has.any():
        raise DataError(f"no annotated joint is {tag} in these videos: choose another --tag")
    columns, count = joints["joint"].cat.codes.to_numpy(), len(joints["joint"].cat.categories)
    masks = {video.ref.name: np.zeros((0, count), bool) for video in videos}  # of those without a joint
    for video, own in joints.groupby("video"):
        people = np.unique(own["annotation"], return_inverse=True)[1]  # in the order of `pair`
        mask = np.zeros((people.max(initial=-1) + 1, count), bool)
        mask[people, columns[own.index]] = has[own.index]
        masks[str(video)] = mask
    return masks


# ------------------------------------------------------------------------------------------------------- PoseTrack: AP
def _take_posetrack(source: Path, videos: Videos, out: Path, row: str) -> list[str]:
    spans = {video.ref.name: Span(video.start, video.stop, len(video.video)) for video in videos}
    return take_posetrack(source, spans, out / GROUND_TRUTH, out / PREDICTIONS / row)


def _pair_posetrack(out: Path, videos: Videos, row: str, options: EvalOptions) -> dict[str, PairedPoses]:
    return _shifted(paired_poses.of_posetrack(out / GROUND_TRUTH, out / PREDICTIONS / row, options.joints), videos)


# -------------------------------------------------------------------------------------------------------- JHMDB: PCK
def _take_pose_files(source: Path, videos: Videos, out: Path, row: str) -> list[str]:
    return take_pose_files(source, [video.ref.name for video in videos], out / PREDICTIONS / row)


def _pair_pck(out: Path, videos: Videos, row: str, options: EvalOptions) -> dict[str, PairedPoses]:
    joints, how = annotations_of(videos[0]).joints, options.pck
    pairs = paired_poses.of_pck(
        out / GROUND_TRUTH, out / PREDICTIONS / row, joints, how.alpha, how.size, options.joints
    )
    return _shifted(pairs, videos)


# -------------------------------------------------------------------------------------------------- own joints: OKS
def _take_coco(source: Path, videos: Videos, out: Path, row: str) -> list[str]:
    return take_coco(source, {video.ref.name: _image_ids(video) for video in videos}, out / PREDICTIONS / row)


def _pair_coco(out: Path, videos: Videos, row: str, options: EvalOptions) -> dict[str, PairedPoses]:
    pairs = paired_poses.of_coco(
        out / GROUND_TRUTH / COCO_FILE, out / PREDICTIONS / row / COCO_FILE, annotations_of(videos[0]).joints,
        options.pck.alpha, {video.ref.name: _image_ids(video) for video in videos},
    )  # fmt: skip
    return _shifted(pairs, videos)


def _image_ids(video: EvaluatedVideo) -> list[int | str]:
    return [image["id"] for image in ground_truth(video.ref, video.start, video.stop)["images"]]


def _shifted(pairs: dict[str, PairedPoses], videos: Videos) -> dict[str, PairedPoses]:
    """With frames of the videos, not of the files, which begin where the evaluated frames do."""
    start = {video.ref.name: video.start for video in videos}
    return {
        name: replace(own, frame=own.frame + start[name], loose_frame=own.loose_frame + start[name])
        for name, own in pairs.items()
    }


# By the function that scores a data set.
PROTOCOLS: dict[Callable[[Path, Videos, EvalOptions], Scores], Protocol] = {
    score_posetrack: Protocol(
        write=lambda out, videos, options: write_posetrack(out, videos),
        take=_take_posetrack,
        pair=_pair_posetrack,
        right=lambda options: f"within {MATCH_DISTANCE:g} of the head size (PCKh@{MATCH_DISTANCE:g})",
    ),
    score_pck: Protocol(
        write=lambda out, videos, options: write_pck(out, videos),
        take=_take_pose_files,
        pair=_pair_pck,
        right=lambda options: f"within {options.pck.alpha:g} of {pck.SIZES[options.pck.size]} (PCK)",
    ),
    score_oks: Protocol(
        write=write_oks,
        take=_take_coco,
        pair=_pair_coco,
        right=lambda options: f"within {options.pck.alpha:g} of {pck.SIZES['box']} (PCK)",
    ),
}
