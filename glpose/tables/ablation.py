"""Table 4 of the paper: which trainings it takes, and the table of their scores.

Every row changes one option of the pipeline's own heads, the complete model. With the paper's (k = 4, n = 6, 3x3) rows
`k=4`, `n=6` and `head=3x3` are the complete model again: 14 trainings are printed as 17 rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glpose.options import AblateOptions, HeadOptions
from glpose.tables.figures import MEAN, Figures, mean_of, spread_of, title_of
from glpose.tables.published import ABLATION, FOOTNOTES, published
from glpose.tables.table import Cell, Column, Table

COMPLETE = "complete"
HEADS = {"mlp": "MLP", "3x3": "3x3", "5x5": "5x5"}  # heads.head -> what the paper calls it


@dataclass(frozen=True)
class Row:
    """One printed row. name: the option that it changes. label: the paper's name of it.

    training: name of the first row with the same heads, which is trained for all of them.
    """

    name: str
    label: str
    heads: HeadOptions
    training: str


def table_rows(heads: HeadOptions, options: AblateOptions) -> list[Row]:
    """All rows in the paper's order. heads: of the complete model."""
    changes: list[tuple[str, str, dict[str, Any]]] = [
        (COMPLETE, COMPLETE, {}),
        *((f"k={k}", f"k={k}", {"k": k}) for k in options.k),
        *((f"n={n}", f"n={n}", {"n": n}) for n in options.n),
        ("enhancement=no", "no enhancement", {"enhancement": False}),
        *((f"head={head}", f"{label} head", {"head": head}) for head, label in HEADS.items()),
    ]
    rows: list[Row] = []
    first: dict[HeadOptions, str] = {}
    for name, label, change in changes:
        changed = heads.model_copy(update=change)
        rows.append(Row(name, label, changed, first.setdefault(changed, name)))
    return rows


def ablation_table(
    rows: Sequence[Row],
    scores: Mapping[str, Mapping[int, Figures]],
    kind: str,
    title: str,
    about: Mapping[str, str],
    note: str = "",
    notes: Sequence[str] = (),
) -> Table:
    """The table of the rows that have scores, each the mean over its seeds, ± their sample standard deviation.

    scores: training -> seed -> figures. kind: data.kind; the paper's row stands below each of ours that it has, see
    `paper_row`.
    """
    finished = [row for row in rows if scores.get(row.training)]
    names = list(next(iter(scores[finished[0].training].values()))) if finished else []
    cells: list[dict[str, Cell]] = []
    for row in finished:
        results = list(scores[row.training].values())
        mean, spread = mean_of(results), spread_of(results)
        seeds = ", ".join(map(str, sorted(scores[row.training])))
        ours = {"row": row.name, "training": row.training, "source": "ours", "seeds": len(results), "seed": seeds}
        cells.append({**_setting(row), **ours, **_cells(mean), **_cells(spread, "_std")})
        if (paper := paper_row(row, kind)) is not None:
            cells.append({**paper, "variant": "  paper", "row": row.name, "source": "paper"})
    figures = [Column(_key(name), title_of(name, kind), spread="mean_std" if name == MEAN else "") for name in names]
    several = any(len(scores[row.training]) > 1 for row in finished)
    columns = [
        Column("variant", "variant"),
        Column("k", "k"),
        Column("n", "n"),
        Column("enhancement", "enhancement"),
        Column("head_kernel", "head"),
        *figures,
        *(Column(f"{column.key}_std") for column in figures),
        Column("seeds", "seeds" if several else ""),
        *(Column(key) for key in ("seed", "row", "training", "source")),
    ]
    if several:
        notes = [*notes, "±: sample standard deviation over seeds"]
    if any(cell["source"] == "paper" for cell in cells):
        notes = [*notes, *FOOTNOTES[ABLATION]]
    return Table(ABLATION, title, columns, cells, about, note, notes)


def paper_row(row: Row, kind: str) -> dict[str, Cell] | None:
    """The paper's figures, of PoseTrack17, if it has a row of that name with the same k, n, enhancement and head."""
    if kind != "posetrack17":
        return None
    setting = _setting(row)
    rows = published(ABLATION)
    return next((dict(other) for other in rows if all(other[key] == value for key, value in setting.items())), None)


def curve(
    rows: Sequence[Row], scores: Mapping[str, Mapping[int, Figures]], letter: str, kind: str
) -> tuple[list[tuple[int, float, float]], list[tuple[int, float]]]:
    """The average against k or n: (value, mean, spread or 0) of our finished rows, (value, mean) of the paper's."""
    ours, papers = [], []
    for row in rows:
        if not row.name.startswith(f"{letter}="):
            continue
        value, results = getattr(row.heads, letter), list(scores.get(row.training, {}).values())
        if results and (mean := mean_of(results)[MEAN]) is not None:
            ours.append((value, mean, spread_of(results)[MEAN] or 0.0))
        if (paper := paper_row(row, kind)) is not None:
            papers.append((value, paper[MEAN]))
    return ours, papers


def _setting(row: Row) -> dict[str, Cell]:
    """A row's own cells, named and written as in the paper's CSV."""
    return {
        "variant": row.label,
        "k": row.heads.k,
        "n": row.heads.n,
        "enhancement": "yes" if row.heads.enhancement else "no",
        "head_kernel": HEADS[row.heads.head],
    }


def _key(name: str) -> str:
    return name.lower()


def _cells(figures: Figures, ending: str = "") -> dict[str, Cell]:
    return {_key(name) + ending: value for name, value in figures.items()}
