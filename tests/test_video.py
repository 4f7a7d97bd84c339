"""Frames of image folders and video files: order, what is decoded, and what is wrong with damaged files."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from glpose.data.video import ImageFrames, VideoFileFrames, decode_image, frame_rate, open_frames
from store.errors import DataError

HEIGHT, WIDTH, LENGTH = 48, 64, 12


def picture(frame: int) -> np.ndarray:
    """A flat grey that names the frame, with some texture so that files have bytes to lose."""
    image = np.full((HEIGHT, WIDTH, 3), 20 * (frame % LENGTH), np.uint8)
    image[::2, ::2] += np.random.default_rng(frame).integers(0, 8, (HEIGHT // 2, WIDTH // 2, 3), dtype=np.uint8)
    return image


def frame_of(image: np.ndarray) -> int:
    return round(float(image[1::2, 1::2].mean()) / 20)


def write_images(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for frame, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), picture(frame))
    return folder


def write_file(path: Path, codec: str = "mp4v", length: int = LENGTH) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for frame in range(length):
        writer.write(picture(frame))
    writer.release()
    return path


def encode(
    path: Path,
    codec: str,
    pictures: list[np.ndarray],
    options: dict[str, str],
    pixels: str = "yuv420p",
    matrix: int = 2,
    milliseconds: list[int] | None = None,
) -> Path:
    """What OpenCV's writer cannot write. matrix: of the colours, by FFmpeg's number. milliseconds: of each frame."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], pixels
        stream.codec_context.colorspace = matrix
        for number, image in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
            frame.pts = milliseconds[number] if milliseconds else 100 * number
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def by_opencv(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


def cut(path: Path, part: float) -> Path:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    return path


def index_first(path: Path) -> Path:
    """Move an MP4's index (moov) before its frames (mdat), as files for the web have it; offsets move along."""
    raw, boxes, position = path.read_bytes(), {}, 0
    while position < len(raw):
        size = int.from_bytes(raw[position : position + 4], "big")
        boxes[raw[position + 4 : position + 8]] = raw[position : position + size]
        position += size
    moov = bytearray(boxes.pop(b"moov"))
    table = moov.index(b"stco") + 8
    for entry in range(int.from_bytes(moov[table : table + 4], "big")):
        at = table + 4 + 4 * entry
        moov[at : at + 4] = (int.from_bytes(moov[at : at + 4], "big") + len(moov)).to_bytes(4, "big")
    path.write_bytes(boxes.pop(b"ftyp") + moov + b"".join(boxes.values()))
    return path


# ---------------------------------------------------------------------------------------------------- image folders
def test_images_go_by_number(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "clip", [f"{frame}.png" for frame in range(LENGTH)])
    source = open_frames("clip", folder)
    assert source.names == [f"clip/{frame}.png" for frame in range(LENGTH)]
    assert [frame_of(image) for _, image in source.read(range(LENGTH))] == list(range(LENGTH))


def test_images_with_leading_zeros_and_words(tmp_path: Path) -> None:
    names = ["a_000009.png", "a_000010.png", "b1_2.png", "b1_10.png", "b2_1.png"]
    source = open_frames("v", write_images(tmp_path / "v", names))
    assert source.names == [f"v/{name}" for name in names]


def test_only_images_count(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "clip", ["1.png", "2.PNG", "3.jpeg"])
    (folder / "notes.txt").write_text("x")
    (folder / "._1.png").write_bytes(b"what macOS leaves on foreign disks")
    assert open_frames("clip", folder).names == ["clip/1.png", "clip/2.PNG", "clip/3.jpeg"]


@pytest.mark.parametrize("kind", ["images", "file"])
def test_wanted_frames_come_once_in_order(tmp_path: Path, kind: str) -> None:
    if kind == "images":
        source = open_frames("v", write_images(tmp_path / "v", [f"{frame:03d}.png" for frame in range(LENGTH)]))
    else:
        source = open_frames("v", write_file(tmp_path / "v.avi", "MJPG"))
    found = [(frame, frame_of(image)) for frame, image in source.read([7, 2, 7, 0, 11, 2])]
    assert found == [(0, 0), (2, 2), (7, 7), (11, 11)]
    assert list(source.read([])) == []
    assert source.size() == (HEIGHT, WIDTH)
    for _, image in source.read([3]):
        assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8


def test_images_are_bgr_and_exact(tmp_path: Path) -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0], image[..., 2] = 200, 30
    folder = tmp_path / "v"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), image)
    assert np.array_equal(next(open_frames("v", folder).read([0]))[1], image)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"video 'v': .*absent does not exist"):
        open_frames("v", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"video 'v': .*empty holds no images \(.*\.jpg"):
        open_frames("v", tmp_path / "empty")


