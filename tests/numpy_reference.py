"""The paper's equations in plain NumPy, float64, loops where they read better: what the fast code is checked against.

Written from the equations (10.1145/3519305) and from the HRNet lineage's conventions, not from the torch code; the only
thing shared is the names of the tensors. Shapes: C channels, grid H x W, J joints, 2k local frames, n references.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Weights = Mapping[str, np.ndarray]
EPS = 1e-5  # of a batch norm


# --------------------------------------------------------------------------------------------------------- layers
def conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """Convolution with stride 1 and zero padding that keeps the size. x: (C, H, W); weight: (D, C, s, s), s odd."""
    out_channels, _, size, _ = weight.shape
    _, height, width = x.shape
    margin = size // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    out = np.zeros((out_channels, height, width))
    for i in range(size):
        for j in range(size):
            out += np.tensordot(weight[:, :, i, j], padded[:, i : i + height, j : j + width], axes=1)
    return out if bias is None else out + bias[:, None, None]


def batch_norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """With the running statistics, as in eval mode. x: (C, H, W)."""
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    gain = weights[f"{name}.weight"] / np.sqrt(var + EPS)
    return (x - mean[:, None, None]) * gain[:, None, None] + weights[f"{name}.bias"][:, None, None]


def basic_block(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """ResNet's basic block; its shortcut is a 1x1 convolution and a batch norm where the number of channels changes."""
    y = np.maximum(batch_norm(conv(x, weights[f"{name}.conv1.weight"]), weights, f"{name}.bn1"), 0)
    y = batch_norm(conv(y, weights[f"{name}.conv2.weight"]), weights, f"{name}.bn2")
    if f"{name}.downsample.0.weight" in weights:
        x = batch_norm(conv(x, weights[f"{name}.downsample.0.weight"]), weights, f"{name}.downsample.1")
    return np.maximum(x + y, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


# ------------------------------------------------------------------------------------------------ Eq. 2 and 3: weights
def local_weights(k: int, kind: str, normalise: bool, causal: bool = False) -> list[float]:
    """T of Eq. 2 for the offsets -k .. -1, 1 .. k, or the earlier ones alone."""
    out = []
    for offset in [*range(-k, 0), *([] if causal else range(1, k + 1))]:
        d = abs(offset)
        out.append({"inverse": 1 / d, "linear": k + 1 - d, "exponential": math.exp(1 - d), "uniform": 1.0}[kind])
    return [value / sum(out) for value in out] if normalise else out


def embedding(key: np.ndarray) -> np.ndarray:
    """Phi: the global average pool, (C, H, W) -> (C,)."""
    return np.array([channel.sum() / channel.size for channel in key])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Inner product of two vectors over their lengths."""
    return float(np.sum(a * b) / math.sqrt(np.sum(a * a) * np.sum(b * b)))


def softmax(values: Sequence[float], temperature: float) -> list[float]:
    """Over those values that are present; -inf marks an absent one, which gets 0."""
    top = max(values, default=0.0)
    parts = [math.exp((value - top) / temperature) if value > -math.inf else 0.0 for value in values]
    return [part / sum(parts) if part else 0.0 for part in parts]


def candidates(
    videos: Sequence[str],
    frames: Sequence[int],
    scores: Sequence[float],
    row: int,
    window: int,
    min_score: float,
    scope: str = "video",
    causal: bool = False,
) -> list[int]:
    """Proposals of one split that may be non-local references of `row`: of sufficient score, of its video or, with
    scope dataset, of any, but not within the window of its own, nor, if causal, later.
    """
    found = []
    for other in range(len(frames)):
        if scores[other] < min_score:
            continue
        if videos[other] != videos[row]:
            if scope == "dataset":
                found.append(other)
        elif abs(frames[other] - frames[row]) > window and (frames[other] < frames[row] or not causal):
            found.append(other)
    return found


def pose_distance(
    pose: np.ndarray, box_xyxy: Sequence[float], other: np.ndarray, other_box: Sequence[float]
) -> float | None:
    """Mean distance of the joints annotated in both poses (J, 3), each seen from its box's centre in units of the box's
    longer side; None where that is less than half of the first one's joints, or none.
    """
    total, shared, own = 0.0, 0, 0
    for a, b in zip(pose, other, strict=True):
        if a[2] == 0:
            continue
        own += 1
        if b[2] == 0:
            continue
        shared += 1
        places = []
        for point, (x1, y1, x2, y2) in ((a, box_xyxy), (b, other_box)):
            side = max(x2 - x1, y2 - y1)
            places.append(((point[0] - (x1 + x2) / 2) / side, (point[1] - (y1 + y2) / 2) / side))
        total += math.hypot(places[0][0] - places[1][0], places[0][1] - places[1][1])
    return total / shared if shared and 2 * shared >= own else None


def ranked(embeddings: np.ndarray, row: int, pool: Sequence[int], n: int) -> list[tuple[int, float]]:
    """The n of the pool with the largest sum of the Hadamard product with the row's embedding, and these sums."""
    found = [(other, float(np.sum(embeddings[row] * embeddings[other]))) for other in pool]
    return sorted(found, key=lambda pair: -pair[1])[:n]


# ------------------------------------------------------------------------------------------- Eq. 4 and 5: one sample
def heatmaps(
    weights: Weights,
    key: np.ndarray,
    local: np.ndarray,
    references: np.ndarray,
    similarity: np.ndarray,
    *,
    local_weight: str = "inverse",
    normalise_local: bool = False,
    temperature: float = 1.0,
    blocks: int = 3,
    enhancement: bool = True,
    combine: str = "block",
    causal: bool = False,
    inputs: str = "features",
    weighted: bool = True,
) -> np.ndarray:
    """(J, H, W) of one sample. key: (C, H, W). local: (2k, C, H, W), or (k, ...) if causal. references: (n, C, H, W).

    similarity: (n,), or (n, C) where the Hadamard product is not summed: then one softmax per channel.
    """
    channels = len(key)
    if inputs == "key_copies":
        local, references = np.array([key] * len(local)), np.array([key] * len(references))
        similarity = np.zeros(len(references))
    maps = [key]
    k = len(local) if causal else len(local) // 2
    for weight, v in zip(local_weights(k, local_weight, normalise_local, causal), local, strict=True):
        maps.append(weight * v if weighted else v)
    for slot, v in enumerate(references):
        if not weighted:
            per_channel = [float(np.all(similarity[slot] > -math.inf))] * channels
        elif similarity.ndim == 1:
            per_channel = [softmax(list(similarity), temperature)[slot]] * channels
        else:
            per_channel = [softmax(list(similarity[:, c]), temperature)[slot] for c in range(channels)]
        maps.append(np.array(per_channel)[:, None, None] * v)

    s = np.concatenate(maps)
    for block in range(blocks):
        s = basic_block(s, weights, f"aggregate.{block}")
    f = s
    if enhancement:
        mask = 1 - sigmoid(conv(key, weights["psi.weight"], weights["psi.bias"]))
        f = mask * s + key if combine == "sum" else basic_block(np.concatenate([mask * s, key]), weights, "combine")
    return conv(f, weights["head.weight"], weights["head.bias"])


# ---------------------------------------------------------------------------------------------- Eq. 6: targets and loss
def targets(points: np.ndarray, present: np.ndarray, size: tuple[int, int], sigma: float) -> np.ndarray:
    """(J, H, W): a Gaussian of peak 1 on the rounded pixel int(x + 0.5), cut at 3 sigma; sigma is for a width of 72."""
    height, width = size
    sigma = sigma * width / 72
    out = np.zeros((len(points), height, width))
    for joint, (x, y) in enumerate(points):
        if not present[joint]:
            continue
        centre_x, centre_y = int(x + 0.5), int(y + 0.5)
        for row in range(height):
            for column in range(width):
                dx, dy = column - centre_x, row - centre_y
                if max(abs(dx), abs(dy)) <= 3 * sigma:
                    out[joint, row, column] = math.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))
    return out


