"""score: any system's predictions against annotations, by AP, PCKh, PCK or OKS, as lines to print and as JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from glpose.options import PCK_ALPHA
from store.atomic import write_json
from store.errors import ConfigError, DataError

if TYPE_CHECKING:
    from glpose.metrics.pck import PCKMean, PCKResult
    from glpose.metrics.pckh import PCKhResult
    from glpose.metrics.posetrack import PoseTrackResult

MEAN = "mean"  # the row below those of several splits
NOTES_SHOWN = 20
SIZES = ("box", "torso")


@dataclass(frozen=True)
class Report:
    """What `score` says. lines: the heading, the table, how it is averaged. notes: about the files, for stderr."""

    lines: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Request:
    """What to score, as `score` describes it, checked."""

    gt: Sequence[Path]
    pred: Sequence[Path]
    joints: Literal["annotated", "visible"]
    strict_poseval: bool
    alpha: float
    size: Literal["box", "torso"]
    joint_set: Path | None


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
    write the numbers too: metric, counted (joints) and `as_json` of the result or, of several splits, {"splits":
    {name: ...}, "mean_over_splits": ...}.

    ConfigError for options that are wrong or do not go together, DataError for files that cannot be scored.
    """
    _check(gt, pred, metric, joints, strict_poseval, alpha, size, joint_set)
    if json_file is not None and json_file.is_dir():
        raise DataError(f"--json {json_file}: Is a directory")
    counted, by = cast(Literal["annotated", "visible"], joints), cast(Literal["box", "torso"], size or SIZES[0])
    share = PCK_ALPHA if alpha is None else alpha
    report, content = METRICS[metric](Request(gt, pred, counted, strict_poseval, share, by, joint_set))
    if json_file is not None:
        write_json(json_file, {"metric": metric, "counted": joints, **content})
    return report


def _ap(request: Request) -> tuple[Report, dict[str, Any]]:
    from glpose.metrics import posetrack

    result = posetrack.evaluate(request.gt[0], request.pred[0], joints=request.joints)
    table = posetrack.format_table({_names(request.pred)[0]: result}, details=True)
    return _posetrack_report("AP", result, table, request), result.as_json()


def _pckh(request: Request) -> tuple[Report, dict[str, Any]]:
    from glpose.metrics import pckh

    result = pckh.evaluate(request.gt[0], request.pred[0], joints=request.joints, strict_poseval=request.strict_poseval)
    table = pckh.format_table({_names(request.pred)[0]: result}, details=True)
    report = _posetrack_report("PCKh@0.5", result, table, request)
    how = "poseval's own number" if request.strict_poseval else "a frame's k-th prediction against its k-th person"
    report.lines.append(f"{how}; Total: pooled hits, all right joints over all annotated ones")
    return report, result.as_json()


def _posetrack_report(metric: str, result: PoseTrackResult | PCKhResult, table: str, request: Request) -> Report:
    about = f"{result.videos} videos, {result.frames} frames with people; joints: {request.joints}"
    notes = [f"note: {problem}" for problem in result.problems]
    notes += [f"poseval stops: {finding}" for finding in result.poseval_stops]
    if len(notes) > NOTES_SHOWN:
        notes = [*notes[:NOTES_SHOWN], f"note: {len(notes) - NOTES_SHOWN} more; --json FILE lists them all"]
    return Report([f"{metric}, percent; {about}", *table.splitlines()], notes)


def _pck(request: Request) -> tuple[Report, dict[str, Any]]:
    from glpose.data.joint_sets import read_joint_set
    from glpose.metrics import pck

    names, alpha, size = _names(request.pred), request.alpha, request.size
    known = pck.joint_set_of(request.gt[0]) if request.joint_set is None else read_joint_set(request.joint_set)
    pairs = zip(names, request.gt, request.pred, strict=True)
    results = {name: pck.evaluate(one, other, known, alpha, size, request.joints) for name, one, other in pairs}
    people = sum(result.people for result in results.values())
    heading = f"PCK@{alpha:g} of {pck.SIZES[size]}, percent; {people} people; joints: {request.joints} ({known.name})"
    rows: dict[str, PCKResult | PCKMean] = dict(results)
    content, means = results[names[0]].as_json(), []
    if len(names) > 1:
        rows[MEAN] = mean = pck.mean_over_splits(list(results.values()))
        splits = {name: result.as_json() for name, result in results.items()}
        content = {"splits": splits, "mean_over_splits": mean.as_json()}
        means = [f"{MEAN}: mean over the {len(names)} splits, in every column"]
    notes = [
        f"note: {name}: {result.left_out} people whose {size} has no size are left out"
        for name, result in results.items()
        if result.left_out
    ]
    table = pck.format_table(rows, details=True).splitlines()
    return Report([heading, *table, *pck.conventions(known), *means], notes), content


def _oks(request: Request) -> tuple[Report, dict[str, Any]]:
    from glpose.data.joint_sets import read_joint_set
    from glpose.metrics import oks

    if request.joint_set is None:
        raise ConfigError("--metric oks needs --joint-set FILE, the YAML with the joints and their sigmas")
    joints = read_joint_set(request.joint_set)
    result = oks.evaluate(request.gt[0], request.pred[0], joints, alpha=request.alpha)
    table = oks.format_table({_names(request.pred)[0]: result}).splitlines()
    return Report(table, [f"note: {problem}" for problem in result.problems]), result.as_json()


METRICS: dict[str, Callable[[Request], tuple[Report, dict[str, Any]]]] = {
    "ap": _ap,
    "pckh": _pckh,
    "pck": _pck,
    "oks": _oks,
}


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
    if metric == "oks" and joints == "visible":
        raise ConfigError("OKS counts every annotated joint: --joints visible does not go with --metric oks")
    theirs = {"--alpha": ("pck", "oks"), "--size": ("pck",), "--joint-set": ("pck", "oks")}
    for name, value in {"--alpha": alpha, "--size": size, "--joint-set": joint_set}.items():
        if value is not None and metric not in theirs[name]:
            raise ConfigError(f"{name} belongs to --metric {' or '.join(theirs[name])}, not to {metric}")
    if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
        raise ConfigError(f"--alpha is a share of the person's size above 0, such as 0.2, not {alpha}")
    if size not in (None, *SIZES):
        raise ConfigError(f"--size is box or torso, not {size!r}")


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
