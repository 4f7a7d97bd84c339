"""Running again: what is done stays, what is missing or changed is made, what was made otherwise is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from small_pipelines import (
    RENDERED,
    attempts,
    commit_digests,
    context,
    finish_project,
    glpose_stage,
    snapshot,
    write_dataset,
    write_pipeline,
)

import store
from stages.run import STAGES, expected_record
from store.folder import StageFolder
from store.record import file_digest

PER_VIDEO = ("detect", "extract", "index")
ONE_REFERENCE = ("--set", "index.n=1", "--set", "train.heads.n=1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run: two training videos, one to evaluate on."""
    return finish_project(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project, elsewhere."""
    folder = shutil.copytree(finished, tmp_path / "done", symlinks=True)
    write_pipeline(folder)
    return folder


@pytest.fixture
def fresh(finished: Path, tmp_path: Path) -> Path:
    """The same project before anything has run."""
    folder = tmp_path / "fresh"
    folder.mkdir()
    shutil.copytree(finished / "data", folder / "data")
    shutil.copy(finished / "backbone.safetensors", folder)
    write_pipeline(folder)
    return folder


def config(folder: Path) -> Path:
    return folder / "pipelines.yaml"


# ----------------------------------------------------------------------------------------------------- nothing to do
def test_second_run_does_nothing_and_says_so(done: Path) -> None:
    before = snapshot(done)
    code, printed = glpose_stage(config(done), "run")
    assert code == 0
    counts = {"detect": 3, "extract": 3, "index": 3, "train": 2, "eval": 1}
    for stage, count in counts.items():
        assert f"{stage} {count} done, 0 to do" in printed
    assert snapshot(done) == before


def test_all_stages_give_the_same_bytes_again(done: Path, fresh: Path) -> None:
    digests = commit_digests(done / "work")
    assert {name: len(units) for name, units in digests.items()} == {
        "detect": 3, "extract": 3, "index": 3, "train": 2, "eval": 1,
    }  # fmt: skip
    assert glpose_stage(config(fresh), "run")[0] == 0
    assert commit_digests(fresh / "work") == digests


def test_speed_settings_are_no_part_of_a_record(done: Path) -> None:
    settings = ("runtime.batch_size=7", "runtime.threads=2", "runtime.device=auto")
    slow, fast = context(config(done)).config, context(config(done), *settings).config
    assert slow.runtime != fast.runtime
    for stage in STAGES.values():
        if stage.name != "render":
            assert expected_record(stage, slow) == expected_record(stage, fast)
    before = snapshot(done)
    arguments = [word for setting in settings for word in ("--set", setting)]
    code, printed = glpose_stage(config(done), "run", *arguments)
    assert (code, printed.count(" 0 to do")) == (0, 5)
    assert snapshot(done) == before


# --------------------------------------------------------------------------------------------------------- refusing
@pytest.mark.parametrize("verb", ["index", "run"])
def test_changed_parameter_is_refused(done: Path, verb: str) -> None:
    before = snapshot(done)
    code, printed = glpose_stage(config(done), verb, *ONE_REFERENCE)
    assert code == 1
    assert "error: index in " in printed
    assert "\n  index.n: 2 -> 1\n" in printed
    assert "--force" in printed
    assert snapshot(done) == before


def test_stage_after_a_changed_one_is_refused(done: Path) -> None:
    before = snapshot(done)
    code, printed = glpose_stage(config(done), "train", "--set", "extract.crop_scale=1.5")
    assert code == 1
    assert "error: train needs extract as configured" in printed
    assert "\n  extract.crop_scale: 1.25 -> 1.5\n" in printed
    assert snapshot(done) == before


def test_other_weights_are_another_record(done: Path) -> None:
    path = done / "backbone.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    code, printed = glpose_stage(config(done), "extract")
    assert code == 1
    assert "\n  extract.checkpoint: " in printed


def test_stage_before_the_ones_it_needs(fresh: Path) -> None:
    code, printed = glpose_stage(config(fresh), "index")
    assert code == 1
    assert "index needs extract, which has not run: glpose-stage extract -p small" in printed


def test_force_keeps_the_old_until_all_is_new(done: Path) -> None:
    folder = StageFolder(done / "work" / "index")
    old, old_attempts = folder.record_in_force(), attempts(done / "work", "index")
    code, printed = glpose_stage(config(done), "index", "--force", "--videos", "a", *ONE_REFERENCE)
    assert code == 0
    assert "index.n: 2 -> 1" in printed
    assert "1 of 3 done with the new parameters; the old outputs stay in force until all are" in printed
    assert folder.record_in_force() == old
    assert max(store.open(done / "work").neighbours()["rank"].tolist()) == 1

    code, printed = glpose_stage(config(done), "index", "--force", *ONE_REFERENCE)
    assert code == 0
    assert "index 1 done, 2 to do" in printed
    assert folder.record_in_force() != old
    assert max(store.open(done / "work").neighbours()["rank"].tolist()) == 0
    assert (done / "work/index/latest/b").resolve().name == attempts(done / "work", "index")["b"]

    # and back: what was made with the old parameters is still there
    assert glpose_stage(config(done), "index")[0] == 1
    code, printed = glpose_stage(config(done), "index", "--force")
    assert "index 3 done, 0 to do" in printed
    assert folder.record_in_force() == old
    assert attempts(done / "work", "index") == old_attempts
    assert glpose_stage(config(done), "run")[1].count(" 0 to do") == 5


def test_forced_run_equals_a_fresh_one(done: Path, fresh: Path) -> None:
    changes = ("--set", "extract.dtype=float16", "--set", "index.similarity=cosine", "--set", "train.lr=0.002")
    code, printed = glpose_stage(config(done), "run", "--force", *changes)
    assert code == 0
    assert printed.count("extract.dtype: uint8 -> float16") == 4  # in every stage that comes of it
    assert "detect 3 done, 0 to do" in printed
    assert glpose_stage(config(fresh), "run", *changes)[0] == 0
    assert commit_digests(done / "work") == commit_digests(fresh / "work")


# ---------------------------------------------------------------------------------------------------------- subsets
def test_some_videos_then_the_rest(fresh: Path) -> None:
    code, printed = glpose_stage(config(fresh), "detect", "--videos", "[ab]")
    assert (code, "detect 0 done, 2 to do" in printed) == (0, True)
    first = attempts(fresh / "work", "detect")
    assert sorted(first) == ["a", "b"]
    code, printed = glpose_stage(config(fresh), "detect")
    assert (code, "detect 2 done, 1 to do" in printed) == (0, True)
    assert attempts(fresh / "work", "detect").items() > first.items()


def test_pattern_without_a_video_is_wrong_usage(done: Path) -> None:
    before = snapshot(done)
    for arguments in ([], ["--plan"]):
        code, printed = glpose_stage(config(done), "detect", "--videos", "x*", *arguments)
        assert code == 2
        assert "--videos 'x*' matches no video; there are a, b, c" in printed
    assert snapshot(done) == before


def test_data_without_splits_is_wrong_usage(done: Path) -> None:
    before = snapshot(done)
    code, printed = glpose_stage(config(done), "detect", "--set", "data.train=null", "--set", "data.eval=null")
    assert code == 2
    assert "data.train and data.eval are both null: there are no videos; set one of them" in printed
    assert snapshot(done) == before


def test_parameters_with_which_nothing_was_made_stand_in_nobodys_way(fresh: Path) -> None:
    assert glpose_stage(config(fresh), "detect")[0] == 0
    code, printed = glpose_stage(config(fresh), "extract", "--set", "extract.width=48", "--set", "extract.k=2")
    assert (code, "W8, W48 was asked for" in printed) == (1, True)
    code, printed = glpose_stage(config(fresh), "extract")  # other parameters, without --force
    assert (code, "extract 0 done, 3 to do" in printed) == (0, True)
    assert glpose_stage(config(fresh), "index")[0] == 0


def test_fewer_rendered_clips_leave_the_others_out(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, RENDERED)
    assert glpose_stage(path, "render")[0] == 0
    code, printed = glpose_stage(path, "detect", "--set", "data.train_clips=1")
    assert (code, "detect 0 done, 2 to do" in printed) == (0, True)


def test_rendered_clips_are_rendered_once(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, RENDERED)
    assert glpose_stage(path, "render")[0] == 0
    code, printed = glpose_stage(path, "detect", "--videos", "*_eval")
    assert (code, "detect 0 done, 1 to do" in printed) == (0, True)
    before = snapshot(tmp_path / "work" / "render")
    code, printed = glpose_stage(path, "render", "--set", "data.train_clips=3")
    assert (code, "render 3 done, 1 to do" in printed) == (0, True)  # more clips change none of those there are
    assert snapshot(tmp_path / "work" / "render").items() >= before.items()
    code, printed = glpose_stage(path, "render", "--set", "data.frames=5")
    assert (code, "\n  render.frames: 6 -> 5\n" in printed) == (1, True)


# --------------------------------------------------------------------------------------------------- changed inputs
def drop_a_person(data: Path) -> None:
    path = data / "annotations" / "train" / "a.json"
    content = json.loads(path.read_text())
    content["annotations"].pop()
    path.write_text(json.dumps(content))


def change_a_frame(data: Path) -> None:
    shutil.copy(data / "images" / "train" / "b" / "000003.jpg", data / "images" / "train" / "a" / "000003.jpg")


@pytest.mark.parametrize("change", [drop_a_person, change_a_frame])
def test_changed_input_remakes_that_video_alone(done: Path, fresh: Path, change: Callable[[Path], None]) -> None:
    before = {stage: attempts(done / "work", stage) for stage in PER_VIDEO}
    change(done / "data")
    code, printed = glpose_stage(config(done), "run", "--plan")
    assert (code, "detect   2 done, 1 to do, 1 from changed inputs: a" in printed) == (0, True)
    code, printed = glpose_stage(config(done), "run")
    assert code == 0
    for stage in PER_VIDEO:
        assert f"{stage} 2 done, 1 to do (1 of them because their inputs changed)" in printed
        now = attempts(done / "work", stage)
        assert {video for video in now if now[video] != before[stage][video]} == {"a"}
        assert (done / "work" / stage / "latest" / "a").resolve().name == now["a"]
    assert glpose_stage(config(done), "run")[1].count(" 0 to do") == 5

    change(fresh / "data")
    assert glpose_stage(config(fresh), "run")[0] == 0
    assert commit_digests(done / "work") == commit_digests(fresh / "work")


def test_new_video_is_added(done: Path) -> None:
    before = attempts(done / "work", "extract")
    write_dataset(done / "data", train=["d"], evaluate=[])
    code, printed = glpose_stage(config(done), "run")
    assert (code, "extract 3 done, 1 to do" in printed) == (0, True)
    assert attempts(done / "work", "extract").items() > before.items()
    assert store.open(done / "work").videos == ["a", "b", "c", "d"]


def test_a_video_that_is_gone_is_told_of_and_removed_when_asked(done: Path) -> None:
    """Counts are of the data set as it is; what was made of others stays until somebody asks."""
    whole = commit_digests(done / "work")
    people = {video: len(store.open(done / "work").table(video)) for video in "abc"}
    annotations = done / "data" / "annotations" / "train"
    (annotations / "b.json").rename(annotations / "new.json")
    for stage in PER_VIDEO:
        code, printed = glpose_stage(config(done), stage)
        assert (code, f"{stage} 2 done, 1 to do" in printed) == (0, True), printed
        told = "1 finished video is not in the data set: b; glpose-stage verify -p small --prune removes what was made"
        assert told in printed
        if stage != "index":
            assert f" {sum(people.values())} proposals " in printed and "in 3 videos" in printed
    code, printed = glpose_stage(config(done), "status")
    assert printed.count("1 finished video is not in the data set: b\n") == 3
    assert "glpose-stage verify -p small --prune removes what is not of the data set" in printed
    assert told in glpose_stage(config(done), "detect", "--videos", "a")[1]  # and not of "c"

    assert glpose_stage(config(done), "verify", "--clean", "--repair")[0] == 0
    assert store.open(done / "work").videos == ["a", "b", "c", "new"]
    code, printed = glpose_stage(config(done), "verify", "--prune")
    assert (code, printed.count("1 finished video is not in the data set: b; removed")) == (0, 3), printed
    assert store.open(done / "work").videos == ["a", "c", "new"]
    for stage in PER_VIDEO:
        assert not list((done / "work" / stage / "data" / "b").iterdir())
        assert not (done / "work" / stage / "latest" / "b").is_symlink()
    assert "finished video" not in glpose_stage(config(done), "status")[1]
    code, printed = glpose_stage(config(done), "verify", "--prune")
    assert (code, "removed" in printed) == (0, False), printed

    (annotations / "new.json").rename(annotations / "b.json")  # and back
    code, printed = glpose_stage(config(done), "run")
    assert code == 0, printed
    assert commit_digests(done / "work")["train"] == whole["train"]
    assert store.open(done / "work").table("b").equals(store.open(done / "work").table("new").assign(video="b"))


def test_crops_are_removed_with_the_rest(done: Path) -> None:
    """Though no video is left to make any of."""
    assert glpose_stage(config(done), "extract", "--crops")[0] == 0
    code, printed = glpose_stage(config(done), "verify", "--prune", "--set", "data.train=null")
    assert (code, "crops: 0 finished" in printed) == (0, True), printed
    assert {stage: set(attempts(done / "work", stage)) for stage in PER_VIDEO} == {stage: {"c"} for stage in PER_VIDEO}


def test_nothing_is_removed_where_the_data_set_is_not_there(done: Path) -> None:
    before = snapshot(done / "work")
    for settings, code in (
        (["data.root=nowhere"], 1),
        (["data.train=null", "data.eval=null"], 2),
    ):
        words = [word for setting in settings for word in ("--set", setting)]
        assert glpose_stage(config(done), "verify", "--prune", *words)[0] == code
    assert snapshot(done / "work") == before


# ------------------------------------------------------------------------------------------------------------- plans
def test_plan_writes_nothing(fresh: Path, done: Path) -> None:
    for folder in (fresh, done):
        before = snapshot(folder)
        for arguments in ([], ["--force"], list(ONE_REFERENCE), ["--set", "extract.k=2"]):
            for verb in ("run", "extract", "eval"):
                assert glpose_stage(config(folder), verb, "--plan", *arguments)[0] == 0
        assert glpose_stage(config(folder), "status")[0] == 0
        assert snapshot(folder) == before
    assert not (fresh / "work").exists()


def test_plan_says_what_would_run(fresh: Path, done: Path) -> None:
    lines = glpose_stage(config(fresh), "run", "--plan")[1].splitlines()
    assert lines[0] == "detect   0 done, 3 to do: a, b, c"
    assert lines[1] == "extract  0 done, 3 to do after detect: a, b, c"
    assert glpose_stage(config(fresh), "extract", "--plan")[1].startswith(
        "extract  waits: extract needs detect, which has not run"
    )
    lines = glpose_stage(config(done), "run", "--plan", *ONE_REFERENCE)[1].splitlines()
    assert lines[1] == "extract  3 done, 0 to do"
    assert lines[2] == "index    0 done, 3 to do, made with other parameters (index.n: 2 -> 1): needs --force: a, b, c"


# ---------------------------------------------------------------------------------------------------- work folders
@pytest.mark.parametrize("arguments", [[], ["--force"], ["--plan"]])
def test_work_folder_of_another_pipeline_is_refused(done: Path, arguments: list[str]) -> None:
    path = config(done)
    path.write_text(path.read_text().replace("  small:", "  other: {extends: small}\n  small:"))
    before = snapshot(done)
    code, printed = glpose_stage(path, "run", "-p", "other", *arguments)
    assert code == 1
    assert "holds the outputs of pipeline 'small', not 'other': choose another folder with --set work=DIR" in printed
    assert snapshot(done) == before


def test_folder_of_other_files_is_refused(fresh: Path) -> None:
    (fresh / "work").mkdir()
    (fresh / "work" / "thesis.tex").write_text("x")
    code, printed = glpose_stage(config(fresh), "detect")
    assert (code, "is not empty and not a glpose work folder" in printed) == (1, True)
    assert [path.name for path in (fresh / "work").iterdir()] == ["thesis.tex"]


def test_folder_with_what_a_killed_claim_left_is_taken(fresh: Path) -> None:
    (fresh / "work").mkdir()
    (fresh / "work" / ".pipeline.json.0a1b2c3d.tmp").write_text("")
    assert glpose_stage(config(fresh), "detect")[0] == 0


def test_changed_ground_truth_is_scored_again(done: Path) -> None:
    path = done / "data" / "annotations" / "val" / "c.json"
    content = json.loads(path.read_text())
    for person in content["annotations"]:
        x, y, width, height = person["bbox_head"]
        person["bbox_head"] = [x, y, width / 100, height / 100]  # nothing is near enough to such small heads
    path.write_text(json.dumps(content))
    code, printed = glpose_stage(config(done), "run")
    assert (code, "eval 0 done, 1 to do (1 of them because their inputs changed)" in printed) == (0, True)
    record = StageFolder(done / "work" / "eval").record_in_force()
    assert record is not None
    means = StageFolder(done / "work" / "eval").commit_of(record, "results").meta["mean"]
    assert means == {"glpose": 0.0, "single_frame": 0.0}


def test_heads_and_scores_are_of_whole_splits(done: Path) -> None:
    before = snapshot(done)
    for verb in ("train", "eval", "run"):
        code, printed = glpose_stage(config(done), verb, "--videos", "[ac]")
        assert (code, " 0 to do" in printed) == (0, True)
    assert snapshot(done) == before


def test_some_videos_run_as_far_as_the_index(fresh: Path) -> None:
    code, printed = glpose_stage(config(fresh), "run", "--videos", "a")
    assert (code, "index 0 done, 1 to do" in printed, "train" in printed) == (0, True, False)
    code, printed = glpose_stage(config(fresh), "train")
    assert (code, "has no finished output for 'b'" in printed) == (1, True)


def test_splits_of_one_video_need_room_for_local_frames(fresh: Path) -> None:
    splits = [
        f"data.{split}={{subset: train, videos: a, frames: {frames}}}"
        for split, frames in (("train", "[0, 3]"), ("eval", "[4, null]"))
    ]
    settings = [part for setting in splits for part in ("--set", setting)]
    code, printed = glpose_stage(config(fresh), "detect", "--plan", *settings)
    assert code == 0, printed
    code, printed = glpose_stage(config(fresh), "detect", "--plan", *settings, "--set", "extract.k=2")
    assert (code, "1 frames lie between its train and eval split" in printed) == (2, True)


# ---------------------------------------------------------------------------------------------------------- failures
def test_a_video_that_failed_does_not_hold_up_the_others(fresh: Path) -> None:
    frame = fresh / "data" / "images" / "train" / "b" / "000002.jpg"
    frame.unlink()
    assert glpose_stage(config(fresh), "detect")[0] == 1
    code, printed = glpose_stage(config(fresh), "extract")
    assert (code, "extract: 1 of 3 failed" in printed, "detect has no finished output for 'b'" in printed) == (
        1,
        True,
        True,
    )
    assert sorted(attempts(fresh / "work", "extract")) == ["a", "c"]


def test_video_with_a_lost_frame_fails_alone(fresh: Path, finished: Path) -> None:
    frame = fresh / "data" / "images" / "train" / "b" / "000002.jpg"
    content = frame.read_bytes()
    frame.unlink()
    assert "1 cannot be read (b)" in glpose_stage(config(fresh), "detect", "--plan")[1]
    code, printed = glpose_stage(config(fresh), "run")
    assert code == 1
    assert "error: detect: 1 of 3 failed, the others are finished:\n  b: video 'b': frame 2 is listed but " in printed
    assert sorted(attempts(fresh / "work", "detect")) == ["a", "c"]
    assert not (fresh / "work" / "extract").exists()
    frame.write_bytes(content)
    code, printed = glpose_stage(config(fresh), "run")
    assert (code, "detect 2 done, 1 to do" in printed) == (0, True)
    assert commit_digests(fresh / "work") == commit_digests(finished / "work")


def test_video_with_a_damaged_frame_fails_alone(fresh: Path, finished: Path) -> None:
    frame = fresh / "data" / "images" / "train" / "b" / "000002.jpg"
    content = frame.read_bytes()
    frame.write_bytes(bytes(len(content)))
    code, printed = glpose_stage(config(fresh), "run")
    assert code == 1
    assert (
        "error: extract: 1 of 3 failed, the others are finished:\n  b: video 'b': frame 2 cannot be decoded" in printed
    )
    assert sorted(attempts(fresh / "work", "extract")) == ["a", "c"]
    assert store.open(fresh / "work").verify() == []
    assert [path.name for path in (fresh / "work/extract/data").glob("b/*")] == []
    frame.write_bytes(content)
    code, printed = glpose_stage(config(fresh), "run")
    assert (code, "extract 2 done, 1 to do" in printed) == (0, True)
    assert commit_digests(fresh / "work") == commit_digests(finished / "work")


def test_forced_run_that_fails_keeps_the_old_in_force(done: Path) -> None:
    frame = done / "data" / "images" / "train" / "b" / "000002.jpg"
    frame.write_bytes(bytes(frame.stat().st_size))
    old = StageFolder(done / "work" / "extract").record_in_force()
    code, printed = glpose_stage(config(done), "extract", "--force", "--set", "extract.edge=clamp")
    assert (code, "2 of 3 done with the new parameters; the old outputs stay in force" in printed) == (1, True)
    assert StageFolder(done / "work" / "extract").record_in_force() == old
    assert len(store.open(done / "work").features("b")) > 0


# --------------------------------------------------------------------------------------------------- killed, together
def run_in_child(path: Path, kill_at: int = -1) -> None:
    """Run the pipeline; with kill_at, die without a word before the kill_at-th step that reaches the disk."""
    steps = 0

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*arguments: object, **options: object) -> object:
            nonlocal steps
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1
            return function(*arguments, **options)

        return wrapper

    for name in ("fsync", "link", "replace", "mkdir", "unlink", "symlink"):
        setattr(os, name, counted(getattr(os, name)))
    code, printed = glpose_stage(path, "run")
    (path.parent / "steps").write_text(str(steps))
    print(printed)
    os._exit(code)


def start(path: Path, kill_at: int = -1) -> BaseProcess:
    # a server that has imported everything and computed nothing forks a child in no time
    spawner = multiprocessing.get_context("forkserver")
    spawner.set_forkserver_preload(["stages.run", "stages.cli"])
    process = spawner.Process(target=run_in_child, args=(path, kill_at))
    process.start()
    return process


def assert_whole(work: Path) -> None:
    """Whatever is committed is there, byte for byte."""
    for name in STAGES:
        folder = StageFolder(work / name)
        record = folder.record_in_force()
        for commit in {} if record is None else folder.commits(record).values():
            for file, (size, digest) in commit.files.items():
                path = folder.attempt_path(commit) / file
                assert (path.stat().st_size, file_digest(path)) == (size, digest), path


def project(finished: Path, folder: Path) -> Path:
    folder.mkdir()
    (folder / "data").symlink_to(finished / "data")
    (folder / "backbone.safetensors").symlink_to(finished / "backbone.safetensors")
    return write_pipeline(folder)


def assert_goes_on(path: Path, finished: Path) -> None:
    """After a kill: what is visible is whole, and the next run ends where one never killed ends."""
    work = path.parent / "work"
    assert_whole(work)
    code, printed = glpose_stage(path, "run")
    assert code == 0, printed
    assert commit_digests(work) == commit_digests(finished / "work")
    for stage in ("detect", "extract", "index", "train", "eval"):
        StageFolder(work / stage).clean()
        left = {(p.parent.name, p.name) for p in (work / stage / "data").glob("*/*") if p.is_dir()}
        assert left == set(attempts(work, stage).items())
    assert_whole(work)


def kill_at_steps(finished: Path, tmp_path: Path, moments: int) -> None:
    path = project(finished, tmp_path / "whole")
    process = start(path)
    process.join(120)
    assert process.exitcode == 0
    total = int((path.parent / "steps").read_text())
    assert commit_digests(path.parent / "work") == commit_digests(finished / "work")
    for moment in random.Random(0).sample(range(total), moments):
        path = project(finished, tmp_path / f"step{moment}")
        process = start(path, moment)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        assert_goes_on(path, finished)


def kill_at_times(finished: Path, tmp_path: Path, moments: int) -> None:
    path = project(finished, tmp_path / "timed")
    began = time.monotonic()
    process = start(path)
    process.join(120)
    lasted = time.monotonic() - began
    killed = 0
    for moment in range(moments):
        path = project(finished, tmp_path / f"time{moment}")
        process = start(path)
        time.sleep(lasted * random.Random(moment).random())
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        assert_goes_on(path, finished)
    assert killed > moments // 2


def test_killed_run_goes_on(finished: Path, tmp_path: Path) -> None:
    kill_at_steps(finished, tmp_path, 2)


@pytest.mark.slow
def test_killed_run_goes_on_from_many_moments(finished: Path, tmp_path: Path) -> None:
    kill_at_steps(finished, tmp_path, 24)
    kill_at_times(finished, tmp_path, 12)


@pytest.mark.slow
def test_run_killed_again_and_again_ends_where_it_should(finished: Path, tmp_path: Path) -> None:
    path = project(finished, tmp_path / "again")
    kills = 0
    for seed in range(100):
        process = start(path, random.Random(seed).randrange(40, 400))
        process.join(120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        assert_whole(path.parent / "work")
        kills += 1
    assert kills >= 3
    assert_goes_on(path, finished)


def test_two_runs_at_once_do_not_mix(finished: Path, tmp_path: Path) -> None:
    path = project(finished, tmp_path / "two")
    processes = [start(path), start(path)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert_goes_on(path, finished)
