"""What `store.verify` finds: damage of every kind in a finished work folder, and what was wrong when it was written."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from small_pipelines import commit_digests, finish_project, glpose_stage, write_pipeline

from stages.run import STAGES
from store.errors import GLPoseError, StoreError
from store.features import GROUP, FeatureWriter
from store.folder import Attempt, Commit, StageFolder
from store.index import build_index, write_index
from store.record import fingerprint, make_record
from store.schema import FeatureSchema
from store.tables import read_tables, write_table
from store.verify import Verdict, read_in_force, repair, verify_stage

RECORD = make_record("extract", 1, {"n": 2}, {})
PROPOSALS = 40  # two shards


def schema(**changes: Any) -> FeatureSchema:
    form: dict[str, Any] = {
        "channels": 3, "height": 4, "width": 5, "stride": 4, "offsets": (-1, 1), "backbone": "b", "space": "s"
    }  # fmt: skip
    return FeatureSchema(**(form | changes))


def write_features(folder: Path, form: FeatureSchema, proposals: int = PROPOSALS) -> None:
    """Random features, some of them zero."""
    draw = np.random.default_rng(0)
    with FeatureWriter(folder, form, proposals) as writer:
        for row in range(proposals):
            key = draw.gamma(0.5, size=(form.views, *form.map_shape)).astype(np.float32)
            local = draw.gamma(0.5, size=(form.views, len(form.offsets), *form.map_shape)).astype(np.float32)
            affines = np.repeat(draw.normal(size=(1, 2, 3)), form.views, axis=0)
            affines[:, 0] *= np.sign(np.linalg.det(affines[:, :, :2]))[:, None]
            if form.mirrored is not None:
                affines[form.mirrored, 0] *= -1
            writer.append(key * (row != 7), local * (row != 9), affines)


def proposals_table(video: str, proposals: int = PROPOSALS) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "video": video, "proposal": range(proposals), "frame": np.arange(proposals) // 2, "person": -1, "x1": 0.0,
            "y1": 0.0, "x2": 9.0, "y2": 9.0, "score": 1.0, "source": "annotation",
            "split": ["train"] * (proposals // 2) + ["eval"] * (proposals - proposals // 2),
            "keypoints": [np.zeros(6, np.float32)] * proposals,
        }
    )  # fmt: skip


def written(stage: StageFolder, write: Callable[[Attempt], object], unit: str = "clip") -> StageFolder:
    stage.begin(RECORD)
    with stage.writing(RECORD, unit, "inputs") as attempt:
        attempt.meta = {"proposals": PROPOSALS, "fewer_than_n": 0}
        write(attempt)
    return stage


def faults(stage: StageFolder, **options: Any) -> list[str]:
    return verify_stage(stage, read_in_force(stage), **options).lines("extract")


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def stored(stage: StageFolder, name: str) -> Path:
    """A file of the unit `clip`."""
    path = stage.attempt_path(stage.commit_of(RECORD, "clip")) / name
    assert isinstance(path, Path)
    return path


# ---------------------------------------------------------------------------------------------------------- features
FORMS = {
    "uint8, crc32c": {},
    "uint8, zstd": {"codec": "zstd"},
    "float16, crc32c": {"dtype": "float16"},
    "float16, zstd, two views": {"dtype": "float16", "codec": "zstd", "views": 2},
    "uint8, three views, one mirrored": {"views": 3, "mirrored": 2},
    "no local maps": {"offsets": ()},
}


@pytest.mark.parametrize("form", FORMS)
def test_sound_features_have_no_fault(tmp_path: Path, form: str) -> None:
    stage = written(StageFolder(tmp_path / "s"), lambda attempt: write_features(attempt.path, schema(**FORMS[form])))
    read: list[int] = []
    assert faults(stage, progress=read.append) == []
    assert sum(read) == stage.commit_of(RECORD, "clip").bytes


def test_a_video_without_proposals(tmp_path: Path) -> None:
    def write(attempt: Attempt) -> None:
        write_features(attempt.path, schema(), 0)
        write_table(attempt.path, "proposals", proposals_table("clip", 0))
        attempt.meta = {"proposals": 0}

    assert faults(written(StageFolder(tmp_path / "s"), write)) == []


@pytest.mark.parametrize("form", FORMS)
def test_every_flipped_map_is_named(tmp_path: Path, form: str) -> None:
    stage = written(StageFolder(tmp_path / "s"), lambda attempt: write_features(attempt.path, schema(**FORMS[form])))
    draw = random.Random(0)
    whole = zarr.open_group(stored(stage, GROUP), mode="r")
    for array in ("key", "local") if "local" in whole else ("key",):
        for shard in (0, 1):
            path = next(p for p in stored(stage, f"{GROUP}/{array}/c/{shard}").rglob("*") if p.is_file())
            before = path.read_bytes()
            values = np.asarray(whole[array])  # pyright: ignore[reportArgumentType]
            views = values.shape[1]
            maps = values.reshape(-1, *values.shape[-3:])
            last = min(32 * shard + 31, PROPOSALS - 1)
            index_bytes = 16 * 32 * values[0].size // maps[0].size + 4
            for _ in range(3):
                flip(path, draw.randrange(8 * (len(before) - index_bytes)))
                [line] = faults(stage)
                path.write_bytes(before)
                where, _, rest = line.removeprefix("extract clip: ").partition(": ")
                assert rest == f"{array} does not match its checksum ({path.relative_to(stored(stage, '.'))})"
                words = where.replace(",", "").split()
                assert words[0] == "proposal" and 32 * shard <= int(words[1]) <= last
                assert words[2] == "view" and int(words[3]) < views
                assert array == "key" or (words[4] == "offset" and words[5] in ("-1", "1"))
            flip(path, 8 * (len(before) - draw.randrange(1, index_bytes)))
            [line] = faults(stage)
            assert line.startswith(f"extract clip: proposals {32 * shard} to {last}: ") and "checksum" in line
            path.write_bytes(before)


def test_the_map_that_is_named_is_the_damaged_one(tmp_path: Path) -> None:
    stage = written(StageFolder(tmp_path / "s"), lambda attempt: write_features(attempt.path, schema()))
    path = stored(stage, f"{GROUP}/local/c/1/0/0/0/0/0")
    before = path.read_bytes()
    index = np.frombuffer(before[-(16 * 64 + 4) : -4], "<u8").reshape(32, 1, 2, 2)
    flip(path, 8 * (int(index[5, 0, 1, 0]) + 10))
    assert faults(stage) == [
        f"extract clip: proposal 37, view 0, offset 1: local does not match its checksum ({GROUP}/local/c/1/0/0/0/0/0)"
    ]
    path.write_bytes(before[:-1])
    [line] = faults(stage)
    assert f"proposals 32 to 39: {GROUP}/local/c/1/0/0/0/0/0 has {len(before) - 1} bytes, {len(before)} were" in line
    path.unlink()
    assert faults(stage) == [f"extract clip: proposals 32 to 39: {GROUP}/local/c/1/0/0/0/0/0 is missing"]


def test_other_files_of_a_group(tmp_path: Path) -> None:
    stage = written(StageFolder(tmp_path / "s"), lambda attempt: write_features(attempt.path, schema()))
    names = ["zarr.json", "key/zarr.json", "local_scale/zarr.json", "embedding/c/0/0/0", "key_scale/c/0/0/0"]
    for name in names:
        path = stored(stage, f"{GROUP}/{name}")
        flip(path, 300)
        assert faults(stage) == [f"extract clip: {GROUP}/{name} does not match its checksum"]
        flip(path, 300)
    stray = stored(stage, f"{GROUP}/key/c/2/0/0/0/0")
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"x")
    assert faults(stage) == [f"extract clip: {GROUP}/key/c/2/0/0/0/0 was not committed, but Zarr would read it"]


def rewritten(array: str, change: Callable[[np.ndarray], None], **form: Any) -> Callable[[Attempt], None]:
    """Writes features, then changes an array of them before they are committed."""

    def write(attempt: Attempt) -> None:
        write_features(attempt.path, schema(**form))
        whole = zarr.open_group(attempt.path / GROUP, mode="r+")[array]
        assert isinstance(whole, zarr.Array)
        values = np.array(whole[:])
        change(values)
        whole[:] = values

    return write


def put(index: tuple[int, ...], value: float) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[index] = value

    return change


def turn(proposal: int, view: int) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[proposal, view, 0] *= -1

    return change


@pytest.mark.parametrize(
    ("write", "line"),
    [
        (rewritten("embedding", put((37, 0, 2), 9.0)), "proposal 37, view 0: embedding is not the mean of key: 9 in"),
        (rewritten("embedding", put((3, 0, 0), np.nan)), "proposal 3, view 0: embedding is not the mean of key: nan"),
        (
            rewritten("embedding", put((3, 0, 0), np.inf), dtype="float16"),
            "proposal 3, view 0: embedding is not the mean of key: inf in channel 0",
        ),
        (rewritten("key_scale", put((2, 0, 1), np.nan)), "proposal 2, view 0: key_scale of channel 1 is nan"),
        (rewritten("key_scale", put((2, 0, 1), 7.0)), "proposal 2, view 0: embedding is not the mean of key"),
        (rewritten("local_scale", put((39, 0, 0, 2), np.inf)), "proposal 39, view 0, offset -1: local_scale of"),
        (rewritten("local_scale", put((8, 0, 1, 2), -1.0)), "proposal 8, view 0, offset 1: local_scale of channel 2"),
        (rewritten("local", put((8, 0, 1), 0)), "proposal 8, view 0, offset 1: local is not in features.zarr/local"),
        (
            rewritten("local", put((8, 0, 1, 2, 0, 0), np.nan), dtype="float16"),
            "proposal 8, view 0, offset 1: local holds values that are not finite",
        ),
        (rewritten("key", put((8, 0), 0), dtype="float16"), "proposal 8, view 0: embedding is not the mean of key"),
        (
            rewritten("affine", put((5, 1), 0.0), views=2),
            "proposal 5, view 1: affine cuts no crop: [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]",
        ),
        (rewritten("affine", put((5, 1, 0, 2), np.nan), views=2), "proposal 5, view 1: affine cuts no crop: ["),
        (rewritten("affine", turn(37, 0), views=2), "proposal 37, view 0: affine mirrors the clean crop"),
        (rewritten("affine", turn(8, 1), views=2, mirrored=1), "proposal 8, view 1: affine does not mirror"),
        (lambda attempt: write_features(attempt.path, schema(), 39), "features of 39 proposals, 40 were committed"),
    ],
)  # fmt: skip
def test_features_that_were_written_wrong(tmp_path: Path, write: Callable[[Attempt], None], line: str) -> None:
    [found] = faults(written(StageFolder(tmp_path / "s"), write))
    assert found.startswith(f"extract clip: {line}")


@pytest.mark.parametrize("form", [{}, {"dtype": "float16"}])
def test_embeddings_may_be_off_by_what_rounding_takes(tmp_path: Path, form: dict[str, Any]) -> None:
    draw = np.random.default_rng(0)

    def write(attempt: Attempt) -> None:
        own = schema(offsets=(), channels=1, **form)
        levels = np.array([255.0, 0.49, 0.49, 100.49, 2.499])  # all rounded down, in steps
        with FeatureWriter(attempt.path, own, PROPOSALS) as writer:
            for _ in range(PROPOSALS):
                key = np.broadcast_to(levels * 10 ** draw.uniform(-36, 2), (1, 1, 4, 5)).astype(np.float32)
                if form:
                    key = np.minimum(key, 60000)
                writer.append(key, np.zeros((1, 0, 1, 4, 5), np.float32))

    stage = written(StageFolder(tmp_path / "s"), write)
    assert faults(stage) == []


def test_an_index_that_was_written_wrong(tmp_path: Path) -> None:
    from crc32c import crc32c

    def shift(attempt: Attempt, entry: int, value: int) -> None:
        write_features(attempt.path, schema(offsets=()))
        path = attempt.path / GROUP / "key" / "c" / "0" / "0" / "0" / "0" / "0"
        content = bytearray(path.read_bytes())
        index = np.frombuffer(content[-(16 * 32 + 4) : -4], "<u8").copy()
        index[2 * entry] = index[2 * value] if value < 32 else value
        content[-(16 * 32 + 4) : -4] = index.tobytes()
        content[-4:] = crc32c(index.tobytes()).to_bytes(4, "little")
        path.write_bytes(content)

    for name, value, words in (("a", 3, "has maps that overlap"), ("b", 1 << 40, "points outside the file")):
        stage = written(StageFolder(tmp_path / name), lambda attempt, value=value: shift(attempt, 4, value))
        [line] = faults(stage)
        assert line == f"extract clip: proposals 0 to 31: the index of {GROUP}/key/c/0/0/0/0/0 {words}"


def test_augmented_views_may_mirror_and_earlier_releases_stored_no_affines(tmp_path: Path) -> None:
    mirroring = rewritten("affine", turn(8, 1), views=3, mirrored=2)
    assert faults(written(StageFolder(tmp_path / "s"), mirroring)) == []

    def without(attempt: Attempt) -> None:
        write_features(attempt.path, schema(views=2))
        shutil.rmtree(attempt.path / GROUP / "affine")

    assert faults(written(StageFolder(tmp_path / "t"), without)) == []


def test_lost_affines_are_found(tmp_path: Path) -> None:
    stage = written(StageFolder(tmp_path / "s"), lambda attempt: write_features(attempt.path, schema(views=2)))
    path = stored(stage, f"{GROUP}/affine/c/0/0/0/0")
    flip(path, 300)
    assert faults(stage) == [f"extract clip: {GROUP}/affine/c/0/0/0/0 does not match its checksum"]
    path.unlink()
    assert faults(stage) == [f"extract clip: {GROUP}/affine/c/0/0/0/0 is missing"]


def test_many_faults_are_cut_short(tmp_path: Path) -> None:
    stage = written(StageFolder(tmp_path / "s"), rewritten("embedding", put((), 5.0)))
    found = faults(stage)
    assert len(found) == 21 and found[-1] == "extract clip: and 20 more"


# ------------------------------------------------------------------------------------------------ tables and others
def changed(**columns: Any) -> pd.DataFrame:
    table = proposals_table("clip")
    for name, value in columns.items():
        table[name] = value(table[name].copy())
    return table


def at(row: int, value: Any) -> Callable[[pd.Series], pd.Series]:
    return lambda column: column.where(column.index != row, value)


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (changed(proposal=at(3, 4)), "proposal 3: in proposals.parquet its number is 4"),
        (changed(video=at(3, "other")), "proposal 3: in proposals.parquet its video is 'other'"),
        (changed(frame=at(3, 0)), "proposal 3: in proposals.parquet its frame 0 is not in order"),
        (changed(split=at(3, "test")), "proposal 3: in proposals.parquet its split is 'test'"),
        (changed(x1=at(3, np.nan)), "proposal 3: in proposals.parquet its box or score is not finite"),
        (changed().iloc[:39], "proposals.parquet has 39 rows, 40 proposals were committed"),
    ],
)
def test_proposals_that_were_written_wrong(tmp_path: Path, table: pd.DataFrame, line: str) -> None:
    stage = written(StageFolder(tmp_path / "s"), lambda attempt: write_table(attempt.path, "proposals", table))
    assert faults(stage) == [f"extract clip: {line}"]


def test_a_table_of_other_columns(tmp_path: Path) -> None:
    def write(attempt: Attempt) -> None:
        changed().drop(columns="keypoints").to_parquet(attempt.path / "proposals.parquet")

    [line] = faults(written(StageFolder(tmp_path / "s"), write))
    assert "proposals.parquet cannot be read (its columns are not those of its schema)" in line


def neighbours() -> pd.DataFrame:
    """Two references for each of 40 proposals, within the halves."""
    proposal, rank = np.repeat(np.arange(PROPOSALS), 2), np.tile([0, 1], PROPOSALS)
    half = PROPOSALS // 2
    reference = proposal // half * half + (proposal % half + 1 + rank) % half
    similarity = np.tile([2.0, 1.0], PROPOSALS)
    columns = {"proposal": proposal, "rank": rank, "reference": reference, "similarity": similarity}
    return pd.DataFrame({"video": "clip", "reference_video": "clip", **columns})


def splits(commit: Commit, video: str) -> np.ndarray | None:
    """Of the video itself and of one other; the store has no more."""
    return proposals_table(video)["split"].to_numpy(str) if video in ("clip", "other") else None


@pytest.mark.parametrize(
    ("column", "row", "value", "line"),
    [
        ("video", 74, "other", "its video is 'other'"),
        ("rank", 75, 2, "rank 2 is out of order, or one is missing"),
        ("reference_video", 74, "other", "reference 38 is of video 'other'"),
        ("reference", 74, 40, "reference 40 is no other proposal of 'clip'"),
        ("reference", 74, -1, "reference -1 is no other proposal of 'clip'"),
        ("reference", 74, 37, "reference 37 is no other proposal of 'clip'"),
        ("reference", 74, 3, "reference 3 is of the other split"),
        ("similarity", 75, np.nan, "the similarity to reference 39 is nan"),
        ("similarity", 75, 3.0, "reference 39 is more similar than the one before"),
    ],
)
def test_neighbours_that_were_written_wrong(tmp_path: Path, column: str, row: int, value: Any, line: str) -> None:
    table = neighbours()
    table[column] = at(row, value)(pd.Series(table[column]))
    stage = written(StageFolder(tmp_path / "s"), lambda attempt: write_table(attempt.path, "neighbours", table))
    assert faults(stage, splits=splits) == [f"extract clip: proposal 37: in neighbours.parquet {line}"]


@pytest.mark.parametrize(
    ("video", "reference", "line"),
    [
        ("other", 37, None),
        ("unknown", 1000, None),  # of a video that is not here, as in what was imported of a larger store
        ("other", 40, "reference 40 is no other proposal of 'other'"),
        ("unknown", -1, "reference -1 is no other proposal of 'unknown'"),
        ("other", 3, "reference 3 is of the other split"),
    ],
)
def test_neighbours_of_other_videos(tmp_path: Path, video: str, reference: int, line: str | None) -> None:
    record = make_record("extract", 1, {"n": 2, "scope": "dataset"}, {})
    table = neighbours()
    table["reference_video"] = at(74, video)(pd.Series(table["reference_video"]))
    table["reference"] = at(74, reference)(pd.Series(table["reference"]))
    stage = StageFolder(tmp_path / "s")
    stage.begin(record)
    with stage.writing(record, "clip", "") as attempt:
        write_table(attempt.path, "neighbours", table)
        attempt.meta = {"proposals": PROPOSALS, "fewer_than_n": 0}
    wanted = [] if line is None else [f"extract clip: proposal 37: in neighbours.parquet {line}"]
    assert faults(stage, splits=splits) == wanted


def test_neighbours_of_the_own_video_where_only_others_were_asked_for(tmp_path: Path) -> None:
    record = make_record("extract", 1, {"n": 2, "scope": "dataset", "select": "other_video"}, {})
    table = neighbours()
    table["reference_video"] = at(74, "clip")(pd.Series("other", index=table.index))
    stage = StageFolder(tmp_path / "s")
    stage.begin(record)
    with stage.writing(record, "clip", "") as attempt:
        write_table(attempt.path, "neighbours", table)
        attempt.meta = {"proposals": PROPOSALS, "fewer_than_n": 0}
    line = "proposal 37: in neighbours.parquet reference 38 is of video 'clip'"
    assert faults(stage, splits=splits) == [f"extract clip: {line}"]


def test_neighbours_that_are_missing(tmp_path: Path) -> None:
    table = neighbours().drop(index=[75])
    stage = written(StageFolder(tmp_path / "s"), lambda attempt: write_table(attempt.path, "neighbours", table))
    assert faults(stage) == [
        "extract clip: neighbours.parquet has 1 proposals with fewer than 2 references, 0 were committed"
    ]


def test_indices_and_heads_that_were_written_wrong(tmp_path: Path) -> None:
    def write(attempt: Attempt) -> None:
        write_index(attempt.path, build_index(np.zeros((39, 4), np.float32)))
        (attempt.path / "heads.safetensors").write_bytes(b"no heads")

    stage = written(StageFolder(tmp_path / "s"), write)
    count, heads = sorted(faults(stage), reverse=True)
    assert count.startswith("extract clip: the heads cannot be read")
    assert heads == "extract clip: index.faiss has 39 rows, 40 proposals were committed"
    other = StageFolder(tmp_path / "t")
    written(other, lambda attempt: (attempt.path / "index.faiss").write_bytes(b"none"))
    assert faults(other)[0].startswith("extract clip: index.faiss cannot be read")


# ----------------------------------------------------------------------------------------------------------- records
def small(path: Path, *units: str) -> StageFolder:
    stage = StageFolder(path)
    for unit in units or ("clip",):
        written(stage, lambda attempt: (attempt.path / "a.txt").write_text("some text"), unit)
    return stage


def test_damaged_commit_records(tmp_path: Path) -> None:
    stage = small(tmp_path / "s", "a", "b", "c", "d")
    folder = tmp_path / "s" / "commit" / fingerprint(RECORD)[:16]
    (folder / "b.json").write_text((folder / "b.json").read_text()[:-5])
    shutil.copy(folder / "a.json", folder / "c.json")
    value = json.loads((folder / "d.json").read_text())
    value["files"] = {"../../b/x": value["files"]["a.txt"]}
    (folder / "d.json").write_text(json.dumps(value))
    found = read_in_force(stage)
    verdict = verify_stage(stage, found)
    named = sorted(line.split(" is damaged")[0] for line in verdict.lines("s"))
    assert named == [f"s: commit/{folder.name}/{unit}.json" for unit in "bcd"]
    assert list(found.commits) == ["a"]
    repair(stage, found, verdict)
    assert list(stage.commits(RECORD)) == ["a"] and faults(stage) == []


def test_damaged_records(tmp_path: Path) -> None:
    stage = small(tmp_path / "s")
    other = make_record("extract", 1, {"n": 3}, {})
    stage.begin(other)
    with stage.writing(other, "clip", "") as attempt:
        (attempt.path / "a.txt").write_text("other")
    assert faults(stage) == []
    pointer, text = tmp_path / "s" / "stage.json", (tmp_path / "s" / "stage.json").read_text()
    for damage in (text[:-9], text.replace('"n": 2', '"n": 3'), text.replace('"format": 1', '"format": 0')):
        pointer.write_text(damage)
        [line] = faults(stage)
        assert "stage.json" in line and "delete it and run the stage again" in line
    pointer.unlink()
    assert faults(stage) == ["extract: stage.json is missing: the next run puts the configured record in force"]
    pointer.write_text(text)

    own, theirs = (tmp_path / "s" / "records" / f"{fingerprint(r)[:16]}.json" for r in (RECORD, other))
    for damage in ('{"n": NaN}', "[1]", "{", ""):
        for path in (own, theirs):
            before = path.read_text()
            if damage:
                path.write_text(damage)
            else:
                path.unlink()
            found = read_in_force(stage)
            verdict = verify_stage(stage, found)
            [line] = verdict.lines("s")
            assert f"records/{path.name} " in line
            repair(stage, found, verdict)
            assert (faults(stage) == []) == (path == own)  # only of the record in force is there another copy
            path.write_text(before)
    assert faults(stage) == []


def test_a_newer_format_is_no_damage(tmp_path: Path) -> None:
    stage = small(tmp_path / "s")
    path = tmp_path / "s" / "commit" / fingerprint(RECORD)[:16] / "clip.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(StoreError, match="store format 2; this program reads up to 1"):
        read_in_force(stage)


def test_links_are_noted(tmp_path: Path) -> None:
    stage = small(tmp_path / "s")
    stage.link_latest(stage.commits(RECORD))
    assert verify_stage(stage, read_in_force(stage)) == Verdict([])
    link = tmp_path / "s" / "latest" / "clip"
    link.unlink()
    link.symlink_to("elsewhere")
    verdict = verify_stage(stage, read_in_force(stage))
    assert verdict.lines("s") == [] and "latest/clip is not what is in force" in verdict.notes[0]


def test_fast_looks_at_sizes_alone(tmp_path: Path) -> None:
    stage = small(tmp_path / "s")
    path = stored(stage, "a.txt")
    flip(path, 3)
    read: list[int] = []
    assert faults(stage, fast=True, progress=read.append) == [] and sum(read) == 9
    assert faults(stage) == ["extract clip: a.txt does not match its checksum"]
    path.write_text("short")
    assert faults(stage, fast=True) == ["extract clip: a.txt has 5 bytes, 9 were committed"]
    path.unlink()
    assert faults(stage, fast=True) == ["extract clip: a.txt is missing"] == faults(stage)


# -------------------------------------------------------------------------------------------------- a whole pipeline
@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a pipeline that has run."""
    return finish_project(tmp_path_factory.mktemp("finished")) / "work"


