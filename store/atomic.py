"""Files that are whole or absent: write under a temporary name, sync, then rename or link into place."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from store.errors import CorruptData, DiskFull, StoreError

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF)  # of flock, as file systems say it


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and put it in place of `path`, on failure remove it."""
    temporary = _temporary(path)
    with _naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync_file(temporary)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, of a folder: yield a new, empty one beside `path`, which takes its place when it is filled."""
    temporary, old = _temporary(path), _temporary(path)
    with _naming_full_disk(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.rglob("*"):
                sync_folder(file) if file.is_dir() else sync_file(file)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def publish_local(path: Path, text: str) -> bool:
    """Create `path` holding `text` in one step, unless it exists. Returns whether this call created it."""
    temporary = _temporary(path)
    with _naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text)
            sync_file(temporary)
            os.link(temporary, path)  # fails where `path` exists, atomically, unlike rename
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP):
                raise
            raise StoreError(f"{path.parent}: its file system has no hard links, which finished outputs need") from None
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
        with suppress(PermissionError):  # it may be new too, or not ours
            sync_folder(path.parent.parent)
    return True


def lock(handle: IO[str], *, wait: bool) -> None:
    """Lock a file that is open for writing until it is closed. BlockingIOError where another holds it, without `wait`.

    StoreError where its file system has no locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise StoreError(
            f"{Path(handle.name).parent}: its file system has no locks ({error.strerror}), which writing outputs "
            "needs: mount it with flock, or choose another folder with --set work=DIR"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def parse_json(path: object, text: str) -> Any:
    """What a JSON file of ours holds; `path` is for the message. CorruptData where it is not JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise CorruptData(f"{path} is damaged ({error}); delete it and run the stage again") from None


def sync_file(path: Path) -> None:
    """Flush one file to the disk."""
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, where the system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or the user's quota, is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def _naming_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(
            f"the disk is full while writing {path}: free some space and run the same command again"
        ) from None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
