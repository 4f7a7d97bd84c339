"""Cascade R-CNN against torchvision's Faster R-CNN v2, what its speed settings change, and its memory in long videos.

    python benchmarks/detector.py [--json FILE] [--repeats N] [--data DIR] [--checkpoint FILE]

Process CPU seconds of one thread per 800 x 1333 image, calls in turn, median. Weights are random, with the batch norms'
statistics taken from the image, so that both networks find a full 1,000 proposals; this is checked. Detections are
compared with mmdetection's recorded ones, which are not redistributable. --checkpoint: trained weights, such as those
of `train-detector`, whose detections on rendered frames are compared between settings.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

if (here := str(Path(__file__).resolve().parent)) in sys.path:
    sys.path.remove(here)
sys.path.append(here)  # last: store.py beside this file must not be taken for the package `store`

import cv2
import numpy as np
import torch
from measuring import Entry, at_most, cpu_seconds, report, seconds_of, unmeasured, without_gpu
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2
from torchvision.ops import box_iou

from glpose.data.rendered import Clip, ClipOptions
from glpose.data.video import open_frames
from glpose.detection import detect_people
from glpose.film import write_film
from glpose.models.cascade_rcnn import PERSON, PROPOSALS, CascadeRCNN, Detections, resized_size, to_input
from glpose.models.checkpoints import load_cascade_rcnn
from glpose.models.hrnet import fold_batch_norm
from glpose.options import DetectorOptions

DEFAULT_DATA = Path(here).parent.parent / "shared" / "data"
HEIGHT, WIDTH = 800, 1333
BATCH = 2
RATIO = 0.9
CHANGED = 1  # detections of a photo that may have no partner
SAME_PX, SAME_SCORE = 0.05, 1e-3
PHOTOS = {  # recorded case -> its photo, or none for the drawn one
    "coco__000000000785": "000000000785.jpg",
    "posetrack18__images__val__003418_mpii_test__000000": "posetrack18_003418_000000.jpg",
    "synthetic_427x640_seed20": None,
    "x101_64x4d_person1__coco__000000000785": "000000000785.jpg",
}
CLIPS, CLIP_SEED = 40, 5_000_000
MIN_SCORE = 0.2
LENGTHS = (50, 800)  # frames
FLAT = 1.1
Detector = Callable[[np.ndarray], Detections]


# ------------------------------------------------------------------------------------------------------------ speed
def speed(repeats: int) -> dict[str, Entry]:
    """CPU seconds of our settings over those of Faster R-CNN v2."""
    image = blocks(HEIGHT, WIDTH)
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval()
    ours = CascadeRCNN("resnet50").eval()
    x = to_input([image], resized_size(HEIGHT, WIDTH, ours.size), torch.device("cpu"))
    given = torch.from_numpy(image).permute(2, 0, 1).flip(0).float() / 255
    for model in (theirs, ours):
        take_statistics(model.backbone, x)
    with torch.inference_mode():
        check_proposals(theirs.roi_heads.get_submodule("box_head"), lambda: theirs([given]), "Faster R-CNN v2")
        check_proposals(ours.roi_heads.box_head[0], lambda: ours.detect([image]), "Cascade R-CNN")
        folded = fold_batch_norm(ours)
        baseline, *seconds = cpu_seconds(
            lambda: theirs([given]),
            lambda: ours.detect([image]),
            lambda: folded.detect([image]),
            lambda: folded.detect([image] * BATCH),
            lambda: folded.detect([image], precision="bfloat16"),
            repeats=repeats,
        )
    seconds[2] /= BATCH
    v2 = f"s an image, Faster R-CNN v2 {baseline:.2f} s"
    plain, merged, batch, bfloat16 = (each / baseline for each in seconds)
    return {
        "detector_cpu_vs_faster_rcnn_v2": at_most(plain, RATIO, f"as loaded: {seconds[0]:.2f} {v2}"),
        "detector_cpu_folded": information(merged, f"batch norms folded: {seconds[1]:.2f} {v2}"),
        f"detector_cpu_folded_batch_of_{BATCH}": information(batch, f"{seconds[2]:.2f} {v2}"),
        "detector_cpu_folded_bfloat16": information(bfloat16, f"{seconds[3]:.2f} {v2}; {bfloat16_support()}"),
    }


def gpu_speed(repeats: int) -> dict[str, Entry]:
    """Seconds of our settings on the GPU over those of Faster R-CNN v2."""
    name = "detector_gpu_vs_faster_rcnn_v2"
    if not torch.cuda.is_available():
        return {name: without_gpu()}
    image, device = blocks(HEIGHT, WIDTH), torch.device("cuda")
    theirs = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval().to(device)
    ours = CascadeRCNN("resnet50").eval().to(device)
    x = to_input([image], resized_size(HEIGHT, WIDTH, ours.size), device)
    given = torch.from_numpy(image).to(device).permute(2, 0, 1).flip(0).float() / 255
    for model in (theirs, ours):
        take_statistics(model.backbone, x)
    folded = fold_batch_norm(ours)
    with torch.inference_mode():
        baseline, *seconds = seconds_of(
            device,
            lambda: theirs([given]),
            lambda: folded.detect([image]),
            lambda: folded.detect([image], precision="bfloat16"),
            lambda: folded.detect([image], precision="float16"),
            repeats=repeats,
        )
    note = f"Faster R-CNN v2 {1000 * baseline:.0f} ms on {torch.cuda.get_device_name()}"
    exact, bfloat16, float16 = (each / baseline for each in seconds)
    return {
        name: at_most(exact, RATIO, f"batch norms folded; {note}"),
        "detector_gpu_bfloat16": information(bfloat16, note),
        "detector_gpu_float16": information(float16, note),
    }


def blocks(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: coloured blocks of 32 px."""
    cells = np.random.default_rng(0).integers(0, 256, (height // 32 + 1, width // 32 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(cells.repeat(32, axis=0).repeat(32, axis=1)[:height, :width])


@torch.no_grad()
def take_statistics(backbone: nn.Module, x: Tensor) -> None:
    """Batch norms get the statistics of x (B, 3, H, W): with random weights, values would else grow with depth."""
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    backbone.train()
    backbone(x)
    backbone.eval()


def check_proposals(box_head: nn.Module, call: Callable[[], object], name: str) -> None:
    """Stop if the box head is given another number of regions than 1,000."""
    seen: list[int] = []
    handle = box_head.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    call()
    handle.remove()
    if seen != [PROPOSALS]:
        raise SystemExit(f"{name} has {seen} proposals, not {PROPOSALS}: nothing was measured")


def bfloat16_support() -> str:
    """What this CPU computes bfloat16 with."""
    cpu: Any = torch.cpu
    if cpu._is_amx_tile_supported():
        return "with AMX"
    return "with avx512_bf16" if cpu._is_avx512_bf16_supported() else "without instructions for it"


# --------------------------------------------------------------------------------------------------- same detections
def agreement(data: Path, device: str) -> dict[str, Entry]:
    """What each setting finds on the recorded photos against what mmdetection finds."""
    lines: dict[str, list[tuple[int, str]]] = {}
    for model, image, recorded in cases(data):
        for name, detector in settings(model.to(device)).items():
            lines.setdefault(name, []).append(compare(detector(image), recorded))
    entries = {}
    for name, found in lines.items():
        worst, note = max(changed for changed, _ in found), "; ".join(text for _, text in found)
        exact = "float16" not in name
        key = f"detector_changed_{name}" if device == "cpu" else f"detector_gpu_changed_{name}"
        entries[key] = at_most(worst, CHANGED, note) if exact else information(worst, note)
    return entries


def settings(model: CascadeRCNN) -> dict[str, Detector]:
    """Ways to run a network, each giving at most 100 detections of all classes."""
    folded = fold_batch_norm(model)
    channels_last = fold_batch_norm(model).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def second_of_two(image: np.ndarray) -> Detections:
        return folded.detect([image[::-1], image], all_classes=True, max_per_image=100)[1]

    def alone(net: CascadeRCNN, precision: Any, image: np.ndarray) -> Detections:
        return net.detect([image], all_classes=True, max_per_image=100, precision=precision)[0]

    found = {
        "as_loaded": partial(alone, model, "float32"),
        "folded": partial(alone, folded, "float32"),
        "folded_channels_last_weights": partial(alone, channels_last, "float32"),
        "folded_second_of_two": second_of_two,
        "folded_bfloat16": partial(alone, folded, "bfloat16"),
    }
    if next(model.parameters()).is_cuda:  # CPUs without instructions for it take minutes
        found["folded_float16"] = partial(alone, folded, "float16")
    return found


def cases(data: Path) -> Iterator[tuple[CascadeRCNN, np.ndarray, dict[str, np.ndarray]]]:
    """Each recorded photo's network, image (h, w, 3) BGR uint8 and arrays."""
    folder = data / "vectors" / "cascade"
    maker = script(folder / "recipe.py")
    for name, photo in PHOTOS.items():
        listing = "x101_64x4d_person1" if name.startswith("x101") else "r50_coco80"
        shapes = json.loads((folder / f"state_dict_{listing}.json").read_text())
        shapes = {key: entry["shape"] if isinstance(entry, dict) else entry for key, entry in shapes.items()}
        model = load_cascade_rcnn({key: torch.from_numpy(maker.tensor(key, shape)) for key, shape in shapes.items()})
        image = cv2.imread(str(data / "real" / "photos" / photo)) if photo else script(folder / "synth.py").synth()
        if image is None:
            raise SystemExit(f"{data / 'real' / 'photos' / str(photo)} cannot be read")
        yield model, image, dict(np.load(folder / "open" / f"{name}.npz"))


def script(path: Path) -> Any:
    """A module of the recorded cases."""
    spec = importlib.util.spec_from_file_location(f"cascade_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(found: Detections, recorded: dict[str, np.ndarray]) -> tuple[int, str]:
    """How many recorded detections have no partner within SAME_PX and SAME_SCORE, and the same in words."""
    reference = Detections(boxes=recorded["det_boxes"], scores=recorded["det_scores"], labels=recorded["det_labels"])
    own = partners(reference, found)
    worst = f"worst {own.px:.2g} px, score {own.score:.1g}"
    return own.changed, f"{own.changed} of {len(reference['scores'])} changed, {own.lost} lost, {worst}"


class Partners(NamedTuple):
    """Of a reference's detections: how many have no partner within SAME_PX and SAME_SCORE, or none at all; the largest
    differences of those that have one.
    """

    changed: int
    lost: int
    px: float
    score: float


def partners(reference: Detections, found: Detections) -> Partners:
    """Pair detections of one label by the largest IoU, above 0.9; each once, the reference's best first."""
    iou = box_iou(torch.from_numpy(reference["boxes"]), torch.from_numpy(found["boxes"])).nan_to_num().numpy()
    iou[reference["labels"][:, None] != found["labels"]] = 0
    px, score = [], []
    for row in range(len(iou)):
        partner = int(iou[row].argmax()) if iou.shape[1] else -1
        if partner >= 0 and iou[row, partner] > 0.9:
            px.append(float(np.abs(reference["boxes"][row] - found["boxes"][partner]).max()))
            score.append(float(abs(reference["scores"][row] - found["scores"][partner])))
            iou[:, partner] = 0
    same = sum(bool(a <= SAME_PX and b <= SAME_SCORE) for a, b in zip(px, score, strict=True))
    return Partners(len(iou) - same, len(iou) - len(px), max(px, default=0), max(score, default=0))


# ------------------------------------------------------------------------------------------------- trained weights
def trained_agreement(checkpoint: Path) -> dict[str, Entry]:
    """What lower precision changes of the persons of score 0.2 that trained weights find in rendered frames."""
    model = load_cascade_rcnn(checkpoint)
    detectors = settings(model)
    exact = detectors.pop("as_loaded")
    clips = [Clip(ClipOptions(270, 480, frames=1, people=(1, 5)), CLIP_SEED, clip) for clip in range(CLIPS)]
    images = [clip.frame(0)[0] for clip in clips]
    references = [confident(exact(image)) for image in images]
    entries = {}
    for name, detector in detectors.items():
        changed, lost, px, score = 0, 0, 0.0, 0.0
        for image, reference in zip(images, references, strict=True):
            own = partners(reference, detector(image))
            changed, lost = changed + own.changed, lost + own.lost
            px, score = max(px, own.px), max(score, own.score)
        count = sum(len(reference["scores"]) for reference in references)
        note = (
            f"{changed} of {count} persons in {CLIPS} frames changed, {lost} lost, worst {px:.2g} px, score {score:.1g}"
        )
        entries[f"detector_trained_changed_{name}"] = information(changed / count, note)
    return entries


def confident(found: Detections) -> Detections:
    """The persons of score 0.2 or more."""
    kept = (found["scores"] >= MIN_SCORE) & (found["labels"] == PERSON)
    return Detections(boxes=found["boxes"][kept], scores=found["scores"][kept], labels=found["labels"][kept])


# ------------------------------------------------------------------------------------------------------------ memory
def memory() -> dict[str, Entry]:
    """Peak memory of detecting in a long video over that of a short one, a process each."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for frames in LENGTHS:
            path = Path(folder) / f"{frames}.mp4"
            write_film(path, (blocks(270, 480) for _ in range(frames)), 25)
            command = [sys.executable, __file__, "--peak-of", str(path)]
            peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    note = f"{peaks[0] / 1e6:.0f} MB for {LENGTHS[0]} frames, {peaks[1] / 1e6:.0f} MB for {LENGTHS[1]}"
    return {"detector_peak_memory_long_over_short": at_most(peaks[1] / peaks[0], FLAT, note)}


def peak_of(path: Path) -> int:
    """Peak resident bytes of this process after detecting in a video with a small network of random weights."""
    torch.manual_seed(0)
    model = CascadeRCNN("resnet18_half", 1, size=(160, 96)).eval()
    source = open_frames("v", path)
    people = detect_people(source, range(len(source.names)), model.detect, DetectorOptions(max_people=3), 0.2, 4)
    if sum(1 for _ in people) != len(source.names):
        raise SystemExit("not every frame was looked at")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ------------------------------------------------------------------------------------------------------------- entry
def information(value: float, note: str) -> Entry:
    """An entry without a target."""
    return {"value": value, "target": None, "ok": True, "note": note}


def main() -> int:
    """Measure, print, write; 0 when every target is met."""
    parser = argparse.ArgumentParser(description="Cascade R-CNN: CPU seconds, and what speed settings change.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the entries there")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="of every timed call")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, metavar="DIR", help="recorded cases and photos")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="trained weights to compare settings on")
    parser.add_argument("--no-tf32", action="store_true", help="have a GPU compute float32 in full")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = not options.no_tf32
    if options.peak_of is not None:
        print(peak_of(options.peak_of))
        return 0
    entries = memory() | speed(options.repeats) | gpu_speed(options.repeats)
    if options.checkpoint is not None:
        entries |= trained_agreement(options.checkpoint)
    if (options.data / "vectors" / "cascade").is_dir():
        entries |= agreement(options.data, "cpu")
        if torch.cuda.is_available():
            entries |= agreement(options.data, "cuda")
    else:
        note = f"no recorded Cascade R-CNN cases in {options.data}; name the folder of the data with --data"
        print(note, file=sys.stderr)
        entries["detector_changed_as_loaded"] = unmeasured(CHANGED, note)
    return report(entries, options.json)


if __name__ == "__main__":
    sys.exit(main())
