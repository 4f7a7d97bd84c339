"""JHMDB: the reader against a real clip and the official split files, and a whole pipeline on clips made here.

puppet_mask.mat and sub_splits/ are not at hand: those below are written from their public description (part_mask
h x w x F, nonzero on the person; ACTION_test_split_N.txt with lines "CLIP.avi 1" or "CLIP.avi 2").
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from jhmdb_builders import FRAMES, HEIGHT, WIDTH, figure_mask, figure_positions, write_clip, write_splits
from rich.console import Console
from small_pipelines import write_backbone

import store
from glpose.box_sources import annotated_boxes
from glpose.data import jhmdb
from glpose.data.dataset import VideoRef, inputs_digest, joint_set, open_video
from glpose.data.listing import list_videos
from glpose.data.poses import read_poses
from glpose.keypoints import ABSENT, HIDDEN, JHMDB, POSETRACK, VISIBLE
from glpose.metrics import pck
from glpose.models.checkpoints import read_metadata
from glpose.options import (
    EvalOptions,
    FolderData,
    JHMDBData,
    PoseTrack17Data,
    PoseTrack18Data,
    RenderedData,
    SplitOptions,
)
from glpose.proposals import propose
from glpose.scoring import EvaluatedVideo, score_pck
from stages.config import find_config, load_pipeline
from stages.run import run_stages, stages_of
from stages.stage import Context
from store.errors import ConfigError, DataError
from store.folder import as_unit_name

REAL_CLIP = "Goal_Keeping_Tips_catch_f_cm_np1_fr_med_2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training clips and a test clip of two actions."""
    positions = figure_positions()
    for action, clip in (("catch", "catch_(one)!"), ("catch", "catch_two"), ("golf", "golf_one")):
        write_clip(tmp_path / "data", action, clip, positions, figure_mask(positions))
    write_splits(tmp_path / "data", "catch", ["catch_(one)!.avi 1", "catch_two.avi 2"])
    write_splits(tmp_path / "data", "golf", ["golf_one.avi 1"])
    return tmp_path / "data"


def read_clip(root: Path, action: str = "golf", clip: str = "golf_one"):
    """What the reader makes of one clip."""
    part = f"{action}/{clip}"
    masks, video = root / "puppet_mask" / part / "puppet_mask.mat", root / "ReCompress_Videos" / f"{part}.avi"
    positions = root / "joint_positions" / part / "joint_positions.mat"
    notes, _, box_source = jhmdb.read(positions, root / "Rename_Images", video, masks)
    return notes, box_source


def clip_of(root: Path, name: str = "golf_one") -> VideoRef:
    """One of the clips of a data set."""
    return next(ref for ref in list_videos(JHMDBData(root=root)) if ref.name == name)


def write_avi(root: Path, frames: int, empty: int = 0) -> Path:
    """golf_one's frames as AVI, in place of the folder of PNGs. empty: frames without data after them."""
    images = root / "Rename_Images/golf/golf_one"
    path = root / "ReCompress_Videos/golf/golf_one.avi"
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (WIDTH, HEIGHT))
    files = sorted(images.glob("*.png"))
    for number in range(frames):
        picture = cv2.imread(str(files[number % len(files)]))
        assert picture is not None
        writer.write(picture)
    writer.release()
    shutil.rmtree(images)
    raw = bytearray(path.read_bytes())
    end, listed = raw.index(b"idx1"), raw.index(b"movi") - 4
    for position, add in ((4, 8 * empty), (listed, 8 * empty), (raw.index(b"avih") + 24, empty)):
        raw[position : position + 4] = (int.from_bytes(raw[position : position + 4], "little") + add).to_bytes(
            4, "little"
        )
    length = raw.index(b"strh") + 8 + 32
    raw[length : length + 4] = (frames + empty).to_bytes(4, "little")
    raw[end:end] = b"00dc\0\0\0\0" * empty
    path.write_bytes(raw)
    return path


