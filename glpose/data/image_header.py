"""Size of an image file, and whether it is whole, from its first and last bytes: ten times faster than decoding it."""

from __future__ import annotations

import os
from pathlib import Path

from glpose.data.video import decode_image

JPEG, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
HEAD, TAIL = 1 << 16, 1 << 12  # bytes; cameras write a little after the end marker
FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG segments that give the size
APP1 = 0xE1  # JPEG segment that may hold an orientation, by which OpenCV turns the image


def probe_image(path: Path) -> tuple[int, int] | None:
    """(height, width) px of an image; None where it is cut off or no image. OSError where it cannot be read.

    JPEG and PNG are whole if their end marker is there; only what their header leaves open, and other formats, are
    decoded.
    """
    with open(path, "rb") as handle:
        head = handle.read(HEAD)
        handle.seek(max(0, os.fstat(handle.fileno()).st_size - TAIL))
        tail = handle.read()
    if head.startswith(JPEG) and JPEG_END in tail:
        size = _jpeg_size(head)
    elif head.startswith(PNG) and PNG_END in tail:
        size = int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")
    else:
        size = None
    return size or decode_size(path)


def decode_size(path: Path) -> tuple[int, int] | None:
    """Like `probe_image`, by decoding the whole image."""
    raw = path.read_bytes()
    if raw.startswith(PNG) and PNG_END not in raw:  # libpng would complain on the terminal
        return None
    image = decode_image(raw)
    return None if image is None else (image.shape[0], image.shape[1])


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """(height, width) px as the frame header says; None where it is not within `head`, or the image may be turned."""
    position = 2
    while position + 9 <= len(head) and head[position] == 0xFF:
        marker = head[position + 1]
        if marker == APP1 and head[position + 4 : position + 8] == b"Exif":
            return None
        if marker in FRAME_HEADERS:
            height = int.from_bytes(head[position + 5 : position + 7], "big")
            width = int.from_bytes(head[position + 7 : position + 9], "big")
            return (height, width) if height and width else None
        fill = marker == 0xFF
        position += 1 if fill else 2 + int.from_bytes(head[position + 2 : position + 4], "big")
    return None
