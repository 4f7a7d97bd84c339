"""Archives: a store as one HDF5 file and back, bit for bit; damage is refused, nothing half-made is seen."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from small_pipelines import snapshot, write_pipeline

import store
from stages.config import load_pipeline
from stages.export import export, import_
from stages.stage import Context
from store.archive import FORMAT, export_hdf5, import_hdf5, split_videos
from store.errors import ConfigError, CorruptData, NotCommitted, StoreError
from store.features import GROUP, FeatureWriter
from store.folder import StageFolder
from store.index import build_index, made_from, read_index, write_index
from store.record import fingerprint, make_record
from store.schema import FeatureSchema
from store.tables import write_table

RECORD = make_record("extract", 1, {"k": 1, "crop_scale": 1.25}, {"detect": make_record("detect", 1, {}, {})})
INDEX_RECORD = make_record("index", 1, {"n": 1}, {"extract": RECORD})
C, H, W = 4, 6, 5
AFFINES = np.array([[[1, 0.25, 3], [-0.25, 1, 4]], [[2, 0, 1 / 3], [0, 2, 7]], [[-1, -0.25, 6], [-0.25, 1, 4]]])
VIDEOS = {"a": 33, "b 2": 2, "empty": 0}


def schema(**changes: Any) -> FeatureSchema:
    options = {"channels": C, "height": H, "width": W, "stride": 4, "offsets": (-1, 1), "backbone": "w4", "space": "s"}
    return FeatureSchema.model_validate({**options, **changes})


def proposals(video: str, count: int, split: str) -> pd.DataFrame:
    number = np.arange(count)
    keypoints = [None if n % 2 else np.full(6, np.nan if n == 4 else n, np.float32) for n in number]
    return pd.DataFrame(
        {
            "video": [video] * count, "proposal": number, "frame": number // 2, "person": number - 1,
            "x1": number + 0.1, "y1": number + 0.2, "x2": number + 10.3, "y2": number + 20.4,
            "score": [None if n == 3 else 0.3 for n in number], "source": ["file:Zoë.json"] * count,
            "split": [split] * count, "keypoints": keypoints,
        }
    )  # fmt: skip


def write_video(root: Path, name: str, count: int, form: FeatureSchema, split: str = "train") -> None:
    rng = np.random.default_rng(count)
    with StageFolder(root / "extract").writing(RECORD, name, f"inputs of {name}") as attempt:
        with FeatureWriter(attempt.path, form, count) as writer:
            for _ in range(count):
                key = np.maximum(rng.normal(size=(form.views, C, H, W)), 0).astype(np.float32)
                local = np.maximum(rng.normal(size=(form.views, len(form.offsets), C, H, W)), 0).astype(np.float32)
                writer.append(key, local, AFFINES[: form.views])
        write_table(attempt.path, "proposals", proposals(name, count, split))
        attempt.meta = {"proposals": count, "space": "s"}


def write_index_of(root: Path, name: str, count: int) -> None:
    rng = np.random.default_rng(count)
    features = StageFolder(root / "extract").commit_of(RECORD, name)
    with StageFolder(root / "index").writing(INDEX_RECORD, name, made_from(features, {})) as attempt:
        write_index(attempt.path, build_index(rng.normal(size=(count, C)).astype(np.float32)))
        rows = max(0, count - 1)
        table = pd.DataFrame({"video": [name] * rows, "proposal": np.arange(rows), "rank": 0, "reference": rows})
        table = table.assign(reference_video=name, similarity=rng.random(rows))
        write_table(attempt.path, "neighbours", table)
        attempt.meta = {"hubness": None}


def write_store(root: Path, form: FeatureSchema, videos: dict[str, int], index: bool = False) -> store.Store:
    StageFolder(root / "extract").begin(RECORD)
    for name, count in videos.items():
        write_video(root, name, count, form, "eval" if name == "a" else "train")
    if index:
        StageFolder(root / "index").begin(INDEX_RECORD)
        for name, count in videos.items():
            write_index_of(root, name, count)
    return store.open(root)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder of three videos with an index; read only."""
    root = tmp_path_factory.mktemp("written") / "work"
    write_store(root, schema(), VIDEOS, index=True)
    return root


@pytest.fixture(scope="module")
def archive(written: Path) -> Path:
    """The export of all its videos; read only."""
    path = written.parent / "archive.h5"
    export_hdf5(store.open(written), path)
    return path


