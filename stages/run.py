"""Running stages: what is done is skipped, what is missing is made, what was made otherwise is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from rich.console import Console

from stages import ablate, ablate_eval, crops, detect, evaluate, evidence, extract, index, render, train
from stages.config import PipelineConfig
from stages.console import Tally, counting, say
from stages.last_layer import heads_layer, pose_layer
from stages.stage import Context, Stage, draws
from stages.train import variants
from stages.unit import Task, make_here
from stages.workers import Workers
from store.errors import (
    CheckpointError,
    ClusterError,
    CorruptData,
    DataError,
    DiskFull,
    GLPoseError,
    NotCommitted,
    RecordMismatch,
    StoreError,
)
from store.folder import Commit
from store.places import check_reachable, publish_if_absent, read_json
from store.record import Record, canonical_json, difference, fingerprint, make_record

STAGES: dict[str, Stage] = {
    "render": render.STAGE,
    "detect": detect.STAGE,
    "extract": extract.STAGE,
    "crops": crops.STAGE,
    "index": index.STAGE,
    "train": train.STAGE,
    "eval": evaluate.STAGE,
    "ablate": ablate.STAGE,
    "ablate_eval": ablate_eval.STAGE,
    "evidence": evidence.STAGE,
}
ASIDE = ("crops", "ablate", "ablate_eval", "evidence")  # made where they are asked for, not with a pipeline

NAMED = 4  # units that a line names
OWNER = "pipeline.json"  # names the pipeline that a work folder belongs to


class UnitsFailed(GLPoseError):
    """Some units of a stage failed; the others are finished and stay."""


@dataclass(frozen=True)
class Survey:
    """What a stage has and what it lacks.

    todo: units to make, missing or stale, in the stage's order. stale: finished, but from inputs that have changed
    since. broken: units whose inputs cannot be read, and why; of missing ones only where they have been looked at.
    """

    record: Record
    in_force: Record | None
    done: dict[str, Commit]
    todo: list[str]
    stale: dict[str, Commit]
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def changes(self) -> list[str]:
        """Lines on how the record in force differs from the one asked for."""
        return [] if self.in_force is None else difference(self.in_force, self.record)


def stages_of(context: Context) -> list[Stage]:
    """The stages that a pipeline needs, in order. Heads and scores are of whole splits: not with --videos.

    Crops are for fine-tuning alone, and made where they are asked for (`extract --crops`).
    """
    kind = context.config.data.kind
    names = [name for name in STAGES if name not in ASIDE and (name != "render" or draws(context.config.data))]
    if kind == "folder" or context.pattern != "*":  # without annotations there is nothing to train on
        names = [name for name in names if name not in ("train", "eval")]
    return [STAGES[name] for name in names]


def expected_record(stage: Stage, config: PipelineConfig) -> Record:
    """The record that this configuration asks for."""
    after = {name: expected_record(STAGES[name], config) for name in stage.after(config)}
    return make_record(stage.name, stage.version, stage.parameters(config), after)


def survey(stage: Stage, context: Context, *, look: bool = True) -> Survey:
    """Compare what a stage has on disk with what this run asks for. NotCommitted where a stage before is not finished,
    RecordMismatch where it was run with other parameters.

    look: open missing units too, to tell which of them cannot be made; a run finds that out as it makes them.
    """
    record = expected_record(stage, context.config)
    check_before(stage, context, record)
    folder = context.folder(stage.name)
    return compare(stage, context, record, folder.record_in_force(), folder.commits(record), look=look)


def check_before(stage: Stage, context: Context, record: Record) -> None:
    """NotCommitted where a stage before is not begun, RecordMismatch where it was run with other parameters."""
    for name in stage.after(context.config):
        before = context.folder(name).record_in_force()
        if before is None:
            raise NotCommitted(
                f"{stage.name} needs {name}, which has not run: glpose-stage {name} -p {context.config.name}"
            )
        if changes := difference(before, record["after"][name]):
            raise RecordMismatch(
                f"{stage.name} needs {name} as configured, but what is in force was made with other parameters:\n  "
                + "\n  ".join(changes)
                + f"\nmake {name} anew for all videos first: glpose-stage {name} -p {context.config.name} --force"
            )


def compare(
    stage: Stage,
    context: Context,
    record: Record,
    in_force: Record | None,
    commits: Mapping[str, Commit],
    *,
    look: bool,
) -> Survey:
    """What of a record's commits is what this run asks for, by the inputs as they are. look: as of `survey`."""
    done: dict[str, Commit] = {}
    stale: dict[str, Commit] = {}
    todo: list[str] = []
    broken: dict[str, str] = {}
    for unit in stage.units(context, False):
        commit = commits.get(unit)
        try:
            inputs = stage.inputs(context, unit) if commit or look else ""
        except (DataError, NotCommitted, CorruptData, CheckpointError) as error:  # must not keep others waiting
            broken[unit] = str(error)
            continue
        if commit is not None and commit.inputs == inputs:
            done[unit] = commit
            continue
        todo.append(unit)
        if commit is not None:
            stale[unit] = commit
    return Survey(record, in_force, done, todo, stale, broken)


