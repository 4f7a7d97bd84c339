"""PCK: the share of joints predicted within alpha times the person's size (Yang and Ramanan 2013; Sub-JHMDB).

A joint at exactly that distance is right, as in "falls within"; mmpose counts only smaller distances. Papers on
Sub-JHMDB average in different ways, which differ by more than the methods do: see `PCKResult.averages`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np

from glpose.data.poses import PoseFile, read_poses
from glpose.keypoints import JHMDB, POSETRACK, Counted, JointSet, least_flag
from glpose.metrics.posetrack_files import list_videos
from glpose.metrics.tables import plain, text_table
from glpose.options import PCK_ALPHA
from store.errors import DataError
from store.record import number_or_none

TORSO = ("left_shoulder", "right_hip")  # the joints whose distance is the torso's size, as in mmpose
SIZES = {"box": "max(w, h) of the box", "torso": f"the torso ({' to '.join(TORSO)})".replace("_", " ")}  # in words
KNOWN = (JHMDB, POSETRACK)  # told by the names of their joints


@dataclass(frozen=True)
class PCKFigures:
    """Scores in percent, NaN where nothing was annotated.

    joints: joint -> PCK. groups: Head ... Ankle -> mean over those of their joints that are annotated at all.
    averages: "by_joint_count", groups weighted by their number of joints, which is (3 Head + 12 paired) / 15 on JHMDB
    and the GLPose paper's Avg; "pooled", right joints over annotated ones, the same where all are annotated in every
    frame; "over_groups", the plain mean of the groups (Convolutional Pose Machines' and LSTM PM's published Avg).
    """

    alpha: float
    size: str
    joints: dict[str, float]
    groups: dict[str, float]
    averages: dict[str, float]

    @property
    def mean(self) -> float:
        """The average that the paper prints."""
        return self.averages["by_joint_count"]

    def as_json(self) -> dict[str, object]:
        """The same as plain data, None for NaN."""
        return {
            "metric": f"PCK@{self.alpha:g}",
            "size": self.size,
            "joints": plain(self.joints),
            "groups": plain(self.groups),
            "mean": number_or_none(self.mean),
            "averages": plain(self.averages),
        }


@dataclass(frozen=True)
class PCKResult(PCKFigures):
    """Of one set of people. counts: "annotated" and "right" -> joint -> number. people: scored ones. left_out: people
    whose size is unknown.
    """

    counts: dict[str, dict[str, int]]
    people: int
    left_out: int

    def as_json(self) -> dict[str, object]:
        """The same as plain data, None for NaN."""
        return {**super().as_json(), "counts": self.counts, "people": self.people, "left_out": self.left_out}


@dataclass(frozen=True)
class PCKMean(PCKFigures):
    """Means over several splits, as Sub-JHMDB's three are reported."""

    splits: int

    def as_json(self) -> dict[str, object]:
        """The same as plain data, None for NaN."""
        return {**super().as_json(), "splits": self.splits}


def mean_over_splits(results: Sequence[PCKResult]) -> PCKMean:
    """The plain mean over splits of every figure, each split counting the same; NaN where it is NaN in any of them.

    ValueError where there is no result, or where they differ in joints, alpha or size.
    """
    kinds = {(result.alpha, result.size, tuple(result.joints), tuple(result.groups)) for result in results}
    if len(kinds) != 1:
        raise ValueError("splits are of one joint set, alpha and size" if kinds else "no splits to average")

    def mean(rows: list[dict[str, float]]) -> dict[str, float]:
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    return PCKMean(
        alpha=results[0].alpha,
        size=results[0].size,
        joints=mean([result.joints for result in results]),
        groups=mean([result.groups for result in results]),
        averages=mean([result.averages for result in results]),
        splits=len(results),
    )


