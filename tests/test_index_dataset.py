"""`index.scope: dataset`: references of any video of the split, from index to training, evaluation and the store."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import numpy_reference as reference
import pandas as pd
import pytest
import torch
from rich.console import Console
from small_pipelines import (
    attempts,
    commit_digests,
    context,
    glpose_stage,
    snapshot,
    write_backbone,
    write_dataset,
    write_pipeline,
)

import store
from glpose.models.checkpoints import read_state_dict
from stages.export import import_
from stages.train import CHECKPOINTS
from store.errors import NotCommitted, StoreError
from store.folder import StageFolder
from store.tables import read_table, write_table

DATASET = {"scope": "dataset"}
TRAIN, EVAL = ["a", "b", "d"], ["c", "e"]


def new_project(folder: Path, **index: object) -> Path:
    """A data set of five videos and its pipeline; nothing has run. The pipelines.yaml."""
    write_dataset(folder / "data", TRAIN, EVAL)
    return write_pipeline(folder, index={"n": 2, "pool": 3, "exclude_window": 1} | DATASET | index)


def finish(folder: Path, **index: object) -> Path:
    code, printed = glpose_stage(new_project(folder, **index), "run")
    assert code == 0, printed
    assert "the most-cited tenth of all proposals gets " in printed
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run, with pools drawn of the whole split."""
    return finish(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the whole split as everyone's pool."""
    return finish(tmp_path_factory.mktemp("whole"), pool="all")


@pytest.fixture(params=["drawn", "whole"])
def finished(request: pytest.FixtureRequest) -> Path:
    """Each of them."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def done(whole: Path, tmp_path: Path) -> Path:
    """A copy of a finished project; its pipelines.yaml."""
    return shutil.copytree(whole, tmp_path / "done", symlinks=True) / "pipelines.yaml"


def at(config: Path) -> tuple[str, str]:
    """Arguments that let a copied project work in its own folder."""
    return ("--set", f"work={config.parent / 'work'}")


def run(config: Path, verb: str, *arguments: str) -> tuple[int, str]:
    data = ("--set", f"data.root={config.parent / 'data'}")
    return glpose_stage(config, verb, *at(config), *data, *arguments)


def described(root: Path) -> dict[str, np.ndarray]:
    """Columns of the neighbours, and the frames and splits of both."""
    stored = store.open(root)
    proposals = stored.table()[["video", "proposal", "frame", "split"]]
    others = proposals.set_axis(["reference_video", "reference", "reference_frame", "reference_split"], axis=1)
    found = stored.neighbours().merge(proposals, on=["video", "proposal"])
    found = found.merge(others, on=["reference_video", "reference"])
    return {str(name): column.to_numpy() for name, column in found.items()}


# --------------------------------------------------------------------------------------------------------- references
def test_references_are_of_the_split_and_outside_the_own_window(finished: Path) -> None:
    found = described(finished / "work")
    assert len(found["rank"]) == 2 * len(store.open(finished / "work").table())  # nobody lacks any
    assert (found["split"] == found["reference_split"]).all()
    own = found["video"] == found["reference_video"]
    assert (np.abs(found["frame"] - found["reference_frame"])[own] > 1).all()
    assert 0 < own.mean() < 0.8
    assert set(found["reference_video"][found["split"] == "eval"]) <= set(EVAL)


def test_all_of_the_split_are_ranked_by_brute_force(whole: Path) -> None:
    stored = store.open(whole / "work")
    for split in ("train", "eval"):
        table = stored.table(embedding=True)
        table = table.loc[table["split"] == split].reset_index(drop=True)
        embeddings = np.stack(table["embedding"].tolist()).astype(np.float64)
        names, frames, scores = (table[name].tolist() for name in ("video", "frame", "score"))
        neighbours = stored.neighbours(sorted(set(names)))
        places = list(zip(table["video"], table["proposal"], strict=True))
        for row, (video, proposal) in enumerate(places):
            rows = neighbours.loc[(neighbours["video"] == video) & (neighbours["proposal"] == proposal)]
            pool = reference.candidates(names, frames, scores, row, 1, 0.0, "dataset")
            wanted = reference.ranked(embeddings, row, pool, 2)
            np.testing.assert_allclose(rows["similarity"], [value for _, value in wanted], rtol=1e-5)
            assert list(zip(rows["reference_video"], rows["reference"], strict=True)) == [places[i] for i, _ in wanted]


def test_order_and_threads_change_nothing(finished: Path, tmp_path: Path) -> None:
    done = shutil.copytree(finished, tmp_path / "done", symlinks=True) / "pipelines.yaml"
    wanted = commit_digests(done.parent / "work")["index"]
    shutil.rmtree(done.parent / "work" / "index")
    before = faiss.omp_get_max_threads()
    for threads, video in enumerate(["d", "c", "a", "[be]"], 1):
        faiss.omp_set_num_threads(threads)
        code, printed = run(done, "index", "--videos", video)
        assert code == 0, printed
    faiss.omp_set_num_threads(before)
    assert commit_digests(done.parent / "work")["index"] == wanted


def test_workers_make_what_one_process_makes(finished: Path, tmp_path: Path) -> None:
    done = shutil.copytree(finished, tmp_path / "done", symlinks=True) / "pipelines.yaml"
    wanted = commit_digests(done.parent / "work")["index"]
    shutil.rmtree(done.parent / "work" / "index")
    code, printed = run(done, "index", "--set", "cluster={kind: local, workers: 2, threads: 1, dashboard: false}")
    assert (code, "  2 workers on this machine" in printed) == (0, True), printed
    assert commit_digests(done.parent / "work")["index"] == wanted
    assert run(done, "run")[1].count(" 0 to do") == 5  # the inputs that they noted are those that are looked for


def test_what_a_run_has_read_of_all_videos_is_kept_for_each(whole: Path) -> None:
    """Else every unit on a worker would list the data set and read all commits again."""
    first = context(whole / "pipelines.yaml")
    digests = first.split_digests
    one = first.of((first.video("b"),))
    assert one.split_digests is digests and one.features is first.features
    assert one.video("b") == first.video("b") and one.found == (first.video("b"),)
    assert "split_digests" not in vars(context(whole / "pipelines.yaml").of(()))


def trained(work: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Variant -> weights in force."""
    names = ("glpose", "single_frame")
    return {name: read_state_dict(work / "train" / "latest" / name / CHECKPOINTS["last"]) for name in names}


def test_references_of_other_videos_change_what_is_learnt(finished: Path, tmp_path: Path) -> None:
    config = shutil.copytree(finished, tmp_path / "done", symlinks=True) / "pipelines.yaml"
    across = trained(config.parent / "work")
    code, printed = run(config, "run", "--force", "--set", "index.scope=video")
    assert (code, "index.scope: dataset -> video" in printed) == (0, True), printed
    own = trained(config.parent / "work")
    same = {name: all(own[name][tensor].equal(across[name][tensor]) for tensor in own[name]) for name in own}
    assert same == {"glpose": False, "single_frame": True}
    neighbours = store.open(config.parent / "work").neighbours()
    assert neighbours["reference_video"].equals(neighbours["video"])


def test_a_data_set_of_one_video_a_split(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ["a"], ["c"])
    found = []
    for scope in ("dataset", "video"):
        config = write_pipeline(tmp_path, index={"n": 2, "pool": 3, "exclude_window": 1, "scope": scope})
        code, printed = glpose_stage(config, "run", "--force")
        assert code == 0, printed
        found.append(store.open(tmp_path / "work").neighbours())
    pd.testing.assert_frame_equal(*found)


def test_fewer_candidates_than_references(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ["a", "b"], ["c"])
    config = write_pipeline(tmp_path, index={"n": 40, "pool": 40, "exclude_window": 9} | DATASET)
    code, printed = glpose_stage(config, "run", "--set", "train.heads.n=40")
    assert code == 0, printed
    stored = store.open(tmp_path / "work")
    count = stored.table()["video"].value_counts()
    assert f"a: {count['a']} of {count['a']} proposals have fewer than 40 references" in printed
    neighbours = stored.neighbours()
    found = neighbours.groupby("video").size() / count
    assert found.fillna(0).to_dict() == {"a": count["b"], "b": count["a"], "c": 0}
    assert glpose_stage(config, "verify")[0] == 0


# -------------------------------------------------------------------------------------------------------------- re-runs
def test_a_second_run_does_nothing(done: Path) -> None:
    before = snapshot(done.parent)
    code, printed = run(done, "run")
    assert (code, printed.count(" 0 to do")) == (0, 5), printed
    assert snapshot(done.parent) == before


def drop_a_person(config: Path, video: str) -> None:
    [path] = config.parent.glob(f"data/annotations/*/{video}.json")
    content = json.loads(path.read_text())
    content["annotations"].pop()
    path.write_text(json.dumps(content))


def test_a_changed_video_makes_those_of_its_split_anew(done: Path, tmp_path: Path) -> None:
    work = done.parent / "work"
    before = attempts(work, "index")
    drop_a_person(done, "b")
    assert run(done, "extract")[0] == run(done, "detect")[0] == 0
    assert run(done, "extract")[0] == 0
    stored = store.open(work)
    for ask in (stored.neighbours, lambda: stored.neighbours("b"), lambda: stored.sample(("b", 0))):
        with pytest.raises(NotCommitted, match=r"the index of 'b' \(1 in all\) is of other features: run glpose-stage"):
            ask()
    assert len(stored.neighbours(EVAL))
    code, printed = run(done, "train")  # not on references to what is no longer there
    assert (code, "the index of 'b' (1 in all) is of other features" in printed) == (1, True), printed

    code, printed = run(done, "index", "--videos", "b")  # those of "a" still speak of what "b" was
    assert (code, "index 0 done, 1 to do (1 of them because their inputs changed)" in printed) == (0, True)
    stored = store.open(work)
    with pytest.raises(NotCommitted, match=r"is of other features"):
        stored.neighbours()
    assert len(stored.neighbours("c"))
    code, printed = run(done, "run")
    assert (code, "index 3 done, 2 to do (2 of them because their inputs changed)" in printed) == (0, True), printed
    after = attempts(work, "index")
    assert {video for video in after if after[video] != before[video]} == set(TRAIN)
    assert len(store.open(work).neighbours())

    fresh = tmp_path / "fresh" / "pipelines.yaml"
    fresh.parent.mkdir()
    shutil.copytree(done.parent / "data", fresh.parent / "data")
    shutil.copy(done, fresh)
    assert run(fresh, "run")[0] == 0
    assert commit_digests(fresh.parent / "work") == commit_digests(work)


def test_a_new_video_makes_those_of_its_split_anew(done: Path) -> None:
    before = attempts(done.parent / "work", "index")
    write_dataset(done.parent / "data", [], ["f"])
    code, printed = run(done, "run")
    assert (code, "index 3 done, 3 to do (2 of them because their inputs changed)" in printed) == (0, True), printed
    after = attempts(done.parent / "work", "index")
    assert {video for video in after if after[video] != before.get(video)} == {"c", "e", "f"}
    assert "train 2 done, 0 to do" in printed and "eval 0 done, 1 to do" in printed


def test_a_video_that_has_left_the_data_leaves_the_pools(done: Path) -> None:
    [path] = done.parent.glob("data/annotations/train/d.json")
    path.unlink()
    code, printed = run(done, "run")
    assert (code, "index 2 done, 2 to do (2 of them because their inputs changed)" in printed) == (0, True), printed
    assert "1 finished video is not in the data set: d; glpose-stage verify" in printed
    stored = store.open(done.parent / "work")
    neighbours = stored.neighbours()
    assert set(neighbours["video"]) == set(stored.indexed()) == {"a", "b", "c", "e"}
    assert set(neighbours["reference_video"]) <= {"a", "b", "c", "e"}
    with pytest.raises(
        NotCommitted, match=r"the index of 'd'.*verify --prune removes it"
    ):  # who it refers to has changed
        stored.neighbours("d")
    code, printed = run(done, "export", "--hdf5", str(done.parent / "all.h5"))
    assert code == 0, printed
    import_(done.parent / "all.h5", str(done.parent / "again"), Console(file=io.StringIO()))
    pd.testing.assert_frame_equal(store.open(done.parent / "again").neighbours(), neighbours)
    assert run(done, "inspect", "--neighbours")[0] == run(done, "verify")[0] == 0

    code, printed = run(done, "verify", "--prune")
    assert code == 0, printed
    stored = store.open(done.parent / "work")
    assert stored.videos == ["a", "b", "c", "e"]
    pd.testing.assert_frame_equal(stored.neighbours(), neighbours)
    assert run(done, "run")[1].count(" 0 to do") == 5


def test_a_data_set_whose_videos_are_all_others(done: Path) -> None:
    """Both videos' references are of all that their split had; those of the split as it is now are shown."""
    for before, now in (("c", "f"), ("e", "g")):
        write_dataset(done.parent / "data", [], [now])
        (done.parent / "data" / "annotations" / "val" / f"{before}.json").unlink()
    code, printed = run(done, "run")
    assert code == 0, printed
    assert set(store.open(done.parent / "work").neighbours()["video"]) == {*TRAIN, "f", "g"}


def test_pools_wait_for_all_features_of_the_split(tmp_path: Path) -> None:
    config = new_project(tmp_path)
    assert glpose_stage(config, "detect")[0] == 0
    assert glpose_stage(config, "extract", "--videos", "[abce]")[0] == 0
    code, printed = glpose_stage(config, "index")
    assert code == 1
    assert "index: 3 of 5 failed, the others are finished:" in printed
    assert (
        "  a: with index.scope dataset references are of any video of the train split, but 'd' (1 in all) has no "
        "features yet: run extract first"
    ) in printed
    assert sorted(attempts(tmp_path / "work", "index")) == EVAL
    assert glpose_stage(config, "index", "--plan")[1].startswith("index    2 done, 0 to do, 3 cannot be read (a, b, d)")
    assert glpose_stage(config, "run")[0] == 0
    assert sorted(attempts(tmp_path / "work", "index")) == sorted(TRAIN + EVAL)


# ------------------------------------------------------------------------------------------------------------ the store
def test_samples_have_maps_of_other_videos(finished: Path) -> None:
    stored = store.open(finished / "work")
    neighbours = stored.neighbours()
    across = neighbours.loc[neighbours["video"] != neighbours["reference_video"]].iloc[0]
    video, proposal = str(across["video"]), int(across["proposal"])
    sample = stored.sample((video, proposal))
    rows = neighbours.loc[(neighbours["video"] == video) & (neighbours["proposal"] == proposal)]
    assert sample.reference_rows["video"].tolist() == rows["reference_video"].tolist()
    assert sample.reference_rows["proposal"].tolist() == rows["reference"].tolist()
    assert sample.similarity.tolist() == rows["similarity"].tolist()
    for found, name, number in zip(sample.references, rows["reference_video"], rows["reference"], strict=True):
        assert np.array_equal(found, stored.features(name).key([number])[0, 0])
    assert np.array_equal(sample.key, stored.features(video).key([proposal])[0, 0])


def test_verify_knows_references_of_other_videos(done: Path) -> None:
    assert run(done, "verify")[0] == 0
    work = done.parent / "work"
    folder = StageFolder(work / "index")
    record = folder.record_in_force()
    assert record is not None
    commit = folder.commit_of(record, "a")
    with folder.writing(record, "a", commit.inputs, replace=commit) as attempt:
        source = folder.attempt_path(commit)
        assert isinstance(source, Path)
        shutil.copytree(source, attempt.path, dirs_exist_ok=True)
        table = read_table(attempt.path, "neighbours")
        table.loc[0, ["reference_video", "reference"]] = ["c", 0]
        table.loc[3, ["reference_video", "reference"]] = ["b", 99]
        write_table(attempt.path, "neighbours", table)
        attempt.meta = commit.meta
    code, printed = run(done, "verify")
    assert code == 1
    assert "index a: proposal 0: in neighbours.parquet reference 0 is of the other split" in printed
    assert "index a: proposal 1: in neighbours.parquet reference 99 is no other proposal of 'b'" in printed
    assert printed.count("index a: ") == 2
    drop_a_person(done, "b")  # then what "a" says of it is stale, not wrong
    for stage in ("detect", "extract"):
        assert run(done, stage)[0] == 0
    assert "index a: proposal 1" not in run(done, "verify")[1]


def test_archives_hold_references_of_other_videos(done: Path, tmp_path: Path) -> None:
    archive, part = tmp_path / "all.h5", tmp_path / "part.h5"
    was = store.open(done.parent / "work")
    found = was.neighbours()
    video = str(found.loc[found["reference_video"] != found["video"], "video"].iloc[0])
    for path, options in ((archive, []), (part, ["--videos", video])):
        code, printed = run(done, "export", "--hdf5", str(path), *options)
        assert code == 0, printed
    import_(archive, str(tmp_path / "all"), Console(file=io.StringIO()))
    now = store.open(tmp_path / "all")
    pd.testing.assert_frame_equal(now.neighbours(), was.neighbours())
    pd.testing.assert_frame_equal(now.sample(0).reference_rows, was.sample(0).reference_rows)
    code, printed = glpose_stage(done, "verify", "--set", f"work={tmp_path / 'all'}")
    assert code == 0, printed

    import_(part, str(tmp_path / "part"), Console(file=io.StringIO()))
    alone = store.open(tmp_path / "part")
    neighbours = alone.neighbours()
    pd.testing.assert_frame_equal(neighbours, was.neighbours(video))
    across = neighbours.loc[neighbours["reference_video"] != video].iloc[0]
    with pytest.raises(StoreError, match=f"no features of a video '{across['reference_video']}'; it has {video}"):
        alone.sample((video, int(across["proposal"])))
    code, printed = glpose_stage(done, "verify", "--set", f"work={tmp_path / 'part'}")
    assert code == 0, printed


def test_inspect_shows_the_videos_of_references(finished: Path) -> None:
    config = finished / "pipelines.yaml"
    code, printed = glpose_stage(config, "inspect", "--neighbours", "--where", "reference_video != video")
    assert (code, "reference_video" in printed, " neighbours" in printed) == (0, True, True), printed


def test_a_table_of_an_earlier_release_is_named(done: Path) -> None:
    work = done.parent / "work"
    for path in [*work.glob("index/data/*/*/neighbours.parquet"), *work.glob("index/merged/*.parquet")]:
        pd.read_parquet(path).drop(columns="reference_video").to_parquet(path)
    with pytest.raises(StoreError, match="has no column reference_video: an earlier release wrote it; run its stage"):
        store.open(work).neighbours()


def test_an_index_of_an_earlier_release_is_refused(done: Path) -> None:
    work = done.parent / "work"
    folder = StageFolder(work / "index")
    record = folder.record_in_force()
    assert record is not None
    old = json.loads(json.dumps(record))
    old["version"], old["parameters"] = 1, {k: v for k, v in record["parameters"].items() if k != "scope"}
    shutil.rmtree(work / "index")
    folder.begin(old)
    with folder.writing(old, "a", "") as attempt:
        attempt.meta = {"proposals": 0}
    code, printed = run(done, "index")
    assert code == 1
    assert "index code version: 1 -> 2" in printed and "index.scope: nothing -> dataset" in printed


def test_split_inside_a_video(tmp_path: Path) -> None:
    """One video in both splits: references keep to the frames of the split, in this video and in others."""
    write_backbone(tmp_path / "backbone.safetensors")
    write_dataset(tmp_path / "data", ["a", "b"], [])
    ranges = {"train": [0, 3], "eval": [4, None]}
    data = {"kind": "posetrack18", "root": str(tmp_path / "data")} | {
        split: {"subset": "train", "videos": "*", "frames": frames} for split, frames in ranges.items()
    }
    config = write_pipeline(tmp_path, data, index={"n": 2, "pool": "all", "exclude_window": 1} | DATASET)
    code, printed = glpose_stage(config, "run")
    assert code == 0, printed
    found = described(tmp_path / "work")
    assert (found["split"] == found["reference_split"]).all() and set(found["split"]) == {"train", "eval"}
    assert (found["video"] != found["reference_video"]).any()
    assert glpose_stage(config, "verify")[0] == 0
