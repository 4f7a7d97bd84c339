"""What a video file holds: its frames, decoded by PyAV, how many they are, their rate, and whether the file is whole.

OpenCV would give the same pixels, but no AV1, and of an interlaced video frames that were never filled in.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from store.errors import DataError

FASTEST = 1000.0  # frames per second; headers without a rate state the 90,000 ticks of their clock


@dataclass(frozen=True)
class Measured:
    """How many frames can be decoded, and how many are shown per second (None where the file says nothing of use)."""

    frames: int
    rate: float | None


def open_video(video: str, path: Path) -> Any:
    """A video file as PyAV's container, to be closed. DataError where it holds no video that PyAV can decode."""
    try:
        container = av.open(str(path), metadata_errors="replace")  # titles come in any encoding
    except (FFmpegError, OSError, ValueError):
        container = None
    stream = container.streams.best("video") if container is not None else None
    if container is None or not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        raise DataError(
            f"video {video!r}: {path} cannot be opened as a video; is it cut off, no video, or of a rare codec? "
            "ffmpeg -i IN -c:v libx264 OUT.mp4 may read it"
        )
    stream.thread_type = "AUTO"
    return container


def decode_video(container: Any) -> Iterator[av.VideoFrame]:
    """The frames of an opened video in the order they are shown, up to the first that cannot be decoded."""
    try:
        yield from container.decode(container.streams.best("video"))
    except FFmpegError:
        return  # those after it would have the wrong numbers


def to_image(frame: av.VideoFrame, converter: VideoReformatter) -> np.ndarray:
    """(h, w, 3) uint8 BGR, upright. converter: one and the same for all frames of a video; making it takes a while."""
    image = converter.reformat(frame, format="bgr24", interpolation="BICUBIC").to_ndarray()
    return np.ascontiguousarray(np.rot90(image, frame.rotation // 90))


def measure_video(video: str, path: Path) -> Measured:
    """Decode it all to see what there is; again only where the file has changed.

    DataError where there is nothing to decode, or where much of the file is missing.
    """
    status = path.stat()
    return _measure(video, path, (status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=4096)
def _measure(video: str, path: Path, version: tuple[int, int]) -> Measured:
    """version: size and time of the file."""
    times: list[float | None] = []
    packets, end, damaged = 0, 0.0, False  # end: of picture and sound, seconds
    with open_video(video, path) as container:
        stream = container.streams.best("video")
        codec, nominal = stream.codec_context.name, float(stream.guessed_rate or 0)
        try:
            for packet in container.demux():
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream_index != stream.index:
                    continue
                packets += packet.size > 0
                try:
                    times += [] if damaged else [frame.time for frame in packet.decode()]
                except FFmpegError:
                    damaged = True
        except FFmpegError:
            damaged = True
        if not times:
            raise DataError(f"video {video!r}: {path} has no frame that can be decoded (codec {codec})")
        missing = packets - len(times) if damaged else 0
        if container.format.name == "avi" and stream.frames > len(times):
            missing = max(missing, stream.frames - _empty_avi_frames(path) - len(times))
        if "matroska" in container.format.name and container.duration and end:  # whose header counts no frames
            missing = max(missing, round(len(times) * (container.duration / 1e6 / end - 1)))
    if missing > max(2, 0.05 * (len(times) + missing)) or _is_cut_off(path):
        raise DataError(
            f"video {video!r}: {path} is truncated: {len(times)} frames can be decoded, not those after them; "
            "copy it again, or re-encode what is there (ffmpeg -i IN -c:v libx264 OUT.mp4)"
        )
    return Measured(len(times), _rate(times, nominal))


def _rate(times: list[float | None], nominal: float) -> float | None:
    """Frames per second: the nominal rate where the frames' times, often rounded, bear it out; else their average."""
    first, last = times[0], times[-1]
    rate = nominal
    if first is not None and last is not None and last > first:
        average = (len(times) - 1) / (last - first)
        rate = nominal if abs(nominal - average) < 0.05 * average else average
    return rate if 0 < rate <= FASTEST else None


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
