"""`stages.score`: the lines, notes and JSON of every metric, means over splits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from posetrack_builders import POSE, as_2018, elsewhere, person, scored, video17

from glpose.data.poses import PoseFile, write_poses
from glpose.keypoints import JHMDB, POSETRACK
from glpose.metrics import pckh, posetrack
from stages.score import score
from store.errors import ConfigError, DataError

WRISTS = [JHMDB.joints.index(name) for name in ("right_wrist", "left_wrist")]
COLUMNS = ["Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"]


def posetrack_folders(root: Path) -> tuple[Path, Path]:
    """Two people, one of whom is predicted well, in a file whose image names poseval does not accept."""
    gt = as_2018(video17([person(POSE), person(POSE, track=1)]))
    for image in gt["images"]:
        image["file_name"] = "a.jpg"
    pred = as_2018(video17([person(scored(POSE)), person(elsewhere(POSE, 0.1), track=1)]))
    for side, data in (("gt", gt), ("pred", pred)):
        (root / side).mkdir(parents=True)
        (root / side / "v.json").write_text(json.dumps(data))
    return root / "gt", root / "pred"


def pose_folders(root: Path, wrong: int, frames: int = 4, joints: tuple[str, ...] = JHMDB.joints) -> tuple[Path, Path]:
    """One person per frame in a box of 50 x 100 px; both wrists are wrong in the first `wrong` frames."""
    keypoints = np.full((frames, 15, 3), 2.0)
    keypoints[..., :2] = np.arange(30).reshape(15, 2)
    boxes = np.tile([0.0, 0.0, 50.0, 100.0], (frames, 1))
    names = tuple(f"{number}.png" for number in range(frames))
    predicted = keypoints.copy()
    predicted[:wrong, WRISTS, 0] += 20.5  # right within 20
    for side, values in (("gt", keypoints), ("pred", predicted)):
        file = PoseFile("clip", joints, names, np.arange(frames), boxes, np.ones(frames), values)
        write_poses(root / side / "clip.json", file)
    return root / "gt", root / "pred"


def splits(root: Path, *wrong: int) -> tuple[list[Path], list[Path]]:
    pairs = [pose_folders(root / f"split{number}", count) for number, count in enumerate(wrong, 1)]
    return [gt for gt, _ in pairs], [pred for _, pred in pairs]


def cells(line: str) -> list[str]:
    return line.split()


# -------------------------------------------------------------------------------------------------------- AP and PCKh
def test_ap_prints_the_table_and_writes_its_numbers(tmp_path: Path) -> None:
    gt, pred = posetrack_folders(tmp_path)
    report = score([gt], [pred], json_file=tmp_path / "new" / "ap.json")
    assert report.lines[0] == "AP, percent; 1 videos, 1 frames with people; joints: annotated"
    assert cells(report.lines[1]) == [*COLUMNS, "Mean", "head_top", "head_bottom", "nose"]
    assert cells(report.lines[2]) == ["pred", *["50.0"] * 11]
    assert json.loads((tmp_path / "new" / "ap.json").read_text()) == {
        "metric": "ap", "counted": "annotated", **posetrack.evaluate(gt, pred).as_json()
    }  # fmt: skip


def test_what_only_poseval_minds_is_labelled_as_such(tmp_path: Path) -> None:
    gt, pred = posetrack_folders(tmp_path)
    report = score([gt], [pred], json_file=tmp_path / "ap.json")
    expected = (
        "poseval stops: v.json (annotations): 1 images have no file_name like 000001_mpii_test/000000.jpg "
        "(frame 0: 'a.jpg')"
    )
    assert report.notes == [expected]
    written = json.loads((tmp_path / "ap.json").read_text())
    assert written["problems"] == [] and len(written["poseval_stops"]) == 1
    (pred / "v.json").unlink()
    report = score([gt], [pred])
    assert [note.split(":")[0] for note in report.notes] == ["note", "poseval stops"]
    assert "no prediction file" in report.notes[0]


def test_pckh_says_how_it_is_counted(tmp_path: Path) -> None:
    gt, pred = posetrack_folders(tmp_path)
    report = score([gt], [pred], metric="pckh", json_file=tmp_path / "pckh.json")
    assert report.lines[0] == "PCKh@0.5, percent; 1 videos, 1 frames with people; joints: annotated"
    assert cells(report.lines[1])[:8] == [*COLUMNS, "Total"]
    assert cells(report.lines[2]) == ["pred", *["50.0"] * 11]
    assert "k-th prediction" in report.lines[3] and "Total: pooled hits" in report.lines[3]
    assert json.loads((tmp_path / "pckh.json").read_text()) == {
        "counted": "annotated", **pckh.evaluate(gt, pred).as_json()
    }  # fmt: skip
    strict = score([gt], [pred], metric="pckh", strict_poseval=True)
    assert strict.lines[:3] == report.lines[:3] and "poseval's own number" in strict.lines[3]


def test_pckh_stops_where_poseval_does_if_asked(tmp_path: Path) -> None:
    gt, pred = posetrack_folders(tmp_path)
    data = json.loads((pred / "v.json").read_text())
    del data["annotations"][1]
    (pred / "v.json").write_text(json.dumps(data))
    assert "50.0" in score([gt], [pred], metric="pckh").lines[2]
    with pytest.raises(DataError, match=r"v\.json: frame 0: fewer predictions .* leave out --strict-poseval"):
        score([gt], [pred], metric="pckh", strict_poseval=True, json_file=tmp_path / "no.json")
    assert not (tmp_path / "no.json").exists()


# ---------------------------------------------------------------------------------------------------------------- PCK
def test_pck_of_one_pair_names_every_convention(tmp_path: Path) -> None:
    gt, pred = pose_folders(tmp_path, wrong=1)
    report = score([gt], [pred], metric="pck", json_file=tmp_path / "pck.json")
    assert report.lines[0] == "PCK@0.2 of max(w, h) of the box, percent; 4 people; joints: annotated (jhmdb)"
    assert cells(report.lines[1]) == [*COLUMNS, "Avg", "pooled", "over", "groups"]
    row = ["100.0", "100.0", "100.0", "75.0", "100.0", "100.0", "100.0", "96.7", "96.7", "96.4"]
    assert cells(report.lines[2]) == ["pred", *row]
    assert report.lines[3] == "groups: mean over their joints; Head = neck + belly + head, the others right + left"
    assert report.lines[4].startswith("Avg: groups weighted by joint count, (3 Head + 2 Shoulder + ")
    assert report.lines[4].endswith("/ 15, as in the GLPose paper")
    assert report.lines[5].startswith("pooled: pooled hits")
    assert report.lines[6].startswith("over groups: mean over joint groups")
    assert len(report.lines) == 7 and report.notes == []
    written = json.loads((tmp_path / "pck.json").read_text())
    assert written["metric"] == "PCK@0.2" and written["groups"]["Wrist"] == 75 and written["people"] == 4


def test_pck_of_splits_ends_with_their_mean(tmp_path: Path) -> None:
    gt, pred = splits(tmp_path, 0, 1, 4)
    report = score(gt, pred, metric="pck", json_file=tmp_path / "pck.json")
    rows = {cells(line)[0]: cells(line)[1:] for line in report.lines[2:6]}
    assert list(rows) == ["split1", "split2", "split3", "mean"]
    assert [row[3] for row in rows.values()] == ["100.0", "75.0", "0.0", "58.3"]
    # Avg and pooled: 100, 100 - 25 * 2 / 15, 100 - 200 / 15; over groups: 100, 100 - 25 / 7, 100 - 100 / 7
    assert rows["mean"] == ["100.0", "100.0", "100.0", "58.3", "100.0", "100.0", "100.0", "94.4", "94.4", "94.0"]
    assert report.lines[-1] == "mean: mean over the 3 splits, in every column"
    assert "12 people" in report.lines[0]
    written = json.loads((tmp_path / "pck.json").read_text())
    assert list(written["splits"]) == ["split1", "split2", "split3"]
    assert written["splits"]["split2"]["groups"]["Wrist"] == 75
    assert written["mean_over_splits"]["mean"] == pytest.approx((100 + 100 - 50 / 15 + 100 - 200 / 15) / 3)
    assert written["mean_over_splits"]["averages"]["over_groups"] == pytest.approx(100 - 125 / 21)
    assert written["mean_over_splits"]["splits"] == 3


def test_rows_are_named_after_what_tells_the_folders_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gt, pred = pose_folders(tmp_path / "one", 0)
    monkeypatch.chdir(pred)
    assert score([gt], [Path(".")], metric="pck").lines[2].startswith("pred ")
    others = [tmp_path / "ours", tmp_path / "theirs"]
    for other in others:
        other.symlink_to(pred)
    assert [line.split()[0] for line in score([gt, gt], others, metric="pck").lines[2:5]] == ["ours", "theirs", "mean"]
    deep = [pose_folders(tmp_path / name, 0)[1] for name in ("a/x", "a/y", "b/x")]
    lines = score([gt] * 3, deep, metric="pck").lines
    assert [line.split()[0] for line in lines[2:6]] == ["a/x", "a/y", "b/x", "mean"]
    called_mean = [pred.rename(tmp_path / "mean"), deep[0]]
    assert score([gt, gt], called_mean, metric="pck").lines[3].split()[0] != "mean"


def test_pck_options(tmp_path: Path) -> None:
    gt, pred = pose_folders(tmp_path, wrong=4)
    assert cells(score([gt], [pred], metric="pck", alpha=0.21).lines[2])[4] == "100.0"
    torso = score([gt], [pred], metric="pck", size="torso")
    assert torso.lines[0].startswith("PCK@0.2 of the torso (left shoulder to right hip), percent; 4 people;")
    data = json.loads((gt / "clip.json").read_text())
    data["poses"][0]["box"] = [0, 0, 0, 0]
    data["poses"][1]["keypoints"][WRISTS[0]][2] = 1
    (gt / "clip.json").write_text(json.dumps(data))
    report = score([gt], [pred], metric="pck", joints="visible", json_file=tmp_path / "pck.json")
    assert report.notes == ["note: pred: 1 people whose box has no size are left out"]
    assert "3 people; joints: visible" in report.lines[0]
    assert json.loads((tmp_path / "pck.json").read_text())["counts"]["annotated"]["right_wrist"] == 2


def test_joint_sets_are_told_by_the_files_or_by_a_file(tmp_path: Path) -> None:
    gt, pred = pose_folders(tmp_path / "posetrack", 0, joints=POSETRACK.joints)
    lines = score([gt], [pred], metric="pck").lines
    assert lines[0].endswith("(posetrack)")
    assert "groups: mean over their joints; Head = head top + head bottom + nose, the others right + left" in lines
    own = tuple(f"part{number}" for number in range(15))
    gt, pred = pose_folders(tmp_path / "own", 0, joints=own)
    with pytest.raises(DataError, match=r"clip\.json has other joints than jhmdb or posetrack data: part0, part1"):
        score([gt], [pred], metric="pck")
    about = tmp_path / "own.yaml"
    groups = {"Arm": list(own[:5]), "Leg": list(own[5:])}
    about.write_text(json.dumps({"name": "robot", "joints": own, "flip_pairs": [], "groups": groups,
                                 "sigmas": [0.1] * 15}))  # fmt: skip
    lines = score([gt], [pred], metric="pck", joint_set=about).lines
    assert lines[0].endswith("(robot)") and cells(lines[1])[:3] == ["Arm", "Leg", "Avg"]
    assert lines[4].startswith("Avg: groups weighted by joint count, (5 Arm + 10 Leg) / 15")
    with pytest.raises(DataError, match="robot data has no left_shoulder and no right_hip, and so no torso"):
        score([gt], [pred], metric="pck", joint_set=about, size="torso")
    with pytest.raises(DataError, match="has other joints than robot data: neck, belly, head"):
        score(*([folder] for folder in pose_folders(tmp_path / "jhmdb", 0)), metric="pck", joint_set=about)


# ------------------------------------------------------------------------------------------------------- what is wrong
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "map"}, "--metric is ap, pckh, pck or oks, not 'map'"),
        ({"joints": "some"}, "--joints is annotated or visible, not 'some'"),
        ({"gt": 2, "pred": 1}, "there are 2 --gt and 1 --pred"),
        ({"gt": 0, "pred": 0}, "there are 0 --gt and 0 --pred"),
        ({"gt": 3, "pred": 2, "metric": "pck"}, "there are 3 --gt and 2 --pred"),
        ({"gt": 2, "pred": 2}, "--metric ap takes one --gt and one --pred"),
        ({"gt": 2, "pred": 2, "metric": "pckh"}, "--metric pckh takes one --gt and one --pred"),
        ({"gt": 2, "pred": 2, "metric": "pck"}, "several --pred are the same folder"),
        ({"strict_poseval": True}, "--strict-poseval belongs to --metric pckh, not to ap"),
        ({"metric": "pckh", "strict_poseval": True, "joints": "visible"}, "does not go with --joints visible"),
        ({"alpha": 0.1, "size": "box"}, "--alpha belongs to --metric pck or oks, not to ap"),
        ({"metric": "pckh", "joint_set": Path("own.yaml")}, "--joint-set belongs to --metric pck or oks, not to pckh"),
        ({"metric": "pck", "alpha": 0.0}, "--alpha is a share .* not 0.0"),
        ({"metric": "pck", "alpha": float("nan")}, "--alpha is a share .* not nan"),
        ({"metric": "pck", "size": "head"}, "--size is box or torso, not 'head'"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    gt, pred = pose_folders(tmp_path, 0)
    options = dict(options)
    pairs = [gt] * options.pop("gt", 1), [pred] * options.pop("pred", 1)
    with pytest.raises(ConfigError, match=words) as error:
        score(*pairs, **options, json_file=tmp_path / "no.json")
    assert len(str(error.value).splitlines()) == 1 and not (tmp_path / "no.json").exists()


@pytest.mark.parametrize("metric", ["ap", "pckh", "pck"])
@pytest.mark.parametrize("content", [None, "{", "[]", '{"annolist": 3}', '{"joints": [1], "poses": [{}]}'])
def test_unusable_files_are_named_in_one_line(tmp_path: Path, metric: str, content: str | None) -> None:
    for side in ("gt", "pred"):
        (tmp_path / side).mkdir()
        if content is not None:
            (tmp_path / side / "v.json").write_text(content)
    with pytest.raises(DataError, match="gt" if content is None else r"gt.v\.json") as error:
        score([tmp_path / "gt"], [tmp_path / "pred"], metric=metric, json_file=tmp_path / "no.json")
    assert len(str(error.value).splitlines()) == 1 and not (tmp_path / "no.json").exists()
