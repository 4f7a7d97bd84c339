"""Pictures of one's own that rendered people stand before."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from store.errors import DataError
from store.record import fingerprint

PICTURES = (".jpg", ".jpeg", ".png")
BEGINNING = 1 << 14  # bytes of a picture that count for its digest: folders may hold gigabytes


def list_photos(folder: Path) -> list[Path]:
    """All pictures below a folder, sorted by name. DataError where there is none."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not files:
        raise DataError(f"{folder} has no pictures ({', '.join(PICTURES)}) to stand before")
    return files


def photos_digest(folder: Path) -> str:
    """SHA-256 over the pictures' names below the folder, their sizes and beginnings, wherever the folder lies."""
    return fingerprint(
        [[path.relative_to(folder).as_posix(), *_size_and_beginning(path)] for path in list_photos(folder)]
    )


def _size_and_beginning(path: Path) -> tuple[int, str]:
    status = path.stat()
    return status.st_size, _beginning(path, (status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=1 << 17)
def _beginning(path: Path, version: tuple[int, int]) -> str:
    """Digest of a file's first bytes, read once. version: size and time of the file; a changed file is read anew."""
    with open(path, "rb") as handle:
        return hashlib.sha256(handle.read(BEGINNING)).hexdigest()
