"""Data of one's own, a COCO-style file with another joint set, through every stage; and what eval writes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_pipelines import CLIP, attempts, commit_digests, context, glpose_stage, write_pipeline

from glpose.data.rendered import write_clip
from stages.run import STAGES, expected_record
from store.record import Record, difference

# Nine joints of the rendered clips' fifteen, by names of our own, in another order.
NAMES = {
    "top": "head_top", "neck": "head_bottom", "hand_l": "left_wrist", "hand_r": "right_wrist", "hip_l": "left_hip",
    "hip_r": "right_hip", "foot_r": "right_ankle", "foot_l": "left_ankle", "elbow_l": "left_elbow",
}  # fmt: skip
JOINT_SET: dict[str, Any] = {
    "name": "nine",
    "joints": list(NAMES),
    "flip_pairs": [["hand_l", "hand_r"], ["hip_l", "hip_r"], ["foot_l", "foot_r"]],
    "groups": {"Head": ["top", "neck"], "Arm": ["hand_l", "hand_r", "elbow_l"],
               "Leg": ["hip_l", "hip_r", "foot_l", "foot_r"]},
    "limbs": [["top", "neck"], ["hip_l", "foot_l"]],
    "sigmas": dict.fromkeys(NAMES, 0.08),
}  # fmt: skip


def as_coco(root: Path, split: str, clips: list[str]) -> dict[str, Any]:
    """Generated clips as one COCO-style file, its joints in yet another order."""
    order = [*reversed(NAMES), "an extra one"]
    content: dict[str, Any] = {
        "images": [], "annotations": [], "categories": [{"id": 7, "name": "athlete", "keypoints": order}]
    }  # fmt: skip
    for clip in clips:
        labels = json.loads((root / "annotations" / split / f"{clip}.json").read_text())
        columns = labels["categories"][0]["keypoints"]
        first = len(content["images"])
        numbers = {image["id"]: first + k for k, image in enumerate(labels["images"])}
        content["images"] += [{"id": numbers[i["id"]], "file_name": i["file_name"]} for i in labels["images"]]
        for person in labels["annotations"]:
            points = [person["keypoints"][3 * c : 3 * c + 3] for c in range(len(columns))]
            keypoints: list[float] = []
            for name in order:
                x, y, v = points[columns.index(NAMES[name])] if name in NAMES else (0, 0, 0)
                keypoints += [x, y, 2 if v > 0 else int(x != 0 or y != 0)]
            content["annotations"].append(
                {"id": len(content["annotations"]) + 1, "image_id": numbers[person["image_id"]], "category_id": 7,
                 "bbox": person["bbox"], "keypoints": keypoints, "track_id": person["track_id"]}
            )  # fmt: skip
    return content


def write_project(folder: Path) -> Path:
    """A data set in COCO's form and a pipeline on it; the pipelines.yaml."""
    root = folder / "data"
    for split, clips in (("train", ["a", "b"]), ("val", ["c"])):
        for clip in clips:
            write_clip(root, split, clip, CLIP, seed=0, clip=ord(clip[0]))
        content = as_coco(root, split, clips)
        (root / f"{split}.json").write_text(json.dumps(content))
    (folder / "nine.yaml").write_text(yaml.safe_dump(JOINT_SET, sort_keys=False))
    data = {"kind": "coco", "root": str(root), "joints": str(folder / "nine.yaml"), "annotations": "."}
    return write_pipeline(folder, data)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run."""
    folder = tmp_path_factory.mktemp("own")
    code, printed = glpose_stage(write_project(folder), "run")
    assert code == 0, printed
    return folder


def results(folder: Path) -> Path:
    return folder / "work" / "eval" / "latest" / "results"


def test_every_stage_runs(done: Path) -> None:
    counts = {stage: len(units) for stage, units in commit_digests(done / "work").items()}
    assert counts == {"detect": 3, "extract": 3, "index": 3, "train": 2, "eval": 1}
    assert list(attempts(done / "work", "detect")) == ["images_train_a", "images_train_b", "images_val_c"]


def test_scores_are_by_the_joint_sets_own_groups(done: Path) -> None:
    table = (results(done) / "table.txt").read_text()
    assert table.startswith("OKS AP on the eval split")
    for word in ("AP50", "AP75", "AR", "Head", "Arm", "Leg", "Avg", "GLPose (k=1, n=2)"):
        assert word in table
    scores = json.loads((results(done) / "scores.json").read_text())["glpose"]
    assert set(scores["pck"]["joints"]) == set(NAMES) and 0 <= scores["mean"] <= 100
    assert scores["pck"]["people"] > 0
    assert (results(done) / "contact_sheet.png").stat().st_size > 1000


def test_predictions_are_coco_results_in_the_files_order(done: Path) -> None:
    poses = json.loads((results(done) / "predictions" / "glpose" / "keypoints.json").read_text())
    annotated = json.loads((done / "data" / "val.json").read_text())
    assert {pose["image_id"] for pose in poses} <= {image["id"] for image in annotated["images"]}
    for pose in poses:
        assert pose["category_id"] == 7 and len(pose["keypoints"]) == 30
        assert pose["keypoints"][27:] == [0, 0, 0]  # the extra joint is last in the file


def test_the_same_files_score_the_same_again(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stages.score import score

    files = [done / "data" / "val.json"], [results(done) / "predictions" / "glpose" / "keypoints.json"]
    report = score(*files, metric="oks", joint_set=done / "nine.yaml", json_file=done / "again.json")
    again = json.loads((done / "again.json").read_text())
    assert again.pop("counted") == "annotated"
    assert again == json.loads((results(done) / "scores.json").read_text())["glpose"]
    assert report.notes == [] and "AP50" in report.lines[1]


def test_the_ground_truth_that_eval_writes_can_be_read_again(done: Path) -> None:
    from glpose.data import coco

    written = coco.open_file(results(done) / "ground_truth" / "keypoints.json")
    assert coco.video_names(written) == ["images_val_c"]


def test_perfect_poses_give_100(done: Path, tmp_path: Path) -> None:
    from stages.score import score

    annotated = json.loads((done / "data" / "val.json").read_text())
    perfect = [
        {"image_id": p["image_id"], "category_id": 7, "keypoints": p["keypoints"], "score": 1.0}
        for p in annotated["annotations"]
    ]
    (tmp_path / "perfect.json").write_text(json.dumps(perfect))
    files = [done / "data" / "val.json"], [tmp_path / "perfect.json"]
    score(*files, metric="oks", joint_set=done / "nine.yaml", json_file=tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["mean"] == pytest.approx(100)


def test_the_joint_set_is_part_of_the_records(done: Path, tmp_path: Path) -> None:
    config = done / "pipelines.yaml"
    assert glpose_stage(config, "status")[1].count(" 0 to do") == 5
    text = (done / "nine.yaml").read_text()
    try:
        (done / "nine.yaml").write_text(yaml.safe_dump({**JOINT_SET, "sigmas": [0.05] * 9}, sort_keys=False))
        code, printed = glpose_stage(config, "eval")
        assert code == 1 and "eval.joint_set" in printed
        assert "0 to do" in glpose_stage(config, "train")[1]  # sigmas are of scoring alone
        other = {**JOINT_SET, "joints": [*list(NAMES)[1:], "top"]}
        (done / "nine.yaml").write_text(yaml.safe_dump(other, sort_keys=False))
        code, printed = glpose_stage(config, "train")
        assert code == 1 and "train.joint_names" in printed
    finally:
        (done / "nine.yaml").write_text(text)


@pytest.mark.parametrize(
    ("stage", "setting", "key"),
    [
        ("train", "train.augment=warp", "flip_pairs"),
        ("extract", "extract.views=2", "upper_body"),
        ("crops", "crops.half_body=true", "upper_body"),
    ],
)
def test_what_augmentation_reads_of_the_joint_set_is_part_of_the_records(
    done: Path, stage: str, setting: str, key: str, tmp_path: Path
) -> None:
    other = {**JOINT_SET, "flip_pairs": [["hip_l", "foot_r"]], "upper_body": ["top"]}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other, sort_keys=False))
    ours, theirs = ([f"data.joints={path}"] for path in (done / "nine.yaml", tmp_path / "other.yaml"))

    def record(*settings: str) -> Record:
        return expected_record(STAGES[stage], context(done / "pipelines.yaml", *settings).config)

    lines = difference(record(*ours, setting), record(*theirs, setting))
    assert lines and all(key in line for line in lines)
    if stage != "crops":  # read by augmentation alone
        assert record(*ours) == record(*theirs)


def test_what_does_not_fit_is_one_line(done: Path) -> None:
    config = done / "pipelines.yaml"
    for setting, words in (
        ("data.joints=gone.yaml", "gone.yaml"),
        ("data.annotations=gone", "annotation file"),
        ("eval.submission=true", "PoseTrack server"),
        ("eval.joints=visible", "OKS counts every annotated joint"),
    ):
        code, printed = glpose_stage(config, "eval", "--set", setting)
        assert code in (1, 2) and words in printed and "Traceback" not in printed, (setting, printed)
