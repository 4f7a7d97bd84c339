"""How scores are shown: rows of percentages as a text table, and as plain data. Shared by AP, PCKh and PCK."""

from __future__ import annotations

import math
from collections.abc import Mapping

from store.record import number_or_none

Row = Mapping[str, float]  # column -> percent


def text_table(rows: Mapping[str, Row]) -> str:
    """One line of columns and one per row, which all have the columns of the first; NaN prints as "-"."""
    columns = list(next(iter(rows.values()), {}))
    first = max((len(name) for name in rows), default=0)
    lines = [" " * first + "".join(f"  {column:>6}" for column in columns)]
    for name, row in rows.items():
        cells = ["-" if math.isnan(row[column]) else f"{row[column]:.1f}" for column in columns]
        padded = (f"  {cell:>{max(6, len(column))}}" for cell, column in zip(cells, columns, strict=True))
        lines.append(f"{name:<{first}}" + "".join(padded))
    return "\n".join(line.rstrip() for line in lines)


def plain(row: Row) -> dict[str, float | None]:
    """The same as JSON can hold it, None for NaN."""
    return {name: number_or_none(value) for name, value in row.items()}
