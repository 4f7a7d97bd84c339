"""Single-frame HRNet training on endless generated frames: no data to download, any width, minutes on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import cv2
import numpy as np
import torch
from torch import Tensor

from glpose.augmentation import augment_keypoints, sample_augmentation
from glpose.data.generated import ClipOptions, render_clip
from glpose.geometry import crop_affine, crop_frame, frame_to_heatmap, heatmap_to_frame, normalise_crops, warp_crop
from glpose.heatmaps import STRIDE, decode_argmax
from glpose.keypoints import POSETRACK
from glpose.models.checkpoints import load_hrnet
from glpose.models.hrnet import HRNet
from glpose.options import PretrainOptions
from glpose.schedules import warm_cosine
from glpose.targets import draw_targets, grid_cross_entropy, heatmap_loss

FRAMES_PER_CLIP = 4  # several moments of one scene: drawing a background costs more than drawing a frame
CLIP_SIZES = ((270, 480), (360, 480), (300, 400), (400, 300))  # (height, width) px
LOSSES = {"mse": heatmap_loss, "cross_entropy": grid_cross_entropy}
Report = Callable[[int, int, float], None]  # crops seen, crops in all, loss


def new_network(options: PretrainOptions, num_joints: int) -> HRNet:
    """A network to pretrain, with He-normal weights, which short trainings get going with.

    Where `options.init` names a checkpoint, every tensor that fits is taken from it; its final_layer only for as many
    joints. CheckpointError where it cannot be read or has another width.
    """
    torch.manual_seed(options.seed)
    model = HRNet(options.width, num_joints, options.stages)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if model.final_layer is not None:
        torch.nn.init.normal_(model.final_layer.weight, std=0.01)
    if options.init is not None:
        own, given = model.state_dict(), load_hrnet(options.init, width=options.width).state_dict()
        model.load_state_dict({name: given[name] if _fits(name, own, given) else own[name] for name in own})
    return model


def _fits(name: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    return name in given and given[name].shape == own[name].shape


def pretrain(options: PretrainOptions, model: HRNet, device: torch.device, workers: int, report: Report) -> HRNet:
    """Train `model` on `options.frames` generated frames with image augmentation; returns it in eval mode.

    The crops and their order depend on the options alone, not on `workers` (processes that draw frames).
    """
    torch.manual_seed(options.seed)
    model = model.to(device).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    steps = max(1, options.frames * 2 // options.batch_size)  # a frame shows two people or more
    optimiser = torch.optim.Adam(model.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_cosine(step, steps))
    height, width = options.crop_size
    size = (height // STRIDE, width // STRIDE)
    batches = _batches(options, workers)
    for step, (crops, keypoints) in enumerate(batches, start=1):
        images = torch.from_numpy(normalise_crops(crops)).to(device)
        points = torch.from_numpy(keypoints).to(device)
        targets = draw_targets(points[..., :2] / STRIDE, points[..., 2], size, options.sigma)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
            heatmaps = model(images)
        loss = LOSSES[options.loss](heatmaps, targets, (points[..., 2] > 0).float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        report(step * options.batch_size, steps * options.batch_size, loss.item())
        if step == steps:
            break
    batches.close()
    return model.eval()


def held_out_pck(options: PretrainOptions, model: HRNet, device: torch.device, clips: int = 40) -> dict[str, float]:
    """PCKh@0.5 (percent) of clean crops from clips that training never draws, over visible and over hidden joints."""
    height, width = options.crop_size
    size = (height // STRIDE, width // STRIDE)
    hits: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for clip in range(clips):
        scene = render_clip(_clip_options(clip), options.seed + 1_000_003, clip)
        image, labels = scene.frame(clip % len(scene))
        if not len(labels):
            continue
        regions = np.stack([crop_frame(box, options.crop_size, options.crop_scale) for box in labels.boxes])
        crops = np.stack([warp_crop(image, crop_affine(r, options.crop_size), options.crop_size) for r in regions])
        with torch.inference_mode():
            maps = model(torch.from_numpy(normalise_crops(crops)).to(device)).float()
            if options.loss == "cross_entropy":  # logits: only their differences mean something
                maps = maps.flatten(2).softmax(dim=-1).unflatten(2, maps.shape[2:])
            heatmaps = maps.cpu().numpy()
        points = heatmap_to_frame(decode_argmax(heatmaps)[0], regions, size)
        corners = labels.head_boxes[:, 2:] - labels.head_boxes[:, :2]
        head = 0.6 * np.linalg.norm(corners, axis=1)
        target = frame_to_heatmap(labels.keypoints[..., :2], regions, size)  # joints beyond the crop cannot be found
        inside = ((target >= 0) & (target < [size[1], size[0]])).all(axis=-1)
        near = np.linalg.norm(points - labels.keypoints[..., :2], axis=-1) <= 0.5 * head[:, None]
        for flag, found in hits.items():
            found.append(near[(labels.keypoints[..., 2] == flag) & inside])
    return {name: 100 * float(np.concatenate(hits[flag]).mean()) for name, flag in (("visible", 2), ("hidden", 1))}


def _clip_options(clip: int) -> ClipOptions:
    height, width = CLIP_SIZES[clip % len(CLIP_SIZES)]
    return ClipOptions(height=height, width=width, frames=24, people=(1, 4), occluders=(0, 3))


def _batches(options: PretrainOptions, workers: int) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """Endless batches of crops (B, h, w, 3) uint8 BGR and keypoints (B, J, 3) float32, crop px."""
    crops: list[np.ndarray] = []
    keypoints: list[np.ndarray] = []
    # spawn: torch's threads do not survive a fork
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        waiting: list[Future[list[tuple[np.ndarray, np.ndarray]]]] = []
        clip = 0
        try:
            while True:
                while len(waiting) < 4 * workers + 8:
                    waiting.append(pool.submit(_draw_crops, options, clip))
                    clip += 1
                for crop, points in waiting.pop(0).result():
                    crops.append(crop)
                    keypoints.append(points)
                    if len(crops) == options.batch_size:
                        yield np.stack(crops), np.stack(keypoints).astype(np.float32)
                        crops, keypoints = [], []
        finally:
            for future in waiting:
                future.cancel()


def _draw_crops(options: PretrainOptions, clip: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Augmented crops of everyone in a few frames of one clip."""
    rng = np.random.default_rng([options.seed, clip, 1])
    scene = render_clip(_clip_options(clip), options.seed, clip)
    out = []
    for frame in rng.choice(len(scene), FRAMES_PER_CLIP, replace=False):
        image, labels = scene.frame(int(frame))
        for keypoints, box in zip(labels.keypoints, labels.boxes, strict=True):
            if (keypoints[:, 2] > 0).sum() < 3:
                continue
            view = sample_augmentation(
                rng, box, keypoints, POSETRACK, options.crop_size, options.crop_scale,
                rotation=options.rotation, scale=options.scale, half_body=options.half_body, flip=options.flip,
            )  # fmt: skip
            crop = warp_crop(image, view.affine, options.crop_size)
            if view.flip:
                crop = crop[:, ::-1]
            crop = np.ascontiguousarray(crop)
            out.append((crop, augment_keypoints(keypoints, view, POSETRACK, options.crop_size)))
    return out