def loss(predicted: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """The mean over samples and joints of v_m * MSE. predicted, target: (B, J, H, W); weight v_m: (B, J)."""
    terms = []
    for sample in range(len(predicted)):
        for joint in range(predicted.shape[1]):
            difference = predicted[sample, joint] - target[sample, joint]
            terms.append(weight[sample, joint] * np.sum(difference * difference) / difference.size)
    return float(sum(terms) / len(terms))


# ------------------------------------------------------------------------------------------------------------ geometry
def crop_point(
    point: Sequence[float], box_xyxy: Sequence[float], crop_size: tuple[int, int], scale: float
) -> tuple[float, float]:
    """A point in frame px, in the crop of a box: widened to the crop's aspect, enlarged, centred on the crop."""
    x1, y1, x2, y2 = box_xyxy
    height, width = crop_size
    box_width, box_height = x2 - x1, y2 - y1
    if box_width * height > box_height * width:
        box_height = box_width * height / width
    else:
        box_width = box_height * width / height
    x = (point[0] - (x1 + x2) / 2) * width / (box_width * scale) + width / 2
    y = (point[1] - (y1 + y2) / 2) * height / (box_height * scale) + height / 2
    return x, y


def crop_pixel(frame: np.ndarray, x: float, y: float) -> np.ndarray:
    """The frame (h, w, 3) at a point between its pixels, bilinear, black outside. Returns (3,)."""
    x0, y0 = math.floor(x), math.floor(y)
    out = np.zeros(3)
    for row, column in ((y0, x0), (y0, x0 + 1), (y0 + 1, x0), (y0 + 1, x0 + 1)):
        if 0 <= row < frame.shape[0] and 0 <= column < frame.shape[1]:
            out += (1 - abs(x - column)) * (1 - abs(y - row)) * frame[row, column]
    return out


def decode(heatmap: np.ndarray) -> tuple[float, float]:
    """Highest pixel of (H, W), a quarter pixel towards the higher neighbour; HRNet's rule at the borders."""
    height, width = heatmap.shape
    if heatmap.max() <= 0:
        return 0.0, 0.0
    y, x = next((r, c) for r in range(height) for c in range(width) if heatmap[r, c] == heatmap.max())
    if not (1 < x < width - 1 and 1 < y < height - 1):
        return float(x), float(y)
    towards = lambda low, high: 0.25 if high > low else -0.25 if high < low else 0.0  # noqa: E731
    return (
        x + towards(heatmap[y, x - 1], heatmap[y, x + 1]),
        y + towards(heatmap[y - 1, x], heatmap[y + 1, x]),
    )


def invert_affine(affine: np.ndarray) -> np.ndarray:
    """Inverse of a (2, 3) affine, as (2, 3)."""
    linear = np.linalg.inv(affine[:, :2])
    return np.concatenate([linear, -(linear @ affine[:, 2:])], axis=1)