# --------------------------------------------------------------------------------------------------- the joint set
def test_the_joint_set_is_consistent():
    assert len(JHMDB) == 15
    assert sorted(joint for members in JHMDB.groups.values() for joint in members) == list(range(15))
    assert [len(members) for members in JHMDB.groups.values()] == [3, 2, 2, 2, 2, 2, 2]
    for a, b in JHMDB.flip_pairs:
        assert JHMDB.joints[a].replace("right", "left") == JHMDB.joints[b]
    assert {joint for limb in JHMDB.limbs for joint in limb} == set(range(15))
    for name, members in JHMDB.groups.items():
        assert name == "Head" or all(name.lower() in JHMDB.joints[joint] for joint in members)


def test_the_joints_of_a_pipeline_come_from_its_data():
    assert joint_set(JHMDBData(root=Path("x"))) is JHMDB
    for data in (PoseTrack17Data(root=Path("x")), PoseTrack18Data(root=Path("x")), RenderedData()):
        assert joint_set(data) is POSETRACK
    with pytest.raises(DataError, match="no annotated joints"):
        joint_set(FolderData())


# -------------------------------------------------------------------------------------------------- the real material
def test_a_real_clip(shared_data: Path, tmp_path: Path):
    source = shared_data / "real" / "jhmdb"
    positions = tmp_path / "joint_positions" / "catch" / REAL_CLIP / "joint_positions.mat"
    positions.parent.mkdir(parents=True)
    shutil.copy(source / "joint_positions.mat", positions)
    shutil.copytree(source / REAL_CLIP, tmp_path / "Rename_Images" / "catch" / REAL_CLIP)
    notes, box_source = read_clip(tmp_path, "catch", REAL_CLIP)
    assert box_source == "annotation:joints"  # its mask is not at hand
    assert notes.joints is JHMDB
    assert notes.keypoints.shape == (40, 15, 3)
    assert notes.frame.tolist() == list(range(40))
    assert notes.labelled.all()
    assert (notes.keypoints[..., 2] == VISIBLE).all()
    assert (notes.keypoints[..., :2] >= 0).all()
    assert (notes.keypoints[..., :2] < [320, 240]).all()
    raw = scipy.io.loadmat(positions)["pos_img"]
    np.testing.assert_allclose(raw.transpose(2, 1, 0) - notes.keypoints[..., :2], 1.0, rtol=0, atol=1e-12)
    head, neck, ankle = (JHMDB.joints.index(name) for name in ("head", "neck", "left_ankle"))
    assert (notes.keypoints[0, head, 1] < notes.keypoints[0, neck, 1]) and (
        notes.keypoints[0, neck, 1] < notes.keypoints[0, ankle, 1]
    )
    assert notes.frame_names[0] == f"catch/{REAL_CLIP}/00001.png"


def test_the_official_split_files(shared_data: Path, tmp_path: Path):
    with zipfile.ZipFile(shared_data / "real" / "jhmdb" / "splits_21_actions.zip") as archive:
        archive.extractall(tmp_path)
    for number, train in ((1, 660), (2, 658), (3, 663)):
        clips = jhmdb.read_splits(tmp_path / "splits", number)
        assert len(clips) == 928
        assert len({clip.action for clip in clips}) == 21
        assert sum(clip.split == "train" for clip in clips) == train
        assert len({as_unit_name(clip.name) for clip in clips}) == 928
        assert sum((clip.action, clip.name) == ("catch", REAL_CLIP) for clip in clips) == 1


# -------------------------------------------------------------------------------------------------------- annotations
def test_flags_say_absent_outside_and_visible(root: Path):
    positions = figure_positions(1)
    positions[0, :6] = [(-0.5, 0), (-0.6, 0), (WIDTH - 0.51, HEIGHT - 0.51), (WIDTH - 0.5, 5), (5, HEIGHT), (np.nan, 5)]
    write_clip(root, "golf", "golf_one", positions, None)
    for extra in (root / "Rename_Images/golf/golf_one").glob("0000[2-9].png"):
        extra.unlink()
    (root / "puppet_mask/golf/golf_one/puppet_mask.mat").unlink()
    notes, _ = read_clip(root)
    assert notes.keypoints[0, :6, 2].tolist() == [VISIBLE, HIDDEN, VISIBLE, HIDDEN, HIDDEN, ABSENT]
    assert notes.keypoints[0, 5].tolist() == [0, 0, 0]
    np.testing.assert_allclose(notes.keypoints[0, :5, :2], positions[0, :5], atol=1e-12)
    assert len(notes.frame_names) == 1  # MATLAB drops the dimension of one frame


