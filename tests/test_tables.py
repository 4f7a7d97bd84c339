"""The paper's tables: rows and trainings, means and spreads, what is published, costs, and how tables are written."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from glpose.data.resident import map_bytes
from glpose.extraction import local_offsets
from glpose.keypoints import POSETRACK
from glpose.models.glpose import GLPoseHeads, single_frame
from glpose.options import AblateOptions, HeadOptions
from glpose.row_names import choose_names
from glpose.tables.ablation import Row, ablation_table, curve, table_rows
from glpose.tables.comparison import Ours, comparison_table
from glpose.tables.costs import backbone_flops, cost_table, count_flops, head_costs
from glpose.tables.figures import figures, mean_of, spread_of
from glpose.tables.plot import Curve, plot_curves
from glpose.tables.published import ABLATION, TABLES, published
from glpose.tables.table import Column, Table
from store.errors import ConfigError
from store.schema import FeatureSchema

GROUPS = tuple(POSETRACK.groups)

ROWS = table_rows(HeadOptions(), AblateOptions())
NAMES = [row.name for row in ROWS]
W48 = FeatureSchema(channels=48, height=96, width=72, stride=4, offsets=(), backbone="hrnet_w48", space="x")


def result(mean: float | None, **groups: float | None) -> dict[str, float | None]:
    """Figures as of one seed: every group 50 but those given."""
    return {**dict.fromkeys(GROUPS, 50.0), **groups, "mean": mean}


def by_hand(row: dict) -> float:
    """The mean over 15 joints, poseval's, of a published row: three of the head, two of every other group."""
    return (3 * row["head"] + 2 * sum(row[group.lower()] for group in GROUPS[1:])) / 15


# ------------------------------------------------------------------------------------------------------ the ablation
def test_fourteen_trainings_are_printed_as_seventeen_rows() -> None:
    assert (
        len(ROWS) == 17
        and len({row.training for row in ROWS}) == len({row.heads.model_dump_json() for row in ROWS}) == 14
    )
    again = {row.name: row.training for row in ROWS if row.name != row.training}
    assert again == {"k=4": "complete", "n=6": "complete", "head=3x3": "complete"}
    printed = [
        (row["variant"], row["k"], row["n"], row["enhancement"], row["head_kernel"]) for row in published(ABLATION)
    ]
    names = {"mlp": "MLP", "3x3": "3x3", "5x5": "5x5"}
    ours = [
        (row.label, row.heads.k, row.heads.n, "yes" if row.heads.enhancement else "no", names[row.heads.head])
        for row in ROWS
    ]
    assert ours == printed


