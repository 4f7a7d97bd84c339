"""What `compare` is given as text: rows, NAME=FILE, VIDEO:FRAME."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from store.errors import ConfigError


def named_rows(text: str | None) -> list[str] | None:
    """`single_frame,glpose` as a list."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def named_files(option: str, texts: Sequence[str] | None) -> dict[str, Path]:
    """`NAME=FILE` of each. ConfigError for one that is not, or a name that stands twice."""
    found: dict[str, Path] = {}
    for text in texts or ():
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ConfigError(f"{option} {text!r}: write NAME=FILE, a name of yours for the row and where it is")
        if name in found:
            raise ConfigError(f"{option}: two rows are called {name!r}: give one of them another name")
        found[name] = Path(file)
    return found


def named_frames(texts: Sequence[str] | None) -> list[tuple[str, int]]:
    """`VIDEO:FRAME` of each, frames counted from 0. ConfigError for one that is not."""
    found = []
    for text in texts or ():
        video, _, frame = text.rpartition(":")
        if not video or not frame.isdecimal():
            raise ConfigError(f"--frames {text!r}: write VIDEO:FRAME, a video's name and a frame's number, from 0")
        found.append((video, int(frame)))
    return found
