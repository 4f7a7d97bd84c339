"""A table as papers print them, and as files: text, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from store.places import Place, writing_file

Cell = str | int | float | None  # None: not known, printed as "-"
ABSENT = "-"


@dataclass(frozen=True)
class Column:
    """One column. key: its name in CSV and JSON. title: above it where it is printed; "": in CSV and JSON alone.

    digits: after the point, of floats. spread: key of the values that are printed behind ±, with one digit more.
    """

    key: str
    title: str = ""
    digits: int = 1
    spread: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells by column key; a key that a row lacks is None.

    name: of its files. about: what holds for all rows, such as the box source; and note: the pipeline's; both are
    printed above, and are columns in CSV. notes: lines below.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Cell]]
    about: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    notes: Sequence[str] = ()

    def heading(self) -> list[str]:
        """The title, what holds for all rows, the note."""
        facts = "; ".join(f"{key}: {value}" for key, value in self.about.items())
        return [line for line in (self.title, facts, self.note) if line]

    def text(self) -> str:
        """As plain text, columns aligned: text to the left, numbers to the right."""
        shown = [column for column in self.columns if column.title]
        rows = [
            [column.title for column in shown],
            *([self.shown(row, column) for column in shown] for row in self.rows),
        ]
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        left = [self.is_text(column) for column in shown]
        lines = [
            "  ".join(
                f"{cell:<{width}}" if first else f"{cell:>{width}}"
                for cell, width, first in zip(row, widths, left, strict=True)
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*self.heading(), *lines, *self.notes])

    def markdown(self) -> str:
        """As a Markdown table with its heading and notes."""
        shown = [column for column in self.columns if column.title]
        lines = [[column.title for column in shown]]
        lines += [["---" if self.is_text(column) else "---:" for column in shown]]
        lines += [[self.shown(row, column).replace("|", "\\|") for column in shown] for row in self.rows]
        body = ["| " + " | ".join(cells) + " |" for cells in lines]
        return "\n".join(
            [f"**{self.title}**", "", *_items(self.heading()[1:]), *body, "", *_items(self.notes)]
        ).rstrip()

    def shown(self, row: Mapping[str, Cell], column: Column) -> str:
        """A cell as it is printed."""
        value = row.get(column.key)
        if value is None:
            return ABSENT
        if not isinstance(value, float):
            return f"{value:,}" if isinstance(value, int) else value
        spread = row.get(column.spread)
        behind = "" if not isinstance(spread, float) else f" ± {spread:.{column.digits + 1}f}"
        return f"{value:,.{column.digits}f}{behind}"

    def is_text(self, column: Column) -> bool:
        """Whether any cell of a column is text."""
        return any(isinstance(row.get(column.key), str) for row in self.rows)

    def records(self) -> list[dict[str, Cell]]:
        """Every row with all keys, numbers as they are."""
        return [{column.key: row.get(column.key) for column in self.columns} for row in self.rows]

    def write(self, folder: Place) -> list[str]:
        """Write NAME.csv, NAME.md and NAME.json, each in one step, over those of before; their names."""
        facts = {**self.about, "note": self.note}
        with writing_file(folder / f"{self.name}.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*(column.key for column in self.columns), *facts])
            writer.writeheader()
            writer.writerows({**row, **facts} for row in self.records())
        content = {"title": self.title, **facts, "rows": self.records(), "notes": list(self.notes)}
        texts = {"md": self.markdown(), "json": json.dumps(content, indent=1, ensure_ascii=False)}
        for ending, text in texts.items():
            with writing_file(folder / f"{self.name}.{ending}") as path:
                path.write_text(text + "\n", encoding="utf-8")
        return [f"{self.name}.{ending}" for ending in ("csv", *texts)]


def _items(lines: Sequence[str]) -> list[str]:
    return [*(f"- {line}" for line in lines), *([""] if lines else [])]
