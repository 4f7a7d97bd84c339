"""compare: rows, frames, rings, tables, what is refused; other systems' files; the report's section."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import jhmdb_builders
import numpy as np
import pytest
from posetrack_builders import HEAD, as_2018, person, scored, video17
from small_pipelines import context, finish_project, glpose_stage, write_pipeline
from test_own_data import write_project as write_own_data

from glpose.data.given_predictions import Span, take_coco, take_pose_files, take_posetrack
from glpose.drawing import MISSING, WRONG
from glpose.keypoints import POSETRACK
from glpose.metrics.paired_poses import PairedPoses, of_posetrack
from glpose.side_by_side import View, draw_system, draw_truth, view_of_frame, view_of_person, write_sheet
from stages.compare_section import compare_section
from store.errors import DataError

NAME = "000001_mpii_test"
POINTS = {0: (20, 20), 1: (60, 20), 2: (20, 60), 3: (60, 60)}  # right within 15 px of 30 px heads


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pipeline on rendered clips; one of them, `c`, is evaluated. Only to be read."""
    return finish_project(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def truth(project: Path) -> Path:
    """Ground truth of `c` as predictions of a system that is always right, but in frame 3, where it finds nobody."""
    folder = project / "perfect"
    folder.mkdir()
    content = json.loads((project / "data" / "annotations" / "val" / "c.json").read_text())
    content["annotations"] = [
        {**one, "scores": [1.0] * 17} for one in content["annotations"] if one["image_id"] != content["images"][3]["id"]
    ]
    (folder / "c.json").write_text(json.dumps(content))
    return folder


def run(project: Path, *arguments: str) -> tuple[int, str]:
    return glpose_stage(project / "pipelines.yaml", "compare", *arguments)


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------------------------ pictures
def one_pair(found: dict[int, tuple[float, ...]], tmp_path: Path) -> PairedPoses:
    for side, points in (("gt", POINTS), ("pred", scored(found))):
        (tmp_path / side).mkdir()
        people = [person(points, head=HEAD if side == "gt" else None)] if points else []
        (tmp_path / side / f"{NAME}.json").write_text(json.dumps(as_2018(video17(people))))
    return of_posetrack(tmp_path / "gt", tmp_path / "pred")[NAME]


def ringed(picture: np.ndarray, colour: tuple[int, int, int], x: float, y: float) -> bool:
    """Whether there is a ring around a point."""
    ring = (picture == colour).all(axis=2)
    places = np.argwhere(ring) - [y, x]
    return bool((abs(np.hypot(places[:, 0], places[:, 1]) - 6) < 2.5).sum() > 15)


def test_rings_are_where_the_errors_are(tmp_path: Path) -> None:
    """Joint 0 is right, 1 is 20 px off, 2 is not estimated; 4 is estimated but not annotated."""
    pairs = one_pair({0: (22, 20), 1: (80, 20), 3: (60, 60), 4: (90, 90)}, tmp_path)
    frame = np.zeros((120, 120, 3), np.uint8)
    picture = draw_system(frame, view_of_frame(frame, 120), pairs, 0, POSETRACK)
    assert ringed(picture, WRONG, 80, 20) and not ringed(picture, WRONG, 60, 20)
    assert ringed(picture, MISSING, 20, 60)
    for x, y in ((22, 20), (60, 60), (90, 90)):
        assert not ringed(picture, WRONG, x, y) and not ringed(picture, MISSING, x, y)
    assert picture[90, 90].any() and not frame.any()
    shown = draw_truth(frame, view_of_frame(frame, 120), pairs, 0, POSETRACK)
    assert shown[20, 60].any() and shown[60, 20].any() and not shown[90, 90].any()
    assert not (shown == WRONG).all(axis=2).any() and not (shown == MISSING).all(axis=2).any()


def test_a_pose_of_nobody_is_drawn_and_its_person_is_missing(tmp_path: Path) -> None:
    pairs = one_pair({joint: (x + 40, y) for joint, (x, y) in POINTS.items()}, tmp_path)
    assert not pairs.right.any() and len(pairs.loose) == 1
    frame = np.zeros((120, 120, 3), np.uint8)
    picture = draw_system(frame, view_of_frame(frame, 120), pairs, 0, POSETRACK)
    assert all(ringed(picture, MISSING, x, y) for x, y in POINTS.values()) and picture[20, 100].any()


def test_a_view_shows_the_person_larger_and_keeps_places() -> None:
    frame = np.zeros((200, 400, 3), np.uint8)
    frame[80:120, 150:170] = 255
    points = np.array([[150.0, 80], [170, 120], [np.nan, np.nan]])
    view = view_of_person(points, [np.add(points, [500, 0])], frame, 0, (130, 160))
    picture = view.of(frame)
    assert picture.shape == (160, 130, 3) and (picture == 255).any()
    (x1, y1), (x2, y2) = view.points(points[:2])
    assert picture[round((y1 + y2) / 2), round((x1 + x2) / 2)].tolist() == [255, 255, 255]
    assert y2 - y1 > 60  # what is far off does not make it small
    x1, y1, x2, y2 = view.region
    assert 0 <= x1 < x2 <= 400 and 0 <= y1 < y2 <= 200
    small = View((0, 0, 400, 200), (100, 50)).of(frame)
    assert small.shape == (50, 100, 3) and small[25, 40].tolist() == [255] * 3


def test_dollars_in_names_and_notes_are_no_formula(tmp_path: Path) -> None:
    dollars = "$\\frac{ a clip, not $5"
    picture = np.zeros((40, 40, 3), np.uint8)
    write_sheet(tmp_path / "a.png", [(dollars, [picture], [dollars])], [(dollars, dollars)], [dollars, dollars])
    assert cv2.imread(str(tmp_path / "a.png")) is not None


# ---------------------------------------------------------------------------------------------------- files of others
def test_files_of_whole_videos_and_of_their_evaluated_frames(tmp_path: Path) -> None:
    video = video17(*([person(scored({0: (frame, 0)}))] for frame in range(6)))
    for content, key in ((video, "annolist"), (as_2018(video), "images")):
        path = tmp_path / "any.json"
        path.write_text(json.dumps(content))
        assert take_posetrack(path, {NAME: Span(2, 5, 6)}, tmp_path, tmp_path / "out") == [NAME]
        kept = json.loads((tmp_path / "out" / f"{NAME}.json").read_text())
        assert len(kept[key]) == 3 and kept[key] == content[key][2:5]
        assert take_posetrack(path, {NAME: Span(3, 9, 20)}, tmp_path, tmp_path / "out") == [NAME]
        with pytest.raises(DataError, match=r"any\.json has 6 frames: its video has 9, of which 4 are evaluated"):
            take_posetrack(path, {NAME: Span(2, 6, 9)}, tmp_path, tmp_path / "out")


def test_files_that_cannot_be_taken(tmp_path: Path) -> None:
    spans, out = {"a": Span(0, 1, 1), "b": Span(0, 1, 1)}, tmp_path / "out"
    with pytest.raises(DataError, match=r"nothing\.json does not exist"):
        take_posetrack(tmp_path / "nothing.json", spans, tmp_path, out)
    with pytest.raises(DataError, match="is of none of the videos a, b: files are called as the annotation files"):
        take_posetrack(tmp_path, spans, tmp_path, out)
    with pytest.raises(DataError, match="is of none of the videos a, b"):
        take_pose_files(tmp_path, list(spans), out)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match=r"a\.json holds neither a list 'annolist'"):
        take_posetrack(tmp_path / "a.json", spans, tmp_path, out)
    with pytest.raises(DataError, match=r"a\.json holds a dict; COCO results are a list of poses"):
        take_coco(tmp_path / "a.json", {"a": [1]}, out)
    (tmp_path / "a.json").write_text('[{"image_id": 7, "keypoints": [1, 2]}]')
    with pytest.raises(DataError, match="has no pose in an image of a"):
        take_coco(tmp_path / "a.json", {"a": [1]}, out)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "b.json").write_text(json.dumps({**as_2018(video17([])), "images": [{"id": 7}]}))
    with pytest.raises(DataError, match="a pose has 2 numbers, 17 keypoints need 51"):
        take_posetrack(tmp_path / "a.json", {"b": Span(0, 1, 1)}, tmp_path / "truth", out)
    assert not out.exists()


