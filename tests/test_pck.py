"""PCK on arrays small enough to score by hand, its averages, and the pose files that it reads."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from glpose.data.poses import PoseFile, read_poses, write_poses
from glpose.keypoints import JHMDB, POSETRACK
from glpose.metrics.pck import (
    PCKResult,
    conventions,
    evaluate,
    evaluate_alphas,
    format_table,
    joint_set_of,
    mean_over_splits,
    score_poses,
)
from store.errors import DataError

HEAD, NECK, BELLY = (JHMDB.joints.index(name) for name in ("head", "neck", "belly"))
WRIST = JHMDB.joints.index("left_wrist")


def people(count: int, width: float = 50.0, height: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Annotated people with all joints visible at different places, and their boxes."""
    xy = np.random.default_rng(count).uniform(0, 50, (count, len(JHMDB), 2))
    keypoints = np.concatenate([xy, np.full((count, len(JHMDB), 1), 2.0)], axis=-1)
    return keypoints, np.tile([0.0, 0.0, width, height], (count, 1))


def moved(keypoints: np.ndarray, joint: int, dx: float, person: int = 0) -> np.ndarray:
    """A prediction that is right but for one joint of one person."""
    predicted = keypoints[..., :2].copy()
    predicted[person, joint, 0] += dx
    return predicted


def test_a_joint_at_exactly_the_threshold_is_right_and_just_beyond_it_is_wrong():
    keypoints = np.zeros((1, len(JHMDB), 3))
    keypoints[..., 2] = 2
    boxes = np.array([[10.0, 10.0, 60.0, 110.0]])  # max(w, h) = 100: right within 20 px
    assert score_poses(moved(keypoints, WRIST, 20.0), keypoints, boxes, JHMDB).joints["left_wrist"] == 100.0
    assert score_poses(moved(keypoints, WRIST, 20.001), keypoints, boxes, JHMDB).joints["left_wrist"] == 0.0
    wide = np.array([[0.0, 0.0, 200.0, 100.0]])
    assert score_poses(moved(keypoints, WRIST, 40.0), keypoints, wide, JHMDB).joints["left_wrist"] == 100.0
    assert score_poses(moved(keypoints, WRIST, 11.0), keypoints, boxes, JHMDB, alpha=0.1).joints["left_wrist"] == 0.0


def test_a_distance_counts_in_both_directions_together():
    keypoints, boxes = people(1)
    predicted = keypoints[..., :2].copy()
    predicted[0, WRIST] += (15.0, 15.0)  # 21.2 px
    assert score_poses(predicted, keypoints, boxes, JHMDB).joints["left_wrist"] == 0.0


def test_the_three_averages_by_hand():
    keypoints, boxes = people(4)
    keypoints[1:, BELLY, 2] = 0  # annotated once
    predicted = moved(keypoints, BELLY, 99.0)  # and wrong there
    predicted[1, WRIST] += 99.0
    result = score_poses(predicted, keypoints, boxes, JHMDB)
    assert result.joints["belly"] == 0.0
    assert result.joints["left_wrist"] == 75.0
    assert result.groups["Head"] == pytest.approx(200 / 3)
    assert result.groups["Wrist"] == 87.5
    assert result.averages["by_joint_count"] == pytest.approx((3 * 200 / 3 + 2 * (87.5 + 5 * 100)) / 15)
    assert result.averages["pooled"] == pytest.approx(100 * (4 * 15 - 3 - 2) / (4 * 15 - 3))
    assert result.averages["over_groups"] == pytest.approx((200 / 3 + 87.5 + 500) / 7)
    assert result.mean == result.averages["by_joint_count"]
    assert (result.counts["annotated"]["belly"], result.counts["right"]["belly"]) == (1, 0)
    assert result.people == 4


def test_pooled_and_by_joint_count_agree_where_every_joint_is_annotated():
    keypoints, boxes = people(9)
    predicted = keypoints[..., :2] + np.random.default_rng(0).normal(0, 15, (9, len(JHMDB), 2))
    averages = score_poses(predicted, keypoints, boxes, JHMDB).averages
    assert averages["pooled"] == pytest.approx(averages["by_joint_count"])
    assert 0 < averages["pooled"] < 100


def test_joints_that_are_never_annotated_are_nan_and_leave_the_averages_alone():
    keypoints, boxes = people(2)
    keypoints[:, [NECK, WRIST, WRIST - 1], 2] = 0
    result = score_poses(keypoints[..., :2], keypoints, boxes, JHMDB)
    assert math.isnan(result.joints["neck"])
    assert math.isnan(result.groups["Wrist"])
    assert result.groups["Head"] == 100.0  # of head and belly
    assert result.averages == {"by_joint_count": 100.0, "pooled": 100.0, "over_groups": 100.0}
    assert result.as_json()["groups"]["Wrist"] is None  # pyright: ignore[reportIndexIssue]


