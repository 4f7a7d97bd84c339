"""status and --plan: what stages have of what a run asks for, and what it would make. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from rich.table import Table

from stages.console import size_words, text_lines
from stages.run import (
    ASIDE,
    NAMED,
    STAGES,
    check_before,
    check_owner,
    compare,
    departed,
    departed_words,
    expected_record,
    stages_of,
)
from stages.stage import Context, Stage
from store.attempts import started
from store.errors import CorruptData, NotCommitted, RecordMismatch
from store.folder import Commit, StageFolder
from store.record import Record, difference

STATES = ("done", "missing", "stale", "damaged")  # of Found
WIDEST = 120  # columns of the table, which takes about 75


@dataclass
class Found:
    """What a stage has of the units that this run asks for; each of them is in one of the four.

    done: as configured, of inputs as they are. stale: unit -> why what there is of it is not that. missing: unit ->
    why, "" for what was simply not made yet. damaged: unit -> what is wrong with its commit.
    units: None before render has made the videos. counted: commits of what is done or stale. changes: lines on how the
    record in force differs. unreadable: units whose source cannot be used. waits: why a stage before keeps this one
    from beginning. broken: what is wrong with the record in force. departed: finished units that the data set has no
    longer.
    """

    units: list[str] | None
    done: list[str] = field(default_factory=list)
    stale: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    counted: dict[str, Commit] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    waits: str = ""
    broken: str = ""
    departed: list[str] = field(default_factory=list)

    @property
    def todo(self) -> list[str]:
        """Units that a run would make, in the stage's order."""
        return [unit for unit in self.units or [] if unit in self.missing or unit in self.stale]


def status(context: Context) -> list[str]:
    """Lines: a table of the pipeline's stages, why what is not done is not, and what the next `run` would make.

    Files are not read, that is `verify`, and missing videos not opened. StoreError for a work folder of others.
    """
    check_owner(context)
    stages, found, config = stages_of(context), look_at_all(context), context.config
    lines = [f"{config.name} in {config.work}", "", *_table(found)]
    if reasons := [line for name, stage in found.items() for line in _reasons(name, stage)]:
        lines += ["", *reasons]
    if any(stage.damaged or stage.broken for stage in found.values()):
        lines += ["", f"glpose-stage verify -p {config.name} says what is damaged, --repair has the next run mend it"]
    if any(stage.departed for stage in found.values()):
        lines += ["", f"glpose-stage verify -p {config.name} --prune removes what is not of the data set"]
    return [*lines, "", "the next run:", *_forecast(stages, context, found)]


def plan_lines(stages: Sequence[Stage], context: Context) -> list[str]:
    """What a run of these stages would make, a line each; missing videos are opened, to tell which cannot be read."""
    check_owner(context)
    return _forecast(stages, context, {stage.name: look_at(stage, context, look=True) for stage in stages})


def look_at_all(context: Context) -> dict[str, Found]:
    """What each stage of a pipeline has, and of those made aside the ones that were begun, in the order of `STAGES`."""
    context = _with_known_lengths(context)
    names = [stage.name for stage in stages_of(context)]
    names += [name for name in ASIDE if context.folder(name).path.is_dir()]
    return {name: look_at(_as_made(STAGES[name], context), context) for name in STAGES if name in names}


def look_at(stage: Stage, context: Context, *, look: bool = False) -> Found:
    """What a stage has. look: open missing units too, to tell which of them cannot be made."""
    record, folder = expected_record(stage, context.config), context.folder(stage.name)
    in_force, broken = _record_in_force(folder)
    commits, damaged = _commits(folder, record)
    others = {} if in_force is None or in_force == record else _commits(folder, in_force)[0]
    changes = difference(in_force, record) if in_force is not None and others else []
    try:
        units = stage.units(context, False)
    except NotCommitted as error:
        return Found(None, changes=changes, waits=_first_line(error), broken=broken)
    found = Found(units, changes=changes, broken=broken, departed=departed(stage, context, others or commits))
    found.damaged = {unit: damaged[unit] for unit in units if unit in damaged}
    try:
        check_before(stage, context, record)
        compared = compare(stage, context, record, in_force, commits, look=look)
        found.done = [unit for unit in compared.done if unit not in damaged]
        unusable, inputs_changed = compared.broken, set(compared.stale)
    except (NotCommitted, RecordMismatch, CorruptData) as error:
        found.waits = _first_line(error)
        unusable, inputs_changed = {}, set()
    done = set(found.done)
    before = cache(lambda: {name: _in_force(context, name) for name in stage.after(context.config)})
    for unit in units:
        if unit in found.damaged or unit in done:
            pass
        elif unit in commits:
            why = _why_stale(stage, before(), unit, commits[unit]) if unit in inputs_changed else found.waits
            found.stale[unit] = unusable.get(unit, why)
        elif unit in others:
            found.stale[unit] = "made with other parameters"
        else:
            found.missing[unit] = unusable.get(unit, "") or _begun(folder, unit)
    found.unreadable = [unit for unit in units if unit in unusable]
    found.counted = {unit: commits.get(unit) or others[unit] for unit in units if unit in done or unit in found.stale}
    return found


