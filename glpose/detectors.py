"""Detectors by name: our Cascade R-CNN, torchvision's, a function of the user's own. See DETECTORS."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torchvision

from glpose.detection import Detector
from glpose.models.cascade_rcnn import PERSON, Detections
from glpose.models.checkpoints import load_cascade_rcnn, misfits, read_state_dict, resolve_checkpoint
from glpose.models.hrnet import fold_batch_norm
from glpose.options import DetectorOptions
from store.errors import CheckpointError, ConfigError, DataError, GLPoseError
from store.record import file_digest

COCO_PERSON = 1  # torchvision's label
COCO_CLASSES = 91
NAMED = 12  # hexadecimal digits of a checkpoint's SHA-256 in the name of what it found


def cascade_rcnn(options: DetectorOptions, device: torch.device) -> tuple[Detector, str]:
    """Our Cascade R-CNN. CheckpointError where the checkpoint is none."""
    path = _checkpoint(options)
    model = fold_batch_norm(load_cascade_rcnn(path)).to(device)
    if options.size is not None:
        model.size = options.size

    def detect(images: Sequence[np.ndarray]) -> Sequence[Detections]:
        if options.cap_all_classes:
            return model.detect(
                images, all_classes=True, max_per_image=100, precision=options.precision, nms=options.nms
            )
        return model.detect(images, precision=options.precision, nms=options.nms)

    return detect, f"{model.architecture}:{file_digest(path)[:NAMED]}"


def torchvision_detector(options: DetectorOptions, device: torch.device) -> tuple[Detector, str]:
    """A detector of torchvision by its name there, with weights from a file; nothing is downloaded.

    ConfigError for a name that torchvision does not have, CheckpointError where the weights do not fit.
    """
    path, name = _checkpoint(options), str(options.model)
    known = torchvision.models.list_models(torchvision.models.detection)
    if name not in known:
        raise ConfigError(f"detect.detector.model: torchvision has no detector {name!r}; it has {', '.join(known)}")
    model: Any = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=COCO_CLASSES)
    tensors = read_state_dict(path)
    if problems := misfits(tensors, model.state_dict()):
        raise CheckpointError(
            f"{path} does not fit torchvision's {name} with {COCO_CLASSES} classes: tensors {problems}"
        )
    model.load_state_dict(model.state_dict() | tensors)
    model = model.to(device).eval()
    if options.size is not None:
        if model.transform.fixed_size is not None:
            width, height = model.transform.fixed_size
            raise ConfigError(f"detect.detector.size: {name} scales every frame to {width} x {height}; leave it out")
        model.transform.max_size, model.transform.min_size = options.size[0], (options.size[1],)

    @torch.inference_mode()
    def detect(images: Sequence[np.ndarray]) -> Sequence[Detections]:
        found = model([torch.from_numpy(image).to(device).permute(2, 0, 1).flip(0).float() / 255 for image in images])
        return [
            Detections(
                boxes=own["boxes"].cpu().numpy(),
                scores=own["scores"].cpu().numpy(),
                labels=np.where(own["labels"].cpu().numpy() == COCO_PERSON, PERSON, -1),
            )
            for own in found
        ]

    return detect, f"{name}:{file_digest(path)[:NAMED]}"


def python_detector(options: DetectorOptions, device: torch.device) -> tuple[Detector, str]:
    """A function of the user's own, as MODULE:FUNCTION or FILE.py:FUNCTION: a `Detector`. ConfigError without one."""
    where, _, function_name = str(options.model).rpartition(":")
    function = getattr(_module(where), function_name, None)
    if not callable(function):
        raise ConfigError(f"detect.detector.model: {where} has no function {function_name!r}")

    def detect(images: Sequence[np.ndarray]) -> Sequence[Detections]:
        try:
            found: Any = function(images)
        except (GLPoseError, torch.OutOfMemoryError):  # with less memory, the batch may be smaller
            raise
        except Exception as error:
            raise DataError(f"detector {options.model} failed: {type(error).__name__}: {error}") from error
        if not isinstance(found, Sequence) or len(found) != len(images):
            what = f"{len(found)} answers" if isinstance(found, Sequence) else f"a {type(found).__name__}"
            raise DataError(
                f"detector {options.model} gave {what} for {len(images)} frames; it owes a list of one for each, of "
                "frames without people too"
            )
        return found

    return detect, f"python:{options.model}"


# By name, which is a `source` of detect: what makes the detector, and what its boxes are said to come from.
DETECTORS: dict[str, Callable[[DetectorOptions, torch.device], tuple[Detector, str]]] = {
    "cascade_rcnn": cascade_rcnn,
    "torchvision": torchvision_detector,
    "python": python_detector,
}


def detector_identity(source: str, options: DetectorOptions) -> dict[str, Any]:
    """What a detector's boxes depend on, as plain data: its options and the SHA-256 of its weights or code."""
    identity: dict[str, Any] = options.model_dump(mode="json", exclude={"checkpoint"})
    if options.checkpoint is not None:
        identity["checkpoint"] = file_digest(_checkpoint(options))
    if source == "python":
        where = str(options.model).rpartition(":")[0]
        code = where if where.endswith(".py") else inspect.getsourcefile(_module(where))
        identity["code"] = file_digest(Path(code)) if code else None
    return identity


def _checkpoint(options: DetectorOptions) -> Path:
    try:
        return resolve_checkpoint(options.checkpoint or "")
    except CheckpointError as error:
        raise CheckpointError(f"detect.detector.checkpoint: {error}") from None


def _module(name: str) -> ModuleType:
    """An installed module by name, or a file ending in .py. ConfigError where it cannot be imported."""
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        called = f"detector_{file_digest(Path(name))[:NAMED]}"
        spec = importlib.util.spec_from_file_location(called, name)
        assert spec is not None and spec.loader is not None
        module = sys.modules[called] = importlib.util.module_from_spec(spec)  # dataclasses look for theirs there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[called]
            raise
        return module
    except Exception as error:  # importing runs the user's code
        raise ConfigError(
            f"detect.detector.model: {name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
