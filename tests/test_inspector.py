"""The retrieval inspector's data: what heads make of single people, which people are shown, and what the page says."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from small_pipelines import context, finish_project, glpose_stage
from torch import Tensor

from glpose.data.annotations import assemble
from glpose.data.dataset import joint_set, open_video
from glpose.data.truth import Truth, match_annotations, truth_of
from glpose.evaluation import PLAIN, predict_poses, with_fewer
from glpose.keypoints import POSETRACK
from glpose.models.glpose import GLPoseHeads, local_weights, nonlocal_weights
from glpose.options import HeadOptions, IndexOptions
from glpose.references import References, head_inputs, in_window
from glpose.report import readings
from glpose.report.contributions import ALL, KEY_ALONE, NO_LOCAL, NO_NONLOCAL, contributions
from glpose.report.crop_pictures import cut_pictures
from glpose.report.embedding_map import principal_plane, sample_rows
from glpose.report.inspection import Inspected, wanted_pictures
from glpose.report.inspector import inspector
from glpose.report.inspector_data import page_data
from glpose.report.local_frames import local_frames
from glpose.report.page import LeftOut
from glpose.report.selection import EVEN, GAIN, LOSS, choose_people
from stages.evaluate import predict, prepare
from stages.report_inspector import inspect_split, inspector_section
from stages.train import Split, load_split

ABOUT = {"local": "", "references": "", "outcomes": ""}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pipeline; its pipelines.yaml."""
    return finish_project(tmp_path_factory.mktemp("inspector")) / "pipelines.yaml"


@pytest.fixture(scope="module")
def split(project: Path) -> Split:
    return load_split(context(project), "eval", k=1, n=2)


@pytest.fixture(scope="module")
def inspected(project: Path) -> Inspected:
    return inspect_split(context(project), people=5)


def heads(split: Split, **options: Any) -> GLPoseHeads:
    """Untrained ones that nevertheless react to all of their inputs."""
    own = HeadOptions(**{"k": 1, "n": 2, "blocks": 1, "init_std": 0.2, **options})
    offsets = tuple(offset for offset in (-1, 1) if abs(offset) <= own.k and not (own.causal and offset > 0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return GLPoseHeads(split.features.schema.channels, len(POSETRACK), offsets, own).eval()


def inputs_of(split: Split, model: GLPoseHeads, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    features = split.features
    window = features.window(list(features.spans))
    found = in_window(features, window, split.references)
    return head_inputs(window, found, rows, model.options.per_channel).of(model.options)


def pictures_of(project: Path, inspected: Inspected) -> dict[str, str]:
    own, found = context(project), {}
    for name, wanted in wanted_pictures(inspected).items():
        found |= cut_pictures(open_video(own.video(name)).frames, wanted, own.config.extract.crop_size)
    return found


def page_of(section_html: str) -> dict[str, Any]:
    """The data that the page's script reads."""
    [text] = re.findall(r'<script type="application/json" id="inspector-data">(.*?)</script>', section_html, re.DOTALL)
    return json.loads(text)


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


# ------------------------------------------------------------------------------------------------------ contributions
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"per_channel": True},
        {"weighted": False},
        {"local_weight": "linear", "normalise_local": True, "temperature": 5.0},
        {"mask": "channel"},
        {"causal": True},
    ],
    ids=str,
)
def test_weights_and_masks_are_the_models(split: Split, options: dict[str, Any]) -> None:
    model, rows = heads(split, **options), np.array([4, 0, 2])
    found = contributions(model, split.features, split.references, rows, PLAIN, batch_size=2)
    *_, similarity = inputs_of(split, model, rows)
    weights = nonlocal_weights(similarity, model.options)
    np.testing.assert_array_equal(found.local_weight, local_weights(model.offsets, model.options))
    np.testing.assert_allclose(found.nonlocal_weight, weights if weights.dim() == 2 else weights.mean(2), rtol=1e-6)
    seen = {}
    model.psi.register_forward_hook(lambda module, given, out: seen.update(psi=out))
    with torch.inference_mode():
        model(*inputs_of(split, model, rows))
    assert found.mask is not None
    np.testing.assert_allclose(found.mask, (1 - torch.sigmoid(seen["psi"])).mean(1), atol=1e-6)
    assert len(np.unique(found.mask.round(4))) > 10


