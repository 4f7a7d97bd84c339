"""report: what a pipeline has found as one HTML page, put together from the outputs of its stages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from glpose.report.page import LeftOut, Section, render_page
from stages.console import size_words
from stages.detect import boxes_in_words
from stages.report_cost import stages_section
from stages.report_inspector import inspector_section
from stages.report_results import results_section
from stages.report_state import made_at, states
from stages.run import check_owner, claim_folder
from stages.stage import Context, split_videos
from store.atomic import replacing
from store.errors import ConfigError, GLPoseError, NotCommitted
from store.places import writing_file

NAME = "report.html"

# Title -> what makes the section; None or LeftOut where there is nothing to show. In the order of the page.
SECTIONS: dict[str, Callable[[Context], Section | None]] = {
    "Results": results_section,
    "Stages": stages_section,
}


def write_report(context: Context, out: Path | None, people: int) -> list[str]:
    """Write the page to `out`, or into the work folder; lines on what it holds. people: of the inspector, at most.

    NotCommitted where no stage has made anything; ConfigError where `out` is a folder.
    """
    if out is not None and out.is_dir():
        raise ConfigError(f"{out} is a folder: give the name of a file (--out)")
    check_owner(context)
    text, sections, left_out = report_page(context, people)
    if out is None:
        claim_folder(context)  # before there is a file in it that is no stage's
        where = context.config.work / NAME
        with writing_file(where) as path:
            path.write_text(text, encoding="utf-8")
    else:
        where = out
        with replacing(out) as path:
            path.write_text(text, encoding="utf-8")
    lines = [f"{where}: {', '.join(sections)}; {size_words(len(text.encode()))}"]
    return [*lines, *(f"  left out: {title}: {reason}" for title, reason in left_out.items())]


def report_page(context: Context, people: int) -> tuple[str, list[str], dict[str, str]]:
    """The page, the titles of its sections, and of those left out why. NotCommitted where nothing was ever made."""
    name = context.config.name
    if not any(stage.counted for stage in states(context).values()):
        raise NotCommitted(f"nothing is made yet for pipeline {name!r}: glpose-stage run -p {name}")
    sections: list[Section] = []
    left_out: dict[str, str] = {}
    makers = {**SECTIONS, "Retrieval inspector": partial(inspector_section, people=people)}
    for title, make in makers.items():
        try:
            section = make(context)
        except (LeftOut, GLPoseError) as reason:  # one damaged output must not keep the others from being shown
            left_out[title] = str(reason).splitlines()[0]
            continue
        if section is not None:
            sections.append(section)
    page = render_page(f"GLPose: {name}", _lead(context), _facts(context), sections, left_out, context.config.note)
    return page, [section.title for section in sections], left_out


def _lead(context: Context) -> str:
    """One sentence on what was run."""
    config, found = context.config, states(context)
    videos = {split: len(split_videos(context, split)) for split in ("train", "eval")}
    done = [name for name in ("detect", "extract", "index", "train", "eval") if name in found and found[name].done]
    counts = " and ".join(f"{count} {split}" for split, count in videos.items() if count)
    return f"{', '.join(done)} of {counts} videos of {config.data.kind} data."


def _facts(context: Context) -> dict[str, str]:
    """What holds for every number of the page."""
    found = states(context)
    made = [commit for stage in found.values() for commit in stage.counted.values()]
    facts = {"Results of": max(map(made_at, made)), "Boxes": boxes_in_words(context.config)}
    return facts
