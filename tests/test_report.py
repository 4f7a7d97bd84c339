"""The report: its sections on each kind of data, its numbers, what it leaves out and why, text that is no markup."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import jhmdb_builders
import pytest
import yaml
from markupsafe import Markup
from small_pipelines import context, finish_project, glpose_stage, snapshot, write_dataset, write_pipeline
from test_own_data import write_project as write_own_data

from glpose.report.charts import Dots, Line, Panel, charts
from glpose.report.page import THEMES, LeftOut, Section, render_page
from glpose.report.tables import html_table
from glpose.tables.published import published
from glpose.tables.table import Column, Table
from stages.config import find_config, list_pipelines, load_pipeline
from stages.report import SECTIONS, report_page
from stages.report_record import changes, recipe
from store.errors import ConfigError

ALL = [  # anchors, of a pipeline on PoseTrack18 files with tags
    "results", "joints", "curves", "recall", "side-by-side", "inspector",
    "training", "store", "stages", "options", "record",
]  # fmt: skip
EVIL = "<script>alert(1)</script> & \"'"


class Page(HTMLParser):
    """A page's elements: ids, attributes that name other files, and the text of each section, tables cell by cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.scripts = 0
        self.cells: dict[str, list[str]] = {}
        self.text: dict[str, str] = {}
        self._section, self._cell = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.scripts += tag == "script"
        if "id" in values:
            self.ids[values["id"]] += 1
        self.links += [values[key] for key in ("src", "href", "xlink:href", "srcset", "action") if key in values]
        if tag == "section":
            self._section = values["id"]
            self.anchors.append(self._section)
        if tag in ("td", "th"):
            self._cell = True
            self.cells.setdefault(self._section, []).append("")

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        self.text[self._section] = self.text.get(self._section, "") + data
        if self._cell:
            self.cells[self._section][-1] += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run: two training videos, one to evaluate on."""
    return finish_project(tmp_path_factory.mktemp("report"))


def page_of(config: Path, *settings: str) -> Page:
    """The report's page, by the command."""
    out = config.parent / "page.html"
    code, printed = glpose_stage(config, "report", "--out", str(out), *(f"--set={setting}" for setting in settings))
    assert code == 0, printed
    return Page(out.read_text())


@pytest.fixture(scope="module")
def page(finished: Path) -> Page:
    """The finished project's page."""
    return page_of(finished / "pipelines.yaml")


def scores(config: Path) -> dict[str, dict]:
    return json.loads((config.parent / "work/eval/latest/results/scores.json").read_text())


def is_self_contained(page: Page) -> None:
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    assert [name for name, count in page.ids.items() if count > 1] == []
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids.keys()


# ----------------------------------------------------------------------------------------------------------- sections
def test_every_section_is_there_with_the_numbers_of_eval(finished: Path, page: Page) -> None:
    found = scores(finished / "pipelines.yaml")
    assert page.anchors == ALL
    is_self_contained(page)
    for variant in ("glpose", "single_frame"):
        for value in [*found[variant]["groups"].values(), found[variant]["mean"]]:
            assert f"{value:.1f}" in page.cells["results"]
        for value in found[variant]["ap"].values():
            assert f"{value:.1f}" in page.cells["joints"]
    dcpose = next(row for row in published("posetrack18") if row["method"] == "DCPose")
    assert "DCPose" in page.cells["results"] and f"{dcpose['mean']:.1f}" in page.cells["results"]
    assert "Table 2: PoseTrack18 val, mAP" in page.text["results"]
    assert "occluded by others" in page.text["recall"]
    log = (finished / "work/train/latest/glpose/log.csv").read_text().splitlines()[1].split(",")
    assert f"{float(log[2]):.6f}" in page.cells["training"]
    assert {"key", "local", "embedding", "total"} <= set(page.cells["store"])
    assert {"detect", "extract", "index", "train", "eval", "3 of 3"} <= set(page.cells["stages"])