def test_a_listed_image_that_is_absent(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "v", ["0.png", "1.png"])
    source = ImageFrames("v", (folder / "0.png", folder / "gone.png"), ["v/0.png", "v/gone.png"])
    assert next(source.read([0]))[0] == 0
    for use in (lambda: list(source.read([0, 1])), source.fingerprint):
        with pytest.raises(DataError, match=r"video 'v': frame 1 is listed but .*gone\.png does not exist"):
            use()


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tiff"])
@pytest.mark.parametrize("part", [0, 0.02, 0.5, 0.95])
def test_an_image_that_is_cut_off(tmp_path: Path, suffix: str, part: float) -> None:
    folder = write_images(tmp_path / "v", [f"0.{suffix}", f"1.{suffix}"])
    cut(folder / f"1.{suffix}", part)
    source = open_frames("v", folder)
    assert next(source.read([0]))[1].shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(DataError, match=r"video 'v': frame 1 cannot be decoded \(.*: cut off, or not an image"):
        list(source.read([1]))


def test_opencv_alone_would_fill_a_cut_jpeg_with_grey(tmp_path: Path) -> None:
    path = write_images(tmp_path / "v", ["0.jpg"]) / "0.jpg"
    raw = cut(path, 0.6).read_bytes()
    assert cv2.imread(str(path)) is not None  # why decode_image looks for itself
    assert decode_image(raw) is None


def test_jpegs_with_a_thumbnail_or_a_tail(tmp_path: Path) -> None:
    raw = (write_images(tmp_path / "v", ["0.jpg"]) / "0.jpg").read_bytes()
    thumbnail = b"\xff\xe1" + (2 + len(raw)).to_bytes(2, "big") + raw  # a whole JPEG in a segment of its own
    nested = raw[:2] + thumbnail + raw[2:]
    whole = decode_image(raw)
    assert whole is not None
    for good in (nested, raw + b"\0" * 100):
        decoded = decode_image(good)
        assert decoded is not None and np.array_equal(decoded, whole)
    assert decode_image(nested[:-40]) is None
    assert decode_image(b"") is None and decode_image(b"no image") is None


def test_an_image_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "v" / "0.png").mkdir(parents=True)
    with pytest.raises(DataError, match="frame 0 cannot be read"):
        list(open_frames("v", tmp_path / "v").read([0]))


# ------------------------------------------------------------------------------------------------------ video files
@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "mp4v"), ("v.avi", "MJPG"), ("v.avi", "XVID")])
def test_video_files(tmp_path: Path, name: str, codec: str) -> None:
    source = open_frames("v", write_file(tmp_path / name, codec))
    assert isinstance(source, VideoFileFrames) and source.length == LENGTH
    assert source.names[0] == "v/000000.jpg" and len(source.names) == LENGTH
    assert [frame_of(image) for _, image in source.read(range(LENGTH))] == list(range(LENGTH))
    assert [frame_of(image) for _, image in source.read([4, 9])] == [4, 9]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("v.mp4", "libx264", {"flags": "+ilme+ildct", "x264-params": "tff=1"}),  # interlaced
        ("v.mpg", "mpeg2video", {"flags": "+ilme+ildct"}),
        ("v.mp4", "libsvtav1", {}),
    ],
)
def test_what_opencv_cannot_decode(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    pictures = [cv2.resize(picture(frame), (128, 96)) for frame in range(LENGTH)]
    source = open_frames("v", encode(tmp_path / name, codec, pictures, options))
    found = [image for _, image in source.read(range(LENGTH))]
    assert [round(image.mean()) for image in found] == pytest.approx([image.mean() for image in pictures], abs=5)


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "matrix"),
    [
        ("v.mp4", "libx264", "yuv420p", 1),
        ("v.mp4", "libx264", "yuvj420p", 5),
        ("v.mkv", "libx264", "yuv444p10le", 9),
        ("v.webm", "libvpx-vp9", "yuv420p", 1),
        ("v.avi", "mjpeg", "yuvj420p", 5),
        ("odd.mkv", "ffv1", "yuv420p", 2),
    ],
)
def test_pixels_are_those_that_opencv_gives(tmp_path: Path, name: str, codec: str, pixels: str, matrix: int) -> None:
    side = slice(0, -1 if name == "odd.mkv" else None)
    pictures = [cv2.applyColorMap(picture(frame), cv2.COLORMAP_JET)[side, side] for frame in range(LENGTH)]
    path = encode(tmp_path / name, codec, pictures, {}, pixels, matrix)
    found = [image for _, image in open_frames("v", path).read(range(LENGTH))]
    assert np.array_equal(found, by_opencv(path))


