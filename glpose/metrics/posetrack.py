"""PoseTrack average precision: the numbers of poseval, vectorised.

`evaluate` agrees with poseval (leonid-pishchulin/poseval 4258a15) to rounding wherever the order of equal scores does
not matter; equal scores rank in stable reversed order, files sorted by name. In short:

1. Frames pair by index within files of the same name; frames whose annotations list nobody are dropped.
2. Joints strictly inside an ignore region are removed, annotated or predicted.
3. A joint matches within half the head size. A prediction keeps the annotated person of whom it matches the largest
   share of joints; a person then takes the best of the predictions left. Losers get no second choice.
4. Every predicted joint is one sample, right where it matches its person's. AP is the area under the monotone
   precision envelope over all frames, in percent; the mean runs over the joints (not the groups) that are not NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glpose.keypoints import HIDDEN, POSETRACK, Counted
from glpose.metrics.posetrack_files import VideoPoses, list_videos, read_video
from glpose.metrics.posetrack_problems import Findings, file_findings, scored_problems, unranked_problems
from glpose.metrics.posetrack_regions import inside_regions, ranges, slices_of
from glpose.metrics.posetrack_result import PoseTrackResult, format_table, group_means, head_parts, mean_over_joints
from store.errors import DataError

__all__ = [
    "People",
    "PoseTrackResult",
    "Samples",
    "assign",
    "distances",
    "envelope_of",
    "evaluate",
    "evaluate_files",
    "evaluate_videos",
    "evaluated_samples",
    "first_points",
    "format_table",
    "frames_with_people",
    "group_means",
    "head_parts",
    "matches",
    "mean_over_joints",
    "pair_folders",
    "pair_people",
    "people_left",
    "points_left",
    "score_video",
]

MATCH_DISTANCE = 0.5  # of the head size, inclusive

_PAIRS_AT_ONCE = 50_000  # person pairs per step: bounds memory (15 joints x a few doubles each)
_JOINTS = len(POSETRACK)


@dataclass(frozen=True)
class Samples:
    """What one video adds to the pool: S predicted joints in the order of frames, people and joints."""

    joint: np.ndarray  # (S,) int64, index into POSETRACK.joints
    score: np.ndarray  # (S,) float64
    correct: np.ndarray  # (S,) bool
    n_gt: np.ndarray  # (15,) int64, annotated joints
    frames: int  # scored frames


@dataclass(frozen=True)
class People:
    """The people of the scored frames that have at least one joint, P of them in frame order."""

    person: np.ndarray  # (P,) int64, which of the file's people, ascending
    frame: np.ndarray  # (P,) int64
    head_size: np.ndarray  # (P,) float64 px
    has: np.ndarray  # (P, 15) bool
    xy: np.ndarray  # (P, 15, 2) float64 px, NaN where absent
    hidden: np.ndarray  # (P, 15) bool
    score: np.ndarray  # (P, 15) float64


def evaluate(gt_dir: str | Path, pred_dir: str | Path, *, joints: Counted = "annotated") -> PoseTrackResult:
    """Score a folder of predictions against a folder of annotations; files pair by name, `.json` or `.json.gz`.

    joints="annotated" is poseval: hidden joints count like visible ones. joints="visible" takes annotated but hidden
    joints out of the score: people are assigned as before, then hidden joints neither count as annotated nor does
    their person's prediction of them count as a sample, so that predicting a hidden joint is never a false positive.
    (A joint without any sample left scores 0, as poseval scores a joint that nobody predicts.)

    A missing prediction file, a differing number of frames, people without a head box, and whatever else stops poseval
    and changes the score is listed in `problems`; the rest is scored: missing frames hold no predictions, surplus ones
    are ignored, joints of people without a head box match nothing. What stops poseval but changes nothing, like a
    missing track id, is in `poseval_stops`. Raises DataError for a folder without annotations and for files that are
    not PoseTrack JSON.
    """
    pairs, surplus = pair_folders(Path(gt_dir), Path(pred_dir))
    return evaluate_files(pairs, joints=joints, problems=surplus)


def pair_folders(gt_dir: Path, pred_dir: Path) -> tuple[list[tuple[Path, Path | None]], list[str]]:
    """(annotation file, prediction file or None) by name, and the problem of every prediction file without annotations.

    Raises DataError for a folder that is missing, and for one without annotations.
    """
    annotations = list_videos(gt_dir)
    if not annotations:
        raise DataError(f"{gt_dir}: holds no annotation file (*.json or *.json.gz)")
    predictions = list_videos(pred_dir)
    pairs = [(path, predictions.get(name)) for name, path in annotations.items()]
    surplus = [f"{predictions[name].name}: no annotations; ignored" for name in predictions if name not in annotations]
    if predictions and not any(pred for _, pred in pairs):
        wanted = next(iter(annotations.values())).name
        surplus.append(f"{pred_dir}: no file is named as an annotation file, such as {wanted}; nothing pairs")
    return pairs, surplus


def evaluate_files(
    pairs: Iterable[tuple[Path, Path | None]], *, joints: Counted = "annotated", problems: Iterable[str] = ()
) -> PoseTrackResult:
    """Score pairs of (annotation file, prediction file or None), as `evaluate` does; their order breaks ties.

    `problems` known before reading come first in the result's.
    """
    videos = ((read_video(gt), None if pred is None else read_video(pred)) for gt, pred in pairs)
    return evaluate_videos(videos, joints=joints, problems=problems)


def evaluate_videos(
    pairs: Iterable[tuple[VideoPoses, VideoPoses | None]],
    *,
    joints: Counted = "annotated",
    problems: Iterable[str] = (),
) -> PoseTrackResult:
    """Score pairs of (annotations, predictions or None) in memory, as `evaluate_files` does; holds one at a time."""
    if joints not in ("annotated", "visible"):
        raise ValueError(f"joints is 'annotated' or 'visible', not {joints!r}")
    found = Findings(list(problems), [])
    pool: list[Samples] = []
    frames_in_files = 0
    for annotated, predicted in pairs:
        samples, findings = score_video(annotated, predicted, joints=joints)
        pool.append(samples)
        found.add(findings)
        frames_in_files += annotated.frames
    if not pool:
        raise DataError("no videos to score")
    return _result(pool, frames_in_files, found)


def score_video(
    annotated: VideoPoses, predicted: VideoPoses | None, *, joints: Counted = "annotated"
) -> tuple[Samples, Findings]:
    """The samples of one video, and what is wrong with it. `predicted` None stands for a missing file."""
    findings = file_findings(annotated, predicted)
    scored = frames_with_people(annotated)
    gt_left = points_left(annotated, annotated, scored)
    gt = people_left(annotated, gt_left)
    n_gt = (gt.has & ~gt.hidden if joints == "visible" else gt.has).sum(axis=0)
    if predicted is None:
        nothing = np.zeros(0)
        return Samples(nothing.astype(np.int64), nothing, nothing.astype(bool), n_gt, int(scored.sum())), findings
    pred_left = points_left(predicted, annotated, scored)
    findings.problems.extend(scored_problems(annotated, gt_left, predicted, pred_left, scored))
    findings.problems.extend(unranked_problems(predicted, pred_left))
    pred = people_left(predicted, pred_left)
    owner, match = assign(gt, pred)
    counted = pred.has.copy()
    if joints == "visible":
        counted[owner >= 0] &= ~gt.hidden[owner[owner >= 0]]
    person, joint = np.nonzero(counted)
    samples = Samples(joint, pred.score[person, joint], match[person, joint], n_gt, int(scored.sum()))
    return samples, findings


def pair_people(annotated: VideoPoses, predicted: VideoPoses | None) -> tuple[People, People, np.ndarray, np.ndarray]:
    """Annotated people that AP counts, predicted ones, and who is whose, as `assign` has it. None: no predictions."""
    scored = frames_with_people(annotated)
    truth = people_left(annotated, points_left(annotated, annotated, scored))
    if predicted is None:
        found = people_left(annotated, np.zeros(len(annotated.joint), bool))  # nobody
    else:
        found = people_left(predicted, points_left(predicted, annotated, scored))
    return truth, found, *assign(truth, found)


def frames_with_people(annotated: VideoPoses) -> np.ndarray:
    """(frames,) bool: the frames that are scored, those whose annotations list anybody."""
    return np.bincount(annotated.person_frame, minlength=annotated.frames) > 0


def points_left(video: VideoPoses, annotated: VideoPoses, scored: np.ndarray) -> np.ndarray:
    """(N,) bool: points in scored frames and outside the annotated regions to ignore."""
    frame = video.person_frame[video.point_person]
    left = np.append(scored, False)[np.minimum(frame, len(scored))]
    left[left] = ~inside_regions(frame[left], video.xy[left], annotated.regions)
    return left


def first_points(video: VideoPoses, left: np.ndarray) -> np.ndarray:
    """(K,) indices of points left that PoseTrack scores, the first of each joint of a person; by person and joint."""
    points = np.flatnonzero(left & (video.joint >= 0))
    _, first = np.unique(video.point_person[points] * _JOINTS + video.joint[points], return_index=True)
    return points[first]


def people_left(video: VideoPoses, left: np.ndarray) -> People:
    """The people with joints among the points left; of several points of one joint the first counts."""
    points = first_points(video, left)
    person, row = np.unique(video.point_person[points], return_inverse=True)
    joint = video.joint[points]
    shape = (len(person), _JOINTS)
    people = People(
        person=person,
        frame=video.person_frame[person],
        head_size=video.head_size[person],
        has=np.zeros(shape, dtype=bool),
        xy=np.full((*shape, 2), np.nan),
        hidden=np.zeros(shape, dtype=bool),
        score=np.full(shape, np.nan),
    )
    people.has[row, joint] = True
    people.xy[row, joint] = video.xy[points]
    people.hidden[row, joint] = video.flag[points] == HIDDEN
    people.score[row, joint] = video.score[points]
    return people


def assign(gt: People, pred: People) -> tuple[np.ndarray, np.ndarray]:
    """Who is whose, decided per frame.

    Returns (P,) int, the index of the annotated person that each prediction is assigned to, or -1; and (P, 15) bool,
    the joints of each assigned prediction that match that person's.
    """
    first = np.searchsorted(gt.frame, pred.frame, side="left")
    rivals = np.searchsorted(gt.frame, pred.frame, side="right") - first  # annotated people in the same frame
    n_annotated = gt.has.sum(axis=1)
    best = np.full(len(pred.frame), -1)
    best_share = np.zeros(len(pred.frame))
    best_match = np.zeros((len(pred.frame), _JOINTS), dtype=bool)
    seen = np.flatnonzero(rivals)
    for part in slices_of(rivals[seen], _PAIRS_AT_ONCE):
        people = seen[part]
        pair_pred = np.repeat(people, rivals[people])
        pair_gt = ranges(first[people], rivals[people])
        match = matches(gt.xy[pair_gt], pred.xy[pair_pred], gt.head_size[pair_gt])
        share = match.sum(axis=1) / n_annotated[pair_gt]
        chosen = first_best(share, rivals[people])
        best[people] = pair_gt[chosen]
        best_share[people] = share[chosen]
        best_match[people] = match[chosen]
    owner = one_each(best, best_share)
    best_match[owner < 0] = False
    return owner, best_match


def matches(gt_xy: np.ndarray, pred_xy: np.ndarray, head_size: np.ndarray) -> np.ndarray:
    """(K, J, 2) px twice and (K,) px to (K, J) bool. Absent joints and head sizes are NaN and match nothing."""
    with np.errstate(all="ignore"):  # head boxes without extent
        # Divided, not multiplied out: the comparison must round as poseval's does.
        return distances(gt_xy, pred_xy) / head_size[:, None] <= MATCH_DISTANCE


def distances(gt_xy: np.ndarray, pred_xy: np.ndarray) -> np.ndarray:
    """(..., 2) px twice to (...) px, NaN where either is."""
    with np.errstate(all="ignore"):  # positions at infinity
        offset = gt_xy - pred_xy
        offset *= offset
        return np.sqrt(offset[..., 0] + offset[..., 1])


def first_best(value: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Index of the largest value, the first of equals, in each of the consecutive runs of the given sizes (all > 0)."""
    starts = np.cumsum(sizes) - sizes
    candidates = np.flatnonzero(value == np.repeat(np.maximum.reduceat(value, starts), sizes))
    return candidates[np.searchsorted(candidates, starts)]


