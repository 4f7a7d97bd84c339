"""What is wrong with a pair of PoseTrack files, in words: mostly what poseval crashes on, and we score around.

Every problem is one line that names the file, what is missing and the first frame (0-based) where it is.
"""

from __future__ import annotations

import numpy as np

from glpose.metrics.posetrack_files import VideoPoses

MAX_TRACK_ID = 10000  # poseval refuses ids from here on


def file_problems(annotated: VideoPoses, predicted: VideoPoses | None) -> list[str]:
    """What can be told before pairing frames: the readers' own findings, track ids, a missing file, frame counts."""
    problems = [f"{_annotations(annotated)}: {what}" for what in (*annotated.problems, *_track_problems(annotated))]
    if predicted is None:
        return [*problems, f"{_annotations(annotated)}: no prediction file; scored as if it held no predictions"]
    found = [*predicted.problems, *_track_problems(predicted), *_repeated_tracks(predicted)]
    if predicted.frames < annotated.frames:
        found.append(f"{predicted.frames} frames for {annotated.frames} annotated; none predicted from frame "
                     f"{predicted.frames} on")  # fmt: skip
    elif predicted.frames > annotated.frames:
        found.append(f"{predicted.frames} frames for {annotated.frames} annotated; ignored from frame "
                     f"{annotated.frames} on")  # fmt: skip
    return problems + [f"{_predictions(predicted)}: {what}" for what in found]


def scored_problems(
    annotated: VideoPoses, gt_left: np.ndarray, predicted: VideoPoses, pred_left: np.ndarray, scored: np.ndarray
) -> list[str]:
    """What matters only in scored frames: head boxes, polygons of fewer than three corners, numbers that are not.

    gt_left, pred_left: (N,) bool, the points that are left after dropping frames and ignore regions. scored: (frames,)
    bool.
    """
    regions = np.bincount(annotated.regions.frame, minlength=annotated.frames) > 0
    gt_kept = _kept(annotated, gt_left, scored, regions)
    pred_frames = predicted.person_frame[_kept(predicted, pred_left, scored, regions)]
    headless = gt_kept & np.isnan(annotated.head_size) & np.isin(annotated.person_frame, pred_frames)
    thin = (annotated.regions.size < 3) & scored[annotated.regions.frame]
    problems = []
    name = _annotations(annotated)
    if headless.any():
        problems.append(f"{name}: {_count(annotated.person_frame[headless])} without a head box; they match nothing")
    if thin.any():
        where = _count(annotated.regions.frame[thin], "ignore regions")
        problems.append(f"{name}: {where} of fewer than 3 corners; they ignore nothing")
    for video, left, label in ((annotated, gt_left, name), (predicted, pred_left, _predictions(predicted))):
        frame = video.person_frame[video.point_person]
        nowhere = left & np.isnan(video.xy).any(axis=1)
        if nowhere.any():
            problems.append(f"{label}: {_count(frame[nowhere], 'joints')} without a position; they match nothing")
    unranked = pred_left & np.isnan(predicted.score)
    if unranked.any():
        where = _count(predicted.person_frame[predicted.point_person][unranked], "joints")
        problems.append(f"{_predictions(predicted)}: {where} whose score is not a number; they rank first")
    return problems


def _kept(video: VideoPoses, left: np.ndarray, scored: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(P,) bool: the people that poseval compares; without points only where the frame has no region to ignore."""
    n_left = np.bincount(video.point_person[left], minlength=len(video.person_frame))
    frame = np.minimum(video.person_frame, len(scored))
    return video.listed & np.append(scored, False)[frame] & ((n_left > 0) | ~np.append(regions, False)[frame])


def _track_problems(video: VideoPoses) -> list[str]:
    missing = np.isnan(video.track_id)
    large = video.track_id >= MAX_TRACK_ID
    problems = []
    if missing.any():
        problems.append(f"{_count(video.person_frame[missing])} without track_id")
    if large.any():
        problems.append(f"{_count(video.person_frame[large])} with a track_id of {MAX_TRACK_ID} or more")
    return problems


def _repeated_tracks(video: VideoPoses) -> list[str]:
    order = np.lexsort((video.track_id, video.person_frame))
    frame, track = video.person_frame[order], video.track_id[order]
    repeated = (frame[1:] == frame[:-1]) & (track[1:] == track[:-1])  # NaN, a missing id, equals nothing
    return [f"{_count(frame[1:][repeated])} with the track_id of another in the same frame"] if repeated.any() else []


def _annotations(video: VideoPoses) -> str:
    return f"{video.path.name} (annotations)"


def _predictions(video: VideoPoses) -> str:
    return f"{video.path.name} (predictions)"


def _count(frames: np.ndarray, what: str = "people") -> str:
    return f"{len(frames)} {what} (first in frame {frames[0]})"
