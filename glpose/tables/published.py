"""What papers have published, to print beside ours.

published/*.csv hold Tables 1-4 of the GLPose paper (doi 10.1145/3519305): PoseTrack17 val, PoseTrack18 val, Sub-JHMDB,
and the ablation on PoseTrack17 val. An empty field is not printed there, or lost in its text. Table 2 is scrambled in
print: its rows stand here in the column order of Table 1 (TML++ is the least certain). Table 4's k = 0 lacks its Head,
about 87.5 by its Mean. Added, as the paper leaves them out: DCPose's rows, from its authors' repository.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

from glpose.tables.table import Cell

TABLES = {
    "posetrack17": "Table 1: PoseTrack17 val, mAP",
    "posetrack18": "Table 2: PoseTrack18 val, mAP",
    "jhmdb": "Table 3: Sub-JHMDB, PCK, mean over three splits",
}  # by data.kind
ABLATION = "ablation"

# Where the paper's arithmetic, or what is known of it, bears on a comparison; by table.
FOOTNOTES = {
    "posetrack17": (
        "paper: the seven groups of its GLPose row average to 82.99 by poseval's rule (mean over 15 joints), not 83.1",
    ),
    "posetrack18": (
        "paper: the columns of its Table 2 are scrambled; these rows are put back in Table 1's order, in which "
        "GLPose's averages to 80.85, and DCPose, which it leaves out, is above it",
    ),
    "jhmdb": ("paper: averages mix conventions between papers; GLPose's is (3 Head + 12 paired) / 15, and so is ours",),
    ABLATION: (
        "paper: by poseval's rule (mean over 15 joints) its complete row averages to 82.99, not 83.1, and its k = 2 "
        "row to 82.56, not 82.7: as much as one step of the table; k = 0's Head is not printed",
    ),
}


@cache
def published(table: str) -> tuple[dict[str, Cell], ...]:
    """Rows of a published table in the paper's order: text, floats in percent, None where nothing is printed.

    Columns are those of its CSV.
    """
    text = files("glpose.tables").joinpath("published", f"{table}.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple({key: _cell(value) for key, value in row.items()} for row in rows)


def _cell(text: str) -> Cell:
    if not text:
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text
