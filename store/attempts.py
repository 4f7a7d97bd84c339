"""Attempts: the fresh folder that a writer fills, how it becomes durable, and who may sweep it.

On a file system an attempt is filled where it stays, and a lock beside it tells that its writer lives. For S3 it is
filled in a temporary folder of this machine and uploaded whole, and only its age tells that its writer is gone.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from store.atomic import sync_file, sync_folder
from store.places import Place, upload
from store.record import file_digest

REMOTE_LIFETIME = 24 * 3600.0  # seconds after which an uncommitted upload counts as abandoned


def attempt_name() -> str:
    """A name that no other attempt has; it begins with the time, ns in hexadecimal digits."""
    return f"{time.time_ns():x}-{uuid.uuid4().hex[:8]}"


@contextmanager
def fresh_folder(folder: Place) -> Iterator[Path]:
    """A new folder of this machine to fill: `folder` itself, or for S3 a temporary one."""
    if not isinstance(folder, Path):
        with tempfile.TemporaryDirectory(prefix="glpose-") as spool:
            yield Path(spool)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    marker = _marker(folder)
    try:
        with open(marker, "w") as handle:  # its lock tells `abandoned` that the writer lives, so it is there first
            _lock(handle)
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
        sync_folder(folder.parent)
    else:
        upload(filled, folder)
    return dict(sorted(files.items()))


def abandoned(folder: Place) -> bool:
    """Whether an attempt's writer is gone."""
    if not isinstance(folder, Path):
        return time.time() - int(folder.name.split("-")[0], 16) / 1e9 > REMOTE_LIFETIME
    try:
        with open(_marker(folder)) as handle:
            _lock(handle)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def forget(folder: Place) -> None:
    """Remove the lock's file of an attempt whose writer is gone."""
    if isinstance(folder, Path):
        _marker(folder).unlink(missing_ok=True)


def _lock(handle: IO[str]) -> None:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _marker(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.writing")
