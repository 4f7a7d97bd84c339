"""train-detector: Cascade R-CNN on annotated or rendered boxes; writes one checkpoint with its recipe and its AP."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from rich.console import Console

from glpose.data.dataset import open_video
from glpose.detector_frames import LabelledFrame, labelled_frames
from glpose.detector_training import held_out_ap, new_detector
from glpose.detector_training import train_detector as train
from glpose.metrics.detection import DetectionAP
from glpose.models.checkpoints import save_checkpoint
from glpose.rendered_frames import to_detect
from glpose.runtime import choose_device, workers_taken
from stages.console import say, training_bar
from stages.rendered_frames import draw_with_progress
from stages.stage import Context
from store.errors import StoreError


def train_detector(context: Context, out: Path, console: Console) -> Path:
    """Train and write the checkpoint (float16 tensors); returns `out`. StoreError if it exists.

    Meanwhile `out` with .training behind it holds the state: an interrupted training goes on from there.
    """
    if out.exists():
        raise StoreError(f"{out} exists already: name another with --out, or delete it")
    options = context.config.train_detector
    device = choose_device(context.config.runtime)
    frames, held_out = _frames(context, "train", console), _frames(context, "eval", console)
    people = sum(len(frame.boxes) for frame in frames)
    model = new_detector(options)
    say(console, f"train-detector: {model.architecture}, {len(frames)} frames with {people} people")
    figures: dict[str, DetectionAP] = {}
    if options.init is not None and held_out and options.eval_frames:
        figures["before"] = held_out_ap(model, held_out, options.eval_frames, device)
        say(console, f"  before: {_words(figures['before'])}")
    state = out.with_name(out.name + ".training")
    with training_bar(console, "train-detector") as told:

        def report(step: int, loss: float) -> None:
            told(step, options.steps, f"loss {loss:.3f}")

        train(options, frames, model, device, workers_taken(context.config.runtime), report, state)
    tensors = {name: t.half() if t.dtype == torch.float32 else t for name, t in model.state_dict().items()}
    model.load_state_dict(tensors)  # measured is what is written
    if held_out and options.eval_frames:
        figures["after"] = held_out_ap(model, held_out, options.eval_frames, device)
    metadata = {
        "recipe": options.model_dump_json(),
        "size": json.dumps(options.size),
        **{f"{when}_{name}": f"{getattr(ap, name):.2f}" for when, ap in figures.items() for name in ("ap", "ap50")},
    }
    save_checkpoint(out, tensors, metadata)
    state.unlink(missing_ok=True)
    say(console, f"{out}: {_words(figures['after']) if figures else 'no eval split to measure AP on'}")
    return out


def _frames(context: Context, split: str, console: Console) -> list[LabelledFrame]:
    """Labelled frames of a split; none where the data set has no such split."""
    options, workers = context.config.train_detector, workers_taken(context.config.runtime)
    if options.source == "data":
        return labelled_frames([open_video(ref) for ref in context.videos if split in ref.ranges], split)
    name, count = ("pretrain", options.frames) if split == "train" else ("val", options.eval_frames)
    return to_detect(draw_with_progress(console, name, count, workers))


def _words(ap: DetectionAP) -> str:
    return f"AP {ap.ap:.1f}, AP50 {ap.ap50:.1f} on {ap.images} held-out frames with {ap.people} people"