def test_nothing_annotated_gives_nan():
    keypoints, boxes = people(1)
    keypoints[..., 2] = 0
    result = score_poses(keypoints[..., :2], keypoints, boxes, JHMDB)
    assert all(math.isnan(value) for value in result.averages.values())
    empty = score_poses(keypoints[:0, :, :2], keypoints[:0], boxes[:0], JHMDB)
    assert math.isnan(empty.mean)
    assert empty.people == 0


def test_nan_predictions_are_wrong_and_nan_annotations_do_not_count():
    keypoints, boxes = people(2)
    keypoints[0, HEAD, :2] = np.nan
    predicted = keypoints[..., :2].copy()
    predicted[0, WRIST] = np.nan
    result = score_poses(predicted, keypoints, boxes, JHMDB)
    assert result.joints["left_wrist"] == 50.0
    assert result.joints["head"] == 100.0
    assert result.counts["annotated"]["head"] == 1


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [0, 0, np.nan, 10], [5, 5, 2, 1]])
def test_people_without_a_size_are_left_out_and_counted(box: list[float]):
    keypoints, boxes = people(2)
    boxes[0] = box
    result = score_poses(moved(keypoints, WRIST, 999.0), keypoints, boxes, JHMDB)
    assert (result.people, result.left_out) == (1, 1)
    assert result.mean == 100.0


def test_torso_size_is_left_shoulder_to_right_hip():
    keypoints, boxes = people(2)
    keypoints[:, JHMDB.joints.index("left_shoulder"), :2] = (0, 0)
    keypoints[:, JHMDB.joints.index("right_hip"), :2] = (30, 40)  # 50 px: right within 10
    keypoints[1, JHMDB.joints.index("right_hip"), 2] = 0
    inside = score_poses(moved(keypoints, WRIST, 10.0), keypoints, boxes, JHMDB, size="torso")
    assert inside.joints["left_wrist"] == 100.0
    assert inside.left_out == 1
    assert score_poses(moved(keypoints, WRIST, 10.1), keypoints, boxes, JHMDB, size="torso").joints["left_wrist"] == 0.0


def test_only_visible_joints_count_where_asked():
    keypoints, boxes = people(2)
    keypoints[0, WRIST, 2] = 1
    predicted = moved(keypoints, WRIST, 999.0)
    assert score_poses(predicted, keypoints, boxes, JHMDB).joints["left_wrist"] == 50.0
    assert score_poses(predicted, keypoints, boxes, JHMDB, counted="visible").joints["left_wrist"] == 100.0


def test_the_paper_s_averages_are_by_joint_count(shared_data: Path):
    with open(shared_data / "paper" / "table3_sub_jhmdb.csv") as handle:
        rows = {row["method"]: row for row in csv.DictReader(handle)}
    names = [name.lower() for name in JHMDB.groups]

    def both(method: str) -> tuple[float, float]:
        values = [float(rows[method][name]) for name in names]
        sizes = [len(members) for members in JHMDB.groups.values()]
        return float(np.average(values, weights=sizes)), float(np.mean(values))

    for method in ("GLPose", "GLPose split 1", "GLPose split 2"):
        assert round(both(method)[0], 1) == float(rows[method]["avg"])
    assert both("GLPose split 3")[0] == pytest.approx(95.51, abs=0.005)  # the paper prints 95.6
    assert round(both("GLPose")[1], 1) == 94.8  # the plain mean of groups would be another figure
    assert round(both("CPM")[1], 1) == float(rows["CPM"]["avg"])  # as this row is averaged


