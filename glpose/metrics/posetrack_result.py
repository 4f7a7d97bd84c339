"""The result of a PoseTrack evaluation: per joint, per group, as plain data and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from glpose.keypoints import POSETRACK
from glpose.metrics.tables import plain, text_table
from store.record import number_or_none


@dataclass(frozen=True)
class PoseTrackResult:
    """Scores in percent, NaN where poseval gives NaN. Joints in the order of `keypoints.POSETRACK`.

    ap, precision, recall: joint -> percent; precision and recall are those of all predictions, without a threshold.
    mean: mean of the AP of all joints but NaN. groups: Head ... Ankle -> mean AP of their joints, NaN if any is NaN.
    counts: "n_gt" annotated, "n_pred" predicted, "n_tp" right -> joint -> number. frames: scored ones, out of
    `frames_in_files`. problems: what was wrong with the files, and where, and changed the score or may have.
    poseval_stops: what poseval would stop on, though the score is as it would be without.
    """

    ap: dict[str, float]
    mean: float
    groups: dict[str, float]
    precision: dict[str, float]
    recall: dict[str, float]
    counts: dict[str, dict[str, int]]
    frames: int
    frames_in_files: int
    videos: int
    problems: list[str]
    poseval_stops: list[str]

    def as_json(self) -> dict[str, object]:
        """The same as plain data, None for NaN."""
        return {
            "ap": plain(self.ap),
            "mean": number_or_none(self.mean),
            "groups": plain(self.groups),
            "precision": plain(self.precision),
            "recall": plain(self.recall),
            "counts": self.counts,
            "frames": self.frames,
            "frames_in_files": self.frames_in_files,
            "videos": self.videos,
            "problems": self.problems,
            "poseval_stops": self.poseval_stops,
        }


def group_means(per_joint: Mapping[str, float]) -> dict[str, float]:
    """Joint -> value to Head ... Ankle -> mean over their joints; NaN if any of them is."""
    values = [per_joint[name] for name in POSETRACK.joints]
    return {group: sum(values[j] for j in members) / len(members) for group, members in POSETRACK.groups.items()}


def mean_over_joints(per_joint: Mapping[str, float]) -> float:
    """Mean over the joints that are not NaN; NaN if all are."""
    values = [value for value in per_joint.values() if not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan


def head_parts(result: PoseTrackResult) -> dict[str, float]:
    """AP of the joints of the Head group one by one, for data without a nose, whose Head is NaN."""
    return {POSETRACK.joints[joint]: result.ap[POSETRACK.joints[joint]] for joint in POSETRACK.groups["Head"]}


def format_table(results: Mapping[str, PoseTrackResult], *, details: bool = False) -> str:
    """AP by group and the mean as plain text, one row per name; NaN prints as "-".

    details=True adds the columns of the single joints of the head after the mean.
    """
    rows = {name: {**result.groups, "Mean": result.mean} for name, result in results.items()}
    if details:
        rows = {name: {**row, **head_parts(results[name])} for name, row in rows.items()}
    return text_table(rows)
