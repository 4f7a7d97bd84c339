"""Evidence: AP and recall of drawn clips, intervals, and the command on small clips."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from small_pipelines import RENDERED, context, glpose_stage, write_pipeline

from glpose import evidence as evidence_rows
from glpose.data.dataset import open_video
from glpose.evidence import COMPARISONS, ROWS, TIERS, TRENDS, Tier
from glpose.metrics.posetrack import Samples, precision_recall
from glpose.metrics.resampling import Measured, detectable, draw, interval, over_draws, slopes
from glpose.models.checkpoints import read_metadata
from glpose.options import HeadOptions, IndexOptions, index_problem
from glpose.references import References
from glpose.row_names import choose_names
from stages import evidence as evidence_stage
from stages import evidence_report
from stages.evidence import read_measured, row_references
from stages.evidence_report import MARK, evidence
from stages.run import STAGES, run_stages
from stages.train import load_split
from store.errors import ConfigError, RecordMismatch, StoreError
from store.tables import BOX

JOINTS = 15


def measured(seed: int, clips: int = 5) -> Measured:
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(clips):
        count = int(rng.integers(20, 60))
        scores = rng.permutation(1000)[:count] / 1000 + seed * 1e-6  # no ties: their order is poseval's own business
        samples.append(
            Samples(rng.integers(0, JOINTS, count), scores, rng.random(count) < 0.6, rng.integers(4, 9, JOINTS), 4)
        )
    return Measured(tuple(samples), rng.integers(0, 10, clips), rng.integers(10, 20, clips))


def pooled_ap(own: Measured, times: np.ndarray) -> float:
    """By PoseTrack's own function, of clips that really stand as often as they count."""
    chosen = [sample for sample, count in zip(own.samples, times.tolist(), strict=True) for _ in range(count)]
    joint, score, correct = (np.concatenate([getattr(s, n) for s in chosen]) for n in ("joint", "score", "correct"))
    n_gt = np.sum([s.n_gt for s in chosen], axis=0)
    found = [precision_recall(score[joint == j], correct[joint == j], int(n_gt[j]))[0] for j in range(JOINTS)]
    return float(np.mean(found))


@pytest.mark.parametrize("times", [[1, 1, 1, 1, 1], [3, 0, 1, 0, 1], [0, 0, 5, 0, 0], [2, 2, 0, 1, 0]])
def test_ap_of_drawn_clips_is_posetracks(times: list[int]) -> None:
    own = measured(1)
    assert own.ap(np.array(times)) == pytest.approx(pooled_ap(own, np.array(times)), abs=1e-9)


def test_recall_counts_clips_as_often_as_they_are_drawn() -> None:
    own = replace(measured(2, clips=2), right=np.array([1, 8]), joints=np.array([10, 10]))
    assert own.recall(np.array([1, 1])) == 45
    assert own.recall(np.array([2, 0])) == 10
    assert np.isnan(replace(own, joints=np.array([0, 0])).recall(np.array([1, 1])))


def test_nothing_annotated_has_no_ap() -> None:
    own = measured(3, clips=1)
    nobody = replace(own, samples=(replace(own.samples[0], n_gt=np.zeros(JOINTS, np.int64)),))
    assert np.isnan(nobody.ap(np.array([1])))


def test_draws_hold_as_many_as_there_are_and_begin_with_everything() -> None:
    draws = draw(7, 3, 50, seed=1)
    assert draws.clips.shape == (51, 7) and draws.trainings.shape == (51, 3)
    assert (draws.clips.sum(axis=1) == 7).all() and (draws.trainings.sum(axis=1) == 3).all()
    assert (draws.clips[0] == 1).all() and (draws.trainings[0] == 1).all() and (draws.clips[1:] != 1).any()
    assert (draw(7, 3, 50, seed=1).clips == draws.clips).all() and (draw(7, 3, 50, seed=2).clips != draws.clips).any()


def test_a_rows_figure_is_the_mean_over_its_trainings() -> None:
    first, second = measured(4), measured(5)
    draws = draw(5, 2, 20, seed=0)
    values = over_draws([first, second], "ap", draws)
    assert values[0] == pytest.approx((first.ap(np.ones(5, int)) + second.ap(np.ones(5, int))) / 2)
    for number in (3, 11):
        own = [measured_of.ap(draws.clips[number]) for measured_of in (first, second)]
        assert values[number] == pytest.approx(np.average(own, weights=draws.trainings[number]))