def departed(stage: Stage, context: Context, units: Iterable[str]) -> list[str]:
    """Of finished units, those of videos that the data set has no longer, or that `data.*.videos` leaves out."""
    if not stage.by_video:
        return []
    there = {ref.name for ref in context.all_videos}
    return [unit for unit in units if unit not in there]


def departed_words(units: Sequence[str]) -> str:
    """How many such videos there are, and which, in words."""
    count = "1 finished video is" if len(units) == 1 else f"{len(units)} finished videos are"
    return f"{count} not in the data set: {', '.join(units[:NAMED])}{' ...' if len(units) > NAMED else ''}"


def run_stage(
    stage: Stage, context: Context, console: Console, *, workers: Workers | None = None, force: bool = False
) -> None:
    """Make a stage's missing units, on `workers` if there are any. RecordMismatch if it was run with other parameters
    and `force` is not given; UnitsFailed at the end if a unit could not be made.
    """
    claim_folder(context)
    found = survey(stage, context, look=False)
    folder = context.folder(stage.name)
    if found.in_force is not None and found.changes and not (folder.commits(found.in_force) or folder.is_at_work()):
        folder.put_in_force(found.record, expected=found.in_force)  # nothing was ever made with the old one
        found = replace(found, in_force=found.record)
    if found.changes and not force:
        raise RecordMismatch(_refusal(stage.name, context, found.changes))
    folder.begin(found.record)
    _tell(console, stage, found)
    failures = dict(found.broken)
    if found.todo:
        failures |= _make_units(stage, context, found, console, workers)

    commits = folder.commits(found.record)
    everything = stage.units(context, True)
    missing = [unit for unit in everything if unit not in commits]
    if found.changes and missing:
        count = f"{len(everything) - len(missing)} of {len(everything)}"
        say(console, f"  {count} done with the new parameters; the old outputs stay in force until all are")
    elif found.changes and found.in_force is not None:
        folder.put_in_force(found.record, expected=found.in_force)
    if failures:
        lines = [f"  {unit}: {reason}" for unit, reason in sorted(failures.items())]
        total = len(found.todo) + len(found.broken)
        raise UnitsFailed(
            "\n".join([f"{stage.name}: {len(failures)} of {total} failed, the others are finished:", *lines])
        )
    if gone := departed(stage, context, commits):
        way = f"glpose-stage verify -p {context.config.name} --prune removes what was made"
        say(console, f"  {departed_words(gone)}; {way}")
    if not missing or not found.changes:
        folder.link_latest(commits)
        for line in stage.finish(context):
            say(console, line)


def run_stages(stages: Sequence[Stage], context: Context, console: Console, *, force: bool = False) -> None:
    """Run stages in order; the first one with a failed unit is the last.

    CheckpointError before any of it where the backbone has no layer that one of them reads.
    """
    if STAGES["train"] in stages:
        heads_layer(context.config, list(variants(context.config).values()))
    if STAGES["index"] in stages:
        pose_layer(context.config)
    with Workers(context.config, console) as workers:
        for stage in stages:
            if not stage.distributed:
                workers.close()  # they would hold memory, of GPUs too, that training needs
            crew = workers if stage.distributed and context.config.cluster.kind != "none" else None
            # videos are listed anew for every stage: render brings them into being
            run_stage(stage, Context(context.config, context.pattern), console, workers=crew, force=force)