def test_boxes_are_the_extents_of_the_masks(root: Path):
    notes, box_source = read_clip(root)
    assert box_source == "annotation:mask"
    low, high = figure_positions()[0].min(axis=0), figure_positions()[0].max(axis=0)
    np.testing.assert_array_equal(notes.boxes[0], [*(low - 2), *(high + 3)])  # the last pixel counts
    one = np.zeros((4, 6, 2), np.uint8)
    one[2, 5, 0] = 7
    np.testing.assert_array_equal(jhmdb.mask_boxes(one), [[5, 2, 6, 3], [np.nan] * 4])


def test_joints_stand_in_where_the_mask_is_empty_or_ends_early(root: Path):
    mask = figure_mask(figure_positions())
    mask[..., 1] = 0
    write_clip(root, "golf", "golf_one", figure_positions(), mask[..., :4])
    notes, box_source = read_clip(root)
    assert box_source == "annotation:mask+joints"
    assert np.isfinite(notes.boxes).all()
    low, high = figure_positions().min(axis=1), figure_positions().max(axis=1)
    grown = np.concatenate([low - 0.15 * (high - low), high + 0.15 * (high - low)], axis=1)
    np.testing.assert_allclose(notes.boxes[[1, 4, 5]], grown[[1, 4, 5]])
    np.testing.assert_array_equal(notes.boxes[0], jhmdb.mask_boxes(mask)[0])


def test_proposals_record_where_their_boxes_come_from(root: Path):
    shutil.rmtree(root / "puppet_mask" / "catch")
    sources = {}
    for ref in list_videos(JHMDBData(root=root)):
        table = propose(open_video(ref), {"train": annotated_boxes, "eval": annotated_boxes}, 0.2).table
        assert len(table) == FRAMES
        sources[ref.name] = set(table["source"])
    assert sources == {
        "catch__one__": {"annotation:joints"},
        "catch_two": {"annotation:joints"},
        "golf_one": {"annotation:mask"},
    }


def test_results_say_where_their_boxes_come_from(root: Path, tmp_path: Path):
    shutil.rmtree(root / "puppet_mask" / "catch" / "catch_two")
    evaluated = []
    for name in ("catch_two", "golf_one"):
        ref = clip_of(root, name)
        video = open_video(ref)
        table = propose(video, {"train": annotated_boxes, "eval": annotated_boxes}, 0.2).table
        assert video.annotations is not None
        evaluated.append(EvaluatedVideo(ref, video, 0, FRAMES, table, {"glpose": video.annotations.keypoints}))
    both = score_pck(tmp_path / "both", evaluated, EvalOptions())
    assert both.metric == "PCK@0.2 of max(w, h) (annotation:joints, annotation:mask)"
    assert score_pck(tmp_path / "one", evaluated[:1], EvalOptions()).metric.endswith(" (annotation:joints)")


# ------------------------------------------------------------------------------------------------------ frames as AVI
def test_a_real_clip_as_avi(shared_data: Path, tmp_path: Path):
    source = shared_data / "real" / "jhmdb"
    for name in ("joint_positions", "Rename_Images", "ReCompress_Videos"):
        (tmp_path / name / "catch").mkdir(parents=True)
    (tmp_path / "joint_positions" / "catch" / REAL_CLIP).mkdir()
    shutil.copy(source / "joint_positions.mat", tmp_path / "joint_positions" / "catch" / REAL_CLIP)
    shutil.copy(source / f"{REAL_CLIP}.avi", tmp_path / "ReCompress_Videos" / "catch")
    write_splits(tmp_path, "catch", [f"{REAL_CLIP}.avi 2"])
    (ref,) = list_videos(JHMDBData(root=tmp_path, train=None))
    avi = open_video(ref)
    assert len(avi) == 40  # its header says 48: eight have no data
    shutil.copytree(source / REAL_CLIP, tmp_path / "Rename_Images" / "catch" / REAL_CLIP)
    png = open_video(ref)
    assert avi.frames.names == png.frames.names and avi.box_source == png.box_source
    assert avi.annotations is not None and png.annotations is not None
    assert np.array_equal(avi.annotations.keypoints, png.annotations.keypoints)
    assert inputs_digest(ref, avi) != inputs_digest(ref, png)
    pictures = {frame: picture.astype(float) for frame, picture in png.frames.read(range(40))}
    for frame, picture in avi.frames.read([0, 7, 20, 39]):
        nearest = min(pictures, key=lambda other: float(np.abs(pictures[other] - picture).mean()))
        assert nearest == frame and np.abs(pictures[frame] - picture).mean() < 3