def test_interval_and_smallest_effect() -> None:
    values = np.concatenate([[100.0], np.random.default_rng(0).normal(2, 0.5, 4000)])
    low, high = interval(values)  # of the draws, not of the estimate before them
    assert low == pytest.approx(2 - 1.96 * 0.5, abs=0.06) and high == pytest.approx(2 + 1.96 * 0.5, abs=0.06)
    assert detectable(values) == pytest.approx(1.4, abs=0.06)


def test_interval_of_a_difference_that_is_there_leaves_zero_out_and_of_none_holds_it() -> None:
    """Paired draws: what clips have in common cancels."""
    draws = draw(40, 1, 300, seed=3)
    rng = np.random.default_rng(1)
    hard = rng.uniform(0.1, 0.9, 40)  # clips differ far more than rows do

    def row(gain: float, seed: int) -> Measured:
        noise = np.random.default_rng(seed).normal(0, 0.01, 40)
        return replace(measured(0, 40), right=np.round(500 * (hard + gain + noise)), joints=np.full(40, 500))

    base = over_draws([row(0.0, 1)], "occluded_pck", draws)
    low, high = interval(over_draws([row(0.03, 2)], "occluded_pck", draws) - base)
    assert 0 < low < 3 < high < 4
    low, high = interval(over_draws([row(0.0, 3)], "occluded_pck", draws) - base)
    assert low < 0 < high
    assert interval(base)[1] - interval(base)[0] > 8  # alone a row's figure is far less certain


def test_slope_is_that_of_a_line() -> None:
    at = (0, 1, 2, 4)
    rows = [np.array([1.0, 5.0]) + x * np.array([0.5, -2.0]) for x in at]
    assert slopes(rows, at) == pytest.approx([0.5, -2.0])


def test_rows_comparisons_and_trends_fit_together() -> None:
    heads, index = HeadOptions(), IndexOptions()
    for row in ROWS.values():
        own = row.head_options(heads)
        assert own.k <= 4 and own.n <= 6
        assert index_problem(own, row.index_options(index)) is None, row.name
    for comparison in COMPARISONS:
        a, b = ROWS[comparison.a], ROWS[comparison.b]
        assert (a.heads, a.index, a.single) != (b.heads, b.index, b.single)
    for option, members in TRENDS.items():
        assert [getattr(ROWS[name].head_options(heads), option) for name, _ in members] == [at for _, at in members]
    assert TIERS["full"].rows == tuple(ROWS) and set(TIERS["small"].rows) <= set(ROWS) and TIERS["full"].trainings >= 3
    folders = {(tier.train_clips, tier.ending) for tier in TIERS.values()}  # of other clips, other folders
    assert len(folders) == len({clips for clips, _ in folders}) == len({ending for _, ending in folders}) == 2
    assert set(TIERS["large"].rows) <= set(ROWS)
    pairs = {(comparison.a, comparison.b) for comparison in COMPARISONS}
    assert ("glpose", "copies") in pairs and len(TIERS["small"].rows) == 6 and TIERS["small"].trainings == 1


def test_rows_are_chosen_by_pattern() -> None:
    chosen = choose_names(list(ROWS), "k=*, single", "the evidence", "--rows")
    assert chosen == ["single", "k=1", "k=2", "k=3"]
    with pytest.raises(ConfigError, match="the evidence has no row 'k=9'"):
        choose_names(list(ROWS), "single,k=9", "the evidence", "--rows")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    heads = {"k": 1, "n": 2, "blocks": 1}
    return write_pipeline(
        tmp_path_factory.mktemp("evidence"), data=dict(RENDERED), index={"n": 2, "exclude_window": 1},
        train={"epochs": 1, "batch_size": 4, "milestones": [], "heads": heads},
        pretrain={"width": 8, "crop_size": [64, 48], "frames": 8, "steps": 1},
    )  # fmt: skip


def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("TEST_CLIPS", 2), ("DRAWS", 30)):
        monkeypatch.setattr(evidence_report, name, size)
    for name, size in (("EVERY_K", 1), ("EVERY_N", 2)):
        monkeypatch.setattr(evidence_stage, name, size)


