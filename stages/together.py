"""train by several processes that torchrun has started: one writes, the others follow."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console

from glpose.ranks import join_ranks, leave_ranks
from stages.run import run_stages
from stages.stage import Context, Stage
from stages.train import STAGE, follow
from store.errors import ConfigError


def run_together(stages: Sequence[Stage], context: Context, console: Console, *, force: bool) -> None:
    """Run train in step with the other processes. ConfigError for any other stage.

    Where one of them fails, it ends with its error, and torchrun ends the others.
    """
    if list(stages) != [STAGE]:
        refuse_torchrun()
    ranks = join_ranks()
    if ranks.number:
        follow(context)
    else:
        run_stages(stages, context, console, force=force)
        ranks.from_first([])  # there is nothing more to train
    leave_ranks()


def refuse_torchrun() -> None:
    """ConfigError where torchrun has started this process: it is not for whoever calls this."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("torchrun is for train alone: run the other commands without it (docs/training.md)")
