"""ablate and tables, the commands, on tiny data: subsets, going on, more seeds, failures, and what the tables hold."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from jhmdb_builders import figure_mask, figure_positions, write_clip, write_splits
from small_pipelines import (
    RENDERED,
    STAGE_OPTIONS,
    attempts,
    commit_digests,
    context,
    glpose_stage,
    snapshot,
    write_backbone,
    write_dataset,
    write_pipeline,
)

from glpose.tables.figures import figures
from glpose.training_log import Progress
from stages import ablate
from stages.ablation import finished_scores
from stages.config import load_pipeline
from stages.curves import Curves
from stages.report import report_page
from stages.run import STAGES, expected_record
from stages.tables import with_other_splits
from stages.train import held_out_videos
from store.errors import ConfigError, TrainingError

VALUES = {"k": [0, 1], "n": [0, 1, 2]}  # as much as the tiny store holds
TRAININGS = ["complete", "k=0", "n=0", "n=1", "enhancement=no", "head=mlp", "head=5x5"]


def config(folder: Path) -> Path:
    return folder / "pipelines.yaml"


def write_project(folder: Path, **changes: dict[str, Any]) -> Path:
    """The pipeline's file, with an ablation of the values that its store holds."""
    return write_pipeline(folder, ablate=VALUES, **changes)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with features and references, whose heads nobody has trained."""
    folder = tmp_path_factory.mktemp("stored")
    write_dataset(folder / "data")
    path = write_project(folder)
    for verb in ("detect", "extract", "index"):
        code, printed = glpose_stage(path, verb)
        assert code == 0, printed
    return folder


@pytest.fixture
def project(stored: Path, tmp_path: Path) -> Path:
    """A copy of it, elsewhere."""
    folder = shutil.copytree(stored, tmp_path / "project", symlinks=True)
    write_project(folder)
    return folder


@pytest.fixture(scope="module")
def whole(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose ablation has run at one go, with two seeds; not to be changed."""
    folder = shutil.copytree(stored, tmp_path_factory.mktemp("whole") / "project", symlinks=True)
    code, printed = glpose_stage(write_project(folder), "ablate", "--seeds", "2")
    assert code == 0, printed
    return folder


