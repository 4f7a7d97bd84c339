"""COCO's keypoint average precision, for data with an own joint set, and PCK per joint group beside it.

AP and AR are those of pycocotools, the official evaluator, with the joint set's sigmas. Its rules, all kept: object
keypoint similarity (OKS) counts the joints with v > 0; crowds and people without joints are ignored; of every image and
category the 20 poses of highest score count, in crowded frames too; AP is the mean over OKS 0.50:0.05:0.95.
Medium is an area of 32^2 to 96^2 px^2, large one above. What files lack: `oks_files`.

PCK ranks nothing: every person that AP counts is paired with one pose of its image so that the sum of OKS is largest
(of all its poses, not 20). A person without a pose has all joints wrong; poses left over do no harm.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment

from glpose.data.json_files import read_json_file
from glpose.keypoints import JointSet
from glpose.metrics.coco_entries import CATEGORY, as_coco
from glpose.metrics.oks_files import Pose, read_annotated, read_predicted
from glpose.metrics.pck import PCKResult, score_poses
from glpose.metrics.precision_recall import Curve
from glpose.metrics.tables import plain, text_table
from glpose.options import PCK_ALPHA
from store.errors import DataError

MAX_POSES = 20  # per image and category: COCO's maxDets


@dataclass(frozen=True)
class OKSResult:
    """Scores in percent, NaN where nobody is annotated.

    ap: mean over OKS 0.50:0.05:0.95; ap50, ap75: at one OKS; ap_medium, ap_large: ap of people of that area, NaN where
    there are none; ar: average recall. pck: of the same people. images: evaluated ones. problems: one line each.
    """

    ap: float
    ap50: float
    ap75: float
    ap_medium: float
    ap_large: float
    ar: float
    pck: PCKResult
    images: int
    problems: list[str]

    @property
    def mean(self) -> float:
        """COCO's main number."""
        return self.ap

    def as_json(self) -> dict[str, object]:
        """The same as plain data, None for NaN."""
        numbers = {
            "mean": self.mean,
            "ap": self.ap,
            "ap50": self.ap50,
            "ap75": self.ap75,
            "ap_medium": self.ap_medium,
            "ap_large": self.ap_large,
            "ar": self.ar,
        }
        return {
            "metric": "OKS AP",
            **plain(numbers),
            "pck": self.pck.as_json(),
            "images": self.images,
            "problems": self.problems,
        }


def evaluate(gt: Path, pred: Path, joints: JointSet, *, alpha: float = PCK_ALPHA) -> OKSResult:
    """Score a COCO keypoint result file against a COCO-style annotation file, both JSON, plain or gzipped.

    Keypoints of both are in the order of the annotation file's category, which names them. Images without predictions
    are empty. alpha: PCK's share of max(w, h) of the annotated box. DataError, naming the file and entry, where either
    is malformed or lacks a joint, or where `joints` has no sigmas.
    """
    return evaluate_content(
        read_json_file(gt, "annotation file"), read_json_file(pred, "prediction file"), joints, alpha=alpha,
        gt_name=str(gt), pred_name=str(pred),
    )  # fmt: skip


def evaluate_content(
    annotated: Any,
    predicted: Any,
    joints: JointSet,
    *,
    alpha: float = PCK_ALPHA,
    gt_name: str = "annotations",
    pred_name: str = "predictions",
) -> OKSResult:
    """`evaluate` of what the two files hold; the names are what messages call them."""
    # Areas and squared distances of joints far off may overflow, and are wrong all the same; pycocotools prints.
    with np.errstate(over="ignore", invalid="ignore"), contextlib.redirect_stdout(io.StringIO()):
        scorer, people, poses, images = _accumulated(annotated, predicted, joints, gt_name, pred_name)
        scorer.summarize()
        pck = _pck(scorer, people, poses, joints, alpha)
    ap, ap50, ap75, medium, large, ar = (math.nan if value < 0 else 100.0 * float(value) for value in scorer.stats[:6])
    return OKSResult(
        ap=ap,
        ap50=ap50,
        ap75=ap75,
        ap_medium=medium,
        ap_large=large,
        ar=ar,
        pck=pck,
        images=images,
        problems=_crowded(poses, pred_name),
    )


def curves(gt: Path, pred: Path, joints: JointSet) -> dict[str, Curve]:
    """Precision against recall of the files that `evaluate` takes, at OKS 0.50, at 0.75 and as the mean that AP is of.

    At pycocotools' 101 recalls; the area is the mean of the precisions there, as AP is. Empty where nobody is
    annotated. DataError as of `evaluate`.
    """
    annotated, predicted = read_json_file(gt, "annotation file"), read_json_file(pred, "prediction file")
    with np.errstate(over="ignore", invalid="ignore"), contextlib.redirect_stdout(io.StringIO()):
        scorer, *_ = _accumulated(annotated, predicted, joints, str(gt), str(pred))
    precision = scorer.eval["precision"][:, :, 0, 0, -1]  # (10 OKS, 101 recalls) of all areas
    if (precision < 0).any():
        return {}
    shown = {"OKS 0.50": precision[0], "OKS 0.75": precision[5], "OKS 0.50 to 0.95, mean": precision.mean(axis=0)}
    recall = np.asarray(scorer.params.recThrs)
    return {name: Curve(recall, values, 100 * float(values.mean())) for name, values in shown.items()}


def _accumulated(
    annotated: Any, predicted: Any, joints: JointSet, gt_name: str, pred_name: str
) -> tuple[COCOeval, list[Pose], list[Pose], int]:
    """Pycocotools' evaluator after it has matched and accumulated; the people, the poses, how many images."""
    sigmas = np.array(joints.sigmas, np.float64)
    if len(sigmas) != len(joints) or not (np.isfinite(sigmas) & (sigmas > 0)).all():
        raise DataError(f"joint set {joints.name!r} needs {len(joints)} sigmas above 0, one per joint, for OKS")
    layout, people = read_annotated(annotated, joints, gt_name)
    poses = read_predicted(predicted, layout, pred_name)
    images = [number for number in layout.images.values() if number is not None]
    scorer = COCOeval(as_coco(images, _entries(people)), as_coco(images, _entries(poses)), "keypoints")
    scorer.params.kpt_oks_sigmas = sigmas
    scorer.params.maxDets = [MAX_POSES]
    scorer.evaluate()
    scorer.accumulate()
    return scorer, people, poses, len(images)


def format_table(results: Mapping[str, OKSResult]) -> str:
    """AP, AP50, AP75, AR, then PCK by group and its average as plain text, one row per name, under a line on both."""
    rows = {
        name: {
            "AP": result.ap,
            "AP50": result.ap50,
            "AP75": result.ap75,
            "AR": result.ar,
            **result.pck.groups,
            "Avg": result.pck.mean,
        }
        for name, result in results.items()
    }
    alphas = " and ".join(sorted({f"{result.pck.alpha:g}" for result in results.values()}))
    return f"AP to AR: OKS (COCO); then PCK@{alphas} of max(w, h)\n{text_table(rows)}"


def _entries(poses: list[Pose]) -> list[dict[str, Any]]:
    return [pose.entry for pose in poses]


def _pck(scorer: COCOeval, people: list[Pose], poses: list[Pose], joints: JointSet, alpha: float) -> PCKResult:
    """PCK of the people that count, each with the pose that stands for it."""
    scorer.params.maxDets = [len(poses)]
    predicted = _by_image(poses)
    counted: list[Pose] = []
    paired: list[np.ndarray] = []  # (J, 2) for each, NaN without a pose
    for image, members in _by_image(people).items():
        kept = [row for row, person in enumerate(members) if person.counts]
        own = [np.full((len(joints), 2), np.nan) for _ in kept]
        if kept and image in predicted:
            similarity = np.asarray(scorer.computeOks(image, CATEGORY))[:, kept]  # (poses by falling score, people)
            ranked = sorted(predicted[image], key=lambda pose: -pose.entry["score"])
            for pose, person in zip(*linear_sum_assignment(similarity, maximize=True), strict=True):
                own[person] = ranked[pose].keypoints[:, :2]
        counted += [members[row] for row in kept]
        paired += own
    return score_poses(
        np.array(paired).reshape(-1, len(joints), 2),
        np.array([person.keypoints for person in counted]).reshape(-1, len(joints), 3),
        np.array([person.box for person in counted]).reshape(-1, 4),
        joints,
        alpha,
    )


def _by_image(poses: list[Pose]) -> dict[int, list[Pose]]:
    grouped: dict[int, list[Pose]] = {}
    for pose in poses:
        grouped.setdefault(pose.image, []).append(pose)
    return grouped


def _crowded(poses: list[Pose], name: str) -> list[str]:
    crowded = sum(len(members) > MAX_POSES for members in _by_image(poses).values())
    rule = f"AP counts the {MAX_POSES} poses of highest score in an image, as COCO does"
    return [f"{name}: {rule}; more are there in {crowded} of them"] if crowded else []
