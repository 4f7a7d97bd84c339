"""Training heads on stored features (§ 4.1 of the paper): several variants in one pass over them, if asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glpose.ahead import one_ahead
from glpose.batches import Batch, Portion, make_batch, plan_epoch, portions
from glpose.data.resident import positions_within
from glpose.examples import Examples
from glpose.heatmaps import scaled_sigma
from glpose.models.checkpoints import tensors_digest
from glpose.models.glpose import GLPoseHeads
from glpose.options import HeadOptions, IndexOptions, TrainOptions
from glpose.ranks import Ranks
from glpose.references import head_inputs, in_window
from glpose.targets import draw_targets, heatmap_hits, heatmap_loss
from glpose.training_log import EpochLog, Meter, Report
from glpose.training_state import load_state, save_state
from store.errors import DataError, TrainingError
from store.record import fingerprint


@dataclass
class Trained:
    """Heads of one variant. best: weights after the epoch of highest `validation_pck`; None without held-out videos."""

    model: GLPoseHeads
    log: list[EpochLog] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_epoch: int = 0


@dataclass
class Trainee:
    """A variant while it is trained. module: its model, or what averages the gradients over processes."""

    trained: Trained
    module: nn.Module
    optimiser: torch.optim.Optimizer


def train_heads(
    examples: Examples,
    variants: Mapping[str, HeadOptions],
    options: TrainOptions,
    index: IndexOptions,
    report: Report,
    *,
    layer: nn.Conv2d | None = None,
    held_out: Examples | None = None,
    state: Path | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Trained]:
    """Train heads of every variant on the examples, all in one pass over the features; models in eval mode.

    A variant's weights are those that it would get alone. Stored references are used as they are where everyone in
    scope is the pool, or where pools are not redrawn. One seed gives the same weights again on one CPU; on a GPU, as
    far as its kernels do. layer: the backbone's own, for heads that read it. held_out: what the best epoch
    is chosen on. state: file that an interrupted training goes on from, to the same weights; the caller removes it in
    the end. ranks: the processes that share the work, each with examples of its own.

    TrainingError where the loss is not finite, DataError where that is the features' fault.
    """
    ranks = ranks or Ranks()
    size = max(1, options.batch_size // ranks.count)
    trainees = {name: new_trainee(examples, heads, options, ranks, layer) for name, heads in variants.items()}
    # the first process's, as each has other videos
    recipe = ranks.from_first(training_recipe(examples, held_out, variants, options, index, layer, ranks))
    done, parts = load_state(state, recipe)
    for name, part in parts.items():
        _put_back(trainees[name], part)
    products = any(heads.per_channel for heads in variants.values())
    steps = {
        epoch: ranks.most(sum(-(-len(rows) // size) for rows in plan_epoch(examples, options, epoch)[1]))
        for epoch in range(done + 1, options.epochs + 1)
    }
    meter = Meter(list(variants), options.epochs, report)
    with closing(one_ahead(portions(examples, variants, options, index, size, steps))) as windows:
        for portion in windows:
            lr = options.lr * options.gamma ** sum(milestone < portion.epoch for milestone in options.milestones)
            for rows in portion.batches:
                drawn = (portion.epoch, meter.steps, ranks.number)
                batch = make_batch(examples, portion, rows, products, options, drawn)
                meter.add(rows, torch.stack([train_step(own, batch, lr, options, ranks) for own in trainees.values()]))
                if meter.due():
                    _check(meter, examples, portion)
                    meter.report(portion.epoch, portion.steps)
            _check(meter, examples, portion)
            if not portion.last:
                continue
            done = portion.epoch
            logs = meter.end_epoch(done, lr, ranks)
            for name, own in trainees.items():
                ranks.average_statistics(own.trained.model)
                _end_epoch(own, logs[name] if held_out is None else validate(own, held_out, logs[name], options))
            if ranks.number == 0:
                save_state(state, recipe, done, {name: _kept(own) for name, own in trainees.items()})
            meter.report(done, portion.steps, {name: own.trained.log[-1] for name, own in trainees.items()})
            meter.begin_epoch()
    for own in trainees.values():
        own.trained.model.eval()
    return {name: own.trained for name, own in trainees.items()}


def new_trainee(
    examples: Examples, heads: HeadOptions, options: TrainOptions, ranks: Ranks, layer: nn.Conv2d | None = None
) -> Trainee:
    """New heads and their optimiser. Weights depend on `options.seed` alone, not on what else is trained.

    layer: the backbone's own last one. ValueError where heads that read it are given none.
    """
    split = examples.split
    offsets = tuple(split.offsets[position] for position in positions_within(split.offsets, heads.k, heads.causal))
    torch.manual_seed(options.seed)
    model = GLPoseHeads(split.schema.channels, len(examples.joints), offsets, heads)
    if heads.reads_layer and layer is None:
        raise ValueError("heads with a prior, or that align what they see, start from the backbone's last layer")
    if model.prior is not None and layer is not None:
        model.prior.start_from(layer, scaled_sigma(options.sigma, split.schema.width), split.schema.width)
    if model.alignment is not None and layer is not None:
        model.alignment.start_from(layer)
    model = model.to(split.device).train()
    return Trainee(Trained(model), ranks.wrap(model), torch.optim.Adam(model.parameters(), lr=options.lr))


def train_step(own: Trainee, batch: Batch, lr: float, options: TrainOptions, ranks: Ranks) -> Tensor:
    """One step of one variant: (4,) on the device, loss times samples, samples, joints near their places, joints.

    With several processes the gradient is that of the mean over all their samples.
    """
    device, count = batch.points.device, len(batch.points)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
        heatmaps = own.module(*batch.inputs.of(own.trained.model.options))
    loss = heatmap_loss(heatmaps, batch.targets, batch.weight)
    share = 1.0 if ranks.count == 1 else count * ranks.count / ranks.total(torch.tensor(float(count), device=device))
    own.optimiser.zero_grad(set_to_none=True)
    (loss * share).backward()
    for group in own.optimiser.param_groups:
        group["lr"] = lr
    own.optimiser.step()
    return _figures(loss, heatmaps, batch.points, batch.weight)


def validate(own: Trainee, held_out: Examples, log: EpochLog, options: TrainOptions) -> EpochLog:
    """The epoch's line with loss and PCK on held-out videos, with the references that `index` stored."""
    split, model = held_out.split, own.trained.model.eval()
    size = (split.schema.height, split.schema.width)
    total = torch.zeros(4, device=split.device)
    for videos in split.window_videos():
        window = split.window(videos)
        references = in_window(split, window, held_out.fixed.of(window.rows))
        rows = held_out.rows_of(videos)
        for start in range(0, len(rows), options.batch_size):
            batch = rows[start : start + options.batch_size]
            points = torch.from_numpy(held_out.points[batch, 0]).to(split.device)
            weight = torch.from_numpy(held_out.weight[batch, 0]).to(split.device)
            with torch.inference_mode():
                inputs = head_inputs(window, references, batch, model.options.per_channel)
                heatmaps = model(*inputs.of(model.options))
                loss = heatmap_loss(heatmaps, draw_targets(points, weight, size, options.sigma), weight)
                total += _figures(loss, heatmaps, points, weight)
    model.train()
    loss, samples, hits, joints = total.tolist()
    return replace(log, validation_loss=loss / samples, validation_pck=100 * hits / max(joints, 1))


