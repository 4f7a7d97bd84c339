"""Poses as the files that the official evaluators of PoseTrack and COCO read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from glpose.data.posetrack18 import NAMES
from glpose.keypoints import POSETRACK, JointSet

SURE = 0.2  # heatmap maximum from which a joint says something about its pose (HRNet's in_vis_thre)


def posetrack18(
    images: list[dict[str, Any]],
    frame: np.ndarray,
    boxes: np.ndarray,
    poses: np.ndarray,
    tracks: np.ndarray | None = None,
) -> dict[str, Any]:
    """A PoseTrack18 prediction file: every image, with people or without.

    images: entries of the evaluated frames. frame: (n,) index into `images`. boxes: (n, 4) xyxy, frame px. poses:
    (n, 15, 3) x, y in frame px, score. tracks: (n,) track ids; without any they number the people of a frame: poseval
    demands them, AP ignores them.
    """
    keys = ("id", "file_name", "vid_id", "frame_id", "nframes")
    entries = [{key: image[key] for key in keys if key in image} for image in images]
    columns = POSETRACK.indices_of(NAMES)
    people = []
    order = np.argsort(frame, kind="stable")
    numbers = _numbered(frame[order]) if tracks is None else tracks[order].tolist()
    for row, track in zip(order, numbers, strict=True):
        keypoints, scores = [], []
        for column in columns:
            x, y, score = (0.0, 0.0, 0.0) if column is None else poses[row, column].tolist()
            keypoints += [round(x, 3), round(y, 3), 0 if column is None else 1]
            scores.append(score)
        x1, y1, x2, y2 = boxes[row].tolist()
        image_id = entries[int(frame[row])]["id"]
        people.append(
            {
                "image_id": image_id,
                "id": len(people),
                "category_id": 1,
                "track_id": track,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "keypoints": keypoints,
                "scores": scores,
            }
        )
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(NAMES), "skeleton": []}
    return {"images": entries, "annotations": people, "categories": [category]}


def posetrack17(names: list[str], frame: np.ndarray, boxes: np.ndarray, poses: np.ndarray) -> dict[str, Any]:
    """A PoseTrack17 prediction file (annolist); arguments as for `posetrack18`, names: of the evaluated frames."""
    annolist: list[dict[str, Any]] = [{"image": [{"name": name}], "annorect": []} for name in names]
    for row in np.argsort(frame, kind="stable"):
        rects = annolist[int(frame[row])]["annorect"]
        points = [
            {"id": [joint], "x": [round(x, 3)], "y": [round(y, 3)], "score": [score]}
            for joint, (x, y, score) in enumerate(poses[row].tolist())
        ]
        x1, y1, x2, y2 = boxes[row].tolist()
        rect = {"x1": [x1], "y1": [y1], "x2": [x2], "y2": [y2], "track_id": [len(rects)]}
        rects.append({**rect, "annopoints": [{"point": points}]})
    return {"annolist": annolist}


def coco(
    image_ids: Sequence[Any],
    frame: np.ndarray,
    scores: np.ndarray,
    poses: np.ndarray,
    category_id: Any,
    columns: Sequence[int | None],
) -> list[dict[str, Any]]:
    """COCO keypoint results, a list of poses in frame order; pycocotools takes images without any as empty.

    image_ids: of the evaluated frames, as the annotation file has them. frame: (n,) index into `image_ids`. scores:
    (n,) of the poses, by which they are ranked. poses: (n, J, 3) x, y in frame px, score. columns: for every joint that
    the annotation file names, its index in `poses`; None where that lacks it, and (0, 0, 0) is written. Boxes are left
    out, as in COCO's format: given one, pycocotools tells medium from large poses by it rather than by their joints.
    """
    results = []
    for row in np.argsort(frame, kind="stable"):
        keypoints = []
        for column in columns:
            x, y, score = (0.0, 0.0, 0.0) if column is None else poses[row, column].tolist()
            keypoints += [round(x, 3), round(y, 3), score]
        results.append(
            {
                "image_id": image_ids[int(frame[row])],
                "category_id": category_id,
                "keypoints": keypoints,
                "score": float(scores[row]),
            }
        )
    return results


def coco_people(
    images: list[dict[str, Any]],
    joints: JointSet,
    frame: np.ndarray,
    boxes: np.ndarray,
    poses: np.ndarray,
    scores: np.ndarray,
    tracks: np.ndarray,
) -> dict[str, Any]:
    """Predictions as a COCO keypoint file that stands alone: images, annotations and the joints as their category.

    images: entries with `id`. frame: (n,) index into `images`. boxes: (n, 4) xyxy, frame px. poses: (n, J, 3) x, y in
    frame px, score. scores: (n,) of the poses. tracks: (n,) track ids. All joints have COCO's flag 2; their scores are
    in `keypoint_scores`.
    """
    people = []
    for row in np.argsort(frame, kind="stable"):
        x1, y1, x2, y2 = boxes[row].tolist()
        points = [[round(x, 3), round(y, 3), 2] for x, y, _ in poses[row].tolist()]
        people.append(
            {
                "id": len(people),
                "image_id": images[int(frame[row])]["id"],
                "category_id": 1,
                "track_id": int(tracks[row]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "keypoints": [value for point in points for value in point],
                "num_keypoints": len(points),
                "keypoint_scores": poses[row, :, 2].tolist(),
                "score": float(scores[row]),
            }
        )
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(joints.joints),
        "skeleton": [[a + 1, b + 1] for a, b in joints.limbs],  # COCO counts joints from 1
    }
    return {"images": images, "annotations": people, "categories": [category]}


def coco_scores(
    joint_scores: np.ndarray, box_scores: np.ndarray, score: Literal["product", "heatmap"] = "product"
) -> np.ndarray:
    """(n,) scores of poses for COCO: mean of the scores of their joints whose heatmap maximum is above 0.2.

    joint_scores: (n, J), heatmap maximum x box score ("product") or the maximum alone ("heatmap"). box_scores: (n,).
    Of products that is box score x mean of the maxima above 0.2, HRNet's rescoring (lib/dataset/coco.py). A pose
    without a joint above 0.2 has the mean of all its joints, where HRNet's 0 would leave all such poses unranked.
    """
    least = SURE * box_scores[:, None] if score == "product" else SURE
    sure = joint_scores > least
    sure |= ~sure.any(axis=1, keepdims=True)
    return joint_scores.mean(axis=1, where=sure)


def _numbered(frames: np.ndarray) -> list[int]:
    """0, 1, 2 ... within each run of equal frames."""
    starts = np.flatnonzero(np.r_[True, frames[1:] != frames[:-1]]) if len(frames) else np.array([], int)
    return (np.arange(len(frames)) - np.repeat(starts, np.diff(np.r_[starts, len(frames)]))).tolist()
