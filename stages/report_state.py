"""What the sections of the report ask of a pipeline: which stages are done, and what eval has found."""

from __future__ import annotations

from datetime import UTC, datetime

from glpose.report.page import LeftOut
from stages.evaluate import UNIT
from stages.stage import Context
from stages.status import Found, look_at_all
from stages.tables import Evaluated, evaluated
from store.attempts import started
from store.errors import GLPoseError
from store.folder import Commit
from store.places import Place


def states(context: Context) -> dict[str, Found]:
    """What each stage has, looked at once for a report."""
    return context.once("report states", lambda: look_at_all(context))


def finished(context: Context, stage: str) -> dict[str, Commit]:
    """Commits of what a stage has made, as configured. LeftOut, saying why, where nothing is."""
    found = states(context).get(stage)
    if found is None or not found.done:
        raise LeftOut(why_not(context, stage))
    return {unit: found.counted[unit] for unit in found.done}


def why_not(context: Context, stage: str) -> str:
    """Why a stage has nothing that is done, in a line."""
    found = states(context).get(stage)
    if found is None:
        return f"{stage} is no part of this pipeline"
    reasons = [found.broken, *found.changes[:1], found.waits, *found.damaged.values()]
    reasons += [*found.stale.values(), *found.missing.values()]
    reason = next(filter(None, reasons), "")
    verb = "run" if stage in ("detect", "extract", "index", "train", "eval") else stage.removesuffix("_eval")
    told = f" ({' '.join(reason.split())})" if reason else ""
    return f"{stage} is not finished as configured{told}: glpose-stage {verb} -p {context.config.name}"


def results(context: Context) -> Evaluated:
    """What eval has found, as configured. LeftOut where it has not finished."""

    def look() -> Evaluated | LeftOut:
        try:
            finished(context, "eval")
            return evaluated(context.config)
        except LeftOut as reason:
            return reason
        except GLPoseError as error:
            return LeftOut(str(error).splitlines()[0])

    found = context.once("report results", look)
    if isinstance(found, LeftOut):
        raise found
    return found


def results_folder(context: Context) -> Place:
    """Folder of eval's results. LeftOut as of `results`."""
    results(context)
    return context.output("eval", UNIT)


def made_at(commit: Commit) -> str:
    """The day on which an attempt began, such as 2025-11-26, UTC; "" where its name does not say."""
    moment = started(commit.attempt)
    return f"{datetime.fromtimestamp(moment / 1e9, UTC):%Y-%m-%d}" if moment else ""
