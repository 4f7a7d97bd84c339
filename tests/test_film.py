"""Videos for people to look at."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from glpose.film import write_film
from store.errors import DataError


def decoded(path: Path) -> tuple[list[np.ndarray], float, str, str]:
    """Frames, frames per second, codec and form of colours."""
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(stream)]
        assert stream.average_rate is not None
        return frames, float(stream.average_rate), stream.codec_context.name, str(stream.codec_context.pix_fmt)


def grey(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize("fps", [25.0, 29.97, 12.5, 30000 / 1001])
def test_frames_come_back_at_their_rate(tmp_path: Path, fps: float) -> None:
    write_film(tmp_path / "a.mp4", [grey(48, 64, value) for value in range(0, 250, 25)], fps)
    frames, rate, codec, colours = decoded(tmp_path / "a.mp4")
    assert (len(frames), codec, colours) == (10, "h264", "yuv420p") and rate == pytest.approx(fps, rel=1e-4)
    assert [round(frame.mean()) for frame in frames] == pytest.approx(list(range(0, 250, 25)), abs=4)


def test_odd_sizes_are_made_even_and_others_fitted(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", [grey(45, 63, 200), grey(90, 63, 200), grey(20, 31, 200)], 10)
    frames, *_ = decoded(tmp_path / "a.mp4")
    assert [frame.shape for frame in frames] == [(46, 64, 3)] * 3
    assert frames[0].min() > 180
    assert frames[1][:, 32].min() > 150 and frames[1][:, :8].max() < 60  # tall: black at its sides
    assert frames[2][23].min() > 150


def test_without_frames_nothing_is_written(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", [], 10)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent/a\.mp4 cannot be written as H\.264"):
        write_film(tmp_path / "absent" / "a.mp4", [grey(48, 64, 0)], 10)