@pytest.mark.parametrize("turn", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_films_of_turned_phones_are_upright(tmp_path: Path, turn: tuple[int, int, int, int]) -> None:
    path = write_file(tmp_path / "v.mp4")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"tkhd") + 44  # the track's matrix, in 1 / 65536
    for place, value in zip((0, 4, 12, 16), turn, strict=True):
        raw[at + place : at + place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(raw)
    source = open_frames("v", path)
    assert source.size() == ((WIDTH, HEIGHT) if turn[0] == 0 else (HEIGHT, WIDTH))
    assert np.array_equal([image for _, image in source.read(range(LENGTH))], by_opencv(path))


@pytest.mark.parametrize("content", [b"", b"this is no video\n" * 50])
@pytest.mark.parametrize("name", ["v.mp4", "v.avi", "v.mkv"])
def test_a_file_that_is_no_video(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"video 'v': .*{name} cannot be opened as a video; is it cut off"):
        open_frames("v", tmp_path / name)


@pytest.mark.parametrize("part", [0.3, 0.7, 0.97])
@pytest.mark.parametrize("kind", ["mp4", "mp4 with its index first", "avi MJPG", "avi XVID"])
def test_a_video_that_is_cut_off(tmp_path: Path, kind: str, part: float) -> None:
    path = write_file(tmp_path / f"v.{kind[:3]}", kind[4:] if kind.startswith("avi") else "mp4v", length=40)
    if "index first" in kind:
        index_first(path)
    assert open_frames("v", path).names[-1] == "v/000039.jpg"
    with pytest.raises(DataError, match=r"video 'v': .*v\.(avi|mp4) (is truncated: \d+ frames can|cannot be opened)"):
        open_frames("v", cut(path, part))


def test_bytes_after_the_end_and_lengths_never_filled_in_are_no_truncation(tmp_path: Path) -> None:
    path = write_file(tmp_path / "v.mp4")
    path.write_bytes(path.read_bytes() + b"\0" * 64)
    assert len(open_frames("v", path).names) == LENGTH
    raw = write_file(tmp_path / "v.avi", "MJPG").read_bytes()
    for number, content in enumerate((raw + b"junk after it", raw[:4] + bytes(4) + raw[8:])):
        (tmp_path / f"{number}.avi").write_bytes(content)
        assert len(open_frames("v", tmp_path / f"{number}.avi").names) == LENGTH


def test_a_film_cut_without_encoding_it_anew_is_whole(tmp_path: Path) -> None:
    """Its edit list hides the frames between the key frame before the cut and the cut."""
    path = tmp_path / "v.mp4"
    whole = encode(tmp_path / "whole.mp4", "libx264", [picture(frame) for frame in range(40)], {"bf": "0"})
    with av.open(str(whole)) as read, av.open(str(path), "w") as write:
        stream = read.streams.video[0]
        copied = write.add_stream_from_template(stream)
        for packet in read.demux(stream):
            if packet.pts is not None and packet.dts is not None and packet.time_base is not None:
                packet.pts, packet.dts = (at - round(1.5 / packet.time_base) for at in (packet.pts, packet.dts))
                packet.stream = copied
                write.mux(packet)
    source = open_frames("v", path)
    assert len(source.names) == 25 and frame_rate(source) == pytest.approx(10)
    assert [frame_of(image) for _, image in source.read([0, 24])] == [15 % LENGTH, 39 % LENGTH]


@pytest.mark.parametrize(("name", "codec"), [("v.mkv", "libx264"), ("v.webm", "libvpx-vp9")])
def test_frames_of_uneven_times_are_whole_and_cut_ones_are_not(tmp_path: Path, name: str, codec: str) -> None:
    times = [50 * frame + 200 * (frame // 2) for frame in range(40)]
    path = encode(tmp_path / name, codec, [picture(frame) for frame in range(40)], {}, milliseconds=times)
    source = open_frames("v", path)
    assert len(source.names) == 40 and frame_rate(source) == pytest.approx(39 / 5.75, rel=0.01)
    with pytest.raises(DataError, match=rf"{name} is truncated: \d+ frames can be decoded"):
        open_frames("v", cut(path, 0.6))


def test_a_damaged_film_is_no_shorter_film(tmp_path: Path) -> None:
    path = write_file(tmp_path / "v.mp4", length=40)
    raw = path.read_bytes()
    half = len(raw) // 2
    path.write_bytes(raw[: half // 2] + bytes(half - half // 2) + raw[half:])
    with pytest.raises(DataError, match=r"is truncated: \d+ frames can be decoded"):
        open_frames("v", path)


def test_a_video_that_shrinks_meanwhile(tmp_path: Path) -> None:
    path = write_file(tmp_path / "v.avi", "MJPG")
    source = open_frames("v", path)
    write_file(path, "MJPG", length=5)
    with pytest.raises(DataError, match=r"frame 9 of 12 cannot be decoded .*; the file has changed or is damaged"):
        list(source.read([1, 9]))
    assert len(open_frames("v", path).names) == 5  # counted anew


# ----------------------------------------------------------------------------------------------------- fingerprints
def test_uncompressed_frames_count_by_their_pixels(tmp_path: Path) -> None:
    path = tmp_path / "v" / "0.bmp"
    path.parent.mkdir()
    found = []
    for value in (0, 255):
        cv2.imwrite(str(path), np.full((8, 8, 3), value, np.uint8))
        found.append(open_frames("v", path.parent).fingerprint())
    assert found[0] != found[1]


def test_fingerprints_depend_on_content_not_place(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a" / "v", ["0.png", "1.png"])
    moved = Path(shutil.copytree(folder, tmp_path / "b" / "v"))
    assert open_frames("v", folder).fingerprint() == open_frames("v", moved).fingerprint()
    before = open_frames("v", moved).fingerprint()
    cv2.imwrite(str(moved / "1.png"), np.zeros((4, 4, 3), np.uint8))
    changed = open_frames("v", moved).fingerprint()
    (moved / "1.png").rename(moved / "2.png")
    assert len({before, changed, open_frames("v", moved).fingerprint()}) == 3


def test_fingerprints_of_files(tmp_path: Path) -> None:
    path = write_file(tmp_path / "v.avi", "MJPG")
    copy = Path(shutil.copy(path, tmp_path / "w.avi"))
    assert open_frames("v", path).fingerprint() == open_frames("v", copy).fingerprint()
    write_file(copy, "MJPG", length=LENGTH - 1)
    assert open_frames("v", path).fingerprint() != open_frames("v", copy).fingerprint()


# ------------------------------------------------------------------------------------------------------- real files
def test_real_videos(shared_data: Path) -> None:
    folder = shared_data / "real" / "videos"
    lengths = {path.name: len(open_frames("v", path).names) for path in sorted(folder.glob("mm*_demo.mp4"))}
    assert lengths == {"mmaction2_demo.mp4": 280, "mmpose_demo.mp4": 5, "mmtracking_demo.mp4": 8}
    assert open_frames("v", folder / "mmpose_demo.mp4").size() == (540, 960)


def test_real_jpegs_decode_as_opencv_decodes_them(shared_data: Path) -> None:
    paths = sorted((shared_data / "real" / "bonn_060470979" / "videos").rglob("*.jpg"))[::20]
    assert len(paths) >= 2
    for path in paths:
        assert np.array_equal(decode_image(path.read_bytes()), cv2.imread(str(path)))  # pyright: ignore[reportArgumentType]


def test_the_rate_of_a_file_and_of_images(tmp_path: Path) -> None:
    assert frame_rate(open_frames("v", write_file(tmp_path / "v.mp4"))) == 10
    assert frame_rate(open_frames("images", write_images(tmp_path / "images", ["1.png", "2.png"]))) is None
