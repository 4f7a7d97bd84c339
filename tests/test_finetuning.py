"""Crops stored for fine-tuning, the backbone reopened on them, and what eval makes of the result."""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy_reference as reference
import pandas as pd
import pytest
import torch
from command_line import Outcome
from command_line import glpose_stage as command
from rich.console import Console
from small_pipelines import NAME, context, glpose_stage, write_backbone, write_dataset, write_pipeline

from glpose import finetuning
from glpose.augmentation import sample_augmentation
from glpose.context_crops import context_affine, context_size, cut_context_crops
from glpose.crops import normalise
from glpose.data.dataset import open_video
from glpose.finetuning import finetune, forward, load_trainable, parameter_groups
from glpose.finetuning_crops import CropSplit, draw_sample, epoch_rows, samples
from glpose.geometry import crop_affine, crop_frame, transform_points, warp_crop
from glpose.keypoints import POSETRACK
from glpose.models.checkpoints import load_heads, read_metadata, read_state_dict, save_checkpoint
from glpose.models.glpose import GLPoseHeads
from glpose.models.hrnet import HRNet
from glpose.options import CropOptions, ExtractOptions, FinetuneOptions, HeadOptions
from glpose.references import References, head_inputs, in_window
from stages.crops import open_crops, train_proposals
from stages.finetune import load_split
from stages.run import STAGES, run_stages
from stages.train import load_split as load_features
from store.crops import crop_to_view
from store.errors import CheckpointError, StoreError, TrainingError
from store.tables import BOX

CPU = torch.device("cpu")
FAST = {"epochs": 1, "batch_size": 2, "lr": 1e-3, "backbone_lr": 1e-5}  # the tiny backbone's weights are N(0, 0.001)
HEAD_OPTIONS = HeadOptions(k=0, n=0, blocks=1)
HEADS = ("train", "latest", "glpose", "heads.safetensors")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that has run, with raw crops stored; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("project")
    write_dataset(folder / "data")
    write_backbone(folder / "backbone.safetensors", width=4)
    config = write_pipeline(folder, crops={"encoding": "raw"}, finetune=FAST, eval={"overlay": False})
    for verb, *arguments in (("run",), ("extract", "--crops")):
        code, printed = glpose_stage(config, verb, *arguments)
        assert code == 0, printed
    return folder


@pytest.fixture
def split(project: Path) -> CropSplit:
    """The whole split as references, but only every third proposal to train on: trainings are short."""
    whole = load_split(context(project / "pipelines.yaml"))
    keypoints = [own if row % 3 == 0 else None for row, own in enumerate(whole.table["keypoints"])]
    return replace(whole, table=whole.table.assign(keypoints=pd.Series(keypoints, dtype=object)))


def networks(project: Path) -> tuple[HRNet, GLPoseHeads]:
    path = project.joinpath("work", *HEADS)
    return load_trainable(project / "backbone.safetensors"), load_heads(path, space=read_metadata(path)["space"])


def train(
    project: Path, split: CropSplit, state: Path, report: finetuning.Report = lambda *_: None, **changes: object
) -> tuple[HRNet, GLPoseHeads]:
    """Networks after a training with some options changed."""
    config = context(project / "pipelines.yaml").config
    net, heads = networks(project)
    options = config.finetune.model_copy(update=changes)
    finetune(split, net, heads, options, config.train, config.index, CPU, 1, report, state)
    return net, heads


def same(a: torch.nn.Module, b: torch.nn.Module, but: Sequence[str] = ()) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(t, theirs[name]) for name, t in a.state_dict().items() if not name.endswith(tuple(but)))


def batch_of(project: Path, split: CropSplit) -> list:
    own = context(project / "pipelines.yaml").config
    drawn = samples(split, (-1, 1), 2, own.finetune, own.train, own.index, 0, 1)
    with contextlib.closing(drawn):
        return next(drawn)


# ------------------------------------------------------------------------------------------------------- the crop store
def test_crops_are_those_of_the_train_split(project: Path) -> None:
    own = context(project / "pipelines.yaml")
    size = context_size(own.config.extract, own.config.crops)
    for video in ("a", "b"):
        table, file = train_proposals(own, video), open_crops(own, video)
        assert len(file) == len(table) > 0 and file.schema.offsets == (-1, 1)
        crops, _ = file.read()
        assert crops.shape == (len(table), 3, *size, 3) and crops.std() > 10
    assert not (project / "work" / "crops" / "latest" / "c").exists()  # of the eval split


