"""Interrupted trainings go on to the same weights; several variants in one pass; the best epoch; what is logged."""

from __future__ import annotations

import csv
import errno
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy_reference as reference
import pytest
import torch
from small_pipelines import attempts, finish_project, glpose_stage
from training_problem import (
    CHANNELS,
    GRID,
    HEADS,
    INDEX,
    JOINT_SET,
    JOINTS,
    drawn,
    in_windows,
    nobody,
    options,
    problem,
    same,
)

import store
from glpose.data.windows import SplitFeatures
from glpose.examples import Examples, make_examples
from glpose.models.checkpoints import load_heads
from glpose.options import HeadOptions, TrainOptions
from glpose.ranks import Ranks
from glpose.references import head_inputs, in_window
from glpose.training import Trained, train_heads
from glpose.training_log import Progress
from glpose.training_state import save_state
from stages import train as train_stage
from stages.config import load_pipeline
from stages.stage import Context
from store.errors import ConfigError, DiskFull, NotCommitted, StoreError, TrainingError

VARIANTS = {
    "both": HEADS,
    "local": HEADS.model_copy(update={"n": 0}),
    "near": HEADS.model_copy(update={"k": 1, "n": 1, "head": "5x5"}),
    "alone": HEADS.model_copy(update={"k": 0, "n": 0, "enhancement": False}),
    "channels": HEADS.model_copy(update={"per_channel": True}),
}
FIVE = options(epochs=5, milestones=(3,))


class Interrupted(Exception):
    """Whatever ends a process."""


def examples(split: SplitFeatures, own: TrainOptions = FIVE) -> Examples:
    return make_examples(split, drawn(split), JOINT_SET, own)


def train(
    learnt: Examples,
    variants: dict[str, HeadOptions] = VARIANTS,
    own: TrainOptions = FIVE,
    *,
    state: Path | None = None,
    held_out: Examples | None = None,
    stop_after: int = 0,
) -> dict[str, Trained]:
    """Train; stopped in the middle of the epoch after `stop_after`, if given."""

    def report(progress: Progress) -> None:
        if stop_after and progress.epoch == stop_after and progress.logs is not None:
            raise Interrupted

    return train_heads(learnt, variants, own, INDEX, report, held_out=held_out, state=state)


# ------------------------------------------------------------------------------------------------------ several at once
def test_variants_trained_together_are_those_trained_alone() -> None:
    learnt = examples(problem())
    together = train(learnt)
    for name, heads in VARIANTS.items():
        alone = train(learnt, {name: heads})[name]
        assert same(alone.model, together[name].model), name
        assert alone.log == together[name].log


def test_variants_trained_together_in_windows() -> None:
    split = problem({"a": 3, "b": 3, "c": 2})
    learnt = examples(in_windows(split, 8, "disk"))
    together = train(learnt)
    assert same(train(learnt, {"near": VARIANTS["near"]})["near"].model, together["near"].model)


# -------------------------------------------------------------------------------------------------------------- resume
@pytest.mark.parametrize("changes", [{}, {"augment": "warp"}, {"redraw_pool": False}], ids=str)
@pytest.mark.parametrize("window", [None, 8])
def test_an_interrupted_training_gives_the_same_weights(
    tmp_path: Path, window: int | None, changes: dict[str, object]
) -> None:
    own = options(epochs=5, milestones=(3,), **changes)
    split, held_out = problem({"a": 3, "b": 3, "c": 2}), examples(problem({"x": 3}, seed=1))
    learnt = examples(split if window is None else in_windows(split, window, "disk"), own)
    variants = {name: VARIANTS[name] for name in ("both", "alone")}
    whole = train(learnt, variants, own, held_out=held_out)
    state = tmp_path / "some" / "state"
    for stop in (2, 3):
        with pytest.raises(Interrupted):
            train(learnt, variants, own, held_out=held_out, state=state, stop_after=stop)
        assert torch.load(state, weights_only=True)["epoch"] == stop
    resumed = train(learnt, variants, own, held_out=held_out, state=state)
    for name, trained in whole.items():
        again = resumed[name]
        assert same(trained.model, again.model) and trained.log == again.log
        assert trained.best_epoch == again.best_epoch
        assert trained.best is not None and again.best is not None
        assert all(torch.equal(tensor, again.best[key]) for key, tensor in trained.best.items())


def test_a_finished_state_trains_no_more(tmp_path: Path) -> None:
    learnt, state = examples(problem({"a": 4})), tmp_path / "state"
    first = train(learnt, {"both": HEADS}, state=state)["both"]
    again = train(learnt, {"both": HEADS}, state=state, stop_after=5)["both"]  # it would stop if it trained
    assert same(first.model, again.model) and repr(first.log) == repr(again.log)


