"""Tables of the report."""

from __future__ import annotations

from markupsafe import Markup

from glpose.report.page import template
from glpose.tables.table import Table


def html_table(table: Table, label: str) -> Markup:
    """A table as HTML that scrolls by itself where it is too wide. label: what it is, for who cannot see it.

    A row whose `source` is "published" is marked so. Text is escaped.
    """
    shown = [column for column in table.columns if column.title]
    return template("table.html", table=table, columns=shown, label=label)
