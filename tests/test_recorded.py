"""Recorded steps of a training, on a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_problem import HEADS, INDEX, JOINT_SET, drawn, held, options, problem, trained

from glpose import pretraining, training
from glpose.data.windows import SplitFeatures
from glpose.examples import make_examples
from glpose.keypoints import POSETRACK
from glpose.labelled_people import LabelledPeople
from glpose.options import HeadOptions, PretrainOptions
from glpose.pretraining import new_network, pretrain
from glpose.recorded import EAGER, Recorded
from glpose.rendered_frames import rendered_frames, rendered_people
from glpose.training import train_heads
from glpose.training_log import Progress

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: steps on a CPU are not recorded")
VIDEOS = {"a": 12, "b": 9}  # 42 people: five batches of 8 and one of 2 an epoch


def on_gpu(split: SplitFeatures) -> SplitFeatures:
    """The split with its features in a GPU's memory."""
    device = torch.device("cuda", torch.cuda.current_device())
    return replace(split, device=device, held=held(split).span(0, len(split), device))


@pytest.mark.parametrize("heads", [HEADS, HEADS.model_copy(update={"per_channel": True, "temperature": 10.0})])
@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}, {"redraw_pool": False}])
def test_a_recorded_training_learns_the_same(
    heads: HeadOptions, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that runs step by step, with a rate that drops; last batches, which are smaller, are not recorded."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    split, made = on_gpu(problem(VIDEOS)), []

    def recorded(function: Any, device: torch.device) -> Recorded:
        made.append(Recorded(function, device))
        return made[-1]

    recipe = {"epochs": 4, "milestones": (2,), "lr": 0.002, **changes}
    monkeypatch.setattr(training, "Recorded", recorded)
    model, losses = trained(split, heads, **recipe)
    assert made[0].replays == 4 * 5 - EAGER
    monkeypatch.setattr(training, "Recorded", lambda function, device: function)
    plain, plain_losses = trained(split, heads, **recipe)
    assert losses == pytest.approx(plain_losses, rel=1e-3) and losses[-1] < losses[0]
    for (name, own), other in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-2, atol=1e-3, msg=name)


def test_steps_that_must_wait_for_the_device_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def recorded(function: Any, device: torch.device) -> Recorded:
        raise AssertionError("recorded")

    monkeypatch.setattr(training, "Recorded", recorded)
    split = on_gpu(problem(VIDEOS))
    _, losses = trained(split, augment="warp")
    assert losses[-1] < losses[0]
    with pytest.raises(AssertionError, match="recorded"):
        trained(split)


def test_a_recorded_training_goes_on_from_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    split, own = on_gpu(problem(VIDEOS)), options(epochs=4, lr=0.002)
    examples = make_examples(split, drawn(split), JOINT_SET, own)

    class Interrupted(Exception):
        """Whatever ends a training."""

    def stop(progress: Progress) -> None:
        if progress.epoch == 2 and progress.logs is not None:
            raise Interrupted

    whole = train_heads(examples, {"own": HEADS}, own, INDEX, lambda progress: None)["own"]
    with pytest.raises(Interrupted):
        train_heads(examples, {"own": HEADS}, own, INDEX, stop, state=tmp_path / "state")
    resumed = train_heads(examples, {"own": HEADS}, own, INDEX, lambda progress: None, state=tmp_path / "state")["own"]
    assert [line.loss for line in resumed.log] == pytest.approx([line.loss for line in whole.log], rel=1e-3)


def test_a_recorded_pretraining_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    options = PretrainOptions(width=8, crop_size=(64, 48), steps=8, batch_size=8, precision="float32", lr=1e-3)
    people = LabelledPeople(options, rendered_people(rendered_frames("pretrain", 8, 2, lambda drawn: None)), POSETRACK)
    device, losses = torch.device("cuda", torch.cuda.current_device()), {}
    for name in ("recorded", "plain"):
        if name == "plain":
            monkeypatch.setattr(pretraining, "Recorded", lambda function, device: function)
        told = losses[name] = list[float]()
        pretrain(
            options, people, new_network(options, POSETRACK), device, 1,
            lambda step, steps, loss, told=told: told.append(loss), tmp_path / name,
        )  # fmt: skip
    assert losses["recorded"] == pytest.approx(losses["plain"], rel=1e-2) and len(losses["plain"]) == 8


def test_what_is_returned_is_not_written_over() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    square = Recorded(lambda factor, x, nothing: factor * x**2 if nothing is None else x, device)
    given = [torch.full((3,), float(value), device=device) for value in range(EAGER + 4)]
    found = [square(2, x, None) for x in given]
    assert [x.tolist() for x in found] == [[2 * value**2] * 3 for value in range(EAGER + 4)]
    assert square(2, torch.ones(5, device=device), None).tolist() == [2.0] * 5
    with pytest.raises(ValueError, match="another object"):
        square(3, given[0], None)
