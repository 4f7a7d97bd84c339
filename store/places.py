"""Where outputs lie: a folder of this machine, or a prefix of an S3 bucket behind the same path interface (UPath).

What a file system and an object store do differently is here and in `store.attempts`; everything else joins, lists,
reads and tests for existence as with pathlib, and only these functions change what is there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

from store.atomic import lock, parse_json, publish_local, replacing
from store.errors import NotCommitted, StoreError

S3_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "s3fs", "obstore")
CONFLICT_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # s, after each conflict

if TYPE_CHECKING:
    from upath import UPath

    Place: TypeAlias = Path | UPath
else:
    Place = Path


def place(root: str | Place) -> Place:
    """A folder's path, or that of s3://BUCKET/PREFIX; nothing is looked up. StoreError for other schemes of URLs."""
    text = str(root)
    if "://" not in text:
        return Path(text)
    if not isinstance(root, str):
        return root  # a UPath, with the options that it was given
    if not text.startswith("s3://") or len(text.split("/")) < 4 or not text.split("/")[2]:
        raise StoreError(f"{text}: a store is a folder or s3://BUCKET/PREFIX")
    try:
        import s3fs  # noqa: F401 (what UPath uses)
        from upath import UPath
    except ImportError:
        raise StoreError(f"{text}: stores in S3 need the extra s3: pip install -e '.[s3]' in the checkout") from None
    # listings must be fresh: other machines write too
    return UPath(text.rstrip("/"), use_listings_cache=False)


def check_reachable(path: Place) -> None:
    """StoreError, in one line, where a bucket is not there or the prefix not ours to list."""
    if isinstance(path, Path):
        return
    bucket = cast(Any, path.fs)
    try:
        name, prefix, _ = bucket.split_path(path.path)
        bucket.call_s3("list_objects_v2", Bucket=name, Prefix=f"{prefix}/", MaxKeys=1)
    except Exception as error:  # botocore, aiohttp and s3fs each have their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StoreError(
            f"{path} cannot be reached ({type(error).__name__}: {reason}): look at the bucket's name, AWS_ENDPOINT_URL "
            "and the credentials"
        ) from None


def is_store_failure(error: BaseException) -> bool:
    """Whether an error comes from the libraries that talk to S3: a lost connection, expired credentials, no rights.

    s3fs gives many of them as PermissionError and the like; what they were stands behind.
    """
    return any(type(link).__module__.split(".")[0] in S3_LIBRARIES for link in _chain(error))


def publish_if_absent(path: Place, text: str) -> bool:
    """Create `path` holding `text` in one step, unless it exists. Returns whether this call created it."""
    if isinstance(path, Path):
        return publish_local(path, text)
    return _put_once(lambda: path.fs.pipe_file(path.path, text.encode(), mode="create"))  # If-None-Match: *


def swap(path: Place, old: str, new: str) -> bool:
    """Put `new` in place of `old` in one step. Returns False, changing nothing, where the file does not hold `old`."""
    if isinstance(path, Path):
        with _locked(path.parent):
            if not path.exists() or read_text(path) != old:
                return False
            with replacing(path) as temporary:
                temporary.write_text(new)
        return True
    bucket = cast(Any, path.fs)  # an S3FileSystem: what fsspec has for all stores knows no If-Match
    try:
        tag = bucket.info(path.path)["ETag"]
        if bucket.cat_file(path.path) != old.encode():
            return False
    except FileNotFoundError:
        return False
    name, key, _ = bucket.split_path(path.path)
    return _put_once(lambda: bucket.call_s3("put_object", Bucket=name, Key=key, Body=new.encode(), IfMatch=tag))


def remove_if(path: Place, old: str) -> bool:
    """Remove a file if it holds `old`; in S3, not in one step. Returns whether it did."""
    if isinstance(path, Path):
        with _locked(path.parent):
            return _unlink_if(path, old)
    return _unlink_if(path, old)


def read_text(path: Place) -> str:
    """A file's text; bytes that are none become marks, so that damage is found by what reads it."""
    return path.read_bytes().decode("utf-8", "replace")


