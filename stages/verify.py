"""verify: every finished output of every stage against what its commit says."""

from __future__ import annotations

from rich.console import Console

from stages.run import STAGES, check_owner
from stages.stage import Context
from store.errors import CorruptData


def verify(context: Context, console: Console, *, clean: bool, repair: bool) -> None:
    """Read all files of the records in force.

    clean: remove what killed runs left. repair: withdraw damaged units, so that the next run makes them again.
    CorruptData, naming stage, unit and file, if anything is wrong.
    """
    check_owner(context)
    faults: list[str] = []
    for name in STAGES:
        folder = context.folder(name)
        record = folder.record_in_force()
        if record is None:
            continue
        commits = folder.commits(record)
        for unit, commit in commits.items():
            found = folder.faults(commit)
            faults += [f"{name} {unit}: {fault}" for fault in found]
            if found and repair:
                folder.withdraw(record, commit)
        removed = folder.clean() if clean else []
        swept = f", {len(removed)} left by killed runs removed" if removed else ""
        size = sum(commit.bytes for commit in commits.values())
        console.print(f"{name}: {len(commits)} finished, {size / 1e6:.1f} MB{swept}", highlight=False)
    if faults:
        way = "the next run makes them again" if repair else "verify --repair has the next run make them again"
        raise CorruptData("\n".join([f"{len(faults)} files are damaged; {way}:", *(f"  {fault}" for fault in faults)]))
