"""Sections of the report on what eval has found: the table, joints, curves, recall by tag."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glpose.data.dataset import joint_set
from glpose.metrics import oks, pck, recall_by_tag
from glpose.metrics.precision_recall import Curve, posetrack_curves
from glpose.report.charts import Dots, Line, Panel, charts
from glpose.report.page import LeftOut, Section
from glpose.report.tables import beside, details, html_table, notes, paragraph
from glpose.scoring import GROUND_TRUTH, PREDICTIONS, RECALL, score_oks, score_pck
from glpose.tables.published import TABLES
from glpose.tables.recall import recall_tables
from glpose.tables.table import Cell, Column, Table
from stages.detect import boxes_in_words
from stages.evaluate import PROBLEMS_SHOWN, UNIT, row_labels, scorer
from stages.report_state import results, results_folder
from stages.stage import Context
from stages.tables import result_table
from store.places import read_json, read_text

RECALLS = np.arange(0.1, 1.0, 0.1)  # at which the table below the curves tells precision
ALPHAS = np.arange(0.01, 0.501, 0.01).round(2)  # of PCK's curve
TAG_GROUPS = (
    {"all"}, {"visible", "self-occluded", "occluded by others", "occluded"}, {"rapid", "slow"}, {"defocused", "sharp"},
)  # fmt: skip
PAIR = ("single_frame", "glpose")  # rows whose difference is told, the second less the first


def results_section(context: Context) -> Section:
    """The paper's table, with what is published of the same data above ours."""
    found = results(context)
    table = result_table([context.config])
    published = any(row["source"] == "published" for row in table.rows)
    kind = context.config.data.kind
    told = (
        f"{TABLES[kind]}; what is published stands above, ours below it."
        if published
        else f"Nothing is published of this data ({kind}): these are ours alone."
    )
    intro = f"{table.title}, on {found.videos} videos, boxes: {boxes_in_words(context.config)}. {told}"
    facts = ["; ".join(f"{key}: {value}" for key, value in table.about.items())]
    problems = list(dict.fromkeys(text for scores in _scores(context).values() for text in scores.get("problems", ())))
    more = len(problems) - PROBLEMS_SHOWN
    facts += problems[:PROBLEMS_SHOWN] + ([f"{more} more in scores.json"] if more > 0 else [])
    return Section("Results", "results", paragraph(intro) + html_table(table, table.title) + notes(facts))


def joints_section(context: Context) -> Section:
    """The score of every joint, rows of eval beside each other."""
    labels, joints = row_labels(context.config), joint_set(context.config.data)
    by_joint = {row: _by_joint(scores) for row, scores in _scores(context).items() if row in labels}
    order = [j for members in joints.groups.values() for j in members]
    names = [joints.joints[j] for j in order]
    metric = _joint_metric(context)
    groups = [len(members) for members in joints.groups.values()]
    values = {labels[row]: [by_joint[row].get(name) for name in names] for row in labels}
    dots = Dots(f"{metric} by joint", "percent", [_words(name) for name in names], values, groups)
    columns = [Column("joint", "joint"), *(Column(row, label) for row, label in labels.items())]
    rows: list[dict[str, Cell]] = [
        {"joint": _words(name), **{row: by_joint[row].get(name) for row in labels}} for name in names
    ]
    if set(PAIR) <= by_joint.keys():
        columns.append(Column("difference", "difference"))
        for row in rows:
            before, after = (row[name] for name in PAIR)
            row["difference"] = after - before if isinstance(before, float) and isinstance(after, float) else None
    table = Table("joints", f"{metric} by joint", columns, rows)
    drawn = charts("joints", f"{metric} by joint", [dots], list(values))
    html = beside(drawn, html_table(table, table.title, signed=["difference"]))
    return Section(f"{metric} by joint", "joints", html)


def curves_section(context: Context) -> Section:
    """Precision against recall, with the AP of the table as its area; of PCK, which ranks nothing, PCK by threshold."""
    results(context)
    score = scorer(context.config)
    with _local_results(context) as folder:
        return _pck_curves(context, folder) if score is score_pck else _ap_curves(context, folder, score is score_oks)