def test_the_table_prints_groups_average_and_details():
    keypoints, boxes = people(2)
    keypoints[:, [WRIST, WRIST - 1], 2] = 0
    result = score_poses(keypoints[..., :2], keypoints, boxes, JHMDB)
    heading, row = format_table({"mine": result}).splitlines()
    assert heading.split() == ["Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", "Avg"]
    assert row.split() == ["mine", "100.0", "100.0", "100.0", "-", "100.0", "100.0", "100.0", "100.0"]
    assert format_table({"mine": result}, details=True).splitlines()[0].endswith("Avg  pooled  over groups")
    json.dumps(result.as_json(), allow_nan=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.alpha = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_the_mean_over_splits_counts_every_split_the_same():
    few, boxes = people(1)
    many, many_boxes = people(4)
    results = [
        score_poses(moved(few, WRIST, 99.0), few, boxes, JHMDB),  # 0 of 1 left wrists
        score_poses(moved(many, WRIST, 99.0), many, many_boxes, JHMDB),  # 3 of 4
    ]
    mean = mean_over_splits(results)
    assert mean.joints["left_wrist"] == 37.5  # pooled it would be 60
    assert mean.groups == pytest.approx({**dict.fromkeys(JHMDB.groups, 100.0), "Wrist": (50 + 87.5) / 2})
    assert mean.averages["pooled"] == pytest.approx((100 * 14 / 15 + 100 * 59 / 60) / 2)
    assert mean.averages["over_groups"] == pytest.approx((650 / 7 + 687.5 / 7) / 2)
    assert mean.mean == mean.averages["by_joint_count"] == pytest.approx((1400 / 15 + 1475 / 15) / 2)
    assert (mean.splits, mean.alpha, mean.size) == (2, 0.2, "box")
    assert mean_over_splits(results[:1]).groups == results[0].groups
    table = format_table({"1": results[0], "2": results[1], "mean": mean}, details=True).splitlines()
    assert table[3].split() == ["mean", *["100.0"] * 3, "68.8", *["100.0"] * 3, "95.8", "95.8", "95.5"]


def test_what_one_split_does_not_annotate_has_no_mean_over_splits():
    keypoints, boxes = people(2)
    without = keypoints.copy()
    without[:, [WRIST, WRIST - 1], 2] = 0
    results = [score_poses(truth[..., :2], truth, boxes, JHMDB) for truth in (keypoints, without)]
    mean = mean_over_splits(results)
    assert math.isnan(mean.groups["Wrist"]) and mean.groups["Head"] == mean.mean == 100.0
    data = json.loads(json.dumps(mean.as_json(), allow_nan=False))
    assert data["groups"]["Wrist"] is None and data["splits"] == 2 and data["metric"] == "PCK@0.2"


def test_splits_that_are_not_alike_have_no_mean():
    keypoints, boxes = people(2)
    results = [score_poses(keypoints[..., :2], keypoints, boxes, JHMDB, alpha) for alpha in (0.1, 0.2)]
    with pytest.raises(ValueError, match="one joint set, alpha and size"):
        mean_over_splits(results)
    with pytest.raises(ValueError, match="no splits"):
        mean_over_splits([])


def test_conventions_name_every_column_of_the_table():
    keypoints, boxes = people(1)
    table = format_table({"": score_poses(keypoints[..., :2], keypoints, boxes, JHMDB)}, details=True)
    named = [line.split(":")[0] for line in conventions(JHMDB)]
    assert named == ["groups", "Avg", "pooled", "over groups"]
    assert table.splitlines()[0].split() == [*JHMDB.groups, "Avg", "pooled", "over", "groups"]
    halves = dataclasses.replace(JHMDB, groups={"Upper": tuple(range(7)), "Lower": tuple(range(7, 15))})
    assert "others" not in conventions(halves)[0] and "(7 Upper + 8 Lower) / 15" in conventions(halves)[1]


# -------------------------------------------------------------------------------------------------------- pose files
def pose_file(
    keypoints: np.ndarray, boxes: np.ndarray, frames: list[int], score: list[float] | None = None
) -> PoseFile:
    names = tuple(f"{number:05d}.png" for number in range(1, 6))
    scores = np.array(score or [1.0] * len(frames))
    return PoseFile("clip", JHMDB.joints, names, np.array(frames, int), boxes, scores, keypoints)


def score_files(tmp_path: Path, truth: PoseFile, found: PoseFile) -> PCKResult:
    write_poses(tmp_path / "gt" / "clip.json", truth)
    write_poses(tmp_path / "pred" / "clip.json", found)
    return evaluate(tmp_path / "gt", tmp_path / "pred", JHMDB)


def test_pose_files_come_back_as_they_were(tmp_path: Path):
    keypoints, boxes = people(3)
    truth = pose_file(keypoints, boxes, [0, 2, 4])
    write_poses(tmp_path / "clip.json", truth)
    back = read_poses(tmp_path / "clip.json")
    assert (back.video, back.joints, back.frame_names) == (truth.video, truth.joints, truth.frame_names)
    for name in ("frame", "boxes", "score", "keypoints"):
        np.testing.assert_array_equal(getattr(back, name), getattr(truth, name))
    assert score_files(tmp_path, truth, truth).mean == 100.0


def test_the_pose_with_the_best_box_counts_and_a_frame_without_one_is_wrong(tmp_path: Path):
    keypoints, boxes = people(2)
    truth = pose_file(keypoints, boxes, [0, 1])
    both = np.concatenate([keypoints[:1] + 500, keypoints[:1]])
    assert score_files(tmp_path, truth, pose_file(both, boxes, [0, 0], [0.3, 0.9])).mean == 50.0
    assert score_files(tmp_path, truth, pose_file(both, boxes, [0, 0], [0.9, 0.3])).mean == 0.0
    assert score_files(tmp_path, truth, pose_file(keypoints[:0], boxes[:0], [])).mean == 0.0


def test_several_alphas_at_once_are_each_by_itself(tmp_path: Path):
    keypoints, boxes = people(3)  # of 100 px: 15 px off is right within 0.2, not within 0.1
    off = keypoints.copy()
    off[1, WRIST, 0] += 15
    alone = score_files(tmp_path, pose_file(keypoints, boxes, [0, 1, 2]), pose_file(off, boxes, [0, 1, 2]))
    near, same = evaluate_alphas(tmp_path / "gt", tmp_path / "pred", JHMDB, [0.1, alone.alpha])
    assert same == alone and alone.joints["left_wrist"] == 100.0
    assert near.alpha == 0.1 and near.joints["left_wrist"] == pytest.approx(200 / 3)


def test_the_joint_set_is_told_by_the_names_of_the_files(tmp_path: Path):
    keypoints, boxes = people(2)
    truth = pose_file(keypoints, boxes, [0, 1])
    for joints in (JHMDB, POSETRACK):
        folder = tmp_path / joints.name
        write_poses(folder / "clip.json", dataclasses.replace(truth, joints=joints.joints))
        assert joint_set_of(folder) is joints
        assert evaluate(folder, folder).mean == 100.0
    write_poses(tmp_path / "clip.json", dataclasses.replace(truth, joints=JHMDB.joints[::-1]))  # in another order
    with pytest.raises(DataError, match="other joints than jhmdb or posetrack data: left_ankle, right_ankle"):
        evaluate(tmp_path, tmp_path)


def test_a_joint_set_without_a_torso_takes_the_box():
    keypoints, boxes = people(2)
    names = tuple(name.replace("hip", "pelvis") for name in JHMDB.joints)
    robot = dataclasses.replace(JHMDB, name="robot", joints=names)
    assert score_poses(keypoints[..., :2], keypoints, boxes, robot).mean == 100.0
    with pytest.raises(DataError, match="robot data has no right_hip, and so no torso"):
        score_poses(keypoints[..., :2], keypoints, boxes, robot, size="torso")


def test_unusable_pose_files_are_named(tmp_path: Path):
    keypoints, boxes = people(2)
    truth = pose_file(keypoints, boxes, [0, 1])
    with pytest.raises(DataError, match="holds no pose files"):
        evaluate(tmp_path, tmp_path, JHMDB)
    write_poses(tmp_path / "gt" / "clip.json", truth)
    (tmp_path / "pred").mkdir()
    with pytest.raises(DataError, match=r"pred.clip\.json does not exist"):
        evaluate(tmp_path / "gt", tmp_path / "pred", JHMDB)
    with pytest.raises(DataError, match="several people"):
        score_files(tmp_path, pose_file(keypoints, boxes, [1, 1]), truth)
    with pytest.raises(DataError, match="not in 'frames'"):
        score_files(tmp_path, truth, pose_file(keypoints, boxes, [0, 9]))
    late = dataclasses.replace(truth, frame_names=(*truth.frame_names[1:], "one more"))
    with pytest.raises(DataError, match=r"has other frames than .*: frame 0 is "):
        score_files(tmp_path, truth, late)
    other = dataclasses.replace(truth, joints=("nose", *JHMDB.joints[1:]))
    with pytest.raises(DataError, match="other joints than jhmdb data: nose"):
        score_files(tmp_path, truth, other)
    pose = '{"frame": %s, "box": [0, 0, 1, 1], "score": 1, "keypoints": []}'
    lists = '{"video": "clip", "joints": [], "frames": ["1", "2"], "poses": [%s]}'
    for content in ("[]", lists % "{}", *(lists % (pose % frame) for frame in ("0.5", "1e400", "9" * 30))):
        (tmp_path / "gt" / "clip.json").write_text(content)
        with pytest.raises(DataError, match=r"clip\.json is malformed"):
            evaluate(tmp_path / "gt", tmp_path / "pred", JHMDB)
    for content in ("{", "[" * 100_000):
        (tmp_path / "gt" / "clip.json").write_text(content)
        with pytest.raises(DataError, match=r"clip\.json is not readable JSON"):
            evaluate(tmp_path / "gt", tmp_path / "pred", JHMDB)
