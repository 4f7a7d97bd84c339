"""Cascade R-CNN training on annotated boxes, so that the detector can be fitted to one's own footage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from glpose.detector_frames import LabelledFrame, batches
from glpose.metrics.detection import DetectionAP, detection_ap
from glpose.models.cascade_losses import People, cascade_losses
from glpose.models.cascade_rcnn import PERSON, CascadeRCNN, to_input
from glpose.models.checkpoints import load_cascade_rcnn
from glpose.options import TrainDetectorOptions
from glpose.schedules import warm_cosine
from glpose.training_state import check_finite, load_same_state, save_state
from store.errors import CheckpointError, TrainingError

LARGEST_GRADIENT = 10.0  # norm
SAVED_EVERY = 200  # steps
SMOOTHED = 100  # steps that a reported loss is the mean of
Report = Callable[[int, float], None]  # steps done, mean loss of the last ones


def new_detector(options: TrainDetectorOptions) -> CascadeRCNN:
    """The network to train: a new one, or `options.init` cut down to persons. CheckpointError where that fails."""
    torch.manual_seed(options.seed)
    if options.init is None:
        try:
            return CascadeRCNN(options.architecture, num_classes=1, size=options.size)
        except ValueError as error:
            raise CheckpointError(f"train_detector.architecture: {error}") from None
    given = load_cascade_rcnn(options.init)
    model = CascadeRCNN(given.architecture, num_classes=1, size=options.size)
    tensors = given.state_dict()
    for name in [name for name in tensors if ".cls_score." in name]:
        tensors[name] = tensors[name][[PERSON, -1]]  # of all classes, person and background
    model.load_state_dict(tensors)
    return model


def train_detector(
    options: TrainDetectorOptions,
    frames: Sequence[LabelledFrame],
    model: CascadeRCNN,
    device: torch.device,
    workers: int,
    report: Report,
    state: Path,
) -> CascadeRCNN:
    """Train `model` on the frames; returns it in eval mode.

    What a step sees depends on the options and its number alone, not on `workers` (threads that read frames). state:
    file that the training is saved to every 200 steps and at its end; where it is there, training goes on from it,
    to the same weights. StoreError where it is of other options or frames; DataError where a frame cannot be read;
    TrainingError where nobody is annotated, or the loss or a gradient is no number any more.
    """
    if not any(len(frame.boxes) for frame in frames):
        raise TrainingError("no frame of the train split has an annotated person: there is nothing to learn from")
    model = model.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    recipe = f"{options.model_dump_json(exclude={'eval_frames'})} {len(frames)} frames"
    done, saved = load_same_state(state, recipe)
    if done:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
    _train_mode(model, options)
    losses: list[float] = []
    for step, pictures in enumerate(batches(options, frames, done, workers), start=done):
        pixels = [picture.pixels for picture in pictures]
        people = [
            People(torch.from_numpy(picture.people).to(device), torch.from_numpy(picture.ignored).to(device))
            for picture in pictures
        ]
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
            x = to_input(pixels, pixels[0].shape[:2], device)
            loss = torch.stack(
                list(cascade_losses(model, x, people, options.regions, _generator(options.seed, step)).values())
            ).sum()
        for group in optimiser.param_groups:
            group["lr"] = options.lr * warm_cosine(step, options.steps)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        check_finite(loss, model.parameters(), step, "lower train_detector.lr", state)
        nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        losses = [*losses[1 - SMOOTHED :], loss.item()]
        report(step + 1, sum(losses) / len(losses))
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == options.steps:
            save_state(state, recipe, step + 1, {"model": model.state_dict(), "optimiser": optimiser.state_dict()})
    return model.eval()


def _train_mode(model: CascadeRCNN, options: TrainDetectorOptions) -> None:
    model.train()
    if options.batch_norm == "frozen" or (options.batch_norm is None and options.init is not None):
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()


def held_out_ap(model: CascadeRCNN, frames: Sequence[LabelledFrame], count: int, device: torch.device) -> DetectionAP:
    """AP of person boxes on at most `count` frames, evenly spaced. DataError where a frame cannot be read."""
    model = model.to(device).eval()
    chosen = [frames[row] for row in np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int))]
    found = [model.detect([frame.image()])[0] for frame in chosen]
    return detection_ap(
        [frame.boxes for frame in chosen],
        [frame.ignored for frame in chosen],
        [own["boxes"] for own in found],
        [own["scores"] for own in found],
    )


def _generator(seed: int, step: int) -> torch.Generator:
    """Draws a step's regions: one of its own, so that a resumed training draws the same."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
