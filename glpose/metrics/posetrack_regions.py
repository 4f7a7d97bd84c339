"""Which joints lie in the regions that PoseTrack ignores; and the ragged-array helpers that the evaluator shares."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np

_TESTS_AT_ONCE = 200_000  # point-region or point-edge tests per step: bounds memory


class Regions(NamedTuple):
    """R polygons in px, those of one video."""

    frame: np.ndarray  # (R,) int64, ascending
    size: np.ndarray  # (R,) int64, number of corners
    corners: np.ndarray  # (sum of size, 2) float64, one polygon after the other


def inside_regions(frame: np.ndarray, xy: np.ndarray, regions: Regions) -> np.ndarray:
    """(N,) bool: which points lie strictly inside a polygon of their frame; the boundary is outside.

    frame: (N,) int, ascending. xy: (N, 2) px. Polygons that cross themselves count by the even-odd rule; those of fewer
    than three corners contain nothing. Signs are exact, like those of the GEOS library under poseval.
    """
    inside = np.zeros(len(frame), dtype=bool)
    first_point = np.searchsorted(frame, regions.frame, side="left")
    n_points = np.searchsorted(frame, regions.frame, side="right") - first_point
    first_corner = np.cumsum(regions.size) - regions.size
    used = np.flatnonzero((regions.size >= 3) & (n_points > 0))
    if not len(used):
        return inside
    first_point, n_points, size = first_point[used], n_points[used], regions.size[used]
    start = regions.corners[ranges(first_corner[used], size)]
    first_edge = np.cumsum(size) - size
    successor = np.arange(1, len(start) + 1)
    successor[first_edge + size - 1] = first_edge
    end = start[successor]
    low, high = np.minimum.reduceat(start, first_edge), np.maximum.reduceat(start, first_edge)
    for part in slices_of(n_points, _TESTS_AT_ONCE):
        region = np.repeat(np.arange(len(used))[part], n_points[part])
        point = ranges(first_point[part], n_points[part])
        near = ((xy[point] > low[region]) & (xy[point] < high[region])).all(axis=1)
        region, point = region[near], point[near]
        for tests in slices_of(size[region], _TESTS_AT_ONCE):
            n_edges = size[region[tests]]
            edge = ranges(first_edge[region[tests]], n_edges)
            tested = np.repeat(point[tests], n_edges)
            crossed, touched = _cast_ray(xy[tested], start[edge], end[edge])
            first = np.cumsum(n_edges) - n_edges
            odd = np.add.reduceat(crossed.astype(np.int64), first) % 2 == 1
            inside[point[tests][odd & ~np.logical_or.reduceat(touched, first)]] = True
    return inside


def _cast_ray(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For K points and as many edges, all (K, 2) px: does the ray to the right cross the edge; is the point on it."""
    x, y = point.T
    (x1, y1), (x2, y2) = start.T, end.T
    touched = (x == x2) & (y == y2)
    touched |= (y1 == y) & (y2 == y) & (np.minimum(x1, x2) <= x) & (x <= np.maximum(x1, x2))
    crossed = (y1 > y) != (y2 > y)  # half open, so that a corner counts once
    steep = np.flatnonzero(crossed)
    side = _side(point[steep], start[steep], end[steep])
    touched[steep[side == 0]] = True
    crossed[steep] = (side > 0) == (y2 > y1)[steep]
    return crossed, touched


def _side(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(K,) number whose sign says on which side of the edge the point lies; 0 exactly on its line."""
    with np.errstate(over="ignore", invalid="ignore"):  # corners at infinity, which only a damaged file has
        along, across = end - start, point - start
        left, right = along[:, 0] * across[:, 1], along[:, 1] * across[:, 0]
        side = left - right
        unsure = np.isfinite(side) & (np.abs(side) <= 1e-15 * (np.abs(left) + np.abs(right)))
    for k in np.flatnonzero(unsure):  # rounding may have changed the sign
        (x, y), (x1, y1), (x2, y2) = ([Fraction(float(v)) for v in pair] for pair in (point[k], start[k], end[k]))
        exact = (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)
        side[k] = (exact > 0) - (exact < 0)
    return side


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start, start + 1, ... `count` numbers for each pair, one run after the other."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def slices_of(costs: np.ndarray, limit: int) -> Iterator[slice]:
    """Consecutive slices over `costs` (n,) whose sums stay within `limit`, or of one item that exceeds it alone."""
    total = np.cumsum(costs)
    start = 0
    while start < len(costs):
        spent = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, spent + limit, side="right")))
        yield slice(start, stop)
        start = stop
