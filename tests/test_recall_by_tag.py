"""Recall by tag: numbers worked out by hand, agreement with the evaluator, and what eval writes and prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from posetrack_builders import NAMES18, as_2018, elsewhere, person, random_video, scored, video17
from small_pipelines import glpose_stage, write_dataset, write_pipeline

from glpose.keypoints import POSETRACK
from glpose.metrics import posetrack
from glpose.metrics.recall_by_tag import TAGS, count_by_tag, joint_table, recall, recall_of_rows
from store.errors import DataError

NAME = "000001_mpii_test"
# The builders' heads are 30 px: right within 15 px, rapid from 15 px per frame. The extent is 100 px: right within 10.
A = {0: (10, 10), 1: (110, 10), 2: (10, 60), 3: (110, 60)}
B = {0: (1010, 10), 1: (1010, 90)}


def write(folder: Path, gt: Any, pred: Any, name: str = NAME) -> tuple[Path, Path]:
    """One pair of files; `pred` None writes none. The two folders."""
    for side, data in (("gt", gt), ("pred", pred)):
        (folder / side).mkdir(parents=True, exist_ok=True)
        if data is not None:
            (folder / side / f"{name}.json").write_text(json.dumps(data))
    return folder / "gt", folder / "pred"


def tag(video: dict[str, Any], number: int, action: str | None, **fields: dict[int, float]) -> None:
    """Give a person `occlusion` and `speed`, joint -> value, and an action."""
    for field, values in fields.items():
        missing = -1 if field == "occlusion" else None
        listed = [values.get(_joint(name), missing) for name in NAMES18]
        video["annotations"][number][field] = listed
    video["annotations"][number]["action"] = action


def _joint(name: str) -> int:
    return POSETRACK.joints.index(name) if name in POSETRACK.joints else -1


def two_people(folder: Path) -> tuple[Path, Path]:
    """A walks in a sharp frame: right, 12 px off, 20 px off, not predicted. B runs in a blurred one, and is missed."""
    gt = as_2018(video17([person(A, track=7)], [person(B, track=8)]))
    tag(gt, 0, "walk", occlusion={0: 0, 1: 1, 2: 2, 3: 2}, speed={0: 15.0, 1: 15.5, 3: 0.0})
    tag(gt, 1, "run", occlusion={0: 0, 1: 0}, speed={0: 40.0})
    gt["images"][0]["defocus"], gt["images"][1]["defocus"] = 1.0, 2.5
    close = scored({0: (10, 10), 1: (122, 10), 2: (10, 80)})
    pred = as_2018(video17([person(close, head=None)], [person(elsewhere(B), head=None)]))
    return write(folder, gt, pred)


def test_recall_by_hand(tmp_path: Path) -> None:
    table = recall(count_by_tag(joint_table(*two_people(tmp_path)))).set_index("tag")
    nan = np.nan
    expected = {  # people, unmatched, joints, PCKh, PCK; of all people: joints, PCKh, PCK
        "all": (1, 1, 4, 50, 25, 6, 100 / 3, 100 / 6),
        "visible": (1, 1, 1, 100, 100, 3, 100 / 3, 100 / 3),
        "self-occluded": (1, 0, 1, 100, 0, 1, 100, 0),
        "occluded by others": (1, 0, 2, 0, 0, 2, 0, 0),
        "occluded": (1, 0, 3, 100 / 3, 0, 3, 100 / 3, 0),
        "rapid": (1, 1, 1, 100, 0, 2, 50, 0),
        "slow": (1, 0, 2, 50, 50, 2, 50, 50),
        "defocused": (0, 1, 0, nan, nan, 2, 0, 0),
        "sharp": (1, 0, 4, 50, 25, 4, 50, 25),
        "action: run": (0, 1, 0, nan, nan, 2, 0, 0),
        "action: walk": (1, 0, 4, 50, 25, 4, 50, 25),
    }
    assert list(table.index) == list(expected)
    columns = ["people", "unmatched", "joints", "pckh50", "pck10", "joints_all", "pckh50_all", "pck10_all"]
    assert list(table.columns) == columns
    np.testing.assert_allclose(table.to_numpy(float), np.array(list(expected.values()), float))


def test_joints_by_hand(tmp_path: Path) -> None:
    joints = joint_table(*two_people(tmp_path))
    assert joints["joint"].tolist() == [POSETRACK.joints[j] for j in (0, 1, 2, 3, 0, 1)]
    assert joints["video"].unique().tolist() == [NAME]
    for column, values in {
        "frame": [0, 0, 0, 0, 1, 1],
        "annotation": [0, 0, 0, 0, 1, 1],
        "track": [7, 7, 7, 7, 8, 8],
        "distance": [0, 12, 20, np.nan, np.nan, np.nan],
        "head_size": [30] * 6,
        "extent": [100] * 4 + [80] * 2,
        "matched": [True] * 4 + [False] * 2,
        "occlusion": [0, 1, 2, 2, 0, 0],
        "speed": [15, 15.5, np.nan, 0, 40, np.nan],
        "defocus": [1] * 4 + [2.5] * 2,
    }.items():
        np.testing.assert_array_equal(joints[column].to_numpy(), values, err_msg=column)
    assert joints["action"].tolist() == ["walk"] * 4 + ["run"] * 2


@pytest.mark.parametrize("seed", range(6))
def test_right_joints_are_those_of_the_evaluator(tmp_path: Path, seed: int) -> None:
    """On files with rivals, ties, borderline distances and ignored regions, per joint."""
    rng = np.random.default_rng(seed)
    for name in ("000001_mpii_test", "000002_mpii_test"):
        folders = write(tmp_path, *map(as_2018, random_video(rng)), name=name)
    joints, result = joint_table(*folders), posetrack.evaluate(*folders)
    right = joints["joint"].to_numpy()[joints["distance"].to_numpy() / joints["head_size"].to_numpy() <= 0.5]
    for names, counted in ((right, "n_tp"), (joints["joint"].to_numpy(), "n_gt")):
        assert {joint: int((names == joint).sum()) for joint in POSETRACK.joints} == result.counts[counted]
    table = recall(count_by_tag(joints)).set_index("tag")
    assert 0 < sum(result.counts["n_tp"].values()) < table.loc["all", "joints_all"]
    np.testing.assert_allclose(
        table.loc["all", "pckh50_all"],
        100 * sum(result.counts["n_tp"].values()) / sum(result.counts["n_gt"].values()),
    )


def test_tags_stay_with_their_people(tmp_path: Path) -> None:
    """Of people listed out of order, one of them without joints and one in a region to ignore."""
    region = [(-5, -5), (200, -5), (200, 200), (-5, 200)]
    gt = as_2018(video17([person({}), person(A), person(B)], [person(B)], regions=[region]))
    for number, name in enumerate(("nobody", "ignored", "first", "last")):
        tag(gt, number, name, occlusion=dict.fromkeys(B, number - 1), speed=dict.fromkeys(B, float(number)))
    gt["annotations"].reverse()
    pred = as_2018(video17([person(scored(B), head=None)], [person(scored(B), head=None)]))
    joints = joint_table(*write(tmp_path, gt, pred))
    assert joints["action"].tolist() == ["first", "first", "last", "last"]
    assert joints["speed"].tolist() == [2, 2, 3, 3] and joints["occlusion"].tolist() == [1, 1, 2, 2]
    assert joints["annotation"].tolist() == [0, 0, 3, 3] and joints["distance"].tolist() == [0] * 4


def test_without_tags_all_is_everything(tmp_path: Path) -> None:
    files = as_2018(video17([person(A)])), as_2018(video17([person(scored(A), head=None)]))
    table = recall(count_by_tag(joint_table(*write(tmp_path, *files)))).set_index("tag")
    assert tuple(table.index) == TAGS
    assert table["joints_all"].to_list() == [4, *[0] * 8] and table.loc["all", "pck10"] == 100
    assert table["pckh50"].isna().to_list() == [False, *[True] * 8]


def test_people_without_a_prediction_file_or_head_box_are_unmatched(tmp_path: Path) -> None:
    gt = as_2018(video17([person(A)]))
    table = recall(count_by_tag(joint_table(*write(tmp_path / "file", gt, None))))
    assert table.loc[0, ["people", "unmatched", "joints", "joints_all", "pckh50_all"]].to_list() == [0, 1, 0, 4, 0]
    gt, pred = as_2018(video17([person(A, head=None)])), as_2018(video17([person(scored(A), head=None)]))
    tag(gt, 0, None, speed=dict.fromkeys(A, 50.0))
    joints = joint_table(*write(tmp_path / "head", gt, pred))
    assert np.isnan(joints["head_size"].tolist()).all() and joints["matched"].tolist() == [False] * 4
    assert count_by_tag(joints).set_index("tag").loc[["rapid", "slow"], "joints_all"].to_list() == [0, 0]


def test_a_video_drawn_twice_counts_twice(tmp_path: Path) -> None:
    two_people(tmp_path)
    other = as_2018(video17([person(B)])), as_2018(video17([person(scored(B), head=None)]))
    counts = count_by_tag(joint_table(*write(tmp_path, *other, name="000002_mpii_test")))
    own = {video: part for video, part in counts.groupby("video")}
    assert [list(part["tag"]) for part in own.values()] == [[*TAGS, "action: run", "action: walk"]] * 2
    drawn = recall(pd.concat([own[NAME], own["000002_mpii_test"], own["000002_mpii_test"]])).set_index("tag")
    assert drawn.loc["all", ["people", "joints", "pckh50"]].to_list() == [3, 8, 100 * 6 / 8]
    assert recall(counts).set_index("tag").loc["all", ["people", "joints"]].to_list() == [2, 6]


def test_rows_are_told_apart(tmp_path: Path) -> None:
    joints = joint_table(*two_people(tmp_path))
    both = pd.concat([joints.assign(row="near"), joints.assign(row="far", distance=50.0)])
    table = recall_of_rows(both)
    assert table.columns[0] == "row" and table["row"].unique().tolist() == ["near", "far"]
    assert table.set_index(["row", "tag"]).loc[[("near", "all"), ("far", "all")], "pckh50"].to_list() == [50, 0]


def test_posetrack17_annotations_are_refused(tmp_path: Path) -> None:
    folders = write(tmp_path, video17([person(A)]), video17([person(scored(A))]))
    with pytest.raises(DataError, match=f"{NAME}.json is a PoseTrack17 file"):
        joint_table(*folders)
    with pytest.raises(DataError, match="holds no annotation file"):
        joint_table(tmp_path / "pred" / "..", tmp_path / "pred")


# -------------------------------------------------------------------------------------------------------------- eval
def tag_clip(path: Path) -> int:
    """Give a generated clip tags, everybody's head hidden by others; how many joints are annotated from frame 2 on."""
    data = json.loads(path.read_text())
    late = {image["id"] for image in data["images"][2:]}
    for image in data["images"]:
        image["defocus"] = 0.0
    for one in data["annotations"]:
        one |= {"occlusion": [2, 2, 2, *[0] * 14], "speed": [1.0] * 17, "action": "wave"}
    path.write_text(json.dumps(data))
    points = [np.reshape(one["keypoints"], (17, 3)) for one in data["annotations"] if one["image_id"] in late]
    return int(np.any(points, axis=2).sum())


