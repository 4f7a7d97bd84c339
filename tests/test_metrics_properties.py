"""PoseTrack AP: what must hold for every video, on random ones.

Videos come from a drawn seed: a failure names the seed, with which `random_video` or `untied_video` makes it again.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fixed_examples import fixed
from hypothesis import given
from hypothesis import strategies as st
from posetrack_builders import (
    POSE,
    as_2018,
    elsewhere,
    give_distinct_scores,
    largest_difference,
    person,
    points_of,
    random_video,
    scored,
    untied_video,
    video17,
)

from glpose.metrics.posetrack import evaluate_videos
from glpose.metrics.posetrack_files import parse_video

pytestmark = pytest.mark.filterwarnings("error")

SEEDS = st.integers(0, 2**32 - 1)
Video = dict[str, Any]


def numbers(gt: Iterable[Video], pred: Iterable[Video]) -> dict[str, Any]:
    """All numbers of the result for parsed files, None for NaN; without remarks, which may name a person's frame."""
    memory = Path("memory.json")
    result = evaluate_videos(
        (parse_video(memory, one), parse_video(memory, other)) for one, other in zip(gt, pred, strict=True)
    ).as_json()
    shown = ("ap", "mean", "groups", "precision", "recall", "counts", "frames", "frames_in_files", "videos")
    return {name: result[name] for name in shown}


def random_videos(seed: int, n: int = 3) -> tuple[list[Video], list[Video], np.random.Generator]:
    """`n` files each of annotations and of predictions with ties, regions, gaps; and the generator, to go on."""
    rng = np.random.default_rng(seed)
    gt, pred = zip(*(random_video(rng, frames=3) for _ in range(n)), strict=True)
    return list(gt), list(pred), rng


def shuffled(rng: np.random.Generator, items: list[Any]) -> list[Any]:
    """The items in random order."""
    return [items[k] for k in rng.permutation(len(items))]


# What does not matter


