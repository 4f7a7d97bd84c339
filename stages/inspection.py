"""inspect: what a pipeline's store holds, its rows by a query, and those rows as a CSV or Parquet file."""

# not named after its command: `inspect` is a module of Python, which `python stages/cli.py` would take this file for

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

import store
from stages.console import size_words, text_lines
from stages.stage import Context
from stages.table_query import matching
from store.atomic import replacing
from store.errors import ConfigError
from store.tables import BOX, WRITING

LEGEND = (
    "each: view, offset (of local), channel, y, x of one proposal; ratio: bytes over those of the maps as raw float16"
)
NARROWEST = 80  # columns: in fewer, numbers would be cut; a narrower terminal wraps lines instead
WITHOUT_TERMINAL = (120, 24)  # columns and lines of what is not printed to one
DECIMALS = {**dict.fromkeys(BOX, 1), "score": 3, "similarity": 3, "ratio": 3}


def inspect(
    context: Context,
    *,
    video: str | None = None,
    where: str | None = None,
    neighbours: bool = False,
    csv: Path | None = None,
    parquet: Path | None = None,
    rows: int = 10,
    width: int | None = None,
) -> list[str]:
    """Lines on what the store of a pipeline holds, and the first `rows` rows of its table, at most `width` wide.

    video: its rows alone. where: only rows for which this pandas query is true. neighbours: the rows of the neighbours'
    table in place of the proposals'. csv, parquet: files to write all these rows to, whole or not at all.

    NotCommitted before extract, or before index for neighbours; StoreError for an unknown video; ConfigError for a
    query or a file that cannot be used. width: of the terminal, by default; 80 at least.
    """
    width = max(NARROWEST, width or shutil.get_terminal_size(WITHOUT_TERMINAL).columns)
    _check_files(csv, parquet)
    stored = store.open(context.config.work)
    table = stored.neighbours(video) if neighbours else stored.table(video)
    chosen = table if where is None else matching(table, where)
    lines = [f"{context.config.name} in {context.config.work}, {len(stored.videos)} videos", ""]
    lines += _text_table(_description(stored.describe()), width) + _wrapped(LEGEND, width)
    what = "neighbours" if neighbours else "proposals"
    of = "" if where is None else f" of {len(table):,}"
    lines += ["", f"{len(chosen):,}{of} {what}" + (f", the first {rows}:" if 0 < rows < len(chosen) else "")]
    lines += _first_rows(chosen.head(rows), width)
    if csv is not None:
        with replacing(csv) as temporary:
            chosen.to_csv(temporary, index=False)
        lines.append(f"wrote {len(chosen):,} rows to {csv}")
    if parquet is not None:
        with replacing(parquet) as temporary:
            chosen.to_parquet(temporary, engine="pyarrow", index=False, **WRITING)
        lines.append(f"wrote {len(chosen):,} rows to {parquet}")
    return lines


def _check_files(*files: Path | None) -> None:
    for path in files:
        if path is not None and path.is_dir():
            raise ConfigError(f"{path} is a folder: give the name of a file")


def _description(described: pd.DataFrame) -> pd.DataFrame:
    """`store.Store.describe` as it is printed."""
    return pd.DataFrame(
        {
            "": described.index,
            "dtype": described["dtype"].to_numpy(),
            "videos": described["videos"].to_numpy(),
            "proposals": described["proposals"].to_numpy(),
            "bytes": [size_words(size) for size in described["bytes"]],
            "ratio": described["ratio_to_float16"].to_numpy(),
            "each": ["x".join(map(str, shape)) for shape in described["shape"]],
        }
    )


def _first_rows(table: pd.DataFrame, width: int) -> list[str]:
    """Rows as a table; what is the same in all of several is told once, below it."""
    same = [name for name in table.columns if len(table) > 1 and len(set(table[name])) == 1]
    if table.empty:
        return []
    lines = _text_table(table.drop(columns=same), width)
    if same:
        told = ", ".join(f"{name} {_cell(name, table[name].iloc[0])}" for name in same)
        lines += _wrapped(f"in all of these: {told}", width)
    return lines


def _text_table(table: pd.DataFrame, width: int) -> list[str]:
    """Lines of a table, at most `width` wide: too long texts are folded. "-" where a number is missing."""
    shown = Table(box=None, pad_edge=False)
    for name in table.columns:
        numbers = name == "bytes" or pd.api.types.is_numeric_dtype(table[name])
        shown.add_column(Text(name), justify="right" if numbers else "left", no_wrap=numbers, overflow="fold")
    for values in table.itertuples(index=False, name=None):
        shown.add_row(*(Text(_cell(name, value)) for name, value in zip(table.columns, values, strict=True)))
    return text_lines(shown, width)


def _wrapped(line: str, width: int) -> list[str]:
    return text_lines(Text(line), width)


def _cell(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, (float, np.floating)):
        return "-" if math.isnan(value) else f"{value:.{DECIMALS[name]}f}"
    return str(value)