def read_json(path: Place) -> Any:
    """Read a JSON file of ours. NotCommitted where it is absent, CorruptData where it is not JSON."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise NotCommitted(f"{path} does not exist") from None
    return parse_json(path, text)


def texts(folder: Place, pattern: str) -> dict[str, str]:
    """Contents of a folder's files of a pattern, by name, sorted; hidden ones are left out, as is a missing folder."""
    if not isinstance(folder, Path):
        found = [path.path for path in folder.glob(pattern) if not path.name.startswith(".")]
        contents = cast(dict[str, bytes], folder.fs.cat(found)) if found else {}
        return {name.rsplit("/", 1)[-1]: contents[name].decode("utf-8", "replace") for name in sorted(contents)}
    paths = {path.name: path for path in folder.glob(pattern) if not path.name.startswith(".")}
    return {name: read_text(paths[name]) for name in sorted(paths)}  # names compare far faster than paths


def sizes(folder: Place) -> dict[str, int]:
    """Path below a folder -> bytes, of all files in it."""
    if not isinstance(folder, Path):
        prefix = folder.path.rstrip("/") + "/"
        found = cast(dict[str, dict[str, Any]], folder.fs.find(folder.path, detail=True))
        return {name.removeprefix(prefix): int(entry["size"]) for name, entry in sorted(found.items())}
    out = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            out[os.path.relpath(path, folder).replace(os.sep, "/")] = os.stat(path).st_size
    return dict(sorted(out.items()))


def size_fault(there: Mapping[str, int], name: str, size: int) -> str:
    """What is wrong with a file that was committed with so many bytes; "" for nothing. there: of `sizes`."""
    if name not in there:
        return "is missing"
    return f"has {there[name]} bytes, {size} were committed" if there[name] != size else ""


def details(folder: UPath) -> list[dict[str, Any]]:
    """What S3 says of every object below a prefix."""
    return list(cast(dict[str, dict[str, Any]], folder.fs.find(folder.path, detail=True)).values())


def upload(source: Path, folder: UPath) -> None:
    """Copy a local folder's contents to a place in S3."""
    folder.fs.put(f"{source}/", f"{folder.path}/", recursive=True)


def remove_tree(folder: Place) -> None:
    """Remove a folder and everything in it, as far as that is possible."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(Exception):  # whatever broke before may still be broken
        folder.fs.rm(folder.path, recursive=True)


@contextlib.contextmanager
def local_file(path: Place) -> Iterator[Path]:
    """A file as one of this machine: itself, or a copy for as long as the block lasts."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="glpose-") as folder:
        copy = Path(folder) / path.name
        path.fs.get_file(path.path, str(copy))
        yield copy


@contextlib.contextmanager
def writing_file(path: Place) -> Iterator[Path]:
    """A local path to write; when the block ends without an error, `path` is that file, whole."""
    if isinstance(path, Path):
        with replacing(path) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix="glpose-") as folder:
        copy = Path(folder) / path.name
        yield copy
        path.fs.put_file(str(copy), path.path)


def open_binary(path: Place) -> BinaryIO:
    """Open for reading; OSError where it cannot be."""
    return open(path, "rb") if isinstance(path, Path) else path.open("rb")


def _put_once(put: Callable[[], object]) -> bool:
    """Make a conditional put. Returns False where its condition is not met.

    S3 answers 409 to one of several puts that come at the same moment; that one is to try again.
    """
    for wait in CONFLICT_WAITS:
        try:
            put()
            return True
        except Exception as error:
            if isinstance(error, FileExistsError) or _s3_code(error) in ("PreconditionFailed", "NoSuchKey"):
                return False
            if _s3_code(error) != "ConditionalRequestConflict":
                raise
            time.sleep(wait)
    raise StoreError("S3 refused a conditional put again and again (ConditionalRequestConflict): run it again")


def _s3_code(error: BaseException) -> str:
    """S3's own name for an error, "" if it is none of S3's."""
    codes = (getattr(link, "response", {}).get("Error", {}).get("Code", "") for link in _chain(error))
    return next((code for code in codes if code), "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unlink_if(path: Place, old: str) -> bool:
    if not path.exists() or read_text(path) != old:
        return False
    path.unlink()
    return True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "w") as handle:
        lock(handle, wait=True)
        yield
