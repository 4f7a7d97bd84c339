"""Poses of stored proposals, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from glpose.data.resident import ResidentFeatures
from glpose.geometry import heatmap_to_frame
from glpose.heatmaps import decode_argmax, decode_dark
from glpose.models.glpose import GLPoseHeads
from glpose.options import EvalOptions
from glpose.training import References, head_inputs


@dataclass(frozen=True)
class Mirrored:
    """What the flip test adds: features of the same proposals in their mirrored view, and `JointSet.flip_order`."""

    features: ResidentFeatures
    flip_order: Sequence[int]


@dataclass(frozen=True)
class Decoding:
    """A way from heatmaps to points. flip: of the mean of the clean and the mirrored view's heatmaps."""

    decode: Literal["argmax", "dark"] = "argmax"
    flip: bool = False

    @property
    def name(self) -> str:
        """As files are called: `argmax`, `dark_flip` ..."""
        return self.decode + ("_flip" if self.flip else "")

    @property
    def words(self) -> str:
        """As tables say it."""
        return {"argmax": "argmax", "dark": "DARK"}[self.decode] + (", flip test" if self.flip else "")


PLAIN = Decoding()


def decodings(options: EvalOptions) -> list[Decoding]:
    """The decoding that was asked for, last, after those that show what DARK and the flip test each change."""
    steps = [PLAIN]
    if options.decode != PLAIN.decode:
        steps.append(Decoding(options.decode))
    if options.flip:
        steps.append(Decoding(options.decode, flip=True))
    return steps


def predict_poses(
    model: GLPoseHeads,
    features: ResidentFeatures,
    references: References,
    score: str,
    batch_size: int,
    ways: Sequence[Decoding] = (PLAIN,),
    sigma: float = 3.0,
    mirrored: Mirrored | None = None,
) -> list[np.ndarray]:
    """Per decoding (P, J, 3) float64: x, y in frame px and a score per joint, for every row of `features`.

    All come from the same heatmaps. score: "product", heatmap maximum x box score, or "heatmap", the maximum alone.
    sigma: of the targets that the heads were trained on, at a heatmap 72 wide; for DARK. mirrored: for decodings with
    the flip test; its references are the mirrored views of the same proposals. ValueError where it is lacking.
    """
    if mirrored is None and any(way.flip for way in ways):
        raise ValueError("the flip test needs the features of the mirrored view")
    size = (features.schema.height, features.schema.width)
    box_scores = features.table["score"].to_numpy()
    poses: list[list[np.ndarray]] = [[] for _ in ways]
    for rows in torch.arange(len(features)).split(batch_size):
        heatmaps = predict_heatmaps(model, features, references, rows)
        averaged = heatmaps
        if mirrored is not None and any(way.flip for way in ways):
            turned = predict_heatmaps(model, mirrored.features, references, rows)
            averaged = (heatmaps + turned.flip(-1)[:, list(mirrored.flip_order)]) / 2
        chosen = rows.numpy()
        for way, found in zip(ways, poses, strict=True):
            values = (averaged if way.flip else heatmaps).cpu().numpy()
            points, maxima = decode_dark(values, sigma) if way.decode == "dark" else decode_argmax(values)
            joint_scores = maxima * box_scores[chosen, None] if score == "product" else maxima
            xy = heatmap_to_frame(points, features.regions[chosen], size)
            found.append(np.concatenate([xy, joint_scores[..., None]], axis=-1))
    return [np.concatenate(found) for found in poses]


def predict_heatmaps(model: GLPoseHeads, features: ResidentFeatures, references: References, rows: Tensor) -> Tensor:
    """(B, J, H, W) float32 heatmaps of some rows, on the device of the features."""
    near = features.nearer(model.options.k)
    with torch.inference_mode():
        return model(*head_inputs(near, references, model.options, rows.to(near.device))).float()
