"""Frames of a video, from a folder of images or a video file, each decoded once, in order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from glpose.data.video_file import decode_video, measure_video, open_video, to_image
from store.errors import DataError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
UNCOMPRESSED = {".bmp", ".tif", ".tiff"}
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
    """A video file that PyAV can decode; a name per frame that it decodes, whatever the header promises."""

    video: str
    path: Path
    names: list[str]

    @property
    def length(self) -> int:
        return len(self.names)

    def read(self, wanted: Iterable[int], unreadable: dict[int, str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        frames = sorted(set(wanted))
        with open_video(self.video, self.path) as container:
            pictures, converter = decode_video(container), VideoReformatter()
            position, picture = -1, None
            for frame in frames:
                while position < frame and (picture := next(pictures, None)) is not None:
                    position += 1
                if picture is None:
                    reason = (
                        f"video {self.video!r}: frame {frame} of {self.length} cannot be decoded ({self.path}); "
                        "the file has changed or is damaged"
                    )
                    if unreadable is None:
                        raise DataError(reason)
                    unreadable[frame] = reason
                    continue
                yield frame, to_image(picture, converter)

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
        length = measure_video(video, path).frames
    return VideoFileFrames(video, path, [f"{video}/{frame:06d}.jpg" for frame in range(length)])


def read_frame(source: FrameSource, frame: int) -> np.ndarray:
    """One frame, (h, w, 3) uint8 BGR. DataError where it cannot be read."""
    return next(source.read([frame]))[1]


def frame_rate(source: FrameSource) -> float | None:
    """Frames per second of a video file, on average; None of images, and where the file says nothing of use."""
    return measure_video(source.video, source.path).rate if isinstance(source, VideoFileFrames) else None


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
