"""export and import: whole videos with features as one HDF5 file to share or to archive, and back."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from stages.console import counting, say
from stages.run import check_owner
from stages.stage import Context
from store.archive import export_hdf5, import_hdf5, split_videos
from store.errors import ConfigError
from store.places import place
from store.reader import Store, open_store


def export(context: Context, out: Path, console: Console, *, split: str | None = None) -> None:
    """Write the finished videos of this run, or those of them with proposals of a split, into a new file `out`.

    Reads the store alone, not the data set. ConfigError where no video is left, StoreError where `out` exists or the
    split is not there, CorruptData for a damaged video.
    """
    check_owner(context)
    store = open_store(context.config.work)
    videos = _chosen(store, context.pattern, split)
    with _progress(console, "export") as advance:
        export_hdf5(store, out, videos, advance=advance)
    mixed = _mixed(store, videos, split)
    say(console, f"{out}: {len(videos)} videos, {out.stat().st_size / 1e6:.1f} MB{mixed}")


def import_(file: Path, work: str | Path, console: Console) -> None:
    """Make a new work folder of an exported file. ConfigError for an URL, others as of `store.archive.import_hdf5`."""
    if not isinstance(folder := place(work), Path):
        raise ConfigError(f"{work}: import makes a folder of this machine; choose one")
    with _progress(console, "import") as advance:
        found = import_hdf5(file, folder, advance=advance)
    store = open_store(folder)
    counts = f"{len(found.videos)} videos, {len(store.table())} proposals"
    say(console, f"{work}: {counts}, {len(found.indexed)} videos with an index")
    if found.rebuilt:
        number = sum(map(len, found.rebuilt.values()))
        video, names = next(iter(found.rebuilt.items()))
        say(
            console,
            f"  {number} files have the same contents in other bytes than were exported, as other releases of zarr or "
            f"pyarrow write them; first {video}: {names[0]}",
        )


def _chosen(store: Store, pattern: str, split: str | None) -> list[str]:
    videos = store.videos if split is None else split_videos(store, split)
    chosen = [video for video in videos if fnmatch.fnmatch(video, pattern)]
    if not chosen:
        near = ", ".join(videos[:3]) or "none"
        raise ConfigError(f"--videos {pattern!r} matches no video with features; there are {near} ...")
    return chosen


def _mixed(store: Store, videos: list[str], split: str | None) -> str:
    """Says so where videos hold proposals of other splits too: they are not cut in two."""
    if split is None:
        return ""
    table = store.table()
    other = table.loc[table["video"].isin(videos) & (table["split"] != split), "video"].nunique()
    return f"; {other} of them hold proposals of other splits too" if other else ""


@contextmanager
def _progress(console: Console, verb: str) -> Iterator[Callable[[str, int], None]]:
    with counting(console) as progress:
        task = progress.add_task(verb, total=None)

        def advance(video: str, count: int) -> None:
            progress.update(task, description=f"{verb} {video}", total=count, advance=1)

        yield advance