def recall_section(context: Context) -> Section:
    """Recall of annotated joints by what makes them hard, where annotations say it."""
    path = results_folder(context) / RECALL
    if not path.exists():
        raise LeftOut("the annotations have no tags of occlusion, speed or blur")
    table = pd.read_csv(io.StringIO(read_text(path)))
    labels, boxes = row_labels(context.config), boxes_in_words(context.config)
    by_row = {label: table[table["row"] == row].set_index("tag") for row, label in labels.items()}
    first = next(iter(by_row.values()))
    tags = [tag for tag in recall_by_tag.TAGS if first.loc[tag, "joints_all"] > 0]
    named = [f"{tag} ({int(first.loc[tag, 'joints_all']):,})" for tag in tags]
    measures = {"PCKh@0.5, everybody": "pckh50_all", "PCK@0.1, everybody": "pck10_all"}
    groups = [size for group in TAG_GROUPS if (size := sum(tag in tags for tag in group))]
    panels = []
    for title, column in measures.items():
        values = {label: [float(own.loc[tag, column]) for tag in tags] for label, own in by_row.items()}
        panels.append(Dots(title, "percent right", named, values, groups))
    intro = (
        "Annotated joints that are found, by what makes them hard: hidden by the person's own body or by others, "
        "moving fast, out of focus. In brackets: how many there are."
    )
    numbers = [paragraph(part.title) + html_table(part, part.title) for part in recall_tables(table, labels, boxes)]
    html = paragraph(intro) + charts("recall", "Recall by tag", panels, list(by_row)) + details("The numbers", *numbers)
    return Section("Recall by occlusion and blur", "recall", html)


def _ap_curves(context: Context, folder: Path, coco: bool) -> Section:
    joints, labels = joint_set(context.config.data), row_labels(context.config)
    curves: dict[str, Mapping[str, Curve]] = {}
    for row, label in labels.items():
        truth, found = folder / GROUND_TRUTH, folder / PREDICTIONS / row
        if coco:
            curves[label] = oks.curves(truth / "keypoints.json", found / "keypoints.json", joints)
        else:
            curves[label] = posetrack_curves(truth, found, context.config.eval.joints)
    names = list(next(iter(curves.values())))
    if not names:
        raise LeftOut("nobody is annotated: there is neither precision nor recall")
    lines = {
        name: [_curve_line(label, series, own[name]) for series, (label, own) in enumerate(curves.items())]
        for name in names
    }
    panels = [
        Panel(
            name, "recall", "precision", own, (0, 1), (0, 1.02),
            corner=[f"AP {of_row[name].area:.1f}" for of_row in curves.values()],
        )
        for name, own in lines.items()
    ]  # fmt: skip
    how = (
        "at the 101 recalls of COCO's protocol: the mean of a curve is its AP"
        if coco
        else "of all joints of a group, as poseval integrates it: the area under a curve is the group's AP in the table"
    )
    intro = f"The best precision at each recall or above, {how}."
    table = _curve_table(curves)
    html = paragraph(intro) + charts("curves", "Precision against recall", panels, list(curves))
    return Section("Precision and recall", "curves", html + details("The numbers", html_table(table, table.title)))


def _curve_line(label: str, series: int, curve: Curve) -> Line:
    """Steps from recall 0 on, and down where recall ends."""
    end = float(curve.recall[-1]) if len(curve.recall) else 0.0
    first = float(curve.precision[0]) if len(curve.precision) else 0.0
    x, y = [0.0, *curve.recall.tolist(), end], [first, *curve.precision.tolist(), 0.0]
    return Line(f"{label}: AP {curve.area:.1f}", series, x, y, steps=True)


