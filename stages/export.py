"""export and import: whole videos with features as one HDF5 file to share or to archive, and back; heads as ONNX."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from glpose.data.dataset import joint_set
from glpose.heatmaps import STRIDE
from glpose.models.checkpoints import load_heads, read_metadata
from glpose.onnx_export import write_onnx
from glpose.trained_on import check_joints
from stages.console import counting, say
from stages.run import check_owner
from stages.stage import Context
from stages.train import chosen_checkpoint
from store.archive import export_hdf5, import_hdf5, split_videos
from store.errors import ConfigError, NotCommitted, StoreError
from store.places import local_file, place
from store.reader import Store, open_store
from store.record import Record


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


def export_onnx(context: Context, variant: str, out: Path, console: Console) -> None:
    """Write the heads of one variant that are in force into a new ONNX file `out`, with what a user of it must know.

    They are those of `eval.checkpoint`. NotCommitted where they are not trained, StoreError where `out` exists,
    CheckpointError where the pipeline's joints are others, ConfigError where there is no best checkpoint, or without
    the extra `onnx`.
    """
    check_owner(context)
    if out.exists():
        raise StoreError(f"{out} exists already: choose another file, or remove it")
    after = _record_of(context)["after"]
    crop_size = after["extract"]["parameters"]["crop_size"]
    with local_file(chosen_checkpoint(context, variant)) as checkpoint:
        described = read_metadata(checkpoint)
        heads = load_heads(checkpoint, space=described["space"])
        joints = joint_set(context.config.data)
        check_joints(checkpoint, joints)
    metadata = {
        "joints": json.dumps(joints.joints),
        "k": str(heads.options.k),
        "n": str(heads.options.n),
        "offsets": json.dumps(heads.offsets),
        "heads": heads.options.model_dump_json(),
        "embedding": after["index"]["parameters"].get("embedding", "pooled"),
        "similarity": after["index"]["parameters"]["similarity"],
        "backbone": described["backbone"],
        "space": described["space"],
        "crop_size": json.dumps(crop_size),
    }
    size = crop_size[0] // STRIDE, crop_size[1] // STRIDE
    difference = write_onnx(heads, int(described["channels"]), size, out, metadata)
    about = f"{variant}, {len(joints)} joints, maps of {described['channels']} x {size[0]} x {size[1]}"
    say(console, f"{out}: {about}, {out.stat().st_size / 1e6:.1f} MB; onnxruntime differs by {difference:.1g} at most")


def _record_of(context: Context) -> Record:
    """Of the heads in force. NotCommitted where none were trained."""
    record = context.folder("train").record_in_force()
    if record is None:
        raise NotCommitted(f"train has not run yet for pipeline {context.config.name!r}: there are no heads to export")
    return record


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
