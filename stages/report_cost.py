"""Sections of the report on what stages took: bytes in the store, time."""

from __future__ import annotations

from markupsafe import Markup

import store
from glpose.report.page import Section
from glpose.report.tables import details, html_table, paragraph
from glpose.tables.table import Cell, Column, Table
from stages.console import size_words
from stages.report_state import finished, made_at, states
from stages.stage import Context
from stages.status import Found, time_words
from store.record import number_or_none


def store_section(context: Context) -> Section:
    """Bytes of every array and file of the feature store, and what they are compressed to."""
    finished(context, "extract")
    stored = store.open(context.config.work)
    described = stored.describe()
    schema = stored.features(stored.videos[0]).schema
    rows: list[dict[str, Cell]] = [
        {
            "part": str(part),
            "source": "total" if part == "total" else "",
            "dtype": line["dtype"],
            "each": " x ".join(map(str, line["shape"])),
            "dims": ", ".join(line["dims"][1:]),
            "proposals": line["proposals"],
            "bytes": size_words(line["bytes"]),
            "each_bytes": size_words(round(line["bytes"] / line["proposals"])) if line["proposals"] else None,
            "ratio": number_or_none(line["ratio_to_float16"]),
        }
        for part, line in described.to_dict("index").items()
    ]
    titles = {
        "part": "array or file", "dtype": "dtype", "each": "each", "dims": "axes", "proposals": "people",
        "bytes": "bytes", "each_bytes": "bytes each", "ratio": "of float16",
    }  # fmt: skip
    columns = [Column(key, title, 3) for key, title in titles.items()]
    table = Table("store", "The feature store", columns, rows)
    total = described.to_dict("index")["total"]
    people, words = total["proposals"], size_words(total["bytes"])
    ratio = number_or_none(total["ratio_to_float16"])
    intro = (
        f"{words} for {people:,} people in {total['videos']} videos: {schema.backbone} maps of "
        f"{' x '.join(map(str, schema.map_shape))} as {schema.dtype} with {schema.codec}"
        + (f", {100 * ratio:.1f} % of the same maps as raw float16." if ratio is not None else ".")
    )
    return Section("Store", "store", paragraph(intro) + html_table(table, table.title))


def stages_section(context: Context) -> Section:
    """What each stage has made, its bytes and its time, in all and per unit."""
    found = states(context)
    rows = [_stage_row(name, stage) for name, stage in found.items()]
    rows.append(
        {"stage": "total", "source": "total", "done": "", "slowest": "", "made": "", **_totals(list(found.values()))}
    )
    titles = {
        "stage": "stage", "done": "units done", "bytes": "bytes", "time": "time", "each": "s per unit",
        "slowest": "slowest unit", "made": "last made",
    }  # fmt: skip
    table = Table("stages", "Stages", [Column(key, title, 2) for key, title in titles.items()], rows)
    intro = (
        "Time by the clock, added up over units, as each was made: units that were made beside each other count one "
        "by one, and what a run spends between them does not. A unit is a video of detect, extract and index, a "
        "variant of train, all of eval."
    )
    html = paragraph(intro) + html_table(table, table.title)
    units = [_unit_table(name, stage) for name, stage in found.items() if len(stage.counted) > 1]
    return Section("Time by stage", "stages", html + details("By unit", *units) if units else html)


def _stage_row(name: str, found: Found) -> dict[str, Cell]:
    commits = found.counted.values()
    known = {commit.unit: commit.seconds for commit in commits if commit.seconds is not None}
    slowest = max(known, key=lambda unit: known[unit], default="")
    return {
        "stage": name,
        "done": f"{len(found.done)} of {'?' if found.units is None else len(found.units)}",
        **_totals([found]),
        "each": sum(known.values()) / len(known) if known else None,
        "slowest": f"{slowest}, {known[slowest]:.3g} s" if len(known) > 1 else "",
        "made": max(map(made_at, commits), default=""),
    }


def _totals(stages: list[Found]) -> dict[str, Cell]:
    size = sum(commit.bytes for stage in stages for commit in stage.counted.values())
    return {"bytes": size_words(size), "time": time_words(stages)}


def _unit_table(name: str, found: Found) -> Markup:
    rows: list[dict[str, Cell]] = [
        {
            "unit": unit,
            "state": "done" if unit in found.done else "stale",
            "people": commit.meta.get("proposals"),
            "bytes": size_words(commit.bytes),
            "seconds": commit.seconds,
        }
        for unit, commit in found.counted.items()
    ]
    titles = {"unit": name, "state": "state", "people": "people", "bytes": "bytes", "seconds": "s"}
    if all(row["people"] is None for row in rows):
        titles.pop("people")
    return html_table(
        Table("", name, [Column(key, title, 2) for key, title in titles.items()], rows), f"Units of {name}"
    )
