"""status: counts, bytes and times of what is done; why the rest is not; and a forecast that the next run keeps."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from small_pipelines import RENDERED, finish_project, glpose_stage, snapshot, write_pipeline

from glpose.data import video as video_module
from stages.console import size_words
from store.folder import StageFolder
from store.record import fingerprint

FRESH = {"detect": 3, "extract": 3, "index": 3, "train": 2, "eval": 1}  # units by stage
BRIGHT = "def find(images):\n    return [{'boxes': [[4, 4, 30, 40]], 'scores': [0.9], 'labels': [0]} for _ in images]\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run: two training videos, one to evaluate on."""
    return finish_project(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project, elsewhere."""
    folder = shutil.copytree(finished, tmp_path / "done", symlinks=True)
    write_pipeline(folder)
    return folder


def shown(folder: Path, *arguments: str) -> tuple[dict[str, list[str]], list[str], dict[str, str]]:
    """status: cells by stage, the lines of reasons, the forecast by stage. It must leave the folder as it is."""
    before = snapshot(folder)
    code, printed = glpose_stage(folder / "pipelines.yaml", "status", *arguments)
    assert (code, snapshot(folder)) == (0, before), printed
    table, _, rest = printed.partition("\n\n")[2].partition("\n\n")
    reasons, _, forecast = rest.rpartition("the next run:\n")
    rows = [re.split(r" {2,}", line) for line in table.splitlines()]
    assert rows[0] == ["stage", "units", "done", "missing", "stale", "damaged", "bytes", "time"]
    cells = {row[0]: row[1:] for row in rows[1:]}
    return cells, reasons.split("\n"), {line[:9].strip(): line[9:] for line in forecast.splitlines() if line}


def counts(cells: dict[str, list[str]], stage: str) -> tuple[int, ...]:
    """Done, missing, stale, damaged."""
    return tuple(map(int, cells[stage][1:5]))


def commits(folder: Path, stage: str) -> dict[str, Any]:
    own = StageFolder(folder / "work" / stage)
    record = own.record_in_force()
    assert record is not None
    return own.commits(record)


def commit_file(folder: Path, stage: str, unit: str) -> Path:
    (found,) = (folder / "work" / stage / "commit").glob(f"*/{unit}.json")
    return found


def change_a_frame(folder: Path) -> None:
    images = folder / "data" / "images" / "train"
    shutil.copy(images / "b" / "000003.jpg", images / "a" / "000003.jpg")


# -------------------------------------------------------------------------------------------------------------- done
def test_all_done(done: Path) -> None:
    cells, reasons, forecast = shown(done)
    assert {stage: (int(cells[stage][0]), counts(cells, stage)) for stage in FRESH} == {
        stage: (units, (units, 0, 0, 0)) for stage, units in FRESH.items()
    }
    assert [line for line in reasons if line] == []
    assert forecast == {stage: f"{units} done, 0 to do" for stage, units in FRESH.items()}
    for stage in FRESH:
        size = sum(f.stat().st_size for f in (done / "work" / stage / "data").rglob("*") if f.is_file())
        assert cells[stage][5] == size_words(size)
        seconds = [commit.seconds for commit in commits(done, stage).values()]
        assert all(0 < second < 60 for second in seconds)
        assert cells[stage][6] == f"{sum(seconds):.1f} s"


def test_time_is_no_part_of_what_a_unit_is(done: Path) -> None:
    """A unit that took longer is no other, and one of an earlier release, whose commit does not say, is whole."""
    path = commit_file(done, "detect", "a")
    value = json.loads(path.read_text())
    for seconds in ({"seconds": 7200.5}, {}):
        changed = {key: entry for key, entry in value.items() if key not in ("seconds", "checksum")} | seconds
        path.write_text(json.dumps({**changed, "checksum": fingerprint(changed)}))
        cells, _, forecast = shown(done)
        assert set(forecast.values()) == {f"{units} done, 0 to do" for units in FRESH.values()}
        others = sum(commits(done, "detect")[unit].seconds for unit in "bc")
        assert cells["detect"][6] == ("2 h 0 min" if seconds else f"{others:.1f} s")
    code, printed = glpose_stage(done / "pipelines.yaml", "verify")
    assert code == 0, printed


def test_nothing_has_run(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "data", tmp_path / "data")
    write_pipeline(tmp_path)
    cells, _, forecast = shown(tmp_path)
    assert {stage: counts(cells, stage) for stage in FRESH} == {stage: (0, n, 0, 0) for stage, n in FRESH.items()}
    assert (cells["detect"][5:], cells["total"][-2:]) == (["0 B", "-"], ["0 B", "-"])
    assert forecast["detect"] == "0 done, 3 to do: a, b, c"
    assert forecast["eval"] == "0 done, 1 to do after extract, index and train: results"
    assert not (tmp_path / "work").exists()


# ------------------------------------------------------------------------------------------------------------- stale
def test_changed_frames_and_a_forecast_that_holds(done: Path) -> None:
    change_a_frame(done)
    cells, reasons, forecast = shown(done)
    assert counts(cells, "detect") == counts(cells, "extract") == (2, 0, 1, 0)
    assert "detect   1 stale: its frames, annotation or splits have changed: a" in reasons
    assert forecast["detect"] == "2 done, 1 to do, 1 from changed inputs: a"
    assert forecast["index"] == "3 done, 0 to do; again, if extract gives other results: a"
    assert forecast["train"].endswith("; again, if extract or index gives other results: glpose, single_frame")
    before = {stage: {unit: c.attempt for unit, c in commits(done, stage).items()} for stage in FRESH}
    assert glpose_stage(done / "pipelines.yaml", "run")[0] == 0
    made = {
        stage: {unit for unit, commit in commits(done, stage).items() if before[stage][unit] != commit.attempt}
        for stage in FRESH
    }
    assert made == {
        "detect": {"a"}, "extract": {"a"}, "index": {"a"}, "train": {"glpose", "single_frame"}, "eval": {"results"},
    }  # fmt: skip


def test_a_stage_made_anew_makes_those_after_it_stale(done: Path) -> None:
    change_a_frame(done)
    for stage in ("detect", "extract"):
        assert glpose_stage(done / "pipelines.yaml", stage)[0] == 0
    cells, reasons, forecast = shown(done)
    assert (counts(cells, "extract"), counts(cells, "index")) == ((3, 0, 0, 0), (2, 0, 1, 0))
    assert "index    1 stale: extract made anew since: a" in reasons
    assert "train    2 stale: extract made anew since: glpose, single_frame" in reasons
    assert forecast["train"] == "0 done, 2 to do after index, 2 from changed inputs: glpose, single_frame"


def test_other_parameters(done: Path) -> None:
    settings = ("--set", "index.n=1", "--set", "train.heads.n=1")
    cells, reasons, forecast = shown(done, *settings)
    assert (counts(cells, "extract"), counts(cells, "index")) == ((3, 0, 0, 0), (0, 0, 3, 0))
    assert "index    3 stale: made with other parameters (index.n: 2 -> 1): a, b, c" in reasons
    assert forecast["index"].startswith("0 done, 3 to do, made with other parameters (index.n: 2 -> 1): needs --force")
    assert cells["index"][5] == size_words(sum(c.bytes for c in commits(done, "index").values()))  # the old one
    assert glpose_stage(done / "pipelines.yaml", "index", "--force", "--videos", "a", *settings)[0] == 0
    cells, _, _ = shown(done, *settings)
    assert counts(cells, "index") == (1, 0, 2, 0)


def test_a_lost_source(done: Path) -> None:
    (done / "data" / "images" / "train" / "b" / "000002.jpg").unlink()
    cells, reasons, forecast = shown(done)
    assert counts(cells, "detect") == (2, 0, 1, 0)
    assert any(line.startswith("detect   1 stale: video 'b': frame 2 is listed but") for line in reasons)
    assert forecast["detect"] == "2 done, 0 to do, 1 cannot be read (b)"


# --------------------------------------------------------------------------------------------------------- half done
def test_half_done(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "data", tmp_path / "data")
    config = write_pipeline(tmp_path)
    assert glpose_stage(config, "detect", "--videos", "[ab]")[0] == 0
    assert glpose_stage(config, "extract", "--videos", "a")[0] == 0
    work = tmp_path / "work"
    (work / "extract" / "data" / "b").mkdir()
    (work / "extract" / "data" / "b" / "17f-0.writing").write_text("")
    (work / "train" / "unfinished").mkdir(parents=True)
    (work / "train" / "unfinished" / "glpose.state").write_bytes(b"a training's state")
    cells, reasons, forecast = shown(tmp_path)
    assert {stage: counts(cells, stage) for stage in ("detect", "extract", "index")} == {
        "detect": (2, 1, 0, 0), "extract": (1, 2, 0, 0), "index": (0, 3, 0, 0),
    }  # fmt: skip
    assert "extract  1 missing: being written, or left by a run that was killed: b" in reasons
    assert "train    1 missing: begun; goes on after its last whole epoch: glpose" in reasons
    assert forecast["extract"] == "1 done, 2 to do after detect: b, c"
    cells, _, forecast = shown(tmp_path, "--videos", "a")
    assert (counts(cells, "detect"), list(forecast)) == ((1, 0, 0, 0), ["detect", "extract", "index"])


def test_clips_that_are_not_rendered_yet(tmp_path: Path) -> None:
    write_pipeline(tmp_path, RENDERED)
    cells, reasons, forecast = shown(tmp_path)
    assert (cells["render"][0], cells["detect"][0]) == ("3", "?")
    assert "detect   render has not run yet: its clips are this pipeline's videos" in reasons
    assert forecast["render"].startswith("0 done, 3 to do: ")
    assert forecast["detect"] == "all to do after render"
    assert forecast["eval"] == "0 done, 1 to do after extract, index and train: results"


# ----------------------------------------------------------------------------------------------------------- damaged
def test_damaged_commit(done: Path) -> None:
    path = commit_file(done, "extract", "b")
    path.write_text(path.read_text().replace('"proposals"', '"people"'))
    cells, reasons, forecast = shown(done)
    assert counts(cells, "extract") == (2, 0, 0, 1)
    assert any(line.startswith("extract  1 damaged: ") and "does not match its checksum" in line for line in reasons)
    assert "glpose-stage verify -p small says what is damaged, --repair has the next run mend it" in reasons
    assert forecast["extract"] == "2 done, 0 to do, 1 damaged (b)"
    assert counts(cells, "index") == (2, 0, 1, 0)  # b alone


def test_files_that_are_gone(done: Path) -> None:
    shutil.rmtree(done / "work" / "index" / "data" / "c")
    cells, reasons, _ = shown(done)
    assert counts(cells, "index") == (2, 0, 0, 1)
    assert any("is missing: c" in line for line in reasons)
    assert glpose_stage(done / "pipelines.yaml", "verify", "--repair")[0] == 1
    cells, _, forecast = shown(done)
    assert counts(cells, "index") == (2, 1, 0, 0)
    assert forecast["index"] == "2 done, 1 to do: c"


def test_damaged_stage_record(done: Path) -> None:
    path = done / "work" / "index" / "stage.json"
    path.write_text(path.read_text().replace('"pool": 3', '"pool": 4'))
    cells, reasons, forecast = shown(done)
    assert counts(cells, "index") == (3, 0, 0, 0)  # its commits are there all the same
    assert any(line.startswith("index    ") and "does not match its digest" in line for line in reasons)
    assert forecast["index"].startswith("stops: ")
    assert glpose_stage(done / "pipelines.yaml", "run")[0] == 1


def test_work_folder_of_others_is_refused(done: Path) -> None:
    path = done / "pipelines.yaml"
    path.write_text(path.read_text().replace("  small:", "  other: {extends: small}\n  small:"))
    code, printed = glpose_stage(path, "status", "-p", "other")
    assert (code, "holds the outputs of pipeline 'small'" in printed) == (1, True)


# ------------------------------------------------------------------------------------------------------------- aside
def test_crops_and_ablations_show_where_there_are_some(done: Path) -> None:
    config = done / "pipelines.yaml"
    assert list(shown(done)[0]) == [*FRESH, "total"]
    assert glpose_stage(config, "extract", "--crops")[0] == 0
    assert glpose_stage(config, "ablate", "--rows", "k=0")[0] == 0
    cells, _, forecast = shown(done)  # other rows of the table need more than is stored, and are not asked for
    assert (counts(cells, "ablate"), counts(cells, "ablate_eval")) == ((1, 0, 0, 0), (1, 0, 0, 0))
    assert counts(cells, "crops") == (int(cells["crops"][0]), 0, 0, 0)
    assert list(forecast) == list(FRESH)


def test_crops_of_some_videos_are_counted_against_all(done: Path) -> None:
    config = done / "pipelines.yaml"
    assert glpose_stage(config, "extract", "--crops", "--videos", "a")[0] == 0
    cells, _, _ = shown(done)
    assert (cells["crops"][0], counts(cells, "crops")) == ("2", (1, 1, 0, 0))  # "b" has a train split as well, "c" none
    assert counts(shown(done, "--videos", "c")[0], "crops") == (0, 0, 0, 0)  # has no train split
    assert counts(shown(done, "--set", "data.train=null")[0], "crops") == (0, 0, 0, 0)


# -------------------------------------------------------------------------------------------------------------- fast
def test_video_files_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "bright.py").write_text(BRIGHT)
    film = cv2.VideoWriter(str(tmp_path / "videos" / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for shade in range(6):
        film.write(np.full((48, 64, 3), 40 * shade, np.uint8))
    film.release()
    own = {"eval": {"source": "python"}, "detector": {"model": f"{tmp_path}/bright.py:find"}}
    config = write_pipeline(tmp_path, {"kind": "folder", "root": str(tmp_path / "videos")}, detect=own)
    assert glpose_stage(config, "run")[0] == 0

    def refuse(*_: object) -> int:
        raise AssertionError("a video was decoded")

    monkeypatch.setattr(video_module, "measure_video", refuse)
    cells, _, forecast = shown(tmp_path)
    assert {stage: counts(cells, stage) for stage in ("detect", "extract", "index")} == dict.fromkeys(
        ("detect", "extract", "index"), (1, 0, 0, 0)
    )
    assert list(forecast) == ["detect", "extract", "index"]
    (tmp_path / "videos" / "film.avi").open("ab").write(b"more")
    cells, _, _ = shown(tmp_path)
    assert counts(cells, "detect") == (0, 0, 1, 0)
    (tmp_path / "videos" / "new.avi").write_bytes(b"not looked at")  # missing: the run opens it
    assert counts(shown(tmp_path)[0], "detect") == (0, 1, 1, 0)


def test_clips_in_mp4_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_pipeline(tmp_path, {**RENDERED, "encoding": "mp4"})
    for stage in ("render", "detect"):
        assert glpose_stage(config, stage)[0] == 0
    monkeypatch.setattr(video_module, "measure_video", lambda *_: pytest.fail("a video was decoded"))
    assert counts(shown(tmp_path)[0], "detect") == (3, 0, 0, 0)
