"""Baselines, controls and causal mode through the pipeline: what is stored, what heads see, what the table says."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_pipelines import context, glpose_stage, write_dataset, write_pipeline
from torch import Tensor
from training_problem import HEADS as TRAINED_HEADS
from training_problem import INDEX, JOINT_SET, drawn, held, nobody, options, problem, same, trained

import store
from glpose.evaluation import with_fewer
from glpose.examples import make_examples
from glpose.keypoints import JHMDB, POSETRACK
from glpose.models.checkpoints import read_metadata, read_state_dict, save_checkpoint
from glpose.models.glpose import GLPoseHeads
from glpose.options import HeadOptions
from glpose.retrieval import find_references, make_gallery
from glpose.training import train_heads


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two videos in each split whose features are there; nothing after them."""
    folder = tmp_path_factory.mktemp("extracted")
    write_dataset(folder / "data", ["a", "b"], ["c", "e"])
    config = write_pipeline(folder, train={"epochs": 1, "batch_size": 4, "milestones": []} | HEADS)
    for stage in ("detect", "extract"):
        code, printed = glpose_stage(config, stage)
        assert code == 0, printed
    return folder


HEADS: dict[str, Any] = {"heads": {"k": 1, "n": 2, "blocks": 1}, "single_frame": False}


@pytest.fixture
def project(extracted: Path, tmp_path: Path) -> Path:
    """A copy of it to work in; its pipelines.yaml."""
    return shutil.copytree(extracted, tmp_path / "project", symlinks=True) / "pipelines.yaml"


def run(config: Path, verb: str, *settings: str, force: bool = False) -> tuple[int, str]:
    own = [f"work={config.parent / 'work'}", f"data.root={config.parent / 'data'}", "eval.overlay=false"]
    arguments = [part for setting in (*own, *settings) for part in ("--set", setting)]
    return glpose_stage(config, verb, *arguments, *(["--force"] if force else []))


def table_line(printed: str) -> str:
    return next(line for line in printed.splitlines() if "GLPose" in line)


# -------------------------------------------------------------------------------------------------------- references
@pytest.mark.parametrize(
    "settings",
    [
        ["index.select=least_similar"],
        ["index.select=random"],
        ["index.select=random", "index.pool=all"],
        ["index.select=other_video", "index.scope=dataset"],
        ["index.select=oracle"],
        ["index.select=oracle", "index.scope=dataset", "index.pool=all"],
        ["index.causal=true"],
    ],
    ids=" ".join,
)
def test_controls_of_references(project: Path, settings: list[str]) -> None:
    code, printed = run(project, "run", *settings)
    assert code == 0, printed
    assert run(project, "verify", *settings)[0] == 0
    index = context(project, *settings).config.index
    words = "references of earlier frames" if index.causal else f"references: {index.select}"
    assert f"GLPose (k=1, n=2, {words})" in table_line(printed)
    stored = store.open(project.parent / "work")
    proposals = stored.table(keypoints=True, embedding=True)
    for split in ("train", "eval"):
        # what `index` has stored is what training would draw for epoch 0
        table = proposals.loc[proposals["split"] == split].reset_index(drop=True)
        gallery = make_gallery(table, np.stack(table["embedding"].tolist()), index)
        for video, (start, stop) in gallery.spans.items():
            found = find_references(gallery, video, index, 2)
            neighbours = stored.neighbours(video)
            for row in range(start, stop):
                own = neighbours.loc[neighbours["proposal"] == table["proposal"][row]].sort_values("rank")
                wanted = [other for other in found.rows[row - start].tolist() if other >= 0]
                assert own["reference_video"].tolist() == table["video"].iloc[wanted].tolist()
                assert own["reference"].tolist() == table["proposal"].iloc[wanted].tolist()
                assert (own["reference_video"] != video).all() or index.select != "other_video"
            assert np.any(found.rows >= 0)