def assert_equal(got: store.Store, want: store.Store, videos: list[str]) -> None:
    assert got.videos == sorted(videos)
    assert got.record == want.record
    for video in videos:
        here, there = got.commit(video), want.commit(video)
        assert (here.files, here.meta, here.inputs) == (there.files, there.meta, there.inputs)
        assert here.digest == there.digest
        pd.testing.assert_frame_equal(got.table(video, keypoints=True), want.table(video, keypoints=True))
        one, other = got.features(video), want.features(video)
        assert one.schema == other.schema
        assert one.keys() == other.keys()
        for name in one.keys():  # noqa: SIM118 (not a dict)
            assert one[name].dtype == other[name].dtype
            assert one.dims(name) == other.dims(name)
            assert np.array_equal(one.read(name), other.read(name))
    nulls = "in proposals.parquet its box or score is not finite"  # of proposal 3, on purpose: null must travel too
    assert [line for line in got.verify() if not line.endswith(nulls)] == []


# --------------------------------------------------------------------------------------------------------- round trips
@pytest.mark.parametrize("offsets", [(-1, 1), ()])
@pytest.mark.parametrize(("dtype", "codec"), [("uint8", "crc32c"), ("float16", "zstd"), ("uint8", "zstd")])
def test_round_trip_is_bit_for_bit(tmp_path: Path, dtype: str, codec: str, offsets: tuple[int, ...]) -> None:
    form = schema(dtype=dtype, codec=codec, offsets=offsets)
    want = write_store(tmp_path / "work", form, VIDEOS)
    before = snapshot(tmp_path / "work")
    export_hdf5(want, tmp_path / "all.h5")
    assert snapshot(tmp_path / "work") == before
    found = import_hdf5(tmp_path / "all.h5", tmp_path / "new")
    assert (found.videos, found.indexed, found.rebuilt) == (sorted(VIDEOS), [], {})
    got = store.open(tmp_path / "new")
    assert_equal(got, want, list(VIDEOS))
    with pytest.raises(NotCommitted, match="no index"):
        got.neighbours()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.h5", "new", "work"]


def test_views_and_their_affines_travel(tmp_path: Path) -> None:
    want = write_store(tmp_path / "work", schema(views=3, mirrored=2), VIDEOS)
    path = tmp_path / "all.h5"
    export_hdf5(want, path)
    assert import_hdf5(path, tmp_path / "new").rebuilt == {}
    got = store.open(tmp_path / "new")
    assert_equal(got, want, list(VIDEOS))
    affines = got.features("a").affine([4])
    assert affines is not None and np.array_equal(affines[0], AFFINES)
    with h5py.File(path, "r+") as file:
        array: Any = file["videos/a/affine"]
        assert [dim.label for dim in array.dims] == ["proposal", "view", "row", "column"]
        assert file["videos/a"].attrs["mirrored"] == 2
        del file["videos/a/affine"]
    with pytest.raises(CorruptData, match="affine"):
        import_hdf5(path, tmp_path / "lost")


def test_with_an_index(written: Path, archive: Path, tmp_path: Path) -> None:
    want = store.open(written)
    told: list[tuple[str, int]] = []
    found = import_hdf5(archive, tmp_path / "new", advance=lambda video, count: told.append((video, count)))
    assert (found.indexed, found.rebuilt) == (sorted(VIDEOS), {})
    assert told == [(video, 3) for video in sorted(VIDEOS)]
    got = store.open(tmp_path / "new")
    assert_equal(got, want, list(VIDEOS))
    pd.testing.assert_frame_equal(got.neighbours(), want.neighbours())
    one, other = StageFolder(tmp_path / "new" / "index"), StageFolder(written / "index")
    assert one.record_in_force() == INDEX_RECORD
    for video in VIDEOS:
        here, there = one.commit_of(INDEX_RECORD, video), other.commit_of(INDEX_RECORD, video)
        assert (here.digest, here.inputs) == (there.digest, there.inputs)
        assert read_index(one.attempt_path(here)).ntotal == VIDEOS[video]


def test_an_import_can_be_exported_again(archive: Path, tmp_path: Path) -> None:
    import_hdf5(archive, tmp_path / "one")
    export_hdf5(store.open(tmp_path / "one"), tmp_path / "again.h5")
    import_hdf5(tmp_path / "again.h5", tmp_path / "two")
    assert_equal(store.open(tmp_path / "two"), store.open(tmp_path / "one"), list(VIDEOS))


def test_some_videos_and_a_split(written: Path, tmp_path: Path) -> None:
    want = store.open(written)
    export_hdf5(want, tmp_path / "b.h5", ["b 2"])
    import_hdf5(tmp_path / "b.h5", tmp_path / "new")
    assert_equal(store.open(tmp_path / "new"), want, ["b 2"])
    assert len(store.open(tmp_path / "new").neighbours()) == 1
    assert (split_videos(want, "eval"), split_videos(want, "train")) == (["a"], ["b 2"])
    with pytest.raises(StoreError, match="no proposals of a split 'test'; its splits: eval, train"):
        split_videos(want, "test")
    with pytest.raises(StoreError, match="no features of a video 'nope'"):
        export_hdf5(want, tmp_path / "nope.h5", ["nope"])
    assert not (tmp_path / "nope.h5").exists()


