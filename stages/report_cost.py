"""Sections of the report on what stages took: time and bytes."""

from __future__ import annotations

from glpose.report.page import Section
from glpose.report.tables import html_table
from glpose.tables.table import Cell, Column, Table
from stages.console import size_words
from stages.report_state import made_at, states
from stages.stage import Context
from stages.status import time_words


def stages_section(context: Context) -> Section:
    """What each stage has made, its bytes and its time."""
    rows: list[dict[str, Cell]] = []
    for name, found in states(context).items():
        commits = found.counted.values()
        rows.append(
            {
                "stage": name,
                "done": f"{len(found.done)} of {'?' if found.units is None else len(found.units)}",
                "bytes": size_words(sum(commit.bytes for commit in commits)),
                "time": time_words([found]),
                "made": max(map(made_at, commits), default=""),
            }
        )
    titles = {"stage": "stage", "done": "units done", "bytes": "bytes", "time": "time", "made": "last made"}
    table = Table("stages", "Stages", [Column(key, title) for key, title in titles.items()], rows)
    return Section("Stages", "stages", html_table(table, table.title))
