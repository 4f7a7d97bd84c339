"""Pretraining: where it starts, that it learns and repeats, goes on where it was, and what it says of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import glpose_stage
from small_pipelines import NAME, write_dataset, write_pipeline

from glpose import pretraining
from glpose.data.dataset import Video, open_video
from glpose.data.listing import list_videos
from glpose.data.rendered import Clip
from glpose.data.rendered.sets import SETS
from glpose.geometry import crop_frames, frame_to_heatmap
from glpose.keypoints import COCO_JOINTS, POSETRACK
from glpose.labelled_people import LabelledPeople, labelled_people
from glpose.models.checkpoints import load_hrnet, read_metadata, save_checkpoint
from glpose.models.hrnet import HRNet
from glpose.options import PoseTrack18Data, PretrainOptions
from glpose.pretraining import held_out_pck, held_out_pckh, new_network, pretrain
from glpose.rendered_frames import RenderedFrame, clip_options, rendered_frames, rendered_people
from glpose.single_frame import load_single_frame
from store.errors import CheckpointError, StoreError, TrainingError

TINY = PretrainOptions(width=8, crop_size=(64, 48), epochs=2, batch_size=8, precision="float32", lr=3e-3)
JOINTS = 15
CPU = torch.device("cpu")


def run(
    options: PretrainOptions, people: LabelledPeople, folder: Path, workers: int = 1
) -> tuple[dict[str, torch.Tensor], list[float], list[int]]:
    """Tensors after a run, the loss of every step, and the steps told."""
    losses: list[float] = []
    told: list[int] = []

    def report(step: int, steps: int, loss: float) -> None:
        assert step <= steps
        told.append(step)
        losses.append(loss)

    model = pretrain(options, people, new_network(options, people.joints), CPU, workers, report, folder / "state")
    assert not model.training
    return model.state_dict(), losses, told


@pytest.fixture(scope="module")
def frames() -> list[RenderedFrame]:
    return rendered_frames("pretrain", 24, 2, lambda drawn: None)


def of_frames(frames: list[RenderedFrame], options: PretrainOptions) -> LabelledPeople:
    return LabelledPeople(options, rendered_people(frames), POSETRACK)


def test_people_of_rendered_frames(frames: list[RenderedFrame]) -> None:
    people = rendered_people(frames)
    assert 24 <= len(people) <= sum(len(frame.boxes) for frame in frames)
    for own in people:
        height, width = own.image().shape[:2]
        x, y, found = own.keypoints.T
        assert (found > 0).sum() >= 3 and own.keypoints.shape == (JOINTS, 3)
        assert ((x >= 0) & (x < width) & (y >= 0) & (y < height))[found > 0].all()
        assert (own.box >= 0).all() and (own.box <= [width, height, width, height]).all()


@pytest.mark.slow
def test_learns_and_repeats_whatever_the_workers(frames: list[RenderedFrame], tmp_path: Path) -> None:
    people = of_frames(frames, TINY)
    _, losses, told = run(TINY, people, tmp_path / "long")
    assert told == list(range(1, 2 * -(-len(people.people) // 8) + 1))
    assert losses[0] == pytest.approx(np.log(16 * 12), rel=0.2)  # it begins by knowing nothing
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])

    short = TINY.model_copy(update={"steps": 4})
    again = of_frames(frames, short)
    (a, few, _), (b, more, _) = run(short, again, tmp_path / "1"), run(short, again, tmp_path / "2", workers=2)
    assert few == more and all(torch.equal(tensor, b[name]) for name, tensor in a.items())
    assert few[0] == losses[0]


@pytest.mark.slow
def test_it_finds_the_joints_of_those_that_it_has_learnt(frames: list[RenderedFrame], tmp_path: Path) -> None:
    """Eight people by heart: a joint's x and y, and which joint it is, come out as they were annotated."""
    still = {"rotation": 0.0, "scale": (1.0, 1.0), "half_body": 0.0, "flip": 0.0}
    options = TINY.model_copy(update={**still, "steps": 60})
    people = rendered_people(frames)[:8]
    model = new_network(options, POSETRACK)
    pretrain(options, LabelledPeople(options, people, POSETRACK), model, CPU, 1, lambda *_: None, tmp_path / "state")
    assert held_out_pck(options, model, people, CPU) > 80


