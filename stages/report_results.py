"""Sections of the report on what eval has found."""

from __future__ import annotations

from glpose.report.page import Section
from glpose.report.tables import html_table
from stages.report_state import results
from stages.stage import Context
from stages.tables import result_table


def results_section(context: Context) -> Section:
    """The paper's table, with what is published of the same data above ours."""
    results(context)
    table = result_table([context.config])
    return Section("Results", "results", html_table(table, table.title))