def test_other_bytes_of_the_same_contents_are_told(tmp_path: Path) -> None:
    root = tmp_path / "work"
    stage = StageFolder(root / "extract")
    stage.begin(RECORD)
    with stage.writing(RECORD, "a", "inputs") as attempt:
        with FeatureWriter(attempt.path, schema(offsets=()), 2) as writer:
            for value in (1, 2):
                writer.append(np.full((1, C, H, W), value, np.float32), np.zeros((1, 0, C, H, W), np.float32))
        description = attempt.path / GROUP / "key" / "zarr.json"  # as another release of zarr might write it
        description.write_text(json.dumps(json.loads(description.read_text()), indent=7))
        write_table(attempt.path, "proposals", proposals("a", 2, "train"))
        attempt.meta = {"proposals": 2}
    want = store.open(root)
    export_hdf5(want, tmp_path / "a.h5")
    found = import_hdf5(tmp_path / "a.h5", tmp_path / "new")
    assert found.rebuilt == {"a": [f"{GROUP}/key/zarr.json"]}
    got = store.open(tmp_path / "new")
    assert np.array_equal(got.features("a").key(), want.features("a").key())
    assert got.verify() == []


# ------------------------------------------------------------------------------------------------------ for any reader
def test_h5py_alone_reads_it(written: Path, archive: Path) -> None:
    want = store.open(written)
    with h5py.File(archive, "r") as file:
        assert file.attrs["format"] == b"glpose archive" and file.attrs["version"] == FORMAT
        description: Any = file.attrs["description"]
        assert "key * key_scale" in description.decode()
        record: Any = file["record"]
        assert json.loads(record[()]) == RECORD
        assert record.attrs["digest"].decode() == fingerprint(RECORD)
        group: Any = file["videos/a"]
        assert (group.attrs["dtype"], group.attrs["channels"], group.attrs["space"]) == (b"uint8", C, b"s")
        assert group.attrs["offsets"].tolist() == [-1, 1]
        features = want.features("a")
        for name in features.keys():  # noqa: SIM118 (not a dict)
            assert tuple(dim.label for dim in group[name].dims) == features.dims(name)
            assert group[name].fletcher32
        values = group["local"][:] * group["local_scale"][:][..., None, None]
        assert np.array_equal(values, features.local())
        assert group["local"].chunks == (1, 1, 1, C, H, W)
        assert group["local"].dims[2][0][:].tolist() == [-1, 1]
        table = group["proposals"]
        assert table["x2"][:].tolist() == want.table("a")["x2"].tolist()
        assert table["source"][0].decode() == "file:Zoë.json"
        assert table["keypoints"].shape == (33, 6)
        assert table["keypoints.length"][:3].tolist() == [6, -1, 6]
        assert table["score.valid"][:5].tolist() == [1, 1, 1, 0, 1]
        assert set(json.loads(group["commit"][()])["files"]) == set(want.commit("a").files)
        assert group["index/vectors"].shape == (33, C)


