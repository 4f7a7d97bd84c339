"""Sections of the report on trainings: their curves, and the ablation."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pandas as pd

from glpose.report.charts import Line, Panel, charts
from glpose.report.page import LeftOut, Section
from glpose.report.tables import details, html_table, notes, paragraph
from glpose.tables.plot import Curve
from glpose.tables.table import Column, Table
from stages.ablation import ablation_of, finished_scores
from stages.evaluate import variant_labels
from stages.report_state import finished, why_not
from stages.stage import Context
from stages.train import LOG
from store.errors import GLPoseError
from store.places import read_text

MANY = 60  # epochs of which single marks would be a blur


def training_section(context: Context) -> Section:
    """Loss and PCK of every epoch, by variant, and of held-out videos where there were any."""
    labels = variant_labels(context.config)
    commits = finished(context, "train")
    names = [name for name in sorted(commits, reverse=True) if name in labels]
    logs = {labels[name]: pd.read_csv(io.StringIO(read_text(context.output("train", name) / LOG))) for name in names}
    panels = [
        _panel("Loss", "training loss", logs, "loss", log=True),
        _panel("PCK", "PCK on heatmaps, percent", logs, "pck"),
    ]
    held_out = [name for name, log in logs.items() if bool(log["validation_loss"].notna().any())]
    if held_out:
        panels += [
            _panel("Loss, held-out videos", "loss", logs, "validation_loss", log=True),
            _panel("PCK, held-out videos", "PCK on heatmaps, percent", logs, "validation_pck"),
        ]
    options = context.config.train
    changes = ", ".join(map(str, options.milestones))
    intro = (
        f"Every epoch of {options.epochs}, learning rate {options.lr:g}"
        + (f", times {options.gamma:g} after epochs {changes}" if changes else "")
        + f", batches of {options.batch_size}. PCK is of the training's own heatmaps and boxes, not the table's metric."
    )
    titles = {"epoch": "epoch", "lr": "learning rate", "loss": "loss", "pck": "PCK"}
    if held_out:
        titles |= {"validation_loss": "held-out loss", "validation_pck": "held-out PCK"}
    digits = {"lr": 6, "loss": 6, "validation_loss": 6}
    columns = [Column(key, title, digits.get(key, 2)) for key, title in titles.items()]
    tables = []
    for name, log in logs.items():
        rows = [
            {key: None if pd.isna(value) else value for key, value in row.items()} for row in log.to_dict("records")
        ]
        tables.append(paragraph(name) + html_table(Table("", name, columns, rows), f"Epochs of {name}"))  # type: ignore[arg-type]
    html = paragraph(intro) + charts("training", "Training curves", panels, list(logs))
    return Section("Training", "training", html + details("The numbers", *tables))


def ablation_section(context: Context) -> Section | None:
    """Table 4 and its curves, of the rows that `ablate` has finished; None where it never ran."""
    if not context.folder("ablate_eval").path.is_dir():
        return None
    try:
        found = finished_scores(context)
    except GLPoseError as error:
        raise LeftOut(str(error).splitlines()[0]) from None
    if not found.scores:
        raise LeftOut(why_not(context, "ablate_eval"))
    table, curves = ablation_of(context, found)
    drawn = [_against(curve, found.metric) for curve in curves if curve.points]
    html = paragraph(table.title + ".") + html_table(table, table.title)
    html += notes(["; ".join(f"{key}: {value}" for key, value in table.about.items())])
    if drawn:
        legend = ["ours", "paper"] if any(curve.paper for curve in curves) else ["ours"]
        html += charts("ablation", "The average against k and n", drawn, legend)
    return Section("Ablation", "ablation", html)


def _panel(title: str, y_title: str, logs: dict[str, pd.DataFrame], column: str, *, log: bool = False) -> Panel:
    lines = []
    for series, (name, epochs) in enumerate(logs.items()):
        x, y = epochs["epoch"].tolist(), epochs[column].tolist()
        tips = [f"{name}, epoch {epoch}: {value:.4g}" for epoch, value in zip(x, y, strict=True)]
        lines.append(Line(name, series, x, y, tips if len(x) <= MANY else ()))
    return Panel(title, "epoch", y_title, lines, x_ticks=_ticks(max(len(epochs) for epochs in logs.values())), log=log)


def _ticks(epochs: int) -> Sequence[int]:
    """Whole numbers below an axis of epochs."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 10**6) if epochs / step <= 8)
    return [1, *range(step, epochs + 1, step)] if step > 1 else range(1, epochs + 1)


def _against(curve: Curve, metric: str) -> Panel:
    """One of Table 4's curves: ours with error bars, the paper's beside it."""
    values, means, spreads = zip(*curve.points, strict=True)
    tips = [f"ours, {curve.name}={value}: {mean:.2f}" for value, mean in zip(values, means, strict=True)]
    lines = [Line("ours", 0, values, means, tips, spreads)]
    if curve.paper:
        at, papers = zip(*curve.paper, strict=True)
        tips = [f"paper, {curve.name}={value}: {mean:.1f}" for value, mean in curve.paper]
        lines.append(Line("paper", 1, at, papers, tips))
    ticks = sorted({*values, *(value for value, _ in curve.paper)})
    return Panel(curve.title, curve.title, f"{metric}, percent", lines, x_ticks=ticks)
