"""JSON files of other people, plain or gzipped."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from store.errors import DataError

JSON_ENDINGS = (".json", ".json.gz")


def stem_of(path: Path) -> str:
    """A file's name without its ending, `.json.gz` counting as one."""
    return Path(path.name.removesuffix(".gz")).stem


def read_json_file(path: Path, what: str) -> Any:
    """The content of a file. DataError, one line that begins with `what`, where it is absent or not readable JSON."""
    try:
        raw = path.read_bytes()
        return json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except FileNotFoundError:
        raise DataError(f"{what} {path} does not exist") from None
    except IsADirectoryError:
        raise DataError(f"{what} {path} is a folder, not a file") from None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:  # ValueError: not JSON, or not text
        raise DataError(f"{what} {path} is not readable JSON ({error})") from None
