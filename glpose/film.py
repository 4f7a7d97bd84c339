"""Videos for people to look at: H.264 in MP4, which browsers, phones and slides play."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError

from store.errors import DataError

QUALITY = {"crf": "20", "preset": "veryfast"}


def write_film(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write (h, w, 3) uint8 BGR frames as an MP4 of the first one's size, made even as H.264's colours need it.

    Others are fitted into that size, on black. Without frames nothing is written. DataError where this FFmpeg cannot.
    """
    container: Any = None
    stream: Any = None
    try:
        for frame in frames:
            if container is None:
                container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=QUALITY)
                stream.height, stream.width = (side + side % 2 for side in frame.shape[:2])
                stream.pix_fmt = "yuv420p"
            fitted = av.VideoFrame.from_ndarray(_fitted(frame, stream.height, stream.width), format="bgr24")
            container.mux(stream.encode(fitted))
        if container is not None:
            container.mux(stream.encode())  # what the encoder still holds
    except FFmpegError as error:
        raise DataError(f"{path} cannot be written as H.264 in MP4 ({error}); go on without a video") from None
    finally:
        if container is not None:
            container.close()


def _fitted(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """A frame of this size: as it is, with an edge repeated, or scaled and centred on black."""
    missing = height - frame.shape[0], width - frame.shape[1]
    if all(0 <= side <= 1 for side in missing):
        return np.ascontiguousarray(np.pad(frame, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge"))
    factor = min(height / frame.shape[0], width / frame.shape[1])
    size = max(1, round(frame.shape[1] * factor)), max(1, round(frame.shape[0] * factor))
    scaled = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (height - scaled.shape[0]) // 2, (width - scaled.shape[1]) // 2
    out[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return out