def _figures(loss: Tensor, heatmaps: Tensor, points: Tensor, weight: Tensor) -> Tensor:
    with torch.no_grad():
        hits, joints = heatmap_hits(heatmaps, points, weight)
        count = loss.new_tensor(float(len(points)))
        return torch.stack([loss.detach().float() * count, count, hits.float(), joints.float()])


def _end_epoch(own: Trainee, log: EpochLog) -> None:
    """Keep an epoch's line, and its weights if they are the best so far."""
    trained = own.trained
    best = max((line.validation_pck for line in trained.log), default=-1.0)
    trained.log.append(log)
    if log.validation_pck > best:  # never without held-out videos: NaN
        trained.best = {name: tensor.detach().clone() for name, tensor in trained.model.state_dict().items()}
        trained.best_epoch = log.epoch


def _check(meter: Meter, examples: Examples, portion: Portion) -> None:
    """Raise where a loss since the last look was not finite: DataError if the features are not, else TrainingError."""
    if (found := meter.not_finite()) is None:
        return
    step, loss, rows = found
    features = portion.window.features
    for row, place in zip(rows, portion.window.places[np.searchsorted(portion.window.rows, rows)], strict=True):
        seen = [place, *portion.references[0][np.searchsorted(portion.window.rows, row)].tolist()]
        for other in (place for place in seen if place >= 0):
            maps = [features.key, *([features.local] if features.local is not None and other == seen[0] else [])]
            at = torch.tensor([other], device=features.device)
            if not all(torch.isfinite(own.take(at, view)).all() for own in maps for view in range(examples.views)):
                named = features.table.iloc[int(other)]
                raise DataError(
                    f"the stored features of proposal {named['proposal']} of {named['video']!r} are not finite: make "
                    f"them again (glpose-stage verify --repair, then extract)"
                )
    raise TrainingError(
        f"the loss became {loss} in epoch {portion.epoch}, step {step}: lower train.lr, or set train.precision=float32"
    )


def training_recipe(
    examples: Examples,
    held_out: Examples | None,
    variants: Mapping[str, HeadOptions],
    options: TrainOptions,
    index: IndexOptions,
    layer: nn.Conv2d | None,
    ranks: Ranks,
) -> str:
    """Identifies a training of `train_heads`: a state of another one is of no use to it."""
    splits = [own.split for own in (examples, held_out) if own is not None]
    return fingerprint(
        {
            "options": options.model_dump(mode="json"),
            "index": index.model_dump(mode="json"),
            "heads": {name: heads.model_dump(mode="json") for name, heads in variants.items()},
            "space": examples.split.schema.space,
            "layer": None if layer is None else tensors_digest(layer.state_dict()),
            "videos": [{video: list(span) for video, span in split.spans.items()} for split in splits],
            "window": examples.split.residency.window,
            "processes": ranks.count,
        }
    )


def _kept(own: Trainee) -> dict[str, Any]:
    trained = own.trained
    return {
        "model": trained.model.state_dict(),
        "optimiser": own.optimiser.state_dict(),
        "log": [asdict(line) for line in trained.log],
        "best": trained.best,
        "best_epoch": trained.best_epoch,
    }


def _put_back(own: Trainee, part: Mapping[str, Any]) -> None:
    own.trained.model.load_state_dict(part["model"])
    own.optimiser.load_state_dict(part["optimiser"])
    own.trained.log = [EpochLog(**line) for line in part["log"]]
    own.trained.best, own.trained.best_epoch = part["best"], part["best_epoch"]
