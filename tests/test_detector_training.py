"""Training of the detector: what it learns from and is shown, that it goes on where it was, that it learns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glpose import detector_training
from glpose.data.annotations import Annotations
from glpose.data.dataset import Video
from glpose.data.rendered import Clip, ClipOptions
from glpose.detector_frames import LabelledFrame, augment, batches, epoch_batches, labelled_frames
from glpose.detector_training import held_out_ap, new_detector, train_detector
from glpose.keypoints import POSETRACK
from glpose.models.cascade_losses import People, cascade_losses, draw, match
from glpose.models.cascade_rcnn import CascadeRCNN, decode_boxes, encode_boxes, to_input
from glpose.models.checkpoints import load_cascade_rcnn, save_checkpoint
from glpose.options import TrainDetectorOptions
from glpose.rendered_frames import rendered_frames, to_detect
from store.errors import CheckpointError, StoreError, TrainingError

CPU = torch.device("cpu")
HEIGHT, WIDTH = 60, 100
RED = (20, 20, 220)
SMALL = TrainDetectorOptions(size=(96, 64), steps=4, batch_size=2, regions=16)
NOBODY = torch.zeros(0, 4)


@dataclass(frozen=True)
class Pictures:
    """Frames that are there already."""

    images: tuple[np.ndarray, ...]

    @property
    def names(self) -> list[str]:
        return [f"{frame}.jpg" for frame in range(len(self.images))]

    def read(self, wanted: Iterable[int], unreadable: dict[int, str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        return ((frame, self.images[frame]) for frame in sorted(set(wanted)))

    def size(self) -> tuple[int, int]:
        return self.images[0].shape[0], self.images[0].shape[1]

    def fingerprint(self) -> str:
        return "pictures"


def red_boxes(count: int = 3, height: int = HEIGHT, width: int = WIDTH) -> list[LabelledFrame]:
    """Grey frames with one red rectangle each, which is the person."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(count):
        image = np.full((height, width, 3), 128, np.uint8)
        x, y = rng.integers(5, width - 45), rng.integers(5, height - 35)
        box = np.array([x, y, x + 40, y + 30], float)
        image[y : y + 30, x : x + 40] = RED
        frames.append(LabelledFrame(partial(np.copy, image), box[None], np.zeros((0, 4)), height > width))
    return frames


def generated_frames(seed: int, clips: int) -> list[LabelledFrame]:
    frames = []
    for clip in range(clips):
        image, labels = Clip(ClipOptions(144, 256, frames=1, people=(1, 2), occluders=(0, 0)), seed, clip).frame(0)
        frames.append(LabelledFrame(partial(np.copy, image), labels.boxes.astype(float), np.zeros((0, 4)), False))
    return frames


def train(options: TrainDetectorOptions, frames: list[LabelledFrame], state: Path, **changes: Any) -> CascadeRCNN:
    given = {"model": new_detector(options), "report": lambda step, loss: None} | changes
    return train_detector(options, frames, given["model"], CPU, 1, given["report"], state)


# ------------------------------------------------------------------------------------------------ whom a region shows
def test_boxes_are_matched_by_overlap() -> None:
    people = People(torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]]), NOBODY)
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 6], [20, 0, 30, 4], [50, 50, 60, 60], [0, 0, 30, 10]])
    assert match(boxes, people, 0.7, 0.3, each_person=False).tolist() == [0, -2, -2, -1, -2]
    assert match(boxes, people, 0.5, 0.5, each_person=False).tolist() == [0, 1, -1, -1, -1]


def test_each_person_gets_its_nearest_box() -> None:
    people = People(torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [70, 70, 80, 80]]), NOBODY)
    boxes = torch.tensor([[0.0, 0, 10, 5], [20, 0, 30, 4], [20, 0, 30, 4], [68, 60, 78, 72]])
    # the second person's two nearest boxes tie; nothing overlaps the third by 0.3
    assert match(boxes, people, 0.7, 0.3, each_person=True).tolist() == [0, 1, 1, -1]


def test_ignored_regions_make_no_counterexamples() -> None:
    people = People(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[40.0, 40, 60, 60]]))
    boxes = torch.tensor([[0.0, 0, 10, 10], [45, 45, 50, 50], [55, 40, 75, 60], [90, 90, 99, 99]])
    assert match(boxes, people, 0.5, 0.5, each_person=False).tolist() == [0, -2, -1, -1]
    assert match(boxes, People(NOBODY, people.ignored), 0.5, 0.5, each_person=True).tolist() == [-1, -2, -1, -1]