@pytest.mark.parametrize("empty", [0, 5])
def test_an_avi_stands_in_for_an_absent_folder(root: Path, empty: int):
    ref = clip_of(root)
    png = open_video(ref)
    expected = dict(png.frames.read(range(FRAMES)))
    before = inputs_digest(ref, png)
    path = write_avi(root, FRAMES, empty)
    avi = open_video(ref)
    assert avi.frames.names == png.frames.names == [f"golf/golf_one/{k:05d}.png" for k in range(1, FRAMES + 1)]
    assert avi.annotations is not None and png.annotations is not None
    assert avi.annotations.image_ids == png.annotations.image_ids and avi.frames.size() == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(avi.annotations.boxes, png.annotations.boxes)
    for frame, picture in avi.frames.read(range(FRAMES)):
        assert np.abs(picture.astype(float) - expected[frame]).mean() < 6
    assert inputs_digest(ref, avi) != before
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"golf_one\.avi is truncated"):
        open_video(ref)


def test_an_avi_of_another_length(root: Path):
    ref = clip_of(root)
    write_avi(root, FRAMES + 2)
    video = open_video(ref)
    assert video.annotations is not None
    assert video.annotations.labelled.tolist() == [True] * FRAMES + [False] * 2
    assert video.frames.names[-1] == "golf/golf_one/00008.png"
    folder = root / "Rename_Images/golf/golf_one"
    folder.mkdir()
    (folder / "._00001.png").touch()  # of macOS: no frame
    assert open_video(ref).frames.names == video.frames.names
    shutil.copy(root / "Rename_Images/catch/catch_two/00002.png", folder)
    with pytest.raises(DataError, match=r"00001\.png does not exist"):  # PNGs are taken first, if there is one
        open_video(ref)


def test_an_avi_that_ends_early_is_named(root: Path):
    write_avi(root, FRAMES - 1)
    with pytest.raises(DataError, match=r"golf_one\.avi has 5 frames; 6 of golf/golf_one are annotated"):
        open_video(clip_of(root))


def test_frames_beyond_the_annotation_are_unlabelled_and_missing_ones_are_named(root: Path):
    folder = root / "Rename_Images/golf/golf_one"
    shutil.copy(folder / "00006.png", folder / "00007.png")
    notes, _ = read_clip(root)
    assert notes.labelled.tolist() == [True] * 6 + [False]
    (folder / "00003.png").unlink()
    ref = next(ref for ref in list_videos(JHMDBData(root=root)) if ref.name == "golf_one")
    with pytest.raises(DataError, match=r"00003\.png"):
        inputs_digest(ref, open_video(ref))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"no MATLAB file at all, but long enough to have a header" * 9, "not a readable MATLAB file"),
        ({"pos_world": np.zeros((2, 15, 6))}, "no numbers called 'pos_img'"),
        ({"pos_img": "text"}, "no numbers called 'pos_img'"),
        ({"pos_img": np.zeros((2, 14, 6))}, r"pos_img is \(2, 14, 6\), not \(2, 15, frames\)"),
        ({"pos_img": np.zeros((2, 15, 0))}, "not"),
    ],
)
def test_unusable_joint_files_are_named(root: Path, content, message: str):
    path = root / "joint_positions/golf/golf_one/joint_positions.mat"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        scipy.io.savemat(path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_clip(root)
    assert str(path) in str(caught.value)


def test_unusable_masks_and_absent_frames_are_named(root: Path):
    path = root / "puppet_mask/golf/golf_one/puppet_mask.mat"
    scipy.io.savemat(path, {"part_mask": np.ones((HEIGHT, WIDTH + 1, FRAMES), np.uint8)})
    with pytest.raises(DataError, match=r"puppet_mask\.mat: part_mask is \(96, 129, 6\); the frames are 96 x 128"):
        read_clip(root)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"puppet_mask\.mat is not a readable"):
        read_clip(root)
    shutil.rmtree(root / "Rename_Images/golf/golf_one")
    with pytest.raises(
        DataError, match=r"golf/golf_one: there are no PNGs in .*\(data\.images\), and .*\(data\.videos\)"
    ):
        read_clip(root)