# -------------------------------------------------------------------------------------------------------- the command
def test_the_rows_of_a_pipeline(project: Path, tmp_path: Path) -> None:
    code, printed = run(project, "--whole", "--gains", "1", "--losses", "1", "--out", str(tmp_path / "sheet.png"))
    assert code == 0, printed
    rows = table_of(tmp_path / "sheet.csv")
    assert {"right_single_frame", "right_glpose"} <= rows[0].keys() and "PCKh@0.5" in printed
    for row in rows:
        change = int(row["right_glpose"]) - int(row["right_single_frame"])
        assert int(row["gain"]) == change and (change > 0) == (row["why"] == "gain")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None and sheet.shape[0] > 3 * 300  # two rows and the truth
    assert {path.name for path in tmp_path.iterdir()} == {f"sheet.{ending}" for ending in ("png", "csv", "md", "json")}


def test_another_system_that_is_right(project: Path, truth: Path, tmp_path: Path) -> None:
    """All joints of the frame are right, of whom it does find."""
    code, printed = run(
        project, "--rows", "glpose", "--predictions", f"them={truth}", "--whole", "--out", str(tmp_path / "a.png")
    )
    assert code == 0, printed
    rows = table_of(tmp_path / "a.csv")
    assert rows[0]["why"] == "gain" and all(row["right_them"] == row["joints"] for row in rows if row["why"] == "gain")
    code, printed = run(
        project, "--rows", "glpose", "--predictions", f"them={truth}", "--of", "glpose", "--frames", "c:3",
        "--out", str(tmp_path / "b.png"),
    )  # fmt: skip
    assert code == 0, printed
    (row,) = table_of(tmp_path / "b.csv")
    assert row["right_them"] == "0" and row["why"] == "named" and row["frame"] == "3" and row["person"] != ""