def test_what_is_left_out_is_left_out_as_eval_does(split: Split) -> None:
    model, rows = heads(split), np.arange(len(split.features))[::-1].copy()
    found = contributions(model, split.features, split.references, rows, PLAIN, batch_size=3)
    assert list(found.poses) == [ALL, NO_LOCAL, NO_NONLOCAL, KEY_ALONE]
    for source, (k, n) in {ALL: (None, None), NO_LOCAL: (0, None), NO_NONLOCAL: (None, 0), KEY_ALONE: (0, 0)}.items():
        [poses] = predict_poses(model, split.features, split.references, "heatmap", 4, k=k, n=n)
        np.testing.assert_allclose(found.poses[source], poses[rows], atol=1e-5)
        with torch.inference_mode():
            maps = model(*with_fewer(inputs_of(split, model, rows), model.offsets, k, n))
        np.testing.assert_allclose(found.heatmaps[source], maps, atol=1e-5)
    for source in (NO_LOCAL, NO_NONLOCAL, KEY_ALONE):
        assert np.abs(found.heatmaps[source] - found.heatmaps[ALL]).max() > 1e-4


@pytest.mark.parametrize(
    "options, sources",
    [
        ({"k": 0}, [ALL, NO_NONLOCAL]),
        ({"n": 0}, [ALL, NO_LOCAL]),
        ({"k": 0, "n": 0, "enhancement": False}, [ALL]),
        ({"inputs": "key_copies"}, [ALL]),
    ],
    ids=str,
)
def test_sources_that_heads_do_not_have_are_not_taken_away(
    split: Split, options: dict[str, Any], sources: list[str]
) -> None:
    model = heads(split, **options)
    found = contributions(model, split.features, split.references, np.array([1, 3]), PLAIN, batch_size=8)
    assert list(found.poses) == sources
    assert found.nonlocal_weight.shape == (2, model.options.n)
    assert (found.mask is None) == (not model.options.enhancement)
    if model.options.inputs == "key_copies":  # all as similar as the others
        np.testing.assert_allclose(found.nonlocal_weight, 0.5)


def test_fewer_references_weigh_as_eval_has_them(split: Split) -> None:
    model, rows = heads(split), np.arange(3)
    found = contributions(model, split.features, split.references, rows, PLAIN, batch_size=8, n=1)
    np.testing.assert_array_equal(found.nonlocal_weight, [[1, 0]] * 3)
    assert list(found.poses) == [ALL, NO_LOCAL, NO_NONLOCAL, KEY_ALONE]
    fewer = contributions(model, split.features, split.references, rows, PLAIN, batch_size=8, k=0, n=0)
    assert list(fewer.poses) == [ALL]


def test_the_poses_are_those_that_eval_wrote(project: Path, inspected: Inspected) -> None:
    own = context(project)
    [poses] = predict(own.config, prepare(own), own.output("train", "glpose"))
    rows = list(inspected.chosen)
    np.testing.assert_array_equal(inspected.glpose.poses[ALL][..., :2], poses[rows, :, :2])
    boxes = inspected.table["score"].to_numpy()[rows, None]
    np.testing.assert_allclose(inspected.glpose.poses[ALL][..., 2] * boxes, poses[rows, :, 2])
    written = json.loads((own.output("eval", "results") / "predictions" / "glpose" / "c.json").read_text())
    ids = [image["id"] for image in written["images"]]
    columns = [written["categories"][0]["keypoints"].index(name) for name in POSETRACK.joints]
    for place, row in enumerate(rows):
        frame = int(inspected.table["frame"].iloc[row])
        people = [a["keypoints"] for a in written["annotations"] if a["image_id"] == ids[frame]]
        theirs = np.reshape(people, (len(people), -1, 3))[:, columns, :2]
        apart = np.abs(theirs - inspected.glpose.poses[ALL][place, :, :2]).max(axis=(1, 2))
        assert apart.min() < 0.01


def test_gains_are_over_the_single_frame(project: Path, inspected: Inspected) -> None:
    own, truth = context(project), inspected.truth
    split = prepare(own)
    given = np.stack([np.reshape(points, (-1, 3)) for points in split.features.table["keypoints"]])
    np.testing.assert_allclose(truth.keypoints, given, atol=1e-4)
    error = {}
    for name in ("glpose", "single_frame"):
        [poses] = predict(own.config, split, own.output("train", name))
        off = np.linalg.norm(poses[..., :2] - given[..., :2], axis=-1)
        for row, points in enumerate(given):
            there = points[:, 2] > 0
            size = np.ptp(points[there, :2], axis=0).max()
            error[name, row] = off[row, there].mean() / size
    for row in range(len(given)):
        assert inspected.mean_error[row] == pytest.approx(error["glpose", row], rel=1e-5)
        assert inspected.gain[row] == pytest.approx(error["single_frame", row] - error["glpose", row], rel=1e-4)


