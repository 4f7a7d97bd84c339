"""Frames of image folders and video files: order, what is decoded, and what is wrong with damaged files."""

from __future__ import annotations

import shutil
from pathlib import Path

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


def test_skipped_frames_are_grabbed_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_frames("v", write_file(tmp_path / "v.mp4"))
    calls: list[str] = []

    class Counting:
        def __init__(self, *arguments: object) -> None:
            self.capture = capture_class(*arguments)

        def grab(self) -> bool:
            calls.append("grab")
            return self.capture.grab()

        def read(self) -> tuple[bool, np.ndarray]:
            calls.append("read")
            return self.capture.read()

        def __getattr__(self, name: str) -> object:
            return getattr(self.capture, name)

    capture_class = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Counting)
    assert [frame for frame, _ in source.read([2, 5, 5])] == [2, 5]
    assert calls == ["grab", "grab", "read", "grab", "grab", "read"]


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
