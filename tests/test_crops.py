"""Crop files: exact crops in any order, enough context for every augmentation, damage refused, whole or absent."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from glpose.augmentation import sample_augmentation
from glpose.geometry import crop_affine, crop_frame, transform_points, warp_crop
from glpose.keypoints import POSETRACK
from store.crops import FORMAT, CropFile, CropSchema, CropWriter, context_region, crop_to_view, encode_jpeg
from store.errors import CorruptData, NotCommitted, StoreError

HEIGHT, WIDTH = 24, 20


def schema(**changes: Any) -> CropSchema:
    options = {"video": "clip", "height": HEIGHT, "width": WIDTH, "offsets": (-1, 1), "context": 2.2, "encoding": "raw"}
    return CropSchema.model_validate({**options, **changes})


def content(proposals: int, form: CropSchema) -> tuple[np.ndarray, np.ndarray]:
    """Smooth coloured crops, all different, and affines."""
    rng = np.random.default_rng(proposals)
    small = rng.integers(0, 256, (proposals * len(form.frames), 3, 3, 3), np.uint8)
    crops = [cv2.resize(image, (form.width, form.height), interpolation=cv2.INTER_LINEAR) for image in small]
    shape = (proposals, len(form.frames), form.height, form.width, 3)
    return np.array(crops, np.uint8).reshape(shape), rng.normal(size=(proposals, 2, 3))


def write(path: Path, form: CropSchema, proposals: int) -> tuple[np.ndarray, np.ndarray]:
    crops, affines = content(proposals, form)
    with CropWriter(path, form, proposals) as writer:
        for crop, affine in zip(crops, affines, strict=True):
            writer.append(crop, affine)
    return crops, affines


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crop file of five proposals in each encoding; read only."""
    path = tmp_path_factory.mktemp(request.param) / "clip.h5"
    write(path, schema(encoding=request.param), 5)
    return path


# ------------------------------------------------------------------------------------------------------------ contents
@pytest.mark.parametrize("offsets", [(-1, 1), ()])
@pytest.mark.parametrize("proposals", [0, 1, 5])
def test_raw_crops_come_back_exactly(tmp_path: Path, proposals: int, offsets: tuple[int, ...]) -> None:
    form = schema(offsets=offsets)
    crops, affines = write(tmp_path / "clip.h5", form, proposals)
    file = CropFile(tmp_path / "clip.h5", "clip")
    assert (len(file), file.schema) == (proposals, form)
    got, there = file.read()
    assert (got.dtype, got.shape) == (np.uint8, (proposals, 1 + len(offsets), HEIGHT, WIDTH, 3))
    assert np.array_equal(got, crops)
    assert np.array_equal(there, affines)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.h5"]
    with pytest.raises(ValueError, match="stored raw"):
        file.encoded()


@pytest.mark.parametrize("quality", [60, 95])
def test_jpeg_files_come_back_byte_for_byte(tmp_path: Path, quality: int) -> None:
    form = schema(encoding="jpeg", quality=quality)
    crops, affines = write(tmp_path / "clip.h5", form, 5)
    file = CropFile(tmp_path / "clip.h5", "clip")
    for row, files in enumerate(file.encoded()):
        for slot, encoded in enumerate(files):
            assert encoded.tobytes() == encode_jpeg(crops[row, slot], quality).tobytes()
    got, there = file.read()
    want = [cv2.imdecode(encode_jpeg(crop, quality), cv2.IMREAD_COLOR) for crop in crops.reshape(-1, *crops.shape[2:])]
    assert np.array_equal(got, np.reshape(np.array(want), crops.shape))
    assert np.abs(got.astype(int) - crops).mean() < (6 if quality == 60 else 4)
    assert np.array_equal(there, affines)


def test_an_empty_video_of_jpeg(tmp_path: Path) -> None:
    write(tmp_path / "clip.h5", schema(encoding="jpeg"), 0)
    file = CropFile(tmp_path / "clip.h5", "clip")
    assert (len(file), file.read()[0].shape, file.encoded()) == (0, (0, 3, HEIGHT, WIDTH, 3), [])


def test_any_rows_and_offsets_in_any_order(written: Path) -> None:
    file = CropFile(written, "clip")
    crops, affines = file.read()
    for rows in ([4, 0, 0, 3], np.array([2]), slice(1, 4), slice(0, 0), [], 3, -1, np.arange(5) > 2):
        chosen = np.atleast_1d(np.arange(5)[rows])
        got, there = file.read(rows)
        assert np.array_equal(got, crops[chosen])
        assert np.array_equal(there, affines[chosen])
        assert np.array_equal(file.affines(rows), affines[chosen])
    for offsets, slots in (((0,), [0]), ((1, -1), [2, 1]), ((1, 0, 1), [2, 0, 2]), ((), [])):
        got, _ = file.read([3, 1], offsets)
        assert np.array_equal(got, crops[[3, 1]][:, slots])
    with pytest.raises(IndexError):
        file.read([5])
    with pytest.raises(ValueError, match=r"are of offsets \(0, -1, 1\), not of \[2\]"):
        file.read([0], (2,))


