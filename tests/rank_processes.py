"""One of several processes that train together: `python rank_processes.py OUT MODE`, in torchrun's environment."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from training_problem import HEADS, INDEX, JOINT_SET, drawn, in_windows, options, problem

from glpose.batches import make_batch, portions
from glpose.data.windows import SplitFeatures
from glpose.examples import Examples, make_examples
from glpose.options import TrainOptions
from glpose.ranks import Ranks, join_ranks, leave_ranks
from glpose.training import new_trainee, train_heads, train_step
from glpose.training_log import Progress

VIDEOS = {"a": 4, "b": 4, "c": 2, "d": 2}
OWN = options(batch_size=8, epochs=4)


def part(split: SplitFeatures, videos: list[str]) -> SplitFeatures:
    """Some videos of a split, as a process that has only these loads them."""
    rows = np.concatenate([np.arange(*split.spans[video]) for video in videos])
    window = in_windows(split, 1, "disk").window(videos)
    return replace(
        split, table=window.features.table, embedding=split.embedding[rows], regions=split.regions[rows],
        held=window.features,
    )  # fmt: skip


def share(ranks: Ranks) -> Examples:
    """Examples of this process."""
    whole = problem(VIDEOS)
    split = part(whole, ranks.share({video: stop - start for video, (start, stop) in whole.spans.items()}))
    return make_examples(split, drawn(split), JOINT_SET, OWN)


def gradient(examples: Examples, ranks: Ranks, rows: np.ndarray, own: TrainOptions = OWN) -> list[torch.Tensor]:
    """Gradients of one step on these rows, with batch norm as in evaluation."""
    trainee = new_trainee(examples, HEADS, own, ranks)
    trainee.trained.model.eval()
    (portion,) = portions(examples, {"only": HEADS}, own.model_copy(update={"redraw_pool": False}), INDEX, 99, {1: 1})
    train_step(trainee, make_batch(examples, portion, rows, False, own, (0,)), 0.0, own, ranks)
    return [parameter.grad.clone() for parameter in trainee.trained.model.parameters() if parameter.grad is not None]


class Interrupted(Exception):
    """Whatever ends a training."""


def stop(progress: Progress) -> None:
    """Interrupt after the second epoch."""
    if progress.epoch == 2 and progress.logs is not None:
        raise Interrupted


def ignore(progress: Progress) -> None:
    """Nobody watches."""


def main(out: str, mode: str) -> None:
    """Write what this process has come to."""
    ranks = join_ranks()
    torch.set_num_threads(1)
    examples = share(ranks)
    if mode == "gradient":  # of batches of different sizes
        rows = np.arange(5 + 3 * ranks.number)
        names = examples.split.table.iloc[rows][["video", "proposal"]].to_numpy().tolist()
        torch.save({"gradient": gradient(examples, ranks, rows), "names": names}, f"{out}.{ranks.number}")
    else:
        state = None
        if mode == "resumed":
            state = Path(f"{out}.state")
            with suppress(Interrupted):
                train_heads(examples, {"only": HEADS}, OWN, INDEX, stop, state=state, ranks=ranks)
            ranks.most(0)  # the first has written what the others go on from
            assert torch.load(state, weights_only=True)["epoch"] == 2
        trained = train_heads(examples, {"only": HEADS}, OWN, INDEX, ignore, state=state, ranks=ranks)["only"]
        losses = [line.loss for line in trained.log]
        torch.save({"model": trained.model.state_dict(), "losses": losses}, f"{out}.{ranks.number}")
    leave_ranks()


if __name__ == "__main__":
    main(*sys.argv[1:])
