"""Boxes, crops, heatmap coordinates, decoding and augmentation: numbers by hand, round trips, pixels followed."""

from __future__ import annotations

import numpy as np
import numpy_reference as reference
import pytest

from glpose.augmentation import Augmentation, augment_keypoints, sample_augmentation
from glpose.geometry import (
    clip_boxes,
    crop_affine,
    crop_frame,
    frame_to_heatmap,
    heatmap_to_frame,
    transform_points,
    warp_crop,
)
from glpose.heatmaps import decode_argmax, decode_dark
from glpose.keypoints import POSETRACK

CROP = (384, 288)
GRID = (96, 72)
UNIT_SCALE = (1.0, 1.0)


# ----------------------------------------------------------------------------------------------------- boxes and crops
def test_clip_boxes() -> None:
    nan = float("nan")
    boxes = [
        [10, 20, 50, 60],  # inside
        [-10, -20, 50, 60],  # partly outside
        [300, 150, 700, 900],
        [400, 10, 500, 50],  # outside
        [-50, -50, -10, -10],
        [10, 10, 10, 50],  # no area
        [50, 10, 10, 60],  # corners exchanged
        [10, 10, 10.9, 50],  # under a pixel wide
        [319.5, 10, 400, 50],  # under a pixel left
        [nan, 10, 20, 50],
        [10, 10, 20, float("inf")],
    ]
    clipped, usable = clip_boxes(np.array(boxes), height=240, width=320)
    assert usable.tolist() == [True] * 3 + [False] * 8
    np.testing.assert_array_equal(clipped[:3], [[10, 20, 50, 60], [0, 0, 50, 60], [300, 150, 320, 240]])


def test_clip_no_boxes() -> None:
    clipped, usable = clip_boxes(np.zeros((0, 4)), 240, 320)
    assert clipped.shape == (0, 4) and usable.shape == (0,)


@pytest.mark.parametrize(
    ("box", "region"),
    [
        ((100, 50, 200, 250), (150, 150, 187.5)),  # tall: 200 * 288 / 384 * 1.25
        ((100, 50, 400, 250), (250, 150, 375.0)),  # wide: 300 * 1.25
        ((0, 0, 150, 200), (75, 100, 187.5)),  # of the crop's aspect
    ],
)
def test_crop_frame_by_hand(box: tuple[int, ...], region: tuple[float, ...]) -> None:
    np.testing.assert_allclose(crop_frame(box, CROP, 1.25), region)


def test_convention_of_the_lineage_by_hand() -> None:
    """Crop x = (x - cx) * 288 / sw + 144; heatmap x = crop x / 4."""
    region = crop_frame((100, 50, 200, 250), CROP, 1.25)
    frame = np.array([[150.0, 150.0], [56.25, 25.0], [243.75, 275.0], [175.0, 150.0]])
    crop = [[144, 192], [0, 0], [288, 384], [182.4, 192]]
    np.testing.assert_allclose(transform_points(frame, crop_affine(region, CROP)), crop, atol=1e-9)
    np.testing.assert_allclose(frame_to_heatmap(frame[None], region[None], GRID)[0], np.divide(crop, 4), atol=1e-9)


def test_points_match_the_reference_and_come_back() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 200, (20, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 300, (20, 2))], axis=1)
    points = rng.uniform(-50, 500, (20, 7, 2))
    regions = np.stack([crop_frame(box, CROP, 1.25) for box in boxes])
    heatmap = frame_to_heatmap(points, regions, GRID)
    for sample, box in enumerate(boxes):
        affine = crop_affine(regions[sample], CROP)
        crop = transform_points(points[sample], affine)
        wanted = [reference.crop_point(point, list(box), CROP, 1.25) for point in points[sample]]
        np.testing.assert_allclose(crop, wanted, rtol=1e-9, atol=1e-7)
        np.testing.assert_allclose(heatmap[sample], crop / 4, rtol=1e-9, atol=1e-7)
        np.testing.assert_allclose(transform_points(crop, reference.invert_affine(affine)), points[sample], atol=1e-7)
    np.testing.assert_allclose(heatmap_to_frame(heatmap, regions, GRID), points, atol=1e-7)