def _curve_table(curves: Mapping[str, Mapping[str, Curve]]) -> Table:
    """Precision at a few recalls, and AP."""
    recalls = {f"at{100 * recall:.0f}": float(recall) for recall in RECALLS}
    rows: list[dict[str, Cell]] = []
    for name in next(iter(curves.values())):
        for label, own in curves.items():
            curve = own[name]
            at = np.searchsorted(curve.recall, np.array(list(recalls.values())) - 1e-9)
            precision = 100 * np.append(curve.precision, 0.0)[at]
            rows.append(
                {"of": name, "row": label, "ap": curve.area, **dict(zip(recalls, precision.tolist(), strict=True))}
            )
    columns = [Column("of", "of"), Column("row", "row"), Column("ap", "AP")]
    columns += [Column(key, f"{100 * recall:.0f} %") for key, recall in recalls.items()]
    return Table("curves", "Precision, percent, by recall", columns, rows)


def _pck_curves(context: Context, folder: Path) -> Section:
    config = context.config
    joints, labels, how = joint_set(config.data), row_labels(config), config.eval.pck
    alphas = sorted({*ALPHAS.tolist(), how.alpha})
    values: dict[str, list[Mapping[str, float]]] = {
        label: [
            {**found.groups, "Avg": found.mean}
            for found in pck.evaluate_alphas(
                folder / GROUND_TRUTH, folder / PREDICTIONS / row, joints, alphas, how.size, config.eval.joints
            )
        ]
        for row, label in labels.items()
    }
    at, panels = alphas.index(how.alpha), []
    for name in [*joints.groups, "Avg"]:
        lines = []
        for series, (label, own) in enumerate(values.items()):
            y = [found[name] for found in own]
            tip = f"{label}: {y[at]:.1f} at {how.alpha:g}"
            lines += [Line(label, series, alphas, y), Line("", series, [alphas[at]], [y[at]], [tip])]
        panels.append(Panel(name, "alpha", "PCK, percent", lines, (0, alphas[-1]), (0, 102)))
    rows: list[dict[str, Cell]] = [
        {"row": label, "alpha": f"{alphas[number]:g}", **own[number]}
        for label, own in values.items()
        for number in range(len(alphas))
        if number == at or round(100 * alphas[number]) % 5 == 0
    ]
    columns = [
        Column("row", "row"),
        Column("alpha", "alpha"),
        *(Column(name, name) for name in [*joints.groups, "Avg"]),
    ]
    table = Table("curves", "PCK by alpha, percent", columns, rows)
    intro = (
        "PCK ranks nothing, so it has no precision and recall. These are the joints within alpha times "
        f"{pck.SIZES[how.size]}, by alpha; the marks, at {how.alpha:g}, are the table's."
    )
    html = paragraph(intro) + charts("curves", "PCK by alpha", panels, list(values))
    return Section("PCK by threshold", "curves", html + details("The numbers", html_table(table, table.title)))


def _scores(context: Context) -> dict[str, Any]:
    return read_json(results_folder(context) / "scores.json")


def _by_joint(scores: Mapping[str, Any]) -> Mapping[str, float | None]:
    """Joint -> percent: AP of PoseTrack's joints, else PCK; OKS has AP of whole poses alone."""
    if "pck" in scores:
        return scores["pck"]["joints"]
    return scores["joints"] if "joints" in scores else scores["ap"]


def _joint_metric(context: Context) -> str:
    """What `_by_joint` gives, in words."""
    score, alpha = scorer(context.config), context.config.eval.pck.alpha
    return f"PCK@{alpha:g}" if score in (score_oks, score_pck) else "AP"


def _words(name: str) -> str:
    return name.replace("_", " ")


@contextmanager
def _local_results(context: Context) -> Iterator[Path]:
    """Folder of predictions and ground truth on this machine."""
    folder = results_folder(context)
    if isinstance(folder, Path):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="glpose-") as temporary:
        for name in context.commit("eval", UNIT).files:
            if name.startswith((GROUND_TRUTH, PREDICTIONS)):
                path = Path(temporary) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes((folder / name).read_bytes())
        yield Path(temporary)
