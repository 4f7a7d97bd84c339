"""People in frames: batches, what is kept, frames that cannot be read, and detectors of every source."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision

from glpose.box_sources import SOURCES, box_sources, boxes_of_file, detected_boxes
from glpose.data.boxes import read_box_file
from glpose.data.dataset import Video, open_video
from glpose.data.listing import list_videos
from glpose.data.video import open_frames
from glpose.detection import FramePeople, detect_people
from glpose.detectors import DETECTORS, detector_identity
from glpose.metrics.detection import detection_ap
from glpose.models.cascade_rcnn import CascadeRCNN, Detections
from glpose.models.checkpoints import load_cascade_rcnn, save_checkpoint
from glpose.options import DETECTORS as DETECTOR_NAMES
from glpose.options import BoxOptions, DetectOptions, DetectorOptions, FolderData
from glpose.proposals import propose
from store.errors import CheckpointError, ConfigError, DataError
from store.tables import BOX

CPU = torch.device("cpu")
OPTIONS = DetectorOptions()
BOXES = [[10.0, 10, 30, 50], [11, 10, 31, 50], [60, 5, 90, 55]]  # the first two are one person


def found(boxes: Sequence[Sequence[float]], scores: Sequence[float], labels: Sequence[int] | None = None) -> Detections:
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels if labels is not None else [0] * len(scores), np.int64),
    )


def write_frames(folder: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """Frames of (height, width), each as bright as its number times ten."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame, size in enumerate(sizes):
        cv2.imwrite(str(folder / f"{frame:04d}.png"), np.full((*size, 3), 10 * frame, np.uint8))
    return folder


def people_of(
    folder: Path, detector: Callable[[Sequence[np.ndarray]], Sequence[Detections]], batch_size: int = 2, **options: Any
) -> list[FramePeople]:
    source = open_frames("v", folder)
    chosen = DetectorOptions(**options)
    return list(detect_people(source, range(len(source.names)), detector, chosen, 0.2, batch_size))


