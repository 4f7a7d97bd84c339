"""Heads trained on a GPU with recorded steps, against the same steps one by one.

    python benchmarks/recorded.py [--json FILE] [--repeats N]

One epoch of the paper's heads (k = 4, n = 6) on random features in the GPU's memory, in the sizes of the demo
(HRNet-W16, 192 x 144, batches of 8) and of the paper (HRNet-W48, 384 x 288). Its first three steps are not recorded,
and the recording itself counts.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

if (here := str(Path(__file__).resolve().parent)) in sys.path:
    sys.path.remove(here)
sys.path.append(here)  # last: store.py beside this file must not be taken for the package `store`

import numpy as np
import pandas as pd
import torch
from measuring import Entry, at_least, report, unmeasured, wall_seconds

from glpose import training
from glpose.data.resident import Maps, ResidentFeatures
from glpose.data.windows import Residency, SplitFeatures
from glpose.examples import Examples, make_examples
from glpose.keypoints import POSETRACK
from glpose.options import HeadOptions, IndexOptions, TrainOptions
from glpose.references import References
from store.schema import FeatureSchema

OFFSETS = (-4, -3, -2, -1, 1, 2, 3, 4)
SIZES = {"W16 192x144": (16, 48, 36, 3200), "W48 384x288": (48, 96, 72, 640)}  # C, H, W, proposals
BATCH, GAIN = 8, 1.0
RECIPE, INDEX, HEADS = TrainOptions(epochs=1, batch_size=BATCH, redraw_pool=False), IndexOptions(), HeadOptions()


def random_examples(channels: int, height: int, width: int, count: int, device: torch.device) -> Examples:
    """People of one video in a GPU's memory, with random maps, joints and references."""
    rng = np.random.default_rng(0)
    schema = FeatureSchema(
        channels=channels, height=height, width=width, stride=4, offsets=OFFSETS, backbone="random", space="random"
    )
    points, rows = rng.uniform(20, 180, (count, len(POSETRACK), 2)), np.arange(count)
    joints = np.concatenate([points, np.full((count, len(POSETRACK), 1), 2.0)], axis=2)
    table = pd.DataFrame({"video": "v", "proposal": rows, "frame": rows, "keypoints": list(joints)})

    def maps(*lead: int) -> Maps:
        values = torch.randint(256, (count, 1, *lead, *schema.map_shape), dtype=torch.uint8, device=device)
        return Maps(values, torch.full((count, 1, *lead, channels), 0.01, device=device))

    embedding = torch.rand(count, channels, device=device)
    held = ResidentFeatures(schema, OFFSETS, table, maps(), maps(len(OFFSETS)), embedding)
    split = SplitFeatures(
        schema, OFFSETS, table, embedding.cpu().numpy(), np.tile([100.0, 100.0, 200.0], (count, 1)), device,
        Residency("device", None, 0, None), held,
    )  # fmt: skip
    fixed = References(rng.integers(count, size=(count, HEADS.n)), rng.random((count, HEADS.n), np.float32))
    return make_examples(split, fixed, POSETRACK, RECIPE)


def epoch(examples: Examples, *, recorded: bool) -> None:
    """Train for an epoch."""
    with patch.object(training, "Recorded", training.Recorded if recorded else lambda function, device: function):
        training.train_heads(examples, {"own": HEADS}, RECIPE, INDEX, lambda progress: None)
    torch.cuda.synchronize()


def entry(size: str, device: torch.device, repeats: int) -> Entry:
    """Steps one by one over recorded ones."""
    examples = random_examples(*SIZES[size], device)
    steps = len(examples.split) // BATCH
    calls = [partial(epoch, examples, recorded=recorded) for recorded in (False, True)]
    theirs, ours = wall_seconds(*calls, repeats=repeats)
    note = f"{size}, batches of {BATCH}: one by one {steps / theirs:.0f} steps/s, recorded {steps / ours:.0f}"
    return at_least(theirs / ours, GAIN, note)


def main() -> int:
    """Measure, print, write; 0 when every target is met."""
    parser = argparse.ArgumentParser(description="Recorded steps of a training on a GPU.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the entries there")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    names = {size: f"train_recorded_{size.split()[0]}" for size in SIZES}
    if not torch.cuda.is_available():
        return report({name: unmeasured(GAIN, "no GPU here") for name in names.values()}, options.json)
    device = torch.device("cuda", torch.cuda.current_device())
    return report({name: entry(size, device, options.repeats) for size, name in names.items()}, options.json)


if __name__ == "__main__":
    sys.exit(main())
