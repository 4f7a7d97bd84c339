"""From a posed body and a look to polygons in the picture, in painting order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from glpose.data.generated.looks import BIAS, ITEM, ITEMS, Colour, Look, scaled
from glpose.data.generated.placing import Camera, Placed
from glpose.data.generated.skeleton import POINT, Array, Body

ARC = 6  # points on each half circle of a limb piece
RING = 14  # points on each ring around the trunk
UNIT = 16  # polygon coordinates are integers in 1/16 px, what OpenCV draws with `shift=4`


class Polygon(NamedTuple):
    """A convex polygon (M, 2) int32 in 1/16 px; `solid` where it belongs to the silhouette of `item`."""

    item: int
    points: np.ndarray
    colour: Colour
    solid: bool


def _shades(colour: Colour, shade: float, count: int) -> list[Colour]:
    """Dark rim, body, light core."""
    return [scaled(colour, 1 - shade), colour, scaled(colour, 1 + 0.45 * shade, 6)][:count]


def _capsule_outlines(a: Array, b: Array, ra: Array, rb: Array) -> Array:
    """Outlines of tapered capsules: centres (..., 2) and radii (...) in px -> (..., 2 ARC, 2)."""
    along = b - a
    length = np.maximum(np.hypot(along[..., 0], along[..., 1]), 1e-6)
    heading = np.arctan2(along[..., 1], along[..., 0])
    open_ = np.arccos(np.clip((ra - rb) / length, -1, 1))
    turn = np.linspace(0, 1, ARC)
    far = heading[..., None] - open_[..., None] + 2 * open_[..., None] * turn
    near = heading[..., None] + open_[..., None] + (2 * np.pi - 2 * open_[..., None]) * turn
    end = b[..., None, :] + rb[..., None, None] * np.stack([np.cos(far), np.sin(far)], axis=-1)
    start = a[..., None, :] + ra[..., None, None] * np.stack([np.cos(near), np.sin(near)], axis=-1)
    return np.concatenate([end, start], axis=-2)


def fixed(points: Array) -> np.ndarray:
    """(..., 2) px to int32 in 1/16 px."""
    return np.round(np.clip(points, -4000, 4000) * UNIT).astype(np.int32)


def hull(points: Array) -> np.ndarray:
    """(N, 2) px to the (M, 2) int32 outline of their convex hull, in 1/16 px."""
    return cv2.convexHull(fixed(points))[:, 0]


@lru_cache(maxsize=1)
def _sphere() -> Array:
    """(64, 3) points spread over the unit sphere."""
    index = np.arange(64) + 0.5
    y = 1 - index / 32
    around = np.pi * (1 + 5**0.5) * index
    r = np.sqrt(1 - y * y)
    return np.stack([r * np.cos(around), y, r * np.sin(around)], axis=-1)


def _rings(body: Body, placed: Placed) -> tuple[Array, Array]:
    """Rings round the trunk at the last instant: (5, RING, 3) points from hip to neck, (5,) depths of their centres."""
    joints = placed.points[-1:]
    pelvis, waist, neck = (joints[:, POINT[name]] for name in ("pelvis", "waist", "neck"))
    shoulders = 0.5 * (joints[:, POINT["l_shoulder"]] + joints[:, POINT["r_shoulder"]])
    up = placed.trunk[-1:, :, 1]
    centres = np.stack(
        [
            pelvis - 0.03 * placed.pelvis[-1:, :, 1],
            waist,
            waist + 0.6 * (shoulders - waist),
            shoulders + 0.012 * up,
            neck + 0.01 * up,
        ],
        axis=1,
    )
    widths = np.array([*body.widths, 0.06 * body.girth])
    depths = np.array([*body.depths, 0.06 * body.girth])
    angle = np.linspace(0, 2 * np.pi, RING, endpoint=False)
    axes = np.stack([placed.pelvis[-1:], *[placed.trunk[-1:]] * 4], axis=1)
    left, ahead = axes[..., 0][:, :, None], axes[..., 2][:, :, None]
    sideways = (np.sin(angle) * widths[:, None])[None, :, :, None]
    forward = (np.cos(angle) * depths[:, None])[None, :, :, None]
    return (centres[:, :, None] + left * sideways + ahead * forward)[0], centres[0, :, 2]


def _trunk(look: Look, px: Array, points: Array, centre: Array, light: Array) -> list[Polygon]:
    """Px (5, RING, 2), points (5, RING, 3), centre depths (5,) of one instant."""
    out: list[Polygon] = []
    hips, trunk = ITEM["hips"], ITEM["trunk"]
    lower = look.top if look.hips_in_top else look.bottom
    pieces = ((hips, px[0:2], lower), (trunk, px[1:4], look.top), (trunk, px[3:5], look.top))
    for item, rings, colour in pieces:
        flat = rings.reshape(-1, 2)
        middle = flat.mean(axis=0)
        radius = 0.5 * np.ptp(flat[:, 0])
        sizes = (1.0, 0.84, 0.5) if item != trunk or rings is not px[3:5] else (1.0,)
        for layer, (size, shade) in enumerate(zip(sizes, _shades(colour, look.shade, len(sizes)), strict=False)):
            squeeze = np.array([size, 1.0 if layer < 2 else 0.8])
            moved = middle + (flat - middle) * squeeze + light * radius * (1 - size) * 0.7
            out.append(Polygon(item, hull(moved), shade, layer == 0))
    for patch in look.patches:
        angle = np.linspace(patch.angles[0], patch.angles[1], 9) / (2 * np.pi) * RING
        grid, facing = [], []
        for level in patch.levels:
            # Level 0 is the waist's ring where the trunk's own colour starts, 1 the shoulders'.
            at = min(max(1 + 2 * level, 0.0), 3.0)
            low = min(int(at), 2)
            base, share = np.floor(angle).astype(int), angle % 1
            for which, store in ((px, grid), (points, facing)):
                ring = which[low] * (low + 1 - at) + which[low + 1] * (at - low)
                store.append(ring[base % RING] * (1 - share[:, None]) + ring[(base + 1) % RING] * share[:, None])
            depth = centre[low] * (low + 1 - at) + centre[low + 1] * (at - low)
            facing[-1] = facing[-1][:, 2] < depth - 0.01
        seen = np.concatenate(facing)
        if seen.sum() >= 3:
            out.append(Polygon(trunk, hull(np.concatenate(grid)[seen]), patch.colour, False))
    return out


def _head(body: Body, look: Look, placed: Placed, camera: Camera, light: Array) -> list[Polygon]:
    item, out = ITEM["head"], []
    radii = np.array(body.head)
    middle, axes = placed.points[-1, POINT["head"]], placed.head[-1]
    sphere = _sphere()

    def at(local: Array, grow: float = 1.0) -> tuple[Array, Array]:
        points = middle + (local * radii * grow) @ axes.T
        return camera.project(points)[0], points[:, 2] - middle[2]

    def cover(mask: NDArray[np.bool_], grow: float, colour: Colour, solid: bool = False) -> None:
        px, depth = at(sphere, grow)
        seen = mask & (depth < 0.02)
        if seen.sum() >= 3:
            out.append(Polygon(item, hull(px[seen]), colour, solid))

    dark, plain, bright = _shades(look.skin, look.shade, 3)
    px, _ = at(sphere)
    centre = px.mean(axis=0)
    radius = 0.5 * np.ptp(px[:, 0])
    out.append(Polygon(item, hull(px), dark, True))
    out.append(Polygon(item, hull(centre + (px - centre) * 0.86 + light * radius * 0.1), plain, False))
    forward = -axes[2, 2]
    if forward > 0.05:
        out.append(Polygon(item, hull(centre + (px - centre) * 0.5 + light * radius * 0.3), bright, False))
    if look.beard is not None:
        cover((sphere[:, 1] < -0.35) & (sphere[:, 2] > -0.1), 1.04, look.beard)
    nose = np.array([[0.0, 0.12, 0.98], [0.13, -0.16, 1.0], [-0.13, -0.16, 1.0], [0.0, -0.12, 1.17]])
    if forward > -0.25:
        out.append(Polygon(item, hull(at(nose)[0]), _shades(look.skin, 0.18 + look.shade, 1)[0], True))
    for side in (-1.0, 1.0):
        ear = np.array([[1.05, -0.18, -0.1], [1.05, 0.2, -0.12], [1.05, 0.1, 0.15], [1.05, -0.1, 0.12]]) * [side, 1, 1]
        if -side * axes[2, 0] > -0.35:
            out.append(Polygon(item, hull(at(ear)[0]), dark, True))
        eye = np.array([[-0.13, 0.1, 0], [0.13, 0.1, 0], [0.1, 0.2, 0], [-0.1, 0.2, 0], [0, 0.06, 0]])
        eye = eye + np.array([side * 0.38, 0, 0.9])
        if forward + side * -axes[2, 0] * 0.35 > 0.08:
            frame = (25.0, 25.0, 25.0)
            out.append(Polygon(item, hull(at(eye * ([1.2, 1.3, 1] if look.glasses else [1, 1, 1]))[0]), frame, False))
            brow = eye[:4] * [1.1, 0.3, 1] + np.array([0, 0.26, 0])
            out.append(Polygon(item, hull(at(brow)[0]), look.hair, False))
    if forward > 0.1 and look.beard is None:
        mouth = np.array([[-0.3, -0.5, 0.85], [0.3, -0.5, 0.85], [0.2, -0.57, 0.85], [-0.2, -0.57, 0.85]])
        b, g, r = look.skin
        out.append(Polygon(item, hull(at(mouth)[0]), (b * 0.55, g * 0.5, r * 0.8), False))
    if look.hairline is not None:
        # A cap leaning back; its edge is the hairline in front and the nape behind.
        mask = sphere @ np.array([0, 0.8, -0.6]) > look.hairline - 0.05
        cover(mask, look.hair_bulk, look.hair, True)
        cover(mask & (sphere[:, 1] > 0.4), look.hair_bulk * 0.8, _shades(look.hair, 0.5, 3)[2])
    if look.hat is not None:
        cover(sphere[:, 1] > 0.3, look.hair_bulk + 0.06, look.hat, True)
        if look.brim:
            brim = np.array([[-0.7, 0.42, 0.8], [0.7, 0.42, 0.8], [0.5, 0.36, 1.6], [-0.5, 0.36, 1.6]])
            out.append(Polygon(item, hull(at(brim)[0]), _shades(look.hat, 0.3, 1)[0], True))
    return out


def draw_list(body: Body, look: Look, placed: Placed, cameras: Sequence[Camera], light: Array) -> list[list[Polygon]]:
    """Polygons in painting order, far to near, for each of the S instants.

    cameras: one per instant, which differ in nothing but the principal point. light: (2,) px direction towards it.
    """
    joints = placed.points
    camera = cameras[0]
    pan = np.array([c.centre for c in cameras]) - camera.centre
    px, scale = camera.project(joints)
    px = px + pan[:, None]
    count = len(joints)
    caps = look.capsules
    start, end = [c.start for c in caps], [c.end for c in caps]
    t0, t1 = (np.array([getattr(c, name) for c in caps])[None, :, None] for name in ("t0", "t1"))
    a = px[:, start] * (1 - t0) + px[:, end] * t0
    b = px[:, start] * (1 - t1) + px[:, end] * t1
    ra = np.array([c.r0 for c in caps]) * scale[:, start]
    rb = np.array([c.r1 for c in caps]) * scale[:, end]
    along = (b - a) / np.maximum(np.linalg.norm(b - a, axis=-1, keepdims=True), 1e-6)
    outlines: list[np.ndarray] = []
    for size in (1.0, 0.74, 0.36):
        # Inner layers are thinner but as long, so that no dark rim cuts a leg at the knee.
        near = a + (light * 0.6 - along) * ra[..., None] * (1 - size)
        far = b + (light * 0.6 + along) * rb[..., None] * (1 - size)
        outlines.append(fixed(_capsule_outlines(near, far, ra * size, rb * size)))
    depth = np.full((count, len(ITEMS)), np.inf)
    for cap in caps:
        middle = 0.5 * (joints[:, cap.start, 2] + joints[:, cap.end, 2])
        depth[:, cap.item] = np.minimum(middle, depth[:, cap.item])
    waist = joints[:, POINT["waist"], 2]
    depth[:, ITEM["hips"]] = 0.5 * (joints[:, POINT["pelvis"], 2] + waist)
    depth[:, ITEM["trunk"]] = 0.5 * (waist + joints[:, POINT["neck"], 2])
    depth[:, ITEM["head"]] = joints[:, POINT["head"], 2]
    rings, centres = _rings(body, placed)
    ring_px = camera.project(rings)[0] + pan[-1]
    if look.skirt is not None:
        thighs = depth[:, [ITEM["r_thigh"], ITEM["l_thigh"]]] + BIAS[ITEM["r_thigh"]]
        depth[:, ITEM["skirt"]] = np.minimum(thighs.min(axis=1), depth[:, ITEM["hips"]]) - 0.02
    if look.pack is not None:
        behind = placed.trunk[-1, :, 2]
        depth[:, ITEM["pack"]] = depth[:, ITEM["trunk"]] - 0.2 * behind[2]
    order = np.argsort(depth + BIAS, axis=1, kind="stable")
    shades = [_shades(c.colour, look.shade, 3) for c in caps]
    by_item: dict[int, list[int]] = {}
    for index, cap in enumerate(caps):
        by_item.setdefault(cap.item, []).append(index)

    # The trunk and the head hardly change shape within an exposure: they are drawn for its middle and carried along.
    pieces: dict[int, list[Polygon]] = {}
    for polygon in _trunk(look, ring_px, rings, centres, light):
        pieces.setdefault(polygon.item, []).append(polygon)
    if look.skirt is not None:
        pieces[ITEM["skirt"]] = [_skirt(look, px[-1], scale[-1], ring_px, body)]
    if look.pack is not None:
        pieces[ITEM["pack"]] = _pack(placed, cameras[-1], look.pack, look.shade)
    spine = (POINT["pelvis"], POINT["neck"])
    carried = {item: _carry(polygons, px[:, spine]) for item, polygons in pieces.items()}
    face = (POINT["head_bottom"], POINT["head_top"])
    carried[ITEM["head"]] = _carry(_head(body, look, placed, cameras[-1], light), px[:, face])
    layers = 3 if scale.mean() > 90 else 2
    frames: list[list[Polygon]] = []
    for s in range(count):
        out: list[Polygon] = []
        for item in order[s].tolist():
            if item in carried:
                out += carried[item][s]
            for index in by_item.get(item, ()):
                for layer in range(layers):
                    out.append(Polygon(item, outlines[layer][s, index], shades[index][layer], layer == 0))
        frames.append(out)
    return frames


def _carry(polygons: list[Polygon], ends: Array) -> list[list[Polygon]]:
    """The last instant's polygons at every instant, moved, turned and scaled with a bone: ends (S, 2, 2) px."""
    points = np.concatenate([p.points for p in polygons]).astype(np.float64) @ [1, 1j] / UNIT
    bone = ends @ np.array([1, 1j])
    span = bone[:, 1] - bone[:, 0]
    factor = span / span[-1] if abs(span[-1]) > 4 else np.ones(len(span), complex)
    factor = np.where(np.abs(np.abs(factor) - 1) < 0.3, factor, 1)
    moved = (points - bone[-1, 0]) * factor[:, None] + bone[:, :1]
    moved = fixed(np.stack([moved.real, moved.imag], axis=-1))
    ends_at = np.cumsum([len(p.points) for p in polygons]).tolist()
    cuts = list(zip(polygons, [0, *ends_at[:-1]], ends_at, strict=True))
    return [[Polygon(p.item, row[low:high], p.colour, p.solid) for p, low, high in cuts] for row in moved]


