"""PCKh@0.5 on PoseTrack files: the share of annotated joints predicted within half the head size.

Frames, ignore regions and people without points are treated as for AP (`metrics.posetrack`). Then the k-th annotated
person of a frame is compared with the k-th predicted one, in the order of the files: nobody is matched. That is how
poseval's evaluatePCKh does it (leonid-pishchulin/poseval 4258a15), which its command line does not call.

poseval does not count predictions in a PoseTrack18 file whose keypoints are all JSON integers: numpy makes integers of
them, for which its test for numbers fails. `strict_poseval` repeats that, and stops where poseval stops.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from glpose.keypoints import HIDDEN, POSETRACK, Counted
from glpose.metrics import posetrack
from glpose.metrics.posetrack_files import VideoPoses, read_video
from glpose.metrics.posetrack_problems import (
    Findings,
    annotations_of,
    count,
    file_findings,
    frames_with_regions,
    kept_people,
    scored_problems,
)
from glpose.metrics.posetrack_result import group_means
from glpose.metrics.tables import plain, text_table
from store.errors import DataError
from store.record import number_or_none

_JOINTS = len(POSETRACK)


@dataclass(frozen=True)
class PCKhResult:
    """Scores in percent, NaN where nothing was annotated. Joints in the order of `keypoints.POSETRACK`.

    joints: joint -> PCKh. groups: Head ... Ankle -> mean over their joints, NaN if any is NaN. mean: right joints over
    annotated ones, all together, which is poseval's Total. counts: "annotated" and "right" -> joint -> number. strict:
    whether it is poseval's own number. frames, frames_in_files, videos, problems, poseval_stops: as in PoseTrackResult.
    """

    joints: dict[str, float]
    groups: dict[str, float]
    mean: float
    counts: dict[str, dict[str, int]]
    frames: int
    frames_in_files: int
    videos: int
    strict: bool
    problems: list[str]
    poseval_stops: list[str]

    def as_json(self) -> dict[str, object]:
        """The same as plain data, None for NaN."""
        return {
            "metric": f"PCKh@{posetrack.MATCH_DISTANCE:g}",
            "joints": plain(self.joints),
            "mean": number_or_none(self.mean),
            "groups": plain(self.groups),
            "counts": self.counts,
            "frames": self.frames,
            "frames_in_files": self.frames_in_files,
            "videos": self.videos,
            "strict_poseval": self.strict,
            "problems": self.problems,
            "poseval_stops": self.poseval_stops,
        }


@dataclass(frozen=True)
class Counts:
    """What one video adds: (15,) int64 annotated and right joints; scored frames, and frames in the file."""

    annotated: np.ndarray
    right: np.ndarray
    frames: int
    frames_in_file: int


def evaluate(
    gt_dir: str | Path, pred_dir: str | Path, *, joints: Counted = "annotated", strict_poseval: bool = False
) -> PCKhResult:
    """Score a folder of predictions against a folder of annotations; files pair by name, `.json` or `.json.gz`.

    A joint that the k-th prediction lacks is wrong, and so are all joints of people for whom there is no k-th one.
    joints="visible" leaves hidden joints out. strict_poseval=True gives poseval's number to rounding, and raises
    DataError, naming file and frame, where poseval stops on its way: fewer predictions than people in a frame, a joint
    that is never annotated, a missing file or other number of frames, people without a head box, unknown joint ids,
    regions of fewer than three corners. Raises DataError also as `posetrack.evaluate` does.
    """
    pairs, surplus = posetrack.pair_folders(Path(gt_dir), Path(pred_dir))
    videos = (
        (read_video(gt), None if pred is None else read_video(pred, integers=strict_poseval)) for gt, pred in pairs
    )
    return evaluate_videos(videos, joints=joints, strict_poseval=strict_poseval, problems=surplus)


def evaluate_videos(
    pairs: Iterable[tuple[VideoPoses, VideoPoses | None]],
    *,
    joints: Counted = "annotated",
    strict_poseval: bool = False,
    problems: Iterable[str] = (),
) -> PCKhResult:
    """Score pairs of (annotations, predictions or None) in memory, as `evaluate` does; holds one at a time.

    For strict_poseval the predictions must have been read with integers=True.
    """
    if joints not in ("annotated", "visible"):
        raise ValueError(f"joints is 'annotated' or 'visible', not {joints!r}")
    if strict_poseval and joints == "visible":
        raise ValueError("poseval counts hidden joints: strict_poseval goes with joints='annotated'")
    found = Findings(list(problems), [])
    pool: list[Counts] = []
    for annotated, predicted in pairs:
        counts, findings = score_video(annotated, predicted, joints=joints, strict_poseval=strict_poseval)
        pool.append(counts)
        found.add(findings)
    if not pool:
        raise DataError("no videos to score")
    total = np.sum([counts.annotated for counts in pool], axis=0)
    for joint in np.flatnonzero(total == 0):
        never = f"{POSETRACK.joints[joint]} is annotated in no frame of any file"
        if strict_poseval:
            _stop(never)
        found.poseval_stops.append(f"{never}; its PCKh is not a number")
    return _result(pool, found, strict_poseval)


def score_video(
    annotated: VideoPoses,
    predicted: VideoPoses | None,
    *,
    joints: Counted = "annotated",
    strict_poseval: bool = False,
) -> tuple[Counts, Findings]:
    """The counts of one video, and what is wrong with it. `predicted` None stands for a missing file."""
    findings = file_findings(annotated, predicted)
    scored = posetrack.frames_with_people(annotated)
    left = posetrack.points_left(annotated, annotated, scored)
    # poseval counts every annotated point, also a second one of the same joint of a person.
    points = np.flatnonzero(left) if strict_poseval else posetrack.first_points(annotated, left)
    if joints == "visible":
        points = points[annotated.flag[points] != HIDDEN]
    person, joint = annotated.point_person[points], annotated.joint[points]
    if predicted is None:
        if strict_poseval:
            _stop(f"{annotated.path}: no prediction file of this name")
        right = np.zeros(len(points), dtype=bool)
    else:
        if strict_poseval:
            _check_files(annotated, predicted, scored)
        pred_left = posetrack.points_left(predicted, annotated, scored)
        findings.problems.extend(scored_problems(annotated, left, predicted, pred_left, scored))
        partner, alone = _partners(annotated, left, predicted, pred_left, scored)
        if len(alone):
            what = f"{count(annotated.person_frame[alone])} with fewer predictions than people in the frame"
            findings.poseval_stops.append(f"{annotations_of(annotated)}: {what}; all their joints are wrong")
        guess = _positions(predicted, pred_left, strict_poseval)[partner[person], joint]
        head_size = annotated.head_size[person]
        if strict_poseval:
            headless = person[np.isnan(head_size) & ~np.isnan(guess).any(axis=1)]
            _check_people(annotated, predicted, {
                "fewer predictions than annotated people": alone,
                "an annotated joint id other than 0 to 14": person[joint < 0],
                "a person without a head box": headless,
            })  # fmt: skip
        right = posetrack.matches(annotated.xy[points][:, None], guess[:, None], head_size)[:, 0]
    counts = Counts(
        annotated=np.bincount(joint, minlength=_JOINTS),
        right=np.bincount(joint[right], minlength=_JOINTS),
        frames=int(scored.sum()),
        frames_in_file=annotated.frames,
    )
    return counts, findings


def format_table(results: Mapping[str, PCKhResult], *, details: bool = False) -> str:
    """PCKh by group and the total as plain text, one row per name; NaN prints as "-".

    details=True adds the columns of the single joints of the head after the total.
    """
    rows = {name: {**result.groups, "Total": result.mean} for name, result in results.items()}
    if details:
        parts = [POSETRACK.joints[joint] for joint in POSETRACK.groups["Head"]]
        rows = {name: {**row, **{part: results[name].joints[part] for part in parts}} for name, row in rows.items()}
    return text_table(rows)


def _partners(
    annotated: VideoPoses, left: np.ndarray, predicted: VideoPoses, pred_left: np.ndarray, scored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Who is compared with whom: (P,) index of the prediction for each annotated person, or -1; and those without one.

    The second are the indices, ascending, of people that poseval compares but finds no prediction for.
    """
    regions = frames_with_regions(annotated)
    people = np.flatnonzero(kept_people(annotated, left, scored, regions))
    others = np.flatnonzero(kept_people(predicted, pred_left, scored, regions))
    frame, other_frame = annotated.person_frame[people], predicted.person_frame[others]
    place = np.arange(len(people)) - np.searchsorted(frame, frame)  # among the people of the frame
    found = np.searchsorted(other_frame, frame) + place
    there = found < np.searchsorted(other_frame, frame, side="right")
    partner = np.full(len(annotated.person_frame), -1)
    partner[people[there]] = others[found[there]]
    return partner, people[~there]