def test_hidden_files_are_neither_frames_nor_split_files(root: Path):
    (root / "Rename_Images/golf/golf_one/._00001.png").write_bytes(b"\0\5\x16\7")
    (root / "sub_splits/._golf_test_split_1.txt").write_bytes(b"\0\5\x16\7 Mac OS X")
    assert {ref.name for ref in list_videos(JHMDBData(root=root))} == {"catch__one__", "catch_two", "golf_one"}
    notes, _ = read_clip(root)
    assert len(notes.frame_names) == FRAMES


# --------------------------------------------------------------------------------------------------------- data sets
def test_videos_and_splits_come_from_the_split_files(root: Path):
    refs = {ref.name: ref for ref in list_videos(JHMDBData(root=root))}
    assert {name: list(ref.ranges) for name, ref in refs.items()} == {
        "catch__one__": ["train"],
        "catch_two": ["eval"],
        "golf_one": ["train"],
    }
    assert refs["catch__one__"].path == root / "joint_positions/catch/catch_(one)!/joint_positions.mat"
    chosen = JHMDBData(root=root, train=SplitOptions(videos="golf*", frames=(1, 4)), eval=None)
    (ref,) = list_videos(chosen)
    assert open_video(ref).split.tolist() == ["", "train", "train", "train", "", ""]


def test_both_spellings_of_split_files_are_read(root: Path):
    (root / "splits").mkdir()
    (root / "splits" / "golf_test_split2.txt").write_text("golf_one.avi 2\r\n\r\n")
    (ref,) = list_videos(JHMDBData(root=root, splits="splits", split=2, train=None))
    assert (ref.name, ref.ranges) == ("golf_one", {"eval": (0, None)})


@pytest.mark.parametrize("line", ["golf_one.avi", "golf_one.avi 3", "golf_one.avi 1 x", "2"])
def test_malformed_split_lines_are_named(root: Path, line: str):
    write_splits(root, "golf", ["golf_one.avi 1", line])
    with pytest.raises(DataError, match=r"golf_test_split_1\.txt, line 2"):
        list_videos(JHMDBData(root=root))


def test_wrong_split_files_are_refused(root: Path):
    with pytest.raises(DataError, match="no files of split 2"):
        list_videos(JHMDBData(root=root, split=2))
    with pytest.raises(DataError, match=r"splits does not exist \(data\.splits\)"):
        list_videos(JHMDBData(root=root, splits="splits"))
    write_splits(root, "golf", ["../../etc.avi 1"])
    with pytest.raises(DataError, match="is not the name of a clip"):
        list_videos(JHMDBData(root=root))
    write_splits(root, "golf", ["golf_one.avi 1", "golf_one.avi 1"])
    with pytest.raises(DataError, match="video 'golf_one' is listed twice in the train split"):
        list_videos(JHMDBData(root=root))
    write_splits(root, "golf", ["golf_one.avi 1", "golf_one.avi 2"])
    with pytest.raises(DataError, match="overlap"):
        list_videos(JHMDBData(root=root))
    write_splits(root, "golf", ["golf(1).avi 1", "golf!1!.avi 1"])
    with pytest.raises(DataError, match="two videos are called 'golf_1_'"):
        list_videos(JHMDBData(root=root))


