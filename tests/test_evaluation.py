"""From stored maps to poses: DARK and the flip test, on heads whose heatmaps are known."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from glpose.data.resident import Maps, ResidentFeatures
from glpose.data.windows import Residency, SplitFeatures
from glpose.evaluation import PLAIN, Decoding, decodings, predict_poses
from glpose.geometry import crop_frame, heatmap_to_frame
from glpose.options import EvalOptions, HeadOptions
from glpose.references import References
from store.schema import FeatureSchema

GRID, JOINTS, PEOPLE = (48, 36), 3, 5
FLIP_ORDER = [1, 0, 2]
SIGMA = 1.5  # px of this grid: 3 at a heatmap 72 wide


class Shown(nn.Module):
    """Heads whose heatmaps are the key map, or that of the local frame after it, or that of the first reference."""

    def __init__(self, which: str = "key") -> None:
        super().__init__()
        self.options, self.offsets, self.which = HeadOptions(k=1, n=1), (-1, 1), which
        self.num_joints = JOINTS

    def forward(self, key: Tensor, local: Tensor, references: Tensor, similarity: Tensor) -> Tensor:
        return {"key": key, "local": local[:, 1], "reference": references[:, 0]}[self.which]


def centres(seed: int) -> np.ndarray:
    """(P, J, 2) x, y of joints, px of the heatmap, between pixels and away from the edges."""
    return np.random.default_rng(seed).uniform([6, 6], [GRID[1] - 7, GRID[0] - 7], (PEOPLE, JOINTS, 2))


def spots(at: np.ndarray) -> np.ndarray:
    """(P, J, H, W) Gaussians."""
    rows, columns = np.mgrid[: GRID[0], : GRID[1]]
    square = (columns - at[..., 0, None, None]) ** 2 + (rows - at[..., 1, None, None]) ** 2
    return np.exp(-square / (2 * SIGMA**2)).astype(np.float32)


def split_of(clean: np.ndarray, other: np.ndarray | None = None) -> SplitFeatures:
    """A split whose clean views show these maps (P, J, H, W), and whose mirrored views what shows `other` mirrored.

    Its local frames show the maps of the person before, for who comes first of the last.
    """
    corner = np.random.default_rng(0).uniform(0, 100, (PEOPLE, 2))
    boxes = np.concatenate([corner, corner + np.array([60, 100])], axis=1)
    table = pd.DataFrame({"video": "a", "proposal": range(PEOPLE), "score": np.linspace(0.2, 1, PEOPLE)})
    views = [clean] if other is None else [clean, other[:, FLIP_ORDER, :, ::-1]]
    key = torch.from_numpy(np.stack(views, axis=1))  # (P, V, J, H, W)
    local = torch.stack([key, key.roll(1, dims=0)], dim=2)
    schema = FeatureSchema(
        channels=JOINTS, height=GRID[0], width=GRID[1], stride=4, offsets=(-1, 1), backbone="test", space="test"
    )
    embedding = torch.zeros(PEOPLE, JOINTS)
    return SplitFeatures(
        schema=schema,
        offsets=(-1, 1),
        table=table,
        embedding=embedding.numpy(),
        regions=np.stack([crop_frame(box, (192, 144), 1.25) for box in boxes]),
        device=torch.device("cpu"),
        residency=Residency("device", None, 0, None),
        held=ResidentFeatures(schema, (-1, 1), table, Maps(key, None), Maps(local, None), embedding),
        mirrored=None if other is None else 1,
    )


# of each person the one after, of the last the first
REFERENCES = References((np.arange(PEOPLE)[:, None] + 1) % PEOPLE, np.ones((PEOPLE, 1), np.float32))


def predicted(ways: list[Decoding], split: SplitFeatures, which: str = "key", batch_size: int = 2) -> list[np.ndarray]:
    heads = Shown(which)
    return predict_poses(
        heads, split, REFERENCES, "product", batch_size, ways=ways, sigma=3.0, flip_order=FLIP_ORDER,  # pyright: ignore
    )  # fmt: skip


def frame_px(at: np.ndarray) -> np.ndarray:
    return heatmap_to_frame(at, split_of(spots(at)).regions, GRID)


def test_dark_is_subpixel_and_keeps_the_scores() -> None:
    at = centres(1)
    split = split_of(spots(at))
    plain, dark = predicted([PLAIN, Decoding("dark")], split)
    pixel = split.regions[:, None, 2] / GRID[1]
    errors = [np.linalg.norm(poses[..., :2] - frame_px(at), axis=-1) / pixel for poses in (plain, dark)]
    assert errors[1].max() < 0.01 and errors[0].mean() > 0.1
    np.testing.assert_array_equal(plain[..., 2], dark[..., 2])
    scores = spots(at).max(axis=(-2, -1)) * np.linspace(0.2, 1, PEOPLE)[:, None]
    np.testing.assert_allclose(plain[..., 2], scores, rtol=1e-6)


@pytest.mark.parametrize("which", ["key", "local", "reference"])
@pytest.mark.parametrize("decode", ["argmax", "dark"])
def test_the_flip_test_mirrors_back_and_exchanges_joints(decode: Literal["argmax", "dark"], which: str) -> None:
    """Where both views show the same, nothing changes, to the bit; local frames and references are mirrored too."""
    clean = spots(centres(1))
    ways = [Decoding(decode), Decoding(decode, flip=True)]
    plain, flipped = predicted(ways, split_of(clean, clean), which)
    np.testing.assert_array_equal(plain, flipped)


@pytest.mark.parametrize(("which", "shift"), [("key", 0), ("local", 1), ("reference", -1)])
def test_the_flip_test_averages_heatmaps(which: str, shift: int) -> None:
    clean, other = spots(centres(1)), 0.5 * spots(centres(1) + np.array([1.0, -0.5]))
    both = [Decoding("dark"), Decoding("dark", flip=True)]
    plain, flipped = predicted(both, split_of(clean, other), which, batch_size=3)
    seen = [np.roll(maps, shift, axis=0) for maps in (clean, (clean + other) / 2)]
    [alone], [wanted] = (predicted([Decoding("dark")], split_of(maps)) for maps in seen)
    np.testing.assert_array_equal(plain, alone)
    np.testing.assert_allclose(flipped, wanted, atol=1e-5)
    assert np.abs(flipped[..., :2] - plain[..., :2]).min() > 1e-3


def test_the_flip_test_needs_the_mirrored_view() -> None:
    with pytest.raises(ValueError, match="mirrored view"):
        predicted([Decoding(flip=True)], split_of(spots(centres(1))))


def test_decodings_lead_from_the_plain_one_to_the_one_asked_for() -> None:
    told = {
        ("argmax", False): ["argmax"],
        ("dark", False): ["argmax", "DARK"],
        ("argmax", True): ["argmax", "argmax, flip test"],
        ("dark", True): ["argmax", "DARK", "DARK, flip test"],
    }
    for (decode, flip), words in told.items():
        ways = decodings(EvalOptions.model_validate({"decode": decode, "flip": flip}))
        assert [way.words for way in ways] == words
        assert len({way.name for way in ways}) == len(ways)