def test_box_is_inside_its_crop_with_the_margin_asked_for() -> None:
    box = np.array([30.0, 40.0, 90.0, 200.0])
    corners = transform_points(box.reshape(2, 2), crop_affine(crop_frame(box, CROP, 1.25), CROP))
    assert corners[:, 1].tolist() == pytest.approx([384 * 0.1, 384 * 0.9])
    assert 0 < corners[0, 0] < corners[1, 0] < 288


def test_rotation_is_clockwise_about_the_centre() -> None:
    affine = crop_affine(np.array([50.0, 60.0, 288.0]), CROP, rotation=90)
    np.testing.assert_allclose(transform_points(np.array([[50.0, 60], [60, 60]]), affine), [[144, 192], [144, 202]])


# ---------------------------------------------------------------------------------------------------------- pixels
def picture(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth (h, w, 3) uint8 picture whose channels differ, bright at the borders."""
    y, x = np.mgrid[:height, :width]
    channels = (120 + 80 * np.sin(x / 9) * np.cos(y / 7), 100 + 2 * x, 250 - 3 * y)
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def test_shifted_crop_by_hand() -> None:
    frame = picture()
    crop = warp_crop(frame, crop_affine(np.array([10.0, 12.0, 32.0]), (16, 32)), (16, 32))
    wanted = np.zeros((16, 32, 3), np.uint8)  # crop x = frame x - 10 + 16, crop y = frame y - 12 + 8
    wanted[:, 6:] = frame[4:20, :26]
    np.testing.assert_array_equal(crop, wanted)


@pytest.mark.parametrize("region", [(28.0, 20.0, 16.0), (3.0, 35.0, 41.0), (28.3, 19.6, 23.7)])
@pytest.mark.parametrize("rotation", [0.0, 33.0])
def test_crop_is_bilinear_and_black_outside(region: tuple[float, float, float], rotation: float) -> None:
    frame, size = picture(), (32, 24)
    affine = crop_affine(np.array(region), size, rotation)
    crop = warp_crop(frame, affine, size)
    back = reference.invert_affine(affine)
    grid = np.stack(np.meshgrid(np.arange(24), np.arange(32)), axis=-1)
    wanted = np.array([[reference.crop_pixel(frame, x, y) for x, y in row] for row in transform_points(grid, back)])
    x, y = np.moveaxis(transform_points(grid, back), -1, 0)
    margin = np.minimum.reduce([x, y, 55 - x, 39 - y])  # frame px from the picture's border, negative outside
    assert np.abs(crop - wanted)[margin > 0].max() <= 2  # the fast code steps by 1/32 pixel
    assert (crop[margin < -1] == 0).all()
    assert (margin > 0).sum() > 100


def test_magnified_crop_by_hand() -> None:
    """One bright pixel magnified twice: half of it half a pixel away."""
    frame = np.zeros((2, 2, 3), np.uint8)
    frame[0, 0] = 200
    crop = warp_crop(frame, np.array([[2.0, 0, 0], [0, 2.0, 0]]), (4, 4))
    np.testing.assert_array_equal(crop[:3, :3, 0], [[200, 100, 0], [100, 50, 0], [0, 0, 0]])


# -------------------------------------------------------------------------------------------------------- decoding
def peak(x: int, y: int, *higher: tuple[int, int]) -> np.ndarray:
    """A 12 x 10 heatmap with its peak at x, y and lower values at some neighbours."""
    heatmap = np.zeros((12, 10), np.float32)
    for column, row in higher:
        heatmap[row, column] = 0.5
    heatmap[y, x] = 1
    return heatmap


@pytest.mark.parametrize(
    ("heatmap", "point"),
    [
        (peak(4, 5), (4, 5)),  # neighbours tie: no shift
        (peak(4, 5, (5, 5)), (4.25, 5)),
        (peak(4, 5, (3, 5), (4, 4)), (3.75, 4.75)),
        (peak(4, 5, (5, 5), (4, 6)), (4.25, 5.25)),
        (peak(2, 5, (3, 5)), (2.25, 5)),  # the first column that shifts
        (peak(1, 5, (2, 5), (1, 6)), (1, 5)),  # near a border: in neither direction
        (peak(0, 5, (1, 5), (0, 6)), (0, 5)),
        (peak(8, 5, (7, 5)), (7.75, 5)),  # the last column that shifts
        (peak(9, 5, (8, 5), (9, 4)), (9, 5)),
        (peak(4, 1, (4, 2), (5, 1)), (4, 1)),
        (peak(4, 10, (4, 9)), (4, 9.75)),
        (peak(4, 11, (5, 11)), (4, 11)),
        (np.zeros((12, 10), np.float32), (0, 0)),
        (peak(4, 5) - 1, (0, 0)),  # the maximum is 0
        (np.ones((12, 10), np.float32), (0, 0)),  # all tie: the first
    ],
)
def test_decode_by_hand(heatmap: np.ndarray, point: tuple[float, float]) -> None:
    points, maxima = decode_argmax(heatmap[None])
    assert points[0].tolist() == list(point)
    assert maxima[0] == heatmap.max()
    assert reference.decode(heatmap) == point


def test_decode_matches_the_reference() -> None:
    heatmaps = np.random.default_rng(0).integers(-3, 4, (40, 3, 6, 5)).astype(np.float32)  # full of ties
    points, maxima = decode_argmax(heatmaps)
    assert points.shape == (40, 3, 2) and maxima.shape == (40, 3)
    for sample in range(40):
        for joint in range(3):
            assert tuple(points[sample, joint]) == reference.decode(heatmaps[sample, joint])
    np.testing.assert_array_equal(maxima, heatmaps.max(axis=(-2, -1)))


def test_decoding_a_target_finds_its_joint_again() -> None:
    """Frame -> heatmap -> target -> decode -> frame: within half a heatmap pixel."""
    rng = np.random.default_rng(3)
    region = crop_frame((100, 50, 200, 250), CROP, 1.25)
    frame = np.stack([rng.uniform(70, 230, 30), rng.uniform(40, 260, 30)], axis=1)
    xy = frame_to_heatmap(frame[None], region[None], GRID)[0]
    points, _ = decode_argmax(reference.targets(xy, np.ones(30), GRID, 3.0))
    found = heatmap_to_frame(points[None], region[None], GRID)[0]
    pixel = 187.5 / 72  # frame px per heatmap pixel
    assert np.abs(found - frame).max() <= 0.5 * pixel + 1e-9
    assert np.abs(found - frame).max() > 0.4 * pixel  # the error of rounding is there, as in the lineage


def gaussians(centres: np.ndarray, sigma: float, grid: tuple[int, int] = GRID) -> np.ndarray:
    """(n, H, W) Gaussians of peak 1 around (n, 2) x, y, which need not be pixels."""
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    x, y = centres[:, 0, None, None], centres[:, 1, None, None]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("sigma", [3.0, 2.0])
def test_dark_finds_subpixel_peaks_that_argmax_cannot(sigma: float) -> None:
    centres = np.random.default_rng(0).uniform([8, 8], [GRID[1] - 9, GRID[0] - 9], (200, 2))
    heatmaps = (0.7 * gaussians(centres, sigma)).astype(np.float32)
    (dark, maxima), (plain, plain_maxima) = decode_dark(heatmaps, sigma), decode_argmax(heatmaps)
    assert (dark.shape, dark.dtype, maxima.shape) == ((200, 2), np.float64, (200,))
    np.testing.assert_array_equal(maxima, plain_maxima)  # scores are those of the maps as they are
    assert np.abs(dark - centres).max() < 5e-3
    assert np.abs(plain - centres).mean() > 0.1  # a quarter-pixel shift leaves up to a quarter


def test_dark_on_other_grids_scales_sigma() -> None:
    grid = (48, 36)
    centres = np.random.default_rng(1).uniform(4, 31, (50, 2))
    found, _ = decode_dark(gaussians(centres, 1.5, grid), 3.0)
    assert np.abs(found - centres).max() < 5e-3


def test_dark_withstands_noise() -> None:
    """Steps of 0.3 in the maps: smoothing averages them out, and a second, sharp peak does not win."""
    rng = np.random.default_rng(2)
    centres = rng.uniform([10, 10], [40, 60], (100, 2))
    heatmaps = gaussians(centres, 3.0) + rng.normal(0, 0.1, (100, *GRID))
    heatmaps[:, 80, 60] = 2.0
    plain, dark = (
        np.linalg.norm(points - centres, axis=1)
        for points in (decode_argmax(heatmaps)[0], decode_dark(heatmaps, 3.0)[0])
    )
    assert dark.max() < 1 and np.median(dark) < 0.3 and plain.min() > 10


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("last", [False, True])
def test_dark_at_the_edges_is_argmax(axis: int, last: bool) -> None:
    """Smoothing there would draw the peak inwards by more than argmax errs."""
    side = (GRID[1], GRID[0])[axis]
    near = np.linspace(-2, 5.4, 40)
    centres = np.full((40, 2), 40.3)
    centres[:, axis] = side - 1 - near if last else near
    heatmaps = gaussians(centres, 3.0)
    dark, plain = decode_dark(heatmaps, 3.0)[0], decode_argmax(heatmaps)[0]
    np.testing.assert_array_equal(dark, plain)
    centres[:, axis] = side - 1 - 6.6 if last else 6.6
    assert np.abs(decode_dark(gaussians(centres, 3.0), 3.0)[0] - centres).max() < 0.02


def test_dark_of_maps_without_a_peak() -> None:
    flat, ramp, empty = np.ones(GRID), np.broadcast_to(np.arange(GRID[1], dtype=float), GRID), np.zeros(GRID)
    ridge = np.zeros(GRID)
    ridge[:, 30] = 1.0
    heatmaps = np.stack([flat, ramp, empty, flat - 2, ridge])
    with np.errstate(invalid="raise", divide="raise"):
        points, maxima = decode_dark(heatmaps[None], 3.0)
    assert points.shape == (1, 5, 2) and np.isfinite(points).all()
    assert points[0, 2].tolist() == points[0, 3].tolist() == [0, 0]  # nothing positive: as argmax says it
    assert abs(points[0, 4, 0] - 30) < 1e-6
    assert maxima[0].tolist() == [1, 71, 0, -1, 1]


# ------------------------------------------------------------------------------------------------------- augmentation
def person() -> np.ndarray:
    """(15, 3) keypoints in a frame of 160 x 120: distinct, visible, not symmetric."""
    rng = np.random.default_rng(5)
    xy = np.stack([rng.uniform(60, 100, 15), rng.uniform(35, 85, 15)], axis=1)
    xy[list(POSETRACK.upper_body), 1] -= 20
    return np.concatenate([xy, np.full((15, 1), 2.0)], axis=1)


def blob(x: float, y: float) -> np.ndarray:
    """A 120 x 160 frame, black but for a soft spot."""
    rows, columns = np.mgrid[:120, :160]
    spot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.0**2))
    return np.repeat(spot[..., None], 3, axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0.0, -40.0])
def test_keypoints_follow_the_pixels(flip: bool, rotation: float) -> None:
    size = (192, 144)
    affine = crop_affine(np.array([80.0, 60.0, 100.0]), size, rotation)
    keypoints = person()
    moved = augment_keypoints(keypoints, Augmentation(affine, flip), POSETRACK, size)
    for joint, mirrored in enumerate(POSETRACK.flip_order):
        source = mirrored if flip else joint  # what was the right knee is the left one of the mirrored person
        crop = warp_crop(blob(*keypoints[source, :2]), affine, size)[..., 0].astype(float)
        crop = crop[:, ::-1] if flip else crop
        rows, columns = np.mgrid[: size[0], : size[1]]
        centre = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
        np.testing.assert_allclose(moved[joint, :2], centre, atol=0.15)
    assert (moved[:, 2] == 2).all()


def test_flip_exchanges_left_and_right() -> None:
    keypoints = person()
    keypoints[:, 2] = np.arange(15) % 2 + 1
    plain, mirrored = (
        augment_keypoints(keypoints, Augmentation(np.eye(2, 3), flip), POSETRACK, (120, 160)) for flip in (False, True)
    )
    names = list(POSETRACK.joints)
    for joint, name in enumerate(names):
        other = name.replace("left", "?").replace("right", "left").replace("?", "right")
        wanted = plain[names.index(other)] * [-1, 1, 1] + [159, 0, 0]
        np.testing.assert_allclose(mirrored[joint], wanted)
    np.testing.assert_allclose(plain, keypoints)


def test_joints_outside_the_crop_become_absent() -> None:
    keypoints = np.array(
        [[0.0, 0, 2], [15.9, 11.9, 1], [-0.1, 5, 2], [16, 5, 2], [5, 12, 1], [5, 5, 0]] + [[1, 1, 2]] * 9
    )
    moved = augment_keypoints(keypoints, Augmentation(np.eye(2, 3), False), POSETRACK, (12, 16))
    assert moved[:6, 2].tolist() == [2, 1, 0, 0, 0, 0]


def draws(count: int, keypoints: np.ndarray, **changes: object) -> list[tuple[float, float, np.ndarray, bool]]:
    """Rotation (degrees), region width (px), centre (2,) and flip of `count` augmentations."""
    options = {"rotation": 45.0, "scale": (0.65, 1.35), "half_body": 0.0, "flip": 0.5} | changes
    rng, box = np.random.default_rng(0), np.array([50.0, 20.0, 110.0, 100.0])
    out = []
    for _ in range(count):
        view = sample_augmentation(rng, box, keypoints, POSETRACK, (192, 144), 1.25, **options)  # pyright: ignore[reportArgumentType]
        (a, b), (c, d) = view.affine[:, :2]
        assert a == pytest.approx(d) and b == pytest.approx(-c)  # no shear
        centre = transform_points(np.array([72.0, 96.0]), reference.invert_affine(view.affine))
        out.append((float(np.rad2deg(np.arctan2(c, a))), 144 / float(np.hypot(a, c)), centre, view.flip))
    return out


def test_ranges_of_rotation_scale_and_flip() -> None:
    angles, widths, centres, flips = zip(*draws(400, person()), strict=True)
    clean = 80 * 0.75 * 1.25
    assert np.abs(angles).max() == pytest.approx(45) and 0.3 < np.mean(np.abs(angles) < 1e-9) < 0.5
    assert min(angles) < -20 and max(angles) > 20
    assert min(widths) == pytest.approx(0.65 * clean) and max(widths) == pytest.approx(1.35 * clean)
    assert 0.15 < np.std(widths) / clean < 0.35
    assert 0.4 < np.mean(flips) < 0.6
    np.testing.assert_allclose(centres, np.broadcast_to([80.0, 60.0], (400, 2)))


def test_no_augmentation_is_the_clean_crop() -> None:
    (angle, width, centre, flip), *_ = draws(1, person(), rotation=0.0, scale=UNIT_SCALE, flip=0.0)
    assert (angle, width, centre.tolist(), flip) == (0, pytest.approx(75), pytest.approx([80, 60]), False)


def test_half_body_shows_the_upper_or_the_lower_joints() -> None:
    keypoints = person()
    upper = np.isin(np.arange(15), POSETRACK.upper_body)
    wanted = {}
    for name, half in (("upper", upper), ("lower", ~upper)):
        points = keypoints[half, :2]
        extent = np.ptp(points, axis=0)
        wanted[name] = (points.mean(axis=0), max(extent[0], extent[1] * 0.75) * 1.5)
    seen = dict.fromkeys(wanted, 0)
    for _, width, centre, _ in draws(60, keypoints, half_body=1.0, scale=UNIT_SCALE, rotation=0.0):
        for name, (middle, size) in wanted.items():
            seen[name] += bool(np.allclose(centre, middle) and np.isclose(width, size))
    assert sum(seen.values()) == 60 and min(seen.values()) > 15


def test_half_body_needs_more_than_eight_joints() -> None:
    keypoints = person()
    keypoints[8:, 2] = 0
    for _, width, centre, _ in draws(20, keypoints, half_body=1.0, scale=UNIT_SCALE, rotation=0.0):
        assert width == pytest.approx(75) and centre.tolist() == pytest.approx([80, 60])


def test_half_body_without_enough_joints_in_the_half_shows_the_whole() -> None:
    keypoints = person()
    keypoints[[0, 1, 2, 3], 2] = 0  # two joints are left below
    widths = [round(width, 6) for _, width, _, _ in draws(40, keypoints, half_body=1.0, scale=UNIT_SCALE, rotation=0.0)]
    assert len(set(widths)) == 2 and 75 in widths