def test_other_videos_where_there_is_one(tmp_path: Path) -> None:
    """Said by `index`, and training goes on with empty slots."""
    write_dataset(tmp_path / "data", ["a"], ["c"])
    config = write_pipeline(tmp_path, train={"epochs": 1, "batch_size": 4, "milestones": []} | HEADS)
    code, printed = run(config, "run", "index.select=other_video", "index.scope=dataset")
    assert code == 0, printed
    people = len(store.open(tmp_path / "work").table("a"))
    assert f"a: {people} of {people} proposals have fewer than 2 references" in printed


# ------------------------------------------------------------------------------------------------------------- heads
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.heads.k=0"], "k=0, n=2"),  # non-local only
        (["train.heads.n=0"], "k=1, n=0"),  # local only
        (["train.heads.inputs=key_copies"], "k=1, n=2, fed copies of the key frame"),
        (["train.heads.weighted=false"], "k=1, n=2, no weights"),
        (["train.heads.causal=true", "index.causal=true"], "k=1, n=2, causal"),
        (["train.heads.causal=true", "train.heads.n=0"], "k=1, n=0, causal"),
        (["train.heads.causal=true", "train.heads.k=0", "train.heads.n=0"], "k=0, n=0, causal"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_controls_of_heads(project: Path, settings: list[str], words: str) -> None:
    code, printed = run(project, "run", *settings)
    assert code == 0, printed
    assert f"GLPose ({words}) " in table_line(printed) + " "
    heads = context(project, *settings).config.train.heads
    metadata = read_metadata(project.parent / "work" / "train" / "latest" / "glpose" / "heads.safetensors")
    assert HeadOptions.model_validate_json(metadata["heads"]) == heads
    offsets = range(-heads.k, 0 if heads.causal else heads.k + 1)
    assert json.loads(metadata["offsets"]) == [offset for offset in offsets if offset]


def test_causal_heads_see_nothing_later(project: Path) -> None:
    """Predictions of a frame stay the same where everything after it is another."""
    settings = ["train.heads.causal=true", "index.causal=true", "index.exclude_window=1", "train.lr=0.05"]
    assert run(project, "run", *settings)[0] == 0
    poses = predictions(project)
    later = poses["frame"].to_numpy() >= 3
    images = sorted((project.parent / "data").rglob("*.jpg"))
    changed = [image for image in images if "/val/" in image.as_posix() and int(image.stem) >= 3]
    assert later.any() and changed
    for image in changed:
        other = next(i for i in images if "/train/" in i.as_posix() and i.stem == image.stem)
        image.write_bytes(other.read_bytes())
    code, printed = run(project, "run", *settings)
    assert code == 0, printed
    again = predictions(project)
    same = (poses[["x", "score"]].to_numpy() == again[["x", "score"]].to_numpy()).all(axis=1)
    assert same[~later].all() and not same[later].all()


def predictions(config: Path) -> pd.DataFrame:
    """Keypoints that `eval` has written: frame, x and score of each."""
    folder = config.parent / "work" / "eval" / "latest" / "results" / "predictions" / "glpose"
    rows = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        frames = {image["id"]: number for number, image in enumerate(content["images"])}
        for person in content["annotations"]:
            values = np.reshape(person["keypoints"], (-1, 3))
            scores = person.get("scores", values[:, 2])
            rows += [(frames[person["image_id"]], x, score) for x, score in zip(values[:, 0], scores, strict=False)]
    return pd.DataFrame(rows, columns=["frame", "x", "score"])


def test_causal_heads_are_not_evaluated_otherwise(project: Path) -> None:
    causal = ["train.heads.causal=true", "index.causal=true"]
    assert run(project, "run", *causal)[0] == 0
    code, printed = run(project, "eval", "train.heads.causal=true")
    assert code == 2 and "train.heads: causal heads need index.causal" in printed
    code, printed = run(project, "eval")
    assert code == 1 and "index.causal: True -> False" in printed
    assert run(project, "index", force=True)[0] == 0
    code, printed = run(project, "eval")
    assert code == 1 and "train.heads.causal: True -> False" in printed


def test_given_heads_are_refused_references_that_are_not_for_them(project: Path, tmp_path: Path) -> None:
    """A file of causal heads beside an index that is not causal; without references it does not matter."""
    causal = ["train.heads.causal=true", "index.causal=true", "index.exclude_window=0"]
    trained_here = project.parent / "work" / "train" / "latest" / "glpose" / "heads.safetensors"
    other = ["index.exclude_window=0"]
    for n in (2, 0):
        assert run(project, "run", *causal, f"train.heads.n={n}", force=n == 0)[0] == 0
        (tmp_path / f"causal{n}.safetensors").write_bytes(trained_here.read_bytes())
    for stage in ("index", "train"):
        assert run(project, stage, *other, force=True)[0] == 0
    code, printed = run(project, "eval", *other, f"eval.heads={tmp_path}/causal2.safetensors", force=True)
    assert code == 1 and "causal2.safetensors: causal heads need index.causal" in printed
    code, printed = run(project, "eval", *other, f"eval.heads={tmp_path}/causal0.safetensors", force=True)
    assert code == 0 and "given heads (k=1, n=0, causal)" in printed, printed


def test_given_heads_of_other_joints_are_refused(project: Path, tmp_path: Path) -> None:
    trained_here = project.parent / "work" / "train" / "latest" / "glpose" / "heads.safetensors"
    assert run(project, "run", force=True)[0] == 0
    joints = {"jhmdb": JHMDB, "posetrack": replace(POSETRACK, joints=POSETRACK.joints[::-1])}
    words = {"jhmdb": "has 15 joints (posetrack)", "posetrack": "has the same joints in another order (posetrack)"}
    for name, own in joints.items():
        metadata = {**read_metadata(trained_here), "joint_set": json.dumps(asdict(own))}
        save_checkpoint(tmp_path / "other.safetensors", read_state_dict(trained_here), metadata)
        code, printed = run(project, "eval", f"eval.heads={tmp_path}/other.safetensors", force=True)
        said = f"other.safetensors predict 15 joints ({name}), the pipeline's data {words[name]}"
        assert code == 1 and said in printed, printed


# ---------------------------------------------------------------------------------------------------------- training
@pytest.mark.parametrize("select", ["least_similar", "random", "oracle"])
def test_training_draws_as_it_is_told(select: str) -> None:
    """Pools are drawn anew for every epoch, chosen from alike; heads of several n get what each would get alone."""
    split, index = problem(), INDEX.model_copy(update={"select": select, "n": 3})
    epochs = [drawn(split, index, n=3, epoch=epoch) for epoch in (1, 2, 1)]
    np.testing.assert_array_equal(epochs[0].rows, epochs[2].rows)
    assert (epochs[0].rows != epochs[1].rows).any(axis=1).mean() > 0.3
    assert (epochs[0].rows != drawn(split, INDEX, n=3, epoch=1).rows).any(axis=1).mean() > 0.3
    heads = {"two": TRAINED_HEADS, "three": TRAINED_HEADS.model_copy(update={"n": 3})}
    recipe = options()
    examples = make_examples(split, nobody(split, 3), JOINT_SET, recipe)
    together = train_heads(examples, heads, recipe, index, lambda progress: None)
    for name, own in heads.items():
        alone = train_heads(examples, {name: own}, recipe, index, lambda progress: None)
        assert same(alone[name].model, together[name].model)
    assert not same(together["two"].model, trained(split)[0])


def test_causal_heads_do_not_learn_from_later_frames() -> None:
    """Other maps after the key frame change nothing, other maps before it do."""
    split = problem({"a": 5})
    local = held(split).local
    assert local is not None
    for offset, changes_it in ((1, False), (2, False), (-1, True)):
        values = local.values.clone()
        place = split.offsets.index(offset)
        values[:, :, place] = 255 - values[:, :, place]
        other = replace(split, held=replace(held(split), local=replace(local, values=values)))
        causal = TRAINED_HEADS.model_copy(update={"causal": True})
        models = [trained(part, causal, epochs=1)[0] for part in (split, other)]
        assert same(*models) != changes_it
        assert models[0].offsets == (-2, -1)


def test_heads_fed_copies_do_not_learn_from_others() -> None:
    split, copies = problem({"a": 5}), TRAINED_HEADS.model_copy(update={"inputs": "key_copies"})
    local = held(split).local
    assert local is not None
    other = replace(split, held=replace(held(split), local=replace(local, values=255 - local.values)))
    model = trained(split, copies)[0]
    assert same(model, trained(other, copies, index=INDEX.model_copy(update={"seed": 1}))[0])
    assert not same(model, trained(split)[0])


# ------------------------------------------------------------------------------------------------ fewer at evaluation
def heads_and_inputs(**changes: Any) -> tuple[GLPoseHeads, tuple[Tensor, Tensor, Tensor, Tensor]]:
    torch.manual_seed(0)
    options = HeadOptions.model_validate({"k": 2, "n": 3, "init_std": 0.3} | changes)
    offsets = (-2, -1) if options.causal else (-2, -1, 1, 2)
    heads = GLPoseHeads(4, 5, offsets, options).eval()
    similarity = torch.randn(2, 3, 4) if options.per_channel else torch.randn(2, 3)
    inputs = torch.rand(2, 4, 8, 6), torch.rand(2, len(offsets), 4, 8, 6), torch.rand(2, 3, 4, 8, 6), similarity
    return heads, inputs


def answers(heads: GLPoseHeads, inputs: tuple[Tensor, ...]) -> np.ndarray:
    with torch.inference_mode():
        return heads(*inputs).numpy()


@pytest.mark.parametrize("changes", [{}, {"per_channel": True}, {"weighted": False}], ids=str)
@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_references(changes: dict[str, Any], n: int) -> None:
    """The slots of the others are as those of people who have only so many."""
    heads, (key, local, references, similarity) = heads_and_inputs(**changes)
    maps, values = references.clone(), similarity.clone()
    maps[:, n:], values[:, n:] = 0, -torch.inf
    found = answers(heads, with_fewer((key, local, references, similarity), heads.offsets, None, n))
    np.testing.assert_array_equal(found, answers(heads, (key, local, maps, values)))
    assert np.abs(found - answers(heads, (key, local, references, similarity))).max() > 1e-3


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("k", [0, 1])
def test_fewer_local_frames(k: int, causal: bool) -> None:
    """The others are as where a clip ends: the key frame again."""
    heads, (key, local, *rest) = heads_and_inputs(causal=causal)
    maps = local.clone()
    for position, offset in enumerate(heads.offsets):
        if abs(offset) > k:
            maps[:, position] = key
    found = answers(heads, with_fewer((key, local, *rest), heads.offsets, k, None))  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(found, answers(heads, (key, maps, *rest)))
    assert np.abs(found - answers(heads, (key, local, *rest))).max() > 1e-3


@pytest.mark.parametrize(("k", "n"), [(None, None), (2, 3), (9, 9)])
def test_not_fewer(k: int | None, n: int | None) -> None:
    heads, inputs = heads_and_inputs()
    for one, other in zip(with_fewer(inputs, heads.offsets, k, n), inputs, strict=True):
        assert torch.equal(one, other)


def test_fewer_at_evaluation_is_a_result_of_its_own(project: Path) -> None:
    settings = ["train.lr=0.05", "train.heads.temperature=100.0"]
    code, printed = run(project, "run", *settings)
    assert code == 0 and "GLPose (k=1, n=2) " in printed, printed
    whole = predictions(project)
    code, printed = run(project, "run", *settings, "eval.n=1")
    assert code == 1 and "eval.n: null -> 1" in printed
    for setting, words in (("eval.n=1", "k=1, n=1 of 2 trained"), ("eval.k=0", "k=0 of 1 trained, n=2")):
        code, printed = run(project, "eval", *settings, setting, force=True)
        assert code == 0, printed
        assert f"GLPose ({words}) " in table_line(printed)
        assert predictions(project)["score"].tolist() != whole["score"].tolist()
    # as many as there are change nothing
    code, printed = run(project, "eval", *settings, "eval.k=1", "eval.n=2", force=True)
    assert code == 0 and "GLPose (k=1, n=2) " in table_line(printed)
    pd.testing.assert_frame_equal(predictions(project), whole)