def test_every_row_changes_one_option_of_the_pipelines_own_heads() -> None:
    own = HeadOptions(k=2, n=3, temperature=5.0, local_weight="linear", head="5x5")
    rows = {row.name: row for row in table_rows(own, AblateOptions(k=(0, 2, 7), n=(3,)))}
    assert list(rows) == ["complete", "k=0", "k=2", "k=7", "n=3", "enhancement=no", "head=mlp", "head=3x3", "head=5x5"]
    assert rows["k=7"].heads == own.model_copy(update={"k": 7})
    assert rows["enhancement=no"].heads == own.model_copy(update={"enhancement": False})
    assert rows["head=3x3"].heads == own.model_copy(update={"head": "3x3"})
    assert [name for name, row in rows.items() if row.training == "complete"] == ["complete", "k=2", "n=3", "head=5x5"]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("k=[01]", ["k=0", "k=1"]),
        (" head=mlp, complete,head=mlp ", ["complete", "head=mlp"]),
        ("enhancement=*", ["enhancement=no"]),
        ("*", NAMES),
    ],
)
def test_rows_by_name(patterns: str, names: list[str]) -> None:
    assert choose_names(NAMES, patterns, "the ablation", "--rows") == names


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ("k2", "no row 'k2' .*; did you mean 'k=2'"),
        ("complete,head=7x7", "no row 'head=7x7' .*; did you mean 'head=.x.'"),
        ("n=7", "did you mean 'n=6'|did you mean 'n="),
        ("zzz", "no row 'zzz' .*; there are complete, k=0,"),
        (" , ", "no row is asked for"),
    ],
)
def test_unknown_rows_are_refused(patterns: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose_names(NAMES, patterns, "the ablation", "--rows")


def test_means_and_spreads_by_hand() -> None:
    scores = {
        "complete": {0: result(80.0, Head=70.0), 1: result(82.0, Head=73.0), 4: result(87.0, Head=None)},
        "k=1": {0: result(60.0)},
    }
    table = ablation_table(ROWS, scores, "rendered", "title", {"boxes": "annotations"})
    rows = {str(row["variant"]): row for row in table.records()}
    assert list(rows) == ["complete", "k=1", "k=4", "n=6", "3x3 head"]  # the rows whose training has scores
    complete = rows["complete"]
    assert complete["mean"] == 83.0
    assert complete["mean_std"] == pytest.approx(math.sqrt((9 + 1 + 16) / 2))  # of a sample: n - 1
    assert (complete["elbow"], complete["elbow_std"]) == (50.0, 0.0)
    assert (complete["head"], complete["head_std"]) == (None, None)  # one of its seeds has none
    assert (complete["seeds"], complete["seed"]) == (3, "0, 1, 4")
    one = rows["k=1"]
    assert (one["mean"], one["mean_std"], one["seeds"], one["training"]) == (60.0, None, 1, "k=1")
    assert [rows["k=4"][key] for key in ("mean", "training", "row")] == [83.0, "complete", "k=4"]
    assert "83.0 ± 3.61" in table.text() and "± sample" not in table.text()
    assert table.notes == ["±: sample standard deviation over seeds"]


def test_the_papers_figures_stand_below_ours_for_posetrack17_alone() -> None:
    scores = {row.training: {0: result(80.0)} for row in ROWS}
    for kind in ("posetrack18", "rendered", "jhmdb", "coco"):
        table = ablation_table(ROWS, scores, kind, "", {})
        assert len(table.rows) == 17 and not table.notes
    table = ablation_table(ROWS, scores, "posetrack17", "", {})
    records = table.records()
    assert [row["source"] for row in records] == ["ours", "paper"] * 17
    figures_ = [*map(str.lower, GROUPS), "mean"]
    assert [[row[key] for key in figures_] for row in records[1::2]] == [
        [row[key] for key in figures_] for row in published(ABLATION)
    ]
    assert "82.99, not 83.1" in table.text()
    # a row that is not the paper's has none
    other = table_rows(HeadOptions(n=3), AblateOptions(k=(2,), n=(3,)))
    table = ablation_table(other, {row.training: {0: result(80.0)} for row in other}, "posetrack17", "", {})
    assert [row["variant"] for row in table.records() if row["source"] == "ours"] == [row.label for row in other]
    papers = [row["row"] for row in table.records() if row["source"] == "paper"]
    assert papers == ["n=3"]  # complete, k=2 and the heads have n = 3 here, 6 in the paper


def test_curves_are_of_the_finished_rows_and_of_the_paper() -> None:
    scores = {"k=0": {0: result(70.0), 1: result(72.0)}, "complete": {0: result(80.0)}}
    ours, papers = curve(ROWS, scores, "k", "posetrack17")
    assert ours == [(0, 71.0, pytest.approx(math.sqrt(2))), (4, 80.0, 0.0)]
    assert papers == [(0, 82.2), (1, 82.6), (2, 82.7), (3, 83.0), (4, 83.1)]
    assert curve(ROWS, scores, "n", "rendered") == ([(6, 80.0, 0.0)], [])
    assert curve(ROWS, {"k=0": {0: result(None)}}, "k", "rendered")[0] == []


DOLLARS = "$\\frac{ a clip, not $5"  # no formula


def test_the_plot_is_a_picture_of_the_panels_with_points(tmp_path: Path) -> None:
    sizes = []
    for number, second in enumerate(([], [(0, 1.0, 0.0), (6, 2.0, 0.3)])):
        path = tmp_path / f"{number}.png"
        plot_curves(
            path, [Curve("k", "k", [(0, 1.0, 0.5)], [(0, 82.2), (1, 82.6)]), Curve("n", "n", second)], "AP", [DOLLARS]
        )
        content = path.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        sizes.append(int.from_bytes(content[16:20]))
    assert sizes[1] > 1.5 * sizes[0]  # px wide: two panels, not one


def test_figures_of_every_metric() -> None:
    posetrack = {"ap": {}, "groups": {"Head": 1.0, "Ankle": None}, "mean": 2.0}
    assert figures(posetrack) == {"Head": 1.0, "Ankle": None, "mean": 2.0}
    assert figures({**posetrack, "mean": None}) == {"Head": None, "Ankle": None, "mean": None}  # nobody is annotated
    oks = {"mean": 5.0, "ap": 5.0, "ap50": 6.0, "ap75": 4.0, "ap_medium": None, "ap_large": 5.0, "ar": 7.0, "pck": {}}
    found = figures(oks)
    assert found == {"AP50": 6.0, "AP75": 4.0, "medium": None, "large": 5.0, "AR": 7.0, "mean": 5.0}
    assert mean_of([found, {**found, "AR": 9.0}])["AR"] == 8.0
    assert spread_of([found])["AR"] is None


# ---------------------------------------------------------------------------------------------------- what is published
def test_what_ships_is_what_was_read_from_the_paper(shared_data: Path) -> None:
    files = {
        "posetrack17": "table1_posetrack17_val",
        "posetrack18": "table2_posetrack18_val",
        "jhmdb": "table3_sub_jhmdb",
        ABLATION: "table4_ablation_posetrack17",
    }
    for name, file in files.items():
        with (shared_data / "paper" / f"{file}.csv").open(newline="") as handle:
            theirs = [list(row.values()) for row in csv.DictReader(handle)]
        ours = [["" if cell is None else str(cell) for cell in row.values()] for row in published(name)]
        assert [row for row in ours if row[0] != "DCPose"] == theirs


def test_dcpose_stands_beside_the_papers_own_rows() -> None:
    for name, mean in (("posetrack17", 82.8), ("posetrack18", 80.9)):
        (row,) = (row for row in published(name) if row["method"] == "DCPose")
        assert row["mean"] == mean
        assert by_hand(row) == pytest.approx(mean, abs=0.15)


def test_the_footnotes_arithmetic() -> None:
    table17, table18 = ({row["method"]: row for row in published(name)} for name in ("posetrack17", "posetrack18"))
    rows = {row["variant"]: row for row in published(ABLATION)}
    assert round(by_hand(table17["GLPose"]), 2) == round(by_hand(rows["complete"]), 2) == 82.99
    assert round(by_hand(rows["k=2"]), 2) == 82.56
    assert round(by_hand(table18["GLPose"]), 2) == 80.85
    assert rows["k=0"]["head"] is None
    sub = {row["method"]: row for row in published("jhmdb")}
    assert by_hand(sub["GLPose"]) == pytest.approx(sub["GLPose"]["mean"], abs=0.06)


@pytest.mark.parametrize(("kind", "name"), [("posetrack17", "table1"), ("posetrack18", "table2"), ("jhmdb", "table3")])
def test_ours_stands_below_the_published_rows(kind: str, name: str) -> None:
    ours = Ours("GLPose (k=4, n=6), ours", "HRNet-W48", "weights x.pth", result(81.25, Head=None))
    table = comparison_table([ours], kind, "AP", {"boxes": "file b.json", "joints": "visible"}, "A note.", ["n"])
    rows = table.records()
    assert (table.name, len(rows)) == (name, len(published(kind)) + 1)
    assert [row["method"] for row in rows[:-1]] == [row["method"] for row in published(kind)]
    assert rows[-1] == {
        "method": "GLPose (k=4, n=6), ours", "backbone": "HRNet-W48", "additional_data": "weights x.pth", "head": None,
        **dict.fromkeys(("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), 50.0), "mean": 81.25, "source": "ours",
    }  # fmt: skip
    text = table.text()
    assert text.startswith(
        f"{TABLES[kind]}, percent\nmetric: AP; boxes: file b.json; joints: visible\nA note.\nmethod "
    )
    assert ("Avg" in text) == (kind == "jhmdb")


def test_ours_stands_alone_for_other_data() -> None:
    table = comparison_table([Ours("m", "b", "d", result(1.0))], "rendered", "AP", {})
    assert (table.name, len(table.rows), table.notes) == ("results", 1, [])
    whole = comparison_table([Ours("m", "b", "d", result(1.0))], "jhmdb", "PCK", {}, rivals=False)  # not Sub-JHMDB
    assert (whole.name, whole.title, len(whole.rows)) == ("results", "PCK on the eval split, percent", 1)
    assert "Avg" in whole.text()


# --------------------------------------------------------------------------------------------------------------- costs
def test_operations_are_two_per_multiply_add() -> None:
    assert count_flops(nn.Conv2d(3, 5, 3, padding=1), torch.rand(2, 3, 7, 4)) == 2 * (2 * 7 * 4) * 5 * 3 * 9


@pytest.mark.parametrize("heads", [HeadOptions(), HeadOptions(k=1, n=0, head="5x5"), single_frame(HeadOptions())])
def test_costs_of_heads_by_hand(heads: HeadOptions) -> None:
    maps, grid = 1 + 2 * heads.k + heads.n, 96 * 72
    weights = [
        48 * maps * 48 * 9,
        48 * 48 * 9,
        48 * maps * 48,
        *[48 * 48 * 9] * 4,
    ]  # three blocks, the first's shortcut
    if heads.enhancement:
        weights += [48 * 1 * 9, 96 * 48 * 9, 48 * 48 * 9, 96 * 48]  # psi, then the block that combines, its shortcut
    if maps == 1:
        weights.remove(48 * 48)  # as many channels come out as go in
    weights += [48 * 15 * {"3x3": 9, "5x5": 25, "mlp": 1}[heads.head]]
    costs = head_costs(heads, W48, 15)
    assert costs.flops == 2 * grid * sum(weights)
    model = GLPoseHeads(48, 15, local_offsets(heads.k), heads)
    assert costs.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert costs.bytes == (1 + 2 * heads.k) * (48 * 96 * 72 + 4 * 48)
    causal = head_costs(heads.model_copy(update={"causal": True}), W48, 15)
    assert causal.bytes == (1 + heads.k) * map_bytes(W48) and causal.parameters <= costs.parameters
    copies = head_costs(heads.model_copy(update={"inputs": "key_copies"}), W48, 15)
    assert copies.bytes == map_bytes(W48) and copies.parameters == costs.parameters
    half = head_costs(heads, W48.model_copy(update={"dtype": "float16"}), 15)
    assert half.bytes == (1 + 2 * heads.k) * 2 * 48 * 96 * 72
    crop = backbone_flops(W48)
    assert crop is not None and costs.backbone_flops == (1 + 2 * heads.k) * crop


def test_costs_of_the_layer_that_heads_read() -> None:
    plain, grid = head_costs(HeadOptions(), W48, 15), 96 * 72
    aligned = head_costs(HeadOptions(align="pose"), W48, 15)
    per_joint = 15 * (48 + 2) + 14 * 3  # logits and two sums of every map, the joints' three sums of every other
    assert aligned.flops - plain.flops == 2 * grid * 15 * per_joint and aligned.parameters == plain.parameters
    prior = head_costs(HeadOptions(prior="frames"), W48, 15)
    assert prior.flops > plain.flops and prior.parameters == plain.parameters + (48 + 1) * 15 + 3 * 9 * 15 + 1


def test_costs_of_the_backbone() -> None:
    crop = backbone_flops(W48)
    assert crop is not None and round(crop / 1e9, 2) == 40.65
    assert backbone_flops(W48.model_copy(update={"backbone": "vit_b"})) is None


def test_the_table_of_costs_names_device_threads_and_convention() -> None:
    schema = W48.model_copy(update={"channels": 8, "height": 16, "width": 12, "backbone": "other"})
    heads = {"all": HeadOptions(k=1, n=2), "per channel": HeadOptions(k=1, n=2, per_channel=True)}
    table = cost_table(heads, schema, 15, torch.device("cpu"), 2)
    assert table.about["device"] == "CPU" and table.about["threads"] == str(torch.get_num_threads())
    rows = table.records()
    assert [row["variant"] for row in rows] == ["all", "per channel"]
    assert all(isinstance(row["frames_per_second"], float) and row["frames_per_second"] > 0 for row in rows)
    assert [row["backbone_gflops"] for row in rows] == [None, None]
    assert "one multiply-add is 2 FLOPs" in table.text()


# ------------------------------------------------------------------------------------------------------------- writing
TABLE = Table(
    "some",
    "A title",
    (Column("who", "who"), Column("x", "X", spread="x_std"), Column("x_std"), Column("n", "n")),
    [{"who": "a|b", "x": 1.25, "x_std": 0.034, "n": 12345}, {"who": "c", "x": None}],
    {"boxes": "annotations, with a comma"},
    "A note.",
    ["below"],
)


def test_a_table_as_text() -> None:
    assert TABLE.text().splitlines() == [
        "A title",
        "boxes: annotations, with a comma",
        "A note.",
        "who           X       n",
        "a|b  1.2 ± 0.03  12,345",
        "c             -       -",
        "below",
    ]


def test_a_table_as_files(tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("of before")
    assert TABLE.write(tmp_path) == ["some.csv", "some.md", "some.json"]
    with (tmp_path / "some.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    about = {"boxes": "annotations, with a comma", "note": "A note."}
    assert rows == [
        {"who": "a|b", "x": "1.25", "x_std": "0.034", "n": "12345", **about},
        {"who": "c", "x": "", "x_std": "", "n": "", **about},
    ]
    content = json.loads((tmp_path / "some.json").read_text())
    assert content == {"title": "A title", **about, "rows": TABLE.records(), "notes": ["below"]}
    assert (tmp_path / "some.md").read_text().splitlines() == [
        "**A title**", "", "- boxes: annotations, with a comma", "- A note.", "",
        "| who | X | n |", "| --- | ---: | ---: |", "| a\\|b | 1.2 ± 0.03 | 12,345 |", "| c | - | - |", "", "- below",
    ]  # fmt: skip


def test_a_row_is_what_its_name_says() -> None:
    assert ROWS[1] == Row("k=0", "k=0", HeadOptions(k=0), "k=0")
