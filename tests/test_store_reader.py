"""What users open: tables, features and neighbours of a small store, its faults found and its files never changed."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_pipelines import snapshot

import store
from store.errors import CorruptData, DiskFull, NotCommitted, StoreError
from store.features import FeatureWriter
from store.folder import Commit, StageFolder
from store.index import build_index, read_index, search_outside, write_index
from store.places import Place
from store.record import make_record
from store.schema import FeatureSchema
from store.tables import SCHEMAS, merge_tables, read_table, read_tables, write_table

RECORD = make_record("extract", 1, {"k": 1}, {})
SCHEMA = FeatureSchema(channels=4, height=6, width=5, stride=4, offsets=(-1, 1), backbone="hrnet_w4", space="s")
VIDEOS = {"a": 33, "b": 2, "empty": 0}
COLUMNS = ["video", "proposal", "frame", "person", "x1", "y1", "x2", "y2", "score", "source", "split"]


def proposals(video: str, count: int) -> pd.DataFrame:
    number = np.arange(count)
    keypoints = [None if n % 2 else np.full(45, n, np.float32) for n in number]
    return pd.DataFrame(
        {
            "video": [video] * count, "proposal": number, "frame": number // 2, "person": number - 1,
            "x1": number + 0.1, "y1": number + 0.2, "x2": number + 10.3, "y2": number + 20.4,
            "score": np.full(count, 0.5), "source": ["annotations"] * count, "split": ["train"] * count,
            "keypoints": keypoints,
        }
    )  # fmt: skip


def write_video(root: Path, video: str, count: int, replace: Commit | None = None) -> None:
    rng = np.random.default_rng(count)
    with StageFolder(root / "extract").writing(RECORD, video, "inputs", replace=replace) as attempt:
        with FeatureWriter(attempt.path, SCHEMA, count) as writer:
            for _ in range(count):
                key, local = rng.random((1, 4, 6, 5), np.float32), rng.random((1, 2, 4, 6, 5), np.float32)
                writer.append(key, local)
        write_table(attempt.path, "proposals", proposals(video, count))
        attempt.meta = {"proposals": count}


def merge(root: Path) -> Place:
    stage = StageFolder(root / "extract")
    return merge_tables(stage, stage.commits(RECORD), "proposals")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written") / "work"
    StageFolder(root / "extract").begin(RECORD)
    for video, count in VIDEOS.items():
        write_video(root, video, count)
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "work", symlinks=True)


# ------------------------------------------------------------------------------------------------------------ opening
def test_videos_and_features(root: Path) -> None:
    stored = store.open(str(root))
    assert stored.videos == ["a", "b", "empty"]
    assert [len(stored.features(video)) for video in stored.videos] == [33, 2, 0]
    assert stored.features("b").local([1]).shape == (1, 1, 2, 4, 6, 5)
    assert stored.record == RECORD
    assert stored.commit("a").meta == {"proposals": 33}
    assert repr(stored) == f"Store({str(root)!r}, 3 videos)"


@pytest.mark.parametrize("merged", [False, True])
def test_table(root: Path, merged: bool) -> None:
    if merged:
        merge(root)
    stored = store.open(root)
    table = stored.table()
    assert list(table) == COLUMNS
    assert table["video"].tolist() == ["a"] * 33 + ["b"] * 2
    assert table["x2"].tolist() == [n + 10.3 for n in [*range(33), 0, 1]]  # float64, not rounded
    pd.testing.assert_frame_equal(stored.table("b"), table.iloc[33:].reset_index(drop=True))
    assert len(stored.table("empty")) == 0
    assert list(stored.table("empty")) == COLUMNS


def test_keypoints_and_embedding_on_request(root: Path) -> None:
    stored = store.open(root)
    table = stored.table(keypoints=True, embedding=True)
    assert list(table) == [*COLUMNS, "keypoints", "embedding"]
    keypoints = table["keypoints"].tolist()
    assert keypoints[2].shape == (15, 3)
    assert keypoints[2][4, 1] == 2
    assert keypoints[1] is None
    want = np.concatenate([stored.features(video).embedding[:, 0] for video in ("a", "b")])
    assert np.array_equal(np.stack(table["embedding"].tolist()), want)
    alone = stored.table("b", embedding=True)
    assert np.array_equal(np.stack(alone["embedding"].tolist()), want[33:])
    assert list(stored.table("b", keypoints=True)) == [*COLUMNS, "keypoints"]


def test_what_is_not_there_is_named(root: Path, tmp_path: Path) -> None:
    stored = store.open(root)
    for ask in (stored.features, stored.table, stored.commit):
        with pytest.raises(StoreError, match="no features of a video 'nope'; it has a, b, empty"):
            ask("nope")
    with pytest.raises(NotCommitted, match="no index yet"):
        stored.neighbours()
    with pytest.raises(NotCommitted, match="the folder does not exist"):
        store.open(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(NotCommitted, match="holds no features yet"):
        store.open(tmp_path / "other")


def test_describe(root: Path) -> None:
    table = store.open(root).describe()
    assert sorted(table.index) == ["embedding", "key", "key_scale", "local", "local_scale"]
    key, local = table.loc["key"], table.loc["local"]
    assert (key["shape"], key["dtype"], key["proposals"]) == ((1, 4, 6, 5), "uint8", 35)
    assert local["dims"] == ("proposal", "view", "offset", "channel", "y", "x")
    files = [path for path in root.glob("extract/data/*/*/features.zarr/local/**/*") if path.is_file()]
    assert local["bytes"] == sum(path.stat().st_size for path in files)
    assert key["ratio_to_float16"] == key["bytes"] / (35 * 4 * 6 * 5 * 2)


def test_store_without_videos_or_proposals(tmp_path: Path) -> None:
    StageFolder(tmp_path / "extract").begin(RECORD)
    stored = store.open(tmp_path)
    assert (stored.videos, stored.verify(), len(stored.describe())) == ([], [], 0)
    assert list(stored.table()) == COLUMNS
    write_video(tmp_path, "empty", 0)
    stored = store.open(tmp_path)
    assert np.isnan(stored.describe()["ratio_to_float16"].to_numpy(float)).all()
    assert list(stored.table(embedding=True, keypoints=True)) == [*COLUMNS, "keypoints", "embedding"]


def test_moved_store_works_and_reading_changes_nothing(root: Path, tmp_path: Path) -> None:
    merge(root)
    want = store.open(root).table(keypoints=True, embedding=True)
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(root, moved, symlinks=True)
    shutil.rmtree(root)
    for path in [moved, *moved.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(moved)
    stored = store.open(moved)
    pd.testing.assert_frame_equal(stored.table(keypoints=True, embedding=True), want)
    assert stored.verify() == []
    assert stored.features("a").key([3]).any()
    assert len(stored.describe()) == 5
    assert snapshot(moved) == before
    for path in [moved, *moved.rglob("*")]:
        path.chmod(0o755)  # so that it can be removed


# ---------------------------------------------------------------------------------------------------------- verify
def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("damage", "words"),
    [(flip, "match its checksum"), (cut, "\\d+ were committed"), (Path.unlink, "missing")],
)
@pytest.mark.parametrize("name", ["features.zarr/key/c/0/0/0/0/0", "features.zarr/zarr.json", "proposals.parquet"])
def test_verify_finds_damage(root: Path, name: str, damage: Callable[[Path], None], words: str) -> None:
    assert store.open(root).verify() == []
    path = next((root / "extract" / "data" / "b").glob(f"*/{name}"))
    damage(path)
    faults = store.open(root).verify()
    assert len(faults) == 1
    assert re.fullmatch(f"b: {re.escape(name)} .*{words}", faults[0])
    assert len(store.open(root).features("a")) == 33  # the other videos stay readable


def test_verify_finds_tables_and_features_that_disagree(root: Path) -> None:
    with StageFolder(root / "extract").writing(RECORD, "c", "") as attempt:
        with FeatureWriter(attempt.path, SCHEMA, 0):
            pass
        write_table(attempt.path, "proposals", proposals("c", 3))
    assert store.open(root).verify() == ["c: 3 proposals in the table, 0 in the features"]


def test_lost_shard_is_not_read_as_zeros(root: Path) -> None:
    next((root / "extract" / "data" / "a").glob("*/features.zarr/key/c/1/0/0/0/0")).unlink()
    with pytest.raises(CorruptData, match="features of 'a' are damaged"):
        store.open(root).features("a")
    with pytest.raises(CorruptData, match="features of 'a' are damaged"):
        store.open(root).table(embedding=True)


# ------------------------------------------------------------------------------------------------------------ tables
def test_merged_table_equals_the_parts(root: Path) -> None:
    stage = StageFolder(root / "extract")
    commits = stage.commits(RECORD)
    parts = read_tables(stage, commits, "proposals")
    path = merge(root)
    whole = read_tables(stage, commits, "proposals")
    pd.testing.assert_frame_equal(whole, parts)
    assert whole["person"].dtype == np.int32
    before = snapshot(root)
    assert merge(root) == path
    assert snapshot(root) == before
    # it is the merged file that is read
    for part in root.glob("extract/data/*/*/proposals.parquet"):
        part.unlink()
    pd.testing.assert_frame_equal(read_tables(stage, commits, "proposals"), parts)
    assert list(read_tables(stage, commits, "proposals", ["frame", "x1"])) == ["frame", "x1"]


def test_stale_merged_table_is_never_read(root: Path) -> None:
    first = merge(root)
    write_video(root, "d", 4)
    assert len(store.open(root).table()) == 39
    second = merge(root)
    assert not first.exists()
    write_video(root, "b", 7, replace=store.open(root).commit("b"))
    stored = store.open(root)
    assert second.exists()
    assert (len(stored.table()), len(stored.table("b"))) == (44, 7)
    assert merge(root) != second
    assert len(store.open(root).table()) == 44


def test_flipped_bits_in_a_merged_table_are_found(root: Path) -> None:
    path, want = merge(root), store.open(root).table(keypoints=True)
    sound = path.read_bytes()
    refused = 0
    for position in np.random.default_rng(0).choice(len(sound), 60, replace=False):
        damaged = bytearray(sound)
        damaged[position] ^= 4
        path.write_bytes(bytes(damaged))
        try:
            got = store.open(root).table(keypoints=True)
        except CorruptData:
            refused += 1
        else:  # in what readers do not use: statistics, the writer's name
            pd.testing.assert_frame_equal(got, want)
    assert refused > 20


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_empty_table_keeps_its_types(tmp_path: Path, name: str) -> None:
    write_table(tmp_path, name, {column: [] for column in SCHEMAS[name].names})
    table = read_table(tmp_path, name)
    assert list(table) == SCHEMAS[name].names
    assert table["proposal"].dtype == np.int32


def test_unreadable_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "proposals.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(CorruptData, match=r"proposals\.parquet cannot be read"):
        read_table(tmp_path, "proposals")
    with pytest.raises(CorruptData, match=r"neighbours\.parquet cannot be read"):
        read_table(tmp_path, "neighbours")


def test_full_disk_is_told_by_every_writer(tmp_path: Path) -> None:
    stage = StageFolder(tmp_path / "extract")
    stage.begin(RECORD)
    with pytest.raises(DiskFull), stage.writing(RECORD, "a", "") as attempt:
        (attempt.path / "proposals.parquet").symlink_to("/dev/full")  # every write fails as on a full disk
        write_table(attempt.path, "proposals", proposals("a", 3))
    with pytest.raises(DiskFull), stage.writing(RECORD, "a", "") as attempt:
        (attempt.path / "index.faiss").symlink_to("/dev/full")
        write_index(attempt.path, build_index(np.eye(3, dtype=np.float32)))
    assert stage.commits(RECORD) == {}


def test_full_disk_while_features_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = StageFolder(tmp_path / "extract")
    stage.begin(RECORD)
    write_video(tmp_path, "a", 2)
    opened = Path.open

    def full(self: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        if "features.zarr" in self.parts and "c" in self.parts and mode != "rb":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, mode, *arguments, **options)  # pyright: ignore

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskFull, match="full while writing 'b' of extract"):
        write_video(tmp_path, "b", 2)
    monkeypatch.undo()
    assert store.open(tmp_path).videos == ["a"]
    assert store.open(tmp_path).verify() == []


# --------------------------------------------------------------------------------------------------------- neighbours
def test_neighbours(root: Path) -> None:
    stage, record = StageFolder(root / "index"), make_record("index", 1, {}, {})
    stage.begin(record)
    for video in ("a", "b"):
        with stage.writing(record, video, "") as attempt:
            columns = {
                "video": [video] * 2, "proposal": [0, 0], "rank": [0, 1], "reference": [7, 3], "similarity": [0.9, 0.5]
            }  # fmt: skip
            write_table(attempt.path, "neighbours", columns)
    stored = store.open(root)
    assert list(stored.neighbours()) == ["video", "proposal", "rank", "reference", "similarity"]
    assert stored.neighbours()["video"].tolist() == ["a", "a", "b", "b"]
    assert stored.neighbours("b")["reference"].tolist() == [7, 3]
    with pytest.raises(NotCommitted, match="index has no finished output for 'empty'"):
        stored.neighbours("empty")


def brute_force(
    embeddings: np.ndarray, row: int, eligible: np.ndarray, start: int, stop: int, n: int
) -> tuple[list[int], np.ndarray]:
    allowed = [other for other in eligible.tolist() if not start <= other < stop]
    similarity = embeddings[allowed].astype(np.float64) @ embeddings[row].astype(np.float64)
    best = np.argsort(-similarity)[:n]
    return [allowed[i] for i in best], similarity[best]


def test_search_equals_brute_force(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    embeddings = np.abs(rng.normal(size=(60, 16))).astype(np.float32)
    write_index(tmp_path, build_index(embeddings))
    index = read_index(tmp_path)
    rows = np.array([0, 5, 31, 59])
    eligible = np.sort(rng.choice(60, 40, replace=False))
    excluded = np.array([[0, 4], [3, 9], [31, 31], [20, 60]])  # at the start, around, nothing, all but the first
    ids, similarities = search_outside(index, rows, eligible, excluded, 6)
    assert (ids.dtype, similarities.dtype, ids.shape) == (np.int64, np.float32, (4, 6))
    for position, (row, (start, stop)) in enumerate(zip(rows, excluded, strict=True)):
        want, scores = brute_force(embeddings, int(row), eligible, int(start), int(stop), 6)
        assert ids[position].tolist() == want
        np.testing.assert_allclose(similarities[position], scores, rtol=1e-5)


def test_search_with_fewer_than_n(tmp_path: Path) -> None:
    index = build_index(np.eye(5, dtype=np.float32) + 1)
    rows, eligible = np.array([0, 4]), np.array([0, 1, 4])
    ids, similarities = search_outside(index, rows, eligible, np.array([[0, 1], [0, 5]]), 3)
    assert sorted(ids[0].tolist()) == [-1, 1, 4]
    assert ids[0, 2] == -1
    assert similarities[0, 2] == -np.inf
    assert ids[1].tolist() == [-1, -1, -1]
    assert (similarities[1] == -np.inf).all()
    nobody = search_outside(index, rows, np.array([], np.int64), np.zeros((2, 2), int), 3)
    assert (nobody[0] == -1).all()
    assert search_outside(index, rows, eligible, np.zeros((2, 2), int), 0)[0].shape == (2, 0)


def test_damaged_index_is_named(tmp_path: Path) -> None:
    write_index(tmp_path, build_index(np.eye(5, dtype=np.float32)))
    path = tmp_path / "index.faiss"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(CorruptData, match=r"index\.faiss cannot be read"):
        read_index(tmp_path)
    path.unlink()
    with pytest.raises(CorruptData, match=r"index\.faiss cannot be read"):
        read_index(tmp_path)
