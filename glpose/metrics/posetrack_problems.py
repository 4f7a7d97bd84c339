"""What is wrong with a pair of PoseTrack files, in words: mostly what poseval crashes on, and we score around.

Every finding is one line that names the file, what is missing and the first frame (0-based) where it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from glpose.metrics.posetrack_files import VideoPoses

MAX_TRACK_ID = 10000  # poseval refuses ids from here on


class Findings(NamedTuple):
    """problems: what changes the score, or may. poseval_stops: what stops poseval, but leaves our score as it is."""

    problems: list[str]
    poseval_stops: list[str]

    def add(self, other: Findings) -> None:
        """Append what another holds."""
        self.problems.extend(other.problems)
        self.poseval_stops.extend(other.poseval_stops)


def file_findings(annotated: VideoPoses, predicted: VideoPoses | None) -> Findings:
    """What can be told before pairing frames: the readers' own findings, track ids, a missing file, frame counts."""
    name = annotations_of(annotated)
    found = Findings(
        _named(name, annotated.problems), _named(name, (*annotated.poseval_stops, *_track_problems(annotated)))
    )
    if predicted is None:
        found.problems.append(f"{name}: no prediction file; scored as if it held no predictions")
        return found
    problems = list(predicted.problems)
    if predicted.frames < annotated.frames:
        problems.append(f"{predicted.frames} frames for {annotated.frames} annotated; none predicted from frame "
                        f"{predicted.frames} on")  # fmt: skip
    elif predicted.frames > annotated.frames:
        problems.append(f"{predicted.frames} frames for {annotated.frames} annotated; ignored from frame "
                        f"{annotated.frames} on")  # fmt: skip
    stops = (*predicted.poseval_stops, *_track_problems(predicted), *_repeated_tracks(predicted))
    found.add(Findings(_named(predictions_of(predicted), problems), _named(predictions_of(predicted), stops)))
    return found


def scored_problems(
    annotated: VideoPoses, gt_left: np.ndarray, predicted: VideoPoses, pred_left: np.ndarray, scored: np.ndarray
) -> list[str]:
    """What matters only in scored frames: head boxes, polygons of fewer than three corners, joints without a position.

    gt_left, pred_left: (N,) bool, the points that are left after dropping frames and ignore regions. scored: (frames,)
    bool.
    """
    regions = frames_with_regions(annotated)
    gt_kept = kept_people(annotated, gt_left, scored, regions)
    pred_frames = predicted.person_frame[kept_people(predicted, pred_left, scored, regions)]
    headless = gt_kept & ~(annotated.head_size > 0) & np.isin(annotated.person_frame, pred_frames)
    thin = (annotated.regions.size < 3) & scored[annotated.regions.frame]
    problems = []
    name = annotations_of(annotated)
    if headless.any():
        people = count(annotated.person_frame[headless])
        problems.append(f"{name}: {people} without a head box, or one of no size; they match nothing")
    if thin.any():
        where = count(annotated.regions.frame[thin], "ignore regions")
        problems.append(f"{name}: {where} of fewer than 3 corners; they ignore nothing")
    for video, left, label in ((annotated, gt_left, name), (predicted, pred_left, predictions_of(predicted))):
        frame = video.person_frame[video.point_person]
        nowhere = left & np.isnan(video.xy).any(axis=1)
        if nowhere.any():
            problems.append(f"{label}: {count(frame[nowhere], 'joints')} without a position; they match nothing")
    return problems


def unranked_problems(predicted: VideoPoses, pred_left: np.ndarray) -> list[str]:
    """Joints left, (N,) bool, whose score orders them nowhere."""
    unranked = pred_left & np.isnan(predicted.score)
    if not unranked.any():
        return []
    where = count(predicted.person_frame[predicted.point_person][unranked], "joints")
    return [f"{predictions_of(predicted)}: {where} whose score is not a number; they rank first"]


def frames_with_regions(annotated: VideoPoses) -> np.ndarray:
    """(frames,) bool: frames with regions to ignore."""
    return np.bincount(annotated.regions.frame, minlength=annotated.frames) > 0


def kept_people(video: VideoPoses, left: np.ndarray, scored: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(P,) bool: the people that poseval compares; without points only where the frame has no region to ignore.

    left: (N,) bool, the points left after dropping frames and ignore regions. scored, regions: (frames,) bool.
    """
    n_left = np.bincount(video.point_person[left], minlength=len(video.person_frame))
    frame = np.minimum(video.person_frame, len(scored))
    return video.listed & np.append(scored, False)[frame] & ((n_left > 0) | ~np.append(regions, False)[frame])


def _track_problems(video: VideoPoses) -> list[str]:
    missing = np.isnan(video.track_id)
    large = video.track_id >= MAX_TRACK_ID
    problems = []
    if missing.any():
        problems.append(f"{count(video.person_frame[missing])} without track_id")
    if large.any():
        problems.append(f"{count(video.person_frame[large])} with a track_id of {MAX_TRACK_ID} or more")
    return problems


def _repeated_tracks(video: VideoPoses) -> list[str]:
    order = np.lexsort((video.track_id, video.person_frame))
    frame, track = video.person_frame[order], video.track_id[order]
    repeated = (frame[1:] == frame[:-1]) & (track[1:] == track[:-1])  # NaN, a missing id, equals nothing
    return [f"{count(frame[1:][repeated])} with the track_id of another in the same frame"] if repeated.any() else []


def annotations_of(video: VideoPoses) -> str:
    """How findings name a file of annotations."""
    return f"{video.path.name} (annotations)"


def predictions_of(video: VideoPoses) -> str:
    """How findings name a file of predictions."""
    return f"{video.path.name} (predictions)"


def _named(name: str, findings: Iterable[str]) -> list[str]:
    return [f"{name}: {what}" for what in findings]


def count(frames: np.ndarray, what: str = "people") -> str:
    """How many there are, one for each of `frames`, and where the first is."""
    return f"{len(frames)} {what} (first in frame {frames[0]})"
