"""Making one unit of a stage: the same in the process of the command and in a worker of a cluster."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stages.console import Tally
from stages.stage import Context, Stage
from store.errors import AlreadyCommitted, DiskFull, GLPoseError
from store.folder import Commit
from store.record import Record


@dataclass(frozen=True)
class Task:
    """A unit to make. stale: the commit that the new one takes the place of; None where the unit has none."""

    unit: str
    stale: Commit | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    status: made; kept, where another run was first; failed, the others go on; disk full or unfit, nothing can go on.
    line: what to tell, or the reason. people: proposals in what was made.
    """

    unit: str
    status: Literal["made", "kept", "failed", "disk full", "unfit"]
    line: str = ""
    people: int = 0


def make_unit(stage: Stage, context: Context, shared: Any, record: Record, task: Task) -> Outcome:
    """Make one unit and publish it. Errors that are not GLPoseErrors pass."""
    unit, folder = task.unit, context.folder(stage.name)
    try:
        if task.stale is None and folder.is_finished(record, unit):  # looked at again: units take long
            return Outcome(unit, "kept", f"{unit!r} of {stage.name} was finished by another run meanwhile")
        inputs = stage.inputs(context, unit)
        with folder.writing(record, unit, inputs, replace=task.stale) as attempt:
            line = stage.make(context, shared, unit, attempt)
    except AlreadyCommitted as other:
        return Outcome(unit, "kept", str(other))
    except DiskFull as error:
        return Outcome(unit, "disk full", str(error))
    except GLPoseError as error:
        return Outcome(unit, "failed", str(error))
    return Outcome(unit, "made", line, int(attempt.meta.get("proposals", 0)))


def make_here(
    stage: Stage, context: Context, record: Record, tasks: Sequence[Task], tally: Tally
) -> Generator[Outcome]:
    """Make units in this process, one after the other."""
    context = context.watched(tally)
    shared = stage.prepare(context)
    for task in tasks:
        tally.begin(task.unit)
        yield make_unit(stage, context, shared, record, task)