def test_the_command_trains_rows_and_writes_tables(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ("single", "copies", "local", "glpose", "oracle")
    monkeypatch.setitem(evidence_report.TIERS, "tiny", Tier(2, rows, train_clips=2))
    small_sizes(monkeypatch)
    own = context(config).config
    printed = io.StringIO()
    out = tmp_path / "docs"
    out.mkdir()
    (out / "evidence.md").write_text(f"# What was found\n\nNothing yet.\n\n{MARK}\nold tables\n")
    path = evidence(own, "tiny", out, Console(file=printed, width=200))
    text = path.read_text()
    assert text.startswith("# What was found\n\nNothing yet.\n") and "old tables" not in text
    content = json.loads((out / "evidence.json").read_text())
    assert content["boxes"] == "annotations" and f"boxes: {content['boxes']};" in text
    assert content["tier"] == "tiny" and all(f"`{digest}`" in text for digest in content["labels"].values())
    assert [row["name"] for row in content["rows"]] == list(rows)
    for row in content["rows"]:
        assert row["seeds"] == 2
        for name, ci in (("ap", "ap_ci"), ("occluded_pck", "occluded_ci")):
            assert 0 <= row[ci][0] <= row[ci][1] <= 100 and 0 <= row[name] <= 100
            assert f"{row[name]:.1f}" in text
    by_name = {row["name"]: row for row in content["rows"]}
    contrasts = {(own["a"], own["b"], own["metric"]): own for own in content["contrasts"]}
    for metric in ("ap", "occluded_pck"):
        shown = contrasts["glpose", "copies", metric]
        assert shown["diff"] == pytest.approx(by_name["glpose"][metric] - by_name["copies"][metric])
        assert shown["ci"][0] <= shown["ci"][1]
    assert ("glpose", "random", "ap") not in contrasts  # that row was not asked for
    # what AP says of the whole split is what the rows' own units said
    unit = context(config, f"work={own.work}-0").output("evidence", "glpose")
    clips, found = read_measured(unit)
    assert len(clips) == 2 and found.ap(np.ones(2, int)) <= 100
    # references nearest in pose make another row than those most similar
    losses = [
        context(config, f"work={own.work}-0").commit("evidence", row).meta["loss"] for row in ("oracle", "glpose")
    ]
    assert losses[0] != losses[1]
    line = next(line for line in printed.getvalue().splitlines() if "glpose: AP" in line)
    assert f"AP {found.ap(np.ones(2, int)):.2f}" in line
    assert not own.work.exists()  # the pipeline's own folder stays free for its other commands
    assert read_metadata(f"{own.work}-1.safetensors")["recipe"].count('"seed":1')  # the second has its own backbone
    # nothing is trained twice
    again = io.StringIO()
    evidence(own, "tiny", out, Console(file=again, width=200))
    assert "evidence 5 done, 0 to do" in again.getvalue() and (out / "evidence.md").read_text() == text
    # only the first training
    path = evidence(own, "tiny", tmp_path, Console(quiet=True), trainings=1)
    once = json.loads(path.with_suffix(".json").read_text())
    assert [row["seeds"] for row in once["rows"]] == [1] * 5 and "one training a row" in path.read_text()
    # what was made otherwise is made again where that is asked for; backbones are not overwritten
    other = own.model_copy(update={"train": own.train.model_copy(update={"lr": 0.002})})
    with pytest.raises(RecordMismatch, match=r"train\.lr"):
        evidence(other, "tiny", out, Console(quiet=True), rows="single")
    remade = io.StringIO()
    evidence(other, "tiny", tmp_path, Console(file=remade, width=200), rows="single", force=True)
    assert remade.getvalue().count("single: AP") == 2
    other = own.model_copy(update={"pretrain": own.pretrain.model_copy(update={"lr": 0.002})})
    with pytest.raises(StoreError, match=r"-1\.safetensors was trained with other options"):
        evidence(other, "tiny", tmp_path, Console(quiet=True), rows="single", force=True)


@pytest.mark.parametrize(
    ("rows", "setting", "words"),
    [
        ("random", "index.n=3", "row 'random' of the evidence: index.select random chooses index.n = 3 references"),
        ("per_channel", "index.similarity=cosine", "row 'per_channel' of the evidence: per_channel weighs by inner"),
        ("k=3", "extract.k=2", "row 'k=3' of the evidence needs extract.k >= 3, it is 2"),
        ("glpose", "train.heads.n=1", "k = 1 and n = 2 where they do not say otherwise"),
        ("glpose", "eval.decode=dark", "trained and scored without eval.decode: leave"),
        ("glpose", "train.augment=warp", "trained and scored without train.augment: leave"),
    ],
)
def test_rows_that_would_not_be_what_they_say_are_refused(
    config: Path, tmp_path: Path, rows: str, setting: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_sizes(monkeypatch)
    own = context(config, setting, f"work={tmp_path / 'work'}").config
    with pytest.raises(ConfigError, match=re.escape(words)):
        evidence(own, "full", tmp_path, Console(quiet=True), rows=rows)
    assert not list(tmp_path.iterdir())  # told before anything is made


def test_wrong_tiers_pipelines_and_files_are_told(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_sizes(monkeypatch)
    own = context(config).config
    with pytest.raises(ConfigError, match="no tier 'huge'; there are small, full, large"):
        evidence(own, "huge", tmp_path, Console(quiet=True))
    other = context(write_pipeline(tmp_path / "other")).config
    with pytest.raises(ConfigError, match="rendered clips"):
        evidence(other, "small", tmp_path, Console(quiet=True))
    monkeypatch.setitem(evidence_rows.TIERS, "tiny", Tier(1, ("single",)))
    (tmp_path / "evidence.md").write_text("# Mine\n")
    with pytest.raises(StoreError, match="has no line"):
        evidence(own.model_copy(update={"work": tmp_path / "work"}), "tiny", tmp_path, Console(quiet=True))
    assert not (tmp_path / "work").exists()  # told before anything is made
    with pytest.raises(ConfigError, match=r"the evidence has no row 'k=9' .*; did you mean 'k="):
        evidence(own, "tiny", tmp_path / "new", Console(quiet=True), rows="single,k=9")
    code, printed = glpose_stage(config, "evidence", "--tier", "none")
    assert code == 2 and "no tier 'none'" in printed


def test_the_oracle_goes_by_the_people_that_detected_boxes_are_of(tmp_path: Path) -> None:
    """The same references as of annotated boxes; a box of nobody keeps those that the index has stored."""
    config = write_pipeline(tmp_path, data=dict(RENDERED), index={"n": 2, "pool": "all", "exclude_window": 1})

    def oracle(*settings: str) -> tuple[pd.DataFrame, References, References]:
        own = context(config, *settings)
        run_stages([STAGES[name] for name in ("render", "detect", "extract", "index")], own, Console(quiet=True))
        split = load_split(own, "eval", k=1, n=2)
        index = ROWS["oracle"].index_options(own.config.index)
        found = row_references(own, split.features, index, split.references, None)
        return split.features.table, found, split.references

    def of_people(table: pd.DataFrame, found: References) -> list[list[tuple[int, ...]]]:
        """Frame and box of the references of everybody, people in order of frame and box."""
        places = table[["frame", *BOX]].to_numpy().round().astype(int)
        people = [row for row in np.lexsort(places.T[::-1]) if table["score"].iloc[row] == 1]
        return [[tuple(places[own]) for own in found.rows[row] if own >= 0] for row in people]

    annotated, wanted, _ = oracle()
    image_keys = open_video(context(config).video(annotated["video"].iloc[0])).image_keys
    nobody = annotated.drop_duplicates("frame").assign(x1=0.0, y1=0.0, x2=9.0, y2=4.0, score=0.5)
    given = pd.concat([annotated, nobody])
    results = [
        {"image_id": image_keys(frame)[0], "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for frame, (x1, y1, x2, y2), score in zip(given["frame"], given[BOX].to_numpy(), given["score"], strict=True)
    ]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(results))
    detected, found, stored = oracle(f"detect.eval={{source: file, file: {boxes}}}", f"work={tmp_path / 'detected'}")
    nobodys = detected["score"].to_numpy() < 1
    assert nobodys.sum() == len(nobody) and of_people(detected, found) == of_people(annotated, wanted)
    assert (found.rows[nobodys] == stored.rows[nobodys]).all() and (found.rows[nobodys] >= 0).any()
    assert not (found.rows[~nobodys] == stored.rows[~nobodys]).all()
