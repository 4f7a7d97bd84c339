"""Embeddings seen from where they differ most: two principal components."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def principal_plane(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (P, 2) of embeddings (P, C) on their first two principal components, and these' shares of the variance.

    Signs are such that the largest loading of each component is positive. Zeros where there are fewer components.
    """
    centred = embeddings - embeddings.mean(axis=0)
    left, strength, loadings = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    sign = np.sign(loadings[np.arange(len(loadings)), np.abs(loadings).argmax(axis=1)])
    places, shares = np.zeros((len(embeddings), 2)), np.zeros(2)
    count = min(2, len(strength))
    places[:, :count] = (left * strength * sign)[:, :count]
    shares[:count] = strength[:count] ** 2 / max(float((strength**2).sum()), 1e-12)
    return places, shares


def sample_rows(count: int, most: int, needed: Iterable[int]) -> np.ndarray:
    """Rising rows of `count`: all, or about `most` of them, evenly, and those that are needed."""
    even = np.arange(count) if count <= most else np.linspace(0, count - 1, most).round().astype(int)
    return np.union1d(even, np.array(sorted(needed), np.int64)).astype(np.int64)