def test_batches_hold_frames_of_one_size(tmp_path: Path) -> None:
    shapes: list[list[tuple[int, ...]]] = []

    def detector(images: Sequence[np.ndarray]) -> list[Detections]:
        shapes.append([image.shape[:2] for image in images])
        return [found([[0, 0, image[0, 0, 0], 5]], [0.9]) for image in images]

    folder = write_frames(tmp_path / "v", [(60, 100)] * 3 + [(30, 40)] * 2 + [(60, 100)])
    people = people_of(folder, detector)
    assert shapes == [[(60, 100)] * 2, [(60, 100)], [(30, 40)] * 2, [(60, 100)]]
    assert [(own.frame, own.boxes[0, 2], own.size) for own in people] == [
        (0, 0, (60, 100)), (1, 10, (60, 100)), (2, 20, (60, 100)), (3, 30, (30, 40)), (4, 40, (30, 40)),
        (5, 50, (60, 100)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "scores", "labels", "kept"),
    [
        ({}, [0.5, 0.9, 0.7], [0, 0, 0], [1, 2]),  # the better one of two that overlap
        ({"nms": 1.0}, [0.5, 0.9, 0.7], [0, 0, 0], [1, 2, 0]),
        ({"max_people": 1}, [0.5, 0.4, 0.7], [0, 0, 0], [2]),
        ({}, [0.19, 0.2, 0.1], [0, 0, 0], [1]),  # at least 0.2
        ({}, [0.5, 0.9, 0.7], [0, 1, 16], [0]),  # another class suppresses nobody
        ({}, [0.5, 0.9, 0.7], [3, 1, 16], []),
    ],
)  # fmt: skip
def test_who_is_kept(
    tmp_path: Path, options: dict[str, Any], scores: list[float], labels: list[int], kept: list[int]
) -> None:
    def detector(images: Sequence[np.ndarray]) -> list[Detections]:
        return [found(BOXES, scores, labels)] * len(images)

    (own,) = people_of(write_frames(tmp_path / "v", [(60, 100)]), detector, **options)
    assert own.boxes.tolist() == [BOXES[row] for row in kept]
    np.testing.assert_allclose(own.scores, np.array(scores)[kept], rtol=1e-6)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda images: [], "the detector gave 0 answers for 2 frames"),
        (lambda images: [{"boxes": np.zeros((1, 4))}] * 2, "the detector's answer for frame 0 is not boxes (n, 4)"),
        (lambda images: [found(BOXES, [0.5])] * 2, "the detector's answer for frame 0 is not boxes (n, 4)"),
        (lambda images: [None] * 2, "the detector's answer for frame 0 is not boxes (n, 4)"),
    ],
)
def test_useless_answers(tmp_path: Path, answer: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        people_of(write_frames(tmp_path / "v", [(60, 100)] * 2), answer)
    assert words in str(caught.value)


# ------------------------------------------------------------------------------------------------- frames of all kinds
def folder_video(folder: Path) -> Video:
    (ref,) = list_videos(FolderData(root=folder.parent, files=(folder.name,)))
    return open_video(ref)


def bright(images: Sequence[np.ndarray]) -> list[Detections]:
    """One person in every frame, as large as the frame."""
    return [found([[-5, -5, image.shape[1] + 5, image.shape[0] + 5]], [0.8]) for image in images]


def test_unreadable_frames_are_noted_and_left_out(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", [(60, 100)] * 5)
    (folder / "0002.png").write_bytes((folder / "0002.png").read_bytes()[:40])
    (folder / "0000.png").write_bytes(b"")
    video = folder_video(folder)
    proposals = propose(video, {"eval": detected_boxes(bright, "bright", DetectOptions(), 2)}, 0.2)
    assert proposals.table["frame"].tolist() == [1, 3, 4]
    assert proposals.table[BOX].to_numpy().tolist() == [[0, 0, 100, 60]] * 3
    assert set(proposals.table["source"]) == {"bright"} and set(proposals.table["person"]) == {-1}
    assert list(proposals.unreadable) == [0, 2] and "frame 2 cannot be decoded" in proposals.unreadable[2]
    with pytest.raises(DataError, match="frame 0 cannot be decoded"):
        propose(video, {"eval": detected_boxes(bright, "bright", DetectOptions(strict=True), 2)}, 0.2)


def test_a_video_without_a_readable_frame(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", [(60, 100)] * 2)
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no frame of video 'v' can be read; the first: .* frame 0 cannot be decoded"):
        propose(folder_video(folder), {"eval": detected_boxes(bright, "bright", DetectOptions(), 2)}, 0.2)


def test_boxes_are_clipped_to_their_own_frames(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", [(60, 100), (90, 40), (20, 200)])
    proposals = propose(folder_video(folder), {"eval": detected_boxes(bright, "bright", DetectOptions(), 2)}, 0.2)
    clipped = [[0, 0, 100, 60], [0, 0, 40, 90], [0, 0, 200, 20]]
    assert proposals.table[BOX].to_numpy().tolist() == clipped
    entries = [{"image_name": f"v/{frame:04d}.png", "bbox": [-5, -5, 300, 300], "score": 1} for frame in range(3)]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    from_file = boxes_of_file(read_box_file(tmp_path / "boxes.json"))
    assert propose(folder_video(folder), {"eval": from_file}, 0.2).table[BOX].to_numpy().tolist() == clipped


def test_every_nth_frame(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", [(60, 100)] * 7)
    options = DetectOptions(detector=DetectorOptions(every=3))
    proposals = propose(folder_video(folder), {"eval": detected_boxes(bright, "bright", options, 2)}, 0.2)
    assert proposals.table["frame"].tolist() == [0, 3, 6]


def test_splits_with_one_source_are_looked_at_in_one_go(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", [(60, 100)] * 6)
    (ref,) = list_videos(FolderData(root=tmp_path, files=("v",)))
    video = open_video(ref)
    video = Video("v", video.frames, None, np.array(["train", "train", "", "eval", "eval", ""]))
    calls: list[int] = []

    def counting(images: Sequence[np.ndarray]) -> list[Detections]:
        calls.append(len(images))
        return bright(images)

    source = detected_boxes(counting, "bright", DetectOptions(), 8)
    proposals = propose(video, {"train": source, "eval": source}, 0.2)
    assert calls == [4] and folder.is_dir()
    assert list(zip(proposals.table["frame"], proposals.table["split"], strict=True)) == [
        (0, "train"), (1, "train"), (3, "eval"), (4, "eval"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["grey", "16 bit", "16 bit grey", "transparent", "one pixel wide", "one pixel high"])
def test_images_of_any_kind(tmp_path: Path, kind: str) -> None:
    """All become 8-bit BGR; the network takes them, whatever their shape."""
    rng = np.random.default_rng(0)
    image = {
        "grey": rng.integers(0, 256, (60, 80), dtype=np.uint8),
        "16 bit": rng.integers(0, 65536, (60, 80, 3), dtype=np.uint16),
        "16 bit grey": rng.integers(0, 65536, (60, 80), dtype=np.uint16),
        "transparent": rng.integers(0, 256, (60, 80, 4), dtype=np.uint8),
        "one pixel wide": rng.integers(0, 256, (60, 1, 3), dtype=np.uint8),
        "one pixel high": rng.integers(0, 256, (1, 80, 3), dtype=np.uint8),
    }[kind]
    folder = tmp_path / "v"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), image)
    model = load_cascade_rcnn(weights(tmp_path))
    proposals = propose(folder_video(folder), {"eval": detected_boxes(model.detect, "net", DetectOptions(), 2)}, 0.0)
    height, width = image.shape[:2]
    boxes = proposals.table[BOX].to_numpy()
    assert proposals.unreadable == {} and (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
    assert len(boxes) > 0 or min(height, width) == 1  # where hardly any box covers a whole pixel


# ---------------------------------------------------------------------------------------------------------- detectors
def weights(folder: Path, size: str | None = "[96, 64]") -> Path:
    """An untrained small detector."""
    path = folder / "detector.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_checkpoint(path, CascadeRCNN("resnet18_half", 1).state_dict(), {"size": size} if size else {})
    return path


def test_every_source_has_its_maker() -> None:
    assert set(DETECTORS) == DETECTOR_NAMES
    assert tuple(SOURCES) == BoxOptions.model_fields["source"].annotation.__args__  # pyright: ignore


def test_cascade_rcnn_as_configured(tmp_path: Path) -> None:
    path = weights(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    plain, name = DETECTORS["cascade_rcnn"](DetectorOptions(checkpoint=str(path)), CPU)
    model = load_cascade_rcnn(path)
    assert model.size == (96, 64)  # as it was trained
    np.testing.assert_allclose(plain([image])[0]["boxes"], model.detect([image])[0]["boxes"], atol=1e-2)
    assert name.startswith("resnet18_half:") and len(name.split(":")[1]) == 12
    model.size = (192, 128)
    larger, _ = DETECTORS["cascade_rcnn"](DetectorOptions(checkpoint=str(path), size=(192, 128)), CPU)
    np.testing.assert_allclose(larger([image])[0]["boxes"], model.detect([image])[0]["boxes"], atol=1e-2)
    tight, _ = DETECTORS["cascade_rcnn"](DetectorOptions(checkpoint=str(path), nms=0.1), CPU)
    assert 0 < len(tight([image])[0]["boxes"]) < len(plain([image])[0]["boxes"])
    assert load_cascade_rcnn(weights(tmp_path, size=None)).size == (1333, 800)


def test_the_cap_over_all_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CascadeRCNN("resnet18_half", num_classes=5)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("cls_score.bias"):
                tensor[1:5] = 1.0  # other classes are likelier everywhere
    save_checkpoint(tmp_path / "five.safetensors", model.state_dict(), {"size": "[384, 256]"})
    image = np.random.default_rng(0).integers(0, 256, (256, 384, 3), dtype=np.uint8)
    options = {
        cap: DetectorOptions(checkpoint=str(tmp_path / "five.safetensors"), cap_all_classes=cap)
        for cap in (True, False)
    }
    capped, every = (DETECTORS["cascade_rcnn"](options[cap], CPU)[0]([image])[0] for cap in (True, False))
    assert len(capped["scores"]) == 100 > (capped["labels"] == 0).sum()
    assert len(every["scores"]) > (capped["labels"] == 0).sum() and set(every["labels"]) == {0}


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    for source, model in (("cascade_rcnn", None), ("torchvision", "ssdlite320_mobilenet_v3_large")):
        with pytest.raises(CheckpointError, match=r"other\.pth (holds no R-CNN|does not fit torchvision's ssdlite)"):
            DETECTORS[source](DetectorOptions(checkpoint=str(tmp_path / "other.pth"), model=model), CPU)
        with pytest.raises(
            CheckpointError, match=r"^detect\.detector\.checkpoint: checkpoint .*gone\.pth does not exist"
        ):
            DETECTORS[source](DetectorOptions(checkpoint=str(tmp_path / "gone.pth"), model=model), CPU)


def test_a_torchvision_detector(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = "ssdlite320_mobilenet_v3_large"
    net = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()
    torch.save(net.state_dict(), tmp_path / "ssd.pth")
    image = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    options = DetectorOptions(checkpoint=str(tmp_path / "ssd.pth"), model=name)
    detector, source = DETECTORS["torchvision"](options, CPU)
    (own,) = detector([image])
    with torch.inference_mode():
        (theirs,) = net([torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1) / 255])
    assert len(own["boxes"]) == len(theirs["boxes"]) > 0
    np.testing.assert_allclose(own["boxes"], theirs["boxes"].numpy(), atol=1e-3)
    assert ((own["labels"] == 0) == (theirs["labels"].numpy() == 1)).all()
    assert source.startswith(f"{name}:")
    with pytest.raises(ConfigError, match=r"^detect\.detector\.size: ssdlite320.* to 320 x 320; leave it out"):
        DETECTORS["torchvision"](options.model_copy(update={"size": (640, 480)}), CPU)
    with pytest.raises(ConfigError, match="torchvision has no detector 'yolo'; it has fasterrcnn_mobilenet"):
        DETECTORS["torchvision"](options.model_copy(update={"model": "yolo"}), CPU)


OWN = """
import numpy as np
def whole(images):
    boxes = [np.array([[0, 0, image.shape[1], image.shape[0]]]) for image in images]
    return [{"boxes": own, "scores": np.ones(1), "labels": np.zeros(1)} for own in boxes]
def broken(images):
    raise ZeroDivisionError("oh")
def nobody(images):
    return []
def forgetful(images):
    whole(images)
def single(images):
    return whole(images)[0]
"""


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_detector.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    image = np.zeros((40, 50, 3), np.uint8)
    for where in ("own_detector", f"{tmp_path}/own_detector.py"):
        options = DetectorOptions(model=f"{where}:whole")
        detector, source = DETECTORS["python"](options, CPU)
        assert detector([image])[0]["boxes"].tolist() == [[0, 0, 50, 40]] and source == f"python:{where}:whole"
        before = detector_identity("python", options)
        (tmp_path / "own_detector.py").write_text(OWN + "# changed\n")
        assert detector_identity("python", options) != before  # its boxes may be others now
        (tmp_path / "own_detector.py").write_text(OWN)
    broken, _ = DETECTORS["python"](DetectorOptions(model="own_detector:broken"), CPU)
    with pytest.raises(DataError, match="detector own_detector:broken failed: ZeroDivisionError: oh"):
        broken([image])
    for model, words in (
        ("own_detector:nothing", "has no function 'nothing'"),
        ("gone_module:f", "cannot be imported"),
    ):
        with pytest.raises(ConfigError, match=words):
            DETECTORS["python"](DetectorOptions(model=model), CPU)


@pytest.mark.parametrize(
    ("function", "what"), [("nobody", "0 answers"), ("forgetful", "a NoneType"), ("single", "a dict")]
)
def test_a_function_of_ones_own_owes_an_answer_for_each_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, what: str
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    model = f"{tmp_path}/own.py:{function}"
    boxes = BoxOptions(source="python")
    source = box_sources(DetectOptions(eval=boxes, train=boxes, detector=DetectorOptions(model=model)), CPU, 2)["eval"]
    with pytest.raises(
        DataError, match=rf"own\.py:{function} gave {what} for 2 frames; it owes a list of one for each"
    ):
        propose(folder_video(write_frames(tmp_path / "v", [(60, 100)] * 3)), {"eval": source}, 0.2)


def test_batches_without_an_answer_for_each_frame_are_no_endless_loop(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are 0 results for 2 frames"):
        source = detected_boxes(lambda images: [], "x", DetectOptions(), 2)
        propose(folder_video(write_frames(tmp_path / "v", [(60, 100)] * 3)), {"eval": source}, 0.2)


FILE_WITH_A_DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
import torch
with open(Path(__file__).with_name("runs"), "a") as handle:
    handle.write("x")
@dataclass
class Settings:
    largest: int = 2
def detect(images):
    if len(images) > Settings().largest:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return [{"boxes": [[0, 0, 20, 20]], "scores": [0.9], "labels": [0]} for _ in images]
"""


def test_a_file_with_a_dataclass_runs_once_and_its_batches_shrink(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FILE_WITH_A_DATACLASS)
    options, boxes = DetectorOptions(model=f"{tmp_path}/own.py:detect"), BoxOptions(source="python")
    source = box_sources(DetectOptions(eval=boxes, train=boxes, detector=options), CPU, 4)["eval"]
    detector_identity("python", options)
    assert (tmp_path / "runs").read_text() == "x"
    proposals = propose(folder_video(write_frames(tmp_path / "v", [(60, 100)] * 5)), {"eval": source}, 0.2)
    assert proposals.table["frame"].tolist() == [0, 1, 2, 3, 4]
    assert "does not hold 4 frames at once" in proposals.notes[0]
    (tmp_path / "own.py").write_text("raise KeyError('x')")
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=r"own\.py cannot be imported: KeyError: 'x'"):
        DETECTORS["python"](options, CPU)
    assert not any(name.startswith("detector_") for name in set(sys.modules) - before)


def test_sources_are_shared_where_splits_agree(tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps([]))
    both = box_sources(DetectOptions(), CPU, 2)
    assert both["train"] is both["eval"]
    mixed = box_sources(DetectOptions(eval=BoxOptions(source="file", file=tmp_path / "boxes.json")), CPU, 2)
    assert mixed["train"] is both["train"] and mixed["eval"] is not mixed["train"]


# ------------------------------------------------------------------------------------------------- average precision
def test_average_precision_of_boxes() -> None:
    people = [np.array([[0.0, 0, 10, 20], [50, 0, 60, 20]]), np.zeros((0, 4))]
    nothing = [np.zeros((0, 4)), np.zeros((0, 4))]
    perfect = detection_ap(people, nothing, people, [np.array([0.9, 0.8]), np.zeros(0)])
    assert (perfect.ap, perfect.ap50, perfect.images, perfect.people) == (pytest.approx(100), pytest.approx(100), 2, 2)
    shifted = [people[0] + [2, 0, 2, 0], people[1]]  # IoU 2/3: right at 0.50, 0.55, 0.60 and 0.65, of ten
    assert detection_ap(people, nothing, shifted, [np.array([0.9, 0.8]), np.zeros(0)]).ap == pytest.approx(40)
    one = detection_ap(people, nothing, [people[0][:1], people[1]], [np.array([0.9]), np.zeros(0)])
    assert one.ap50 == pytest.approx(100 * 51 / 101)  # 101 recall levels, up to 0.5
    assert np.isnan(detection_ap(nothing, nothing, nothing, [np.zeros(0)] * 2).ap)


def test_false_boxes_within_ignored_regions_do_not_count() -> None:
    people, crowd = [np.array([[0.0, 0, 10, 20]])], [np.array([[100.0, 0, 200, 100]])]
    detected, scores = [np.array([[110.0, 10, 130, 60], [0, 0, 10, 20]])], [np.array([0.9, 0.5])]
    assert detection_ap(people, crowd, detected, scores).ap == pytest.approx(100)
    assert detection_ap(people, [np.zeros((0, 4))], detected, scores).ap == pytest.approx(50)


# --------------------------------------------------------------------------------------------------- a GPU that is full
def test_batches_shrink_where_memory_does_not_suffice(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", [(60, 100)] * 9)
    sizes: list[int] = []

    def full_above_two(images: Sequence[np.ndarray]) -> list[Detections]:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [found([[0, 0, 1 + image[0, 0, 0], 5]], [0.9]) for image in images]

    proposals = propose(folder_video(folder), {"eval": detected_boxes(full_above_two, "x", DetectOptions(), 8)}, 0.2)
    assert proposals.table["x2"].tolist() == [1 + 10 * frame for frame in range(9)]
    assert sizes == [8, 4, 2, 2, 2, 2, 1]  # every size is tried once
    assert [note.split(":")[0] for note in proposals.notes] == [
        "the GPU's memory does not hold 8 frames at once", "the GPU's memory does not hold 4 frames at once",
    ]  # fmt: skip


def test_a_frame_that_no_memory_holds(tmp_path: Path) -> None:
    def full(images: Sequence[np.ndarray]) -> list[Detections]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match=r"does not hold one of the frames: use another device \(runtime.device=cpu"):
        source = detected_boxes(full, "x", DetectOptions(), 2)
        propose(folder_video(write_frames(tmp_path / "v", [(60, 100)])), {"eval": source}, 0.2)
