"""report: what a pipeline has found as one HTML page, put together from the outputs of its stages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

from glpose.report.page import LeftOut, Section, render_page
from stages.compare_section import compare_section
from stages.console import size_words
from stages.detect import boxes_in_words
from stages.report_cost import stages_section, store_section
from stages.report_inspector import inspector_section
from stages.report_record import feature_space, options_section, record_section
from stages.report_results import curves_section, joints_section, recall_section, results_section
from stages.report_state import made_at, results, states
from stages.report_training import ablation_section, training_section
from stages.run import check_owner, claim_folder
from stages.stage import Context, split_videos
from store.atomic import replacing
from store.errors import ConfigError, GLPoseError, NotCommitted
from store.places import writing_file

NAME = "report.html"
INSPECTOR = "Retrieval inspector"

# Title -> what makes the section; None where nobody would look for it, LeftOut where there is nothing to show. In the
# order of the page.
SECTIONS: dict[str, Callable[[Context], Section | None]] = {
    "Results": results_section,
    "Scores by joint": joints_section,
    "Precision and recall": curves_section,
    "Recall by occlusion and blur": recall_section,
    "Side by side": compare_section,
    INSPECTOR: inspector_section,
    "Training": training_section,
    "Ablation": ablation_section,
    "Store": store_section,
    "Time by stage": stages_section,
    "Options": options_section,
    "To cite and repeat": record_section,
}


def write_report(context: Context, out: Path | None, people: int | None = None) -> list[str]:
    """Write the page to `out`, or into the work folder; lines on what it holds. people: as many in the inspector.

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


def report_page(context: Context, people: int | None = None) -> tuple[str, list[str], dict[str, str]]:
    """The page, the titles of its sections, and of those left out why. NotCommitted where nothing was ever made."""
    name = context.config.name
    if not any(stage.counted for stage in states(context).values()):
        raise NotCommitted(f"nothing is made yet for pipeline {name!r}: glpose-stage run -p {name}")
    sections: list[Section] = []
    left_out: dict[str, str] = {}
    makers = dict(SECTIONS)
    if people is not None:
        makers[INSPECTOR] = partial(inspector_section, people=people)
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
    told = [f"Person boxes ({boxes_in_words(config)})"]
    if commits := found["extract"].counted:
        people = sum(commit.meta.get("proposals", 0) for commit in commits.values())
        told.append(f"features of {people:,} people in {len(commits)} videos ({config.data.kind} data)")
    if "train" in found and (heads := found["train"].counted):
        told.append(f"heads {' and '.join(sorted(heads))} trained on {videos['train']} of them")
    if "eval" in found and found["eval"].counted:
        told.append(f"scored on {videos['eval']}")
    return ", ".join(told) + "."


def _facts(context: Context) -> dict[str, str]:
    """What holds for every number of the page."""
    config = context.config
    last = next(found for found in reversed(states(context).values()) if found.counted)
    try:
        metric = results(context).metric
    except LeftOut:
        metric = "not scored"
    facts = {
        "Pipeline": config.name,
        "Date of results": max(map(made_at, last.counted.values())),
        "Metric": metric,
        "Boxes": boxes_in_words(config),
        "Joints counted": config.eval.joints,
        "Feature space": feature_space(context)[:12],  # whole among the fingerprints
        "GLPose": metadata.version("glpose"),
    }
    return {name: value for name, value in facts.items() if value}