def test_files_can_be_compared_before_anything_has_run(project: Path, truth: Path, tmp_path: Path) -> None:
    """What that writes into the work folder does not keep the pipeline from running there."""
    files = ("--predictions", f"one={truth}", "--predictions", f"two={truth}", "--frames", "c:2")
    at = ("--set", f"work={tmp_path / 'new'}")
    code, printed = run(project, *files, *at)
    assert code == 0, printed
    assert (tmp_path / "new" / "compare" / "compare.png").is_file()
    code, printed = glpose_stage(project / "pipelines.yaml", "detect", *at)
    assert code == 0, printed

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("x")
    code, printed = run(project, *files, "--set", f"work={tmp_path / 'thesis'}")
    assert (code, "is not empty and not a glpose work folder" in printed) == (1, True), printed
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_the_only_loss_of_a_system_is_the_frame_that_it_lacks(project: Path, truth: Path, tmp_path: Path) -> None:
    everybody = project / "data" / "annotations" / "val" / "c.json"
    code, printed = run(
        project, "--rows", "", "--predictions", f"all={everybody}", "--predictions", f"them={truth}", "--of", "them",
        "--whole", "--out", str(tmp_path / "a.png"),
    )  # fmt: skip
    assert code == 0, printed
    (row,) = table_of(tmp_path / "a.csv")
    assert (row["why"], row["frame"], row["right_them"]) == ("loss", "3", "0")
    assert int(row["gain"]) == -int(row["joints"]) == -int(row["right_all"]) < 0


