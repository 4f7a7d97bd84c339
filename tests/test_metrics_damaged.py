"""PoseTrack AP on damaged files: it is computed, or a DataError names the file; no other exception, no warning."""

from __future__ import annotations

import copy
import functools
import gzip
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fixed_examples import fixed
from hypothesis import example, given
from hypothesis import strategies as st
from posetrack_builders import as_2018, random_video

from glpose.keypoints import POSETRACK
from glpose.metrics.posetrack import evaluate, format_table
from store.errors import DataError

pytestmark = pytest.mark.filterwarnings("error")

NAME = "000001_mpii_test.json"
KEYS = ["annolist", "annorect", "annopoints", "point", "id", "x", "y", "x1", "score", "is_visible", "track_id",
        "ignore_regions", "ignore_regions_x", "image", "images", "file_name", "annotations", "image_id", "keypoints",
        "scores", "bbox_head", "categories", "name"]  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from([10**400, 1e308, -1e308, 2**63, "person", "nose", "1_mpii/0.jpg", "\ud800", "\n\n"]),
)  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)
SIDES = st.sampled_from(["gt", "pred"])


@functools.cache
def intact(new: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Small annotations and predictions, PoseTrack18 or 17."""
    gt, pred = random_video(np.random.default_rng(5), frames=2)
    return (as_2018(gt), as_2018(pred)) if new else (gt, pred)


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bool]:
    """Scores a damaged file against an intact one; True where it was refused, by a DataError that names it."""

    def score(side: str, content: bytes, suffix: str = "") -> bool:
        folder = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
        for name, video in zip(("gt", "pred"), intact(False), strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            text = json.dumps(video).encode()
            (folder / name / (NAME + suffix)).write_bytes(gzip.compress(text, 1) if suffix else text)
        damaged = folder / side / (NAME + suffix)
        damaged.write_bytes(content)
        try:
            result = evaluate(folder / "gt", folder / "pred")
        except DataError as error:
            assert str(damaged) in str(error) and len(str(error).splitlines()) <= 2
            str(error).encode()  # can be printed
            return True
        json.dumps(result.as_json(), allow_nan=False)
        format_table({"damaged": result}, details=True)
        "\n".join(result.problems).encode()
        return False

    return score


@fixed(max_examples=120)
@given(side=SIDES, value=JSON, place=st.integers(0, 6))
def test_any_json(attempt: Callable[..., bool], side: str, value: Any, place: int) -> None:
    person = [{"name": "person", "keypoints": list(POSETRACK.joints)}]
    images = [{"id": 0, "file_name": "images/val/000001_mpii_test/000000.jpg"}]
    placed = [
        value,
        {"annolist": [value]},
        {"annolist": [{"annorect": [value]}]},
        {"annolist": [{"annorect": [{"annopoints": [{"point": [value]}]}]}]},
        {"images": [value], "categories": person},
        {"images": images, "categories": [value]},
        {"images": images, "categories": person, "annotations": [value]},
    ]
    attempt(side, json.dumps(placed[place]).encode())


@fixed(max_examples=40)
@given(side=SIDES, content=st.binary(max_size=60))
@example(side="gt", content=b"[" * 100_000)
@example(side="pred", content=b"9" * 5000)
def test_any_bytes(attempt: Callable[..., bool], side: str, content: bytes) -> None:
    attempt(side, content)


@fixed(max_examples=30)
@given(side=SIDES, new=st.booleans(), share=st.floats(0, 1, exclude_max=True))
def test_cut_text(attempt: Callable[..., bool], side: str, new: bool, share: float) -> None:
    text = json.dumps(intact(new)[side == "pred"]).encode()
    assert attempt(side, text[: int(share * len(text))])


@fixed(max_examples=40)
@given(
    side=SIDES,
    cut=st.integers(0, 40),
    place=st.integers(0, 99_999),
    bits=st.integers(0, 255),
    tail=st.binary(max_size=4),
)
def test_damaged_gzip(attempt: Callable[..., bool], side: str, cut: int, place: int, bits: int, tail: bytes) -> None:
    content = bytearray(gzip.compress(json.dumps(intact(False)[side == "pred"]).encode(), mtime=0))
    content[place % len(content)] ^= bits
    attempt(side, bytes(content[: len(content) - cut]) + tail, ".gz")
    assert attempt(side, bytes(content[: len(content) - 9 - cut]), ".gz")


@fixed(max_examples=200)
@given(side=SIDES, new=st.booleans(), path=st.lists(st.integers(0, 99), min_size=1, max_size=11), value=JSON)
@example(side="gt", new=False, path=[0, 0, 1, 0, 0], value="\ud800")
@example(side="gt", new=False, path=[0, 0, 1, 0, 0], value="\n\n")
def test_replaced_value(attempt: Callable[..., bool], side: str, new: bool, path: list[int], value: Any) -> None:
    damaged = copy.deepcopy(intact(new)[side == "pred"])
    node: Any = damaged
    for step in path[:-1]:
        key = list(node)[step % len(node)] if isinstance(node, dict) else step % len(node)
        if not isinstance(node[key], dict | list) or not node[key]:
            break
        node = node[key]
    key = list(node)[path[-1] % len(node)] if isinstance(node, dict) else path[-1] % len(node)
    node[key] = value
    attempt(side, json.dumps(damaged).encode())


def test_some_damage_is_refused_and_some_is_not(attempt: Callable[..., bool]) -> None:
    frame = {"annorect": None}
    assert not attempt("pred", json.dumps({"annolist": [frame, frame]}).encode())
    assert attempt("gt", json.dumps({"annolist": [math.pi]}).encode())