def rows_of(folder: Path, name: str = "ablation") -> list[dict[str, str]]:
    with (folder / "work" / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_has_the_table_and_its_curves(whole: Path) -> None:
    text, titles, left_out = report_page(context(config(whole)))
    assert "Ablation" in titles and "Results" in left_out  # eval has not run
    section = text.partition('<section id="ablation"')[2].partition("</section>")[0]
    for name in ("k=0", "no enhancement", "5x5 head"):
        assert f">{name}</th>" in section
    shown = {f"{float(row['mean']):.1f} ± {float(row['mean_std']):.2f}" for row in rows_of(whole)}
    assert shown and all(f">{figures}</td>" in section for figures in shown)
    assert section.count('<svg xmlns="http://www.w3.org/2000/svg"') == 2  # k, n; no legend for one row
    assert "<title>ours, k=0: " in section and "glpose-stage ablate -p small" in text


# ------------------------------------------------------------------------------------------------------------ the table
def test_every_row_and_seed_is_a_unit_of_two_stages(whole: Path) -> None:
    digests = commit_digests(whole / "work")
    wanted = sorted(f"{training}@seed{seed}" for training in TRAININGS for seed in (0, 1))
    assert sorted(digests["ablate"]) == sorted(digests["ablate_eval"]) == wanted
    assert len(set(digests["ablate"].values())) == len(wanted)  # no two trainings are the same


def test_the_table_holds_means_and_spreads_of_the_scores(whole: Path) -> None:
    scores: dict[str, list[dict[str, float | None]]] = {}
    for unit, attempt in attempts(whole / "work", "ablate_eval").items():
        result = json.loads((whole / "work/ablate_eval/data" / unit / attempt / "scores.json").read_text())
        scores.setdefault(unit.partition("@")[0], []).append(figures(result))
    rows = rows_of(whole)
    assert [row["variant"] for row in rows] == [
        "complete", "k=0", "k=1", "n=0", "n=1", "n=2", "no enhancement", "MLP head", "3x3 head", "5x5 head",
    ]  # fmt: skip
    assert {row["variant"]: row["training"] for row in rows if row["row"] != row["training"]} == {
        "k=1": "complete", "n=2": "complete", "3x3 head": "complete",
    }  # fmt: skip
    for row in rows:
        ours = scores[row["training"]]
        for name in ("Head", "Ankle", "mean"):
            values = [value for seed in ours if (value := seed[name]) is not None]
            assert len(values) == 2
            assert float(row[name.lower()]) == pytest.approx(statistics.fmean(values))
            assert float(row[f"{name.lower()}_std"]) == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
        assert (row["seeds"], row["seed"], row["source"]) == ("2", "0, 1", "ours")
        assert (row["boxes"], row["joints"], row["videos"]) == ("annotations", "annotated", "1")


def test_heads_are_trained_as_their_row_says_with_the_seed_of_their_unit(whole: Path) -> None:
    """The unit `complete@seed0` is what `train` makes of the same pipeline; seeds give other weights."""
    path = config(whole)
    code, printed = glpose_stage(path, "train", "--set", f"work={whole / 'work'}")
    assert code == 0, printed
    work = whole / "work"
    files = {
        name: (work / stage / "latest" / name / "heads.safetensors").read_bytes()
        for stage, name in (("train", "glpose"), ("ablate", "complete@seed0"), ("ablate", "complete@seed1"))
    }
    assert files["glpose"] == files["complete@seed0"] != files["complete@seed1"]


def test_note_box_source_and_plot_are_there(project: Path) -> None:
    path = config(project)
    code, printed = glpose_stage(path, "ablate", "--rows", "k=*", "--set", "note=A note to print.")
    assert code == 0
    assert "Table 4, ablation: AP on the eval split, percent\n" in printed
    about = (
        "pipeline: small; boxes: annotations; joints: annotated; videos: 1; checkpoint: last epoch; augmentation: none"
    )
    assert f"\n{about}; options: extract.crop_size=[64, 48], " in printed and "\nA note to print.\n" in printed
    assert "train.batch_size=4, train.milestones=[]\n" in printed  # what differs from the defaults, and no more
    assert "ablation.csv, ablation.md, ablation.json, ablation.png in " in printed
    assert (project / "work/tables/ablation.png").read_bytes()[:4] == b"\x89PNG"
    assert "- A note to print." in (project / "work/tables/ablation.md").read_text()
    content = json.loads((project / "work/tables/ablation.json").read_text())
    assert content["boxes"] == "annotations" and len(content["rows"]) == 5  # complete, and what is the same


def test_the_best_epoch_is_of_held_out_training_videos_and_is_named(project: Path) -> None:
    best = ("--set", "train.validation=0.5", "--set", "eval.checkpoint=best", "--rows", "complete", "--seeds", "2")
    code, printed = glpose_stage(config(project), "ablate", *best)
    assert code == 0, printed
    assert "checkpoint: best epoch on held-out training videos; " in printed
    heads = [project / "work/ablate/latest" / f"complete@seed{seed}" / "best.safetensors" for seed in (0, 1)]
    assert heads[0].read_bytes() != heads[1].read_bytes()
    assert held_out_videos(["a", "b"], 0.5, 0) != held_out_videos(["a", "b"], 0.5, 1)
    code, printed = glpose_stage(config(project), "train", "--set", "train.validation=0.5", "--set", "train.seed=1")
    assert code == 0, printed
    own = project / "work/train/latest/glpose"
    assert {path.name: path.read_bytes() for path in own.iterdir()} == {
        path.name: path.read_bytes() for path in heads[1].parent.iterdir()
    }


def test_paper_figures_only_beside_posetrack17(whole: Path) -> None:
    assert {row["source"] for row in rows_of(whole)} == {"ours"}
    assert "paper" not in (whole / "work/tables/ablation.md").read_text()


# ------------------------------------------------------------------------------------------------------------- going on
def test_a_second_run_trains_nothing(whole: Path) -> None:
    before = {name: attempts(whole / "work", name) for name in ("ablate", "ablate_eval")}
    tables = {path.name: path.read_bytes() for path in (whole / "work/tables").iterdir()}
    code, printed = glpose_stage(config(whole), "ablate", "--seeds", "2")
    assert (code, printed.count("14 done, 0 to do")) == (0, 2)
    assert {name: attempts(whole / "work", name) for name in ("ablate", "ablate_eval")} == before
    assert {path.name: path.read_bytes() for path in (whole / "work/tables").iterdir()} == tables


def test_rows_and_seeds_may_come_one_after_the_other(project: Path, whole: Path) -> None:
    """What was made before stays, and everything is as if it had been asked for at once, in whatever groups."""
    path, work = config(project), project / "work"
    made: dict[str, str] = {}
    for arguments, count in (
        (["--rows", "n=1,head=5x5"], 2),
        (["--rows", "k=*", "--set", "runtime.together=1"], 4),
        (["--rows", "k=0", "--seeds", "2", "--set", "runtime.together=3"], 5),
        (["--set", "runtime.together=7"], 8),
        (["--seeds", "2"], 14),
    ):
        code, printed = glpose_stage(path, "ablate", *arguments)
        assert code == 0, printed
        now = attempts(work, "ablate")
        assert (len(now), now.items() >= made.items()) == (count, True)
        assert sorted(attempts(work, "ablate_eval")) == sorted(now)
        made = now
    assert rows_of(project) == rows_of(whole)
    ours, theirs = commit_digests(work), commit_digests(whole / "work")
    assert all(ours[name] == theirs[name] for name in ("ablate", "ablate_eval"))


def test_the_table_keeps_what_is_not_asked_for_now(project: Path) -> None:
    path = config(project)
    assert glpose_stage(path, "ablate", "--rows", "head=mlp", "--seeds", "2")[0] == 0
    assert glpose_stage(path, "ablate", "--rows", "k=0")[0] == 0
    assert [(row["variant"], row["seeds"]) for row in rows_of(project)] == [("k=0", "1"), ("MLP head", "2")]


def test_an_interrupted_ablation_goes_on(project: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, began = config(project), []
    train = ablate._train

    def interrupted(context: Any, run: ablate.Run, group: list[str]) -> Any:
        began.append(group)
        if len(began) == 4:
            raise KeyboardInterrupt
        return train(context, run, group)

    with monkeypatch.context() as patch:
        patch.setattr(ablate, "_train", interrupted)
        code, printed = glpose_stage(path, "ablate", "--seeds", "2", "--set", "runtime.together=3")
    assert (code, "the same command goes on from here" in printed) == (130, True)
    first, second = ([f"{name}@seed{seed}" for name in TRAININGS] for seed in (0, 1))
    assert began == [first[:3], first[3:6], first[6:], second[:3]]  # groups are of one seed, seed by seed
    assert sorted(attempts(project / "work", "ablate")) == sorted(first)
    assert glpose_stage(path, "ablate", "--seeds", "2")[0] == 0
    ours, theirs = commit_digests(project / "work"), commit_digests(whole / "work")
    assert all(ours[name] == theirs[name] for name in ("ablate", "ablate_eval"))


def test_an_interrupted_pass_goes_on_after_its_last_epoch(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--rows", "k=*", "--set", "train.epochs=3")
    other = shutil.copytree(project, tmp_path / "other", symlinks=True)
    assert glpose_stage(write_project(other), "ablate", *arguments)[0] == 0

    seen: list[int] = []
    add = Curves.add

    def interrupting(curves: Curves, progress: Progress) -> None:
        add(curves, progress)
        if progress.logs:
            seen.append(progress.epoch)
            if seen == [1, 2]:
                raise KeyboardInterrupt

    monkeypatch.setattr(Curves, "add", interrupting)
    assert glpose_stage(config(project), "ablate", *arguments)[0] == 130
    assert attempts(project / "work", "ablate") == {}
    assert glpose_stage(config(project), "ablate", *arguments)[0] == 0
    assert seen == [1, 2, 3]
    ours, theirs = commit_digests(project / "work"), commit_digests(other / "work")
    assert all(ours[name] == theirs[name] for name in ("ablate", "ablate_eval"))
    assert glpose_stage(config(project), "verify")[0] == 0


def test_a_row_that_fails_takes_no_other_along(project: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, train, began = config(project), ablate._train, []

    def failing(context: Any, run: ablate.Run, group: list[str]) -> Any:
        began.append(len(group))
        if "head=mlp@seed0" in group:
            raise TrainingError("the loss became nan")
        return train(context, run, group)

    with monkeypatch.context() as patch:
        patch.setattr(ablate, "_train", failing)
        code, printed = glpose_stage(path, "ablate")
    assert code == 1
    assert "error: ablate: 1 of 7 failed, the others are finished:\n  head=mlp@seed0: the loss became nan" in printed
    assert began == [7, *[1] * 7]  # all together, then each alone
    assert len(rows_of(project)) == 9  # all rows but that one are scored and printed
    assert glpose_stage(path, "ablate", "--seeds", "2")[0] == 0
    assert rows_of(project) == rows_of(whole)


def test_changed_options_are_refused_and_the_old_rows_kept(project: Path) -> None:
    path = config(project)
    assert glpose_stage(path, "ablate", "--rows", "k=0")[0] == 0
    before = snapshot(project)
    code, printed = glpose_stage(path, "ablate", "--rows", "k=0", "--set", "train.lr=0.01")
    assert (code, "\n  ablate.lr: 0.001 -> 0.01\n" in printed) == (1, True)
    code, printed = glpose_stage(path, "ablate", "--plan", "--rows", "k=0,n=0")
    assert (code, "ablate   1 done, 1 to do: n=0@seed0" in printed) == (0, True)
    assert snapshot(project) == before
    code, printed = glpose_stage(path, "ablate", "--rows", "n=0", "--set", "train.lr=0.01", "--force")
    assert code == 0, printed
    assert [row["variant"] for row in rows_of(project)] == ["n=0"]  # of one recipe alone
    assert glpose_stage(path, "ablate", "--rows", "n=0", "--force")[0] == 0
    assert [row["variant"] for row in rows_of(project)] == ["k=0", "n=0"]


def test_rows_and_seeds_are_no_part_of_the_record(project: Path) -> None:
    settings = ("ablate.rows=k=0", "ablate.seeds=5", "ablate.n=[1]", "train.seed=3", "runtime.together=2")
    one, other = context(config(project)).config, context(config(project), *settings).config
    for name in ("ablate", "ablate_eval"):
        assert expected_record(STAGES[name], one) == expected_record(STAGES[name], other)
    assert STAGES["ablate"].units(context(config(project), *settings), True) == [f"k=0@seed{s}" for s in range(3, 8)]


def test_rows_made_from_what_has_changed_are_left_out(project: Path) -> None:
    path = config(project)
    assert glpose_stage(path, "ablate", "--rows", "k=0,n=0,head=mlp")[0] == 0
    annotations = project / "data/annotations/val/c.json"
    content = json.loads(annotations.read_text())
    content["annotations"].pop()
    annotations.write_text(json.dumps(content))
    for verb in ("detect", "extract", "index"):
        assert glpose_stage(path, verb)[0] == 0
    code, printed = glpose_stage(path, "ablate", "--rows", "head=mlp")
    assert (code, "ablate 1 done, 0 to do" in printed, "ablate_eval 0 done, 1 to do (1 of" in printed) == (
        0,
        True,
        True,
    )
    assert [row["variant"] for row in rows_of(project)] == ["MLP head"]
    assert "2 trainings are left out: what they were made from has changed since; run them again" in printed
    assert finished_scores(context(path)).stale == 2


# ---------------------------------------------------------------------------------------------------------- wrong usage
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "k1"], "error: the ablation has no row 'k1' (--rows, ablate.rows); did you mean 'k=1'?"),
        (["--rows", "k=2", "--set", "ablate.k=[0, 1, 2]"], "row 'k=2' of the ablation needs extract.k >= 2, it is 1:"),
        (
            ["--set", "ablate.n=[1, 3]"],
            "row 'n=3' of the ablation needs index.n >= 3, it is 2: store more (index with ",
        ),
        (["--set", "ablate.k=[1, 1]"], "k [1, 1]: give different values, 0 or more"),
        (["--set", "eval.checkpoint=best"], "error: eval.checkpoint: best needs held-out videos to choose it on: "),
        (["--set", "eval.k=0"], "error: rows are scored with the k and n that they are trained with: leave eval.k"),
        (["--seeds", "0"], "ablate.seeds: should be greater than or equal to 1, not 0"),
        (["--set", "eval.submission=true", "--set", "data={kind: jhmdb, root: x}"], "eval.submission is for"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_made(project: Path, arguments: list[str], words: str) -> None:
    before = snapshot(project)
    for plan in ([], ["--plan"]):
        code, printed = glpose_stage(config(project), "ablate", *arguments, *plan)
        assert code == 2
        assert words in printed and len(printed.splitlines()) <= 2
    assert snapshot(project) == before


def test_rows_of_fewer_references_than_a_control_chooses_are_refused(project: Path) -> None:
    settings = ["index.select=random", "ablate.n=[0, 1, 2]"]
    words = r"row 'n=1' of the ablation: index.select random chooses index.n = 2 references, .* or choose other rows"
    with pytest.raises(ConfigError, match=words):
        ablate.asked_rows(context(config(project), *settings, "ablate.rows=n=0, n=1").config)
    rows = ablate.asked_rows(context(config(project), *settings, "ablate.rows=n=0, n=2").config)
    assert [row.heads.n for row in rows] == [0, 2]


def test_rows_within_the_store_run_whatever_others_need(project: Path) -> None:
    code, printed = glpose_stage(config(project), "ablate", "--rows", "k=1", "--set", "ablate.k=[0, 1, 2]")
    assert (code, [row["variant"] for row in rows_of(project)][:1]) == (0, ["complete"]), printed


def test_before_its_features_are_there(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    path = write_project(tmp_path)
    code, printed = glpose_stage(path, "ablate")
    assert (code, "ablate needs extract, which has not run: glpose-stage extract -p small" in printed) == (1, True)
    code, printed = glpose_stage(path, "tables")
    assert (code, "eval needs extract, which has not run" in printed) == (1, True)


# --------------------------------------------------------------------------------------------------------------- tables
def test_tables_of_rendered_data_hold_ours_alone(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, RENDERED, ablate=VALUES)
    code, printed = glpose_stage(path, "tables", "--run", "--set", "note=Only a demonstration.")
    assert code == 0, printed
    assert "AP on the eval split, percent\nmetric: AP; pipeline: small; boxes: annotations; joints: annot" in printed
    assert "\nOnly a demonstration.\n" in printed
    rows = rows_of(tmp_path, "results")
    assert [row["method"] for row in rows] == ["single frame (k=0, n=0), ours", "GLPose (k=1, n=2), ours"]
    scores = json.loads((tmp_path / "work/eval/latest/results/scores.json").read_text())
    for row, variant in zip(rows, ("single_frame", "glpose"), strict=True):
        assert float(row["mean"]) == scores[variant]["mean"]
        assert float(row["wrist"]) == scores[variant]["groups"]["Wrist"]
        assert (row["backbone"], row["additional_data"]) == ("HRNet-W8", "weights backbone.safetensors")
    costs = rows_of(tmp_path, "costs")
    assert [row["variant"] for row in costs] == ["GLPose (k=1, n=2)", "single frame (k=0, n=0)"]
    commits = json.loads(next((tmp_path / "work/train/commit").glob("*/glpose.json")).read_text())
    assert int(costs[0]["parameters"]) == commits["meta"]["parameters"]
    assert glpose_stage(path, "ablate", "--rows", "head=mlp,complete")[0] == 0
    code, printed = glpose_stage(path, "tables")
    assert code == 0 and [row["variant"] for row in rows_of(tmp_path, "costs")][2:] == ["MLP head"]


def test_tables_hold_every_row_of_eval(project: Path) -> None:
    path = config(project)
    assert glpose_stage(path, "run")[0] == 0
    heads = project / "work/train/latest/glpose/heads.safetensors"
    rows = ("--set", "eval.decode=dark", "--set", f"eval.heads={heads}")
    code, printed = glpose_stage(path, "eval", "--force", *rows)
    assert code == 0, printed
    code, printed = glpose_stage(path, "tables", *rows)
    assert code == 0, printed
    ours = {row["method"]: float(row["mean"]) for row in rows_of(project, "table2") if row["source"] == "ours"}
    scores = json.loads((project / "work/eval/latest/results/scores.json").read_text())
    assert ours == {
        f"{label}, ours": scores[name]["mean"]
        for name, label in {
            "single_frame_argmax": "single frame (k=0, n=0), argmax",
            "single_frame": "single frame (k=0, n=0), DARK",
            "glpose_argmax": "GLPose (k=1, n=2), argmax",
            "glpose": "GLPose (k=1, n=2), DARK",
            "given_heads": "given heads (k=1, n=2)",
        }.items()
    }
    assert "eval.decode=dark" in printed
    # the ablation's rows are decoded alike, and given heads are none of its business
    code, printed = glpose_stage(path, "ablate", "--rows", "complete", *rows)
    assert code == 0, printed
    assert float(rows_of(project)[0]["mean"]) == scores["glpose"]["mean"]
    code, printed = glpose_stage(path, "ablate", "--rows", "complete", "--set", "eval.decode=dark")
    assert (code, printed.count("1 done, 0 to do")) == (0, 2)


def test_tables_below_the_rivals_and_only_of_what_is_configured(project: Path) -> None:
    path = config(project)
    assert glpose_stage(path, "run", "--set", "eval.overlay=false")[0] == 0
    code, printed = glpose_stage(path, "tables", "--set", "eval.overlay=false")
    assert code == 0
    methods = [row["method"] for row in rows_of(project, "table2")]
    assert methods[-3:] == ["GLPose", "single frame (k=0, n=0), ours", "GLPose (k=1, n=2), ours"]
    assert "DCPose" in methods
    assert "ours is of 1 videos, what is published of the 170 of val" in printed
    assert "ours is on annotated boxes, which are worth about 7 mAP" in printed
    code, printed = glpose_stage(path, "tables")
    assert code == 1
    assert "error: eval of 'small' is not finished with these parameters (eval.overlay: False -> True): " in printed


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """Three pipelines on three splits of Sub-JHMDB's layout."""
    root, positions = tmp_path / "data", figure_positions()
    for clip in ("one", "two", "three"):
        write_clip(root, "catch", clip, positions, figure_mask(positions))
    for number in (1, 2, 3):
        lines = [f"{clip}.avi {2 if place == number else 1}" for place, clip in enumerate(("one", "two", "three"), 1)]
        write_splits(root, "catch", lines, number)
    first = {
        **STAGE_OPTIONS,
        "extract": {**STAGE_OPTIONS["extract"], "checkpoint": str(write_backbone(tmp_path / "backbone.safetensors"))},
        "work": str(tmp_path / "work"),
        "data": {"kind": "jhmdb", "root": str(root), "split": 1},
        "eval": {"overlay": False},
    }
    others = {
        f"split{n}": {"extends": "small", "work": str(tmp_path / f"work{n}"), "data": {"split": n}} for n in (2, 3)
    }
    other_recipe = {"extends": "small", "work": "elsewhere", "data": {"split": 2}, "train": {"lr": 0.5}}
    path = tmp_path / "pipelines.yaml"
    path.write_text(yaml.safe_dump({"pipelines": {"small": first, "another": other_recipe, **others}}))
    return path


def test_three_splits_are_run_and_averaged(splits: Path) -> None:
    code, printed = glpose_stage(splits, "tables", "--run")
    assert code == 0, printed
    rows = {row["method"]: row for row in rows_of(splits.parent, "table3")}
    assert "GLPose split 3" in rows and "K-FPN (ResNet-50)" in rows  # published
    works = ("work", "work2", "work3")
    scores = [json.loads((splits.parent / w / "eval/latest/results/scores.json").read_text()) for w in works]
    for label, variant in (("GLPose (k=1, n=2)", "glpose"), ("single frame (k=0, n=0)", "single_frame")):
        for number, found in enumerate(scores, 1):
            assert float(rows[f"{label}, ours, split {number}"]["mean"]) == found[variant]["mean"]
        mean = rows[f"{label}, ours, mean of 3 splits"]
        assert float(mean["mean"]) == pytest.approx(statistics.fmean(found[variant]["mean"] for found in scores))
        heads = [found[variant]["groups"]["Head"] for found in scores]
        assert float(mean["head"]) == pytest.approx(statistics.fmean(heads))
    assert "metric: PCK@0.2 of max(w, h) (annotation:mask); pipeline: small" in printed


def test_settings_are_not_for_pipelines_of_other_data(splits: Path) -> None:
    content = yaml.safe_load(splits.read_text())
    content["pipelines"]["drawn"] = {"work": "drawn", "data": {"kind": "rendered"}}
    splits.write_text(yaml.safe_dump(content))
    settings = ["data.splits=splits"]
    found = with_other_splits(splits, load_pipeline(splits, "small", settings), settings)
    assert [config.name for config in found] == ["small", "split2", "split3"]


def test_a_missing_split_is_named_and_nothing_averaged(splits: Path) -> None:
    assert glpose_stage(splits, "run")[0] == 0
    code, printed = glpose_stage(splits, "tables")
    assert code == 0, printed
    ours = [row["method"] for row in rows_of(splits.parent, "table3") if row["source"] == "ours"]
    assert ours == ["single frame (k=0, n=0), ours, split 1", "GLPose (k=1, n=2), ours, split 1"]
    assert "split2 is missing: " in printed and "split3 is missing: " in printed
    assert "a mean needs all 3 splits, each with a pipeline and a work folder" in printed
    assert "another is missing" not in printed  # it is of another recipe