def test_coco_results_say_the_same(project: Path, truth: Path, tmp_path: Path) -> None:
    content = json.loads((truth / "c.json").read_text())
    poses = [
        {"image_id": one["image_id"], "category_id": 1, "keypoints": one["keypoints"], "score": 1.0}
        for one in content["annotations"]
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(poses))
    found = []
    for number, source in enumerate((truth, truth / "c.json", path)):
        out = tmp_path / f"{number}.png"
        code, printed = run(project, "--rows", "glpose", "--predictions", f"them={source}", "--out", str(out))
        assert code == 0, printed
        found.append(table_of(out.with_suffix(".csv")))
    assert found[0] == found[1] == found[2] and found[0]


def test_other_heads_and_rows_of_the_ablation(project: Path, tmp_path: Path) -> None:
    heads = project / "work" / "train" / "latest" / "glpose" / "heads.safetensors"
    work = tmp_path / "work"
    shutil.copytree(project / "work", work, symlinks=True)
    config = ["--set", f"work={work}", "--set", "ablate.k=[0,1]", "--set", "ablate.n=[0,2]"]
    code, printed = run(project, *config, "--rows", "single_frame,n=0", "--out", str(tmp_path / "a.png"))
    assert code == 1 and "row 'n=0' of the ablation is not trained: glpose-stage ablate -p small --rows n=0" in printed
    code, printed = glpose_stage(project / "pipelines.yaml", "ablate", "--rows", "n=0", *config)
    assert code == 0, printed
    code, printed = run(
        project, *config, "--heads", f"again={heads}", "--against", "single_frame", "--out", str(tmp_path / "a.png")
    )
    assert code == 0, printed
    rows = table_of(tmp_path / "a.csv")
    assert [key for key in rows[0] if key.startswith("right_")] == [
        "right_single_frame", "right_n=0", "right_glpose", "right_again"
    ]  # fmt: skip
    assert all(row["right_again"] == row["right_glpose"] for row in rows)  # the same heads
    assert "local only (k=1, n=0)" in printed


def test_tags(project: Path, tmp_path: Path) -> None:
    code, printed = run(project, "--tag", "hidden", "--whole", "--frames", "c:2", "--out", str(tmp_path / "a.png"))
    assert code == 0, printed
    content = json.loads((project / "data" / "annotations" / "val" / "c.json").read_text())
    hidden = 0
    for one in content["annotations"]:
        if one["image_id"] == content["images"][2]["id"]:
            points = np.array(one["keypoints"]).reshape(-1, 3)
            hidden += sum(point.any() and tag in (1, 2) for point, tag in zip(points, one["occlusion"], strict=True))
    (row,) = table_of(tmp_path / "a.csv")
    assert int(row["joints"]) == hidden > 0 and "hidden joints" in printed