def test_it_lies_in_the_work_folder_and_is_the_same_every_time(finished: Path) -> None:
    config, path = finished / "pipelines.yaml", finished / "work" / "report.html"
    code, printed = glpose_stage(config, "report")
    assert code == 0 and str(path) in printed, printed
    first = path.read_text()
    before = {name: state for name, state in snapshot(finished / "work").items() if name != "report.html"}
    assert glpose_stage(config, "report")[0] == 0
    assert path.read_text() == first
    after = {name: state for name, state in snapshot(finished / "work").items() if name != "report.html"}
    assert after == before
    assert glpose_stage(config, "status")[0] == 0  # it does not make the folder somebody else's


def test_what_is_not_done_is_left_out_with_the_reason(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "project", symlinks=True)
    config = write_pipeline(tmp_path / "project")
    shutil.rmtree(tmp_path / "project/work/eval")
    page = page_of(config)
    assert page.anchors == ["inspector", "training", "store", "stages", "options", "record", "left-out"]
    assert page.text["left-out"].count("eval is not finished as configured") == 4
    shutil.rmtree(tmp_path / "project/work/train")
    page = page_of(config)
    assert page.anchors == ["store", "stages", "options", "record", "left-out"]
    assert "train is not finished as configured" in page.text["left-out"]


def test_results_of_other_options_are_not_shown_as_these(finished: Path) -> None:
    page = page_of(finished / "pipelines.yaml", "train.epochs=2")
    assert "results" not in page.anchors and "training" not in page.anchors
    assert "train.epochs: 1 -> 2" in page.text["left-out"]
    assert "glpose-stage run -p small" in page.text["left-out"]


