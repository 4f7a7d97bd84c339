"""Deliberate changes to the rules of PoseTrack AP: poseval's recorded numbers must tell each of them from the real one.

A change replaces a passage of the evaluator's source and runs the result beside the evaluator, which stays as it is.
Should a passage be reported as moved, bring its text here up to date: the rule is no longer checked.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from posetrack_builders import largest_difference

from glpose.metrics import posetrack

METRICS = Path(__file__).parent.parent / "glpose" / "metrics"
CASES = ["4_edge", "3_ties", "2_small18"]


class Change(NamedTuple):
    """One passage of glpose/metrics/MODULE.py, which must occur exactly once, and what takes its place."""

    module: str
    old: str
    new: str


CHANGES = {
    "a joint matches below the distance, not at it": Change(
        "posetrack", "/ head_size[:, None] <= MATCH_DISTANCE", "/ head_size[:, None] < MATCH_DISTANCE"
    ),
    "a joint matches within 0.6 head sizes, not 0.5": Change(
        "posetrack", "MATCH_DISTANCE = 0.5", "MATCH_DISTANCE = 0.6"
    ),
    "the head size is half the diagonal, not 0.6 of it": Change(
        "posetrack_files", "HEAD_FACTOR = 0.6", "HEAD_FACTOR = 0.5"
    ),
    "the head size is the whole diagonal": Change("posetrack_files", "HEAD_FACTOR = 0.6", "HEAD_FACTOR = 1.0"),
    "regions to ignore spare predicted joints": Change(
        "posetrack", "left[left] = ~inside_regions(", "left[left] = (video is not annotated) | ~inside_regions("
    ),
    "regions to ignore spare annotated joints": Change(
        "posetrack", "left[left] = ~inside_regions(", "left[left] = (video is annotated) | ~inside_regions("
    ),
    "the boundary of a region is inside it": Change(
        "posetrack_regions",
        "odd & ~np.logical_or.reduceat(touched, first)",
        "odd | np.logical_or.reduceat(touched, first)",
    ),
    "frames whose annotations list nobody are scored": Change(
        "posetrack", "np.bincount(annotated.person_frame, minlength=annotated.frames) > 0",
        "np.bincount(annotated.person_frame, minlength=annotated.frames) >= 0",
    ),
    "frames whose annotated people all lie in regions are dropped": Change(
        "posetrack", "    gt = people_left(annotated, gt_left)\n",
        "    left = annotated.person_frame[annotated.point_person[gt_left]]\n"
        "    scored &= np.bincount(left, minlength=annotated.frames) > 0\n"
        "    gt = people_left(annotated, gt_left)\n",
    ),
    "hidden joints are not annotated": Change(
        "posetrack", "gt = people_left(annotated, gt_left)",
        "gt = people_left(annotated, gt_left & (annotated.flag != HIDDEN))"
    ),
    "PoseTrack18 joints with flag 0 are absent": Change(
        "posetrack_files", "(xyv != 0).any(axis=2)", "(xyv[..., 2] != 0)"
    ),
    "the last point of a joint counts, not the first": Change(
        "posetrack", "np.flatnonzero(left & (video.joint >= 0))", "np.flatnonzero(left & (video.joint >= 0))[::-1]"
    ),
    "a predicted person chooses by number of matches, not by share": Change(
        "posetrack", "match.sum(axis=1) / n_annotated[pair_gt]", "match.sum(axis=1) / 15"
    ),
    "a predicted person keeps the last of equally good people": Change(
        "posetrack", "candidates[np.searchsorted(candidates, starts)]",
        "candidates[np.searchsorted(candidates, starts + sizes) - 1]",
    ),
    "a person takes the last of equally good predictions": Change(
        "posetrack", "    order = wanted[np.lexsort(", "    wanted = wanted[::-1]\n    order = wanted[np.lexsort("
    ),
    "a person takes every prediction that chose it": Change(
        "posetrack", "owner = one_each(best, best_share)", "owner = np.where(best_share > 0, best, -1)"
    ),
    "losers get a second choice": Change(
        "posetrack",
        "    owner = one_each(best, best_share)\n",
        "    owner = one_each(best, best_share)\n"
        "    for p in np.flatnonzero(owner < 0):\n"
        "        for g in range(first[p], first[p] + rivals[p]):\n"
        "            match = matches(gt.xy[[g]], pred.xy[[p]], gt.head_size[[g]])[0]\n"
        "            if owner[p] < 0 and g not in owner and match.any():\n"
        "                owner[p], best_match[p] = g, match\n",
    ),
    "people assigned to nobody are no mistakes": Change(
        "posetrack", "counted = pred.has.copy()", "counted = pred.has & (owner >= 0)[:, None]"
    ),
    "predicted joints that are not annotated are no mistakes": Change(
        "posetrack", "counted = pred.has.copy()", "counted = pred.has & ((owner < 0)[:, None] | gt.has[owner])"
    ),
    "a missing score is 0, not -9999": Change("posetrack_files", "MISSING_SCORE = -9999.0", "MISSING_SCORE = 0.0"),
    "equal scores rank in the order of the files": Change(
        "posetrack", 'np.argsort(score, kind="stable")[::-1]', 'np.argsort(-score, kind="stable")'
    ),
    "AP is the mean of 11 points of the curve": Change(
        "posetrack", "np.sum(np.diff(recall, prepend=0.0) * envelope)",
        "np.mean([envelope[recall >= level].max(initial=0) for level in np.linspace(0, 1, 11)])",
    ),
    "AP lies below the curve, not below its envelope": Change(
        "posetrack", "np.maximum.accumulate(precision[::-1])[::-1]", "precision"
    ),
    "the mean runs over the groups, not over the joints": Change(
        "posetrack", "mean=mean_over_joints(ap)", "mean=mean_over_joints(group_means(ap))"
    ),
    "joints that nobody predicts are left out of the mean": Change(
        "posetrack", "        return 0.0, 0.0, 0.0", "        return math.nan, math.nan, math.nan"
    ),
    "joints without annotations score 0, not NaN": Change(
        "posetrack", "return math.nan, float(correct.mean() * 100), math.nan", "return 0.0, 0.0, 0.0"
    ),
}  # fmt: skip


@contextmanager
def evaluator_with(change: Change) -> Iterator[ModuleType]:
    """A second glpose.metrics.posetrack, with the change made; the imported modules are put back afterwards."""
    path = METRICS / f"{change.module}.py"
    source = path.read_text()
    assert source.count(change.old) == 1, f"{path.name} holds {change.old!r} not once: the rule's text has moved"
    kept = {name: sys.modules.pop(name) for name in _ours()}
    try:
        name = f"glpose.metrics.{change.module}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        exec(compile(source.replace(change.old, change.new), path, "exec"), module.__dict__)
        yield importlib.import_module("glpose.metrics.posetrack")
    finally:
        for name in _ours():
            del sys.modules[name]
        sys.modules.update(kept)


def _ours() -> list[str]:
    return [name for name in sys.modules if name == "glpose" or name.startswith("glpose.")]


def difference(evaluator: ModuleType, folder: Path) -> float:
    """Largest difference to poseval's recorded numbers, in percent points; equal scores in stable reversed order."""
    expected = json.loads((folder / "expected.json").read_text())
    result = evaluator.evaluate(folder / "gt", folder / "pred")
    ours = [*result.ap.values(), result.mean, *result.precision.values(), *result.recall.values()]
    ap = expected["tie_variants"]["ap_stable_reversed"]  # the 15 joints and the mean
    return largest_difference(ours, [*ap, *expected["precision"][:15], *expected["recall"][:15]])


@pytest.mark.parametrize("rule", CHANGES)
def test_recorded_cases_catch(shared_data: Path, rule: str) -> None:
    with evaluator_with(CHANGES[rule]) as changed:
        assert any(difference(changed, shared_data / "vectors" / "poseval" / f"open_{case}") > 1e-6 for case in CASES)


def test_without_a_change_nothing_differs(shared_data: Path) -> None:
    with evaluator_with(Change("posetrack_regions", "def inside_regions(", "def inside_regions(")) as same:
        assert same is not posetrack
        folders = [shared_data / "vectors" / "poseval" / f"open_{case}" for case in CASES]
        assert max(difference(same, folder) for folder in folders) < 1e-9
    assert sys.modules["glpose.metrics.posetrack"] is posetrack
    with (
        pytest.raises(AssertionError, match="the rule's text has moved"),
        evaluator_with(Change("posetrack", "no such rule", "")),
    ):
        pass
