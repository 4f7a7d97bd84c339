"""Poses of stored proposals, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from glpose.data.windows import SplitFeatures, Window
from glpose.geometry import heatmap_to_frame
from glpose.heatmaps import decode_argmax, decode_dark
from glpose.models.glpose import GLPoseHeads
from glpose.options import EvalOptions
from glpose.references import References, head_inputs, in_window


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
    split: SplitFeatures,
    references: References,
    score: str,
    batch_size: int,
    *,
    k: int | None = None,
    n: int | None = None,
    ways: Sequence[Decoding] = (PLAIN,),
    sigma: float | None = None,
    flip_order: Sequence[int] = (),
) -> list[np.ndarray]:
    """Per decoding (P, J, 3) float64: x, y in frame px and a score per joint, for every proposal of the split.

    All come from the same heatmaps. references: of all proposals, as `index` stored them. score: "product", heatmap
    maximum x box score, or "heatmap", the maximum alone. k, n: of `with_fewer`. sigma: of the targets that the heads
    were trained on, at a heatmap 72 wide; for DARK. flip_order: `JointSet.flip_order`, for decodings with the flip
    test, which show the heads key, local frames and references mirrored. ValueError where sigma or the mirrored view is
    lacking.
    """
    flips = any(way.flip for way in ways)
    if flips and split.mirrored is None:
        raise ValueError("the flip test needs the features of the mirrored view")
    if sigma is None and any(way.decode == "dark" for way in ways):
        raise ValueError("DARK needs the sigma of the targets")
    box_scores = split.table["score"].to_numpy()
    poses = [np.empty((len(split), model.num_joints, 3)) for _ in ways]
    for videos in split.window_videos():
        window = split.window(videos)
        found = in_window(split, window, references.of(window.rows, model.options.n))
        for start in range(0, len(window.rows), batch_size):
            rows = window.rows[start : start + batch_size]
            heatmaps = averaged = heatmaps_of(model, window, found, rows, k=k, n=n)
            if flips and split.mirrored is not None:
                turned = heatmaps_of(model, window, found, rows, split.mirrored, k=k, n=n)
                averaged = (heatmaps + turned.flip(-1)[:, list(flip_order)]) / 2
            for way, own in zip(ways, poses, strict=True):
                values = averaged if way.flip else heatmaps
                dark = sigma if way.decode == "dark" else None
                own[rows] = poses_of(values, split.regions[rows], box_scores[rows], score, dark)
    return poses


def poses_of(
    heatmaps: Tensor, regions: np.ndarray, box_scores: np.ndarray, score: str, sigma: float | None = None
) -> np.ndarray:
    """(B, J, 3) float64: x, y in frame px and a score per joint, of heatmaps (B, J, H, W).

    regions: (B, 3) cx, cy, sw of the crops, frame px. box_scores: (B,). score: as of `predict_poses`. sigma: of the
    targets, for DARK; None: argmax.
    """
    values = heatmaps.cpu().numpy()
    points, maxima = decode_argmax(values) if sigma is None else decode_dark(values, sigma)
    xy = heatmap_to_frame(points, regions, (values.shape[-2], values.shape[-1]))
    return np.concatenate([xy, (maxima * box_scores[:, None] if score == "product" else maxima)[..., None]], axis=-1)


def heatmaps_of(
    model: GLPoseHeads,
    window: Window,
    references: tuple[Tensor, Tensor],
    rows: np.ndarray,
    view: int = 0,
    *,
    k: int | None = None,
    n: int | None = None,
) -> Tensor:
    """(B, J, H, W) float32 of one view of some proposals, their local frames and references.

    references: of all of the window, as places among its features. k, n: of `with_fewer`.
    """
    with torch.inference_mode():
        inputs = head_inputs(window, references, rows, model.options.per_channel, view, view)
        return model(*with_fewer(inputs.of(model.options), model.offsets, k, n)).float()


def with_fewer(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor], offsets: tuple[int, ...], k: int | None, n: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `GLPoseHeads.forward` takes, as it would be with fewer local frames or references; None: with all of them.

    Local maps of more than k frames away become the key frame's, as past a clip's edge; references after the first n
    count as missing. offsets: of the local maps.
    """
    key, local, references, similarity = inputs
    if k is not None:
        far = torch.tensor([abs(offset) > k for offset in offsets], dtype=torch.bool, device=key.device)
        local = torch.where(far[:, None, None, None], key[:, None], local)
    if n is not None:
        similarity = torch.cat([similarity[:, :n], torch.full_like(similarity[:, n:], -torch.inf)], dim=1)
    return key, local, references, similarity