def found_in(work: Path, *stages: str) -> list[str]:
    lines = []
    for name in stages or STAGES:
        folder = StageFolder(work / name)
        try:
            lines += verify_stage(folder, read_in_force(folder)).lines(name)
        except GLPoseError as error:
            lines.append(f"{name}: {error}")
    return lines


def test_no_flip_and_no_truncation_is_missed(work: Path) -> None:
    """What attempts hold, stage.json and records: each bit is under a checksum. Their kinds are drawn alike."""
    assert found_in(work) == []
    kinds: dict[str, list[Path]] = {}
    for path in sorted(work.rglob("*")):
        stage, *rest = path.relative_to(work).parts
        if path.is_file() and not path.is_symlink() and rest and rest[0] in ("data", "records", "stage.json"):
            inside = "/".join(rest[3:5]) if rest[0] == "data" else rest[0]
            kinds.setdefault(f"{stage}/{inside}", []).append(path)
    assert len(kinds) > 25
    draw, missed = random.Random(4), []
    for number in range(100):
        path = draw.choice(kinds[sorted(kinds)[number % len(kinds)]])
        before = path.read_bytes()
        if number % 4 == 3:
            path.write_bytes(before[: draw.randrange(len(before))])
        else:
            flip(path, draw.randrange(8 * len(before)))
        stage, kind, *rest = path.relative_to(work).parts
        found = found_in(work, stage)
        path.write_bytes(before)
        named = f"{stage} {rest[0]}: " if kind == "data" else f"{stage}: "
        if not found or not all(line.startswith(named) for line in found):
            missed.append((path, found))
    assert missed == [] and found_in(work) == []