def score_poses(
    predicted: np.ndarray,
    annotated: np.ndarray,
    boxes: np.ndarray,
    joints: JointSet,
    alpha: float = PCK_ALPHA,
    size: Literal["box", "torso"] = "box",
    counted: Counted = "annotated",
) -> PCKResult:
    """PCK of n people, each with the prediction that stands for it.

    predicted: (n, J, 2 or more) x, y in frame px; a NaN is wrong. annotated: (n, J, 3) x, y and flag; joints with flag
    0 or a NaN do not count. boxes: (n, 4) xyxy of the annotated people, whose max(w, h) is their size; a person with
    a box or torso of no size, or with NaN in it, is left out. DataError where the joint set has no torso.
    """
    counts, right, usable = right_joints(predicted, annotated, boxes, joints, alpha, size, counted)
    total, hits = counts.sum(axis=0), right.sum(axis=0)

    per_joint = np.full(len(joints), np.nan)
    np.divide(100.0 * hits, total, out=per_joint, where=total > 0)
    groups = {name: _mean([per_joint[j] for j in members]) for name, members in joints.groups.items()}
    weights = [len(members) for members in joints.groups.values()]
    return PCKResult(
        alpha=alpha,
        size=size,
        joints=dict(zip(joints.joints, per_joint.tolist(), strict=True)),
        groups=groups,
        averages={
            "by_joint_count": _mean(list(groups.values()), weights),
            "pooled": 100.0 * int(hits.sum()) / int(total.sum()) if total.sum() else math.nan,
            "over_groups": _mean(list(groups.values())),
        },
        counts={
            "annotated": dict(zip(joints.joints, total.tolist(), strict=True)),
            "right": dict(zip(joints.joints, hits.tolist(), strict=True)),
        },
        people=int(usable.sum()),
        left_out=int((~usable).sum()),
    )


def right_joints(
    predicted: np.ndarray,
    annotated: np.ndarray,
    boxes: np.ndarray,
    joints: JointSet,
    alpha: float = PCK_ALPHA,
    size: Literal["box", "torso"] = "box",
    counted: Counted = "annotated",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, J) bool of joints that count, (n, J) of those that are right, (n,) of people who are not left out.

    Arguments and errors as of `score_poses`.
    """
    known = np.isfinite(annotated[..., :2]).all(axis=-1) & (annotated[..., 2] > 0)
    counts = known & (annotated[..., 2] >= least_flag(counted))
    sizes = _torsos(annotated, known, joints) if size == "torso" else _box_sizes(boxes)
    usable = np.isfinite(sizes) & (sizes > 0)
    distances = np.linalg.norm(predicted[..., :2] - annotated[..., :2], axis=-1)
    counts &= usable[:, None]
    with np.errstate(invalid="ignore"):
        right = counts & (distances <= alpha * sizes[:, None])  # False for NaN
    return counts, right, usable


def evaluate(
    gt_dir: str | Path,
    pred_dir: str | Path,
    joints: JointSet | None = None,
    alpha: float = PCK_ALPHA,
    size: Literal["box", "torso"] = "box",
    counted: Counted = "annotated",
) -> PCKResult:
    """PCK of a folder of pose files against one of annotated pose files of the same names (`glpose.data.poses`).

    For one person per frame: of several predictions the one with the highest box score counts (the first of equals),
    and without one all joints of the frame are wrong. joints: None takes the known set whose joints the files name.
    DataError, naming the file, where one is missing or malformed, or has the joints of another set.
    """
    joints = joints or joint_set_of(Path(gt_dir))
    return score_poses(*_paired(Path(gt_dir), Path(pred_dir), joints), joints, alpha, size, counted)


def evaluate_alphas(
    gt_dir: str | Path,
    pred_dir: str | Path,
    joints: JointSet,
    alphas: Sequence[float],
    size: Literal["box", "torso"] = "box",
    counted: Counted = "annotated",
) -> list[PCKResult]:
    """`evaluate` at several alphas, with the files read once."""
    paired = _paired(Path(gt_dir), Path(pred_dir), joints)
    return [score_poses(*paired, joints, alpha, size, counted) for alpha in alphas]


def pair_poses(gt_dir: Path, pred_dir: Path, joints: JointSet) -> Iterator[tuple[PoseFile, PoseFile, np.ndarray]]:
    """Per annotated file: it, its predictions, and for each of the n people the row of the prediction that stands for
    it, -1 without one. As `evaluate` pairs them, with its errors.
    """
    predictions = list_videos(pred_dir)
    for name, path in _pose_files(gt_dir).items():
        other = predictions.get(name, pred_dir / f"{name}.json")
        truth, found = read_poses(path), read_poses(other)
        for file, where in ((truth, path), (found, other)):
            if file.joints != joints.joints:
                raise DataError(f"{where} has other joints than {joints.name} data: {_first_joints(file)}")
        if found.frame_names != truth.frame_names:
            raise DataError(f"{other} has other frames than {path}: {_first_difference(truth, found)}")
        if len(np.unique(truth.frame)) < len(truth.frame):
            raise DataError(f"{path} has a frame with several people: PCK here is for one person per frame")
        yield truth, found, _best_of_frames(found, truth.frame)


def poses_of(found: PoseFile, rows: np.ndarray) -> np.ndarray:
    """(n, J, 2) x, y of n rows of a file, NaN for row -1."""
    lacking = np.full((1, len(found.joints), 2), np.nan)
    return np.concatenate([found.keypoints[..., :2], lacking])[rows]


def joint_set_of(gt_dir: Path) -> JointSet:
    """The known joint set whose joints the first pose file of a folder names, in that order. DataError if none is."""
    path = next(iter(_pose_files(gt_dir).values()))
    file = read_poses(path)
    for joints in KNOWN:
        if file.joints == joints.joints:
            return joints
    known = " or ".join(joints.name for joints in KNOWN)
    raise DataError(f"{path} has other joints than {known} data: {_first_joints(file)}; describe them in a joint set")


def format_table(results: Mapping[str, PCKResult | PCKMean], *, details: bool = False) -> str:
    """PCK by group and the paper's average as plain text, one row per name; NaN prints as "-".

    details=True adds the two other averages.
    """
    rows = {name: {**result.groups, "Avg": result.mean} for name, result in results.items()}
    if details:
        others = {"pooled": "pooled", "over groups": "over_groups"}
        rows = {
            name: {**row, **{column: results[name].averages[key] for column, key in others.items()}}
            for name, row in rows.items()
        }
    return text_table(rows)


def conventions(joints: JointSet) -> list[str]:
    """How every column of the detailed table is averaged, one line each."""
    names = [name.replace("_", " ") for name in joints.joints]
    pairs = {frozenset(pair) for pair in joints.flip_pairs}
    sums = {group: [names[j] for j in members] for group, members in joints.groups.items()}
    told = [f"{group} = {' + '.join(sums[group])}" for group in sums if frozenset(joints.groups[group]) not in pairs]
    told += ["the others right + left"] if len(told) < len(sums) else []
    weights = " + ".join(f"{len(members)} {group}" for group, members in joints.groups.items())
    return [
        f"groups: mean over their joints; {', '.join(told)}",
        f"Avg: groups weighted by joint count, ({weights}) / {len(joints)}, as in the GLPose paper",
        "pooled: pooled hits, all right joints over all annotated ones",
        "over groups: mean over joint groups, each counting the same",
    ]


def _paired(gt_dir: Path, pred_dir: Path, joints: JointSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `score_poses` takes first: predicted, annotated and boxes of all people."""
    pairs = list(pair_poses(gt_dir, pred_dir, joints))
    predicted = np.concatenate([poses_of(found, rows) for _, found, rows in pairs])
    annotated = np.concatenate([truth.keypoints for truth, _, _ in pairs])
    return predicted, annotated, np.concatenate([truth.boxes for truth, _, _ in pairs])


