"""train by several processes that torchrun has started: one writes, the others follow."""

from __future__ import annotations

from rich.console import Console

from glpose.ranks import join_ranks, leave_ranks
from stages.run import run_stages
from stages.stage import Context
from stages.train import STAGE, follow


def train_together(context: Context, console: Console, *, force: bool) -> None:
    """Run train in step with the other processes.

    Where one of them fails, it ends with its error, and torchrun ends the others.
    """
    ranks = join_ranks()
    if ranks.number:
        follow(context)
    else:
        run_stages([STAGE], context, console, force=force)
        ranks.from_first([])  # there is nothing more to train
    leave_ranks()
