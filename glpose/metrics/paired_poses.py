"""Annotated people and the predictions that stand for them, by each protocol's own matching, with the joints that are
right: what a picture of several systems' errors is drawn from.

| protocol | who stands for whom | a joint is right within |
|---|---|---|
| `of_posetrack` | as for AP (`metrics.posetrack`) | half the head size, as for AP: PCKh@0.5 |
| `of_pck` | the pose of highest box score in the frame | alpha x the box or torso (`metrics.pck`) |
| `of_coco` | the largest sum of OKS in the image | alpha x max(w, h) of the annotated box (`metrics.oks`) |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glpose.keypoints import Counted, JointSet
from glpose.metrics import oks, pck, posetrack
from glpose.metrics.posetrack_files import list_videos, read_video


@dataclass(frozen=True)
class PairedPoses:
    """One video's P annotated people, by frame, and Q predictions that stand for nobody. Frames count from 0 in the
    file; positions are px of the frame.

    frame: (P,) int. truth: (P, J, 2), NaN where not annotated. counts: (P, J) bool, joints that are scored: annotated
    ones, or visible ones. found: (P, J, 2) of the prediction, NaN without one. right: (P, J) bool, within the
    protocol's distance, of those that count.
    loose_frame: (Q,) int. loose: (Q, J, 2).
    """

    frame: np.ndarray
    truth: np.ndarray
    counts: np.ndarray
    found: np.ndarray
    right: np.ndarray
    loose_frame: np.ndarray
    loose: np.ndarray

    def only(self, joints: np.ndarray) -> PairedPoses:
        """Without the predictions of other joints. joints: (J,) bool."""
        kept = joints[:, None]
        found, loose = (np.where(kept, xy, np.nan) for xy in (self.found, self.loose))
        return replace(self, found=found, loose=loose)


def of_posetrack(gt_dir: Path, pred_dir: Path, counted: Counted = "annotated") -> dict[str, PairedPoses]:
    """By video, of PoseTrack files that pair by name. A video without a file of predictions has nobody matched.
    DataError as of `metrics.posetrack.evaluate`.
    """
    pairs, _ = posetrack.pair_folders(gt_dir, pred_dir)
    names = list(list_videos(gt_dir))
    return {name: _of_posetrack_video(gt, pred, counted) for name, (gt, pred) in zip(names, pairs, strict=True)}


def of_pck(
    gt_dir: Path,
    pred_dir: Path,
    joints: JointSet,
    alpha: float,
    size: Literal["box", "torso"],
    counted: Counted = "annotated",
) -> dict[str, PairedPoses]:
    """By video, of pose files that pair by name. DataError as of `metrics.pck.evaluate`."""
    paired = {}
    for truth, found, rows in pck.pair_poses(gt_dir, pred_dir, joints):
        best = pck.poses_of(found, rows)
        counts, right, _ = pck.right_joints(best, truth.keypoints, truth.boxes, joints, alpha, size, counted)
        loose = np.setdiff1d(np.arange(len(found.frame)), rows)
        paired[truth.video] = PairedPoses(
            frame=truth.frame,
            truth=_annotated(truth.keypoints),
            counts=counts,
            found=best,
            right=right,
            loose_frame=found.frame[loose],
            loose=found.keypoints[loose, :, :2],
        )
    return paired


def of_coco(
    gt: Path, pred: Path, joints: JointSet, alpha: float, images: Mapping[str, Sequence[Any]]
) -> dict[str, PairedPoses]:
    """By video, of a COCO annotation file and a result file. images: video -> ids of its frames, in order. DataError as
    of `metrics.oks.evaluate`.
    """
    pairs = oks.pair(gt, pred, joints)
    found = pairs.found
    counts, right, _ = pck.right_joints(found, pairs.keypoints, pairs.boxes, joints, alpha)
    loose = np.setdiff1d(np.arange(len(pairs.poses)), pairs.row)
    paired = {}
    for video, ids in images.items():
        place = {image: frame for frame, image in enumerate(ids)}
        frame, rows = _in_frames(pairs.image, range(len(pairs.image)), place)
        loose_frame, others = _in_frames(pairs.pose_image, loose.tolist(), place)
        paired[video] = PairedPoses(
            frame=frame,
            truth=_annotated(pairs.keypoints[rows]),
            counts=counts[rows],
            found=found[rows],
            right=right[rows],
            loose_frame=loose_frame,
            loose=pairs.poses[others, :, :2],
        )
    return paired


def _of_posetrack_video(gt: Path, pred: Path | None, counted: Counted) -> PairedPoses:
    truth, found, owner, match = posetrack.pair_people(read_video(gt), None if pred is None else read_video(pred))
    taken = owner >= 0
    xy, right = np.full_like(truth.xy, np.nan), np.zeros_like(truth.has)
    xy[owner[taken]], right[owner[taken]] = found.xy[taken], match[taken]
    counts = truth.has & ~truth.hidden if counted == "visible" else truth.has
    return PairedPoses(
        frame=truth.frame,
        truth=truth.xy,
        counts=counts,
        found=xy,
        right=right & counts,
        loose_frame=found.frame[~taken],
        loose=found.xy[~taken],
    )


def _annotated(keypoints: np.ndarray) -> np.ndarray:
    """(P, J, 3) with flags -> (P, J, 2), NaN where absent."""
    return np.where(keypoints[..., 2:] > 0, keypoints[..., :2], np.nan)


def _in_frames(images: Sequence[Any], rows: Iterable[int], place: Mapping[Any, int]) -> tuple[np.ndarray, np.ndarray]:
    """Those of some rows whose image is one of a video's, by frame: their frames and the rows themselves."""
    found = sorted((place[images[row]], row) for row in rows if images[row] in place)
    frame, kept = np.array(found, np.int64).reshape(-1, 2).T
    return frame, kept