def _pose_files(folder: Path) -> dict[str, Path]:
    files = list_videos(folder)
    if not files:
        raise DataError(f"{folder} holds no pose files (*.json or *.json.gz)")
    return files


def _first_joints(file: PoseFile) -> str:
    return ", ".join([*map(str, file.joints[:3]), "..."])


def _first_difference(truth: PoseFile, found: PoseFile) -> str:
    names = zip_longest(truth.frame_names, found.frame_names)
    place, (wanted, given) = next((k, pair) for k, pair in enumerate(names) if pair[0] != pair[1])
    return f"frame {place} is {given!r}, not {wanted!r}"


def _best_of_frames(found: PoseFile, frames: np.ndarray) -> np.ndarray:
    """(n,) row of the pose with the highest box score in each frame, -1 where there is none."""
    best = np.full(len(frames), -1)
    for row, frame in enumerate(frames):
        candidates = np.flatnonzero(found.frame == frame)
        if len(candidates):
            best[row] = candidates[found.score[candidates].argmax()]
    return best


def _box_sizes(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=-math.inf)


def _torsos(annotated: np.ndarray, known: np.ndarray, joints: JointSet) -> np.ndarray:
    if missing := [name for name in TORSO if name not in joints.joints]:
        raise DataError(f"{joints.name} data has no {' and no '.join(missing)}, and so no torso; take the box as size")
    a, b = (joints.joints.index(name) for name in TORSO)
    torsos = np.linalg.norm(annotated[:, a, :2] - annotated[:, b, :2], axis=-1)
    return np.where(known[:, a] & known[:, b], torsos, np.nan)


def _mean(values: list[float], weights: list[int] | None = None) -> float:
    """Mean of the values that are not NaN; NaN if all are."""
    kept = [(v, w) for v, w in zip(values, weights or [1] * len(values), strict=True) if not math.isnan(v)]
    return float(sum(v * w for v, w in kept) / sum(w for _, w in kept)) if kept else math.nan