# ------------------------------------------------------------------------------------------------------------- refusals
def test_a_folder_that_holds_something_is_refused(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="full holds something already"):
        import_hdf5(archive, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
    with pytest.raises(StoreError, match=r"notes\.txt holds something already"):
        import_hdf5(archive, tmp_path / "full" / "notes.txt")
    (tmp_path / "bare").mkdir()
    import_hdf5(archive, tmp_path / "bare")
    assert store.open(tmp_path / "bare").videos == sorted(VIDEOS)


def test_an_existing_file_is_not_overwritten(written: Path, archive: Path) -> None:
    before = archive.read_bytes()
    with pytest.raises(StoreError, match="exists already"):
        export_hdf5(store.open(written), archive)
    assert archive.read_bytes() == before


def test_a_damaged_video_is_not_exported(written: Path, tmp_path: Path) -> None:
    root = shutil.copytree(written, tmp_path / "work", symlinks=True)
    shard = next(path for path in root.glob("extract/data/a/*/features.zarr/key/c/**/*") if path.is_file())
    content = bytearray(shard.read_bytes())
    content[40] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptData, match=r"'a' of extract cannot be exported: features\.zarr/key/c.*checksum"):
        export_hdf5(store.open(root), tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_a_newer_or_foreign_file_is_refused(archive: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(archive, tmp_path / "newer.h5"))
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = FORMAT + 1
    with pytest.raises(StoreError, match=f"has format {FORMAT + 1}; this program reads up to {FORMAT}: upgrade"):
        import_hdf5(path, tmp_path / "new")
    with h5py.File(path, "w") as file:
        file["something"] = 1
    with pytest.raises(CorruptData, match=r"newer\.h5 is damaged"):
        import_hdf5(path, tmp_path / "new")
    path.write_text("not HDF5")
    with pytest.raises(CorruptData, match=r"newer\.h5 is damaged"):
        import_hdf5(path, tmp_path / "new")
    with pytest.raises(NotCommitted, match=r"absent\.h5 does not exist"):
        import_hdf5(tmp_path / "absent.h5", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of one video of two proposals; read only."""
    folder = tmp_path_factory.mktemp("small")
    export_hdf5(write_store(folder / "work", schema(), {"clip": 2}, index=True), folder / "a.h5")
    return folder / "a.h5"


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_refused_or_was_of_no_use(small: Path, tmp_path: Path, seed: int) -> None:
    want = store.open(small.parent / "work").commit("clip")
    sound = small.read_bytes()
    rng = np.random.default_rng(seed)
    refused = 0
    for number, position in enumerate(rng.choice(len(sound), 10, replace=False)):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << int(rng.integers(8))
        (tmp_path / "flipped.h5").write_bytes(damaged)
        root = tmp_path / str(number)
        try:
            found = import_hdf5(tmp_path / "flipped.h5", root)
        except CorruptData as error:
            assert "flipped.h5" in str(error)
            assert not root.exists()
            refused += 1
        else:  # HDF5 leaves room between things
            assert (found.rebuilt, store.open(root).commit("clip").digest) == ({}, want.digest)
    assert refused >= 3
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["key", "local", "key_scale", "embedding", "proposals/x1", "commit", "index/vectors"])
def test_changed_values_are_refused_by_name(small: Path, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copy(small, tmp_path / "changed.h5"))
    with h5py.File(path, "r+") as file:  # HDF5's own checksums are written anew
        dataset: Any = file[f"videos/clip/{name}"]
        values = np.array(dataset[()], dataset.dtype)
        values.reshape(-1).view(np.uint8)[3] ^= 1
        dataset[...] = values
    with pytest.raises(CorruptData, match=rf"archived video 'clip': .*changed\.h5 is damaged \(/videos/clip/{name} "):
        import_hdf5(path, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["changed.h5"]


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.999])
def test_a_cut_file_is_refused(small: Path, tmp_path: Path, share: float) -> None:
    content = small.read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CorruptData, match=r"cut\.h5 is damaged"):
        import_hdf5(tmp_path / "cut.h5", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.h5"]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import store
    from store.archive import export_hdf5, import_hdf5

    def die(video, count):
        if video != "a":  # when the second of three is done
            os.kill(os.getpid(), signal.SIGKILL)

    what, source, target = sys.argv[1:]
    if what == "export":
        export_hdf5(store.open(source), Path(target), advance=die)
    else:
        import_hdf5(Path(source), Path(target), advance=die)
"""


@pytest.mark.parametrize("what", ["export", "import"])
def test_killed_half_way_leaves_nothing_under_the_name(written: Path, archive: Path, tmp_path: Path, what: str) -> None:
    source = written if what == "export" else archive
    target = tmp_path / "target"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), what, str(source), str(target)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert not target.exists()
    if what == "export":  # and what it left is in nobody's way
        export_hdf5(store.open(written), target)
    else:
        import_hdf5(archive, target)
    assert target.exists()


# ------------------------------------------------------------------------------------------------------- command bodies
@pytest.fixture
def pipeline(written: Path, tmp_path: Path) -> Context:
    """A pipeline whose work folder is a copy of `written`."""
    shutil.copytree(written, tmp_path / "work", symlinks=True)
    (tmp_path / "work" / "pipeline.json").write_text(json.dumps({"pipeline": "small"}))
    return Context(load_pipeline(write_pipeline(tmp_path), "small", ()))


def test_export_and_import_say_what_they_did(pipeline: Context, tmp_path: Path) -> None:
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    export(pipeline, tmp_path / "eval.h5", console, split="eval")
    import_(tmp_path / "eval.h5", tmp_path / "new", console)
    printed = console.export_text()
    assert "eval.h5: 1 videos, " in printed and "MB" in printed and "other splits" not in printed
    assert "new: 1 videos, 33 proposals, 1 videos with an index" in printed
    assert store.open(tmp_path / "new").videos == ["a"]


def test_export_of_a_pattern(pipeline: Context, tmp_path: Path) -> None:
    console = Console(quiet=True)
    export(Context(pipeline.config, "b*"), tmp_path / "b.h5", console)
    import_(tmp_path / "b.h5", tmp_path / "new", console)
    assert store.open(tmp_path / "new").videos == ["b 2"]
    with pytest.raises(ConfigError, match="import makes a folder of this machine"):
        import_(tmp_path / "b.h5", "s3://bucket/new", console)
    with pytest.raises(ConfigError, match=r"'x\*' matches no video with features; there are a, b 2, empty"):
        export(Context(pipeline.config, "x*"), tmp_path / "x.h5", console)