# --------------------------------------------------------------------------------------------------------- local frames
def test_local_frames_past_edges_and_unreadable_ones() -> None:
    options = HeadOptions(k=2)
    frames, notes = local_frames(np.array([0, 3, 5]), 6, (-2, -1, 1, 2), options, "repeat_key", unreadable=[4])
    np.testing.assert_array_equal(frames, [[0, 0, 1, 2], [1, 2, 3, 5], [3, 5, 5, 5]])
    assert [note.split(":")[0] for note in notes[0]] == ["past the clip's edge", "past the clip's edge", "", ""]
    assert [note.split(":")[0] for note in notes[1]] == ["", "", "unreadable", ""]
    clamped, _ = local_frames(np.array([0, 5]), 6, (-2, -1, 1, 2), options, "clamp")
    np.testing.assert_array_equal(clamped, [[0, 0, 1, 2], [3, 4, 5, 5]])


def test_local_frames_that_heads_do_not_see() -> None:
    fewer, notes = local_frames(np.array([4]), 9, (-2, -1, 1, 2), HeadOptions(k=2), "repeat_key", k=1)
    np.testing.assert_array_equal(fewer, [[4, 3, 5, 4]])
    assert [bool(note) for note in notes[0]] == [True, False, False, True]
    copies, notes = local_frames(np.array([4]), 9, (-1,), HeadOptions(k=1, inputs="key_copies"), "clamp")
    assert copies.tolist() == [[4]] and "control" in notes[0, 0]
    none, _ = local_frames(np.array([4, 5]), 9, (), HeadOptions(k=0), "clamp")
    assert none.shape == (2, 0)


# ----------------------------------------------------------------------------------------------------------- selection
def people(videos: dict[str, int], each: int = 10) -> pd.DataFrame:
    """Video -> number of people, each in `each` frames."""
    rows = [
        (video, frame, person) for video, count in videos.items() for frame in range(each) for person in range(count)
    ]
    return pd.DataFrame(rows, columns=["video", "frame", "person"])


def test_people_are_the_largest_gains_losses_and_some_from_everywhere() -> None:
    table = people({"a": 2, "b": 3})
    gain = np.random.default_rng(0).normal(size=len(table))
    chosen = choose_people(table, gain, np.ones(len(table)), 9)
    assert len(chosen) == 9 and list(chosen.values())[:3] == [GAIN, LOSS, EVEN]
    best = table.assign(gain=gain).groupby(["video", "person"])["gain"]
    for why, rows in ((GAIN, best.idxmax()), (LOSS, best.idxmin())):
        own = [row for row, reason in chosen.items() if reason == why]
        order = sorted(rows, key=lambda row: -gain[row] if why == GAIN else gain[row])
        assert own == [row for row in order if chosen.get(row) == why] and len(own) == 3
    even = table.loc[[row for row, why in chosen.items() if why == EVEN]]
    assert set(even["video"]) == {"a", "b"}
    assert chosen == choose_people(table, gain, np.ones(len(table)), 9)


def test_people_with_few_joints_or_without_truth_are_no_gain() -> None:
    table = people({"a": 3})
    gain = np.arange(len(table), dtype=float) + 1
    few = np.where(gain > 20, 0.2, 0.9)
    assert [gain[row] for row, why in choose_people(table, gain, few, 6).items() if why == GAIN] == [20, 19]
    unknown = choose_people(table, np.full(len(table), np.nan), np.zeros(len(table)), 6)
    assert set(unknown.values()) == {EVEN} and len(unknown) == 6


def test_more_people_than_there_are_and_more_videos_than_people() -> None:
    table = people({"a": 1, "b": 1}, each=2)
    assert set(choose_people(table, np.zeros(4), np.ones(4), 50)) == {0, 1, 2, 3}
    many = people({f"v{number}": 1 for number in range(40)})
    chosen = choose_people(many, np.full(len(many), np.nan), np.ones(len(many)), 4)
    videos = many["video"].iloc[list(chosen)].tolist()
    assert len(set(videos)) == 4 and videos[0] == "v0" and videos[-1] == "v39"