def one_each(best: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(P,) best annotated person and share of matches, per prediction, to (P,) owner or -1.

    Each annotated person takes, of the predictions that chose it, the one with the largest share above zero, the first
    of equals. The others go without: there is no second round.
    """
    owner = np.full(len(best), -1)
    wanted = np.flatnonzero(share > 0)
    order = wanted[np.lexsort((-share[wanted], best[wanted]))]  # stable: equals stay in order
    winners = order[np.diff(best[order], prepend=-1) != 0]
    owner[winners] = best[winners]
    return owner


def precision_recall(score: np.ndarray, correct: np.ndarray, n_gt: int) -> tuple[float, float, float]:
    """AP, precision and recall in percent of (S,) samples; 0 without samples, AP and recall NaN without annotations."""
    if not len(score):
        return 0.0, 0.0, 0.0
    if not n_gt:
        return math.nan, float(correct.mean() * 100), math.nan
    recall, envelope = envelope_of(score, correct, n_gt)
    ap = np.sum(np.diff(recall, prepend=0.0) * envelope)
    return float(ap * 100), float(envelope[-1] * 100), float(recall[-1] * 100)


def envelope_of(score: np.ndarray, correct: np.ndarray, n_gt: int) -> tuple[np.ndarray, np.ndarray]:
    """(S,) samples, by falling score, to (S,) recall, ascending, and (S,) precision envelope, both from 0 to 1.

    The envelope is the best precision at that recall or above. n_gt > 0.
    """
    right = np.cumsum(correct[np.argsort(score, kind="stable")[::-1]])
    precision = right / np.arange(1, len(right) + 1)
    return right / n_gt, np.maximum.accumulate(precision[::-1])[::-1]


def evaluated_samples(gt_dir: Path, pred_dir: Path, joints: Counted) -> Samples:
    """The samples of all videos of two folders together, as `evaluate` pools them."""
    pairs, _ = pair_folders(gt_dir, pred_dir)
    pool = [
        score_video(read_video(gt), None if pred is None else read_video(pred), joints=joints)[0] for gt, pred in pairs
    ]
    return _pooled(pool)


def _pooled(pool: list[Samples]) -> Samples:
    return Samples(
        joint=np.concatenate([samples.joint for samples in pool]),
        score=np.concatenate([samples.score for samples in pool]),
        correct=np.concatenate([samples.correct for samples in pool]),
        n_gt=np.sum([samples.n_gt for samples in pool], axis=0),
        frames=sum(samples.frames for samples in pool),
    )


def _result(pool: list[Samples], frames_in_files: int, found: Findings) -> PoseTrackResult:
    every = _pooled(pool)
    joint, score, correct, n_gt = every.joint, every.score, every.correct, every.n_gt
    curves = [precision_recall(score[joint == j], correct[joint == j], int(n_gt[j])) for j in range(_JOINTS)]
    ap, precision, recall = (dict(zip(POSETRACK.joints, column, strict=True)) for column in zip(*curves, strict=True))

    def per_joint(numbers: np.ndarray) -> dict[str, int]:
        return dict(zip(POSETRACK.joints, numbers.tolist(), strict=True))

    return PoseTrackResult(
        ap=ap,
        mean=mean_over_joints(ap),
        groups=group_means(ap),
        precision=precision,
        recall=recall,
        counts={
            "n_gt": per_joint(n_gt),
            "n_pred": per_joint(np.bincount(joint, minlength=_JOINTS)),
            "n_tp": per_joint(np.bincount(joint[correct], minlength=_JOINTS)),
        },
        frames=every.frames,
        frames_in_files=frames_in_files,
        videos=len(pool),
        problems=found.problems,
        poseval_stops=found.poseval_stops,
    )