@pytest.mark.slow
@pytest.mark.parametrize(("stages", "crop_size"), [(3, (64, 48)), (4, (64, 32))])
def test_mean_squared_error_and_both_depths(
    frames: list[RenderedFrame], stages: int, crop_size: tuple[int, int], tmp_path: Path
) -> None:
    changes = {"loss": "mse", "stages": stages, "crop_size": crop_size, "steps": 2, "precision": "bfloat16"}
    options = TINY.model_copy(update=changes)
    _, losses, _ = run(options, of_frames(frames, options), tmp_path)
    assert len(losses) == 2 and all(0 < loss < 1 for loss in losses)


def test_layers_compute_in_the_precision_asked_for(videos: list[Video], tmp_path: Path) -> None:
    first = {}
    for precision in ("float32", "bfloat16"):
        options = DATA.model_copy(update={"steps": 1, "precision": precision})
        [first[precision]] = run(options, of_data(videos, options), tmp_path / precision)[1]
    assert first["bfloat16"] == pytest.approx(first["float32"], rel=0.02) and first["bfloat16"] != first["float32"]


def test_new_network_starts_lively_and_the_same_for_one_seed() -> None:
    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        new_network(TINY.model_copy(update={"seed": seed}), POSETRACK).eval().state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    model = new_network(TINY, POSETRACK)
    with torch.inference_mode():
        assert float(model.features(images).std()) > 0.1
        assert model(images).shape == (2, JOINTS, 16, 12)


def test_network_from_a_checkpoint(tmp_path: Path) -> None:
    start = HRNet(8, JOINTS, stages=3)
    save_checkpoint(tmp_path / "start.safetensors", start.state_dict(), {})
    options = TINY.model_copy(update={"init": str(tmp_path / "start.safetensors")})
    loaded = new_network(options, POSETRACK).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in start.state_dict().items())
    with pytest.raises(CheckpointError, match="W8"):
        new_network(options.model_copy(update={"width": 16}), POSETRACK)


def test_a_published_checkpoint_gives_what_fits(tmp_path: Path) -> None:
    torch.manual_seed(3)
    published = HRNet(8, num_joints=17, stages=4)
    save_checkpoint(tmp_path / "coco.safetensors", published.state_dict(), {})
    model = new_network(TINY.model_copy(update={"init": str(tmp_path / "coco.safetensors")}), POSETRACK)
    assert (model.stages, model.num_joints) == (3, JOINTS)
    own, given = model.state_dict(), published.state_dict()
    assert all(torch.equal(own[name], given[name]) for name in own if not name.startswith("final_layer"))
    assert model(torch.rand(1, 3, 64, 48)).shape == (1, JOINTS, 16, 12)


def test_held_out_score_tells_poor_networks() -> None:
    """A network that knows nothing scores near nothing; the score of one network is always the same."""
    torch.manual_seed(0)
    model = HRNet(8, JOINTS, stages=3).eval()
    found = [held_out_pckh(TINY, model, CPU, clips=6) for _ in range(2)]
    assert found[0] == found[1] and set(found[0]) == {"visible", "hidden"}
    assert all(0 <= value < 30 for value in found[0].values())