def _as_made(stage: Stage, context: Context) -> Stage:
    """Of stages whose units are rows, one of those that were ever made: no other rows are asked for here.

    Of crops none, where no video has a train split any more.
    """
    if stage.name not in ASIDE:
        return stage
    if stage.by_video:
        none = not any("train" in ref.ranges for ref in context.all_videos)
        return replace(stage, units=lambda context, everything: []) if none else stage
    folder, record = context.folder(stage.name), expected_record(stage, context.config)
    records = [record] if (in_force := _record_in_force(folder)[0]) is None else [record, in_force]
    made = list(dict.fromkeys(unit for known in records for unit in folder.committed(known)))
    return replace(stage, units=lambda context, everything: made)


def _record_in_force(folder: StageFolder) -> tuple[Record | None, str]:
    """The record in force, and what is wrong with it."""
    try:
        return folder.record_in_force(), ""
    except CorruptData as error:
        return None, str(error)


def _commits(folder: StageFolder, record: Record) -> tuple[dict[str, Commit], dict[str, str]]:
    """The sound commits of a record; of the others, what is wrong. A commit whose files are all gone is damaged."""
    damaged: dict[str, str] = {}
    try:
        commits = folder.commits(record)
    except CorruptData:  # one of them; which one?
        commits = {}
        for unit in folder.committed(record):
            try:
                commits[unit] = folder.commit_of(record, unit)
            except CorruptData as error:
                damaged[unit] = _first_line(error)
    for unit, commit in list(commits.items()):
        path = folder.attempt_path(commit)
        if isinstance(path, Path) and not path.is_dir():  # in S3 that would be a request each
            damaged[unit] = f"{path} is missing"
            del commits[unit]
    return commits, damaged


def _in_force(context: Context, name: str) -> dict[str, Commit]:
    try:
        return context.commits(name)
    except CorruptData:
        return {}


def _why_stale(stage: Stage, before: Mapping[str, Mapping[str, Commit]], unit: str, commit: Commit) -> str:
    """Which inputs have changed, as far as attempts' times tell."""
    own = stage.by_video
    newer = [
        name
        for name, commits in before.items()
        if any(
            started(other.attempt) > started(commit.attempt)
            for video, other in commits.items()
            if video == unit or not own
        )
    ]
    if newer:
        return f"{_listed(newer, 'and')} made anew since"
    if stage.name in ("detect", "extract", "crops"):
        return "its frames, annotation or splits have changed"
    return "videos of the split, or their annotations, have changed"


def _begun(folder: StageFolder, unit: str) -> str:
    """What there is of a unit that has no commit."""
    state = folder.state_path(unit)
    if state is not None and state.exists():
        return "begun; goes on after its last whole epoch"
    if isinstance(folder.path, Path) and any((folder.path / "data" / unit).glob("*.writing")):
        return "being written, or left by a run that was killed"
    return ""


def _with_known_lengths(context: Context) -> Context:
    """The same run with the lengths of video files as detect has counted them: to count them is to decode them all.

    A file of another size, or another beginning, is seen all the same.
    """
    frames = {unit: commit.meta.get("frames") for unit, commit in _in_force(context, "detect").items()}
    if not frames:
        return context
    return context.of(tuple(replace(ref, length=frames.get(ref.name)) for ref in context.all_videos))


