"""Byte ranges of a stored file into the caller's buffers: by preadv from a disk, by concurrent requests from S3."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from store.places import Place

if TYPE_CHECKING:
    from obstore import Bytes
    from obstore.store import S3Store

Range = tuple[int, int]  # begin and length, bytes
S3_OPTIONS = ("endpoint_url", "key", "secret", "token")  # of fsspec's
CREDENTIALS_KEPT = timedelta(minutes=10)  # before botocore is asked again


class Ranges(Protocol):
    """An open file. size: its bytes."""

    size: int

    def announce(self, ranges: Sequence[Range]) -> None:
        """Say what will be read next, so that it can be fetched meanwhile."""
        ...

    def read(self, buffers: Sequence[memoryview], begin: int) -> bool:
        """Fill the buffers with the file's bytes from `begin` on; False where the file ends before."""
        ...


@contextmanager
def open_ranges(path: Place, committed: int) -> Iterator[Ranges]:
    """Open a file for reading ranges. committed: bytes that it should have. OSError where it cannot be opened.

    The size of a local file is looked up; one in S3 is taken to be as committed, to save a request, and a read that
    goes beyond its true end fails.
    """
    if not isinstance(path, Path):
        name, _, key = path.path.partition("/")
        given = {key: str(path.storage_options[key]) for key in S3_OPTIONS if path.storage_options.get(key)}
        yield _Remote(_bucket(name, tuple(given.items())), key, committed)
        return
    file = os.open(path, os.O_RDONLY)
    try:
        yield _Local(file)
    finally:
        os.close(file)


class _Local:
    def __init__(self, file: int) -> None:
        self.size = os.fstat(file).st_size
        self._file = file

    def announce(self, ranges: Sequence[Range]) -> None:
        """Have the kernel fetch these and no more; else it reads on after each, up to a third too much."""
        if not hasattr(os, "posix_fadvise"):
            return  # macOS
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)
        for begin, length in ranges:
            os.posix_fadvise(self._file, begin, length, os.POSIX_FADV_WILLNEED)

    def read(self, buffers: Sequence[memoryview], begin: int) -> bool:
        left = list(buffers)
        while left:
            got = os.preadv(self._file, left, begin)
            if got == 0:
                return False
            begin += got
            while left and got >= len(left[0]):
                got -= len(left.pop(0))
            if got:
                left[0] = left[0][got:]
        return True


class _Remote:
    def __init__(self, bucket: S3Store, key: str, size: int) -> None:
        self.size = size
        self._bucket, self._key = bucket, key
        self._fetched: dict[Range, Bytes] = {}

    def announce(self, ranges: Sequence[Range]) -> None:
        """Fetch all of them at once; they are held until read, so announce no more than memory takes."""
        if not ranges:
            return
        starts, lengths = [begin for begin, _ in ranges], [length for _, length in ranges]
        with _as_os_errors(self._key):
            found = self._bucket.get_ranges(self._key, starts=starts, lengths=lengths, coalesce=0)
        self._fetched = dict(zip(ranges, found, strict=True))

    def read(self, buffers: Sequence[memoryview], begin: int) -> bool:
        length = sum(len(buffer) for buffer in buffers)
        content = self._fetched.pop((begin, length), None)
        if content is None:
            with _as_os_errors(self._key):
                content = self._bucket.get_range(self._key, start=begin, length=length)
        got, start = memoryview(content), 0
        if len(got) != length:
            return False
        for buffer in buffers:
            buffer[:] = got[start : start + len(buffer)]
            start += len(buffer)
        return True


@functools.lru_cache(maxsize=8)
def _bucket(name: str, options: tuple[tuple[str, str], ...]) -> S3Store:
    """A bucket by the address, region and credentials that botocore finds, as fsspec has them.

    options: fsspec's `endpoint_url`, `key`, `secret` and `token`, where a path was given with them.
    """
    import botocore.session
    from obstore.store import S3Store

    session, given = botocore.session.get_session(), dict(options)
    if "key" in given:
        session.set_credentials(given["key"], given["secret"], given.get("token"))
    client = session.create_client("s3", endpoint_url=given.get("endpoint_url"))
    return S3Store(
        name,
        endpoint=client.meta.endpoint_url,
        region=client.meta.region_name or "us-east-1",
        client_options={"allow_http": client.meta.endpoint_url.startswith("http://")},
        **_credentials(session),
    )


def _credentials(session: Any) -> dict[str, Any]:
    """How to sign: by what botocore has, asked again before it expires; not at all where it has nothing."""
    found = session.get_credentials()
    if found is None:
        return {"skip_signature": True}

    def provide() -> dict[str, Any]:
        frozen = found.get_frozen_credentials()  # refreshes them
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_KEPT,
        }

    return {"credential_provider": provide}


@contextmanager
def _as_os_errors(key: str) -> Iterator[None]:
    """What goes wrong in S3 is an OSError, as it is on a disk."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        raise OSError(f"{key}: {str(error).splitlines()[0]}") from error
