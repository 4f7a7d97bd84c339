"""score: any system's predictions against annotations, by AP, PCKh, PCK or OKS, as lines to print and as JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal, cast

from glpose.data.joint_sets import read_joint_set
from glpose.metrics import oks, pck, pckh, posetrack
from glpose.metrics.pckh import PCKhResult
from glpose.metrics.posetrack import Joints, PoseTrackResult
from store.atomic import write_json
from store.errors import ConfigError

METRICS = ("ap", "pckh", "pck", "oks")
MEAN = "mean"  # the row below those of several splits
DEFAULT_ALPHA, DEFAULT_SIZE = 0.2, "box"


@dataclass(frozen=True)
class Report:
    """What `score` says. lines: the heading, the table, how it is averaged. notes: about the files, for stderr."""

    lines: list[str]
    notes: list[str]


def score(
    gt: Sequence[Path],
    pred: Sequence[Path],
    *,
    metric: str = "ap",
    joints: str = "annotated",
    strict_poseval: bool = False,
    alpha: float | None = None,
    size: str | None = None,
    joint_set: Path | None = None,
    json_file: Path | None = None,
) -> Report:
    """Score folders of predictions against folders of annotations, file by file of the same name.

    metric: "ap" or "pckh", of PoseTrack files, one pair of folders; "pck", of pose files (`glpose.data.poses`), of one
    pair or several, which are splits, averaged; "oks", of a COCO-style annotation file and a COCO result file. joints:
    "annotated" or "visible", those that count. strict_poseval belongs to pckh; alpha (0.2) to pck and oks; size ("box"
    or "torso") to pck; joint_set, a YAML, to oks, and to pck where the joints are no known set's. json_file: where to
    write the numbers too, that is `as_json` of the result or, of several splits, {"splits": {name: ...},
    "mean_over_splits": ...}.

    ConfigError for options that are wrong or do not go together, DataError for files that cannot be scored.
    """
    _check(gt, pred, metric, joints, strict_poseval, alpha, size, joint_set)
    counted = cast(Joints, joints)
    if metric == "ap":
        ap = posetrack.evaluate(gt[0], pred[0], joints=counted)
        table = posetrack.format_table({_names(pred)[0]: ap}, details=True)
        report, content = _posetrack_report("AP", ap, table, joints), ap.as_json()
    elif metric == "pckh":
        shares = pckh.evaluate(gt[0], pred[0], joints=counted, strict_poseval=strict_poseval)
        table = pckh.format_table({_names(pred)[0]: shares}, details=True)
        report, content = _posetrack_report("PCKh@0.5", shares, table, joints), shares.as_json()
        how = "poseval's own number" if strict_poseval else "a frame's k-th prediction against its k-th person"
        report.lines.append(f"{how}; Total: pooled hits, all right joints over all annotated ones")
    elif metric == "oks" and joint_set is not None:
        found = oks.evaluate(gt[0], pred[0], read_joint_set(joint_set), alpha=alpha or DEFAULT_ALPHA)
        report = Report(oks.format_table({pred[0].name: found}).splitlines(), [f"note: {p}" for p in found.problems])
        content = found.as_json()
    else:
        share = DEFAULT_ALPHA if alpha is None else alpha
        by = cast(Literal["box", "torso"], size or DEFAULT_SIZE)
        report, content = _score_pck(gt, pred, counted, share, by, joint_set)
    if json_file is not None:
        write_json(json_file, content)
    return report


def _check(
    gt: Sequence[Path],
    pred: Sequence[Path],
    metric: str,
    joints: str,
    strict_poseval: bool,
    alpha: float | None,
    size: str | None,
    joint_set: Path | None,
) -> None:
    """ConfigError for what does not go together."""
    if metric not in METRICS:
        raise ConfigError(f"--metric is ap, pckh, pck or oks, not {metric!r}")
    if joints not in ("annotated", "visible"):
        raise ConfigError(f"--joints is annotated or visible, not {joints!r}")
    if len(gt) != len(pred) or not gt:
        raise ConfigError(f"--gt and --pred go in pairs: there are {len(gt)} --gt and {len(pred)} --pred")
    if len(gt) > 1 and metric != "pck":
        raise ConfigError(f"--metric {metric} takes one --gt and one --pred; several splits are for --metric pck")
    if strict_poseval and metric != "pckh":
        raise ConfigError(f"--strict-poseval belongs to --metric pckh, not to {metric}")
    if strict_poseval and joints == "visible":
        raise ConfigError("poseval counts hidden joints too: --strict-poseval does not go with --joints visible")
    if metric == "oks" and joint_set is None:
        raise ConfigError("--metric oks needs --joint-set FILE, the YAML with the joints and their sigmas")
    if metric == "oks" and joints == "visible":
        raise ConfigError("OKS counts every annotated joint: --joints visible does not go with --metric oks")
    theirs = {"--alpha": ("pck", "oks"), "--size": ("pck",), "--joint-set": ("pck", "oks")}
    for name, value in {"--alpha": alpha, "--size": size, "--joint-set": joint_set}.items():
        if value is not None and metric not in theirs[name]:
            raise ConfigError(f"{name} belongs to --metric {' or '.join(theirs[name])}, not to {metric}")
    if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
        raise ConfigError(f"--alpha is a share of the person's size above 0, such as 0.2, not {alpha}")
    if size not in (None, *pck.SIZES):
        raise ConfigError(f"--size is box or torso, not {size!r}")


def _posetrack_report(metric: str, result: PoseTrackResult | PCKhResult, table: str, joints: str) -> Report:
    heading = f"{metric}, percent; {result.videos} videos, {result.frames} frames with people; joints: {joints}"
    notes = [f"note: {problem}" for problem in result.problems]
    notes += [f"poseval stops: {finding}" for finding in result.poseval_stops]
    return Report([heading, *table.splitlines()], notes)


def _score_pck(
    gt: Sequence[Path],
    pred: Sequence[Path],
    joints: Joints,
    alpha: float,
    size: Literal["box", "torso"],
    joint_set: Path | None,
) -> tuple[Report, dict[str, object]]:
    names = _names(pred)
    known = pck.joint_set_of(gt[0]) if joint_set is None else read_joint_set(joint_set)
    pairs = zip(names, gt, pred, strict=True)
    results = {name: pck.evaluate(one, other, known, alpha, size, joints) for name, one, other in pairs}
    people = sum(result.people for result in results.values())
    heading = f"PCK@{alpha:g} of {pck.SIZES[size]}, percent; {people} people; joints: {joints} ({known.name})"
    rows: dict[str, pck.PCKResult | pck.PCKMean] = dict(results)
    content, means = results[names[0]].as_json(), []
    if len(names) > 1:
        rows[MEAN] = mean = pck.mean_over_splits(list(results.values()))
        splits = {name: result.as_json() for name, result in results.items()}
        content = {"splits": splits, "mean_over_splits": mean.as_json()}
        means = [f"{MEAN}: mean over the {len(names)} splits, in every column"]
    what = "box" if size == "box" else "torso"
    notes = [
        f"note: {name}: {result.left_out} people whose {what} has no size are left out"
        for name, result in results.items()
        if result.left_out
    ]
    table = pck.format_table(rows, details=True).splitlines()
    return Report([heading, *table, *pck.conventions(known), *means], notes), content


def _names(folders: Sequence[Path]) -> list[str]:
    """Each folder's name; where folders share it, those parts of their paths, from the end, that tell them apart."""
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    if len(paths) == 1:
        return [paths[0].name]
    levels = zip_longest(*(reversed(path.parts) for path in paths), fillvalue="")
    differing = [parts for parts in levels if len(set(parts)) > 1]
    for depth in range(1, len(differing) + 1):
        names = ["/".join(reversed(parts)).strip("/") for parts in zip(*differing[:depth], strict=True)]
        if len({*names, MEAN}) == len(names) + 1:
            return names
    raise ConfigError("several --pred are the same folder: each split has its own")