# --------------------------------------------------------------------------------------------------------------- truth
def annotated(*found: tuple[int, list[float]]) -> Any:
    entries = [
        (frame, 0, np.array(box, float), np.full((15, 3), number + 1.0)) for number, (frame, box) in enumerate(found)
    ]
    return assemble(POSETRACK, ["0", "1"], ["0", "1"], [True, True], entries)


def test_detections_are_of_the_annotated_person_that_they_overlap() -> None:
    notes = annotated((0, [0, 0, 10, 20]), (0, [8, 0, 18, 20]), (1, [0, 0, 10, 20]))
    frames = np.array([0, 0, 0, 1, 1])
    boxes = np.array([[7, 0, 18, 20], [1, 0, 10, 20], [0, 0, 11, 20], [50, 50, 60, 70], [0, 0, 10, 5]], float)
    matched = match_annotations(frames, boxes, notes, (100, 100))
    np.testing.assert_array_equal(matched[:1], [1])
    assert sorted(matched[1:3]) == [-1, 0]  # one to one: the nearer has it
    np.testing.assert_array_equal(matched[3:], [-1, -1])  # nobody there; and too little of the person
    found = truth_of(frames, boxes, notes, (100, 100), 15)
    assert found.keypoints[0, 0].tolist() == [2, 2, 2] and not found.keypoints[3:].any()


def test_boxes_that_leave_the_frame_are_compared_as_proposals_have_them() -> None:
    notes = annotated((0, [-60, 0, 40, 50]))
    assert match_annotations(np.array([0]), np.array([[0, 0, 40, 50.0]]), notes, (100, 100)).tolist() == [0]


def test_errors_are_of_annotated_joints_alone() -> None:
    keypoints = np.array([[[0, 0, 2], [10, 0, 1], [99, 99, 0]], [[5, 5, 2], [0, 0, 0], [0, 0, 0]]], float)
    truth = Truth(keypoints, ("", ""))
    poses = np.array([[[3, 4, 1], [10, 1, 1], [0, 0, 1]], [[5, 5, 1], [0, 0, 1], [0, 0, 1]]], float)
    np.testing.assert_allclose(truth.errors(poses), [[5, 1, np.nan], [0, np.nan, np.nan]])
    np.testing.assert_allclose(truth.mean_errors(poses), [0.3, np.nan])  # a single joint has no size
    nobody = truth_of(np.array([0]), np.zeros((1, 4)), None, (10, 10), 3)
    assert nobody.keypoints.shape == (1, 3, 3) and np.isnan(nobody.mean_errors(poses[:1])).all()


# ----------------------------------------------------------------------------------------------------------- embeddings
def test_the_plane_is_that_of_the_largest_variance() -> None:
    generator = np.random.default_rng(0)
    along = generator.normal(size=(50, 2)) * [9, 3]
    axes = np.linalg.qr(generator.normal(size=(6, 2)))[0].T
    embeddings = along @ axes + 4 + generator.normal(size=(50, 6)) * 0.01
    places, shares = principal_plane(embeddings)
    centred = along - along.mean(0)
    gram = places @ places.T
    np.testing.assert_allclose(gram, centred @ centred.T, atol=0.5)
    assert shares.sum() == pytest.approx(1, abs=1e-4) and shares[0] > shares[1]
    np.testing.assert_allclose(principal_plane(embeddings)[0], places)
    single, _ = principal_plane(np.ones((1, 6)))
    np.testing.assert_array_equal(single, [[0, 0]])


def test_a_sample_keeps_who_is_needed() -> None:
    assert sample_rows(5, 10, []).tolist() == [0, 1, 2, 3, 4]
    rows = sample_rows(1000, 10, [3, 778])
    assert {0, 3, 778, 999} <= set(rows.tolist()) and len(rows) == 12


