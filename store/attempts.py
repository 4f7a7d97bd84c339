"""Attempts: the fresh folder that a writer fills, how it becomes durable, and who may sweep it.

On a file system an attempt is filled where it stays, and a lock beside it tells that its writer lives. For S3 it is
filled in a temporary folder of this machine and uploaded whole, and only its age tells that its writer is gone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.atomic import lock, sync_file, sync_folder
from store.places import Place, details, upload
from store.record import file_digest

REMOTE_LIFETIME = 24 * 3600.0  # seconds after which an uncommitted upload counts as abandoned
TEMPORARY_LIFETIME = 3600.0  # and a hidden file that takes its place by a rename
SPOOL = "glpose-"  # temporary folders that are filled for S3: this and the number of the process


def attempt_name() -> str:
    """A name that no other attempt has; it begins with the time, ns in hexadecimal digits."""
    return f"{time.time_ns():x}-{uuid.uuid4().hex[:8]}"


def started(attempt: str) -> int:
    """When an attempt began, ns since 1970; 0 where its name does not say."""
    try:
        return int(attempt.split("-")[0], 16)
    except ValueError:
        return 0


@contextmanager
def fresh_folder(folder: Place) -> Iterator[Path]:
    """A new folder of this machine to fill: `folder` itself, or for S3 a temporary one."""
    if not isinstance(folder, Path):
        with tempfile.TemporaryDirectory(prefix=f"{SPOOL}{os.getpid()}-") as spool:
            yield Path(spool)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    marker = _marker(folder)
    try:
        with open(marker, "w") as handle:  # its lock tells `abandoned` that the writer lives, so it is there first
            lock(handle, wait=False)
            folder.mkdir()
            yield folder
    finally:
        marker.unlink(missing_ok=True)


def seal(filled: Path, folder: Place) -> dict[str, tuple[int, str]]:
    """Make what was filled durable at its place; size and SHA-256 of every file, by its path inside."""
    files = {}
    for parent, _, names in os.walk(filled):
        for name in sorted(names):
            path = Path(parent) / name
            if isinstance(folder, Path):
                sync_file(path)
            files[path.relative_to(filled).as_posix()] = (path.stat().st_size, file_digest(path))
        if isinstance(folder, Path):
            sync_folder(Path(parent))
    if isinstance(folder, Path):
        for parent in (folder.parent, folder.parent.parent):  # both may be new
            sync_folder(parent)
    else:
        upload(filled, folder)
    return dict(sorted(files.items()))


def abandoned(folder: Place) -> bool:
    """Whether an attempt's writer is gone."""
    if not isinstance(folder, Path):
        begun = started(folder.name) / 1e9
        uploaded = [entry["LastModified"].timestamp() for entry in details(folder)]
        return time.time() - max(begun, *uploaded, 0.0) > REMOTE_LIFETIME
    try:
        with open(_marker(folder), "r+") as handle:  # NFS locks only what is open for writing
            lock(handle, wait=False)
    except FileNotFoundError:
        return True
    except (BlockingIOError, PermissionError):  # held, or another user's
        return False
    return True


def forget(folder: Place) -> None:
    """Remove the lock's file of an attempt whose writer is gone."""
    if isinstance(folder, Path):
        _marker(folder).unlink(missing_ok=True)


def sweep_leftovers(stage: Place) -> None:
    """Remove what no attempt is: hidden files that never got their names, locks and folders of killed processes."""
    if not isinstance(stage, Path):
        for spool in Path(tempfile.gettempdir()).glob(f"{SPOOL}*-*"):
            number = spool.name.removeprefix(SPOOL).split("-")[0]
            if number.isdecimal() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
                shutil.rmtree(spool, ignore_errors=True)
        return
    for path in [path for pattern in (".*.tmp", "*/.*.tmp", "*/*/.*.tmp") for path in stage.glob(pattern)]:
        if time.time() - path.lstat().st_mtime > TEMPORARY_LIFETIME:
            path.unlink(missing_ok=True)
    for marker in stage.glob("data/*/*.writing"):
        folder = marker.with_name(marker.name.removesuffix(".writing"))
        if not folder.exists() and abandoned(folder):
            marker.unlink(missing_ok=True)


def _marker(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.writing")