def _positions(predicted: VideoPoses, left: np.ndarray, strict: bool) -> np.ndarray:
    """(P + 1, 15, 2) px, NaN where absent, and in the last row, which stands for no prediction."""
    xy = np.full((len(predicted.person_frame) + 1, _JOINTS, 2), np.nan)
    points = posetrack.first_points(predicted, left)
    if strict:
        if predicted.integer is None:
            raise ValueError("strict_poseval needs predictions read with integers=True")
        points = points[~predicted.integer[predicted.point_person[points]]]
    xy[predicted.point_person[points], predicted.joint[points]] = predicted.xy[points]
    return xy


def _check_files(annotated: VideoPoses, predicted: VideoPoses, scored: np.ndarray) -> None:
    """Stop where poseval stops before it compares people."""
    if predicted.frames != annotated.frames:
        first = min(predicted.frames, annotated.frames)
        _stop(f"{predicted.path}: frame {first}: {predicted.frames} frames for {annotated.frames} annotated")
    thin = annotated.regions.frame[(annotated.regions.size < 3) & scored[annotated.regions.frame]]
    if len(thin):
        _stop(f"{annotated.path}: frame {thin[0]}: an ignore region of fewer than 3 corners")


def _check_people(annotated: VideoPoses, predicted: VideoPoses, stops: dict[str, np.ndarray]) -> None:
    """Stop at the first frame where poseval stops. stops: why -> annotated people where it does."""
    first = [(int(annotated.person_frame[people].min()), why) for why, people in stops.items() if len(people)]
    if first:
        frame, why = min(first)
        _stop(f"{predicted.path if why.startswith('fewer') else annotated.path}: frame {frame}: {why}")


def _stop(why: str) -> NoReturn:
    raise DataError(f"{why}: poseval stops here; leave out --strict-poseval")


def _result(pool: list[Counts], found: Findings, strict: bool) -> PCKhResult:
    annotated = np.sum([counts.annotated for counts in pool], axis=0)
    right = np.sum([counts.right for counts in pool], axis=0)
    percent = np.full(_JOINTS, np.nan)
    np.divide(100.0 * right, annotated, out=percent, where=annotated > 0)
    joints = dict(zip(POSETRACK.joints, percent.tolist(), strict=True))
    return PCKhResult(
        joints=joints,
        groups=group_means(joints),
        mean=100.0 * int(right.sum()) / int(annotated.sum()) if annotated.any() else math.nan,
        counts={
            "annotated": dict(zip(POSETRACK.joints, annotated.tolist(), strict=True)),
            "right": dict(zip(POSETRACK.joints, right.tolist(), strict=True)),
        },
        frames=sum(counts.frames for counts in pool),
        frames_in_files=sum(counts.frames_in_file for counts in pool),
        videos=len(pool),
        strict=strict,
        problems=found.problems,
        poseval_stops=found.poseval_stops,
    )
