"""Frames of a video, from a folder of images or a video file, each decoded once, in order."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from store.errors import DataError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
UNCOMPRESSED = {".bmp", ".tif", ".tiff"}
FASTEST = 1000.0  # frames per second; headers without a rate state the 90,000 ticks of their clock
VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}


class FrameSource(Protocol):
    """Frames of one video."""

    @property
    def names(self) -> list[str]:
        """One name per frame, as annotations and predictions spell it."""
        ...

    def read(self, wanted: Iterable[int], unreadable: dict[int, str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (frame, (h, w, 3) uint8 BGR) for the wanted 0-based frames, in rising order, each decoded once.

        DataError where a frame is absent or cannot be decoded; with `unreadable`, such frames are left out, their
        reasons there.
        """
        ...

    def size(self) -> tuple[int, int]:
        """(height, width) px of the first frame."""
        ...

    def fingerprint(self) -> str:
        """Digest of the frames' names and byte sizes: cheap, and independent of where the files lie."""
        ...


@dataclass(frozen=True)
class ImageFrames:
    """A video as image files in order."""

    video: str
    paths: tuple[Path, ...]
    names: list[str]

    def read(self, wanted: Iterable[int], unreadable: dict[int, str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        for frame in sorted(set(wanted)):
            try:
                image = self._decode(frame)
            except DataError as error:
                if unreadable is None:
                    raise
                unreadable[frame] = str(error)
                continue
            yield frame, image

    def size(self) -> tuple[int, int]:
        height, width = self._decode(0).shape[:2]
        return height, width

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for frame, path in enumerate(self.paths):
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                raise self._absent(frame) from None
            digest.update(f"{path.name}\0{size}\n".encode())
            if path.suffix.lower() in UNCOMPRESSED:  # all of one resolution are equally large
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def _decode(self, frame: int) -> np.ndarray:
        path = self.paths[frame]
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise self._absent(frame) from None
        except OSError as error:
            raise DataError(f"video {self.video!r}: frame {frame} cannot be read ({path}: {error.strerror})") from None
        image = decode_image(raw)
        if image is None:
            raise DataError(
                f"video {self.video!r}: frame {frame} cannot be decoded ({path}): cut off, or not an image; replace it"
            )
        return image

    def _absent(self, frame: int) -> DataError:
        return DataError(f"video {self.video!r}: frame {frame} is listed but {self.paths[frame]} does not exist")


@dataclass(frozen=True)
class VideoFileFrames:
    """A video file that OpenCV's FFmpeg can decode; a name per frame that it decodes, whatever the header promises."""

    video: str
    path: Path
    names: list[str]

    @property
    def length(self) -> int:
        return len(self.names)

    def read(self, wanted: Iterable[int], unreadable: dict[int, str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        frames = sorted(set(wanted))
        capture = _open_capture(self.video, self.path)
        try:
            position = 0
            for frame in frames:
                while position < frame and capture.grab():  # grabbing skips the conversion to an image
                    position += 1
                ok, image = capture.read()
                if not ok or position != frame:
                    reason = (
                        f"video {self.video!r}: frame {frame} of {self.length} cannot be decoded ({self.path}); "
                        "the file has changed or is damaged"
                    )
                    if unreadable is None:
                        raise DataError(reason)
                    unreadable[frame] = reason
                    continue
                position += 1
                yield frame, image
        finally:
            capture.release()

    def size(self) -> tuple[int, int]:
        _, image = next(self.read([0]))
        return image.shape[0], image.shape[1]

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.path.stat().st_size} {self.length}".encode())
        with open(self.path, "rb") as handle:
            digest.update(handle.read(1 << 20))
        return digest.hexdigest()


def open_frames(video: str, path: Path, length: int | None = None) -> ImageFrames | VideoFileFrames:
    """Frames of a folder of images or of a video file. DataError where there are none.

    Images go by name, numbers in it by value: 2.jpg before 10.jpg. length: of a video file, where it is known; counting
    means decoding it all.
    """
    if path.is_dir():
        found = (p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(p))
        images = sorted(found, key=lambda p: (by_number(p.name), p.name))
        if not images:
            raise DataError(f"video {video!r}: {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return ImageFrames(video, tuple(images), [f"{video}/{p.name}" for p in images])
    if not path.exists():
        raise DataError(f"video {video!r}: {path} does not exist")
    if length is None:
        status = path.stat()
        length = _count_frames(video, path, (status.st_size, status.st_mtime_ns))
    return VideoFileFrames(video, path, [f"{video}/{frame:06d}.jpg" for frame in range(length)])


def read_frame(source: FrameSource, frame: int) -> np.ndarray:
    """One frame, (h, w, 3) uint8 BGR. DataError where it cannot be read."""
    return next(source.read([frame]))[1]


def frame_rate(source: FrameSource) -> float | None:
    """Frames per second that a video file says it has; None of images, and where it says nothing of use."""
    if not isinstance(source, VideoFileFrames):
        return None
    capture = _open_capture(source.video, source.path)
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return rate if 0 < rate <= FASTEST else None  # NaN is refused, too


def decode_image(raw: bytes) -> np.ndarray | None:
    """An encoded image as (h, w, 3) uint8 BGR; None where it is cut off or no image.

    Of a JPEG that is cut off, OpenCV would return what is there and grey below it: such a file has no end-of-image
    marker (FF D9) after its last start-of-scan marker (FF DA). Neither occurs within compressed data.
    """
    if raw[:2] == b"\xff\xd8" and raw.rfind(b"\xff\xd9") < raw.rfind(b"\xff\xda"):
        return None
    try:
        return cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # nothing to decode, or larger than OpenCV takes
        return None


def is_hidden(path: Path) -> bool:
    """Whether a file is none of the user's data: ".DS_Store", and the "._NAME" that macOS leaves beside every file."""
    return path.name.startswith(".")


def by_number(name: str) -> list[tuple[int, str]]:
    """Sorts names by the numbers in them: img_2 before img_10."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def _open_capture(video: str, path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise DataError(f"video {video!r}: {path} cannot be opened as a video; is it cut off, or not a video?")
    return capture


@functools.lru_cache(maxsize=4096)
def _count_frames(video: str, path: Path, version: tuple[int, int]) -> int:
    """Count by decoding: headers are often a frame or two off, and a header far off means a truncated file.

    version: size and time of the file; a changed file is counted anew.
    """
    capture = _open_capture(video, path)
    promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    length = 0
    while capture.grab():
        length += 1
    capture.release()
    if length == 0:
        raise DataError(f"video {video!r}: {path} has no frame that can be decoded")
    if promised > length:
        promised -= _empty_avi_frames(path)
    if promised - length > max(2, 0.05 * promised) or _is_cut_off(path):
        raise DataError(
            f"video {video!r}: {path} is truncated: {length} frames can be decoded, its header promises {promised}; "
            "copy it again, or re-encode what is there (ffmpeg -i IN -c:v libx264 OUT.mp4)"
        )
    return length


def _is_cut_off(path: Path) -> bool:
    """Whether an MP4 (or MOV) or AVI ends before the last of its outermost boxes does. False for other containers."""
    size, position = path.stat().st_size, 0
    with open(path, "rb") as handle:
        avi = handle.read(4) == b"RIFF"
        while position + 8 <= size:
            handle.seek(position)
            head = handle.read(16)
            if avi:
                known = head[:4] == b"RIFF" and any(head[4:8])
                length = 8 + int.from_bytes(head[4:8], "little")
            else:
                known = head[4:8].isalnum() if position else head[4:8] == b"ftyp"
                length = int.from_bytes(head[:4], "big")
                length = int.from_bytes(head[8:16], "big") if length == 1 else length
            if not known or length < 8:  # something else, or a length that was never filled in
                return False
            position += length
    return position > size


def _empty_avi_frames(path: Path) -> int:
    """Frames of an AVI without data, which show the frame before again: its header counts them, decoders skip them."""
    empty, size, position = 0, path.stat().st_size, 0
    with open(path, "rb") as handle:
        if handle.read(4) != b"RIFF":
            return 0
        while position + 8 <= size:
            handle.seek(position)
            name, length = handle.read(4), int.from_bytes(handle.read(4), "little")
            if name in (b"RIFF", b"LIST"):
                position += 12  # go on inside of it
            else:
                empty += length == 0 and name[2:] in (b"dc", b"db")
                position += 8 + length + length % 2
    return empty
