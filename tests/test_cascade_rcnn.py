"""Cascade R-CNN against mmdetection's recorded outputs, and what `detect` promises on a small network of ours."""

from __future__ import annotations

import importlib.util
import json
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, roi_align

from glpose.models.cascade_rcnn import (
    PROPOSAL_STDS,
    STAGE_STDS,
    CascadeRCNN,
    Detections,
    Refined,
    decode_boxes,
    grid_anchors,
    resized_size,
    to_input,
)
from glpose.models.checkpoints import load_cascade_rcnn
from glpose.models.hrnet import fold_batch_norm
from glpose.models.roi_features import STRIDES, roi_features, roi_levels
from store.errors import DataError

CPU = torch.device("cpu")
PHOTOS = {  # recorded case -> its photo in ../shared/data/real/photos, or none for the drawn one
    "coco__000000000785": "000000000785.jpg",
    "posetrack18__images__val__003418_mpii_test__000000": "posetrack18_003418_000000.jpg",
    "synthetic_427x640_seed20": None,
    "x101_64x4d_person1__coco__000000000785": "000000000785.jpg",
}


@pytest.fixture(scope="module")
def vectors(shared_data: Path) -> Path:
    """Folder of what mmdetection computes."""
    folder = shared_data / "vectors" / "cascade"
    if not folder.is_dir():
        pytest.skip("needs the Cascade R-CNN vectors (../shared/data/vectors/cascade), which are not in the repository")
    return folder