def test_damaged_commits_are_found(work: Path) -> None:
    """Of a commit record what it says of files; `inputs` and `meta` have no checksum of their own."""
    draw = random.Random(0)
    for path in sorted(work.glob("*/commit/*/*.json")):
        before, commit = path.read_text(), json.loads(path.read_text())
        size, digest = commit["files"][draw.choice(sorted(commit["files"]))]
        damages = [before[: draw.randrange(len(before) - 2)], before.replace(digest, digest[::-1])]
        damages += [before.replace(f" {size},", f" {size + 1},"), before.replace(commit["attempt"], "elsewhere")]
        for damage in damages:
            path.write_text(damage)
            found = found_in(work, path.parts[-4])
            path.write_text(before)
            assert found and all(line.startswith(path.parts[-4]) for line in found)


def test_merged_tables_are_what_their_parts_hold(work: Path) -> None:
    """A copy that no commit names: what a flip leaves as it was, in what is read, is no fault."""
    draw, faulty = random.Random(0), 0
    for number, path in enumerate(sorted(work.glob("*/merged/*.parquet")) * 8):
        before = path.read_bytes()
        stage = StageFolder(path.parents[1])
        commits = read_in_force(stage).commits
        name = path.name.split("-")[0]
        whole = read_tables(stage, commits, name).to_json()
        flip(path, draw.randrange(8 * len(before)))
        if number % 4 == 3:
            path.write_bytes(path.read_bytes()[: draw.randrange(len(before))])
        found = found_in(work, stage.path.name)
        try:
            same = read_tables(stage, commits, name).to_json() == whole
        except (GLPoseError, ValueError):
            same = False
        path.write_bytes(before)
        assert found == ([] if same else [f"{stage.path.name}: merged/{path.name} is not what its videos' tables hold"])
        faulty += not same
    assert faulty > 8