def test_a_state_of_another_training_is_not_used(tmp_path: Path) -> None:
    learnt, state = examples(problem({"a": 4})), tmp_path / "state"
    train(learnt, {"both": HEADS}, options(seed=9), state=state)
    for variants, own in (({"both": HEADS}, FIVE), ({"other": HEADS}, FIVE), ({"both": VARIANTS["near"]}, FIVE)):
        name = next(iter(variants))
        assert same(train(learnt, variants, own, state=state)[name].model, train(learnt, variants, own)[name].model)


class OneOfTwo(Ranks):
    """The first of two processes, of which the second does the very same."""

    def __init__(self) -> None:
        super().__init__(0, 2)

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """As it is."""
        return model

    def most(self, value: int) -> int:
        """Its own."""
        return value

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Twice its own."""
        return 2 * tensor

    def from_first(self, value: Any) -> Any:
        """Its own."""
        return value


@pytest.mark.parametrize("changed", ["nothing", "index", "features", "layer", "split", "window", "processes"])
def test_a_state_made_under_other_conditions_is_not_used(tmp_path: Path, changed: str) -> None:
    """Heads are trained anew then; where nothing has changed, they are there."""
    torch.manual_seed(0)
    layer, other_layer = torch.nn.Conv2d(CHANNELS, JOINTS, 1), torch.nn.Conv2d(CHANNELS, JOINTS, 1)
    heads, own, state = HEADS.model_copy(update={"prior": "key"}), options(epochs=1), tmp_path / "state"
    split = problem({"a": 4})
    train_heads(examples(split, own), {"a": heads}, own, INDEX, lambda _: None, layer=layer, state=state)
    splits = {
        "features": replace(split, schema=split.schema.model_copy(update={"space": "another"})),
        "split": problem({"b": 4}),
        "window": in_windows(split, 8, "disk"),
    }
    told: list[Progress] = []
    train_heads(
        examples(splits.get(changed, split), own),
        {"a": heads},
        own,
        INDEX.model_copy(update={"exclude_window": 0}) if changed == "index" else INDEX,
        told.append,
        layer=other_layer if changed == "layer" else layer,
        state=state,
        ranks=OneOfTwo() if changed == "processes" else None,
    )
    assert bool(told) == (changed != "nothing")


@pytest.mark.parametrize("content", [b"", b"no state", bytes(1000)])
def test_a_damaged_state_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(StoreError, match=r"state is no whole training state.*delete it to start anew"):
        train(examples(problem({"a": 4})), state=tmp_path / "state")


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt, state = examples(problem({"a": 4})), tmp_path / "state"
    with pytest.raises(Interrupted):
        train(learnt, state=state, stop_after=2)
    before = state.read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DiskFull, match=r"the disk is full while writing .*state"):
            train(learnt, state=state)
    assert state.read_bytes() == before
    assert same(train(learnt, state=state)["both"].model, train(learnt)["both"].model)


# ---------------------------------------------------------------------------------------------------------- best epoch
def test_the_best_epoch_is_that_of_the_held_out_videos(tmp_path: Path) -> None:
    learnt, other = examples(problem()), examples(problem({"x": 4}, seed=1))
    own = options(epochs=8, lr=0.05)
    result = train(learnt, {"both": HEADS}, own, held_out=other)["both"]
    values = [line.validation_pck for line in result.log]
    assert len(values) == 8 and np.isfinite(values).all() and len(set(values)) > 2
    assert result.best_epoch == 1 + int(np.argmax(values))  # the first of several
    shorter = train(learnt, {"both": HEADS}, options(epochs=result.best_epoch, lr=0.05))["both"]
    assert result.best is not None
    assert all(torch.equal(tensor, result.best[key]) for key, tensor in shorter.model.state_dict().items())
    plain = train(learnt, {"both": HEADS}, own)["both"]
    assert plain.best is None and np.isnan(plain.log[0].validation_pck)
    assert same(plain.model, result.model)  # looking changes nothing


def test_loss_and_pck_of_held_out_videos_are_those_of_their_heatmaps() -> None:
    learnt, other = examples(problem({"a": 4})), examples(problem({"x": 4}, seed=1))
    result = train(learnt, {"both": HEADS}, held_out=other)["both"]
    split = other.split
    window = split.window(["x"])
    inputs = head_inputs(window, in_window(split, window, other.fixed), np.arange(len(split)), False)
    with torch.inference_mode():
        heatmaps = result.model(*inputs.of(HEADS)).numpy()
    points, weight = other.points[:, 0], other.weight[:, 0]
    targets = np.stack([reference.targets(*own, GRID, 6.0) for own in zip(points, weight, strict=True)])
    line = result.log[-1]
    assert line.validation_loss == pytest.approx(reference.loss(heatmaps, targets, weight), rel=1e-4)
    peak = heatmaps.reshape(*heatmaps.shape[:2], -1).argmax(axis=-1)
    off = np.stack([peak % GRID[1], peak // GRID[1]], axis=-1) - np.floor(points + 0.5)
    near = ((off / [GRID[1], GRID[0]]) ** 2).sum(axis=-1) < 0.05**2
    assert line.validation_pck == pytest.approx(100 * near[weight > 0].mean(), abs=1e-4)
    assert 0 < line.validation_pck < 100


def test_progress_is_told() -> None:
    told: list[Progress] = []
    learnt = examples(problem())
    train_heads(learnt, {"a": HEADS, "b": HEADS}, FIVE, INDEX, told.append)
    ends = [progress for progress in told if progress.logs is not None]
    assert [progress.epoch for progress in ends] == [1, 2, 3, 4, 5]
    assert [progress.done for progress in ends] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    for progress in ends:
        assert progress.logs is not None and set(progress.logs) == {"a", "b"}
        assert progress.step == progress.steps == 3 and progress.samples_per_second > 0
        assert progress.loss == pytest.approx(np.mean([line.loss for line in progress.logs.values()]))
    assert [progress.logs["a"].lr for progress in ends if progress.logs] == pytest.approx([0.01] * 3 + [0.001] * 2)
    assert ends[-1].pck > ends[0].pck and str(ends[0]).startswith("epoch 1/5, loss ")


# ----------------------------------------------------------------------------------------------------------- the stage
@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project of two training videos."""
    return finish_project(tmp_path_factory.mktemp("project"))