def test_options_are_checked():
    config = find_config(None)
    data = load_pipeline(config, "jhmdb").data
    assert data == JHMDBData(root=Path("data/jhmdb"))
    for setting, message in (
        ("data.split=4", "data.split: .* 3"),
        ("data.splits=mine", "data.splits: .*sub_splits"),
        ("data.train.subset=train", "subset"),
        ("data.mask=x", "did you mean 'masks'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_pipeline(config, "jhmdb", [setting])


def test_the_digest_covers_the_mask(root: Path):
    ref = next(ref for ref in list_videos(JHMDBData(root=root)) if ref.name == "golf_one")
    first = inputs_digest(ref, open_video(ref))
    assert first == inputs_digest(ref, open_video(ref))
    write_clip(root, "golf", "golf_one", figure_positions(), 1 * (figure_mask(figure_positions()) == 1))
    second = inputs_digest(ref, open_video(ref))
    assert ref.masks is not None
    ref.masks.unlink()
    assert len({first, second, inputs_digest(ref, open_video(ref))}) == 3


# ----------------------------------------------------------------------------------------------------- the pipeline
def test_the_pipeline_runs_from_detect_to_eval(root: Path, tmp_path: Path):
    work, weights = tmp_path / "work", write_backbone(tmp_path / "backbone.safetensors")
    shutil.rmtree(root / "puppet_mask" / "catch" / "catch_two")  # of the clip that is evaluated
    settings = [
        f"data.root={root}", f"work={work}", f"extract.checkpoint={weights}", "extract.width=8",
        "extract.crop_size=[64, 48]", "extract.k=1", "index.n=2", "index.pool=3", "index.exclude_window=1",
        "train.heads.k=1", "train.heads.n=2", "train.heads.blocks=1", "train.epochs=2", "train.batch_size=4",
        "runtime.device=cpu", "runtime.threads=1",
    ]  # fmt: skip
    context = Context(load_pipeline(find_config(None), "jhmdb", settings))
    run_stages(stages_of(context), context, Console(quiet=True))

    table = store.open(work).table(keypoints=True)
    assert table.groupby("split").size().to_dict() == {"eval": FRAMES, "train": 2 * FRAMES}
    assert table.groupby("split")["source"].unique().map(list).to_dict() == {
        "eval": ["annotation:joints"],
        "train": ["annotation:mask"],
    }
    metadata = read_metadata(work / "train" / "latest" / "glpose" / "heads.safetensors")
    assert (metadata["joints"], metadata["num_joints"]) == ("jhmdb", "15")

    results = work / "eval" / "latest" / "results"
    assert "PCK@0.2 of max(w, h) (annotation:joints)" in (results / "table.txt").read_text()
    truth = read_poses(results / "ground_truth" / "catch_two.json")
    np.testing.assert_allclose(truth.keypoints[..., :2], figure_positions(), atol=1e-9)
    scores = json.loads((results / "scores.json").read_text())
    for variant in ("glpose", "single_frame"):
        found = read_poses(results / "predictions" / variant / "catch_two.json")
        assert found.joints == JHMDB.joints
        assert found.keypoints.shape == (FRAMES, 15, 3)
        again = pck.evaluate(results / "ground_truth", results / "predictions" / variant, JHMDB)
        assert again.as_json() == scores[variant]
        assert again.people == FRAMES
        by_hand = pck.score_poses(found.keypoints, truth.keypoints, truth.boxes, JHMDB)
        assert by_hand == again
    assert (results / "overlay.mp4").stat().st_size > 0
    assert cv2.imread(str(results / "contact_sheet.png")) is not None


def test_pck_options_are_part_of_the_record_where_they_count():
    from stages.evaluate import parameters

    config = find_config(None)
    assert parameters(load_pipeline(config, "jhmdb"))["pck"] == {"alpha": 0.2, "size": "box"}
    assert "pck" not in parameters(load_pipeline(config, "posetrack18"))
    with pytest.raises(ConfigError, match="is not annotated"):
        parameters(load_pipeline(config, "posetrack18", ["data={kind: folder}"]))