def test_drawing_keeps_the_share_and_the_owners() -> None:
    matched = torch.tensor([3, -1, -2, 1, -1, 0, -1, -1])
    sample = draw(matched, 6, 0.5, torch.Generator().manual_seed(0))
    assert sorted(sample.rows[:3].tolist()) == [0, 3, 5] and matched[sample.rows[:3]].tolist() == sample.people.tolist()
    assert len(sample.rows) == 6 and (matched[sample.rows[3:]] == -1).all()
    few = draw(matched, 4, 0.25, torch.Generator().manual_seed(0))
    assert len(few.people) == 1 and len(few.rows) == 4
    assert len(draw(torch.tensor([-2, -2]), 4, 0.5, torch.Generator()).rows) == 0


def test_encoding_is_undone_by_decoding() -> None:
    torch.manual_seed(0)
    low = torch.rand(50, 2) * 100
    boxes = torch.cat([low, low + 5 + torch.rand(50, 2) * 80], dim=1)
    wanted = torch.cat([low + 3, low + 9 + torch.rand(50, 2) * 50], dim=1)
    stds = (0.1, 0.1, 0.2, 0.2)
    torch.testing.assert_close(decode_boxes(boxes, encode_boxes(boxes, wanted, stds), stds, (500, 500)), wanted)


# ------------------------------------------------------------------------------------------------------------- losses
def losses_of(model: CascadeRCNN, people: list[People], seed: int = 0) -> dict[str, torch.Tensor]:
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    x = to_input([image] * len(people), (64, 96), CPU)
    return cascade_losses(model, x, people, 16, torch.Generator().manual_seed(seed))


def test_every_tensor_learns() -> None:
    torch.manual_seed(0)
    model = CascadeRCNN("resnet18_half", 1, (96, 64)).train()
    losses = losses_of(model, [People(torch.tensor([[10.0, 8, 60, 50]]), NOBODY), People(NOBODY, NOBODY)])
    assert set(losses) == {"rpn_class", "rpn_box"} | {
        f"{kind}_{stage}" for kind in ("class", "box") for stage in (1, 2, 3)
    }
    assert all(torch.isfinite(loss) for loss in losses.values()) and losses["box_1"] > 0
    torch.stack(list(losses.values())).sum().backward()
    without = [name for name, tensor in model.named_parameters() if tensor.grad is None or not tensor.grad.any()]
    assert without == []


def test_frames_without_people_teach_the_background_alone() -> None:
    torch.manual_seed(0)
    losses = losses_of(CascadeRCNN("resnet18_half", 1, (96, 64)).train(), [People(NOBODY, NOBODY)])
    assert [name for name, loss in losses.items() if loss == 0] == ["rpn_box", "box_1", "box_2", "box_3"]
    assert losses["rpn_class"] > 0 and losses["class_1"] > 0


def test_a_frame_that_is_ignored_as_a_whole_teaches_nothing() -> None:
    torch.manual_seed(0)
    model = CascadeRCNN("resnet18_half", 1, (96, 64)).train()
    losses = losses_of(model, [People(NOBODY, torch.tensor([[-1000.0, -1000, 1000, 1000]]))])
    assert {float(loss.detach()) for loss in losses.values()} == {0.0}
    torch.stack(list(losses.values())).sum().backward()


def test_later_heads_weigh_less() -> None:
    torch.manual_seed(0)
    model = CascadeRCNN("resnet18_half", 1, (96, 64)).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if ".cls_score." in name:
                tensor.zero_()
        losses = losses_of(model, [People(NOBODY, NOBODY)])
    even = float(np.log(2))  # two classes, equal logits
    torch.testing.assert_close([float(losses[f"class_{k}"]) for k in (1, 2, 3)], [even, even / 2, even / 4])


# -------------------------------------------------------------------------------------------------- what it is shown
@pytest.mark.parametrize("size", [(96, 64), (320, 160), (64, 64)])
def test_boxes_follow_the_pixels(size: tuple[int, int]) -> None:
    options = SMALL.model_copy(update={"size": size, "colour": 0.0})
    (frame,) = red_boxes(1)
    seen = 0
    for draw_number in range(40):
        shown = augment(np.random.default_rng(draw_number), frame.image(), frame, options)
        assert shown.pixels.shape == (size[1], size[0], 3)
        red = np.abs(shown.pixels.astype(int) - RED).sum(axis=2) < 30
        for x1, y1, x2, y2 in shown.people:
            rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
            extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose([x1, y1, x2, y2], extent, atol=2)
            seen += 1
        assert len(shown.people) + len(shown.ignored) <= 1
    assert seen > 20


