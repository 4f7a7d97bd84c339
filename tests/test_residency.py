"""Features in windows of whole videos: the same training and the same poses, wherever they are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_pipelines import context, finish_project, glpose_stage, write_dataset, write_pipeline
from training_problem import INDEX, drawn, in_windows, problem, same, trained, with_keypoints

import store
from glpose.batches import make_batch, portions
from glpose.data import windows
from glpose.data.resident import ResidentFeatures
from glpose.data.windows import Asked, Mode, fill_windows, open_split, plan_residency
from glpose.evaluation import predict_poses
from glpose.keypoints import POSETRACK
from stages import train as train_stage
from store.errors import CheckpointError, DataError, TrainingError

CPU = torch.device("cpu")
VIDEOS = {"a": 4, "b": 3, "c": 2, "d": 4}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project of two training videos."""
    return finish_project(tmp_path_factory.mktemp("project"))


# ------------------------------------------------------------------------------------------------------------- windows
def test_windows_hold_whole_videos() -> None:
    sizes = {"a": 5, "b": 3, "c": 4, "d": 9, "e": 1}
    assert fill_windows("abcde", sizes, 9) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert fill_windows("ebcad", sizes, 9) == [["b", "c", "e"], ["a"], ["d"]]
    assert fill_windows("abcde", sizes, 1) == [["a"], ["b"], ["c"], ["d"], ["e"]]  # a video is never cut
    assert fill_windows("abcde", sizes, 99) == [["a", "b", "c", "d", "e"]]


