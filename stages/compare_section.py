"""The report's section of frames side by side: what `compare` shows, as pictures in the page."""

from __future__ import annotations

from glpose.report.page import Section
from glpose.report.side_by_side import Strip, side_by_side_section
from stages.compare import Request, caption, find_comparison, pictures_of
from stages.compare_rows import TRUTH
from stages.stage import Context

EACH = 3  # gains, and losses: about 0.6 MB in all


def compare_section(context: Context) -> Section:
    """The largest gains and losses of the pipeline's rows. Errors as of `find_comparison`."""
    found = find_comparison(context, Request(gains=EACH, losses=EACH))
    strips = []
    for one, drawn in zip(found.frames, pictures_of(context, found), strict=True):
        text, where = caption(found, one)
        right = {row: f"{one.right(row)} of {one.joints()} right" for row in found.rows}
        pictures = [(label, right[row], drawn[row]) for row, label in found.rows.items()]
        strips.append(Strip(one.why, text, where, [*pictures, (TRUTH, "as annotated", drawn[TRUTH])]))
    lead = (
        f"Where {found.rows[found.of]} gains most right joints of a person over {found.rows[found.against]}, and where "
        f"it loses most. A joint is right {found.right}."
    )
    return side_by_side_section("Side by side", lead, strips)