def test_before_anything_is_made_there_is_no_report(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    config = write_pipeline(tmp_path)
    code, printed = glpose_stage(config, "report", "--out", str(tmp_path / "page.html"))
    assert (code, printed) == (1, "error: nothing is made yet for pipeline 'small': glpose-stage run -p small\n")
    assert not (tmp_path / "page.html").exists()


def test_a_damaged_output_leaves_the_other_sections(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "project", symlinks=True)
    config = write_pipeline(tmp_path / "project")
    (tmp_path / "project/work/eval/latest/results/predictions/glpose/c.json").write_text("{")
    page = page_of(config)
    assert page.anchors == [*(name for name in ALL if name not in ("curves", "side-by-side")), "left-out"]
    assert "c.json" in page.text["left-out"]


def test_damaged_features_leave_a_page(finished: Path, tmp_path: Path) -> None:
    """Even those of the first video, whose form other sections tell, and even its commit."""
    shutil.copytree(finished, tmp_path / "project", symlinks=True)
    config = write_pipeline(tmp_path / "project")
    space = context(config).commit("extract", "b").meta["space"]
    (tmp_path / "project/work/extract/latest/a/features.zarr/zarr.json").write_text("{")
    page = page_of(config)
    assert {"results", "stages", "options", "record", "left-out"} <= set(page.anchors)
    assert space in page.text["record"] and space[:12] in page.text[""]
    [commit] = tmp_path.glob("project/work/extract/commit/*/a.json")
    commit.write_text("{")
    page = page_of(config)
    assert {"stages", "options", "left-out"} <= set(page.anchors) and space[:12] in page.text[""]


def test_out_is_a_file(finished: Path) -> None:
    code, printed = glpose_stage(finished / "pipelines.yaml", "report", "--out", str(finished))
    assert code == 2 and "is a folder: give the name of a file (--out)" in printed


def test_every_section_is_named_once() -> None:
    assert len(SECTIONS) == len(set(SECTIONS))


# ------------------------------------------------------------------------------------------------- other kinds of data
def test_pck_data_has_pck_curves_through_the_tables_figure(tmp_path: Path) -> None:
    root = tmp_path / "jhmdb"
    positions = jhmdb_builders.figure_positions()
    for clip in ("golf_one", "golf_two"):
        jhmdb_builders.write_clip(root, "golf", clip, positions, jhmdb_builders.figure_mask(positions))
    jhmdb_builders.write_splits(root, "golf", ["golf_one.avi 1", "golf_two.avi 2"])
    config = write_pipeline(tmp_path, {"kind": "jhmdb", "root": str(root)})
    assert glpose_stage(config, "run")[0] == 0
    page, found = page_of(config), scores(config)
    assert page.anchors == [*(name for name in ALL if name != "recall"), "left-out"]
    is_self_contained(page)
    assert "no tags of occlusion" in page.text["left-out"]
    assert "PCK@0.2 by joint" in page.text["joints"]
    assert "GLPose" in page.text["results"] and "98.9" in page.cells["results"]  # published Head
    at = page.cells["curves"].index("0.2")  # of the first row, single frame
    groups = [f"{value:.1f}" for value in found["single_frame"]["groups"].values()]
    assert page.cells["curves"][at + 1 : at + 1 + len(groups)] == groups


def test_oks_data_has_curves_whose_mean_is_ap(tmp_path: Path) -> None:
    config = write_own_data(tmp_path)
    assert glpose_stage(config, "run")[0] == 0
    page, found = page_of(config), scores(config)
    assert page.anchors == [*(name for name in ALL if name != "recall"), "left-out"]
    is_self_contained(page)
    for key in ("ap", "ap50", "ap75"):
        assert f"{found['glpose'][key]:.1f}" in page.cells["curves"]
    assert "hand l" in page.text["joints"] and "Nothing is published of this data" in page.text["results"]


def test_without_annotations_there_is_a_report_of_the_store(finished: Path, tmp_path: Path) -> None:
    boxes = [{"image_id": f"{frame:06d}", "category_id": 1, "bbox": [4, 4, 40, 60], "score": 0.9} for frame in range(3)]
    shutil.copytree(finished / "data" / "images" / "val" / "c", tmp_path / "videos" / "c")
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    source = {"source": "file", "file": str(tmp_path / "boxes.json")}
    config = write_pipeline(
        tmp_path, {"kind": "folder", "root": str(tmp_path / "videos")}, detect={"train": source, "eval": source}
    )
    code, printed = glpose_stage(config, "run")
    assert code == 0, printed
    page = page_of(config)
    assert page.anchors == ["store", "stages", "options", "record", "left-out"]
    assert "train is no part of this pipeline" in page.text["left-out"]


# --------------------------------------------------------------------------------------------------- to make it again
@pytest.mark.parametrize("name", list_pipelines(find_config(None)))
def test_the_recipe_is_the_same_pipeline(name: str, tmp_path: Path) -> None:
    settings = ["data.eval.subset="] if name.startswith("posetrack") else []
    config = load_pipeline(find_config(None), name, settings)
    path = tmp_path / "again.yaml"
    path.write_text(recipe(config))
    again = load_pipeline(path, name)
    assert again.model_copy(update={"work": config.work}) == config
    assert "work" not in json.dumps(recipe(config))


def test_only_what_is_not_a_default_is_told(tmp_path: Path) -> None:
    own = {
        "note": "A few clips.",
        "data": {"kind": "rendered", "root": "demo"},
        "detect": {"eval": {"source": "cascade_rcnn"}, "detector": {"checkpoint": "demo-detector", "nms": 0.5}},
        "train": {"batch_size": 8, "epochs": 20},
    }
    path = tmp_path / "pipelines.yaml"
    path.write_text(yaml.safe_dump({"pipelines": {"some": own}}))
    config = load_pipeline(path, "some", ["index.n=8", "train.heads.n=8", "cluster={kind: local}"])
    assert changes(config) == {
        "work": "work/some",
        "note": "A few clips.",
        "data": {"kind": "rendered", "root": "demo"},
        "detect": {"eval": {"source": "cascade_rcnn"}, "detector": {"checkpoint": "demo-detector"}},
        "index": {"n": 8},
        "train": {"heads": {"n": 8}, "batch_size": 8},
        "cluster": {"kind": "local"},
    }


def test_fingerprints_are_those_of_the_records(finished: Path, page: Page) -> None:
    for stage in ("detect", "extract", "index", "train", "eval"):
        assert json.loads((finished / "work" / stage / "stage.json").read_text())["digest"] in page.cells["record"]
    assert "extract.checkpoint" in page.cells["record"]
    assert "glpose-stage run -p small --config small.yaml" in page.text["record"]


# ------------------------------------------------------------------------------------------------------------- markup
def test_text_of_users_is_text(finished: Path, page: Page) -> None:
    noted = page_of(finished / "pipelines.yaml", f"note={EVIL}")
    assert noted.scripts == page.scripts
    assert EVIL in noted.text[""] and EVIL in noted.text["options"] and EVIL in noted.text["record"]


def test_names_in_tables_charts_and_page_are_text() -> None:
    table = Table("", EVIL, [Column("a", EVIL)], [{"a": EVIL}], notes=[EVIL])
    dots, line = Dots(EVIL, EVIL, [EVIL], {EVIL: [1.0]}), Line(EVIL, 0, [1, 2], [1.0, 2.0], [EVIL] * 2)
    html = html_table(table, EVIL) + charts("x", EVIL, [dots, Panel(EVIL, EVIL, EVIL, [line])], [EVIL, EVIL])
    assert isinstance(html, Markup) and "<script" not in html
    whole = render_page(EVIL, EVIL, {EVIL: EVIL}, [Section(EVIL, "x", html)], {EVIL: EVIL}, EVIL)
    page = Page(whole)
    assert page.scripts == 1  # the page's own
    assert page.cells["x"] == [EVIL, EVIL]
    is_self_contained(page)


def test_marks_tell_their_numbers_and_have_the_themes_colours() -> None:
    dots = Dots("AP", "percent", ["nose", "left ankle"], {"a": [10.0, None], "b": [float("nan"), 30.25]})
    html = charts("x", "AP", [dots], ["a", "b"])
    assert re.findall(r"<title>(.*?)</title>", html) == ["a, nose: 10.0", "b, left ankle: 30.2"]
    colours = set(re.findall(r"#[0-9a-f]{3,6}\b", html, re.IGNORECASE))
    assert colours == set() and "var(--text)" in html and "var(--series-1)" in html


def test_sections_cannot_break_out_of_their_elements() -> None:
    with pytest.raises(ValueError, match="script of section 'a' holds"):
        Section("A", "a", "", script="x = '</script>'")
    with pytest.raises(ValueError, match="use a-z"):
        Section("A", "a b", "")
    with pytest.raises(ValueError, match="share an anchor"):
        render_page("", "", {}, [Section("A", "a", ""), Section("B", "a", "")], {})


def test_a_section_that_fails_otherwise_is_a_bug_and_shows(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def left_out(_: object) -> Section:
        raise LeftOut("for a reason")

    def refused(_: object) -> Section:
        raise ConfigError("no such thing\nmore")

    monkeypatch.setitem(SECTIONS, "Results", left_out)
    monkeypatch.setitem(SECTIONS, "Training", refused)
    monkeypatch.setitem(SECTIONS, "Store", lambda _: None)
    text, titles, reasons = report_page(context(finished / "pipelines.yaml"))
    assert reasons == {"Results": "for a reason", "Training": "no such thing"}
    assert "Store" not in titles and "for a reason" in text
    monkeypatch.setitem(SECTIONS, "Store", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report_page(context(finished / "pipelines.yaml"))


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", THEMES)
def test_contrast_is_enough_to_read(theme: str) -> None:
    colours = THEMES[theme]
    assert colours.keys() == THEMES["light"].keys()
    for ground in ("page", "panel"):
        for name, colour in colours.items():
            if name in ("page", "panel", "line"):
                continue
            light, dark = sorted((luminance(colour), luminance(colours[ground])), reverse=True)
            enough = 3.0 if name.startswith("series-") else 4.5  # AA: graphics, text
            assert (light + 0.05) / (dark + 0.05) >= enough, f"{name} on {ground}"
