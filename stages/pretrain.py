"""pretrain: a single-frame HRNet on rendered frames or on a data set; one checkpoint with its recipe and figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from rich.console import Console

from glpose.data.dataset import joint_set, open_video
from glpose.keypoints import POSETRACK
from glpose.labelled_people import LabelledPeople, Person, labelled_people
from glpose.models.checkpoints import save_checkpoint
from glpose.options import PretrainOptions
from glpose.pretraining import held_out_pck, held_out_pckh, new_network
from glpose.pretraining import pretrain as train_network
from glpose.rendered_frames import rendered_people
from glpose.runtime import choose_device, workers_taken
from stages.console import say, training_bar
from stages.rendered_frames import draw_with_progress
from stages.stage import Context
from store.errors import StoreError


def pretrain(context: Context, out: Path, console: Console) -> Path:
    """Train and write the checkpoint (float16 tensors); returns `out`. StoreError if it exists.

    Meanwhile `out` with .training behind it holds the state: an interrupted training goes on from there.
    """
    if out.exists():
        raise StoreError(f"{out} exists already: name another with --out, or delete it")
    options, runtime = context.config.pretrain, context.config.runtime
    device, workers = choose_device(runtime), workers_taken(runtime)
    held_out: list[Person] = []
    if options.source == "rendered":
        frames = draw_with_progress(console, "pretrain", options.frames, workers)
        people = LabelledPeople(options, rendered_people(frames), POSETRACK)
        say(console, f"pretrain: {len(people.people)} people to train on")
    else:
        people = LabelledPeople(options, _people(context, "train"), joint_set(context.config.data))
        held_out = _people(context, "eval")
        say(console, f"pretrain: {len(people.people)} people to train on, {len(held_out)} held out")
    model = new_network(options, people.joints)
    figures = {}
    if options.source == "data" and options.init is not None and held_out and options.eval_people:
        figures["pck_before"] = held_out_pck(options, model, held_out, device)
    state = out.with_name(out.name + ".training")
    with training_bar(console, "pretrain") as told:

        def report(step: int, steps: int, loss: float) -> None:
            told(step, steps, f"loss {loss:.4g}")

        model = train_network(options, people, model, device, workers, report, state)
    if options.source == "rendered":
        figures |= {f"pckh_{name}": value for name, value in held_out_pckh(options, model, device).items()}
    elif held_out and options.eval_people:
        figures["pck"] = held_out_pck(options, model, held_out, device)
    metadata = {
        "recipe": recipe_of(options),
        "joints": people.joints.name,
        "joint_names": json.dumps(people.joints.joints),
        **{name: f"{value:.1f}" for name, value in figures.items() if math.isfinite(value)},
    }
    tensors = {name: t.half() if t.dtype == torch.float32 else t for name, t in model.state_dict().items()}
    save_checkpoint(out, tensors, metadata)
    state.unlink(missing_ok=True)
    say(console, f"{out}: HRNet-W{options.width}, {_words(options, figures)}")
    return out


def recipe_of(options: PretrainOptions) -> str:
    """What a checkpoint's metadata says of its training: the options, and the loss that null stands for."""
    return options.model_copy(update={"loss": options.loss_taken}).model_dump_json()


def _people(context: Context, split: str) -> list[Person]:
    """Annotated people of a split; none where the data set has no such split."""
    return labelled_people([open_video(ref) for ref in context.videos if split in ref.ranges], split)


def _words(options: PretrainOptions, figures: dict[str, float]) -> str:
    if options.source == "rendered":
        visible, hidden = figures["pckh_visible"], figures["pckh_hidden"]
        return f"PCKh@0.5 on held-out rendered frames {visible:.1f} % of visible, {hidden:.1f} % of hidden joints"
    if "pck" not in figures:
        return "no annotated eval split to measure it on"
    before = f", {figures['pck_before']:.1f} % before" if "pck_before" in figures else ""
    return f"PCK@0.2 of the box on the eval split {figures['pck']:.1f} %{before}"
