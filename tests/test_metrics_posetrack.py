"""PoseTrack AP: recorded poseval results, and rules on hand-made files."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from posetrack_builders import POSE, as_2018, elsewhere, largest_difference, person, random_video, scored, video17

from glpose.data import posetrack17
from glpose.keypoints import POSETRACK
from glpose.metrics import posetrack, posetrack_files
from glpose.metrics.posetrack import PoseTrackResult, evaluate
from store.errors import DataError

CASES = ["1_tiny", "2_small18", "3_ties", "4_edge", "5_medium18", "6_large17", "7_real18"]
NAME = "000001_mpii_test.json"


def run(folder: Path, gt: Any, pred: Any, **options: Any) -> PoseTrackResult:
    """Score one pair of files; `pred` None writes none."""
    for side, data in (("gt", gt), ("pred", pred)):
        (folder / side).mkdir(parents=True, exist_ok=True)
        if data is not None:
            (folder / side / NAME).write_text(json.dumps(data))
    return evaluate(folder / "gt", folder / "pred", **options)


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(shared_data: Path, case: str) -> None:
    folder = shared_data / "vectors" / "poseval" / f"open_{case}"
    expected = json.loads((folder / "expected.json").read_text())
    result = evaluate(folder / "gt", folder / "pred")
    ap = [*result.ap.values(), result.mean]
    variants = expected["tie_variants"]
    assert largest_difference(ap, variants["ap_stable_reversed"]) < 1e-9
    if expected["depends_on_tie_order"]:
        for value, worst, best in zip(ap, variants["ap_worst_tie_order"], variants["ap_best_tie_order"], strict=True):
            assert worst - 1e-9 <= value <= best + 1e-9
    else:
        assert largest_difference(ap, expected["ap"]) < 1e-9
        assert largest_difference([*result.groups.values(), result.mean], expected["groups_AP"].values()) < 1e-9
        for name, sequence in (expected["per_sequence"] or {}).items():
            alone = posetrack.evaluate_files([(folder / "gt" / f"{name}.json.gz", folder / "pred" / f"{name}.json.gz")])
            assert largest_difference([*alone.ap.values(), alone.mean], sequence["ap"]) < 1e-9
    for what in ("precision", "recall"):
        per_joint = getattr(result, what)
        assert largest_difference([*per_joint.values(), posetrack.mean_over_joints(per_joint)], expected[what]) < 1e-9
        groups = list(expected[f"groups_{what}"].values())[:7]
        assert largest_difference(posetrack.group_means(per_joint).values(), groups) < 1e-9
    assert [list(result.counts[k].values()) for k in ("n_gt", "n_pred", "n_tp")] == list(expected["counts"].values())
    assert (result.frames, result.videos) == (expected["size"]["frames_evaluated"], expected["size"]["videos"])
    assert len(result.problems) == (case == "4_edge")  # a head box of no size


def test_perfect_predictions(tmp_path: Path) -> None:
    result = run(tmp_path, video17([person(POSE)]), video17([person(scored(POSE))]))
    assert list(result.ap) == list(POSETRACK.joints) and set(result.ap.values()) == {100.0}
    assert result.mean == 100 and list(result.groups) == list(POSETRACK.groups)
    assert set(result.precision.values()) == set(result.recall.values()) == set(result.groups.values()) == {100.0}


def test_no_predictions_score_zero(tmp_path: Path) -> None:
    result = run(tmp_path, video17([person(POSE)]), video17([]))
    assert set(result.ap.values()) == set(result.precision.values()) == set(result.recall.values()) == {0.0}
    assert result.mean == 0 and result.problems == []


def test_joint_never_annotated_is_nan(tmp_path: Path) -> None:
    no_nose = {j: xy for j, xy in POSE.items() if j != 13}
    result = run(tmp_path, video17([person(no_nose)]), video17([person(scored(POSE))]))
    assert math.isnan(result.ap["nose"]) and math.isnan(result.recall["nose"]) and result.precision["nose"] == 0
    assert math.isnan(result.groups["Head"]) and result.mean == 100
    assert posetrack.head_parts(result)["head_top"] == 100
    table = posetrack.format_table({"ours": result}).splitlines()
    assert table[0].split() == ["Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", "Mean"]
    assert table[1].split() == ["ours", "-", *["100.0"] * 7]
    assert posetrack.format_table({"ours": result}, details=True).split()[-3:] == ["100.0", "100.0", "-"]
    assert json.loads(json.dumps(result.as_json(), allow_nan=False))["groups"]["Head"] is None


def test_frame_without_annotated_people_is_dropped(tmp_path: Path) -> None:
    stray = [person(scored(POSE, 0.9))]
    result = run(tmp_path, video17([person(POSE)], []), video17([person(scored(POSE))], stray))
    assert result.mean == 100 and (result.frames, result.frames_in_files) == (1, 2)
    # A listed person without points keeps the frame: everything predicted there is wrong.
    result = run(tmp_path, video17([person(POSE)], [{"track_id": [0]}]), video17([person(scored(POSE))], stray))
    assert result.mean == 50 and result.frames == 2


@pytest.mark.parametrize(("x", "kept"), [(10, True), (10.5, False), (20, True), (21, True), (14, False)])
def test_ignore_region_spares_its_boundary(tmp_path: Path, x: float, kept: bool) -> None:
    square = [(10.0, 10.0), (20.0, 10.0), (20.0, 20.0), (10.0, 20.0)]
    gt = video17([person({3: (500, 500)})], regions=[square])
    result = run(tmp_path, gt, video17([person(scored({0: (x, 15)}))]))
    assert result.counts["n_pred"]["right_ankle"] == int(kept)


@pytest.mark.parametrize(("offset", "ap"), [((9, 12), 100), ((9.0001, 12), 0), ((0, 15), 100), ((0, 15.0001), 0)])
def test_match_includes_half_the_head_size(tmp_path: Path, offset: tuple[float, float], ap: float) -> None:
    moved = scored(POSE) | {7: (POSE[7][0] + offset[0], POSE[7][1] + offset[1], 0.5)}
    result = run(tmp_path, video17([person(POSE)]), video17([person(moved)]))
    assert result.ap["right_elbow"] == ap


def test_losers_are_not_assigned_again(tmp_path: Path) -> None:
    # Both predictions fit A best; the second would also fit B, but B stays without one.
    a, b = {0: (0, 0), 1: (50, 0), 2: (100, 0)}, {0: (0, 20), 1: (50, 500), 2: (100, 500)}
    pred = [person(scored(a, 0.9), track=0), person(scored({0: (0, 10), 1: (50, 0)}), track=1)]
    result = run(tmp_path, video17([person(a), person(b, track=1)]), video17(pred))
    assert [result.counts["n_tp"][name] for name in POSETRACK.joints[:3]] == [1, 1, 1]
    assert result.precision["right_ankle"] == 50


def test_missing_scores_rank_last(tmp_path: Path) -> None:
    right, wrong = person(POSE), person(elsewhere(POSE, -1.0), track=1)
    result = run(tmp_path, video17([person(POSE)]), video17([right, wrong]))
    assert set(result.ap.values()) == {50.0}


def test_equal_scores_rank_in_reversed_order(tmp_path: Path) -> None:
    right, wrong = person(scored(POSE)), person(elsewhere(POSE), track=1)
    assert run(tmp_path, video17([person(POSE)]), video17([right, wrong])).mean == 50
    assert run(tmp_path, video17([person(POSE)]), video17([wrong, right])).mean == 100


@pytest.mark.parametrize("new_gt", [True, False])
@pytest.mark.parametrize("new_pred", [True, False])
def test_formats_mix_and_may_be_gzipped(tmp_path: Path, new_gt: bool, new_pred: bool) -> None:
    gt, pred = random_video(np.random.default_rng(3))
    reference = run(tmp_path / "plain", gt, pred)
    for side, data, new in (("gt", gt, new_gt), ("pred", pred, new_pred)):
        (tmp_path / side).mkdir()
        text = json.dumps(as_2018(data) if new else data)
        (tmp_path / side / (NAME + ".gz")).write_bytes(gzip.compress(text.encode()))
    assert evaluate(tmp_path / "gt", tmp_path / "pred") == reference


def test_differing_frame_counts(tmp_path: Path) -> None:
    one, two = [person(POSE)], [person(scored(POSE))]
    result = run(tmp_path, video17(one, one), video17(two))
    assert result.recall["nose"] == 50 and "1 frames for 2" in result.problems[0] and NAME in result.problems[0]
    result = run(tmp_path, video17(one), video17(two, two))
    assert result.mean == 100 and "2 frames for 1" in result.problems[0]


def test_missing_and_surplus_prediction_files(tmp_path: Path) -> None:
    result = run(tmp_path, video17([person(POSE)]), None)
    assert result.mean == 0 and result.counts["n_gt"]["nose"] == 1 and "no prediction file" in result.problems[0]
    (tmp_path / "pred" / "other.json").write_text("not read")
    assert "other.json" in evaluate(tmp_path / "gt", tmp_path / "pred").problems[0]


def test_what_poseval_crashes_on_is_a_problem(tmp_path: Path) -> None:
    headless = person({0: (0, 0)}, track=10000, head=None)
    headless["annopoints"][0]["point"].append({"id": None, "x": [1], "y": [1]})
    anonymous = person(scored({0: (0, 0)}))
    del anonymous["track_id"]
    twins = [person(scored({1: (0, 0)}), track=7), person(scored({2: (0, 0)}), track=7)]
    thin = [[(0.0, 0.0), (1.0, 1.0)]]
    result = run(tmp_path, video17([headless], regions=thin), video17([anonymous, *twins]))
    assert result.ap["right_ankle"] == 0 and result.counts["n_gt"]["right_ankle"] == 1
    stops = ("track_id of 10000", "without track_id", "track_id of another")  # these change no score
    for whats, said in ((("head box", "fewer than 3 corners"), result.problems), (stops, result.poseval_stops)):
        assert [sum(what in line and "frame 0" in line for line in said) for what in whats] == [1] * len(said)


def test_a_list_of_another_length_is_counted(tmp_path: Path) -> None:
    wrong = as_2018(video17([person(POSE)]))
    wrong["annotations"][0]["keypoints"].append(1.0)
    with pytest.raises(DataError, match=r"frame 0: keypoints should be 51 numbers, not 52$"):
        run(tmp_path, wrong, video17([person(scored(POSE))]))


def test_a_head_box_of_no_size_is_a_problem(tmp_path: Path) -> None:
    result = run(tmp_path, video17([person(POSE, head=(5, 5, 5, 5))]), video17([person(scored(POSE))]))
    assert result.mean == 0 and "without a head box, or one of no size; they match nothing" in result.problems[0]


def test_only_the_first_video_of_a_file_is_read(tmp_path: Path) -> None:
    gt = as_2018(video17([person(POSE)], [person(POSE)]))
    gt["images"][1]["file_name"] = "000002_mpii_test/000000.jpg"
    result = run(tmp_path, gt, video17([person(scored(POSE))]))
    assert result.mean == 100 and result.frames_in_files == 1 and "several videos" in result.problems[0]
    del gt["images"][1], gt["images"][0]["file_name"]
    result = run(tmp_path, gt, video17([person(scored(POSE))]))
    assert result.mean == 100 and "no image" in result.problems[0] and "file_name" in result.poseval_stops[0]


def test_both_readers_of_posetrack17_agree_on_odd_points() -> None:
    odd = [
        {"id": ["3"], "x": [1], "y": [2], "is_visible": ["0"]},
        {"id": [2.0], "x": [3], "y": [4], "is_visible": ["1"]},
        {"id": [], "x": [5], "y": [6]},
        {"id": [99], "x": [5], "y": [6]},
        {"id": [0], "x": [7], "y": [8], "is_visible": [0]},
    ]
    data = video17([{"track_id": [0], "annopoints": [{"point": odd}]}])
    notes = posetrack17.parse(Path("v.json"), data).keypoints[0]
    poses = posetrack_files.parse_video(Path("v.json"), data)
    assert {j: notes[j].tolist() for j in np.flatnonzero(notes[:, 2])} == {0: [7, 8, 1], 2: [3, 4, 2], 3: [1, 2, 1]}
    assert poses.joint.tolist() == [3, 2, -1, -1, 0] and poses.flag.tolist() == [1, 2, 2, 2, 1]


def test_visible_joints_only(tmp_path: Path) -> None:
    # Knee hidden and predicted wrong, ankle hidden and predicted right: neither counts, nor is the knee a mistake.
    gt = video17([person(POSE, hidden=(0, 1))])
    pred = video17([person(scored(POSE | {1: (9000, 9000)}))])
    assert run(tmp_path, gt, pred).ap["right_knee"] == 0
    for data in (gt, as_2018(gt)):
        result = run(tmp_path, data, pred, joints="visible")
        assert result.mean == pytest.approx(100 * 13 / 15) and result.counts["n_pred"]["right_knee"] == 0
        assert result.ap["right_ankle"] == result.ap["right_knee"] == 0 and result.counts["n_gt"]["right_ankle"] == 0
    with pytest.raises(ValueError, match="annotated"):
        run(tmp_path, gt, pred, joints="seen")


def one_point(point: dict[str, Any]) -> str:
    return json.dumps(video17([{"annopoints": [{"point": [point]}]}]))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "JSON"),
        ("\xff", "JSON"),
        ("[]", "annolist"),
        ('{"annolist": 3}', "annolist"),
        (one_point({"id": [0], "x": [1]}), "frame 0: no 'y'"),
        (one_point({"id": [0], "x": ["a"], "y": [1]}), "frame 0: x should be a number, not 'a'"),
        ('{"images": []}', "category"),
        ('{"images": [3], "categories": [{"name": "person", "keypoints": ["nose"]}]}', "images"),
    ],
)
def test_malformed_files_name_the_file(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=what) as error:
        evaluate(tmp_path, tmp_path)
    assert NAME in str(error.value) and len(str(error.value).splitlines()) == 1


def test_damaged_gzip_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotation file"):
        evaluate(tmp_path, tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        evaluate(tmp_path / "nowhere", tmp_path)
    (tmp_path / (NAME + ".gz")).write_bytes(gzip.compress(b"{}")[:-6])
    with pytest.raises(DataError, match="is not readable JSON"):
        evaluate(tmp_path, tmp_path)
    (tmp_path / NAME).write_text("{}")
    with pytest.raises(DataError, match="holds both"):
        evaluate(tmp_path, tmp_path)