@pytest.mark.parametrize(("tag", "joints"), [("rapid", 2), ("defocused", None)])
def test_tags_of_joints_and_of_frames(project: Path, tmp_path: Path, tag: str, joints: int | None) -> None:
    """Two joints of one person are made rapid, and one frame defocused."""
    root = tmp_path / "data"
    shutil.copytree(project / "data", root)
    path = root / "annotations" / "val" / "c.json"
    content: dict[str, Any] = json.loads(path.read_text())
    people = [one for one in content["annotations"] if one["image_id"] == content["images"][2]["id"]]
    there = [[k for k in range(17) if any(one["keypoints"][3 * k : 3 * k + 2])] for one in people]
    for one in content["annotations"]:
        one["speed"] = [speed and 0.0 for speed in one["speed"]]
    for k in there[0][:2]:
        people[0]["speed"][k] = 99.0
    for number, image in enumerate(content["images"]):
        image["defocus"] = 3.0 if number == 2 else 0.0
    path.write_text(json.dumps(content))
    (path.parent / "d.json").write_text(json.dumps({**content, "annotations": []}))  # nobody
    config = ["--set", f"data.root={root}", "--rows", ""]
    config += ["--predictions", f"a={path.parent}", "--predictions", f"b={path.parent}"]
    config += ["--tag", tag, "--whole", "--out", str(tmp_path / "a.png")]
    code, printed = run(project, *config, "--frames", "c:2")
    assert code == 0 and f"{tag} joints" in printed, printed
    (row,) = table_of(tmp_path / "a.csv")
    assert int(row["joints"]) == (joints or sum(map(len, there))) > 0
    code, printed = run(project, *config, "--frames", "c:3")
    assert code == 1 and "no joint that counts is annotated there; annotated nearby: 2" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--rows", "glpose,odd"], 2, "there is no row 'odd': --rows takes single_frame, glpose"),
        (["--rows", "glpose"], 2, "a comparison needs two rows; there is glpose: name more with --rows"),
        (["--rows", "glpose,glpose"], 2, "two rows are called 'glpose'"),
        (["--of", "them"], 2, "--of 'them' is none of the rows single_frame, glpose"),
        (["--of", "glpose", "--against", "glpose"], 2, "--of and --against are both 'glpose'"),
        (["--tag", "blurred"], 2, "--tag is hidden, rapid, defocused, not 'blurred'"),
        (["--frames", "d:1"], 2, "--frames: 'd' is no video of the eval split; there are c"),
        (["--frames", "a:1"], 2, "--frames: 'a' is no video of the eval split; there are c"),
        (["--frames", "c:6"], 2, "--frames c:6: evaluated are the frames 0 to 5"),
        (["--frames", "c"], 2, "write VIDEO:FRAME"),
        (["--heads", "file"], 2, "--heads 'file': write NAME=FILE"),
        (["--predictions", "a/b=file"], 2, "a row cannot be called 'a/b'"),
        (["--predictions", "them=absent.json"], 1, "absent.json does not exist"),
        (["--out", "sheet.jpg"], 2, "--out sheet.jpg: the sheet is a PNG"),
        (["--videos", "a"], 2, "no video that matches 'a' has frames in the eval split"),
        (["--set", "train.epochs=2"], 1, "eval needs train as configured"),
        (["--set", "eval.heads=demo", "--heads", "h=any.safetensors"], 1, "holds no GLPose heads (no 'heads'"),
    ],
)
def test_what_is_refused(project: Path, arguments: list[str], code: int, message: str) -> None:
    assert (found := run(project, *arguments))[0] == code, found
    assert message in found[1]


def test_data_without_ground_truth_is_refused(tmp_path: Path, project: Path) -> None:
    path = write_pipeline(tmp_path, {"kind": "folder", "root": str(project / "data")})
    code, printed = glpose_stage(path, "compare")
    assert code in (1, 2) and "is not annotated" in printed, printed