def test_people_mostly_outside_are_ignored_not_forgotten() -> None:
    options = SMALL.model_copy(update={"scale": (3.0, 3.0)})
    (frame,) = red_boxes(1)
    shown = [augment(np.random.default_rng(k), frame.image(), frame, options) for k in range(60)]
    cut = [own for own in shown if len(own.ignored)]
    assert cut and all(len(own.people) == 0 for own in cut)
    assert all((own.ignored >= 0).all() and (own.ignored[:, 2:] <= [96, 64]).all() for own in cut)


def test_augmentation_varies_and_repeats() -> None:
    (frame,) = red_boxes(1)
    one, again, other = (augment(np.random.default_rng(seed), frame.image(), frame, SMALL) for seed in (1, 1, 2))
    assert (one.pixels == again.pixels).all() and (one.people == again.people).all()
    assert one.pixels.shape == other.pixels.shape and (one.pixels != other.pixels).any()


def test_an_epoch_shows_every_frame_and_keeps_shapes_apart() -> None:
    wide, tall = red_boxes(5), red_boxes(3, height=100, width=60)
    epochs = [epoch_batches(SMALL, [*wide, *tall], k) for k in range(2)]
    for epoch in epochs:
        assert len(epoch) == 5
        assert all(len(batch) == 2 and len({frame.tall for frame in batch}) == 1 for batch in epoch)
        shown = Counter(id(frame) for batch in epoch for frame in batch)
        assert set(shown) == {id(frame) for frame in [*wide, *tall]} and sum(shown.values()) == 10
    assert [[id(f) for f in batch] for batch in epochs[0]] != [[id(f) for f in batch] for batch in epochs[1]]


def test_batches_do_not_depend_on_threads() -> None:
    frames = red_boxes(5)
    one, four = (list(batches(SMALL, frames, 0, workers)) for workers in (1, 4))
    assert len(one) == SMALL.steps
    for a, b in zip(one, four, strict=True):
        assert all((x.pixels == y.pixels).all() and (x.people == y.people).all() for x, y in zip(a, b, strict=True))
    tail = list(batches(SMALL, frames, 2, 1))
    assert all(
        (x.pixels == y.pixels).all() for a, b in zip(one[2:], tail, strict=True) for x, y in zip(a, b, strict=True)
    )


def annotated_video(boxes: list[list[float]], frames: list[int], labelled: list[bool]) -> Video:
    count = len(labelled)
    images = tuple(np.full((HEIGHT, WIDTH, 3), frame, np.uint8) for frame in range(count))
    notes = Annotations(
        joints=POSETRACK,
        frame_names=tuple(map(str, range(count))),
        image_ids=tuple(map(str, range(count))),
        labelled=np.array(labelled),
        frame=np.array(frames, np.int64),
        person=np.arange(len(frames)),
        boxes=np.array(boxes, float).reshape(-1, 4),
        keypoints=np.zeros((len(frames), 15, 3)),
        ignored_frame=np.array([1]),
        ignored_boxes=np.array([[-5.0, 0, 20, 30]]),
    )
    return Video("v", Pictures(images), notes, np.array(["train"] * (count - 1) + ["eval"]))


def test_labelled_frames_of_the_split() -> None:
    video = annotated_video([[-5, 5, 30, 40], [200, 5, 300, 40]], [0, 1], [True, True, False, True])
    frames = labelled_frames([video], "train")
    assert [frame.image()[0, 0, 0] for frame in frames] == [0, 1]  # the third is unlabelled, the fourth of the others
    assert frames[0].boxes.tolist() == [[0, 5, 30, 40]] and frames[1].boxes.shape == (0, 4)
    assert frames[1].ignored.tolist() == [[0, 0, 20, 30]]
    assert [len(frame.boxes) for frame in labelled_frames([video], "eval")] == [0]