class Peaks(torch.nn.Module):
    """Answers one batch after the other with peaks at points (n, J, 2), heatmap px, whatever the crops show."""

    num_joints = JOINTS

    def __init__(self, batches: list[np.ndarray], size: tuple[int, int]) -> None:
        super().__init__()
        self.batches, self.size = iter(batches), size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, J, H, W)."""
        height, width = self.size
        column, row = (np.floor(next(self.batches) + 0.5).astype(int) % [width, height]).transpose(2, 0, 1)
        maps = torch.zeros(len(x), JOINTS, height * width)
        return maps.scatter_(2, torch.from_numpy(row * width + column)[..., None], 1.0).unflatten(2, self.size)


def answers(keypoints: list[np.ndarray], boxes: list[np.ndarray], crop_size: tuple[int, int]) -> list[list[np.ndarray]]:
    """Batches of points: all right, half of those that count moved away, of visible as of hidden joints, and all."""
    size = (crop_size[0] // 4, crop_size[1] // 4)
    half, away, counts = np.array([size[1], size[0]]) // 2, [], {1: 0, 2: 0}
    right = [
        frame_to_heatmap(own[..., :2], crop_frames(of, crop_size, 1.25), size)
        for own, of in zip(keypoints, boxes, strict=True)
    ]
    for points, own in zip(right, keypoints, strict=True):
        inside = ((points >= 0) & (points < [size[1], size[0]])).all(axis=-1)
        moved = np.zeros(inside.shape, bool)
        for flag in counts:
            counted = inside & (own[..., 2] == flag)
            moved[counted] = (counts[flag] + np.arange(counted.sum())) % 2 == 1
            counts[flag] += int(counted.sum())
        away.append(moved[..., None])
    assert all(count >= 10 for count in counts.values())
    some = [points + half * moved for points, moved in zip(right, away, strict=True)]
    return [right, some, [points + half for points in right]]


def test_held_out_pckh_is_the_share_of_joints_found() -> None:
    options = TINY.model_copy(update={"crop_size": (192, 144)})
    scenes = [Clip(clip_options(clip, "val"), SETS["val"].seed, clip) for clip in range(2)]
    labels = [own for clip, scene in enumerate(scenes) if len(own := scene.frame(clip % len(scene))[1])]
    given = answers([own.keypoints for own in labels], [own.boxes for own in labels], options.crop_size)
    for batches, wanted in zip(given, (100, 50, 0), strict=True):
        found = held_out_pckh(options, Peaks(batches, (48, 36)), CPU, clips=2)  # type: ignore[arg-type]
        assert found == {"visible": pytest.approx(wanted, abs=5), "hidden": pytest.approx(wanted, abs=5)}


def test_heatmaps_of_joints_with_the_same_name_are_kept(tmp_path: Path) -> None:
    """COCO's 17 joints -> PoseTrack's 15: nose, shoulders to ankles; neck and top of the head are new."""
    torch.manual_seed(3)
    published = HRNet(8, num_joints=17, stages=4)
    save_checkpoint(tmp_path / "coco.safetensors", published.state_dict(), {})
    init = str(tmp_path / "coco.safetensors")
    options = TINY.model_copy(update={"init": init, "stages": 4, "crop_size": (64, 32)})
    own, given = new_network(options, POSETRACK).state_dict(), published.state_dict()
    for row, name in enumerate(POSETRACK.joints):
        same = name in COCO_JOINTS and torch.equal(
            own["final_layer.weight"][row], given["final_layer.weight"][COCO_JOINTS.index(name)]
        )
        assert same == (name not in ("head_bottom", "head_top")), name
    with pytest.raises(CheckpointError, match=r"17 joints, without head_bottom, head_top: pretrain it on this data"):
        load_single_frame(init, POSETRACK, CPU)


# ------------------------------------------------------------------------------------------------------- on a data set
DATA = TINY.model_copy(update={"source": "data", "steps": 5, "batch_size": 4})


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root)
    return [open_video(ref) for ref in list_videos(PoseTrack18Data(root=root))]


def of_data(videos: list[Video], options: PretrainOptions = DATA) -> LabelledPeople:
    return LabelledPeople(options, labelled_people(videos, "train"), POSETRACK)


def test_people_of_a_split(videos: list[Video]) -> None:
    counts = {split: len(labelled_people(videos, split)) for split in ("train", "eval")}
    annotated = {
        split: sum(
            int(((video.split[notes.frame] == split) & (notes.keypoints[..., 2] > 0).any(axis=1)).sum())
            for video in videos
            if (notes := video.annotations) is not None
        )
        for split in counts
    }
    assert counts == annotated and all(counts.values())


def test_an_epoch_shows_everyone_and_batches_do_not_depend_on_threads(videos: list[Video]) -> None:
    options = DATA.model_copy(update={"steps": None, "epochs": 2, "rotation": 0.0, "scale": (1.0, 1.0), "flip": 0.0})
    people = of_data(videos, options.model_copy(update={"half_body": 0.0}))
    per_epoch = -(-len(people.people) // 4)
    assert people.steps == 2 * per_epoch
    one, three = (list(people.batches(0, workers)) for workers in (1, 3))
    assert len(one) == people.steps
    for a, b in zip(one, three, strict=True):
        assert np.array_equal(a.crops, b.crops) and np.array_equal(a.keypoints, b.keypoints)
    tail = list(people.batches(3, 1))
    assert len(tail) == len(one) - 3 and all(
        np.array_equal(a.crops, b.crops) for a, b in zip(one[3:], tail, strict=True)
    )
    shown = [{crop.tobytes() for batch in part for crop in batch.crops} for part in (one[:per_epoch], one[per_epoch:])]
    assert shown[0] == shown[1] and len(shown[0]) == len(people.people)


def test_a_training_goes_on_to_the_same_weights(
    videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "SAVED_EVERY", 2)
    people = of_data(videos)
    whole, _, _ = run(DATA, people, tmp_path / "whole")
    state = tmp_path / "state"

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(DATA, people, new_network(DATA, POSETRACK), CPU, 1, stop, state)
    told: list[int] = []
    report = lambda step, steps, loss: told.append(step)  # noqa: E731
    resumed = pretrain(DATA, people, new_network(DATA, POSETRACK), CPU, 1, report, state).state_dict()
    assert told == [3, 4, 5]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    other = DATA.model_copy(update={"lr": 0.5})
    with pytest.raises(StoreError, match="state is of a training with other options or data: delete it"):
        pretrain(other, of_data(videos, other), new_network(other, POSETRACK), CPU, 1, report, state)


@pytest.mark.slow
def test_a_training_on_rendered_frames_goes_on_too(
    frames: list[RenderedFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "SAVED_EVERY", 1)
    short = TINY.model_copy(update={"steps": 4, "batch_size": 3})
    people = of_frames(frames, short)
    whole, _, _ = run(short, people, tmp_path / "whole")

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(short, people, new_network(short, POSETRACK), CPU, 1, stop, tmp_path / "part" / "state")
    resumed, _, told = run(short, people, tmp_path / "part")
    assert told == [3, 4]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_the_command_trains_on_rendered_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"width": 8, "crop_size": [64, 48], "frames": 8, "steps": 2}
    config, out = write_pipeline(tmp_path, pretrain=options), tmp_path / "single.safetensors"
    done = glpose_stage(capsys, "pretrain", "-p", NAME, "--config", config, "--out", out)
    assert done.code == 0, done.err
    assert "people to train on" in done.out and "on held-out rendered frames" in done.out
    metadata = read_metadata(out)
    assert '"loss":"cross_entropy"' in metadata["recipe"] and 0 <= float(metadata["pckh_visible"]) < 30


def test_what_cannot_be_trained_on(videos: list[Video], tmp_path: Path) -> None:
    nobody = LabelledPeople(DATA, [], POSETRACK)
    with pytest.raises(TrainingError, match="nobody in the train split has an annotated joint"):
        run(DATA, nobody, tmp_path)
    wild = DATA.model_copy(update={"lr": 1e30, "steps": 3})
    with pytest.raises(
        TrainingError, match=r"the (loss|gradient's norm) is (nan|inf) at step [12]: lower pretrain\.lr"
    ):
        run(wild, of_data(videos, wild), tmp_path)
    assert not (tmp_path / "state").exists()


def test_held_out_people_are_measured(videos: list[Video]) -> None:
    model = new_network(DATA, POSETRACK).eval()
    people = labelled_people(videos, "eval")
    first, again, few = (
        held_out_pck(DATA.model_copy(update={"eval_people": count}), model, people, CPU) for count in (1000, 1000, 2)
    )
    assert first == again and 0 <= first < 60 and 0 <= few <= 100
    assert np.isnan(held_out_pck(DATA, model, [], CPU))


def test_held_out_pck_is_the_share_of_joints_found(videos: list[Video]) -> None:
    people = labelled_people(videos, "eval")
    parts = [people[start : start + DATA.batch_size] for start in range(0, len(people), DATA.batch_size)]
    keypoints = [np.stack([own.keypoints for own in part]) for part in parts]
    boxes = [np.stack([own.box for own in part]) for part in parts]
    for batches, wanted in zip(answers(keypoints, boxes, DATA.crop_size), (100, 50, 0), strict=True):
        model = Peaks(batches, (16, 12))
        assert held_out_pck(DATA, model, people, CPU) == pytest.approx(wanted, abs=2.5)  # type: ignore[arg-type]


def test_the_command_trains_on_the_train_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data")
    init = {"init": str(tmp_path / "backbone.safetensors"), "width": 8, "crop_size": [64, 48], "steps": 2}
    config = write_pipeline(tmp_path, pretrain={"source": "data", "batch_size": 4, **init})
    command = ("pretrain", "-p", NAME, "--config", config, "--out", tmp_path / "single.safetensors")
    done = glpose_stage(capsys, *command)
    assert done.code == 0, done.err
    assert "PCK@0.2 of the box on the eval split" in done.out and "% before" in done.out
    assert not (tmp_path / "single.safetensors.training").exists()
    metadata = read_metadata(tmp_path / "single.safetensors")
    assert metadata["joints"] == "posetrack" and "head_top" in metadata["joint_names"]
    assert '"loss":"mse"' in metadata["recipe"] and float(metadata["pck"]) >= 0
    assert load_hrnet(tmp_path / "single.safetensors").num_joints == JOINTS
    assert "exists already" in glpose_stage(capsys, *command).error
