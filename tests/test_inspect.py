"""What `inspect` prints of a store, which rows a query chooses, and the files that they are written to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import store
from stages.config import load_pipeline
from stages.inspection import inspect
from stages.stage import Context
from stages.table_query import matching
from store.errors import ConfigError, NotCommitted, StoreError
from store.features import FeatureWriter
from store.folder import StageFolder
from store.index import made_from
from store.record import make_record
from store.schema import FeatureSchema
from store.tables import merge_tables, write_table

RECORD = make_record("extract", 1, {}, {})
SCHEMA = FeatureSchema(channels=4, height=6, width=5, stride=4, offsets=(-1, 1), backbone="hrnet_w4", space="s")
VIDEOS = {"000001_bonn_train": 12, "000002_bonn_train": 5}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A pipeline whose extract and index have finished two videos."""
    folder = tmp_path_factory.mktemp("inspect")
    extract, index = StageFolder(folder / "work" / "extract"), StageFolder(folder / "work" / "index")
    for stage in (extract, index):
        stage.begin(RECORD)
    for video, count in VIDEOS.items():
        number = np.arange(count)
        with extract.writing(RECORD, video, "") as attempt:
            with FeatureWriter(attempt.path, SCHEMA, count) as writer:
                for _ in number:
                    writer.append(np.ones((1, 4, 6, 5), np.float32), np.ones((1, 2, 4, 6, 5), np.float32))
            columns = {
                "video": [video] * count, "proposal": number, "frame": number * 3, "person": number % 2 - 1,
                "x1": number + 0.25, "y1": number, "x2": number + 100.0, "y2": number + 200.0,
                "score": number.astype(np.float32) / 10, "source": ["annotation"] * count,
                "split": ["train"] * count, "keypoints": [np.zeros(45, np.float32)] * count,
            }  # fmt: skip
            write_table(attempt.path, "proposals", columns)
            attempt.meta = {"proposals": count}
        with index.writing(RECORD, video, made_from(extract.commit_of(RECORD, video), {})) as attempt:
            columns = {
                "video": [video] * count, "proposal": number, "rank": [0] * count,
                "reference_video": [video] * count, "reference": number[::-1], "similarity": number.astype(np.float32),
            }  # fmt: skip
            write_table(attempt.path, "neighbours", columns)
    merge_tables(extract, extract.commits(RECORD), "proposals")
    return pipeline(folder, folder / "work")


def pipeline(folder: Path, work: Path) -> Context:
    config = folder / "pipelines.yaml"
    config.write_text(
        yaml.safe_dump({"pipelines": {"small": {"work": str(work), "data": {"kind": "posetrack18", "root": "x"}}}})
    )
    return Context(load_pipeline(config, "small", []))


# ----------------------------------------------------------------------------------------------------------- printing
def test_what_is_printed(context: Context) -> None:
    lines = inspect(context, rows=3, width=100)
    printed = "\n".join(lines)
    assert lines[0] == f"small in {context.config.work}, 2 videos"
    sizes = store.open(context.config.work).describe()["bytes"]
    key, total = (next(line.split() for line in lines if line.startswith(name)) for name in ("key ", "total "))
    assert key[:4] + key[-1:] == ["key", "uint8", "2", "17", "1x4x6x5"]
    assert total[1:4] == ["2", "17", f"{sizes['total'] / 1e3:.1f}"]
    assert "neighbours.parquet" in printed
    assert "17 proposals, the first 3:" in lines
    rows = [line.split() for line in lines[lines.index("17 proposals, the first 3:") + 1 :]]
    assert rows[0] == ["proposal", "frame", "person", "x1", "y1", "x2", "y2", "score"]
    assert rows[2] == ["1", "3", "0", "1.2", "1.0", "101.0", "201.0", "0.100"]
    assert "in all of these: video 000001_bonn_train, source annotation, split train, views 1, shape 4x6x5" in lines


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_fit_the_terminal(context: Context, width: int) -> None:
    lines = inspect(context, rows=17, width=width)
    assert max(map(len, lines[1:])) <= max(80, width)  # the first holds a path
    table = lines[lines.index("17 proposals") + 1 :]
    assert sum("000002" in line for line in table) == 5  # a name may be folded, but is there
    assert sum("104.0" in line for line in table) == 2  # of one row of each video; no number is cut


def test_one_video_neighbours_and_no_rows(context: Context) -> None:
    assert "5 proposals" in inspect(context, video="000002_bonn_train")
    lines = inspect(context, neighbours=True, rows=2, width=100)
    assert "17 neighbours, the first 2:" in lines
    assert lines[-4].split() == ["proposal", "reference", "similarity"]
    assert lines[-2].split() == ["1", "10", "1.000"]
    assert inspect(context, rows=0)[-1] == "17 proposals"
    assert inspect(context, where="score > 5")[-1] == "0 of 17 proposals"