def test_rendered_frames_repeat_and_share_no_body_between_sets() -> None:
    told: list[int] = []
    frames = to_detect(rendered_frames("pretrain", 6, 1, told.append))
    again = to_detect(rendered_frames("pretrain", 6, 2, lambda drawn: None))
    other = to_detect(rendered_frames("val", 6, 1, lambda drawn: None))
    assert len(frames) == 6 and told[-1] == 6
    for one, same in zip(frames, again, strict=True):
        assert (one.image() == same.image()).all() and (one.boxes == same.boxes).all()
    for frame, another in zip(frames, other, strict=True):
        image = frame.image()
        height, width = image.shape[:2]
        assert frame.tall == (height > width) and image.dtype == np.uint8
        boxes = np.concatenate([frame.boxes, frame.ignored])
        assert len(boxes) and (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
        assert image.shape != another.image().shape or (image != another.image()).any()


def test_nothing_is_learnt_where_nobody_is(tmp_path: Path) -> None:
    empty = [LabelledFrame(frame.image, frame.boxes[:0], frame.ignored, False) for frame in red_boxes()]
    with pytest.raises(TrainingError, match="no frame of the train split has an annotated person"):
        train(SMALL, empty, tmp_path / "state")


# ----------------------------------------------------------------------------------------------------------- training
def test_a_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_training, "SAVED_EVERY", 2)
    frames = red_boxes(3)
    whole = train(SMALL, frames, tmp_path / "whole").state_dict()

    def stop(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SMALL, frames, tmp_path / "part", report=stop)
    steps: list[int] = []
    resumed = train(SMALL, frames, tmp_path / "part", report=lambda step, loss: steps.append(step)).state_dict()
    assert steps == [3, 4]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_state_of_another_training_is_refused(tmp_path: Path) -> None:
    frames = red_boxes(3)
    train(SMALL, frames, tmp_path / "state")
    for options, own in ((SMALL.model_copy(update={"lr": 0.5}), frames), (SMALL, frames[:2])):
        with pytest.raises(StoreError, match="state is of a training with other options or data: delete it"):
            train(options, own, tmp_path / "state")
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:1000])
    with pytest.raises(StoreError, match="state is no whole training state"):
        train(SMALL, frames, tmp_path / "state")


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    model = new_detector(SMALL)
    with torch.no_grad():
        dict(model.named_parameters())["rpn.head.cls_logits.bias"].fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"the loss is nan at step 0: lower train_detector\.lr"):
        train(SMALL, red_boxes(), tmp_path / "state", model=model)
    assert not (tmp_path / "state").exists()


def test_a_gradient_that_is_no_number_stops_it_before_a_weight_is(tmp_path: Path) -> None:
    model = new_detector(SMALL)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    dict(model.named_parameters())["rpn.head.cls_logits.bias"].register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(TrainingError, match=r"the gradient's norm is (inf|nan) at step 0: lower train_detector\.lr"):
        train(SMALL, red_boxes(), tmp_path / "state", model=model)
    assert all((tensor == before[name]).all() for name, tensor in model.named_parameters())


def test_starting_from_other_weights_keeps_the_person(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = CascadeRCNN("resnet18_half", num_classes=4)
    save_checkpoint(tmp_path / "given.safetensors", given.state_dict(), {})
    options = SMALL.model_copy(update={"init": str(tmp_path / "given.safetensors"), "steps": 1})
    model = new_detector(options)
    old, new = given.state_dict(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for stage in range(3):
        weight = f"roi_heads.box_predictor.{stage}.cls_score.weight"
        assert torch.equal(new[weight], old[weight][[0, 4]])
    rest = [name for name in old if ".cls_score." not in name]
    assert all(torch.equal(new[name], old[name]) for name in rest)
    trained = train(options, red_boxes(), tmp_path / "state", model=model).state_dict()
    changed = {name for name in trained if not torch.equal(trained[name], new[name])}
    assert "backbone.body.conv1.weight" in changed
    assert not any("running" in name for name in changed)  # batch norms are frozen where a training starts from weights


def test_starting_from_the_detector_that_ships_by_its_name() -> None:
    options = TrainDetectorOptions.model_validate({"init": "demo-detector", "size": (96, 64)})
    shipped = load_cascade_rcnn("demo-detector").state_dict()
    assert all(torch.equal(tensor, shipped[name]) for name, tensor in new_detector(options).state_dict().items())


def test_a_new_network_learns_its_statistics(tmp_path: Path) -> None:
    model = new_detector(SMALL)
    before = model.state_dict()["backbone.body.bn1.running_mean"].clone()
    after = train(SMALL, red_boxes(), tmp_path / "state", model=model).state_dict()["backbone.body.bn1.running_mean"]
    assert not torch.equal(before, after)


def test_an_unknown_architecture() -> None:
    with pytest.raises(CheckpointError, match=r"train_detector\.architecture: .* one of resnet18_half, .* resnet99"):
        new_detector(SMALL.model_copy(update={"architecture": "resnet99"}))


@pytest.mark.slow
def test_it_learns_a_handful_of_frames_and_something_of_others(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    frames, others = generated_frames(seed=3, clips=6), generated_frames(seed=4, clips=24)
    options = TrainDetectorOptions(
        size=(256, 160), steps=400, batch_size=3, regions=64, scale=(0.9, 1.1), colour=0.1, precision="bfloat16"
    )
    before = held_out_ap(new_detector(options).eval(), others, 24, CPU)
    model = train(options, frames, tmp_path / "state")
    known, unknown = held_out_ap(model, frames, 6, CPU), held_out_ap(model, others, 24, CPU)
    assert known.ap50 > 95
    assert unknown.ap50 > before.ap50 + 5
