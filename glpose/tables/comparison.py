"""Tables 1-3 of the paper: ours below what is published on the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glpose.tables.figures import Figures, title_of
from glpose.tables.published import FOOTNOTES, TABLES, published
from glpose.tables.table import Cell, Column, Table

NAMES = {"posetrack17": "table1", "posetrack18": "table2", "jhmdb": "table3"}  # by data.kind


@dataclass(frozen=True)
class Ours:
    """One row of ours. additional_data: what its backbone was trained on, as far as we know it. figures: percent."""

    method: str
    backbone: str | None
    additional_data: str
    figures: Figures


def comparison_table(
    ours: Sequence[Ours],
    kind: str,
    metric: str,
    about: Mapping[str, str],
    note: str = "",
    notes: Sequence[str] = (),
    *,
    rivals: bool = True,
) -> Table:
    """The published rows of this kind of data, then ours; for other data ours alone.

    kind: data.kind. rivals: False where the data is of a published kind, but not what is published of.
    """
    rivals = rivals and kind in TABLES
    names = list(ours[0].figures)
    rows: list[dict[str, Cell]] = [{**row, "source": "published"} for row in published(kind)] if rivals else []
    for row in ours:
        words = {"method": row.method, "backbone": row.backbone, "additional_data": row.additional_data}
        rows.append({**words, "source": "ours", **{name.lower(): value for name, value in row.figures.items()}})
    columns = [
        Column("method", "method"),
        Column("backbone", "backbone"),
        Column("additional_data", "additional data"),
        *(Column(name.lower(), title_of(name, kind)) for name in names),
        Column("source"),
    ]
    title = TABLES[kind] if rivals else f"{metric} on the eval split"
    name, footnotes = (NAMES[kind], FOOTNOTES[kind]) if rivals else ("results", ())
    return Table(name, f"{title}, percent", columns, rows, {"metric": metric, **about}, note, [*notes, *footnotes])
