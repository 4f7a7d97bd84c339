"""detect: person boxes of every video, from its annotations or from a box file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glpose.data.boxes import BoxFile, read_box_file
from glpose.data.dataset import inputs_digest, open_video
from glpose.options import BoxOptions
from glpose.proposals import propose
from stages.config import PipelineConfig
from stages.stage import Context, Stage, video_units
from store.errors import DataError
from store.folder import Attempt
from store.record import file_digest
from store.tables import merge_tables, write_table

VERSION = 1


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """Box sources (files by their contents) and the score threshold."""
    options = config.detect
    return {"train": _source(options.train), "eval": _source(options.eval), "min_score": options.min_score}


def inputs(context: Context, unit: str) -> str:
    """Digest of the video's frames, annotation and splits."""
    ref = context.video(unit)
    return inputs_digest(ref, open_video(ref))


def prepare(context: Context) -> dict[str, BoxFile | None]:
    """Read the box files, once; None where boxes are annotations."""
    options = context.config.detect
    return {
        split: read_box_file(boxes.file) if boxes.file else None
        for split, boxes in (("train", options.train), ("eval", options.eval))
    }


def make(context: Context, shared: Mapping[str, BoxFile | None], unit: str, attempt: Attempt) -> str:
    """Write one video's proposals table."""
    video = open_video(context.video(unit))
    table, left_out = propose(video, shared, context.config.detect.min_score)
    write_table(attempt.path, "proposals", table)
    height, width = video.frames.size()
    attempt.meta = {
        "frames": len(video),
        "height": height,
        "width": width,
        "proposals": len(table),
        "left_out": left_out,
    }
    notes = [f"{count} boxes {reason} left out" for reason, count in left_out.items()]
    if table.empty:
        notes.append("no people")
    return "; ".join(notes)


def finish(context: Context) -> list[str]:
    """Merge the tables; count proposals by box source."""
    commits = context.commits("detect")
    merge_tables(context.folder("detect"), commits, "proposals")
    total = sum(commit.meta["proposals"] for commit in commits.values())
    lines = [f"  {total} proposals in {len(commits)} videos; boxes: {box_sources(context.config)}"]
    if context.config.detect.train.source == "file":
        lines.append("  boxes of the train split come from a file: without keypoints, heads cannot be trained on them")
    if total == 0:
        lines.append("  no one was found anywhere: does the box file name images as the annotations do (id or name)?")
    return lines


def box_sources(config: PipelineConfig) -> str:
    """Where boxes come from, in words to print beside results."""
    words = {
        split: _words(options) for split, options in (("train", config.detect.train), ("eval", config.detect.eval))
    }
    return words["train"] if words["train"] == words["eval"] else f"train {words['train']}, eval {words['eval']}"


def _words(options: BoxOptions) -> str:
    return "annotations" if options.file is None else f"file {options.file.name}"


def _source(options: BoxOptions) -> dict[str, Any]:
    if options.file is None:
        return {"source": options.source}
    if not options.file.is_file():
        raise DataError(f"box file {options.file} does not exist (detect.train.file / detect.eval.file)")
    return {"source": options.source, "file": file_digest(options.file)}


STAGE = Stage(
    name="detect",
    version=VERSION,
    after=lambda config: ("render",) if config.data.kind == "generated" else (),
    parameters=parameters,
    units=video_units,
    inputs=inputs,
    prepare=prepare,
    make=make,
    finish=finish,
)