def test_eval_prints_and_saves_recall_by_tag(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    annotated = tag_clip(tmp_path / "data" / "annotations" / "val" / "c.json")
    evaluated = {"subset": "val", "frames": [2, None]}
    data = {"kind": "posetrack18", "root": str(tmp_path / "data"), "eval": evaluated}
    path = write_pipeline(tmp_path, data, ablate={"k": [0, 1], "n": [0, 2]})
    code, printed = glpose_stage(path, "run")
    assert code == 0, printed
    assert "Recall of annotated joints by tag, percent; boxes: annotations" in printed
    assert "The same by action" in printed and "no prediction is assigned to" in printed
    out = tmp_path / "work" / "eval" / "latest" / "results"

    joints = pd.read_parquet(out / "joints.parquet")
    rows = {str(row): part.drop(columns="row").reset_index(drop=True) for row, part in joints.groupby("row")}
    assert set(rows) == {"glpose", "single_frame"}
    for row, part in rows.items():
        assert len(part) == annotated and set(part["frame"]) == {2, 3, 4, 5} and set(part["action"]) == {"wave"}
        again = joint_table(out / "ground_truth", out / "predictions" / row)
        again["frame"] += 2
        pd.testing.assert_frame_equal(part, again)
        head = part["joint"].isin(["nose", "head_bottom", "head_top"])
        assert part["occlusion"].tolist() == np.where(head, 2, 0).tolist()
    lines = [line.split() for line in (out / "table.txt").read_text().splitlines()]
    heads = rows["glpose"]["occlusion"].tolist().count(2)
    counted = [annotated, annotated - heads, 0, heads, heads, 0, annotated, 0, annotated]  # in the order of TAGS
    shown = [line[2:] for line in lines if line[:2] == ["annotated", "joints"]]
    assert shown == [list(map(str, counted)), [str(annotated)]]  # by tag; by action, of which there is one
    table = pd.read_csv(out / "recall_by_tag.csv")
    pd.testing.assert_frame_equal(table, recall_of_rows(joints))
    assert table["row"].unique().tolist() == ["glpose", "single_frame"]

    code, printed = glpose_stage(path, "ablate", "--rows", "k=*")
    assert code == 0, printed
    folder = tmp_path / "work" / "ablate_eval" / "latest" / "k=0@seed0"
    assert pd.read_csv(folder / "recall_by_tag.csv")["row"].unique().tolist() == ["k=0@seed0"]
    assert len(pd.read_parquet(folder / "joints.parquet")) == annotated


def test_eval_says_nothing_without_tags(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")  # with tags, also in clips to train on
    path = tmp_path / "data" / "annotations" / "val" / "c.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        del image["defocus"]
    for annotation in content["annotations"]:
        for name in ("occlusion", "speed", "action"):
            del annotation[name]
    path.write_text(json.dumps(content))
    code, printed = glpose_stage(write_pipeline(tmp_path), "run")
    assert code == 0, printed
    out = tmp_path / "work" / "eval" / "latest" / "results"
    assert "scores.json" in {path.name for path in out.iterdir()}
    assert "by tag" not in printed and "by tag" not in (out / "table.txt").read_text()
    assert not {"joints.parquet", "recall_by_tag.csv"} & {path.name for path in out.iterdir()}