def script(path: Path) -> ModuleType:
    """A module of the reference vectors."""
    spec = importlib.util.spec_from_file_location(f"cascade_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photo(vectors: Path, case: str) -> np.ndarray:
    """The case's image (h, w, 3) BGR uint8."""
    name = PHOTOS[case]
    if name is None:
        return script(vectors / "synth.py").synth()
    image = cv2.imread(str(vectors.parent.parent / "real" / "photos" / name))
    assert image is not None
    return image


def crc32(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


class Case:
    """One recorded photo: the network that its weights make, what mmdetection computed, and our pyramid."""

    def __init__(self, vectors: Path, name: str) -> None:
        self.facts: dict[str, Any] = json.loads((vectors / "open" / f"{name}.json").read_text())
        self.recorded = dict(np.load(vectors / "open" / f"{name}.npz"))
        self.image = photo(vectors, name)
        listing = "x101_64x4d_person1" if name.startswith("x101") else "r50_coco80"
        shapes = json.loads((vectors / f"state_dict_{listing}.json").read_text())
        maker = script(vectors / "recipe.py")
        shapes = {key: entry["shape"] if isinstance(entry, dict) else entry for key, entry in shapes.items()}
        weights = {key: torch.from_numpy(maker.tensor(key, shape)) for key, shape in shapes.items()}
        self.model = load_cascade_rcnn({"meta": {"CLASSES": ("person",)}, "state_dict": weights})
        height, width = self.image.shape[:2]
        self.size = resized_size(height, width, self.model.size)
        with torch.inference_mode():
            self.levels: list[Tensor] = list(self.model.backbone(to_input([self.image], self.size, CPU)).values())


@pytest.fixture(scope="module", params=PHOTOS)
def case(vectors: Path, request: pytest.FixtureRequest) -> Case:
    return Case(vectors, request.param)


@pytest.mark.parametrize("name", list(PHOTOS)[:3])
def test_the_network_sees_what_mmdetections_sees(vectors: Path, name: str) -> None:
    facts, image = json.loads((vectors / "open" / f"{name}.json").read_text()), photo(vectors, name)
    size = resized_size(image.shape[0], image.shape[1], (1333, 800))
    assert list(size) == facts["img_shape"]
    assert crc32(to_input([image], size, CPU).numpy()) == facts["input_f32_crc32"]


@pytest.mark.slow
def test_pyramid_levels_equal_mmdetections(case: Case) -> None:
    for number, level in enumerate(case.levels, start=2):
        channel, down, right = case.facts[f"P{number}_sub_step"]
        recorded = case.recorded[f"P{number}_sub"]
        np.testing.assert_allclose(level[0, ::channel, ::down, ::right], recorded, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_proposals_equal_mmdetections(case: Case) -> None:
    with torch.inference_mode():
        [(boxes, scores)] = case.model.rpn(case.levels, case.size)
    np.testing.assert_allclose(scores, case.recorded["proposal_scores"], rtol=0, atol=1e-4)
    off = np.abs(boxes.numpy() - case.recorded["proposals"]).max(axis=1) > 0.02
    assert off.sum() <= 20  # rows of nearly equal scores come in either order


@pytest.mark.slow
def test_every_stage_equals_mmdetections_from_its_proposals(case: Case) -> None:
    recorded = case.recorded
    with torch.inference_mode():
        stages: list[Refined] = case.model.roi_heads(case.levels, [torch.from_numpy(recorded["proposals"])], case.size)
    for number, stage in enumerate(stages, start=1):
        if f"st{number}_logits_top50" in recorded:
            np.testing.assert_allclose(stage.logits[:50], recorded[f"st{number}_logits_top50"], rtol=0, atol=2e-3)
            np.testing.assert_allclose(stage.boxes[:50], recorded[f"st{number}_boxes_top50"], rtol=0, atol=0.02)
    boxes = np.abs(stages[-1].boxes.numpy() - recorded["final_boxes_all_resized"]).max(axis=1)
    probs = torch.stack([stage.logits for stage in stages]).mean(dim=0).softmax(dim=1)[:, 0].numpy()
    # One in a thousand may be sampled otherwise: RoIAlign's number of samples jumps with a box's size.
    assert (boxes > 0.02).sum() <= 1
    assert (np.abs(probs - recorded["avg_person_prob_all"]) > 1e-3).sum() <= 1


def unmatched(found: Detections, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> int:
    """How many recorded detections have no partner of their own within 0.05 px and 1e-3 score."""
    free, missed = set(range(len(found["boxes"]))), 0
    for box, score, label in zip(boxes, scores, labels, strict=True):
        distance = np.abs(found["boxes"] - box).max(axis=1)
        fits = (distance <= 0.05) & (np.abs(found["scores"] - score) <= 1e-3) & (found["labels"] == label)
        partners = [row for row in free if fits[row]]
        if partners:
            free.remove(min(partners, key=lambda row: distance[row]))
        else:
            missed += 1
    return missed


@pytest.mark.slow
def test_detections_equal_mmdetections(case: Case) -> None:
    recorded = case.recorded
    [found] = case.model.detect([case.image], all_classes=True, max_per_image=100)
    assert abs(len(found["boxes"]) - len(recorded["det_boxes"])) <= 1
    assert unmatched(found, recorded["det_boxes"], recorded["det_scores"], recorded["det_labels"]) <= 1

    if "person_nocap_boxes" in recorded:
        [people] = case.model.detect([case.image])
        count = len(recorded["person_nocap_boxes"])
        assert abs(len(people["boxes"]) - count) <= 1
        labels = np.zeros(count)
        assert unmatched(people, recorded["person_nocap_boxes"], recorded["person_nocap_scores"], labels) <= 1


def test_anchors_are_mmdetections(vectors: Path) -> None:
    facts = json.loads((vectors / "components.json").read_text())
    for number, (height, width) in enumerate(facts["anchor_sizes"]):
        anchors = grid_anchors(height, width, STRIDES[number]).numpy()
        assert (len(anchors), crc32(anchors)) == tuple(facts[f"anchors{number}"].values())


def test_boxes_are_decoded_as_mmdetection_does(vectors: Path) -> None:
    recorded = np.load(vectors / "components.npz")
    boxes, deltas = torch.from_numpy(recorded["coder_rois"]), torch.from_numpy(recorded["coder_deltas"])
    for name, stds in zip(["rpn", "st1", "st2", "st3"], [PROPOSAL_STDS, *STAGE_STDS], strict=True):
        decoded = decode_boxes(boxes, deltas, stds, (800, 1205))
        np.testing.assert_allclose(decoded, recorded[f"coder_{name}"], rtol=0, atol=1e-3)


def test_regions_are_read_from_mmdetections_levels(vectors: Path) -> None:
    recorded = np.load(vectors / "components.npz")
    sides = torch.from_numpy(recorded["level_side"])
    boxes = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides], dim=1)
    assert roi_levels(boxes).tolist() == recorded["level_idx"].tolist()
    assert roi_levels(torch.zeros(1, 4)).tolist() == [0]  # no area


def test_features_of_regions_are_those_of_roi_align() -> None:
    """On the CPU we pool in a way of our own: values and gradients, at all levels, at the borders, without area."""
    random = torch.Generator().manual_seed(0)
    height, width, images = 480, 640, torch.tensor([0, 1] * 40)
    shapes = [(2, 3, height // stride, width // stride) for stride in STRIDES[:4]]
    levels = [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]
    corners = torch.rand(80, 2, 2, generator=random).sort(dim=1).values.flatten(1)
    boxes = corners * torch.tensor([width, height] * 2)
    boxes[:30, 2:] = boxes[:30, :2] + 60 * torch.rand(30, 2, generator=random)  # small ones, some over the border
    boxes = torch.minimum(boxes, torch.tensor([width, height] * 2))
    boxes[:4] = torch.tensor([[0, 0, width, height], [5, 5, 5, 90], [8, 9, 8, 9], [width - 3, 0, width, height]])
    chosen = roi_levels(boxes)
    assert set(chosen.tolist()) == {0, 1, 2, 3}

    rois = torch.cat([images[:, None], boxes], dim=1)
    expected = torch.stack(
        [roi_align(levels[k], rois[[n]], 7, 1 / STRIDES[k], 0, True)[0] for n, k in enumerate(chosen)]
    )
    features = roi_features(levels, boxes, images)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    assert not features[1:3].any()
    weights = torch.randn(features.shape, generator=random)
    ours, theirs = (torch.autograd.grad((each * weights).sum(), levels) for each in (features, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_images_are_resized_to_mmdetections_sizes(vectors: Path) -> None:
    for given, expected in json.loads((vectors / "components.json").read_text())["rescale"].items():
        width, height = (int(side) for side in given.split("x"))
        assert resized_size(height, width, (1333, 800)) == (expected[1], expected[0])


def small_network(num_classes: int = 3, background: float = 0.0) -> CascadeRCNN:
    """Our narrow network in eval mode with the same random weights in every call; `background`: its logit's bias."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CascadeRCNN("resnet18_narrow", num_classes, size=(160, 128)).eval()
        for head, predictor in zip(model.roi_heads.box_head, model.roi_heads.box_predictor, strict=True):
            for layer in (*head.children(), *predictor.children()):
                torch.nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]
            torch.nn.init.constant_(predictor.cls_score.bias[-1:], background)  # type: ignore[index]
    return model


@pytest.fixture(scope="module")
def network() -> CascadeRCNN:
    return small_network()


def noise(height: int = 96, width: int = 130, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: coloured blocks of 8 px."""
    cells = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return cells.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


def assert_same(one: Detections, other: Detections) -> None:
    assert len(one["boxes"]) == len(other["boxes"]) > 0
    assert unmatched(one, other["boxes"], other["scores"], other["labels"]) == 0


def test_a_batch_gives_what_single_images_give(network: CascadeRCNN) -> None:
    images = [noise(seed=seed) for seed in range(2)]
    for together, image in zip(network.detect(images, all_classes=True), images, strict=True):
        assert_same(together, network.detect([image], all_classes=True)[0])


def test_folded_batch_norms_give_the_same_and_leave_the_weights_alone() -> None:
    model = small_network()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.add_(0.01)  # type: ignore[union-attr]
            layer.running_var.mul_(1.1)  # type: ignore[union-attr]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_batch_norm(model)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    assert_same(folded.detect([noise()], all_classes=True)[0], model.detect([noise()], all_classes=True)[0])
    again = CascadeRCNN("resnet18_narrow", model.num_classes)
    again.load_state_dict(model.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())


def test_bfloat16_moves_detections_but_computes_boxes_in_float32() -> None:
    network = small_network()
    with torch.no_grad():
        for predictor in network.roi_heads.box_predictor:  # random heads throw boxes about: these hardly move them
            predictor.bbox_pred.weight.mul_(0.01)  # type: ignore[union-attr, operator]
            predictor.cls_score.weight.mul_(0.1)  # type: ignore[union-attr, operator]
    [exact], [found] = network.detect([noise()]), network.detect([noise()], precision="bfloat16")
    assert (found["boxes"].dtype, found["scores"].dtype, found["labels"].dtype) == (np.float32, np.float32, np.int64)
    boxes = torch.from_numpy(found["boxes"])
    overlaps = box_iou(torch.from_numpy(exact["boxes"]), boxes).amax(dim=1)
    assert overlaps.median() > 0.98
    assert unmatched(found, exact["boxes"], exact["scores"], exact["labels"]) > 0
    assert (boxes.bfloat16().float() - boxes).abs().max() > 0.1  # px


def test_the_input_is_channels_last() -> None:
    x = to_input([noise(), noise(seed=1)], (96, 130), CPU)
    assert x.shape == (2, 3, 96, 160) and x.is_contiguous(memory_format=torch.channels_last)


def test_images_of_several_sizes_keep_their_order(network: CascadeRCNN) -> None:
    images = [noise(64, 96), noise(96, 64)[:, ::-1], noise(64, 96, seed=1)]  # the second is a view
    for together, image in zip(network.detect(images), images, strict=True):
        assert_same(together, network.detect([image])[0])


def test_detections_keep_their_promises(network: CascadeRCNN) -> None:
    [found] = network.detect([noise()], all_classes=True)
    boxes, scores, labels = found["boxes"], found["scores"], found["labels"]
    assert boxes.shape == (len(scores), 4) and scores.shape == labels.shape
    assert (boxes.dtype, scores.dtype, labels.dtype) == (np.float32, np.float32, np.int64)
    assert set(labels.tolist()) == {0, 1, 2}
    assert scores.min() > 0.05 and (np.diff(scores) <= 0).all()
    assert boxes.min() >= 0 and (boxes <= np.array([130, 96, 130, 96]) + 1e-4).all()
    for label in range(3):
        own = torch.from_numpy(boxes[labels == label])
        overlaps = box_iou(own, own).nan_to_num().fill_diagonal_(0)  # no number for two of no area
        assert overlaps.max() <= 0.5 + 1e-6


def test_people_are_the_first_class_and_no_others_push_them_out(network: CascadeRCNN) -> None:
    [everything] = network.detect([noise()], all_classes=True)
    [people] = network.detect([noise()])
    rows = everything["labels"] == 0
    assert 0 < rows.sum() < len(rows)
    np.testing.assert_array_equal(people["boxes"], everything["boxes"][rows])
    np.testing.assert_array_equal(people["scores"], everything["scores"][rows])
    assert not people["labels"].any()

    [best] = network.detect([noise()], max_per_image=3)
    np.testing.assert_array_equal(best["boxes"], people["boxes"][:3])
    [best] = network.detect([noise()], all_classes=True, max_per_image=3)
    np.testing.assert_array_equal(best["scores"], everything["scores"][:3])


def test_boxes_are_in_pixels_of_the_given_image(network: CascadeRCNN) -> None:
    small = np.full((48, 64, 3), (40, 120, 200), np.uint8)  # of one colour, so both resize to the same input
    [found] = network.detect([small])
    [doubled] = network.detect([small.repeat(2, axis=0).repeat(2, axis=1)])
    assert len(found["boxes"]) > 0
    np.testing.assert_allclose(doubled["boxes"], 2 * found["boxes"], rtol=0, atol=1e-3)


def test_no_images_and_images_that_show_nothing() -> None:
    network = small_network(background=100.0)
    assert network.detect([]) == []
    for found in network.detect([noise(), noise(seed=1)]):
        assert (found["boxes"].shape, found["scores"].shape, found["labels"].shape) == ((0, 4), (0,), (0,))


@pytest.mark.parametrize("shape", [(1, 1), (300, 1), (1, 300), (5000, 1)])
def test_very_thin_images_are_detected_in(network: CascadeRCNN, shape: tuple[int, int]) -> None:
    [found] = network.detect([noise(*shape)])
    assert (found["boxes"][:, 2:] <= np.array(shape[::-1]) + 1e-4).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((20, 30), np.uint8),
        np.zeros((20, 30, 1), np.uint8),
        np.zeros((20, 30, 4), np.uint8),
        np.zeros((20, 30, 3), np.uint16),
        np.zeros((0, 30, 3), np.uint8),
    ],
    ids=["grey", "grey 3-d", "RGBA", "16 bit", "empty"],
)
def test_other_arrays_are_refused(network: CascadeRCNN, image: np.ndarray) -> None:
    with pytest.raises(DataError) as caught:
        network.detect([noise(), image])
    assert f"image 1 of those given to the detector is {image.shape} {image.dtype}" in str(caught.value)


def test_a_single_image_is_no_sequence_of_images(network: CascadeRCNN) -> None:
    with pytest.raises(DataError, match="takes a sequence"):
        network.detect(noise())  # type: ignore[arg-type]


def test_sides_change_by_at_most_a_thousand_sixteenths() -> None:
    box = torch.tensor([[100.0, 100.0, 116.0, 132.0]])
    assert decode_boxes(box, torch.zeros(1, 4), STAGE_STDS[0], (5000, 5000)).tolist() == box.tolist()
    shifted = decode_boxes(box, torch.tensor([[1.0, -1.0, 0.0, 0.0]]), STAGE_STDS[0], (5000, 5000))
    torch.testing.assert_close(shifted, box + torch.tensor([1.6, -3.2, 1.6, -3.2]))
    for way, side in ((1e3, 1000), (-1e3, 16 * 16 / 1000)):
        scaled = decode_boxes(box + 2000, torch.tensor([[0.0, 0.0, way, 0.0]]), PROPOSAL_STDS, (5000, 5000))
        torch.testing.assert_close(scaled[0, 2] - scaled[0, 0], torch.tensor(float(side)), rtol=0, atol=1e-3)
    assert decode_boxes(box, torch.zeros(1, 4), PROPOSAL_STDS, (120, 110)).tolist() == [[100, 100, 110, 120]]


def test_unknown_networks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one of resnet18_half, resnet18_narrow, resnet50, .* resnet51"):
        CascadeRCNN("resnet51")
    with pytest.raises(ValueError, match="num_classes >= 1"):
        CascadeRCNN("resnet50", num_classes=0)