def claim_folder(context: Context) -> None:
    """Mark the work folder as this pipeline's. StoreError if it belongs to another, or holds other people's files."""
    check_owner(context)
    content = canonical_json({"pipeline": context.config.name}) + "\n"
    if not publish_if_absent(context.config.work / OWNER, content):
        check_owner(context)  # another run may have been first


def check_owner(context: Context) -> None:
    """StoreError if the work folder belongs to another pipeline, or holds other people's files."""
    work, name = context.config.work, context.config.name
    check_reachable(work)
    if not work.is_dir():
        return
    if not (work / OWNER).exists():
        # a killed run leaves hidden files, an imported store folders of stages
        if any(not path.name.startswith(".") and path.name not in STAGES for path in work.iterdir()):
            raise StoreError(f"{work} is not empty and not a glpose work folder: choose another with --set work=DIR")
    elif (other := read_json(work / OWNER).get("pipeline")) != name:
        raise StoreError(
            f"{work} holds the outputs of pipeline {other!r}, not {name!r}: choose another folder with --set work=DIR"
        )


def _make_units(
    stage: Stage, context: Context, found: Survey, console: Console, workers: Workers | None
) -> dict[str, str]:
    """Make what is to do; reasons of what failed, by unit."""
    failures: dict[str, str] = {}
    make = workers.make if workers else make_here
    with counting(console) as progress:
        tally = Tally(progress, stage.name, len(found.todo))
        order = _longest_first(stage, context, found.todo) if workers else found.todo
        tasks = [Task(unit, found.stale.get(unit)) for unit in order]
        try:
            with closing(make(stage, context, found.record, tasks, tally)) as outcomes:
                for outcome in outcomes:
                    tally.end(outcome.unit, outcome.people, failed=outcome.status == "failed")
                    if outcome.status == "made" and outcome.line:
                        say(progress.console, f"  {outcome.unit}: {outcome.line}")
                    elif outcome.status == "kept":
                        say(progress.console, f"  {outcome.line}; kept that one")
                    elif outcome.status == "failed":
                        failures[outcome.unit] = outcome.line
                    elif outcome.status == "disk full":
                        raise DiskFull(outcome.line)
                    elif outcome.status == "unfit":
                        raise ClusterError(outcome.line)
        except KeyboardInterrupt:
            begun = len(tally.running)
            say(
                progress.console,
                f"  {tally.done} of {tally.total} done, {begun} had begun, {tally.total - tally.done - begun} had not",
            )
            raise
    return failures


def _longest_first(stage: Stage, context: Context, units: list[str]) -> list[str]:
    """Units in the order to make them: those with most people, or frames, first, as far as a stage before has counted.

    A long video that comes last keeps one worker busy and all others waiting.
    """
    sizes: dict[str, int] = {}
    for name in stage.after(context.config):
        for unit, commit in context.commits(name).items():
            sizes[unit] = commit.meta.get("proposals", commit.meta.get("frames", 0))
    return sorted(units, key=lambda unit: -sizes.get(unit, 0))


def _tell(console: Console, stage: Stage, found: Survey) -> None:
    stale = f" ({len(found.stale)} of them because their inputs changed)" if found.stale else ""
    console.print(
        f"[bold]{stage.name}[/bold] {len(found.done)} done, {len(found.todo)} to do{stale}"
        f"  [dim]{fingerprint(found.record)[:12]}[/dim]",
        highlight=False,
    )
    for line in found.changes:
        say(console, f"  {line}")


def _refusal(stage: str, context: Context, changes: list[str]) -> str:
    lines = "\n  ".join(changes)
    begun = "what was begun with those can go on, or is at work now\n" if context.folder(stage).is_at_work() else ""
    return (
        f"{stage} in {context.config.work} was run with other parameters:\n  {lines}\n{begun}"
        f"--force makes it anew with the new ones (the old outputs stay on disk); --set work=DIR keeps both"
    )
