"""Tables of the report, and what stands around them."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from glpose.report.page import template
from glpose.tables.table import Table


def html_table(table: Table, label: str, *, signed: Sequence[str] = ()) -> Markup:
    """A table as HTML, with its notes below, that scrolls by itself where it is too wide. Text is escaped.

    label: what it is, for who cannot see it. signed: keys of columns of differences, which are coloured and have a
    sign. Rows whose `source` is "published" or "paper" are set back, "changed" ones bold, "total" ones set off.
    """
    shown = [column for column in table.columns if column.title]
    return template("table.html", table=table, columns=shown, label=label, signed=set(signed)) + notes(table.notes)


def paragraph(text: str) -> Markup:
    """A paragraph of text, escaped."""
    return Markup("<p>{}</p>\n").format(text)


def details(summary: str, *parts: Markup) -> Markup:
    """What is folded away until it is asked for."""
    return Markup("<details><summary>{}</summary>\n{}</details>\n").format(summary, Markup("").join(parts))


def beside(left: Markup, right: Markup) -> Markup:
    """Two parts beside each other where there is room."""
    return Markup('<div class="beside"><div>{}</div><div>{}</div></div>\n').format(left, right)


def notes(lines: Sequence[str]) -> Markup:
    """Lines of text below a table."""
    items = Markup("").join(Markup("<li>{}</li>\n").format(line) for line in lines)
    return Markup('<ul class="notes">\n{}</ul>\n').format(items) if lines else Markup("")


def copyable(text: str) -> Markup:
    """Text to copy: a command, a file."""
    return Markup('<div class="copied"><pre>{}</pre></div>\n').format(text)