def test_plain_h5py_reads_it(written: Path) -> None:
    file = CropFile(written, "clip")
    crops, affines = file.read()
    with h5py.File(written, "r") as plain:
        assert {name: plain.attrs[name] for name in ("format", "video", "encoding")} == {
            "format": b"glpose crops", "video": b"clip", "encoding": file.schema.encoding.encode(),
        }  # fmt: skip
        assert (plain.attrs["version"], plain.attrs["context"], plain.attrs["height"]) == (FORMAT, 2.2, HEIGHT)
        assert np.asarray(plain.attrs["offsets"]).tolist() == [-1, 1]
        stored: dict[Any, Any] = dict(plain.items())
        assert all(array.fletcher32 for array in stored.values())
        assert np.array_equal(stored["affine"][:], affines)
        if file.schema.encoding == "raw":
            assert stored["crops"].chunks == (1, 1, HEIGHT, WIDTH, 3)
            assert np.array_equal(stored["crops"][:], crops)
        else:
            ends = stored["ends"][:]
            image = cv2.imdecode(stored["jpeg"][ends[1, 0] : ends[1, 1]], cv2.IMREAD_COLOR)
            assert image is not None and np.array_equal(image, crops[1, 1])


# ------------------------------------------------------------------------------------------------------------- context
def test_a_view_of_the_paper_needs_this_much() -> None:
    region = np.array([100.0, 50.0, 30.0])
    options = {"view_size": (384, 288), "rotation": 45.0, "scale": 1.35}
    tall = context_region(region, crop_size=(10000, 10), **options)
    wide = context_region(region, crop_size=(10000, 100000), **options)
    assert np.allclose(tall[:2], [100, 50]) and np.allclose(wide[:2], [100, 50])
    assert tall[2] / 30 == pytest.approx(1.35 * (1 + 4 / 3) / np.sqrt(2) * 10 / 8)  # width decides: 2.23
    assert wide[2] * (9998 / 100000) / 40 == pytest.approx(1.35 * 1.25)  # height decides: 1.69


def test_every_augmented_view_lies_inside_the_crop() -> None:
    rng = np.random.default_rng(0)
    view, crop, angle, scale = (64, 48), (150, 150), 45.0, (0.65, 1.35)
    for _ in range(300):
        low = rng.uniform(0, 300, 2)
        box = np.array([*low, *(low + rng.uniform(5, 200, 2))])
        keypoints = np.column_stack([rng.uniform(box[:2], box[2:], (15, 2)), np.full(15, 2.0)])
        upper = np.isin(np.arange(15), POSETRACK.upper_body)
        regions = [crop_frame(box, view, 1.25)]
        for half in (keypoints[upper, :2], keypoints[~upper, :2]):  # as `glpose.augmentation` shows half a body
            centre, extent = half.mean(axis=0), np.ptp(half, axis=0) / 2
            regions.append(crop_frame([*(centre - extent), *(centre + extent)], view, 1.5))
        stored = crop_affine(context_region(np.array(regions), view, crop, rotation=angle, scale=scale[1]), crop)
        drawn = sample_augmentation(
            rng, box, keypoints, POSETRACK, view, 1.25, rotation=angle, scale=scale, half_body=0.5, flip=0.5
        )
        back = np.linalg.inv(np.vstack([crop_to_view(stored, drawn.affine), [0, 0, 1]]))[:2]
        corners = transform_points(np.array([[0.0, 0], [47, 0], [0, 63], [47, 63]]), back)
        assert (corners >= 0).all() and (corners <= 149).all(), corners


def test_a_view_cut_from_the_crop_is_that_cut_from_the_frame() -> None:
    rng = np.random.default_rng(1)
    frame = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    region = crop_frame([140, 80, 190, 170], (64, 48), 1.25)
    stored = crop_affine(context_region(region, (64, 48), (180, 180), rotation=45, scale=1.35), (180, 180))
    crop = warp_crop(frame, stored, (180, 180))
    view = crop_affine(region * [1, 1, 1.2], (64, 48), 31.0)
    direct = warp_crop(frame, view, (64, 48)).astype(int)
    cut = warp_crop(crop, crop_to_view(stored, view), (64, 48)).astype(int)
    assert np.abs(cut - direct).max() <= 4
    assert np.ptp(direct) > 150  # there was something to see


# ------------------------------------------------------------------------------------------------------------ processes
def first_crop(file: CropFile) -> tuple[np.ndarray, np.ndarray]:
    return file.read([4], (1,))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes_read_the_same(written: Path, method: str) -> None:
    file = CropFile(written, "clip")
    want = file.read([4], (1,))
    copy = pickle.loads(pickle.dumps(file))
    assert np.array_equal(first_crop(copy)[0], want[0])
    with multiprocessing.get_context(method).Pool(1) as pool:
        got = pool.apply(first_crop, (file,))
    assert np.array_equal(got[0], want[0]) and np.array_equal(got[1], want[1])
    assert np.array_equal(first_crop(file)[0], want[0])
    file.close()
    assert np.array_equal(first_crop(file)[0], want[0])


