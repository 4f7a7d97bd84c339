"""check-data: what a data set holds, and what is wrong with it, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from glpose.data.box_checks import check_matches
from glpose.data.boxes import BoxFile, read_box_file
from glpose.data.checks import CheckedVideo, Counts, Walk, check_video, listed_images
from glpose.data.complaints import catch_complaints
from glpose.data.dataset import VideoRef, joint_set
from glpose.data.faults import KINDS, Fault
from glpose.data.posetrack18 import version_of
from glpose.data.published import check_counts, published, published_videos
from glpose.options import CocoData, DetectOptions, RenderedData
from stages.console import counting, say
from stages.stage import Context, draws
from store.atomic import write_json
from store.errors import DataError, NotCommitted

THREADS = 8  # that read images
SPLITS = ("train", "eval")


def check_data(context: Context, console: Console, *, full: bool = False, json_file: Path | None = None) -> None:
    """Walk the videos of a pipeline; print counts and, by kind, faults with the first place of each.

    full: decode every image, not three per video. json_file: every fault, one by one. DataError at the end where a run
    would stop or give wrong numbers, or at once where the videos cannot even be listed.
    """
    data = context.config.data
    if isinstance(data, CocoData):
        joint_set(data)  # every video needs it: its own error, once
    try:
        refs = context.videos
    except NotCommitted:
        if not draws(data):
            raise
        say(console, f"{context.config.name}: rendered data, of which there is none before render has run")
        return
    box_files, faults = _read_box_files(context.config.detect)
    walk = Walk(full, box_files, context.config.detect.min_score, listed_images(context.all_videos))
    checked = _walk(refs, walk, console)
    counts = {split: sum((video.counts.get(split, Counts()) for video in checked), Counts()) for split in SPLITS}
    faults += [fault for video in checked for fault in video.faults]
    if context.pattern == "*":
        if not any(fault.kind == "unusable" for fault in faults):
            faults += check_matches(box_files, {image for video in checked for image in video.boxed})
        videos = {split: count.videos for split, count in counts.items()}
        faults += check_counts(data, videos, sum(count.frames for count in counts.values()))
    for line in [*_heading(context, refs, checked, full), *_table(context, counts), *_summary(faults)]:
        say(console, line)
    if json_file is not None:
        write_json(json_file, _as_json(context, full, counts, faults))
    if serious := [fault for fault in faults if KINDS[fault.kind].stops]:
        kinds = dict.fromkeys(fault.kind for fault in serious)
        found = ", ".join(f"{KINDS[kind].words}: {_number(serious, kind)}" for kind in KINDS if kind in kinds)
        way = "" if json_file else "; --json FILE lists them all"
        raise DataError(f"data of {context.config.name!r} would stop a run or falsify its numbers: {found}{way}")


def _read_box_files(options: DetectOptions) -> tuple[dict[str, BoxFile], list[Fault]]:
    """By split, the file that its boxes come from, and those that cannot be read."""
    files: dict[str, BoxFile] = {}
    faults: list[Fault] = []
    for split, path in (("train", options.train.file), ("eval", options.eval.file)):
        try:
            if path is not None:
                files[split] = next((file for file in files.values() if file.path == path), None) or read_box_file(path)
        except DataError as error:
            faults.append(Fault("box_file", "", None, str(error)))
    return files, list(dict.fromkeys(faults))


def _walk(refs: Sequence[VideoRef], walk: Walk, console: Console) -> list[CheckedVideo]:
    """Check all videos, several at a time; in their order. Images are told damaged by one more look at the suspects."""
    checked = []
    with (
        catch_complaints() as complaints,
        counting(console) as progress,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        task = progress.add_task("check-data", total=len(refs))
        walk = replace(walk, complained=complaints.written)
        for video in pool.map(lambda ref: check_video(ref, walk), refs):
            checked.append(video)
            progress.advance(task)
        for ref, video in zip(refs, checked, strict=True):  # no thread decodes any more: a complaint is of this image
            said = [(frame, path, complaints.of_image(path)) for frame, path in video.suspects]
            video.faults.extend(
                Fault("damaged", ref.name, frame, f"{path}: {what}") for frame, path, what in said if what
            )
    return checked


def _heading(context: Context, refs: Sequence[VideoRef], checked: list[CheckedVideo], full: bool) -> list[str]:
    data = context.config.data
    where = "by render" if isinstance(data, RenderedData) and data.root is None else f"in {data.root}"
    only = "" if context.pattern == "*" else f" (--videos {context.pattern})"
    lines = [f"{context.config.name}: {data.kind} {where}, {len(refs)} videos{only}"]
    images, decoded = sum(video.images for video in checked), sum(video.decoded for video in checked)
    if images:
        how = (
            "all decoded (damage of a few bytes can go unnoticed)"
            if full
            else f"headers and ends of all read, {decoded} decoded (--full decodes all)"
        )
        lines.append(f"  {images} images: {how}")
    if files := sum(video.video_files for video in checked):
        lines.append(f"  {files} video files: decoded from end to end")
    return lines


def _table(context: Context, counts: dict[str, Counts]) -> list[str]:
    """Counts by split with the published ones beside them."""
    data = context.config.data
    known = published(data)
    lines = [f"  {'':5} {'videos':>8} {'published':>10} {'frames':>8} {'labelled':>9} {'people':>8} {'joints':>9}"]
    for split, count in counts.items():
        if count.videos:
            there = published_videos(data, split)
            lines.append(
                f"  {split:5} {count.videos:>8} {'-' if there is None else there:>10} {count.frames:>8} "
                f"{count.labelled:>9} {count.people:>8} {count.joints:>9}"
            )
    if known is not None and "" in known.videos:  # counted over both splits
        total = sum(counts.values(), Counts())
        lines.append(f"  {'all':5} {total.videos:>8} {known.videos['']:>10} {total.frames:>8}")
        frames = f" and {known.frames:,} frames" if known.frames else ""
        remark = f"; {known.remark}" if known.remark else ""
        lines.append(f"  published: {known.videos['']} clips{frames} ({known.source}){remark}")
    elif known is not None and any(published_videos(data, split) is not None for split in SPLITS):
        lines.append(f"  published: {known.source}")
    if data.kind == "posetrack18" and data.eval and (data.eval.subset, data.eval.videos) == ("val", "*"):
        lines.append(f"  {version_of(sum('eval' in ref.ranges for ref in context.all_videos))}")
    return lines


def _summary(faults: list[Fault]) -> list[str]:
    """A line per kind of fault that there is, in the order of KINDS."""
    lines = []
    for name, kind in KINDS.items():
        first = next((fault for fault in faults if fault.kind == name), None)
        if first is None:
            continue
        words = f"{'fault' if kind.stops else 'note'}  {kind.words}: {_number(faults, name)}"
        if not first.video:
            lines.append(f"{words}; first: {first.what}")
            continue
        videos = len({fault.video for fault in faults if fault.kind == name})
        number = _number(faults, name)
        where = first.video if first.frame is None else f"{first.video}, frame {first.frame}"
        several = f" in {videos} videos" if number != videos else ""
        lines.append(f"{words}{several}; first {where}: {first.what}")
    return lines or ["nothing is wrong"]


def _number(faults: list[Fault], kind: str) -> int:
    return sum(fault.kind == kind for fault in faults)


def _as_json(context: Context, full: bool, counts: dict[str, Counts], faults: list[Fault]) -> dict[str, Any]:
    known = published(context.config.data)
    return {
        "pipeline": context.config.name,
        "data": context.config.data.model_dump(mode="json"),
        "videos": context.pattern,
        "every_image_decoded": full,
        "splits": {split: asdict(count) for split, count in counts.items()},
        "published": None if known is None else asdict(known),
        "faults": [{**asdict(fault), "stops": KINDS[fault.kind].stops} for fault in faults],
    }