def test_a_stored_crop_gives_the_views_of_the_frame(project: Path, tmp_path: Path) -> None:
    """Raw to within interpolation, JPEG to within its own error; key and local frames alike."""
    own = context(project / "pipelines.yaml", "crops.encoding=jpeg", f"work={tmp_path / 'work'}")
    raw = context(project / "pipelines.yaml")
    shutil.copytree(project / "work" / "detect", tmp_path / "work" / "detect", symlinks=True)
    code, printed = glpose_stage(project / "pipelines.yaml", "detect", "--set", f"work={tmp_path / 'work'}")
    assert code == 0, printed
    run_stages([STAGES["crops"]], own, Console(quiet=True))
    extract = own.config.extract
    video, table = open_video(own.video("a")), train_proposals(own, "a")
    frames = dict(video.frames.read(range(len(video))))
    rng = np.random.default_rng(0)
    errors: dict[str, list[float]] = {"raw": [], "jpeg": []}
    for row in range(len(table)):
        view = sample_augmentation(
            rng, table[BOX].iloc[row].to_numpy(float), table["keypoints"].iat[row], POSETRACK, extract.crop_size,
            extract.crop_scale, rotation=45, scale=(0.9, 1.35), half_body=0.5, flip=0.5,
        ).composed(extract.crop_size[1])  # fmt: skip
        for name, where in (("raw", raw), ("jpeg", own)):
            crops, stored = open_crops(where, "a").read([row])
            for crop, offset in zip(crops[0], (0, -1, 1), strict=True):
                frame = table["frame"].iat[row] + offset
                source = frames[frame if 0 <= frame < len(frames) else frame - offset]
                direct = warp_crop(source, view, extract.crop_size).astype(float)
                cut = warp_crop(crop, crop_to_view(stored[0], view), extract.crop_size).astype(float)
                errors[name].append(float(np.abs(cut - direct).mean()))
    assert np.mean(errors["raw"]) < 4 and np.mean(errors["jpeg"]) < 6
    assert np.mean(errors["raw"]) < np.mean(errors["jpeg"])


def test_every_view_lies_inside_the_stored_crop() -> None:
    rng = np.random.default_rng(0)
    extract, options = ExtractOptions(crop_size=(64, 48)), CropOptions()
    height, width = context_size(extract, options)
    for _ in range(200):
        low = rng.uniform(0, 300, 2)
        box = np.array([*low, *(low + rng.uniform(5, 200, 2))])
        keypoints = np.column_stack([rng.uniform(box[:2], box[2:], (15, 2)), rng.integers(0, 3, 15)])
        stored = context_affine(box, keypoints, POSETRACK, extract, options)
        view = sample_augmentation(
            rng, box, keypoints, POSETRACK, (64, 48), extract.crop_scale,
            rotation=45, scale=(0.65, 1.35), half_body=0.5, flip=0.5,
        ).composed(48)  # fmt: skip
        back = np.linalg.inv(np.vstack([crop_to_view(stored, view), [0, 0, 1]]))[:2]
        corners = transform_points(np.array([[0.0, 0], [47, 0], [0, 63], [47, 63]]), back)
        assert (corners >= 0).all() and (corners <= [width - 1, height - 1]).all()


def test_stored_size_keeps_the_resolution_that_was_asked_for() -> None:
    sizes = {density: context_size(ExtractOptions(), CropOptions(density=density)) for density in (0.5, 1.0)}
    assert sizes[1.0] == (656, 656) and sizes[0.5] == (336, 336)
    assert context_size(ExtractOptions(), CropOptions(rotation=0, scale=1)) == (400, 304)