@fixed(max_examples=40)
@given(SEEDS)
def test_order_of_people(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pair = untied_video(rng)
    new = copy.deepcopy(pair)
    for frame in [frame for video in new for frame in video["annolist"]]:
        frame["annorect"] = shuffled(rng, frame["annorect"])
    assert numbers(new[:1], new[1:]) == numbers(pair[:1], pair[1:])
    new18 = [as_2018(video) for video in pair]
    for video in new18:
        video["annotations"] = shuffled(rng, video["annotations"])
    assert numbers(new18[:1], new18[1:]) == numbers(pair[:1], pair[1:])


@fixed(max_examples=30)
@given(SEEDS)
def test_order_of_points(seed: int) -> None:
    gt, pred, rng = random_videos(seed)
    expected = numbers(gt, pred)
    for frame in [frame for video in gt + pred for frame in video["annolist"]]:
        for one in frame["annorect"]:
            one["annopoints"][0]["point"] = shuffled(rng, one["annopoints"][0]["point"])
    assert numbers(gt, pred) == expected


@fixed(max_examples=30)
@given(SEEDS)
def test_order_of_names_and_columns(seed: int) -> None:
    gt, pred, rng = random_videos(seed)
    new_gt, new_pred = [as_2018(video) for video in gt], [as_2018(video) for video in pred]
    for video in new_gt + new_pred:
        names = video["categories"][0]["keypoints"]
        order = [k for k in rng.permutation(17).tolist() if rng.random() < 0.5 or not names[k].endswith("ear")]
        if len(order) == 16:  # poseval knows both ears or none
            order = [k for k in order if not names[k].endswith("ear")]
        video["categories"][0]["keypoints"] = [names[k] for k in order]
        for one in video["annotations"]:
            one["keypoints"] = [number for k in order for number in one["keypoints"][3 * k : 3 * k + 3]]
            one["scores"] = [one["scores"][k] for k in order] if one["scores"] else []
    assert numbers(new_gt, new_pred) == numbers(gt, pred)


@fixed(max_examples=30)
@given(SEEDS)
def test_order_of_files(seed: int) -> None:
    gt, pred, rng = random_videos(seed)
    give_distinct_scores(rng, pred)
    order = shuffled(rng, [0, 1, 2])
    assert numbers([gt[k] for k in order], [pred[k] for k in order]) == numbers(gt, pred)


@fixed(max_examples=30)
@given(SEEDS)
def test_format_of_either_side(seed: int) -> None:
    gt, pred, _ = random_videos(seed)
    new_gt, new_pred = [as_2018(video) for video in gt], [as_2018(video) for video in pred]
    expected = numbers(gt, pred)
    assert numbers(new_gt, pred) == numbers(gt, new_pred) == numbers(new_gt, new_pred) == expected


@fixed(max_examples=30)
@given(SEEDS, st.integers(-(2**20), 2**20), st.integers(-6, 6))
def test_shift_and_scale_of_scores(seed: int, shift: int, power: int) -> None:
    gt, pred, rng = random_videos(seed)
    for video in pred:
        for point in points_of(video):
            point["score"] = [int(rng.integers(1, 32)) / 32]  # sums and products stay exact, and ties ties
    expected = numbers(gt, pred)
    for video in pred:
        for point in points_of(video):
            point["score"] = [(point["score"][0] + shift) * 2.0**power]
    assert numbers(gt, pred) == expected


@fixed(max_examples=30)
@given(SEEDS, st.integers(-8, 8))
def test_scale_of_coordinates(seed: int, power: int) -> None:
    gt, pred, _ = random_videos(seed)
    assert numbers(scaled_xy(gt, 2.0**power), scaled_xy(pred, 2.0**power)) == numbers(gt, pred)


def scaled_xy(node: Any, factor: float) -> Any:
    """A part of a PoseTrack17 file with its points, head boxes and regions scaled."""
    if isinstance(node, list):
        return [scaled_xy(item, factor) for item in node]
    if not isinstance(node, dict):
        return node
    lengths = ("x", "y", "x1", "y1", "x2", "y2")
    return {k: [value[0] * factor] if k in lengths else scaled_xy(value, factor) for k, value in node.items()}


# What must come out


@fixed(max_examples=30)
@given(SEEDS)
def test_agreement_with_loops(seed: int) -> None:
    gt, pred, _ = random_videos(seed)
    gt[2], pred[1] = as_2018(gt[2]), as_2018(pred[1])
    expected, ours = loops().score(gt, pred), numbers(gt, pred)
    assert max(largest_difference(ours[what].values(), expected[what]) for what in expected) < 1e-9


@functools.cache
def loops() -> ModuleType:
    """The loop-based evaluator that the benchmarks use."""
    path = Path(__file__).parent.parent / "benchmarks" / "poseval_baseline.py"
    spec = importlib.util.spec_from_file_location("poseval_baseline", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@fixed(max_examples=30)
@given(SEEDS)
def test_percentages(seed: int) -> None:
    ours = numbers(*random_videos(seed)[:2])
    values = [value for what in ("ap", "precision", "recall") for value in ours[what].values() if value is not None]
    assert all(0 <= value <= 100 + 1e-9 for value in values)
    assert ours["mean"] is None or 0 <= ours["mean"] <= 100 + 1e-9


@fixed(max_examples=30)
@given(SEEDS)
def test_perfect_predictions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gt, _ = untied_video(rng)
    pred = copy.deepcopy(gt)
    for frame in pred["annolist"]:
        frame["ignore_regions"] = []
    give_distinct_scores(rng, [pred])
    ours = numbers([gt], [pred])
    for joint, n in ours["counts"]["n_gt"].items():
        if n:
            assert [ours[what][joint] for what in ("ap", "precision", "recall")] == pytest.approx([100.0] * 3)


@fixed(max_examples=40)
@given(SEEDS)
def test_far_false_positive_with_the_lowest_score(seed: int) -> None:
    (gt,), (pred,), rng = random_videos(seed, n=1)
    before = numbers([gt], [pred])
    annotated = [j for j, n in enumerate(before["counts"]["n_gt"].values()) if n]
    people = pred["annolist"][rng.integers(3)]["annorect"]
    people.append(person(elsewhere(POSE, 0.01), track=99, head=None))
    after = numbers([gt], [pred])
    for joint, ap in before["ap"].items():  # None, of joints never annotated, stays or replaces a 0
        assert after["ap"][joint] is None or after["ap"][joint] <= ap + 1e-9
    people[-1] = person({j: elsewhere(POSE, 0.01)[j] for j in annotated}, track=99, head=None)
    after = numbers([gt], [pred])
    assert before["mean"] is None or after["mean"] <= before["mean"] + 1e-9


def test_false_positive_of_a_joint_never_annotated_takes_its_zero_out_of_the_mean() -> None:
    # The one exception to the rule above, and poseval's: a joint neither annotated nor predicted scores 0, not NaN.
    gt, right = video17([person({0: POSE[0]})]), person(scored({0: POSE[0]}))
    assert numbers([gt], [video17([right])])["mean"] == pytest.approx(100 / 15)
    stray = person(elsewhere({1: POSE[1]}, 0.01), track=1)
    assert numbers([gt], [video17([right, stray])])["mean"] == pytest.approx(100 / 14)
