"""What local frames and references contribute to single people's poses: weights, mask, and heatmaps without them.

Weights and mask are the model's own. "Without" is `glpose.evaluation.with_fewer`: where local frames are taken away,
copies of the key frame's map stand in their slots, as past a clip's edge; references that are taken away count as
missing, with weight 0. The heads stay as they were trained: this says what they make of their inputs, not what heads
would have learnt without them, which is what the single-frame row is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glpose.data.windows import SplitFeatures
from glpose.evaluation import Decoding, decode_poses, flip_mean, heatmaps_of, inputs_of, with_fewer
from glpose.models.glpose import GLPoseHeads, nonlocal_weights
from glpose.references import References, in_window

ALL, NO_LOCAL, NO_NONLOCAL, KEY_ALONE, SINGLE_FRAME = "all", "no_local", "no_nonlocal", "key_alone", "single_frame"


@dataclass(frozen=True)
class Contributions:
    """What one set of heads makes of B people, with all that it is evaluated with and without parts of it.

    local_weight: (2k,) T of Eq. 2, of the heads' offsets. nonlocal_weight: (B, n) of Eq. 3, 0 for a missing reference;
    the mean over channels where they are weighed apart. mask: (B, H, W) of Eq. 5, the mean of several; None without
    enhancement. heatmaps: source -> (B, J, H, W). poses: source -> (B, J, 3) x, y in frame px, heatmap maximum. All
    float32 but poses.
    """

    local_weight: np.ndarray
    nonlocal_weight: np.ndarray
    mask: np.ndarray | None
    heatmaps: dict[str, np.ndarray]
    poses: dict[str, np.ndarray]


def sources_of(
    model: GLPoseHeads, k: int | None = None, n: int | None = None
) -> dict[str, tuple[int | None, int | None]]:
    """Source -> k, n of `with_fewer`, of what can be taken from heads. k, n: what they are evaluated with."""
    found: dict[str, tuple[int | None, int | None]] = {ALL: (k, n)}
    if model.options.inputs == "key_copies":
        return found  # they see the key frame alone
    local, nonlocal_ = bool(model.offsets) and k != 0, model.options.n > 0 and n != 0
    if local:
        found[NO_LOCAL] = (0, n)
    if nonlocal_:
        found[NO_NONLOCAL] = (k, 0)
    if local and nonlocal_:
        found[KEY_ALONE] = (0, 0)
    return found


def contributions(
    model: GLPoseHeads,
    split: SplitFeatures,
    references: References,
    rows: np.ndarray,
    way: Decoding,
    batch_size: int,
    *,
    k: int | None = None,
    n: int | None = None,
    sigma: float | None = None,
    flip_order: Sequence[int] = (),
) -> Contributions:
    """Of the heads and the rows (B,) of a split, in their order.

    Poses of the source "all" are those of `predict_poses`; arguments are as there. With the flip test heatmaps are the
    mean of both views', the mask is of the clean one.
    """
    sources = sources_of(model, k, n)
    parts: list[tuple[np.ndarray, Tensor, Tensor | None, dict[str, Tensor]]] = []
    for videos in split.window_videos():
        held = np.concatenate([np.arange(*split.spans[video]) for video in videos])
        wanted = rows[np.isin(rows, held)]
        if not len(wanted):
            continue
        window = split.window(videos)
        found = in_window(split, window, references.of(window.rows, model.options.n))
        for start in range(0, len(wanted), batch_size):
            own = wanted[start : start + batch_size]
            inputs = inputs_of(model, window, found, own)
            heatmaps = {source: heatmaps_of(model, inputs, *fewer) for source, fewer in sources.items()}
            if way.flip and split.mirrored is not None:
                turned = inputs_of(model, window, found, own, split.mirrored)
                heatmaps = {
                    source: flip_mean(clean, heatmaps_of(model, turned, *sources[source]), flip_order)
                    for source, clean in heatmaps.items()
                }
            weights, mask = _weights_and_mask(model, with_fewer(inputs, model.offsets, k, n))
            parts.append((own, weights, mask, heatmaps))
    done = np.concatenate([own for own, *_ in parts])
    order = np.argsort(done)[np.searchsorted(np.sort(done), rows)]  # from windows' order to that of `rows`

    def joined(values: Sequence[Tensor]) -> np.ndarray:
        return torch.cat([value.float().cpu() for value in values]).numpy()[order]

    maps = {source: joined([heatmaps[source] for *_, heatmaps in parts]) for source in sources}
    masks = [mask for _, _, mask, _ in parts if mask is not None]
    return Contributions(
        local_weight=model.local_weight.float().cpu().numpy(),
        nonlocal_weight=joined([weights for _, weights, _, _ in parts]),
        mask=joined(masks) if masks else None,
        heatmaps=maps,
        poses={
            source: decode_poses(torch.from_numpy(values), split.regions[rows], way, sigma)
            for source, values in maps.items()
        },
    )


def _weights_and_mask(
    model: GLPoseHeads, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """(B, n) weights and (B, H, W) mask, means over channels where there are several."""
    key = inputs[0]
    with torch.inference_mode():
        *_, similarity = model.seen(*inputs)
        weights = nonlocal_weights(similarity, model.options)
        weights = weights.mean(dim=2) if weights.dim() == 3 else weights
        return weights, model.mask(key).mean(dim=1) if model.options.enhancement else None
