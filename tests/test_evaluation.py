"""From stored maps to poses: DARK and the flip test, on heads whose heatmaps are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from glpose.data.resident import Maps, ResidentFeatures
from glpose.evaluation import PLAIN, Decoding, Mirrored, decodings, predict_poses
from glpose.geometry import crop_frame, heatmap_to_frame
from glpose.options import EvalOptions, HeadOptions
from glpose.training import References
from store.schema import FeatureSchema

GRID, JOINTS, PEOPLE = (48, 36), 3, 5
FLIP_ORDER = [1, 0, 2]
SIGMA = 1.5  # px of this grid: 3 at a heatmap 72 wide


class FirstChannels(nn.Module):
    """Heads whose heatmaps are the first channels of the key map."""

    options = HeadOptions(k=0, n=0)

    def forward(self, key: Tensor, local: Tensor, references: Tensor, similarity: Tensor) -> Tensor:
        return key[:, :JOINTS]


HEADS = FirstChannels()
NOBODY = References(torch.full((PEOPLE, 0), -1), torch.full((PEOPLE, 0), -torch.inf))


def centres(seed: int) -> np.ndarray:
    """(P, J, 2) x, y of joints, px of the heatmap, between pixels and away from the edges."""
    return np.random.default_rng(seed).uniform([6, 6], [GRID[1] - 7, GRID[0] - 7], (PEOPLE, JOINTS, 2))


def spots(at: np.ndarray) -> np.ndarray:
    """(P, J, H, W) Gaussians."""
    rows, columns = np.mgrid[: GRID[0], : GRID[1]]
    square = (columns - at[..., 0, None, None]) ** 2 + (rows - at[..., 1, None, None]) ** 2
    return np.exp(-square / (2 * SIGMA**2)).astype(np.float32)


def features(maps: np.ndarray) -> ResidentFeatures:
    corner = np.random.default_rng(0).uniform(0, 100, (PEOPLE, 2))
    boxes = np.concatenate([corner, corner + np.array([60, 100])], axis=1)
    table = pd.DataFrame({"video": "a", "proposal": range(PEOPLE), "score": np.linspace(0.2, 1, PEOPLE)})
    return ResidentFeatures(
        schema=FeatureSchema(
            channels=JOINTS, height=GRID[0], width=GRID[1], stride=4, offsets=(), backbone="test", space="test"
        ),
        offsets=(),
        table=table,
        regions=np.stack([crop_frame(box, (192, 144), 1.25) for box in boxes]),
        key=Maps(torch.from_numpy(maps), None),
        local=None,
        embedding=torch.zeros(PEOPLE, JOINTS),
    )


def mirrored(maps: np.ndarray) -> Mirrored:
    """What a network makes of the mirrored crops that sees these maps in the clean ones."""
    return Mirrored(features(np.ascontiguousarray(maps[:, FLIP_ORDER, :, ::-1])), FLIP_ORDER)


def predicted(ways: list[Decoding], clean: np.ndarray, other: Mirrored | None, batch_size: int = 2) -> list[np.ndarray]:
    return predict_poses(HEADS, features(clean), NOBODY, "product", batch_size, ways, 3.0, other)  # pyright: ignore


def frame_px(at: np.ndarray) -> np.ndarray:
    return heatmap_to_frame(at, features(spots(at)).regions, GRID)


def test_dark_is_subpixel_and_keeps_the_scores() -> None:
    at = centres(1)
    plain, dark = predicted([PLAIN, Decoding("dark")], spots(at), None)
    pixel = features(spots(at)).regions[:, None, 2] / GRID[1]
    errors = [np.linalg.norm(poses[..., :2] - frame_px(at), axis=-1) / pixel for poses in (plain, dark)]
    assert errors[1].max() < 0.01 and errors[0].mean() > 0.1
    np.testing.assert_array_equal(plain[..., 2], dark[..., 2])
    np.testing.assert_allclose(plain[..., 2], spots(at).max(axis=(-2, -1)) * np.linspace(0.2, 1, PEOPLE)[:, None])


def test_the_flip_test_mirrors_back_and_exchanges_joints() -> None:
    """Where both views show the same, nothing changes, to the bit."""
    clean = spots(centres(1))
    for decode in ("argmax", "dark"):
        plain, flipped = predicted([Decoding(decode), Decoding(decode, flip=True)], clean, mirrored(clean))
        np.testing.assert_array_equal(plain, flipped)


def test_the_flip_test_averages_heatmaps() -> None:
    clean, other = spots(centres(1)), 0.5 * spots(centres(1) + np.array([1.0, -0.5]))
    both = [Decoding("dark"), Decoding("dark", flip=True)]
    plain, flipped = predicted(both, clean, mirrored(other), batch_size=3)
    [wanted] = predicted([Decoding("dark")], (clean + other) / 2, None)
    [alone] = predicted([Decoding("dark")], clean, None)
    np.testing.assert_allclose(flipped, wanted, atol=1e-5)
    np.testing.assert_array_equal(plain, alone)
    assert np.abs(flipped[..., :2] - plain[..., :2]).min() > 1e-3


def test_the_flip_test_needs_the_mirrored_view() -> None:
    with pytest.raises(ValueError, match="mirrored view"):
        predicted([Decoding(flip=True)], spots(centres(1)), None)


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
