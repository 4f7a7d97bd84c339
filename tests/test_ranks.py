"""Two processes that train together, over gloo: their gradients and weights against those of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rank_processes
import torch
from small_pipelines import attempts, finish_project, glpose_stage
from training_problem import HEADS, INDEX, JOINT_SET, drawn, problem

from glpose.examples import make_examples
from glpose.ranks import Ranks
from glpose.training import train_heads

TESTS = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(command: list[str], count: int = 2) -> list[str]:
    """Run a command in several processes that torchrun would have started; what each has printed."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env={
                **os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": paths,
                "CUDA_VISIBLE_DEVICES": "",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, "\n".join(printed)
    return printed


def results(out: Path, mode: str) -> list[dict[str, Any]]:
    together([str(TESTS / "rank_processes.py"), str(out), mode])
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(2)]


def test_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    """On the same global batch of 13, 5 in one process and 8 in the other, with batch norm as in evaluation."""
    first, second = results(tmp_path / "out", "gradient")
    split = problem(rank_processes.VIDEOS)
    names = split.table[["video", "proposal"]].to_numpy().tolist()
    rows = np.array([names.index(name) for name in [*first["names"], *second["names"]]])
    assert len(rows) == len(set(rows)) == 13 and {first["names"][0][0], second["names"][0][0]} == {"a", "b"}
    alone = rank_processes.gradient(make_examples(split, drawn(split), JOINT_SET, rank_processes.OWN), Ranks(), rows)
    assert len(alone) == len(first["gradient"]) > 20
    for one, a, b in zip(alone, first["gradient"], second["gradient"], strict=True):
        assert torch.equal(a, b)
        assert (a - one).abs().max() <= 1e-6 * max(1.0, float(one.abs().max()))


def test_training_together_learns_as_one_process_does(tmp_path: Path) -> None:
    """Batch norm sees half the batch in each process, so that weights are close, not equal."""
    first, second = results(tmp_path / "out", "train")
    assert first["losses"] == second["losses"]
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name
    split = problem(rank_processes.VIDEOS)
    examples = make_examples(split, drawn(split), JOINT_SET, rank_processes.OWN)
    alone = train_heads(examples, {"only": HEADS}, rank_processes.OWN, INDEX, lambda progress: None)["only"]
    losses = [line.loss for line in alone.log]
    assert first["losses"][-1] < 0.6 * first["losses"][0]
    assert first["losses"] == pytest.approx(losses, rel=0.25)
    for name, tensor in alone.model.state_dict().items():
        if "running" in name:  # means of the processes', not sums, which grow with every epoch
            assert (first["model"][name] - tensor).norm() < tensor.norm(), name


def test_an_interrupted_training_goes_on_together(tmp_path: Path) -> None:
    """All of them, from the state that the first has written."""
    whole, resumed = (results(tmp_path / mode, mode) for mode in ("train", "resumed"))
    for one, other in zip(whole, resumed, strict=True):
        assert one["losses"] == other["losses"]
        for name, tensor in one["model"].items():
            assert torch.equal(tensor, other["model"][name]), name


def test_shares_are_even_and_whole() -> None:
    rng = np.random.default_rng(0)
    sizes = {f"v{number}": int(size) for number, size in enumerate(rng.integers(1, 100, 60))}
    shares = [Ranks(number, 4).share(sizes) for number in range(4)]
    assert sorted(video for own in shares for video in own) == sorted(sizes)
    loads = [sum(sizes[video] for video in own) for own in shares]
    assert max(loads) - min(loads) < 10
    assert Ranks().share(sizes) == sorted(sizes)


def test_one_process_is_alone() -> None:
    tensor = torch.rand(3)
    model = torch.nn.Linear(2, 2)
    assert Ranks().total(tensor) is tensor and Ranks().most(7) == 7 and Ranks().wrap(model) is model
    assert Ranks().from_first("x") == "x"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project of two training videos."""
    return finish_project(tmp_path_factory.mktemp("project"))


def test_the_stage_trains_in_two_processes(done: Path) -> None:
    command = ["-m", "stages.cli", "train", "-p", "small", "--config", str(done / "pipelines.yaml")]
    settings = ["--set", "train.epochs=2", "--set", "train.seed=5", "--force"]
    before = attempts(done / "work", "train")
    first, second = together([*command, *settings])
    assert "2 done" in first or "heads in" in first, first
    assert second == ""
    after = attempts(done / "work", "train")
    assert set(after) == set(before) and not set(after.values()) & set(before.values())
    code, printed = glpose_stage(done / "pipelines.yaml", "eval", *settings)
    assert code == 0 and "GLPose" in printed, printed


@pytest.mark.parametrize("command", ["extract", "run", "ablate", "tables", "finetune --out x", "pretrain --out x"])
def test_other_commands_are_not_for_several_processes(
    done: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, printed = glpose_stage(done / "pipelines.yaml", *command.split())
    assert code == 2 and "error: torchrun is for train alone" in printed, printed
