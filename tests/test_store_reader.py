"""What users open: tables, features and neighbours of a small store, its faults found and its files never changed."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from small_pipelines import snapshot

import store
from store.errors import CorruptData, DiskFull, NotCommitted, StoreError
from store.features import FeatureWriter
from store.folder import Commit, StageFolder
from store.index import build_index, made_from, read_index, search_outside, write_index
from store.places import Place
from store.record import fingerprint, make_record
from store.schema import FeatureSchema
from store.tables import SCHEMAS, merge_tables, read_table, read_tables, write_table

RECORD = make_record("extract", 1, {"k": 1}, {})
SCHEMA = FeatureSchema(channels=4, height=6, width=5, stride=4, offsets=(-1, 1), backbone="hrnet_w4", space="s")
VIDEOS = {"a": 33, "b": 2, "empty": 0}
COLUMNS = ["video", "proposal", "frame", "person", "x1", "y1", "x2", "y2", "score", "source", "split", "views", "shape"]
OPENED: list[Path] | None = None  # files that were opened, while `opened_files` collects them


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


def write_video(
    root: Path, video: str, count: int, replace: Commit | None = None, schema: FeatureSchema = SCHEMA
) -> None:
    rng = np.random.default_rng(count)
    with StageFolder(root / "extract").writing(RECORD, video, "inputs", replace=replace) as attempt:
        with FeatureWriter(attempt.path, schema, count) as writer:
            for _ in range(count):
                maps = rng.random((schema.views, 1 + len(schema.offsets), *schema.map_shape), np.float32)
                writer.append(maps[:, 0], maps[:, 1:], rng.random((schema.views, 2, 3)))
        write_table(attempt.path, "proposals", proposals(video, count))
        attempt.meta = {"proposals": count}


def write_neighbours(root: Path, video: str, found: dict[int, list[int]]) -> None:
    """An index of one video: references by proposal, the n-th best with similarity 1 / (n + 1)."""
    stage, record = StageFolder(root / "index"), make_record("index", 1, {}, {})
    stage.begin(record)
    rows = [(n, rank, other) for n, others in found.items() for rank, other in enumerate(others)]
    inputs = made_from(StageFolder(root / "extract").commit_of(RECORD, video), {})
    with stage.writing(record, video, inputs) as attempt:
        columns = {
            "video": [video] * len(rows), "proposal": [n for n, _, _ in rows], "rank": [rank for _, rank, _ in rows],
            "reference_video": [video] * len(rows), "reference": [other for _, _, other in rows],
            "similarity": [1 / (rank + 1) for _, rank, _ in rows],
        }  # fmt: skip
        write_table(attempt.path, "neighbours", columns)
        write_index(attempt.path, build_index(np.eye(4, dtype=np.float32)))


def note_opening(event: str, arguments: tuple[object, ...]) -> None:
    if OPENED is not None and event == "open" and isinstance(arguments[0], str):
        OPENED.append(Path(arguments[0]))


sys.addaudithook(note_opening)  # Python tells it of every file that is opened; it cannot be taken away again


@contextlib.contextmanager
def opened_files(root: Path) -> Generator[list[Path]]:
    """Files below `root` that are opened while the block lasts, relative to it."""
    global OPENED
    OPENED, found = [], []
    try:
        yield found
        found += [path.relative_to(root) for path in OPENED if path.is_relative_to(root) and path.suffix]
    finally:
        OPENED = None


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
    assert table["views"].tolist() == [1] * 35
    assert set(table["shape"]) == {(4, 6, 5)}


def test_views_and_shape_are_each_video_s_own(root: Path) -> None:
    write_video(root, "wide", 3, schema=SCHEMA.model_copy(update={"views": 2, "width": 7}))
    table = store.open(root).table()
    told = table.groupby("video")[["views", "shape"]].agg(lambda values: set(values))
    assert told.loc["a"].tolist() == [{1}, {(4, 6, 5)}]
    assert told.loc["wide"].tolist() == [{2}, {(4, 6, 7)}]


def test_metadata_does_not_read_keypoints(root: Path) -> None:
    merged = merge(root)
    assert isinstance(merged, Path)
    want = store.open(root).table()
    group = pq.ParquetFile(merged).metadata.row_group(0)
    column = group.column(SCHEMAS["proposals"].names.index("keypoints"))
    assert column.path_in_schema.startswith("keypoints")
    content = bytearray(merged.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    merged.write_bytes(content)
    stored = store.open(root)
    pd.testing.assert_frame_equal(stored.table(), want)
    with pytest.raises(CorruptData, match="cannot be read"):
        stored.table(keypoints=True)
    with opened_files(root) as opened:
        store.open(root).table()
    attributes = [path for path in opened if path.name == "zarr.json"]  # of one video, as all have the same
    commits = [path for path in opened if "commit" in path.parts]
    assert (len(attributes), len(commits), len(opened)) == (1, len(VIDEOS), len(VIDEOS) + 3)


def test_schema_that_is_not_the_committed_one_is_refused(root: Path) -> None:
    path = next((root / "extract/data/a").glob("*/features.zarr/zarr.json"))
    sound = path.read_text()
    path.write_text(sound.replace('"width": 5', '"width": 6'))
    assert path.read_text() != sound
    with pytest.raises(CorruptData, match=r"features of 'a' are damaged: features\.zarr/zarr\.json is not the one"):
        store.open(root).table("a")
    path.unlink()
    with pytest.raises(CorruptData, match=r"features of 'a' are damaged: features\.zarr/zarr\.json is missing"):
        store.open(root).table()
    assert len(store.open(root).table("b")) == 2


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
        with pytest.raises(StoreError, match=r"no features of a video 'nope'; it has a, b, empty$"):
            ask("nope")
    with pytest.raises(StoreError, match=r"no features of a video 'emtpy'; did you mean 'empty'\?$"):
        stored.table("emtpy")
    with pytest.raises(StoreError, match="no features of a video ''"):
        stored.table("")
    with pytest.raises(NotCommitted, match="no index yet"):
        stored.neighbours()
    with pytest.raises(NotCommitted, match="the folder does not exist"):
        store.open(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(NotCommitted, match="holds no features yet"):
        store.open(tmp_path / "other")


# ----------------------------------------------------------------------------------------------------------- describe
ARRAYS = ["embedding", "key", "key_scale", "local", "local_scale"]


def test_describe(root: Path) -> None:
    table = store.open(root).describe()
    sizes, ratios = table["bytes"].to_dict(), table["ratio_to_float16"].to_dict()
    assert table.index.tolist() == [*ARRAYS, "zarr.json", "proposals.parquet", "total"]
    key, local = table.loc["key"], table.loc["local"]
    assert (key["shape"], key["dtype"], key["proposals"], key["videos"]) == ((1, 4, 6, 5), "uint8", 35, 3)
    assert local["dims"] == ("proposal", "view", "offset", "channel", "y", "x")
    files = [path for path in root.glob("extract/data/*/*/features.zarr/local/**/*") if path.is_file()]
    assert local["bytes"] == sum(path.stat().st_size for path in files)
    raw = 35 * 4 * 6 * 5 * 2
    assert (ratios["key"], ratios["local"]) == (sizes["key"] / raw, sizes["local"] / (2 * raw))
    assert np.isnan(ratios["embedding"])

    everything = sum(path.stat().st_size for path in root.glob("extract/data/**/*") if path.is_file())
    assert sum(sizes.values()) == 2 * everything  # the rows, and their total
    assert table.loc["total", ["videos", "proposals", "bytes"]].tolist() == [3, 35, everything]
    assert ratios["total"] == everything / (3 * raw)


def test_describe_counts_the_index(root: Path) -> None:
    without = store.open(root).describe().loc["total", "bytes"]
    write_neighbours(root, "a", {0: [1, 2]})
    table = store.open(root).describe()
    sizes = {path.name: path.stat().st_size for path in root.glob("index/data/a/*/*")}
    assert table.loc[["index.faiss", "neighbours.parquet"], "bytes"].to_dict() == sizes
    assert table.loc["index.faiss", ["videos", "proposals"]].tolist() == [1, 33]
    assert table.loc["total", "bytes"] == without + sum(sizes.values())


def test_describe_tells_two_forms_apart(root: Path) -> None:
    write_video(root, "wide", 3, schema=SCHEMA.model_copy(update={"width": 7}))
    keys = store.open(root).describe().loc["key"]
    assert [tuple(row) for row in keys[["shape", "videos", "proposals"]].to_numpy()] == [
        ((1, 4, 6, 5), 3, 35),
        ((1, 4, 6, 7), 1, 3),
    ]


def test_describe_needs_the_number_of_proposals(root: Path) -> None:
    with StageFolder(root / "extract").writing(RECORD, "c", "") as attempt, FeatureWriter(attempt.path, SCHEMA, 0):
        pass
    with pytest.raises(CorruptData, match="commit of 'c' does not say how many proposals"):
        store.open(root).describe()


def test_a_thousand_videos_open_by_their_commits_alone(root: Path) -> None:
    commits = next((root / "extract/commit").iterdir())
    of_b = json.loads((commits / "b.json").read_text())
    del of_b["checksum"]
    for number in range(1000):
        value = {**of_b, "unit": f"v{number:03}"}
        (commits / f"v{number:03}.json").write_text(json.dumps({**value, "checksum": fingerprint(value)}))
    with opened_files(root) as opened:
        stored = store.open(root)
        assert len(stored.videos) == 1003
    assert len(opened) == 1004  # and stage.json
    with opened_files(root) as opened:
        described = stored.describe()
    assert described.loc["key", ["videos", "proposals"]].tolist() == [1003, 2035]
    data = [path for path in opened if "data" in path.parts]
    assert {path.parts[2] for path in data} == {"a"}  # one video is opened for all, as all have its form


# ------------------------------------------------------------------------------------------------------------- sample
def test_sample(root: Path) -> None:
    write_neighbours(root, "b", {0: [1], 1: []})
    write_neighbours(root, "a", {4: [32, 0, 17], 5: [1]})
    stored = store.open(root)
    features, table = stored.features("a"), stored.table(keypoints=True)
    sample = stored.sample(table.iloc[4])
    assert sample.row[["video", "proposal", "frame"]].tolist() == ["a", 4, 2]
    assert sample.row.index.tolist() == COLUMNS
    assert (sample.key.dtype, sample.local.dtype, sample.references.dtype) == (np.float32,) * 3
    assert np.array_equal(sample.key, features.key([4])[0, 0])
    assert np.array_equal(sample.local, features.local([4])[0, 0])
    assert (sample.offsets, sample.view) == ((-1, 1), 0)
    assert np.array_equal(sample.references, features.key([32, 0, 17])[:, 0])
    np.testing.assert_allclose(sample.similarity, [1, 1 / 2, 1 / 3])
    assert sample.reference_rows["proposal"].tolist() == [32, 0, 17]
    assert sample.box.tolist() == [4.1, 4.2, 14.3, 24.4]
    assert sample.keypoints is not None and sample.keypoints.tolist() == [[4.0] * 3] * 15
    unlabelled = stored.sample(table.iloc[33:].iloc[1])
    assert unlabelled.row[["video", "proposal"]].tolist() == ["b", 1]
    assert unlabelled.keypoints is None
    assert (unlabelled.references.shape, len(unlabelled.reference_rows)) == ((0, 4, 6, 5), 0)


@pytest.mark.parametrize(
    ("number", "place"), [(0, ("a", 0)), (32, ("a", 32)), (np.int64(33), ("b", 0)), (34, ("b", 1))]
)
def test_sample_by_number_and_by_place(root: Path, number: int, place: tuple[str, int]) -> None:
    stored = store.open(root)
    by_number, by_place = stored.sample(number), stored.sample(place)
    row = stored.table().iloc[number]
    assert (row["video"], row["proposal"]) == place
    assert by_number.row.equals(row)
    assert np.array_equal(by_number.key, by_place.key)
    assert by_number.references.shape == (0, 4, 6, 5)  # before index


def test_sample_of_a_view(root: Path) -> None:
    write_video(root, "two", 3, schema=SCHEMA.model_copy(update={"views": 2, "dtype": "float16"}))
    stored = store.open(root)
    features = stored.features("two")
    sample = stored.sample(("two", 2), view=1)
    assert np.array_equal(sample.key, features.key([2])[0, 1])
    assert np.array_equal(sample.local, features.local([2])[0, 1])
    assert not np.array_equal(sample.key, stored.sample(("two", 2)).key)
    affines = features.affine([2])
    assert affines is not None and sample.affine is not None and np.array_equal(sample.affine, affines[0, 1])
    write_video(root, "alone", 1, schema=SCHEMA.model_copy(update={"offsets": ()}))
    alone = store.open(root).sample(("alone", 0))
    assert alone.local.shape == (0, 4, 6, 5) and alone.affine is None


def test_references_of_a_view_are_clean_and_those_of_the_mirrored_view_mirrored(root: Path) -> None:
    write_video(root, "views", 5, schema=SCHEMA.model_copy(update={"views": 3, "mirrored": 2, "dtype": "float16"}))
    write_neighbours(root, "views", {4: [0, 2]})
    stored = store.open(root)
    features = stored.features("views")
    for view, shown in ((0, 0), (1, 0), (2, 2)):
        sample = stored.sample(("views", 4), view=view)
        assert np.array_equal(sample.key, features.key([4])[0, view])
        assert np.array_equal(sample.references, features.key([0, 2])[:, shown])


def test_sample_of_what_is_not_there(root: Path) -> None:
    stored = store.open(root)
    for row, words in (
        (("b", 2), "'b' has no proposal 2; it has 2, numbered from 0"),
        (("empty", 0), "'empty' has no proposal 0; it has 0"),
        (("c", 0), "no features of a video 'c'"),
        (35, "no row 35; table[(][)] has 35"),
        (-1, "no row -1"),
        ("a", "by a row of table"),
        (stored.table()["frame"], "by a row of table"),
    ):
        with pytest.raises(StoreError, match=words):
            stored.sample(row)  # pyright: ignore[reportArgumentType]
    with pytest.raises(StoreError, match="'b' has no view 1; it has 1, numbered from 0"):
        stored.sample(("b", 0), view=1)
    write_neighbours(root, "b", {0: [2]})
    with pytest.raises(CorruptData, match="features, proposals and index of 'b' do not belong together"):
        stored.sample(("b", 0))
    with pytest.raises(NotCommitted, match="has no index of 'a' yet: run glpose-stage index"):
        stored.sample(("a", 0))


def test_store_without_videos_or_proposals(tmp_path: Path) -> None:
    StageFolder(tmp_path / "extract").begin(RECORD)
    stored = store.open(tmp_path)
    assert (stored.videos, stored.verify(), stored.describe().index.tolist()) == ([], [], ["total"])
    assert list(stored.table()) == COLUMNS
    with pytest.raises(StoreError, match="no features of a video 'a'; it has none"):
        stored.features("a")
    with pytest.raises(StoreError, match="no row 0"):
        stored.sample(0)
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
    assert stored.sample(3).key.any()
    assert len(stored.describe()) == 8
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
    assert re.fullmatch(f"b: (proposals 0 to 1: )?{re.escape(name)} .*{words}", faults[0])
    assert len(store.open(root).features("a")) == 33  # the other videos stay readable


def test_verify_finds_tables_and_features_that_disagree(root: Path) -> None:
    with StageFolder(root / "extract").writing(RECORD, "c", "") as attempt:
        with FeatureWriter(attempt.path, SCHEMA, 0):
            pass
        write_table(attempt.path, "proposals", proposals("c", 3))
        attempt.meta = {"proposals": 3}
    assert store.open(root).verify() == ["c: features of 0 proposals, 3 were committed"]


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


def test_merged_tables_have_large_row_groups(tmp_path: Path) -> None:
    stage = StageFolder(tmp_path / "extract")
    stage.begin(RECORD)
    for video in ("a", "b", "c"):
        with stage.writing(RECORD, video, "") as attempt:
            write_table(attempt.path, "proposals", proposals(video, 20_000))
    want = read_tables(stage, stage.commits(RECORD), "proposals", ["video", "x1"])
    metadata = pq.ParquetFile(str(merge(tmp_path))).metadata
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert sizes == [40_000, 20_000]  # one per video would be read many times slower
    pd.testing.assert_frame_equal(read_tables(stage, stage.commits(RECORD), "proposals", ["video", "x1"]), want)


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
    for video in ("a", "b"):
        write_neighbours(root, video, {0: [7, 3]})
    stored = store.open(root)
    assert list(stored.neighbours()) == ["video", "proposal", "rank", "reference_video", "reference", "similarity"]
    assert stored.neighbours()["video"].tolist() == ["a", "a", "b", "b"]
    assert stored.neighbours("b")["reference"].tolist() == [7, 3]
    with pytest.raises(NotCommitted, match="has no index of 'empty' yet: run glpose-stage index"):
        stored.neighbours("empty")
    with pytest.raises(StoreError, match="no features of a video 'nope'"):
        stored.neighbours("nope")


def brute_force(embeddings: np.ndarray, row: int, start: int, stop: int, n: int) -> tuple[list[int], np.ndarray]:
    allowed = [other for other in range(len(embeddings)) if not start <= other < stop]
    similarity = embeddings[allowed].astype(np.float64) @ embeddings[row].astype(np.float64)
    best = np.argsort(-similarity)[:n]
    return [allowed[i] for i in best], similarity[best]


def test_search_equals_brute_force(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    embeddings = np.abs(rng.normal(size=(60, 16))).astype(np.float32)
    write_index(tmp_path, build_index(embeddings))
    index = read_index(tmp_path)
    rows = np.array([0, 5, 31, 59])
    excluded = np.array([[0, 4], [3, 9], [31, 31], [20, 60]])  # at the start, around, nothing, all but the first
    ids, similarities = search_outside(index, embeddings[rows], excluded, 6)
    assert (ids.dtype, similarities.dtype, ids.shape) == (np.int64, np.float32, (4, 6))
    for position, (row, (start, stop)) in enumerate(zip(rows, excluded, strict=True)):
        want, scores = brute_force(embeddings, int(row), int(start), int(stop), 6)
        assert ids[position].tolist() == want
        np.testing.assert_allclose(similarities[position], scores, rtol=1e-5)


def test_search_with_fewer_than_n() -> None:
    vectors = np.eye(3, dtype=np.float32) + 1
    ids, similarities = search_outside(build_index(vectors), vectors[[0, 2]], np.array([[0, 1], [0, 3]]), 3)
    assert sorted(ids[0].tolist()) == [-1, 1, 2]
    assert ids[0, 2] == -1
    assert similarities[0, 2] == -np.inf
    assert ids[1].tolist() == [-1, -1, -1]
    assert (similarities[1] == -np.inf).all()
    nobody = search_outside(build_index(vectors[:0]), vectors[:2], np.zeros((2, 2), int), 3)
    assert (nobody[0] == -1).all()
    assert search_outside(build_index(vectors), vectors, np.zeros((3, 2), int), 0)[0].shape == (3, 0)
    assert search_outside(build_index(vectors), vectors[:0], np.zeros((0, 2), int), 4)[0].shape == (0, 4)


def test_damaged_index_is_named(tmp_path: Path) -> None:
    write_index(tmp_path, build_index(np.eye(5, dtype=np.float32)))
    path = tmp_path / "index.faiss"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(CorruptData, match=r"index\.faiss cannot be read"):
        read_index(tmp_path)
    path.unlink()
    with pytest.raises(CorruptData, match=r"index\.faiss cannot be read"):
        read_index(tmp_path)
