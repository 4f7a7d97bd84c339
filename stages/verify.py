"""verify: every finished output of every stage against what its commit says."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import cache

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from stages.console import say
from stages.run import STAGES, check_owner, departed, departed_words
from stages.stage import Context
from store.errors import CorruptData, NotCommitted
from store.folder import Commit
from store.index import gallery_of, made_from
from store.tables import read_table
from store.verify import Splits, Verdict, read_in_force, verify_stage
from store.verify import repair as repair_stage


def verify(
    context: Context, console: Console, *, clean: bool, repair: bool, fast: bool = False, prune: bool = False
) -> None:
    """Read all files of the records in force, and check what is in them.

    clean: remove what killed runs left, where all records are sound. repair: withdraw damaged units, so that the next
    run makes them again. fast: look at sizes only. prune: remove finished videos that the data set has no longer;
    ConfigError where it has none at all, DataError where it is not there. CorruptData if anything is wrong: a line for
    each fault, that names stage, unit and, in features and tables, proposal, view and offset.
    """
    check_owner(context)
    pruned = _prune(context) if prune else {}
    # in the order of the stages: neighbours are held against proposals that are known to be sound
    found = {name: read_in_force(context.folder(name)) for name in STAGES}
    faults: list[str] = []
    verdicts: dict[str, Verdict] = {}
    columns = [
        TextColumn("  {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        total = sum(commit.bytes for stage in found.values() for commit in stage.commits.values())
        task = progress.add_task("verify", total=total)
        for name, stage in found.items():
            if stage.commits:
                progress.update(task, description=f"verify {name}")
            folder = context.folder(name)

            damaged = verdicts["extract"].units if name == "index" else {}
            verdicts[name] = verdict = verify_stage(
                folder,
                stage,
                fast=fast,
                progress=lambda done: progress.advance(task, done),
                splits=_split_reader(context, damaged, stage.commits),
            )
            faults += verdict.lines(name)
            if repair:
                repair_stage(folder, stage, verdict)
            if stage.record is None and not stage.faults:
                continue
            swept = ""
            if clean and read_in_force(folder).faults:
                swept = ", nothing removed, as its records are damaged"
            elif clean and (removed := folder.clean()):
                swept = f", {len(removed)} left by killed runs removed"
            size = sum(commit.bytes for commit in stage.commits.values())
            lines = [f"{name}: {len(stage.commits)} finished, {size / 1e6:.1f} MB{swept}"]
            if gone := pruned.get(name):
                lines.append(f"  {departed_words(gone)}; removed")
            for line in lines + [f"  note: {note}" for note in verdict.notes]:
                say(progress.console, line)
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        by_hand = any("stage.json" in fault for stage in found.values() for fault in stage.faults)
        way = "the next run makes what is damaged again" if repair else "verify --repair has the next run mend it"
        way += ", but for stage.json, of which its line says what to do" if by_hand else ""
        raise CorruptData("\n".join([f"{count}; {way}:", *(f"  {fault}" for fault in faults)]))


def _prune(context: Context) -> dict[str, list[str]]:
    """Remove what was made of videos that the data set has no longer; their names, by stage."""
    _ = context.videos  # ConfigError where there are none: everything would go
    gone: dict[str, list[str]] = {}
    for name, stage in STAGES.items():
        folder = context.folder(name)
        found = read_in_force(folder)
        if found.record is None or not found.commits:
            continue
        gone[name] = departed(stage, context, found.commits)
        for unit in gone[name]:
            folder.remove(found.record, found.commits[unit])
    return gone


def _split_reader(context: Context, damaged: Container[str], indices: Mapping[str, Commit]) -> Splits:
    """Reads which splits a video's proposals are of; None where they have changed since the index, or are damaged.

    indices: commits of the index, by video.
    """

    @cache
    def splits(video: str) -> np.ndarray | None:
        try:
            made = indices[video]
            if video in damaged or made.inputs != made_from(context.commit("extract", video), gallery_of(made)):
                return None
            return read_table(context.output("extract", video), "proposals", ["split"])["split"].to_numpy(str)
        except (KeyError, NotCommitted, CorruptData):
            return None

    def of_one_gallery(made: Commit, video: str) -> np.ndarray | None:
        found = splits(video)
        if found is None:
            return None
        # what the index has seen of another video is what there is now, if that video's index was made from the same
        theirs = gallery_of(indices[video])
        same = all(theirs.get(split, digest) == digest for split, digest in gallery_of(made).items())
        return found if same else None

    return of_one_gallery