def copied(done: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """Its configuration, and settings that train it anew for three epochs into another folder."""
    work = tmp_path / "work"
    shutil.copytree(done / "work", work, symlinks=True)
    return done / "pipelines.yaml", ["--force", "--set", f"work={work}", "--set", "train.epochs=3"]


def log_of(work: Path, unit: str) -> list[dict[str, str]]:
    text = (work / "train" / "latest" / unit / "log.csv").read_text()
    return list(csv.DictReader(io.StringIO(text)))


def test_the_stage_goes_on_where_it_was(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, settings = copied(done, tmp_path / "whole")
    assert glpose_stage(config, "train", *settings)[0] == 0
    whole = (tmp_path / "whole" / "work" / "train" / "latest" / "glpose" / "heads.safetensors").read_bytes()

    config, settings = copied(done, tmp_path / "cut")
    unfinished = tmp_path / "cut" / "work" / "train" / "unfinished"
    real = train_stage.train_heads

    def cut(*given: Any, **named: Any) -> Any:
        def report(progress: Progress) -> None:
            if progress.epoch == 2:
                raise KeyboardInterrupt

        learnt, units, own, index, _ = given
        return real(learnt, units, own, index, report, **named)

    with monkeypatch.context() as patch:
        patch.setattr(train_stage, "train_heads", cut)
        code, printed = glpose_stage(config, "train", *settings)
    assert code == 130 and "the same command goes on" in printed
    assert [path.name for path in unfinished.iterdir()] == ["glpose.state"]
    code, printed = glpose_stage(config, "train", *settings)
    assert code == 0, printed
    assert not list(unfinished.iterdir())
    assert (tmp_path / "cut" / "work" / "train" / "latest" / "glpose" / "heads.safetensors").read_bytes() == whole
    assert glpose_stage(config, "verify", *settings[1:])[0] == 0
    lines = log_of(tmp_path / "cut" / "work", "glpose")
    assert [line["epoch"] for line in lines] == ["1", "2", "3"] and all(float(line["loss"]) > 0 for line in lines)
    # one of the project that was copied, one of each part of this training
    curves = [path.name for path in (tmp_path / "cut" / "work" / "logs" / "train" / "glpose").iterdir()]
    assert len(curves) == 3 and all(name.startswith("events.out.tfevents") for name in curves)


def test_an_interrupted_training_is_not_lost_to_other_parameters(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, settings = copied(done, tmp_path)
    shutil.rmtree(tmp_path / "work" / "train")  # the first that is ever trained there
    shutil.rmtree(tmp_path / "work" / "eval")
    real = train_stage.train_heads

    def cut(*given: Any, **named: Any) -> Any:
        real(*given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_stage, "train_heads", cut)
        assert glpose_stage(config, "train", *settings)[0] == 130
    state = tmp_path / "work" / "train" / "unfinished" / "glpose.state"
    before = state.read_bytes()
    other = [*settings[1:], "--set", "train.lr=0.5"]
    code, printed = glpose_stage(config, "train", *other)
    assert code == 1 and "train.lr" in printed and "what was begun with those can go on" in printed, printed
    assert state.read_bytes() == before
    assert glpose_stage(config, "train", *settings[1:])[0] == 0
    assert not state.exists()


def test_heads_are_said_to_be_of_the_features_that_were_loaded(done: Path, tmp_path: Path) -> None:
    """Not of those that another run has made anew by the time they are trained."""
    config, settings = copied(done, tmp_path)
    run, later = (Context(load_pipeline(config, "small", settings[2::2])) for _ in range(2))
    shared = train_stage.prepare(run)
    before = train_stage.inputs(run, "glpose")
    folder = run.folder("index")
    record = folder.record_in_force()
    assert record is not None
    for video in shared.examples.split.spans:
        folder.withdraw(record, folder.commit_of(record, video))
    assert train_stage.inputs(run, "glpose") == before
    with pytest.raises(NotCommitted):
        train_stage.inputs(later, "glpose")


def test_the_best_heads_are_evaluated_if_asked(done: Path, tmp_path: Path) -> None:
    config, settings = copied(done, tmp_path)
    work = tmp_path / "work"
    code, printed = glpose_stage(config, "train", *settings, "--set", "train.validation=0.3")
    assert code == 0 and "best on held-out videos after epoch" in printed, printed
    folder = work / "train" / "latest" / "glpose"
    space = store_space(work)
    best, last = (load_heads(folder / name, space=space) for name in ("best.safetensors", "heads.safetensors"))
    epoch = 1 + int(np.argmax([float(line["validation_pck"]) for line in log_of(work, "glpose")]))
    assert f"after epoch {epoch}" in printed and same(best, last) == (epoch == 3)
    chosen = [*settings, "--set", "train.validation=0.3", "--set", "eval.checkpoint=best"]
    code, printed = glpose_stage(config, "eval", *chosen)
    assert code == 0, printed
    code, printed = glpose_stage(config, "eval", *settings, "--set", "eval.checkpoint=best")
    assert code == 2 and "eval.checkpoint: best needs held-out videos" in printed, printed


def store_space(work: Path) -> str:
    opened = store.open(work)
    return opened.features(opened.videos[0]).schema.space


def test_held_out_videos_are_drawn_once_and_leave_some() -> None:
    videos = [f"v{number}" for number in range(40)]
    chosen = train_stage.held_out_videos(videos, 0.25, seed=0)
    assert len(chosen) == 10 and set(chosen) < set(videos) and chosen == sorted(chosen)
    assert chosen == train_stage.held_out_videos(videos[::-1], 0.25, seed=0)
    assert chosen != train_stage.held_out_videos(videos, 0.25, seed=1)
    assert train_stage.held_out_videos(videos, 0.0, seed=0) == []
    assert len(train_stage.held_out_videos(["a", "b"], 0.01, seed=0)) == 1
    with pytest.raises(ConfigError, match="leaves none of 2 training videos"):
        train_stage.held_out_videos(["a", "b"], 0.9, seed=0)


def test_a_loss_that_is_not_finite_keeps_the_last_good_heads(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, settings = copied(done, tmp_path)
    before = attempts(tmp_path / "work", "train")
    real = train_stage.train_heads

    def broken(*given: Any, **named: Any) -> Any:
        def report(progress: Progress) -> None:
            if progress.epoch == 2 and progress.logs:
                raise TrainingError("the loss became nan in epoch 3, step 1")

        learnt, units, own, index, _ = given
        return real(learnt, units, own, index, report, **named)

    monkeypatch.setattr(train_stage, "train_heads", broken)
    code, printed = glpose_stage(config, "train", *settings)
    assert code == 1 and "epoch 3, step 1; the weights after epoch 2 are in" in printed, printed
    kept = load_heads(
        tmp_path / "work" / "train" / "unfinished" / "glpose-epoch-2.safetensors", space=store_space(tmp_path / "work")
    )
    assert kept.options.k == 1
    assert not (tmp_path / "work" / "train" / "unfinished" / "glpose.state").exists()  # it would lead there again
    assert attempts(tmp_path / "work", "train") == before  # what was in force stays


def test_weights_of_another_training_are_not_handed_out(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, settings = copied(done, tmp_path)
    state = tmp_path / "work" / "train" / "unfinished" / "glpose.state"
    state.parent.mkdir(exist_ok=True)
    save_state(state, "another", 1, {"glpose": {"model": {}}})

    def broken(*given: Any, **named: Any) -> Any:
        raise TrainingError("the loss became nan in epoch 1, step 1")

    monkeypatch.setattr(train_stage, "train_heads", broken)
    code, printed = glpose_stage(config, "train", *settings)
    assert code == 1 and "epoch 1, step 1" in printed and "the weights after" not in printed, printed
    assert [path.name for path in state.parent.iterdir()] == ["glpose.state"]


def test_nobody_gets_references_from_nowhere() -> None:
    split = problem({"a": 1})
    none = replace(examples(split), fixed=nobody(split))
    assert len(train(none, {"both": HEADS})["both"].log) == 5