# ------------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("announced", [0, 2, 4])
def test_wrong_count_is_refused(tmp_path: Path, announced: int) -> None:
    crops, affines = content(3, schema())
    wrong = pytest.raises(ValueError, match=f"{announced} proposals were announced")
    with wrong, CropWriter(tmp_path / "clip.h5", schema(), announced) as writer:
        for crop, affine in zip(crops, affines, strict=True):
            writer.append(crop, affine)
    assert list(tmp_path.iterdir()) == []


def test_wrong_crops_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    crops, affines = content(1, schema())
    for crop, affine, message in (
        (crops[0][:2], affines[0], "crops must be uint8"),
        (crops[0].astype(np.float32), affines[0], "crops must be uint8"),
        (crops[0], affines[0][:1], "an affine must be"),
        (crops[0], affines[0] * np.nan, "an affine must be"),
    ):
        with pytest.raises(ValueError, match=message), CropWriter(tmp_path / "clip.h5", schema(), 1) as writer:
            writer.append(crop, affine)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_is_never_returned_as_data(written: Path, tmp_path: Path, seed: int) -> None:
    crops, affines = CropFile(written, "clip").read()
    sound = written.read_bytes()
    rng = np.random.default_rng(seed)
    refused = 0
    for position in rng.choice(len(sound), 60, replace=False):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{position}.h5"
        path.write_bytes(damaged)
        try:
            got = CropFile(path, "clip").read()
        except CorruptData as error:
            assert "'clip'" in str(error) and path.name in str(error)
            refused += 1
        else:  # HDF5 leaves room between things
            assert np.array_equal(got[0], crops) and np.array_equal(got[1], affines)
    assert refused >= 10


@pytest.mark.parametrize("share", [0, 0.2, 0.6, 0.999])
def test_a_cut_file_is_refused(written: Path, tmp_path: Path, share: float) -> None:
    whole = written.read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CorruptData, match=r"crops of 'clip': .*cut\.h5 is damaged"):
        CropFile(tmp_path / "cut.h5", "clip")


def test_newer_absent_and_foreign_files_are_refused(written: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(written, tmp_path / "clip.h5"))
    with pytest.raises(CorruptData, match=r"crops of 'other': .*clip\.h5 holds those of 'clip'"):
        CropFile(path, "other")
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = FORMAT + 1
    with pytest.raises(StoreError, match=f"has format {FORMAT + 1}; this program reads up to {FORMAT}: upgrade glpose"):
        CropFile(path, "clip")
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = np.bytes_(b"glpose archive")
    with pytest.raises(CorruptData, match="is not a glpose crops file"):
        CropFile(path, "clip")
    with pytest.raises(NotCommitted, match=r"crops of 'clip': .*absent\.h5 does not exist"):
        CropFile(tmp_path / "absent.h5", "clip")


def test_a_file_that_lacks_proposals_is_refused(written: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(written, tmp_path / "clip.h5"))
    with h5py.File(path, "r+") as file:
        affine: Any = file["affine"]
        affine.resize(4, axis=0)
    with pytest.raises(CorruptData, match=r"clip\.h5 is damaged"):
        CropFile(path, "clip")


WRITING = """
    import os, resource, signal, sys
    from pathlib import Path
    import numpy as np
    from store.crops import CropSchema, CropWriter

    what, path = sys.argv[1:]
    if what == "limit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    form = CropSchema(video="clip", height=100, width=100, offsets=(1,), context=1, encoding="raw")
    noise = np.random.default_rng(0).integers(0, 256, (2, 100, 100, 3), np.uint8)
    try:
        with CropWriter(Path(path), form, 400) as writer:
            for number in range(400):
                writer.append(noise, np.eye(2, 3))
                if what == "kill" and number == 200:
                    os.kill(os.getpid(), signal.SIGKILL)
    except OSError as error:
        print(number, error.strerror)
"""


def run(what: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITING), what, str(path)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_killed_writer_leaves_no_file_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "clip.h5"
    assert run("kill", path).returncode == -signal.SIGKILL
    assert not path.exists()
    left = list(tmp_path.iterdir())
    write(path, schema(), 2)
    assert len(CropFile(path, "clip")) == 2
    assert sorted(tmp_path.iterdir()) == sorted([*left, path])


def test_a_write_that_fails_ends_cleanly(tmp_path: Path) -> None:
    done = run("limit", tmp_path / "clip.h5")
    assert (done.returncode, done.stderr) == (0, "")  # HDF5 itself would crash the process at its end
    number, reason = done.stdout.strip().split(" ", 1)
    assert reason == "File too large" and 10 <= int(number) < 399  # told long before all was written
    assert list(tmp_path.iterdir()) == []