# ------------------------------------------------------------------------------------------------------------- readings
@pytest.mark.parametrize(
    "weights, same, words",
    [
        ([0.93, 0.05, 0.02], [True, False, False], "Most of the non-local weight (93 %) is on one reference; 1 of 3"),
        ([0.97, 0.03], [True, True], "Nearly all of the non-local weight (97 %) is on one reference; all are the same"),
        ([1.0, 0.0], [False, False], "All of the non-local weight is on one reference; none is the same"),
        ([0.26, 0.25, 0.25, 0.24], [None] * 4, "The non-local weight is spread almost evenly over 4 references."),
        ([0.45, 0.45, 0.06, 0.04], [None] * 4, "2 of 4 references share nine tenths"),
        ([1.0], [False], "There is one reference; it is not the same person"),
        ([], [], "There are no references: nobody else was in the pool"),
        ([0.65, 0.35], [None] * 2, "Most of the non-local weight (65 %) is on one reference."),
        ([1.0, 1.0], [None] * 2, "The non-local weight is spread almost evenly over 2 references."),
    ],
)
def test_words_on_weights(weights: list[float], same: list[bool | None], words: str) -> None:
    assert readings.of_weights(np.array(weights), 4, same).startswith(words)


def test_words_on_errors_and_sources() -> None:
    labels, joints = {"all": "GLPose", "one": "single"}, ["right_wrist", "nose"]
    errors = {"all": np.array([2.0, 3.0]), "one": np.array([31.0, 3.0])}
    text = readings.of_errors(errors, labels, joints, size=50)
    assert text == (
        "GLPose: joints are off by 2.5 px (5 % of the person's size); single: 17.0 px, so it is better. "
        "Most changed: right wrist, 31.0 to 2.0 px."
    )
    assert "worse" in readings.of_errors({"one": errors["one"], "all": errors["all"]}, labels, joints, 50)
    nothing = readings.of_errors({"all": errors["all"], "one": errors["all"]}, labels, joints, 50)
    assert "the same" in nothing and "Most changed" not in nothing
    unknown = np.full(2, np.nan)
    assert "not annotated" in readings.of_errors({"all": unknown, "one": unknown}, labels, joints, float("nan"))
    text = readings.of_sources({"without local frames": 9.0, "without references": 4.01}, 4.0)
    assert text == "Without local frames it is worse (9.0 px); without references almost nothing changes (4.0 px)."


def test_words_on_masks() -> None:
    mask = np.array([[0.2, 0.4], [0.6, 0.8]])
    assert readings.of_mask(mask, np.array([0.6, np.nan, 0.8]), ["a", "b", "left_wrist"]).endswith(
        "0.50 on average; of the joints, left wrist takes most from the aggregate (0.80)."
    )
    assert readings.of_mask(mask, np.array([np.nan]), ["a"]).endswith("0.50 on average.")


def test_words_on_heads_and_controls() -> None:
    index = IndexOptions()
    assert "a pool of 20 people of the video more than 4 frames away" in readings.about_references(HeadOptions(), index)
    for select in ("least_similar", "random", "oracle", "other_video"):
        chosen = index.model_copy(update={"select": select})
        assert "a control" in readings.about_references(HeadOptions(), chosen)
    wide = index.model_copy(update={"scope": "dataset", "pool": "all", "causal": True})
    assert "Of all people of all videos of the split more than 4 frames before" in readings.about_references(
        HeadOptions(), wide
    )
    copies = HeadOptions(inputs="key_copies")
    assert "do not see them" in readings.about_references(copies, index) and "control" in readings.about_local(copies)
    plain = HeadOptions(weighted=False)
    assert "every reference weighs 1" in readings.about_references(plain, index)
    assert "every frame weighs 1" in readings.about_local(plain)
    assert "frames before." in readings.about_local(HeadOptions(causal=True))
    for heads, warped in (
        (HeadOptions(align="pose"), True),
        (HeadOptions(), False),
        (HeadOptions(align="pose", inputs="key_copies"), False),
    ):
        for text in (readings.about_local(heads), readings.about_references(heads, index)):
            assert ("warped onto the key frame's pose" in text) == warped
    assert "no enhancement" in readings.about_outcomes(HeadOptions(enhancement=False), flip=False)
    assert "mean" in readings.about_outcomes(HeadOptions(mask="channel"), flip=False)
    assert "flip test" in readings.about_outcomes(HeadOptions(), flip=True)
    assert "no references" in readings.about_references(HeadOptions(n=0), index)
    assert "no local frames" in readings.about_local(HeadOptions(k=0))