def test_a_frame_where_nobody_is_annotated(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(project / "data", root)
    path = root / "annotations" / "val" / "c.json"
    content: dict[str, Any] = json.loads(path.read_text())
    kept = [one for one in content["annotations"] if one["image_id"] != content["images"][4]["id"]]
    path.write_text(json.dumps({**content, "annotations": kept}))
    (path.parent / "d.json").write_text(json.dumps({**content, "annotations": []}))  # nobody
    config = ["--set", f"data.root={root}", "--rows", ""]
    config += ["--predictions", f"a={path.parent}", "--predictions", f"b={path.parent}"]
    code, printed = run(project, *config, "--frames", "c:4", "--out", str(tmp_path / "a.png"))
    assert code == 1 and "--frames c:4: no joint that counts is annotated there; annotated nearby: 2, 3, 5" in printed
    code, printed = run(project, *config, "--out", str(tmp_path / "a.png"))  # the same file twice
    assert code == 1 and "there is no gain and no loss: name frames with --frames VIDEO:FRAME" in printed
    path.write_text(json.dumps({**content, "annotations": []}))
    code, printed = run(project, *config, "--out", str(tmp_path / "a.png"))
    assert code == 1 and "no joint is annotated in the evaluated frames" in printed


def test_sub_jhmdb(tmp_path: Path) -> None:
    """Another system's poses in eval's own form: right within 0.2 of the box's larger side, 73 px."""
    root, positions = tmp_path / "jhmdb", jhmdb_builders.figure_positions()
    for clip in ("golf_one", "golf_two"):
        jhmdb_builders.write_clip(root, "golf", clip, positions, jhmdb_builders.figure_mask(positions))
    jhmdb_builders.write_splits(root, "golf", ["golf_one.avi 1", "golf_two.avi 2"])
    config = write_pipeline(tmp_path, {"kind": "jhmdb", "root": str(root)})
    assert glpose_stage(config, "run")[0] == 0
    results = tmp_path / "work" / "eval" / "latest" / "results"
    content = json.loads((results / "ground_truth" / "golf_two.json").read_text())
    for pose in content["poses"]:
        reach = 0.2 * (pose["box"][3] - pose["box"][1])
        for joint, moved in enumerate((0.9 * reach, 1.1 * reach)):
            pose["keypoints"][joint][0] += moved
    (tmp_path / "them").mkdir()
    (tmp_path / "them" / "golf_two.json").write_text(json.dumps(content))
    code, printed = glpose_stage(
        config, "compare", "--predictions", f"them={tmp_path / 'them'}", "--whole", "--frames", "golf_two:2",
        "--out", str(tmp_path / "a.png"),
    )  # fmt: skip
    assert code == 0 and "within 0.2 of max(w, h) of the box (PCK)" in printed, printed
    (row,) = table_of(tmp_path / "a.csv")
    assert (row["joints"], row["right_them"]) == ("15", "14")
    poses = [
        json.loads((results / part / "golf_two.json").read_text())["poses"]
        for part in ("ground_truth", "predictions/glpose")
    ]
    truth, found = (np.array([pose["keypoints"] for pose in own if pose["frame"] == 2])[0, :, :2] for own in poses)
    size = max(np.diff(np.reshape(poses[0][2]["box"], (2, 2)), axis=0)[0])
    assert int(row["right_glpose"]) == (np.linalg.norm(found - truth, axis=1) < 0.2 * size).sum()


def test_joints_of_ones_own(tmp_path: Path) -> None:
    config = write_own_data(tmp_path)
    assert glpose_stage(config, "run")[0] == 0
    (truth,) = (tmp_path / "work" / "eval" / "latest" / "results" / "ground_truth").glob("*.json")
    content = json.loads(truth.read_text())
    image = content["images"][2]["id"]
    there = [sum(v > 0 for v in one["keypoints"][2::3]) for one in content["annotations"] if one["image_id"] == image]
    results = [
        {"image_id": one["image_id"], "category_id": one["category_id"], "keypoints": one["keypoints"], "score": 1.0}
        for one in content["annotations"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    arguments = ["--predictions", f"them={tmp_path / 'results.json'}", "--whole", "--out", str(tmp_path / "a.png")]
    code, printed = glpose_stage(config, "compare", *arguments, "--frames", "images_val_c:2")
    assert code == 0, printed
    (row,) = table_of(tmp_path / "a.csv")
    assert int(row["joints"]) == int(row["right_them"]) == sum(there) > int(row["right_glpose"])
    code, printed = glpose_stage(config, "compare", *arguments, "--tag", "hidden")
    assert code == 1 and "nothing says which joints are hidden" in printed


def test_the_section_of_the_report(project: Path) -> None:
    section = compare_section(context(project / "pipelines.yaml"))
    assert section.title == "Side by side" and "within 0.5 of the head size" in section.html
    strips = section.html.count("<figure")
    assert strips >= 1 and section.html.count("data:image/jpeg;base64,") == 3 * strips
    assert section.html.count("ground truth: as annotated</span>") == strips and len(section.html) < 1_500_000
