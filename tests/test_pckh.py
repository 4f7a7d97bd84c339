"""PCKh: recorded poseval results, each rule on hand-made files, and where poseval stops."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from posetrack_builders import POSE, as_2018, elsewhere, largest_difference, person, random_video, scored, video17

from glpose.keypoints import POSETRACK
from glpose.metrics import pckh
from glpose.metrics.pckh import PCKhResult, evaluate, evaluate_videos, format_table
from glpose.metrics.posetrack_files import parse_video
from store.errors import DataError

CASES = ["1_tiny", "2_small18", "3_ties", "4_edge", "5_medium18", "6_large17", "7_real18"]
NAME = "000001_mpii_test.json"
STOPS = "poseval stops here; leave out --strict-poseval"
FAR = elsewhere(POSE)


def run(folder: Path, gt: Any, pred: Any, **options: Any) -> PCKhResult:
    """Score one pair of files; `pred` None writes none."""
    for side, data in (("gt", gt), ("pred", pred)):
        (folder / side).mkdir(parents=True, exist_ok=True)
        if data is not None:
            (folder / side / NAME).write_text(json.dumps(data))
    return evaluate(folder / "gt", folder / "pred", **options)


def floats(points: Any) -> dict[int, tuple[float, ...]]:
    return {j: tuple(map(float, point)) for j, point in points.items()}


def whole(points: Any) -> dict[int, tuple[float, ...]]:
    """The points as predictions on whole pixels, written without a decimal point."""
    return {j: (int(x), int(y), 0.5) for j, (x, y, *_) in points.items()}


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(shared_data: Path, case: str) -> None:
    folder = shared_data / "vectors" / "poseval" / f"open_{case}"
    expected = json.loads((folder / "expected.json").read_text())
    if expected["pckh_error"]:
        with pytest.raises(DataError, match=rf"frame \d+: fewer predictions than annotated people: {STOPS}"):
            evaluate(folder / "gt", folder / "pred", strict_poseval=True)
        assert any("fewer predictions" in line for line in evaluate(folder / "gt", folder / "pred").poseval_stops)
        return
    result = evaluate(folder / "gt", folder / "pred", strict_poseval=True)
    assert largest_difference([*result.joints.values(), result.mean], expected["pckh"]) < 1e-9
    assert largest_difference([*result.groups.values(), result.mean], expected["pckh_groups"].values()) < 1e-9
    assert (result.frames, result.videos) == (expected["size"]["frames_evaluated"], expected["size"]["videos"])
    assert result.problems == result.poseval_stops == [] and result.strict


def test_the_sane_reading_counts_integer_people(shared_data: Path) -> None:
    folder = shared_data / "vectors" / "poseval" / "open_5_medium18"
    result = evaluate(folder / "gt", folder / "pred")
    assert round(result.mean, 2) == 81.13 and not result.strict


def test_people_are_compared_by_place(tmp_path: Path) -> None:
    other = {j: (x, y + 2000) for j, (x, y) in POSE.items()}
    gt = video17([person(POSE), person(other, track=1)])
    straight = [person(scored(POSE)), person(scored(other), track=1)]
    assert run(tmp_path, gt, video17(straight)).mean == 100
    assert run(tmp_path, gt, video17(straight[::-1])).mean == 0
    assert run(tmp_path, gt, video17([*straight, person(FAR, track=2)])).mean == 100  # surplus ones do no harm


@pytest.mark.parametrize(("offset", "share"), [((9, 12), 100), ((9.0001, 12), 0), ((0, 15), 100), ((0, 15.0001), 0)])
def test_within_half_the_head_size_is_right(tmp_path: Path, offset: tuple[float, float], share: float) -> None:
    moved = scored(POSE) | {7: (POSE[7][0] + offset[0], POSE[7][1] + offset[1], 0.5)}
    result = run(tmp_path, video17([person(POSE)]), video17([person(moved)]))
    assert result.joints["right_elbow"] == share and result.joints["nose"] == 100
    assert result.mean == pytest.approx(100 * (14 + share / 100) / 15)


def test_missing_predictions_are_wrong(tmp_path: Path) -> None:
    gt = video17([person(POSE), person(POSE, track=1)], [person(POSE)])
    no_knee = {j: point for j, point in scored(POSE).items() if j != 1}
    result = run(tmp_path, gt, video17([person(no_knee)], []))
    assert result.joints["right_knee"] == 0 and result.joints["nose"] == pytest.approx(100 / 3)
    assert result.counts["annotated"]["nose"] == 3 and result.counts["right"]["nose"] == 1
    assert result.mean == pytest.approx(100 * 14 / 45)
    assert result.problems == []
    assert [line for line in result.poseval_stops if "2 people (first in frame 0) with fewer predictions" in line]


def test_the_total_pools_joints_and_groups_are_means(tmp_path: Path) -> None:
    ankle = {0: POSE[0]}
    gt = video17([person(POSE)], [person(ankle)], [person(ankle)])
    pred = video17([person(scored(POSE))], [person({0: FAR[0]})], [person({0: FAR[0]})])
    result = run(tmp_path, gt, pred)
    assert result.joints["right_ankle"] == pytest.approx(100 / 3)
    assert result.groups["Ankle"] == pytest.approx((100 / 3 + 100) / 2) and result.groups["Head"] == 100
    assert result.mean == pytest.approx(100 * 15 / 17)


def test_what_nobody_annotates_is_nan(tmp_path: Path) -> None:
    gt = video17([person({j: xy for j, xy in POSE.items() if j != 13})])
    result = run(tmp_path, gt, video17([person(scored(POSE))]))
    assert math.isnan(result.joints["nose"]) and math.isnan(result.groups["Head"]) and result.mean == 100
    assert len(result.poseval_stops) == 1 and "nose is annotated in no frame" in result.poseval_stops[0]
    data = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert data["joints"]["nose"] is None and data["mean"] == 100 and data["metric"] == "PCKh@0.5"
    assert data["strict_poseval"] is False and list(data["groups"]) == list(POSETRACK.groups)
    table = format_table({"ours": result}, details=True).splitlines()
    columns = ["Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", "Total", "head_top", "head_bottom", "nose"]
    assert table[0].split() == columns
    assert table[1].split() == ["ours", "-", *["100.0"] * 9, "-"]
    nobody = run(tmp_path, video17([]), video17([]))
    assert math.isnan(nobody.mean) and nobody.frames == 0 and nobody.as_json()["mean"] is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.mean = 1.0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("strict", [False, True])
def test_frames_and_people_are_cleaned_up_as_for_ap(tmp_path: Path, strict: bool) -> None:
    pose, pred = person(POSE), person(scored(POSE))
    # A frame that lists nobody is dropped. People without a list of points are not counted in places, on either side.
    unlisted = {"track_id": [5]}
    result = run(
        tmp_path, video17([], [unlisted, pose]), video17([pred], [unlisted, unlisted, pred]), strict_poseval=strict
    )
    assert (result.mean, result.frames, result.frames_in_files) == (100, 1, 2)
    # Somebody with an empty list of points keeps a place.
    result = run(tmp_path, video17([person({}), pose]), video17([person({}), pred]), strict_poseval=strict)
    assert result.mean == 100
    result = run(tmp_path, video17([person({}), pose]), video17([pred, person({})]), strict_poseval=strict)
    assert result.mean == 0


@pytest.mark.parametrize("strict", [False, True])
def test_regions_remove_joints_and_people_on_both_sides(tmp_path: Path, strict: bool) -> None:
    inside = {j: (x - 5000, y) for j, (x, y) in POSE.items()}
    region = [(-6000.0, -10.0), (-1000.0, -10.0), (-1000.0, 5000.0), (-6000.0, 5000.0)]
    knee_gone = POSE | {1: inside[1]}
    gt = video17([person(inside), person(POSE, track=1), person(knee_gone, track=2)], regions=[region])
    pred = video17([person(scored(POSE)), person(scored(inside), track=1), person(scored(POSE), track=2)],
                   regions=[])  # fmt: skip
    result = run(tmp_path, gt, pred, strict_poseval=strict)
    assert result.counts["annotated"]["nose"] == 2 and result.counts["annotated"]["right_knee"] == 1
    assert set(result.joints.values()) == {100.0}
    # Without a region everybody keeps a place.
    assert run(tmp_path, video17([person(inside), person(POSE)]), pred).mean == 0


def test_visible_joints_only(tmp_path: Path) -> None:
    gt = video17([person(POSE, hidden=(0, 1))])
    pred = video17([person(scored(POSE | {1: (9000, 9000)}))])
    assert run(tmp_path, gt, pred).joints["right_knee"] == 0
    for data in (gt, as_2018(gt)):
        result = run(tmp_path, data, pred, joints="visible")
        assert result.mean == 100 and math.isnan(result.joints["right_knee"])
    with pytest.raises(ValueError, match="annotated"):
        run(tmp_path, gt, pred, joints="seen")
    with pytest.raises(ValueError, match="hidden joints"):
        run(tmp_path, gt, pred, joints="visible", strict_poseval=True)


# ------------------------------------------------------------------------------------------------- as poseval has it
@pytest.mark.parametrize("gt18", [False, True])
def test_strict_does_not_count_integer_people_of_posetrack18(tmp_path: Path, gt18: bool) -> None:
    gt = video17([person(POSE), person(POSE, track=1)])
    pred = as_2018(video17([person(whole(POSE)), person(whole(POSE), track=1)]))
    assert all(type(value) is int for one in pred["annotations"] for value in one["keypoints"])
    pred["annotations"][1]["keypoints"][0] += 0.25  # one number with a decimal point makes all of a person's count
    truth = as_2018(gt) if gt18 else gt
    assert run(tmp_path, truth, pred).mean == 100
    strict = run(tmp_path, truth, pred, strict_poseval=True)
    assert strict.mean == 50 and set(strict.joints.values()) == {50.0}


def test_strict_counts_integers_of_posetrack17_and_of_annotations(tmp_path: Path) -> None:
    gt = video17([person({j: (int(x), int(y)) for j, (x, y) in POSE.items()})])
    for truth in (gt, as_2018(gt)):
        assert run(tmp_path, truth, video17([person(whole(POSE))]), strict_poseval=True).mean == 100


def test_strict_counts_every_annotated_point(tmp_path: Path) -> None:
    twice = person(POSE)
    twice["annopoints"][0]["point"].append({"id": [0], "x": [9000.0], "y": [9000.0]})
    pred = video17([person(scored(POSE))])
    assert run(tmp_path, video17([twice]), pred).joints["right_ankle"] == 100
    assert run(tmp_path, video17([twice]), pred, strict_poseval=True).joints["right_ankle"] == 50


def test_mixed_formats_agree(tmp_path: Path) -> None:
    gt = video17([person(floats(POSE))], [person(floats(POSE)), person(floats(POSE), track=1)])
    pred = video17([person(scored(POSE))], [person(FAR), person(scored(POSE), track=1)])
    reference = run(tmp_path / "reference", gt, pred)
    assert reference.mean == pytest.approx(200 / 3)
    for truth in (gt, as_2018(gt)):
        for found in (pred, as_2018(pred)):
            for strict in (False, True):
                result = run(tmp_path / "mixed", truth, found, strict_poseval=strict)
                assert result == dataclasses.replace(reference, strict=strict)


def test_strict_stops_where_poseval_stops(tmp_path: Path) -> None:
    one, two = [person(POSE)], [person(POSE), person(POSE, track=1)]
    good = [person(scored(POSE))]
    headless = [person(POSE, head=None)]
    unknown = person(POSE)
    unknown["annopoints"][0]["point"][3]["id"] = [15]
    thin = [[(0.0, 0.0), (1.0, 1.0)]]
    cases = {
        "pred.*frame 1: fewer predictions than annotated people": (video17(one, two), video17(good, good)),
        "gt.*frame 1: a person without a head box": (video17(one, headless), video17(good, good)),
        "gt.*frame 0: an annotated joint id other than 0 to 14": (video17([unknown], two), video17(good, good)),
        "gt.*frame 0: an ignore region of fewer than 3 corners": (video17(one, regions=thin), video17(good)),
        "pred.*frame 1: 1 frames for 2 annotated": (video17(one, one), video17(good)),
        "pred.*frame 1: 2 frames for 1 annotated": (video17(one), video17(good, good)),
        "gt.*no prediction file of this name": (video17(one), None),
        "nose is annotated in no frame of any file": (video17([person({j: POSE[j] for j in range(13)})]),
                                                      video17(good)),
    }  # fmt: skip
    for number, (words, (gt, pred)) in enumerate(cases.items()):
        with pytest.raises(DataError, match=f"{words}: {STOPS}$") as error:
            run(tmp_path / str(number), gt, pred, strict_poseval=True)
        assert len(str(error.value).splitlines()) == 1
        assert not math.isnan(run(tmp_path / str(number), gt, pred).mean)  # the sane reading goes on


def test_strict_stops_at_no_head_box_only_where_it_is_needed(tmp_path: Path) -> None:
    other = {j: POSE[j] for j in (0, 1)}
    gt = video17([person(POSE), person({2: POSE[2]}, track=1, head=None)])
    pred = video17([person(scored(POSE)), person(scored(other), track=1)])
    assert run(tmp_path, gt, pred, strict_poseval=True).joints["right_hip"] == 50


def test_problems_are_those_of_ap_and_stops_are_kept_apart(tmp_path: Path) -> None:
    gt = video17([person(POSE, track=10000), person(POSE, track=1, head=None)])
    pred = video17([person(scored(POSE), track=7), person(scored(POSE), track=7)], [])
    result = run(tmp_path, gt, pred)
    assert result.mean == 50
    assert ["head box" in p or "2 frames for 1" in p for p in result.problems] == [True, True]
    assert ["track_id of 10000" in s or "track_id of another" in s for s in result.poseval_stops] == [True, True]
    (tmp_path / "pred" / "other.json").write_text("not read")
    assert "other.json" in evaluate(tmp_path / "gt", tmp_path / "pred").problems[0]


def test_folders_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotation file"):
        evaluate(tmp_path, tmp_path)
    with pytest.raises(DataError, match="no videos"):
        evaluate_videos([])
    (tmp_path / NAME).write_text("{")
    with pytest.raises(DataError, match=f"{NAME} is not readable JSON"):
        evaluate(tmp_path, tmp_path)
    video = parse_video(Path(NAME), video17([person(POSE)]))
    assert evaluate_videos([(video, video)]).mean == 100
    with pytest.raises(ValueError, match="integers=True"):
        evaluate_videos([(video, video)], strict_poseval=True)


def by_loops(gt: dict[str, Any], pred: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Annotated and right joints of PoseTrack17 files without regions, one point after the other."""
    annotated, right = [0] * 15, [0] * 15
    for frame, other in zip(gt["annolist"], pred["annolist"], strict=True):
        for place, one in enumerate(frame["annorect"]):
            size = 0.6 * math.hypot(one["x2"][0] - one["x1"][0], one["y2"][0] - one["y1"][0])
            partner = other["annorect"][place] if place < len(other["annorect"]) else person({})
            guesses = {point["id"][0]: point for point in partner["annopoints"][0]["point"]}
            for point in one["annopoints"][0]["point"]:
                joint = point["id"][0]
                annotated[joint] += 1
                if joint in guesses:
                    apart = (guesses[joint][axis][0] - point[axis][0] for axis in "xy")
                    right[joint] += math.hypot(*apart) / size <= 0.5
    return annotated, right


@pytest.mark.parametrize("seed", range(4))
def test_random_files_agree_with_loops(seed: int) -> None:
    gt, pred = random_video(np.random.default_rng(seed), frames=20)
    for frame in gt["annolist"]:
        frame["ignore_regions"] = []
    expected = by_loops(gt, pred)
    result = pckh.evaluate_videos([(parse_video(Path(NAME), gt), parse_video(Path(NAME), pred))])
    assert [list(result.counts[what].values()) for what in ("annotated", "right")] == list(expected)
    assert 0 < result.mean < 100
