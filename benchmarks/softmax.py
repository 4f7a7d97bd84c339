"""Training steps of heads without subnormal numbers, against the same steps with PyTorch's softmax in its place.

    glpose-stage run -p demo
    python benchmarks/softmax.py [--work work/demo] [--json FILE] [--repeats N]

The first command's detect, extract and index are what is needed of it. A batch of four people of each training clip of
the demo, with their references, as stored; heads as `train` makes them, one thread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

if (here := str(Path(__file__).resolve().parent)) in sys.path:
    sys.path.remove(here)
sys.path.append(here)  # last: store.py beside this file must not be taken for the package `store`

import numpy as np
import torch
from measuring import Entry, at_least, at_most, cpu_seconds, report
from torch import Tensor

import store
from glpose.heatmaps import scaled_sigma
from glpose.host_memory import keep_freed_memory
from glpose.keypoints import POSETRACK
from glpose.models import glpose, prior
from glpose.models.glpose import GLPoseHeads
from glpose.options import HeadOptions, TrainOptions
from glpose.single_frame import feature_layer

EACH = 4  # people of a video
VARIANTS = {"paper": HeadOptions(), "prior": HeadOptions(prior="frames")}
TARGETS = {"paper": 1.3, "prior": 2.0}
SAME = 1e-4  # of heatmaps of height 1


def people(work: Path) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The arguments of heads for some proposals of each training video, and the offsets of their local frames."""
    opened = store.open(work)
    table, parts, offsets = opened.table(), [], ()
    for video in table.loc[table["split"] == "train", "video"].unique():
        features = opened.features(video)
        ranked = opened.neighbours(video).pivot(index="proposal", columns="rank", values=["reference", "similarity"])
        ranked = ranked.dropna()
        ranked = ranked.iloc[np.linspace(0, len(ranked) - 1, EACH).astype(int)]
        rows, references = ranked.index.to_numpy(), ranked["reference"].to_numpy().astype(int)
        found = features.key(references.ravel())[:, 0]
        found = found.reshape(*references.shape, *found.shape[1:])
        similarity = ranked["similarity"].to_numpy(np.float32)
        parts.append((features.key(rows)[:, 0], features.local(rows)[:, 0], found, similarity))
        offsets = features.schema.offsets
    return tuple(torch.tensor(np.concatenate(own)) for own in zip(*parts, strict=True)), offsets


def new_heads(options: HeadOptions, offsets: tuple[int, ...], width: int) -> GLPoseHeads:
    """Heads as a training begins with them."""
    torch.manual_seed(0)
    layer = feature_layer("demo", POSETRACK)
    heads = GLPoseHeads(layer.in_channels, len(POSETRACK), offsets, options)
    if heads.prior is not None:
        heads.prior.start_from(layer, scaled_sigma(TrainOptions().sigma, width), width)
    return heads.train()


def step(heads: GLPoseHeads, inputs: tuple[Tensor, ...]) -> Tensor:
    """Forward and backward; the heatmaps."""
    heads.zero_grad()
    heatmaps = heads(*inputs)
    heatmaps.square().mean().backward()
    return heatmaps.detach()


def with_torchs(call: Callable[[], Tensor]) -> Tensor:
    """What a call gives with PyTorch's softmax."""

    def theirs(logits: Tensor, dim: int = -1) -> Tensor:
        return logits.softmax(dim=dim)

    with mock.patch.object(glpose, "bounded_softmax", theirs), mock.patch.object(prior, "bounded_softmax", theirs):
        return call()


def main() -> int:
    """Measure, print, write; 0 when every target is met."""
    parser = argparse.ArgumentParser(description="Steps without subnormal numbers.")
    parser.add_argument("--work", type=Path, default=Path("work/demo"), help="where `index` has run for the demo")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the entries there")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    inputs, offsets = people(options.work)
    count = len(inputs[0])
    entries: dict[str, Entry] = {}
    for name, variant in VARIANTS.items():
        ours = partial(step, new_heads(variant, offsets, inputs[0].shape[-1]), inputs)
        seconds, plainly = cpu_seconds(ours, partial(with_torchs, ours), repeats=options.repeats)
        note = f"{1e3 * seconds / count:.3g} ms a sample, {1e3 * plainly / count:.3g} with PyTorch's softmax"
        entries[f"steps_of_{name}_heads"] = at_least(plainly / seconds, TARGETS[name], note)
        apart = float((ours() - with_torchs(ours)).abs().max())
        entries[f"heatmaps_of_{name}_heads_differ_by"] = at_most(apart, SAME, "largest, of heatmaps of height 1")
    return report(entries, options.json)


if __name__ == "__main__":
    sys.exit(main())