class Frames:
    """Frames whose pixels tell their number, which notes how many were asked for at once."""

    def __init__(self, count: int) -> None:
        self.names = [str(number) for number in range(count)]
        self.asked: list[int] = []

    def read(self, wanted: Iterable[int], unreadable: dict[int, str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        for frame in sorted(wanted):
            self.asked.append(frame)
            yield frame, np.full((20, 20, 3), frame, np.uint8)

    def size(self) -> tuple[int, int]:
        return 20, 20

    def fingerprint(self) -> str:
        return ""


def test_frames_are_read_once_and_edges_and_unreadable_ones_show_the_key_frame() -> None:
    source = Frames(9)
    frames = np.array([0, 0, 4, 8])
    affine = crop_affine(np.array([10.0, 10, 8]), (8, 8))
    crops = list(cut_context_crops(source, frames, [affine] * 4, (8, 8), 2, "repeat_key", unreadable=[5]))
    assert [crop[:, 4, 4, 0].tolist() for crop in crops] == [[0, 0, 0, 1, 2]] * 2 + [[4, 2, 3, 4, 6], [8, 6, 7, 8, 8]]
    assert source.asked == [0, 1, 2, 3, 4, 6, 7, 8]


def test_an_interrupted_crop_store_goes_on(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import crops as stage

    config = write_pipeline(tmp_path, {"kind": "posetrack18", "root": str(project / "data")}, crops={"encoding": "raw"})
    assert glpose_stage(config, "detect")[0] == 0
    written = stage.CropWriter.append

    def interrupted(self: object, *arguments: object) -> None:
        if self.schema.video == "b":  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        written(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(stage.CropWriter, "append", interrupted)
        code, _ = glpose_stage(config, "extract", "--crops")
        assert code == 130
    code, printed = glpose_stage(config, "extract", "--crops")
    assert code == 0 and "crops 1 done, 1 to do" in printed, printed
    code, printed = glpose_stage(config, "extract", "--crops", "--plan")
    assert "crops    2 done, 0 to do" in printed
    assert glpose_stage(config, "verify")[0] == 0
    for video in ("a", "b"):
        fresh, whole = (open_crops(context(path), video).read()[0] for path in (config, project / "pipelines.yaml"))
        assert np.array_equal(fresh, whole)


def test_run_makes_no_crops_and_a_data_set_without_training_has_none(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", train=(), evaluate=("c",))
    config = write_pipeline(tmp_path, {"kind": "posetrack18", "root": str(tmp_path / "data"), "train": None})
    code, printed = glpose_stage(config, "run", "--plan")
    assert code == 0 and "crops" not in printed
    assert glpose_stage(config, "detect")[0] == 0
    code, printed = glpose_stage(config, "extract", "--crops")
    assert code == 1 and "no video has frames in the train split, which crops are made of" in printed


# ----------------------------------------------------------------------------------------------------- what it is shown
def test_an_epoch_shows_everyone_annotated_once(project: Path, split: CropSplit) -> None:
    own = context(project / "pipelines.yaml").config
    first, second = (np.concatenate(epoch_rows(split, own.finetune, own.train, epoch)) for epoch in (1, 2))
    assert sorted(first) == sorted(second) == split.annotated(1).tolist()
    assert first.tolist() != second.tolist()


def test_samples_depend_on_the_step_alone(project: Path, split: CropSplit) -> None:
    own = context(project / "pipelines.yaml").config
    options = own.finetune.model_copy(update={"epochs": 2})
    whole, threads, tail = (
        list(samples(split, (-1, 1), 2, options, own.train, own.index, start, workers))
        for start, workers in ((0, 1), (0, 3), (3, 1))
    )
    for other in (threads, [*whole[:3], *tail]):
        assert len(other) == len(whole) > 4
        for a, b in zip(whole, other, strict=True):
            assert all(
                np.array_equal(x.crops, y.crops)
                and np.array_equal(x.keypoints, y.keypoints)
                and np.array_equal(x.similarity, y.similarity)
                for x, y in zip(a, b, strict=True)
            )


@pytest.mark.parametrize(("pool", "redrawn"), [("all", False), (3, True)])
def test_references_are_drawn_anew_where_pools_are(
    project: Path, split: CropSplit, pool: int | str, redrawn: bool
) -> None:
    own = context(project / "pipelines.yaml").config
    index = own.index.model_copy(update={"pool": pool, "select": "random"})
    options = own.finetune.model_copy(update={"epochs": 2})
    plan = [row for epoch in (1, 2) for rows in epoch_rows(split, options, own.train, epoch) for row in rows.tolist()]
    shown: dict[int, list[np.ndarray]] = {}
    for row, sample in zip(plan, itertools.chain(*samples(split, (), 2, options, own.train, index, 0, 1)), strict=True):
        shown.setdefault(row, []).append(sample.similarity)
    assert any(not np.array_equal(first, second) for first, second in shown.values()) == redrawn


def test_key_and_local_crops_share_one_affine_and_references_are_clean(project: Path, split: CropSplit) -> None:
    """Each crop against the frame that it is of, cut by the affine that it ought to have."""
    own = context(project / "pipelines.yaml")
    options = own.config.finetune.model_copy(update={"flip": 1.0, "half_body": 0.0, "scale": (1.2, 1.2)})
    frame = split.table["frame"].to_numpy()
    row = next(row for row in split.annotated(1).tolist() if 0 < frame[row] < 4)
    other = next(
        other for other in range(len(split)) if frame[other] == 5 and split.place(other)[0] is split.place(row)[0]
    )
    key = int(frame[row])
    sample = draw_sample(split, row, References(np.array([other, -1]), np.zeros(2)), (-1, 1), options, (7, 0))
    view = sample_augmentation(
        np.random.default_rng([options.seed, 7, 0, 1]), split.table[BOX].iloc[row].to_numpy(float),
        split.table["keypoints"].iat[row], POSETRACK, (64, 48), own.config.extract.crop_scale,
        rotation=options.rotation, scale=options.scale, half_body=options.half_body, flip=options.flip,
    )  # fmt: skip
    assert view.flip
    clean = crop_affine(crop_frame(split.table[BOX].iloc[other].to_numpy(float), (64, 48), 1.25), (64, 48))
    frames = dict(open_video(own.video(split.table["video"].iat[row])).frames.read(range(6)))
    wanted = [warp_crop(frames[number], view.composed(48), (64, 48)) for number in (key, key - 1, key + 1)]
    wanted.append(warp_crop(frames[5], clean, (64, 48)))
    for crop, direct in zip(sample.crops, wanted, strict=False):
        assert np.abs(crop.astype(float) - direct).mean() < 4
    assert not sample.crops[4].any()  # a missing reference
    augmented = draw_sample(
        split, row, References(np.array([other, -1]), np.zeros(2)), (-1, 1),
        options.model_copy(update={"augment_references": True}), (7, 0),
    )  # fmt: skip
    assert np.array_equal(augmented.crops[:3], sample.crops[:3])
    assert np.abs(augmented.crops[3].astype(float) - sample.crops[3]).mean() > 4


def test_joints_lie_where_the_crop_shows_them(split: CropSplit, project: Path) -> None:
    """The crop around a joint is the frame around it: through flips, turns and both affines."""
    options = context(project / "pipelines.yaml").config.finetune
    row = int(split.annotated(2)[0])
    plain = options.model_copy(update={"rotation": 0.0, "scale": (1.0, 1.0), "half_body": 0.0, "flip": 0.0})
    nobody = References(np.zeros(0, np.int64), np.zeros(0))
    straight = draw_sample(split, row, nobody, (), plain, (0, 0))
    mirrored = draw_sample(split, row, nobody, (), plain.model_copy(update={"flip": 1.0}), (0, 0))
    assert np.abs(mirrored.crops[0][:, ::-1].astype(float) - straight.crops[0]).mean() < 3
    back = mirrored.keypoints[POSETRACK.flip_order].copy()
    back[:, 0] = 47 - back[:, 0]
    seen = (back[:, 2] > 0) & (straight.keypoints[:, 2] > 0)
    assert seen.any() and np.allclose(back[seen], straight.keypoints[seen])


# ------------------------------------------------------------------------------------------------------------- training
def test_a_training_goes_on_to_the_same_weights(
    project: Path, split: CropSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "SAVED_EVERY", 2)
    whole = train(project, split, tmp_path / "whole")

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(project, split, tmp_path / "part", report=stop)
    told: list[int] = []
    resumed = train(project, split, tmp_path / "part", report=lambda step, steps, loss: told.append(step))
    assert told == list(range(3, math.ceil(len(split.annotated(1)) / 2) + 1))
    assert all(same(a, b) for a, b in zip(whole, resumed, strict=True))
    with pytest.raises(StoreError, match="part is of a training with other options or data: delete it"):
        train(project, split, tmp_path / "part", lr=0.5)
    config, (net, heads) = context(project / "pipelines.yaml").config, networks(project)
    with torch.no_grad():
        next(heads.parameters()).add_(1)
    with pytest.raises(StoreError, match="part is of a training with other options or data"):  # of other heads
        finetune(
            split, net, heads, config.finetune, config.train, config.index, CPU, 1, lambda *_: None, tmp_path / "part"
        )


@pytest.mark.parametrize(("joints", "least"), [("annotated", 1), ("visible", 2)])
def test_the_loss_is_that_of_equation_6(
    project: Path, split: CropSplit, tmp_path: Path, joints: str, least: int
) -> None:
    """Of the first step: the heads' heatmaps against Gaussians on the joints that count."""
    config, (net, heads) = (
        context(project / "pipelines.yaml", f"train.joints={joints}", "train.sigma=6").config,
        networks(project),
    )
    options = config.finetune.model_copy(update={"batch_size": 4})
    with contextlib.closing(samples(split, (-1, 1), 2, options, config.train, config.index, 0, 1)) as drawn:
        batch = next(drawn)
    with torch.inference_mode():
        found = forward(net, heads.train(), batch, options, config.index.similarity, CPU).numpy()
    keypoints = np.stack([sample.keypoints for sample in batch])
    weight = keypoints[..., 2] >= least
    assert 0 < weight.sum() < (keypoints[..., 2] > 0).sum() or joints == "annotated"
    targets = [
        reference.targets(own[:, :2] / 4, present, (16, 12), config.train.sigma)
        for own, present in zip(keypoints, weight, strict=True)
    ]
    wanted = reference.loss(found, np.array(targets), weight)
    told: list[float] = []

    def stop(step: int, steps: int, loss: float) -> None:
        told.append(loss)
        raise KeyboardInterrupt

    again, same_heads = networks(project)
    with pytest.raises(KeyboardInterrupt):
        finetune(split, again, same_heads, options, config.train, config.index, CPU, 1, stop, tmp_path / "state")
    assert told == [pytest.approx(wanted, rel=1e-4)]


def test_layers_compute_in_the_precision_asked_for(project: Path, split: CropSplit, tmp_path: Path) -> None:
    told: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    few = [own if row < 4 else None for row, own in enumerate(split.table["keypoints"])]
    few_people = replace(split, table=split.table.assign(keypoints=pd.Series(few, dtype=object)))
    for precision, losses in told.items():
        report = lambda step, steps, loss, losses=losses: losses.append(loss)  # noqa: E731
        train(project, few_people, tmp_path / precision, report=report, precision=precision)
    (exact,), (rounded,) = told["float32"], told["bfloat16"]
    assert rounded == pytest.approx(exact, rel=0.02) and rounded != exact


def test_learning_rates_rise_and_then_fall_as_a_cosine(
    project: Path, split: CropSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []
    step = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *arguments: Any) -> None:
        seen.append([group["lr"] for group in self.param_groups])
        step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    train(project, split, tmp_path / "state", lr=1e-3, backbone_lr=1e-5, lr_decay=0.5)
    peaks, steps = np.array([1e-3, 1e-5, 5e-6, 2.5e-6]), math.ceil(len(split.annotated(1)) / 2)
    factors = [1.0, *(0.5 * (1 + math.cos(math.pi * at / (steps - 1))) for at in range(steps - 1))]
    np.testing.assert_allclose(seen, np.array(factors)[:, None] * peaks)


def test_memory_is_saved_without_another_result(project: Path, split: CropSplit, tmp_path: Path) -> None:
    """Activations computed twice change no weight, and no statistics where these are trained."""
    plain, saving = (
        train(project, split, tmp_path / str(on), checkpointing=on, batch_norm="trained", batch_size=8)
        for on in (False, True)
    )
    assert all(same(a, b) for a, b in zip(plain, saving, strict=True))


def test_frozen_statistics_stay_and_trained_ones_move(project: Path, split: CropSplit, tmp_path: Path) -> None:
    before, _ = networks(project)
    moved = {}
    for batch_norm in ("frozen", "trained"):
        net, _ = train(project, split, tmp_path / batch_norm, batch_norm=batch_norm)
        old = before.state_dict()
        moved[batch_norm] = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, old[name])}
        assert not net.training and "conv1.weight" in moved[batch_norm] and "bn1.weight" in moved[batch_norm]
    statistics = {name for name in before.state_dict() if "running" in name}
    assert not moved["frozen"] & statistics
    assert moved["trained"] >= statistics


def test_gradients_go_where_they_are_asked_for(project: Path, split: CropSplit) -> None:
    """grad: key, as if the features of all other crops were constants; all, through every crop."""
    own = context(project / "pipelines.yaml").config
    net, heads = networks(project)
    batch = batch_of(project, split)
    seen: list[tuple[int, bool]] = []
    features = net.features
    net.features = lambda images: (seen.append((len(images), torch.is_grad_enabled())), features(images))[1]  # type: ignore[method-assign]
    gradients = {}
    for grad in ("all", "key"):
        net.zero_grad()
        options = own.finetune.model_copy(update={"grad": grad})
        forward(net, heads, batch, options, own.index.similarity, CPU).square().sum().backward()
        gradients[grad] = {name: own.grad.clone() for name, own in net.named_parameters() if own.grad is not None}
    count = len(batch)
    assert seen == [(count * 5, True), (count * 4, False), (count, True)]
    assert set(gradients["all"]) == set(gradients["key"]) == {name for name, _ in net.named_parameters()}
    assert not torch.allclose(gradients["all"]["conv1.weight"], gradients["key"]["conv1.weight"])


def test_features_are_those_that_extract_stored(project: Path, split: CropSplit) -> None:
    """Without augmentation, to within what cutting a crop twice changes; references are those that `index` stored."""
    own = context(project / "pipelines.yaml")
    net, heads = networks(project)
    still = own.config.finetune.model_copy(
        update={"rotation": 0.0, "scale": (1.0, 1.0), "half_body": 0.0, "flip": 0.0, "batch_size": 8}
    )
    train_options = own.config.train.model_copy(update={"redraw_pool": False})
    with contextlib.closing(samples(split, (-1, 1), 2, still, train_options, own.config.index, 0, 1)) as drawn:
        batch = next(drawn)
    rows = epoch_rows(split, still, train_options, 1)[0]
    images = normalise(torch.from_numpy(np.stack([sample.crops for sample in batch])).flatten(0, 1))
    with torch.inference_mode():
        found = net.features(images).unflatten(0, (len(batch), 5)).numpy()  # (B, 1 + 2k + n, C, H, W)
        heatmaps = [
            forward(net, heads, batch, still.model_copy(update={"similarity": name}), "inner_product", CPU)
            for name in ("stored", "current")
        ]
    features = load_features(own, "train", k=1, n=2)
    window = features.features.window(["a", "b"])
    stored = in_window(features.features, window, features.references.of(window.rows))
    inputs = head_inputs(window, stored, rows, False)
    there = torch.isfinite(inputs.similarity).numpy()
    assert np.array_equal(there, np.isfinite([sample.similarity for sample in batch]))
    assert np.allclose(inputs.similarity.numpy()[there], np.stack([sample.similarity for sample in batch])[there])
    wanted = torch.cat([inputs.key[:, None], inputs.local, inputs.references], dim=1).numpy()
    shown = np.concatenate([np.ones((len(batch), 3), bool), there], axis=1)
    flat, wanted = found.reshape(*shown.shape, -1), wanted.reshape(*shown.shape, -1)
    error, others = (
        (np.linalg.norm(np.roll(flat, by, axis=0) - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1))[shown]
        for by in (0, 1)
    )
    # an untrained network makes much of what cutting twice changes, and more of another person; two may share one
    assert np.median(error) < 0.5 and (error < 0.6 * others).mean() > 0.8
    torch.testing.assert_close(*heatmaps, rtol=0.05, atol=1e-4)


def test_learning_rates_by_layer() -> None:
    net, heads = HRNet(4, num_joints=0, stages=3), GLPoseHeads(4, 15, (), HEAD_OPTIONS)
    options = FinetuneOptions(lr=1e-3, backbone_lr=1e-4, lr_decay=0.5)
    groups = parameter_groups(net, heads, options)
    assert [group["peak"] for group in groups] == [1e-3, 1e-4, 5e-5, 2.5e-5]
    trained = [id(own) for group in groups for own in group["params"]]
    assert sorted(trained) == sorted(id(own) for own in [*net.parameters(), *heads.parameters()])
    frozen = parameter_groups(net, heads, options.model_copy(update={"backbone_lr": 0.0}))
    assert len(frozen) == 1 and not any(own.requires_grad for own in net.parameters())


def test_a_backbone_at_rest_stays_bit_for_bit(project: Path, split: CropSplit, tmp_path: Path) -> None:
    before, heads_before = networks(project)
    net, heads = train(project, split, tmp_path / "state", backbone_lr=0.0, batch_norm="trained")
    assert same(before, net) and not same(heads_before, heads)


def test_a_loss_that_is_no_number_stops_and_keeps_what_was_good(
    project: Path, split: CropSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "SAVED_EVERY", 1)
    state = tmp_path / "state"
    loss = finetuning.heatmap_loss
    calls: list[int] = []

    def spoilt(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return loss(*arguments) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(finetuning, "heatmap_loss", spoilt)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 2: lower finetune.lr .*; .*state holds the last"):
        train(project, split, state)
    content = torch.load(state, weights_only=True)
    assert content["epoch"] == 2
    assert all(bool(torch.isfinite(t).all()) for part in ("net", "heads") for t in content["parts"][part].values())


@pytest.mark.parametrize(
    "changes", [{"grad": "key", "precision": "bfloat16", "augment_references": True}, {"similarity": "stored"}]
)
def test_other_ways_train_too(project: Path, split: CropSplit, tmp_path: Path, changes: dict[str, object]) -> None:
    losses: list[float] = []
    before, heads_before = networks(project)
    report = lambda step, steps, loss: losses.append(loss)  # noqa: E731
    net, heads = train(project, split, tmp_path / "state", report=report, **changes)
    assert np.isfinite(losses).all() and not same(before, net) and not same(heads_before, heads)


def test_heads_that_align_keep_the_layer_that_they_see_poses_with(
    project: Path, split: CropSplit, tmp_path: Path
) -> None:
    config, (net, plain) = context(project / "pipelines.yaml").config, networks(project)
    options = plain.options.model_copy(update={"align": "pose"})
    heads = GLPoseHeads(net.width, plain.num_joints, plain.offsets, options)
    heads.load_state_dict(plain.state_dict(), strict=False)
    assert heads.alignment is not None
    heads.alignment.weight.normal_(0, 2)
    before = heads.alignment.weight.clone()
    own = config.finetune.model_copy(update={"precision": "bfloat16"})
    finetune(split, net, heads, own, config.train, config.index, CPU, 1, lambda *_: None, tmp_path / "state")
    assert torch.equal(before, heads.alignment.weight) and not same(plain, heads)


@pytest.mark.slow
def test_it_learns(project: Path, split: CropSplit, tmp_path: Path) -> None:
    losses: list[float] = []
    report = lambda step, steps, loss: losses.append(loss)  # noqa: E731
    still = {"rotation": 0.0, "scale": (1.0, 1.0), "half_body": 0.0, "flip": 0.0}
    train(project, split, tmp_path / "state", report=report, epochs=40, lr=1e-2, backbone_lr=1e-5, **still)
    steps = len(losses) // 40
    first, last = np.mean(losses[:steps]), np.mean(losses[-steps:])
    assert last < 0.85 * first


# ---------------------------------------------------------------------------------------------------------- the command
def test_the_way_from_heads_to_fine_tuned_scores(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """finetune, then extract and eval with its backbone; its heads read the new features and refuse the old ones."""
    config, out = project / "pipelines.yaml", tmp_path / "tuned"

    def stage(verb: str, *arguments: object) -> Outcome:
        return command(capsys, verb, "-p", NAME, "--config", config, *arguments)

    def interrupted(path: Path, *arguments: Any) -> None:
        if path.name == "heads.safetensors":
            raise KeyboardInterrupt
        save_checkpoint(path, *arguments)

    tuning = ("finetune", "--out", out, "--set", "finetune.batch_size=8")
    with monkeypatch.context() as patch:
        patch.setattr("stages.finetune.save_checkpoint", interrupted)
        assert stage(*tuning).code == 130  # between its two files
    assert (out / "backbone.safetensors").exists() and not (out / "heads.safetensors").exists()
    done = stage(*tuning)
    assert done.code == 0, done.err
    assert sorted(path.name for path in out.iterdir()) == ["backbone.safetensors", "heads.safetensors"]
    assert "5 crops each" in done.out and f"--set extract.checkpoint={out}/backbone.safetensors" in done.out
    old = read_metadata(project.joinpath("work", *HEADS))
    new = read_metadata(out / "heads.safetensors")
    assert new["space"] != old["space"] == new["before"]
    with pytest.raises(CheckpointError, match="was trained on features of hrnet_w4"):
        load_heads(out / "heads.safetensors", space=old["space"])
    assert "holds fine-tuned weights already" in stage("finetune", "--out", out).error

    stale = stage("eval", "--set", f"eval.heads={out}/heads.safetensors", "--force")
    assert stale.code == 1 and "extract with that backbone, or train again" in stale.err
    backbone = ("--set", f"extract.checkpoint={out}/backbone.safetensors")
    assert "checkpoint:" in stage("extract", *backbone).error  # the record differs
    again = stage(
        "run", *backbone, "--set", f"eval.heads={out}/heads.safetensors", "--set", f"work={tmp_path / 'work'}"
    )
    assert again.code == 0, again.err
    assert "fine-tuned GLPose (k=1, n=2)" in again.out and "GLPose (k=1, n=2)" in again.out


def test_what_is_missing_is_said(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    config = write_pipeline(
        copy, {"kind": "posetrack18", "root": str(project / "data")}, crops={"encoding": "raw"}, finetune=FAST,
        eval={"overlay": False},
    )  # fmt: skip

    def refusal(*settings: str) -> str:
        arguments = [part for setting in settings for part in ("--set", setting)]
        out = tmp_path / "out"
        return command(capsys, "finetune", "-p", NAME, "--config", config, "--out", out, *arguments).error

    assert "k: 1 -> 2" in refusal("extract.k=2") and "extract -p small --crops --force" in refusal("extract.k=2")
    assert "lr:" in refusal("train.lr=0.5")
    assert refusal("eval.checkpoint=best").startswith("eval.checkpoint: best is not there")
    shutil.rmtree(copy / "work" / "train")
    assert refusal() == "finetune: no heads are trained yet; run glpose-stage run -p small"
    next((copy / "work" / "crops" / "commit").glob("*/a.json")).unlink()
    assert "crops is not finished (1 to do); run glpose-stage extract -p small --crops" in refusal()
    shutil.rmtree(copy / "work" / "crops")
    assert refusal() == "finetune: no crops are stored yet; run glpose-stage extract -p small --crops"
    assert "crops.rotation >= finetune.rotation" in refusal("finetune.rotation=60")
    assert not (tmp_path / "out").exists()


def test_nobody_annotated(split: CropSplit) -> None:
    nobody = split.table.assign(keypoints=pd.Series([None] * len(split), dtype=object))
    with pytest.raises(TrainingError, match="no proposal of the train split has an annotated joint"):
        CropSplit(nobody, split.files, split.gallery, split.joints, split.extract).annotated(1)


# ----------------------------------------------------------------------------------------------- the single-frame HRNet
def test_an_hrnet_alone_is_a_row_of_eval(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    shutil.copytree(project, tmp_path / "copy", symlinks=True)
    config = write_pipeline(
        tmp_path / "copy", {"kind": "posetrack18", "root": str(project / "data")}, crops={"encoding": "raw"},
        finetune=FAST, eval={"overlay": False},
    )  # fmt: skip
    state = read_state_dict(project / "backbone.safetensors")
    save_checkpoint(tmp_path / "single.safetensors", state, {"joints": "posetrack"})
    save_checkpoint(tmp_path / "coco.safetensors", HRNet(4, 17, stages=4).state_dict(), {})

    def evaluate(path: Path, *more: str) -> Outcome:
        row = f"eval.single_frame_hrnet={path}"
        return command(capsys, "eval", "-p", NAME, "--config", config, "--set", row, "--force", *more)

    done = evaluate(tmp_path / "single.safetensors")
    assert done.code == 0, done.err
    assert "HRNet-W4 alone" in done.out and "GLPose (k=1, n=2)" in done.out
    written = tmp_path / "copy" / "work" / "eval" / "latest" / "results" / "predictions"
    assert {path.name for path in written.iterdir()} == {"glpose", "single_frame", "hrnet"}
    assert "predicts 17 joints, without head_bottom, head_top" in evaluate(tmp_path / "coco.safetensors").err
    missing = evaluate(tmp_path / "none.safetensors")
    assert missing.code == 1 and "does not exist" in missing.error
