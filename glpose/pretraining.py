"""Single-frame HRNet training, on rendered frames or on the annotated people of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from glpose.crops import normalise
from glpose.data.rendered import Clip
from glpose.data.rendered.sets import SETS
from glpose.geometry import crop_affine, crop_frames, frame_to_heatmap, heatmap_to_frame, warp_crop
from glpose.heatmaps import STRIDE, decode_argmax
from glpose.keypoints import JointSet
from glpose.labelled_people import LabelledPeople, Person
from glpose.metrics.posetrack_files import HEAD_FACTOR
from glpose.models.checkpoints import load_hrnet
from glpose.models.hrnet import HRNet
from glpose.options import PretrainOptions
from glpose.rendered_frames import clip_options
from glpose.schedules import warm_cosine
from glpose.single_frame import SingleFrame, checkpoint_joints, make_single_frame
from glpose.targets import draw_targets, grid_cross_entropy, heatmap_loss
from glpose.training_state import check_finite, load_same_state, save_state

LOSSES = {"mse": heatmap_loss, "cross_entropy": grid_cross_entropy}
SAVED_EVERY = 200  # steps
MEASURED_AT = 0.2  # PCK of a data set's people: a joint is right within this share of the box's longer side
Report = Callable[[int, int, float], None]  # steps done, steps in all, loss


def new_network(options: PretrainOptions, joints: JointSet) -> HRNet:
    """A network to pretrain, with He-normal weights, which short trainings get going with.

    Where `options.init` names a checkpoint, every tensor that fits is taken from it; of its final_layer, where that
    reads the same stage, the heatmaps of joints that both have by name, and the others are new. CheckpointError where
    it cannot be read or has another width.
    """
    torch.manual_seed(options.seed)
    model = HRNet(options.width, len(joints), options.stages)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    assert model.final_layer is not None
    torch.nn.init.normal_(model.final_layer.weight, std=0.01)
    if options.init is None:
        return model
    given = load_hrnet(options.init, width=options.width)
    own, tensors = model.state_dict(), given.state_dict()
    own |= {name: tensors[name] for name in own if name in tensors and not name.startswith("final_layer.")}
    if given.stages == model.stages and given.num_joints:
        same = joints.joints if given.num_joints == len(joints) else ()
        names = checkpoint_joints(options.init, given.num_joints) or same
        kept = [(row, names.index(joint)) for row, joint in enumerate(joints.joints) if joint in names]
        for name in ("final_layer.weight", "final_layer.bias"):
            for row, theirs in kept:
                own[name][row] = tensors[name][theirs]
    model.load_state_dict(own)
    return model


def pretrain(
    options: PretrainOptions,
    people: LabelledPeople,
    model: HRNet,
    device: torch.device,
    workers: int,
    report: Report,
    state: Path,
) -> HRNet:
    """Train `model` with image augmentation; returns it in eval mode.

    workers: threads that draw crops. state: file that the training is saved to every 200 steps and at its
    end; where it is there, training goes on from it, to the same weights. StoreError where it is of other options or
    people; DataError where a frame cannot be read; TrainingError where nobody is annotated, or the loss or a
    gradient is no number.
    """
    steps = people.steps
    model = model.to(device).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.Adam(model.parameters(), lr=options.lr)
    recipe = f"{options.model_dump_json(exclude={'eval_people'})} {people.identity}"
    done, saved = load_same_state(state, recipe)
    if done:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
    height, width = options.crop_size
    size = (height // STRIDE, width // STRIDE)
    with closing(people.batches(done, workers)) as batches:
        for step, batch in enumerate(batches, start=done):
            images = normalise(torch.from_numpy(batch.crops).to(device))
            points = torch.from_numpy(batch.keypoints).to(device)
            targets = draw_targets(points[..., :2] / STRIDE, points[..., 2], size, options.sigma)
            with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
                heatmaps = model(images)
            loss = LOSSES[options.loss_taken](heatmaps, targets, (points[..., 2] > 0).float())
            for group in optimiser.param_groups:
                group["lr"] = options.lr * warm_cosine(step, steps)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            check_finite(loss, model.parameters(), step, "lower pretrain.lr", state)
            optimiser.step()
            if (step + 1) % SAVED_EVERY == 0 or step + 1 == steps:
                save_state(state, recipe, step + 1, {"model": model.state_dict(), "optimiser": optimiser.state_dict()})
            report(step + 1, steps, loss.item())
    return model.eval()


def held_out_pckh(options: PretrainOptions, model: HRNet, device: torch.device, clips: int = 40) -> dict[str, float]:
    """PCKh@0.5 (percent) of clean crops from clips that training never draws, over visible and over hidden joints."""
    network = _single_frame(options, model, device)
    hits: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for clip in range(clips):
        scene = Clip(clip_options(clip, "val"), SETS["val"].seed, clip)
        image, labels = scene.frame(clip % len(scene))
        if not len(labels):
            continue
        corners = labels.head_boxes[:, 2:] - labels.head_boxes[:, :2]
        head = HEAD_FACTOR * np.linalg.norm(corners, axis=1)
        distance = _distances(network, options, [image] * len(labels), labels.boxes, labels.keypoints)
        for flag, found in hits.items():
            # joints beyond the crop cannot be found
            inside = (labels.keypoints[..., 2] == flag) & np.isfinite(distance)
            found.append((distance <= 0.5 * head[:, None])[inside])
    return {name: 100 * float(np.concatenate(hits[flag]).mean()) for name, flag in (("visible", 2), ("hidden", 1))}


def held_out_pck(options: PretrainOptions, model: HRNet, people: Sequence[Person], device: torch.device) -> float:
    """PCK (percent) on at most `options.eval_people` clean crops, evenly spaced, over all annotated joints inside them.

    A joint is right within 0.2 of the box's longer side. NaN where there is nobody. DataError for an unreadable frame.
    """
    network = _single_frame(options, model, device)
    rows = np.unique(np.linspace(0, len(people) - 1, min(options.eval_people, len(people))).astype(int)).tolist()
    hits = [np.zeros(0, bool)]
    for start in range(0, len(rows), options.batch_size):
        chosen = [people[row] for row in rows[start : start + options.batch_size]]
        boxes, keypoints = np.stack([own.box for own in chosen]), np.stack([own.keypoints for own in chosen])
        distance = _distances(network, options, [own.image() for own in chosen], boxes, keypoints)
        side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        counted = (keypoints[..., 2] > 0) & np.isfinite(distance)
        hits.append((distance <= MEASURED_AT * side[:, None])[counted])
    found = np.concatenate(hits)
    return 100 * float(found.mean()) if len(found) else float("nan")


def _single_frame(options: PretrainOptions, model: HRNet, device: torch.device) -> SingleFrame:
    return make_single_frame(model, range(model.num_joints), options.loss_taken == "cross_entropy", device)


def _distances(
    network: SingleFrame,
    options: PretrainOptions,
    images: Sequence[np.ndarray],
    boxes: np.ndarray,
    keypoints: np.ndarray,
) -> np.ndarray:
    """(n, J) frame px between found and annotated joints, one person an image; infinite beyond the person's crop."""
    height, width = options.crop_size
    size = (height // STRIDE, width // STRIDE)
    regions = crop_frames(boxes, options.crop_size, options.crop_scale)
    crops = [
        warp_crop(image, crop_affine(region, options.crop_size), options.crop_size)
        for image, region in zip(images, regions, strict=True)
    ]
    maps = network.heatmaps(torch.from_numpy(np.stack(crops)).to(network.device))
    points = heatmap_to_frame(decode_argmax(maps)[0], regions, size)
    target = frame_to_heatmap(keypoints[..., :2], regions, size)
    inside = ((target >= 0) & (target < [size[1], size[0]])).all(axis=-1)
    distance = np.linalg.norm(points - keypoints[..., :2], axis=-1)
    return np.where(inside, distance, np.inf)
