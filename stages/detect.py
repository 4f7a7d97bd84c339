"""detect: person boxes of every video, from its annotations, a box file or a detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glpose.box_sources import BoxSource, box_sources
from glpose.data.dataset import inputs_digest, open_video
from glpose.detectors import DETECTORS, detector_identity
from glpose.options import BoxOptions, DetectOptions
from glpose.proposals import propose
from glpose.runtime import choose_device
from stages.config import PipelineConfig
from stages.stage import Context, Stage, draws, video_units
from store.errors import DataError
from store.folder import Attempt
from store.record import file_digest
from store.tables import merge_tables, write_table

VERSION = 2


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """Box sources (files by their contents), the detector where one is used, and the score threshold."""
    options = config.detect
    used = [boxes.source for boxes in (options.train, options.eval) if boxes.source in DETECTORS]
    return {
        "train": _source(options.train),
        "eval": _source(options.eval),
        "min_score": options.min_score,
        **({"detector": detector_identity(used[0], options.detector)} if used else {}),
    }


def inputs(context: Context, unit: str) -> str:
    """Digest of the video's frames, annotation and splits."""
    ref = context.video(unit)
    return inputs_digest(ref, open_video(ref))


def prepare(context: Context) -> dict[str, BoxSource]:
    """Read the box files and load the detector, once."""
    config = context.config
    return box_sources(config.detect, choose_device(config.runtime), config.runtime.frames)


def make(context: Context, shared: Mapping[str, BoxSource], unit: str, attempt: Attempt) -> str:
    """Write one video's proposals table."""
    video = open_video(context.video(unit))
    proposals = propose(video, shared, context.config.detect.min_score)
    write_table(attempt.path, "proposals", proposals.table)
    attempt.meta = {
        "frames": len(video),
        "proposals": len(proposals.table),
        "left_out": proposals.left_out,
        "unreadable": [[frame, reason] for frame, reason in proposals.unreadable.items()],
    }
    notes = [*proposals.notes]
    notes += [f"{count} boxes {reason} left out" for reason, count in proposals.left_out.items()]
    if proposals.unreadable:
        reason = next(iter(proposals.unreadable.values()))
        notes.append(f"{len(proposals.unreadable)} of {len(video)} frames unreadable, left out; the first: {reason}")
    if proposals.table.empty:
        notes.append("no people")
    return "; ".join(notes)


def finish(context: Context) -> list[str]:
    """Merge the tables; count proposals by box source. DataError where `strict` and frames are left out."""
    commits = context.commits("detect")
    merge_tables(context.folder("detect"), commits, "proposals")
    commits = context.current(commits)
    total = sum(commit.meta["proposals"] for commit in commits.values())
    options = context.config.detect
    lines = [f"  {total} proposals in {len(commits)} videos; boxes: {boxes_in_words(context.config)}"]
    if unreadable := {unit: commit.meta["unreadable"] for unit, commit in commits.items() if commit.meta["unreadable"]}:
        count = sum(map(len, unreadable.values()))
        lines.append(f"  {count} frames of {len(unreadable)} videos could not be read: {', '.join(sorted(unreadable))}")
    if options.strict and (left_out := [ref.name for ref in context.videos if ref.name in unreadable]):
        raise DataError(
            f"detect --strict: frames of {', '.join(left_out)} could not be read and are left out; mend them, or run "
            f"without it; the first: {unreadable[left_out[0]][0][1]}"
        )
    if options.train.source != "annotations":
        lines.append(
            f"  boxes of the train split come from {_words(options.train, options)}: without keypoints, heads "
            "cannot be trained on them"
        )
    left_out = any(commit.meta["left_out"] for commit in commits.values())
    if total == 0 and not left_out and "file" in (options.train.source, options.eval.source):
        lines.append("  no one was found anywhere: does the box file name images as the annotations do (id or name)?")
    return lines


def boxes_in_words(config: PipelineConfig) -> str:
    """Where boxes come from, in words to print beside results."""
    options = config.detect
    words = {split: _words(boxes, options) for split, boxes in (("train", options.train), ("eval", options.eval))}
    return words["train"] if words["train"] == words["eval"] else f"train {words['train']}, eval {words['eval']}"


def _words(boxes: BoxOptions, options: DetectOptions) -> str:
    if boxes.source in DETECTORS:
        made = Path(options.detector.checkpoint).name if options.detector.checkpoint else options.detector.model
        return f"{boxes.source} {made}"
    return "annotations" if boxes.file is None else f"file {boxes.file.name}"


def _source(options: BoxOptions) -> dict[str, Any]:
    if options.file is None:
        return {"source": options.source}
    if not options.file.is_file():
        raise DataError(f"box file {options.file} does not exist (detect.train.file / detect.eval.file)")
    return {"source": options.source, "file": file_digest(options.file)}


STAGE = Stage(
    name="detect",
    version=VERSION,
    after=lambda config: ("render",) if draws(config.data) else (),
    parameters=parameters,
    units=video_units,
    inputs=inputs,
    prepare=prepare,
    make=make,
    finish=finish,
    distributed=True,
    by_video=True,
)