# ------------------------------------------------------------------------------------------------------------- the page
def test_the_page_holds_what_was_computed(project: Path, inspected: Inspected) -> None:
    page = page_data(inspected, POSETRACK, pictures_of(project, inspected), ABOUT)
    rows = list(inspected.chosen)
    assert [person["row"] for person in page["people"]] == rows
    assert list(page["sources"]) == [*inspected.glpose.poses, "single_frame"] and page["baseline"] == "single_frame"
    for place, (row, person) in enumerate(zip(rows, page["people"], strict=True)):
        there = inspected.references.rows[row] >= 0
        assert [own["row"] for own in person["references"]] == inspected.references.rows[row, there].tolist()
        weights = [own["weight"] for own in person["references"]]
        np.testing.assert_allclose(weights, inspected.glpose.nonlocal_weight[place, there], rtol=1e-3)
        assert [own["offset"] for own in person["local"]] == [-1, 1]
        assert {own["picture"] for own in person["local"]} | {str(row)} <= set(page["pictures"])
        assert {str(own["row"]) for own in person["references"]} <= set(page["pictures"])
        (x, y, peak), region = person["poses"]["all"][0], inspected.regions[row]
        expected = inspected.glpose.poses[ALL][place, 0]
        aspect = page["grid"][0] / page["grid"][1]
        assert (x - 0.5) * region[2] + region[0] == pytest.approx(expected[0], abs=0.02)
        assert (y - 0.5) * region[2] * aspect + region[1] == pytest.approx(expected[1], abs=0.02)
        assert peak == pytest.approx(expected[2], abs=1e-3)
        sheet, (height, width) = decoded(person["sheet"])[..., 0] / 255, page["grid"]
        tile = sheet[height : 2 * height, 3 * width : 4 * width] * person["top"]  # second source, fourth joint
        expected = np.clip(inspected.glpose.heatmaps[NO_LOCAL][place, 3], 0, None)
        np.testing.assert_allclose(tile, expected, atol=0.6 * person["top"] / 255)
        low, high, _ = person["mask"]
        assert inspected.glpose.mask is not None
        mask = low + sheet[5 * height :, :width] * (high - low)
        np.testing.assert_allclose(mask, inspected.glpose.mask[place], atol=0.002)
    points = page["points"]
    assert points["of"] == len(inspected.table) and points["row"] == list(range(len(inspected.table)))
    assert points["action"] == list(inspected.truth.action) and all(points["action"])  # rendered clips say


def test_crops_are_those_of_the_frames(project: Path, inspected: Inspected) -> None:
    own, row = context(project), next(iter(inspected.chosen))
    pictures = pictures_of(project, inspected)
    frames = dict(open_video(own.video(str(inspected.table["video"].iloc[row]))).frames.read(range(6)))
    person = page_data(inspected, POSETRACK, pictures, ABOUT)["people"][0]
    for local in person["local"]:
        cx, cy, width = inspected.regions[row]
        region = np.array([[cx - width / 2, cy - width * 2 / 3]])
        frame = frames[local["frame"]].astype(float)
        shown = decoded(pictures[local["picture"]]).astype(float)
        y, x = np.mgrid[8 : shown.shape[0] - 8 : 8, 8 : shown.shape[1] - 8 : 8]
        fx, fy = region[0, 0] + x * width / shown.shape[1], region[0, 1] + y * width / shown.shape[1]
        inside = (fx > 1) & (fy > 1) & (fx < frame.shape[1] - 2) & (fy < frame.shape[0] - 2)
        theirs = frame[fy[inside].round().astype(int), fx[inside].round().astype(int)]
        assert np.abs(shown[y[inside], x[inside]] - theirs).mean() < 14  # pictures are compressed


def test_the_page_stays_below_its_limit(project: Path, inspected: Inspected) -> None:
    pictures = pictures_of(project, inspected)
    whole = len(json.dumps(page_data(inspected, POSETRACK, pictures, ABOUT)))
    most = whole * 6 // 10
    fewer = page_data(inspected, POSETRACK, pictures, ABOUT, most)
    assert 0 < len(fewer["people"]) < len(inspected.chosen)
    assert len(json.dumps(fewer, separators=(",", ":"))) <= most + 1000  # names of joints and the like aside
    shown = {name for p in fewer["people"] for name in [str(p["row"]), *(own["picture"] for own in p["local"])]}
    assert shown <= set(fewer["pictures"])
    with pytest.raises(LeftOut, match="nobody fits"):
        page_data(inspected, POSETRACK, pictures, ABOUT, most=100)
    with pytest.raises(LeftOut, match="no pictures"):
        page_data(inspected, POSETRACK, {}, ABOUT)


