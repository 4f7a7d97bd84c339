"""One video, or many, as one HDF5 file to share or to archive, and back, bit for bit.

The file explains itself to any HDF5 tool (P proposals; dimensions carry their names as labels):

    record, index_record                 JSON: what made the features, and the index if there is one; attribute digest
    videos/NAME                          attributes: those of the Zarr group (dtype, codec, backbone, space ...)
    videos/NAME/key, key_scale, local, local_scale, embedding      the arrays as stored; features = key * key_scale
    videos/NAME/affine                   frame px to crop px of every view, where there are several
    videos/NAME/offset                   frame offsets along `local`'s axis, its dimension scale
    videos/NAME/proposals/COLUMN         the table, see `store.hdf5_tables`
    videos/NAME/commit, schema, attributes                         JSON: the commit with its files' SHA-256, and so on
    videos/NAME/index/{neighbours/COLUMN, vectors, commit}         the same of the index; vectors: what FAISS holds

Every array has an attribute `sha256` of its values in C order, and HDF5's own checksum on every chunk. Importing
writes the arrays and tables anew. The same releases of zarr, numcodecs and pyarrow make the same bytes of them; with
others the values are read back and compared.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py

from store.archive_video import (
    Damage,
    check_contents,
    read_commit,
    read_features,
    read_neighbours,
    write_features,
    write_neighbours,
)
from store.atomic import sync_folder
from store.errors import DiskFull, StoreError
from store.folder import StageFolder
from store.hdf5 import (
    creating,
    group_of,
    open_hdf5,
    read_json_text,
    refusing_damage,
    set_attributes,
    write_json_text,
)
from store.reader import Store
from store.record import Record, fingerprint
from store.tables import merge_tables

FORM = "glpose archive"
FORMAT = 1  # readers refuse a newer one
DESCRIPTION = (
    "Features of people in videos, /videos/NAME. key, local: maps of each proposal and of its box in the neighbouring "
    "frames; where dtype is uint8, the feature is key * key_scale, local * local_scale, a scale per map and channel. "
    "affine: px of the frame to px of the crop, of each view; absent where the box's clean crop is the only one. "
    "proposals: boxes in px of the frame, keypoints as x, y, flag. Dimensions have labels, arrays an attribute sha256."
)

Advance = Callable[[str, int], None]  # called when a video is done: its name, and how many there are in all


@dataclass(frozen=True)
class Imported:
    """What an import brought. rebuilt: by video, files with the same contents in other bytes than were exported."""

    videos: list[str]
    indexed: list[str]
    rebuilt: dict[str, list[str]]


def split_videos(store: Store, split: str) -> list[str]:
    """Names of the videos with proposals of a split, sorted. StoreError where there are none."""
    table = store.table()
    videos = sorted(set(table.loc[table["split"] == split, "video"]))
    if not videos:
        there = ", ".join(sorted(set(table["split"]))) or "none"
        raise StoreError(f"{store.root} has no proposals of a split {split!r}; its splits: {there}")
    return videos


def export_hdf5(
    store: Store, path: Path, videos: Sequence[str] | None = None, *, advance: Advance = lambda video, count: None
) -> None:
    """Write whole videos, all by default, into a new HDF5 file; it appears when it is complete.

    Memory is bounded by the maps of a few proposals and by a video's scales, embeddings and tables. StoreError where
    `path` exists or a video is not in the store, CorruptData where a video does not match its commit, DiskFull where
    the disk is.
    """
    if path.exists():
        raise StoreError(f"{path} exists already: remove it or choose another name")
    names = list(store.videos if videos is None else videos)
    commits = {name: store.commit(name) for name in names}
    extract, index = StageFolder(store.root / "extract"), StageFolder(store.root / "index")
    index_record = index.record_in_force()
    indexed = store.indexed(None if set(names) == set(store.videos) else names)
    with creating(path, FORM, FORMAT) as (file, disk):
        set_attributes(file, {"description": DESCRIPTION})
        file.create_group("videos")
        _write_record(file, "record", store.record)
        if index_record is not None:
            _write_record(file, "index_record", index_record)
        for name, commit in commits.items():
            group = file.create_group(f"videos/{name}")
            write_features(group, store.features(name), extract, commit, disk)
            if name in indexed:
                write_neighbours(group.create_group("index"), index, indexed[name])
            disk.check()
            advance(name, len(names))


def import_hdf5(path: Path, root: Path, *, advance: Advance = lambda video, count: None) -> Imported:
    """Make a new work folder `root` of an exported file; it appears when it is complete, and `store.open` opens it.

    StoreError where `root` holds something or the file is of a newer format, CorruptData where the file is damaged,
    DiskFull where the disk is.
    """
    root = root.absolute()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise StoreError(f"{root} holds something already: choose a folder that is empty or does not exist")
    temporary = root.with_name(f".{root.name}.{uuid.uuid4().hex[:8]}.tmp")
    with open_hdf5(path, FORM, FORMAT, "archive") as file:
        try:
            imported = _import_all(file, temporary, path, advance)
            temporary.rename(root)
            sync_folder(root.parent)
        except DiskFull:
            raise DiskFull(
                f"the disk is full while importing {path} into {root}, and nothing of it stays: free some space and "
                "run the same command again"
            ) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return imported


def _import_all(file: h5py.File, root: Path, path: Path, advance: Advance) -> Imported:
    damage = partial(refusing_damage, path, "archive")
    with damage():
        groups = {str(name): group_of(file, f"videos/{name}") for name in group_of(file, "videos")}
        indices = {name: group_of(group, "index") for name, group in groups.items() if "index" in group}
        extract = _begin(root / "extract", read_json_text(file, "record"))
        index = _begin(root / "index", read_json_text(file, "index_record")) if "index_record" in file else None
    rebuilt: dict[str, list[str]] = {}
    for name, group in groups.items():
        damage = partial(refusing_damage, path, f"archived video {name!r}")
        differing = _import_unit(*extract, group, name, read_features, damage)
        if index is not None and name in indices:
            differing += _import_unit(*index, indices[name], name, read_neighbours, damage)
        if differing:
            rebuilt[name] = differing
        advance(name, len(groups))
    _finish(*extract, "proposals")
    if index is not None:
        _finish(*index, "neighbours")
    return Imported(sorted(groups), sorted(indices), rebuilt)


def _write_record(file: h5py.File, name: str, record: Record) -> None:
    write_json_text(file, name, record)
    set_attributes(file[name], {"digest": fingerprint(record)})


def _begin(folder: Path, record: Record) -> tuple[StageFolder, Record]:
    stage = StageFolder(folder)
    stage.begin(record)
    return stage, record


def _import_unit(
    stage: StageFolder,
    record: Record,
    group: h5py.Group,
    name: str,
    read: Callable[[h5py.Group, Path, Damage], None],
    damage: Damage,
) -> list[str]:
    """Make and commit one unit; names of the files whose bytes are not those exported."""
    with damage():
        exported = read_commit(group)
        if exported.unit != name:
            raise ValueError(f"the commit is that of {exported.unit!r}")
    with stage.writing(record, name, exported.inputs) as attempt:
        read(group, attempt.path, damage)
        attempt.meta, attempt.seconds = exported.meta, exported.seconds
    made = stage.commit_of(record, name)
    differing = sorted({key for key, _ in made.files.items() ^ exported.files.items()})
    if differing:
        check_contents(group, stage.attempt_path(made), made, damage)
    return differing


def _finish(stage: StageFolder, record: Record, table: str) -> None:
    """What a stage does when all its units are there."""
    merge_tables(stage, stage.commits(record), table)
    stage.link_latest(stage.commits(record))