def test_what_is_not_there_is_named(context: Context, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no features of a video '000003_bonn_train'; did you mean '00000"):
        inspect(context, video="000003_bonn_train")
    with pytest.raises(NotCommitted, match="no feature store at"):
        inspect(pipeline(tmp_path, tmp_path / "work"))
    with StageFolder(tmp_path / "work" / "extract").writing(RECORD, "a", "") as attempt:
        with FeatureWriter(attempt.path, SCHEMA, 0):
            pass
        write_table(attempt.path, "proposals", store.open(context.config.work).table(keypoints=True).head(0))
        attempt.meta = {"proposals": 0}
    StageFolder(tmp_path / "work" / "extract").begin(RECORD)
    empty = pipeline(tmp_path, tmp_path / "work")
    assert inspect(empty)[-1] == "0 proposals"
    with pytest.raises(NotCommitted, match="no index yet"):
        inspect(empty, neighbours=True)


# ------------------------------------------------------------------------------------------------------------ queries
@pytest.mark.parametrize(
    ("where", "proposals"),
    [
        ("score < 0.5 and frame > 6", [3, 4, 3, 4]),
        ("(score < 0.5) & (frame > 6) & ~(proposal == 3)", [4, 4]),
        ("not frame < 30", [10, 11]),
        ("person == -1 and 0 < x2 - x1 < 100 and video == '000002_bonn_train'", [0, 2, 4]),
        ("proposal in [1, 11]", [1, 11, 1]),
        ("video.str.startswith('000002') and score.between(0.1, 0.25)", [1, 2]),
        ("split == 'eval'", []),
    ],
)
def test_rows_of_a_query(context: Context, where: str, proposals: list[int]) -> None:
    assert matching(store.open(context.config.work).table(), where)["proposal"].tolist() == proposals


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("scor < 0.5", "there is no column 'scor'"),
        ("score <", "invalid syntax"),
        ("", "invalid syntax"),
        ("score = 0.5", "invalid syntax"),
        ("score", "not true or false for each row"),
        ("1 < 2", "not true or false for each row"),
        ("video < 3", "Invalid comparison"),
        ("@pd.read_csv('x')", "invalid syntax"),
        ("score < @limit", "invalid syntax"),
        ("score.__class__", "there is no '__class__' here"),
        ("score.to_csv('FILE')", "there is no 'to_csv' here"),
        ("__import__('os').remove('FILE')", "there is no "),
        ("score[0] < 1", "Subscript is more than a query may hold"),
        ("(lambda: 1)() < score", "Lambda is more than"),
        ("video.str.contains('[')", "cannot be used"),
    ],
)
def test_bad_queries_are_one_plain_line_and_do_nothing(
    context: Context, tmp_path: Path, where: str, words: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    out = tmp_path / "out.csv"
    with pytest.raises(ConfigError, match="--where") as caught:
        inspect(context, where=where.replace("FILE", str(victim)), csv=out)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert message.endswith(
        "columns: video, proposal, frame, person, x1, y1, x2, y2, score, source, split, views, shape"
    )
    assert victim.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]


# ------------------------------------------------------------------------------------------------------------- export
def test_export_holds_every_chosen_row(context: Context, tmp_path: Path) -> None:
    csv, parquet = tmp_path / "new" / "rows.csv", tmp_path / "rows.parquet"
    parquet.write_text("old")
    lines = inspect(context, where="score < 0.5", csv=csv, parquet=parquet, rows=1)
    assert lines[-2:] == [f"wrote 10 rows to {csv}", f"wrote 10 rows to {parquet}"]
    table = store.open(context.config.work).table()
    want = table.loc[table["score"] < 0.5].reset_index(drop=True)
    read = pd.read_parquet(parquet)
    assert [tuple(shape) for shape in read["shape"]] == want["shape"].tolist()
    pd.testing.assert_frame_equal(read.drop(columns="shape"), want.drop(columns="shape"))
    as_text = pd.read_csv(csv, dtype={"score": np.float32})
    assert list(as_text) == list(want)
    for name in ("video", "proposal", "x1", "y2", "score", "source"):
        assert as_text[name].tolist() == want[name].tolist()
    assert {path.name for path in tmp_path.rglob("*")} == {"new", "rows.csv", "rows.parquet"}  # no temporary file


def test_export_of_neighbours_of_a_video_without_rows(context: Context, tmp_path: Path) -> None:
    csv, parquet = tmp_path / "rows.csv", tmp_path / "rows.parquet"
    inspect(context, neighbours=True, where="similarity > 100", csv=csv, parquet=parquet)
    assert csv.read_text() == "video,proposal,rank,reference_video,reference,similarity\n"
    assert list(pd.read_parquet(parquet)) == ["video", "proposal", "rank", "reference_video", "reference", "similarity"]
    inspect(context, video="000002_bonn_train", neighbours=True, csv=csv)
    assert pd.read_csv(csv)["reference"].tolist() == [4, 3, 2, 1, 0]


def test_export_to_a_folder_is_refused(context: Context, tmp_path: Path) -> None:
    for option in ("csv", "parquet"):
        with pytest.raises(ConfigError, match="is a folder: give the name of a file"):
            inspect(context, **{option: tmp_path})  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []
