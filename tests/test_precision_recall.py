"""Precision against recall: the area of a curve is the AP that tables print."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from posetrack_builders import POSE, elsewhere, person, random_video, scored, video17
from test_oks import JOINTS, annotated, annotation, random_case

from glpose.keypoints import Counted
from glpose.metrics import oks, posetrack
from glpose.metrics.precision_recall import MEAN, Curve, posetrack_curves

CASES = ["2_small18", "3_ties", "4_edge", "7_real18"]
NAME = "000001_mpii_test.json"


def write(folder: Path, gt: object, pred: object) -> tuple[Path, Path]:
    for side, data in (("gt", gt), ("pred", pred)):
        (folder / side).mkdir(parents=True)
        (folder / side / NAME).write_text(json.dumps(data))
    return folder / "gt", folder / "pred"


def staircase_area(curve: Curve) -> float:
    """Percent below steps that hold up to each recall, summed one by one."""
    area, before = 0.0, 0.0
    for recall, precision in zip(curve.recall.tolist(), curve.precision.tolist(), strict=True):
        area += (recall - before) * precision
        before = recall
    return 100 * area


def agree(curves: dict[str, Curve], result: posetrack.PoseTrackResult) -> None:
    table = {**result.groups, MEAN: result.mean}
    assert curves.keys() == {name for name, ap in table.items() if not math.isnan(ap)}
    for name, curve in curves.items():
        assert curve.area == pytest.approx(table[name], abs=1e-9), name
        assert staircase_area(curve) == pytest.approx(table[name], abs=1e-9), name
        assert (np.diff(curve.recall) > 0).all() and (np.diff(curve.precision) <= 1e-12).all(), name
        assert curve.recall.max(initial=0) <= 1 and curve.precision.max(initial=0) <= 1


@pytest.mark.parametrize("joints", ["annotated", "visible"])
@pytest.mark.parametrize("case", CASES)
def test_area_is_the_ap_of_recorded_cases(shared_data: Path, case: str, joints: Counted) -> None:
    folder = shared_data / "vectors" / "poseval" / f"open_{case}"
    curves = posetrack_curves(folder / "gt", folder / "pred", joints)
    agree(curves, posetrack.evaluate(folder / "gt", folder / "pred", joints=joints))


@pytest.mark.parametrize("seed", range(10))
def test_area_is_the_ap_of_random_videos(tmp_path: Path, seed: int) -> None:
    gt, pred = write(tmp_path, *random_video(np.random.default_rng(seed)))
    agree(posetrack_curves(gt, pred), posetrack.evaluate(gt, pred))


def test_two_people_of_whom_the_surer_one_is_wrong(tmp_path: Path) -> None:
    gt, pred = write(
        tmp_path,
        video17([person(POSE)], [person(POSE)]),
        video17([person(elsewhere(POSE, 0.9))], [person(scored(POSE, 0.8))]),
    )
    for curve in posetrack_curves(gt, pred).values():  # one of two found, one of two predictions right
        assert (curve.recall.tolist(), curve.precision.tolist()) == ([0.5], pytest.approx([0.5]))


def test_a_group_with_a_joint_that_is_predicted_but_never_annotated_has_no_curve(tmp_path: Path) -> None:
    without_nose = {joint: xy for joint, xy in POSE.items() if joint != 13}
    gt, pred = write(tmp_path, video17([person(without_nose)]), video17([person(scored(POSE))]))
    curves = posetrack_curves(gt, pred)
    assert "Head" not in curves
    agree(curves, posetrack.evaluate(gt, pred))


def test_nobody_annotated_has_an_area_of_zero(tmp_path: Path) -> None:
    gt, pred = write(tmp_path, video17([]), video17([]))
    agree(posetrack_curves(gt, pred), posetrack.evaluate(gt, pred))


@pytest.mark.parametrize("seed", range(5))
def test_area_is_oks_ap(tmp_path: Path, seed: int) -> None:
    truth, found = random_case(seed)
    gt, pred = tmp_path / "gt.json", tmp_path / "pred.json"
    gt.write_text(json.dumps(truth))
    pred.write_text(json.dumps(found))
    result, curves = oks.evaluate(gt, pred, JOINTS), oks.curves(gt, pred, JOINTS)
    areas = [curve.area for curve in curves.values()]
    assert areas == pytest.approx([result.ap50, result.ap75, result.ap], abs=1e-9)
    assert all(curve.area == pytest.approx(100 * curve.precision.mean()) for curve in curves.values())


def test_oks_has_no_curve_where_nobody_is_annotated(tmp_path: Path) -> None:
    gt, pred = tmp_path / "gt.json", tmp_path / "pred.json"
    gt.write_text(json.dumps(annotated()))
    pred.write_text("[]")
    assert oks.curves(gt, pred, JOINTS) == {}
    gt.write_text(json.dumps(annotated(annotation(1))))
    assert [curve.area for curve in oks.curves(gt, pred, JOINTS).values()] == [0, 0, 0]