def test_names_cannot_leave_the_data(project: Path, inspected: Inspected) -> None:
    name = '</script><img src=x onerror="alert(1)">&amp;<!--'
    pictures = pictures_of(project, inspected)
    table = inspected.table.assign(video=name)
    section = inspector(page_data(replace(inspected, table=table), POSETRACK, pictures, ABOUT), "<b>k</b>")
    assert "<img" not in section.html and "<b>" not in section.html and section.html.count("</script>") == 1
    assert page_of(section.html)["points"]["videos"] == [name]


def test_a_person_without_references(project: Path, inspected: Inspected) -> None:
    lonely = replace(
        inspected,
        references=References(
            np.full_like(inspected.references.rows, -1), inspected.references.similarity * 0 - np.inf
        ),
        glpose=replace(inspected.glpose, nonlocal_weight=inspected.glpose.nonlocal_weight * 0),
    )
    page = page_data(lonely, POSETRACK, pictures_of(project, lonely), ABOUT)
    assert all(person["references"] == [] for person in page["people"])
    assert page["people"][0]["readings"][0].startswith("There are no references")


# --------------------------------------------------------------------------------------------------- whole pipelines
@pytest.mark.parametrize(
    "settings, baseline",
    [
        (["index.select=oracle", "train.single_frame=false"], "key_alone"),
        (["index.exclude_window=100"], "single_frame"),  # nobody has references
        (["train.heads.k=0", "train.heads.n=0", "train.single_frame=false"], None),
        (["index.causal=true", "train.heads.causal=true", "train.heads.enhancement=false"], "single_frame"),
        (["train.heads.inputs=key_copies", "index.similarity=cosine"], "single_frame"),
        (["eval.k=0", "eval.n=1", "eval.decode=dark"], "single_frame"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_variants_of_the_pipeline(project: Path, tmp_path: Path, settings: list[str], baseline: str | None) -> None:
    folder = shutil.copytree(project.parent, tmp_path / "copy", symlinks=True)
    own = [f"work={folder / 'work'}", "eval.overlay=false", *settings]
    for verb in ("index", "train"):
        code, printed = glpose_stage(project, verb, *(part for s in own for part in ("--set", s)), "--force")
        assert code == 0, printed
    section = inspector_section(context(project, *own), people=4)
    page = page_of(section.html)
    assert len(page["people"]) == 4 and page["baseline"] == baseline
    person = page["people"][0]
    if "index.exclude_window=100" in settings:
        assert not person["references"]
    if baseline is None:
        assert list(page["sources"]) == ["all"] and not person["local"] and not person["references"]
        assert {p["why"] for p in page["people"]} == {EVEN}
    if "index.causal=true" in settings:
        assert [local["offset"] for local in person["local"]] == [-1] and person["mask"] is None
        assert "no enhancement" in page["about"]["outcomes"]
    if "eval.k=0" in settings:
        assert all("eval.k" in local["note"] for p in page["people"] for local in p["local"])
        assert list(page["sources"]) == ["all", "no_nonlocal", "single_frame"]
        used = [[r["used"] for r in p["references"]] for p in page["people"] if len(p["references"]) == 2]
        assert used and all(own == [True, False] for own in used)


def test_what_is_not_as_configured_is_left_out(project: Path) -> None:
    with pytest.raises(LeftOut, match=r"index is not finished as configured .*index.select: most_similar -> random"):
        inspector_section(context(project, "index.select=random"), people=4)
    with pytest.raises(LeftOut, match=r"train is not finished as configured"):
        inspector_section(context(project, "train.epochs=2"), people=4)


def test_the_same_section_is_made_twice(project: Path) -> None:
    one, other = (inspector_section(context(project), people=4) for _ in range(2))
    assert one == other


def test_nobody_is_asked_for(project: Path) -> None:
    with pytest.raises(LeftOut, match="--people 0"):
        inspector_section(context(project), people=0)


def test_the_command_counts_people(project: Path, tmp_path: Path) -> None:
    for people, words in ((3, "Retrieval inspector"), (0, "left out: Retrieval inspector: nobody is asked for")):
        out = tmp_path / f"{people}.html"
        code, printed = glpose_stage(project, "report", "--out", str(out), "--people", str(people))
        assert code == 0 and words in printed, printed
    html = (tmp_path / "3.html").read_text()
    assert len(page_of(html)["people"]) == 3 and "inspector-data" not in (tmp_path / "0.html").read_text()
    assert joint_set(context(project).config.data) == POSETRACK