# ------------------------------------------------------------------------------------------------------- in words
def _table(found: Mapping[str, Found]) -> list[str]:
    shown = Table(box=None, pad_edge=False)
    shown.add_column("stage")
    for name in ("units", *STATES, "bytes", "time"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, stage in found.items():
        counts = [getattr(stage, state) for state in STATES]
        units = "?" if stage.units is None else str(len(stage.units))
        size = sum(commit.bytes for commit in stage.counted.values())
        shown.add_row(name, units, *(str(len(units)) for units in counts), size_words(size), time_words([stage]))
    size = sum(commit.bytes for stage in found.values() for commit in stage.counted.values())
    shown.add_row("total", *([""] * (1 + len(STATES))), size_words(size), time_words(list(found.values())))
    return text_lines(shown, WIDEST)


def time_words(stages: Sequence[Found]) -> str:
    """What the units of stages took together, "-" where none of them says."""
    commits = [commit for stage in stages for commit in stage.counted.values()]
    known = [commit.seconds for commit in commits if commit.seconds is not None]
    if not known:
        return "-"
    if sum(known) < 60:
        return f"{sum(known):.1f} s"
    hours, minutes = divmod(round(sum(known) / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _reasons(name: str, found: Found) -> list[str]:
    """A line for each reason why units of a stage are not done."""
    lines = [f"{name:8} {found.broken}"] if found.broken else []
    if found.units is None:
        return [*lines, f"{name:8} {found.waits}"]
    for state, units in (("stale", found.stale), ("missing", found.missing), ("damaged", found.damaged)):
        for reason in dict.fromkeys(filter(None, units.values())):
            whose = [unit for unit, why in units.items() if why == reason]
            told = f"{reason} ({'; '.join(found.changes)})" if reason == "made with other parameters" else reason
            lines.append(f"{name:8} {len(whose)} {state}: {told}: {_names(whose)}")
    return [*lines, f"{name:8} {departed_words(found.departed)}"] if found.departed else lines


def _names(units: Sequence[str]) -> str:
    return ", ".join(units[:NAMED]) + (" ..." if len(units) > NAMED else "")


def _forecast(stages: Sequence[Stage], context: Context, found: Mapping[str, Found]) -> list[str]:
    """What a run of these stages would make, a line each, in their order."""
    lines: list[str] = []
    touched: dict[str, set[str]] = {}  # units that may come out otherwise, by stage
    for stage in stages:
        own = found[stage.name]
        first = [name for name in stage.after(context.config) if touched.get(name)]
        ahead = set().union(*(touched[name] for name in first))
        line, again = _stage_line(stage, own, first, ahead, context)
        touched[stage.name] = {*own.todo, *again} if own.units is not None else ahead
        lines.append(f"{stage.name:8} {line}")
    return lines


def _stage_line(
    stage: Stage, found: Found, first: Sequence[str], ahead: set[str], context: Context
) -> tuple[str, list[str]]:
    """What a run would make of a stage, in words, and the units that it may have to make again.

    first: stages that are to make something before. ahead: the units of theirs.
    """
    after = f" after {_listed(first, 'and')}" if first else ""
    if found.broken:
        return f"stops: {_first_line(found.broken)}", []
    if found.units is None:
        return f"all to do{after}" if first else f"waits: {found.waits}", []
    own = stage.by_video and not (stage.name == "index" and context.config.index.scope == "dataset")
    again = [unit for unit in found.done if unit in ahead or (ahead and not own)]
    waiting = {unit for unit in found.unreadable if unit in ahead or (ahead and not own)}
    unreadable = [unit for unit in found.unreadable if unit not in waiting]
    todo = [unit for unit in found.todo if unit not in unreadable]
    if found.waits and not first and not found.changes:
        return f"waits: {found.waits}", again
    inputs_changed = 0 if found.changes else sum(unit in found.stale for unit in todo)
    return (
        f"{len(found.done)} done, {len(todo)} to do{after if todo else ''}"
        + (f", {inputs_changed} from changed inputs" if inputs_changed else "")
        + (f", {len(unreadable)} cannot be read ({', '.join(unreadable)})" if unreadable else "")
        + (f", {len(found.damaged)} damaged ({_names(list(found.damaged))})" if found.damaged else "")
        + (f", made with other parameters ({'; '.join(found.changes)}): needs --force" if found.changes else "")
        + (f": {_names(todo)}" if todo else "")
        + (f"; again, if {_listed(first, 'or')} gives other results: {_names(again)}" if again else ""),
        again,
    )


def _listed(names: Sequence[str], word: str) -> str:
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else last


def _first_line(error: Exception | str) -> str:
    return str(error).splitlines()[0]