DAMAGED = {
    "extract": {"a": "features.zarr/local/c/0/0/0/0/0/0", "c": "proposals.parquet"},
    "detect": {"b": "proposals.parquet"},
    "index": {"b": "index.faiss", "c": "neighbours.parquet"},
    "train": {"single_frame": "heads.safetensors"},
    "eval": {"results": "scores.json"},
}


def test_repair_takes_back_what_is_damaged_and_no_more(work: Path, tmp_path: Path) -> None:
    config = write_pipeline(shutil.copytree(work.parent, tmp_path / "copy", symlinks=True))
    own, whole = config.parent / "work", commit_digests(config.parent / "work")
    for name, units in DAMAGED.items():
        folder = StageFolder(own / name)
        record = folder.record_in_force()
        assert record is not None
        for unit, file in units.items():
            path = folder.attempt_path(folder.commit_of(record, unit)) / file
            assert isinstance(path, Path)
            flip(path, 8 * (path.stat().st_size // 2))
    merged = next((own / "detect" / "merged").iterdir())
    record_file = next((own / "index" / "records").iterdir())
    record_file.write_text("{")
    assert glpose_stage(config, "verify")[0] == 1
    assert commit_digests(own) == whole  # looking changes nothing
    assert glpose_stage(config, "verify", "--repair")[0] == 1
    left = {
        name: {unit: d for unit, d in units.items() if unit not in DAMAGED.get(name, {})}
        for name, units in whole.items()
    }
    assert commit_digests(own) == left and merged.exists()
    assert glpose_stage(config, "verify")[0] == 0
    code, printed = glpose_stage(config, "run")
    assert code == 0, printed
    assert "extract 1 done, 2 to do" in printed and "train 1 done, 1 to do" in printed
    assert commit_digests(own) == whole
    assert glpose_stage(config, "verify")[0] == 0