def test_windows_come_in_an_order_of_each_draw() -> None:
    split = in_windows(problem({name: 2 for name in "abcdefgh"}), 8, "device")
    drawn = [split.window_videos(np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for videos in drawn:
        assert sorted(video for window in videos for video in window) == list("abcdefgh")
        assert [len(window) for window in videos] == [2, 2, 2, 2]
    assert split.window_videos() == [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]]


@pytest.mark.parametrize("mode", ["host", "disk"])
def test_training_does_not_depend_on_where_features_are_kept(mode: Mode) -> None:
    split = problem(VIDEOS)
    models = [trained(in_windows(split, 14, where), epochs=3)[0] for where in ("device", mode)]
    assert same(*models)
    assert not same(models[0], trained(split, epochs=3)[0])  # all in one window: another order
    fixed = drawn(split)
    kept = [
        trained(in_windows(split, 14, where), fixed=fixed, redraw_pool=False, epochs=2)[0] for where in ("device", mode)
    ]
    assert same(*kept) and not same(kept[0], trained(in_windows(split, 14, mode), redraw_pool=False, epochs=2)[0])


@pytest.mark.parametrize("mode", ["device", "host", "disk"])
def test_poses_do_not_depend_on_windows(mode: Mode) -> None:
    split = problem(VIDEOS)
    model, _ = trained(split, epochs=2)
    [whole] = predict_poses(model, split, drawn(split), "product", batch_size=5)
    [parts] = predict_poses(model, in_windows(split, 6, mode), drawn(split), "product", batch_size=5)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_references_outside_a_window_are_refused() -> None:
    split, index = problem(VIDEOS), INDEX.model_copy(update={"scope": "dataset"})
    assert trained(split, index=index, epochs=1)[1]
    with pytest.raises(TrainingError, match=r"index\.scope: dataset.*need the whole split on the device"):
        trained(in_windows(split, 6, "disk"), index=index, epochs=1)


def test_windows_without_anybody_to_train_on_are_not_loaded() -> None:
    split = problem(VIDEOS)
    keypoints = [None if video in "ac" else own for video, own in split.table[["video", "keypoints"]].to_numpy()]
    some, loaded = with_keypoints(split, keypoints), []
    parts = in_windows(some, 1, "disk")

    def read(table: pd.DataFrame) -> ResidentFeatures:
        loaded.extend(table["video"].unique().tolist())
        assert parts.read is not None
        return parts.read(table)

    for seed in range(4):  # whichever of them comes first or last
        model, losses = trained(replace(parts, read=read), epochs=2, seed=seed)
        assert np.isfinite(losses).all() and same(model, trained(in_windows(some, 1, "device"), epochs=2, seed=seed)[0])
    assert set(loaded) == {"b", "d"} and len(loaded) == 4 * 2 * 2


# ---------------------------------------------------------------------------------------------------------------- plan
@pytest.mark.parametrize(
    ("asked", "window", "free", "mode", "expected"),
    [
        ("auto", None, 1000, "device", None),  # 10 proposals of 50 bytes fit into 0.8 of it
        ("auto", None, 624, "disk", 4),  # they do not: two windows of 4 do
        ("auto", 3, 1000, "device", 3),
        ("auto", 3, 500, "disk", 3),
        ("disk", None, 1000, "disk", 8),
        ("disk", 4, 1000, "disk", 4),
        ("host", 5, 1000, "host", 5),
        ("device", None, None, "device", None),  # a system that does not say
        ("disk", None, None, "disk", 4),
    ],
)
def test_plan(
    monkeypatch: pytest.MonkeyPatch, asked: Asked, window: int | None, free: int | None, mode: str, expected: int | None
) -> None:
    monkeypatch.setattr(windows, "free_bytes", lambda device: free)
    plan = plan_residency({"a": 4, "b": 3, "c": 3}, 50, CPU, asked, window)
    assert (plan.mode, plan.window, plan.needed, plan.free) == (mode, expected, 500, free)
    assert ("windows of at most" in str(plan)) == (expected is not None)


def test_what_fits_the_host_alone_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("meta")  # some other device
    monkeypatch.setattr(windows, "free_bytes", lambda device: 1000 if device.type == "cpu" else 500)
    plan = plan_residency({"a": 4, "b": 3, "c": 3}, 50, gpu, "auto", None)
    assert (plan.mode, plan.window) == ("host", 4)
    assert (
        str(plan)
        == "0.0 GB needed, 0.0 GB free: kept in this machine's memory, in windows of at most 4 proposals or one video"
    )


@pytest.mark.parametrize(
    ("asked", "window", "free", "message"),
    [
        ("device", None, 600, r"do not fit on cpu, 0\.0 GB are free: leave runtime\.residency at auto"),
        ("host", None, 600, r"do not fit into memory: use runtime\.residency=disk"),
        ("disk", 9, 600, r"two windows of 9 proposals.*lower train\.window"),
        ("auto", None, 400, r"two windows of 4 proposals.*its largest video is too long"),
        ("disk", 2, 400, r"two windows of 4 proposals.*its largest video is too long"),  # windows hold whole videos
    ],
)
def test_plans_that_cannot_work(
    monkeypatch: pytest.MonkeyPatch, asked: Asked, window: int | None, free: int, message: str
) -> None:
    monkeypatch.setattr(windows, "free_bytes", lambda device: free)
    with pytest.raises(TrainingError, match=message):
        plan_residency({"a": 4, "b": 3, "c": 3}, 50, CPU, asked, window)


def test_free_bytes_are_known_here() -> None:
    free = windows.free_bytes(CPU)
    assert free is None or 10**7 < free < 10**14


# ----------------------------------------------------------------------------------------------------- of a real store
def maps(features: ResidentFeatures) -> list[torch.Tensor]:
    assert features.local is not None
    rows = torch.arange(len(features))
    return [features.key.take(rows), features.local.take(rows), features.embedding]


@pytest.mark.parametrize("asked", ["auto", "host", "disk"])
def test_a_store_is_read_alike(done: Path, asked: Asked) -> None:
    opened, extract = store.open(done / "work"), context(done / "pipelines.yaml").config.extract
    split = open_split(opened, "train", 1, extract.crop_size, extract.crop_scale, CPU, asked=asked, window=1)
    assert split.residency.mode == {"auto": "device"}.get(asked, asked)
    assert split.window_videos() == [["a"], ["b"]]
    for video in "ab":
        window = split.window([video])
        own = open_split(opened, "train", 1, extract.crop_size, extract.crop_scale, CPU, videos=[video]).held
        assert own is not None
        stored = [torch.from_numpy(opened.features(video).key()[:, 0]), None, opened.features(video).embedding[:, 0]]
        torch.testing.assert_close(maps(own)[0], stored[0])
        np.testing.assert_array_equal(maps(own)[2], stored[2])
        for part, wanted in zip(maps(window.features), maps(own), strict=True):
            assert torch.equal(part[window.places], wanted)
        names = split.table.iloc[window.rows][["video", "proposal"]].to_numpy().tolist()
        assert names == [[video, number] for number in range(len(window.rows))]
    np.testing.assert_array_equal(split.embedding, np.concatenate([opened.features(v).embedding[:, 0] for v in "ab"]))


def test_what_a_store_does_not_hold(done: Path) -> None:
    opened = store.open(done / "work")
    with pytest.raises(CheckpointError, match="k = 2 need 2 local frames on each side; the store holds 1"):
        open_split(opened, "train", 2, (64, 48), 1.25, CPU)
    with pytest.raises(DataError, match="the test split has no proposals"):
        open_split(opened, "test", 1, (64, 48), 1.25, CPU)


def test_a_pipeline_in_windows_gives_the_same_poses(done: Path, tmp_path: Path) -> None:
    """Chosen windows are part of the record; where features are kept is not."""
    config = done / "pipelines.yaml"
    scores = []
    for mode in ("auto", "disk"):
        settings = [f"work={tmp_path / mode}", "train.window=1", f"runtime.residency={mode}", "eval.overlay=false"]
        code, printed = glpose_stage(config, "run", *(word for own in settings for word in ("--set", own)))
        assert code == 0, printed
        assert "in windows of at most 1 proposals" in printed
        latest = tmp_path / mode / "train" / "latest" / "glpose" / "heads.safetensors"
        scores.append(latest.read_bytes())
    assert scores[0] == scores[1]
    code, printed = glpose_stage(config, "train", "--set", f"work={tmp_path / 'auto'}", "--plan")
    assert "train.window: 1 -> null" in printed.replace("None", "null"), printed


def test_heads_of_fewer_local_frames_do_not_load_the_others(done: Path) -> None:
    split = open_split(store.open(done / "work"), "train", 0, (64, 48), 1.25, CPU)
    assert split.offsets == () and split.held is not None and split.held.local is None


# --------------------------------------------------------------------------------------------------------------- views
def test_each_sample_is_trained_on_a_view_drawn_for_the_epoch(tmp_path: Path) -> None:
    """Of a real store with augmented views: maps, points and weights are of one and the same view."""
    write_dataset(tmp_path / "data")
    config, settings = write_pipeline(tmp_path), ["extract.views=3", "train.augment=views", "train.epochs=2"]
    chosen = [word for own in settings for word in ("--set", own)]
    for verb in ("detect", "extract", "index"):
        code, printed = glpose_stage(config, verb, *chosen)
        assert code == 0, printed
    own = context(config, *settings)
    training = train_stage.prepare(own)
    examples, options = training.examples, own.config.train
    split, opened = examples.split, store.open(tmp_path / "work")
    assert examples.views == 3 and split.residency.needed > 2.9 * len(split) * 3 * 8 * 16 * 12
    drawn = []
    heads = {"own": own.config.train.heads}
    for portion in portions(examples, heads, options, own.config.index, 4, {1: 4, 2: 4}):
        drawn.append(portion.views.tolist())
        rows = np.concatenate(portion.batches)
        batch = make_batch(examples, portion, rows, False, options, (0,))
        for place, row in enumerate(rows):
            at, view = split.table.iloc[row], int(portion.views[row])
            features = opened.features(at["video"])
            number = int(at["proposal"])
            key = torch.from_numpy(features.key([number], [view])[0, 0])
            torch.testing.assert_close(batch.inputs.key[place], key)
            torch.testing.assert_close(
                batch.inputs.local[place], torch.from_numpy(features.local([number], [view])[0, 0])
            )
            stored = features.affine([number])
            assert stored is not None
            joints, affine = at["keypoints"], stored[0, view]
            points = (joints[:, :2] @ affine[:, :2].T + affine[:, 2]) / 4
            if np.linalg.det(affine[:, :2]) < 0:
                joints, points = joints[POSETRACK.flip_order], points[POSETRACK.flip_order]
            inside = ((points >= 0) & (points < [12, 16])).all(axis=1) & (joints[:, 2] > 0)
            np.testing.assert_array_equal(batch.weight[place] > 0, inside)
            np.testing.assert_allclose(batch.points[place][inside], points[inside], atol=1e-4)
        references, similarity = portion.references
        assert torch.isfinite(similarity[:, 0]).all()
        held = portion.window.features.key
        clean = held.take(references[:, 0])
        assert torch.equal(batch.inputs.references[:, 0], clean[np.searchsorted(portion.window.rows, rows)])
    assert len(drawn) == 2 and drawn[0] != drawn[1] and {0, 1, 2} == set(drawn[0]) | set(drawn[1])
    assert glpose_stage(config, "train", *chosen)[0] == 0


def test_views_must_be_stored_to_be_trained_on(tmp_path: Path) -> None:
    code, printed = glpose_stage(write_pipeline(tmp_path), "config", "--set", "train.augment=views")
    assert code == 2 and "train.augment: views needs some in the store" in printed