def _skirt(look: Look, px: Array, scale: Array, rings: Array, body: Body) -> Polygon:
    assert look.skirt is not None
    colour, length, flare = look.skirt
    parts = [rings[0], rings[1]]
    ring = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    circle = np.stack([np.cos(ring), np.sin(ring)], axis=-1)
    for side in "rl":
        hip, knee, ankle = (POINT[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
        share = min(length, 1.0)
        hem = px[hip] * (1 - share) + px[knee] * share
        if length > 1:
            hem = px[knee] * (2 - length) + px[ankle] * (length - 1)
        parts.append(hem + circle * 0.08 * body.girth * flare * scale[knee] * np.array([1, 0.35]))
    return Polygon(ITEM["skirt"], hull(np.concatenate(parts)), colour, True)


def _pack(placed: Placed, camera: Camera, colour: Colour, shade: float) -> list[Polygon]:
    corner = np.array([[x, y, z] for x in (-1, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    local = corner * [0.14, 0.36, -0.16] + [0, -0.02, -0.09]
    px, _ = camera.project(placed.points[-1, POINT["waist"]] + local @ placed.trunk[-1].T)
    dark, plain = _shades(colour, shade + 0.1, 2)
    middle = px.mean(axis=0)
    return [
        Polygon(ITEM["pack"], hull(px), dark, True),
        Polygon(ITEM["pack"], hull(middle + (px - middle) * 0.8), plain, False),
    ]
