"""Recall of joints by tag, as eval prints it: tags beside each other, the rows of eval below each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from glpose.metrics import recall_by_tag
from glpose.tables.table import Cell, Column, Table
from store.record import number_or_none

# title -> column of `recall_by_tag.recall`
MEASURES = {
    "PCKh@0.5, matched": "pckh50",
    "PCK@0.1, matched": "pck10",
    "PCKh@0.5, everybody": "pckh50_all",
    "PCK@0.1, everybody": "pck10_all",
}
MEANING = (
    f"rapid: more than {recall_by_tag.RAPID:g} head sizes per frame; defocused: blurred by more than "
    f"{recall_by_tag.DEFOCUSED:g} px; matched: people with a prediction; everybody: the others are wrong"
)


def recall_text(table: pd.DataFrame, labels: Mapping[str, str], boxes: str) -> str:
    """The table of `recall_by_tag.recall_of_rows` as text. labels: row -> what it is called, in the order to print."""
    return "\n".join(part.text() for part in recall_tables(table, labels, boxes))


def recall_tables(table: pd.DataFrame, labels: Mapping[str, str], boxes: str) -> list[Table]:
    """The same as tables: by tag and, where there are actions, by action."""
    rows = {label: table[table["row"] == row].set_index("tag") for row, label in labels.items()}
    tags = list(next(iter(rows.values())).index)
    actions = [tag for tag in tags if tag.startswith(recall_by_tag.ACTION)]
    notes = [
        f"{label}: no prediction is assigned to {own.loc['all', 'unmatched']:,} of "
        f"{own.loc['all', 'people'] + own.loc['all', 'unmatched']:,} annotated people"
        for label, own in rows.items()
    ]
    title = f"Recall of annotated joints by tag, percent; boxes: {boxes}"
    parts = [Table("", title, _columns(recall_by_tag.TAGS), _cells(rows, recall_by_tag.TAGS), notes=[MEANING, *notes])]
    if actions:
        parts.append(Table("", "The same by action", _columns(actions), _cells(rows, actions)))
    return parts


def _columns(tags: Sequence[str]) -> list[Column]:
    named = [Column(tag, tag.removeprefix(recall_by_tag.ACTION)) for tag in tags]
    return [Column("measure", "measure"), Column("row", "row"), *named]


def _cells(rows: Mapping[str, pd.DataFrame], tags: Sequence[str]) -> list[dict[str, Cell]]:
    first = next(iter(rows.values()))  # annotated joints are the same for all
    annotated = {tag: int(first.loc[tag, "joints_all"]) for tag in tags}
    cells: list[dict[str, Cell]] = [{"measure": "annotated joints", "row": "", **annotated}]
    for title, column in MEASURES.items():
        for label, own in rows.items():
            percent = {tag: number_or_none(float(own.loc[tag, column])) for tag in tags}
            cells.append({"measure": title, "row": label, **percent})
    return cells
