"""ablate, the command: Table 4's rows trained and scored, then the table and its plot from all that is finished."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console

from glpose.tables.ablation import ablation_table, curve
from glpose.tables.figures import Figures, figures
from glpose.tables.plot import Curve, plot_curves
from glpose.tables.table import Table
from stages import ablate_eval
from stages.ablate import all_rows, split_unit
from stages.ablate_eval import SCORES
from stages.config import PipelineConfig
from stages.console import say
from stages.run import STAGES, UnitsFailed, expected_record, run_stage
from stages.stage import Context
from stages.status import plan_lines
from stages.table_files import about, comparison_notes, table_folder
from store.errors import ConfigError, NotCommitted
from store.folder import Commit
from store.places import read_json, writing_file

NAMES = ("ablate", "ablate_eval")
AXES = {"k": "local frames on each side, k", "n": "non-local references, n"}


@dataclass
class Finished:
    """Scores of finished rows, training -> seed -> figures. stale: how many are left out, as their inputs changed."""

    scores: dict[str, dict[int, Figures]] = field(default_factory=dict)
    metric: str = ""
    videos: int = 0
    stale: int = 0


def ablate(context: Context, console: Console, *, force: bool = False) -> None:
    """Make what is missing of the rows and seeds that are asked for; print and save the table of all that is finished.

    Rows that fail do not keep the others from being scored. UnitsFailed, at the end, if any has; otherwise errors as of
    `run_stage`.
    """
    _check(context.config)
    failed: UnitsFailed | None = None
    for name in NAMES:
        try:
            run_stage(STAGES[name], Context(context.config), console, force=force)
        except UnitsFailed as error:
            failed = failed or error  # the first: what was not trained cannot be scored
    for line in write_ablation(Context(context.config)):
        say(console, line)
    if failed is not None:
        raise failed


def plan(context: Context) -> list[str]:
    """What would run, without running it."""
    _check(context.config)
    return plan_lines([STAGES[name] for name in NAMES], context)


def finished_scores(context: Context) -> Finished:
    """Scores of all finished rows of the configuration, whether asked for now or before."""
    folder, record = context.folder("ablate_eval"), expected_record(STAGES["ablate_eval"], context.config)
    trainings = {row.training for row in all_rows(context.config)}
    found = Finished()
    for unit, commit in sorted(folder.commits(record).items()):
        training, seed = split_unit(unit)
        if training not in trainings:
            continue  # of a k or n that ablate.k or ablate.n no longer names
        if not _is_current(context, unit, commit):
            found.stale += 1
            continue
        found.scores.setdefault(training, {})[seed] = figures(read_json(folder.attempt_path(commit) / SCORES))
        found.metric, found.videos = commit.meta["metric"], commit.meta["videos"]
    return found


def ablation_of(context: Context, found: Finished) -> tuple[Table, list[Curve]]:
    """The table of finished rows, of which there are some, and their averages against k and n."""
    config, rows, notes = context.config, all_rows(context.config), _stale_notes(found)
    if config.data.kind == "posetrack17":
        notes += comparison_notes(config, found.videos)
    kind, title = config.data.kind, f"Table 4, ablation: {found.metric} on the eval split, percent"
    table = ablation_table(rows, found.scores, kind, title, about(config, found.videos), config.note, notes)
    curves = [Curve(letter, label, *curve(rows, found.scores, letter, kind)) for letter, label in AXES.items()]
    return table, curves


def write_ablation(context: Context) -> list[str]:
    """Write the table of all finished rows, and the plot of the average against k and n; the table, and where it is."""
    found = finished_scores(context)
    if not found.scores:
        return [*_stale_notes(found), "no row is finished"]
    table, curves = ablation_of(context, found)
    folder = table_folder(context.config)
    written = table.write(folder)
    if any(panel.points for panel in curves):
        name = f"{table.name}.png"
        with writing_file(folder / name) as path:
            plot_curves(path, curves, found.metric, table.heading())
        written.append(name)
    return [table.text(), f"  {', '.join(written)} in {folder}"]


def _stale_notes(found: Finished) -> list[str]:
    if not found.stale:
        return []
    return [f"{found.stale} trainings are left out: what they were made from has changed since; run them again"]


def _check(config: PipelineConfig) -> None:
    """ConfigError for what cannot be scored, before hours of training."""
    if config.eval.k is not None or config.eval.n is not None:
        raise ConfigError("rows are scored with the k and n that they are trained with: leave eval.k and eval.n null")
    expected_record(STAGES["ablate_eval"], config)


def _is_current(context: Context, unit: str, commit: Commit) -> bool:
    """Whether a row was scored from what there is now."""
    try:
        return commit.inputs == ablate_eval.inputs(context, unit)
    except NotCommitted:  # its heads, or features
        return False
