"""What a person looks like: skin, hair, clothes and things carried, drawn at random for a body."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glpose.data.rendered.actions import Array
from glpose.data.rendered.colours import HAIR, Colour, cloth_colour, random_colour, scaled, skin_colour
from glpose.data.rendered.figure import (
    Figure,
    Ints,
    Piece,
    ellipsoid,
    grid_faces,
    join,
    plain,
    quad,
    rigid,
    subdivide,
    tube,
)
from glpose.data.rendered.rig import CHILD, SEGMENT, SEGMENTS, Body, faces, weights

# What a vertex shows, and metres that it lies outside the skin (times how loose the clothes are).
SKIN, TOP, BOTTOM, SHOES, HAIR_ON_HEAD, BEARD, TIGHTS = range(7)
THICKNESS = np.array([0.0, 0.010, 0.012, 0.012, 0.018, 0.006, 0.002])


def sample_figure(rng: np.random.Generator, body: Body) -> Figure:
    """A random wardrobe for a body."""
    skin, hair = skin_colour(rng), _hair_colour(rng)
    top, bottom = cloth_colour(rng), cloth_colour(rng)
    if rng.random() < 0.08:
        bottom = top
    sleeves = float(rng.choice([0.0, rng.uniform(0.35, 0.75), rng.uniform(0.8, 1.6), 2.0], p=[0.13, 0.37, 0.1, 0.4]))
    legs = float(rng.choice([0.15, rng.uniform(0.4, 1.0), rng.uniform(1.2, 1.7), 2.0], p=[0.08, 0.22, 0.08, 0.62]))
    skirt = rng.random() < 0.12
    if skirt:
        legs = 0.1
    edges, fine = subdivide(faces(), len(body.vertices))
    points, shares = (np.concatenate([v, v[edges].mean(axis=1)]) for v in (body.vertices, weights()))
    parts = _parts(rng, body, points, shares, sleeves, legs)
    dressed = _push_out(rng, body, parts[: len(body.vertices)])
    # A quarter of a face shows what most of its corners show.
    shown, middles = np.sort(parts[fine], axis=1)[:, 1], points[fine].mean(axis=1)
    colours = _colours(rng, shown, middles, {"skin": skin, "hair": hair, "top": top, "bottom": bottom})
    pieces = [Piece(dressed, weights(), faces(), colours)]
    pieces += _face(rng, body, skin, hair)
    if skirt:
        pieces.append(_skirt(rng, body, top if rng.random() < 0.4 else bottom))
    pieces += _head_wear(rng, body, hair)
    pieces += _carried(rng, body)
    return join(pieces)


def _hair_colour(rng: np.random.Generator) -> Colour:
    if rng.random() < 0.03:
        return random_colour(rng)
    at = rng.uniform(0, len(HAIR) - 1.001) if rng.random() < 0.4 else rng.uniform(0, 3)
    low = int(at)
    b, g, r = np.array(HAIR[low]) * (low + 1 - at) + np.array(HAIR[low + 1]) * (at - low)
    return (float(b), float(g), float(r))


def _along(body: Body, segment: str, points: Array) -> Array:
    """How far points lie along a limb's segment: 0 at its joint, 1 at the next."""
    side, part = segment.split("_")
    start = body.joints[SEGMENT[segment]]
    bone = body.joints[SEGMENT[f"{side}_{CHILD[part]}"]] - start
    return (points - start) @ bone / (bone @ bone)


def _parts(rng: np.random.Generator, body: Body, vertices: Array, shares: Array, sleeves: float, legs: float) -> Ints:
    """(V,) what each of vertices (V, 3), of shares (V, 15), shows.

    sleeves: 0 none, 1 to the elbow, 2 to the wrist; legs: likewise, knee and ankle.
    """
    main = shares.argmax(axis=1)
    out = np.full(len(vertices), SKIN)
    tights = rng.random() < 0.15
    for side in "lr":
        for part, cover, cloth in (("arm", sleeves, TOP), ("fore", sleeves - 1, TOP), ("thigh", legs, BOTTOM),
                                   ("shin", legs - 1, BOTTOM)):  # fmt: skip
            here = main == SEGMENT[f"{side}_{part}"]
            out[here & (_along(body, f"{side}_{part}", vertices) < cover)] = cloth
            if cloth == BOTTOM and tights:
                out[here & (out == SKIN)] = TIGHTS
        out[main == SEGMENT[f"{side}_foot"]] = SHOES if rng.random() < 0.95 else SKIN
    out[main == SEGMENT["chest"]] = TOP
    waist = body.joints[SEGMENT["pelvis"], 1] + rng.uniform(-0.06, 0.06)
    pelvis = main == SEGMENT["pelvis"]
    out[pelvis] = np.where(vertices[pelvis, 1] > waist, TOP, BOTTOM)
    collar = body.joints[SEGMENT["head"], 1] - rng.uniform(0.05, 0.12)
    out[(out == TOP) & (vertices[:, 1] > collar) & (np.abs(vertices[:, 0]) < 0.09)] = SKIN
    head = main == SEGMENT["head"]
    centre, size = _head(body)
    local = (vertices - centre) / size
    if rng.random() < 0.93:
        # A cap leaning back; its edge is the hairline in front and the nape behind.
        out[head & (local @ np.array([0, 0.8, -0.6]) > rng.uniform(0.05, 0.4))] = HAIR_ON_HEAD
    if rng.random() < 0.12:
        out[head & (local[:, 1] < -0.45) & (local[:, 2] > 0.35)] = BEARD
    return out


def _head(body: Body) -> tuple[Array, Array]:
    """Centre (3,) and half-sizes (3,) of the head without the neck."""
    head = body.vertices[weights()[:, SEGMENT["head"]] > 0.9]
    head = head[head[:, 1] > body.vertices[body.nose, 1] - 0.1]
    low, high = head.min(axis=0), head.max(axis=0)
    return 0.5 * (low + high), 0.5 * (high - low)


def _normals(vertices: Array) -> Array:
    a, b, c = (vertices[faces()[:, corner]] for corner in range(3))
    flat = np.cross(b - a, c - a)
    out = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(out, faces()[:, corner], flat)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


def _push_out(rng: np.random.Generator, body: Body, parts: Ints) -> Array:
    loose = np.ones(len(THICKNESS))
    loose[[TOP, BOTTOM, HAIR_ON_HEAD]] = rng.uniform(0.5, 2.2), rng.uniform(0.5, 2.0), rng.uniform(0.4, 1.8)
    return body.vertices + _normals(body.vertices) * (THICKNESS * loose)[parts][:, None]


def _colours(rng: np.random.Generator, shown: Ints, points: Array, base: dict[str, Colour]) -> Array:
    """(N, 3): the colour of each quarter of a face, of what it shows (N,) and its middle at rest (N, 3)."""
    colours = [base["skin"], base["top"], base["bottom"], cloth_colour(rng), base["hair"], scaled(base["hair"], 0.9)]
    plain_colours = np.array([*colours, cloth_colour(rng)], np.float64)
    out = plain_colours[shown]
    for cloth, share in ((TOP, 0.55), (BOTTOM, 0.25)):
        if rng.random() < share:
            out = np.where(((shown == cloth) & _pattern(rng, points))[:, None], _second(rng, base, cloth), out)
    # Slow changes of brightness that stay with the cloth, and uneven skin.
    waves = rng.normal(0, 1, (3, 3)) * [[18], [35], [60]]
    dirt = np.sin(points @ waves.T + rng.uniform(0, 6, 3)).mean(axis=1)
    return out * (1 + rng.uniform(0.02, 0.12) * dirt)[:, None]


def _second(rng: np.random.Generator, base: dict[str, Colour], cloth: int) -> Array:
    first = base["top" if cloth == TOP else "bottom"]
    return np.array(cloth_colour(rng) if rng.random() < 0.7 else scaled(first, rng.uniform(0.5, 1.6)))


def _pattern(rng: np.random.Generator, points: Array) -> NDArray[np.bool_]:
    """(N,) where a second colour shows, of points (N, 3) at rest: stripes, checks, dots, a panel or a print."""
    x, y, z = points.T
    kind, step, share = int(rng.integers(7)), rng.uniform(0.05, 0.2), rng.uniform(0.25, 0.6)
    if kind == 0:
        return y % step < share * step
    if kind == 1:
        return x % step < share * step
    if kind == 2:
        return (x // step + y // step + z // step) % 2 == 0
    if kind == 3:
        return np.sin(points @ (2 * np.pi / step * np.eye(3))).prod(axis=1) > 0.15
    low, high = np.percentile(y, [30, 85])
    if kind == 4:  # an open jacket
        return (np.abs(x) < rng.uniform(0.03, 0.1)) & (z > 0)
    if kind == 5:  # a print on the chest or the back
        at, half = rng.uniform(low, high), rng.uniform(0.04, 0.13)
        return (np.abs(x) < half) & (np.abs(y - at) < half) & (z > 0 if rng.random() < 0.7 else z < 0)
    edge = rng.uniform(low, high)
    return y < edge if rng.random() < 0.5 else np.abs(y - edge) < 0.06


def _face(rng: np.random.Generator, body: Body, skin: Colour, hair: Colour) -> list[Piece]:
    """Eyes, brows and mouth, just in front of the skin."""
    nose = body.vertices[body.nose]
    scale = body.height / 1.7
    wide, dark = np.array([1.0, 0, 0]), (28.0, 28.0, 30.0)
    glasses = rng.random() < 0.15

    def patch(at: Array, half_width: float, half_height: float, colour: Colour) -> Piece:
        x, y = half_width * scale * wide, half_height * scale * np.array([0.0, 1.0, 0])
        return quad("head", nose + scale * at + np.array([-x - y, x - y, x + y, -x + y]), colour)

    b, g, r = skin
    out = [patch(np.array([0, -0.040, -0.004]), 0.022, 0.006, (b * 0.55, g * 0.5, r * 0.8))]
    for side in (-1.0, 1.0):
        eye = np.array([side * 0.031, 0.034, -0.012])
        if not glasses:
            out.append(patch(eye, 0.013, 0.007, (205.0, 210.0, 215.0)))
        out.append(patch(eye + np.array([0, 0, 0.002]), *((0.022, 0.014) if glasses else (0.006, 0.007)), dark))
        out.append(patch(eye + np.array([0, 0.017, 0.001]), 0.017, 0.004, scaled(hair, 0.8)))
    return out


def _skirt(rng: np.random.Generator, body: Body, colour: Colour) -> Piece:
    """A cone from the waist down, whose lower rows follow the thighs and shins."""
    rows, columns = 7, 20
    hips = body.joints[[SEGMENT["l_thigh"], SEGMENT["r_thigh"]]].mean(axis=0)
    knee = body.joints[SEGMENT["l_shin"], 1]
    start, end = hips[1] + 0.14, hips[1] + (knee - hips[1]) * rng.uniform(0.5, 1.7)
    level = np.linspace(0, 1, rows)[:, None]
    pelvis = body.vertices[weights()[:, SEGMENT["pelvis"]] > 0.6]
    half = 0.5 * np.ptp(pelvis, axis=0)[[0, 2]] + 0.012
    radius = half * (0.85 + level[..., None] * rng.uniform(0.15, 0.75))
    around = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    middle = 0.5 * (pelvis[:, 2].min() + pelvis[:, 2].max())
    grid = np.empty((rows, columns, 3))
    grid[..., 0] = radius[..., 0] * np.sin(around)
    grid[..., 1] = start + (end - start) * level
    grid[..., 2] = middle + radius[..., 1] * np.cos(around)
    shares = np.zeros((rows, columns, len(SEGMENTS)))
    left = np.clip(0.5 + 2.0 * np.sin(around), 0, 1)
    low = np.clip((hips[1] - grid[..., 1]) / (hips[1] - knee), 0, 1) * 0.85
    shares[..., SEGMENT["l_thigh"]], shares[..., SEGMENT["r_thigh"]] = low * left, low * (1 - left)
    shares[..., SEGMENT["pelvis"]] = 1 - low
    faces = grid_faces(rows, columns)
    stripes = plain(colour, len(faces)) * np.where(np.arange(4 * len(faces)) // 4 % 2, 1, rng.uniform(0.8, 1))[:, None]
    return Piece(grid.reshape(-1, 3), shares.reshape(-1, len(SEGMENTS)), faces, stripes)


def _head_wear(rng: np.random.Generator, body: Body, hair: Colour) -> list[Piece]:
    """Long hair, and now and then a hat or a cap."""
    centre, size = _head(body)
    out = []
    if rng.random() < 0.33:
        drop = rng.uniform(0.4, 1.5) * size[1]
        at = centre + np.array([0, -0.3 * drop, -0.55 * size[2]])
        out.append(ellipsoid("head", at, (0.8 * size[0], 0.75 * size[1] + 0.5 * drop, 0.45 * size[2]), hair))
    if rng.random() < 0.16:
        colour = cloth_colour(rng)
        half = (1.14 * size[0], 0.8 * size[1], 1.1 * size[2])
        out.append(ellipsoid("head", centre + size * [0, 0.35, 0], half, colour, 0.0))
        if rng.random() < 0.6:
            brim = (0.8 * size[0], 0.01, (0.9 if rng.random() < 0.6 else 1.5) * size[2])
            out.append(ellipsoid("head", centre + size * [0, 0.36, 0.75], brim, scaled(colour, 0.8)))
    return out


def _carried(rng: np.random.Generator, body: Body) -> list[Piece]:
    """Now and then a backpack, or a bag, a stick or a ball in one hand."""
    out = []
    if rng.random() < 0.12:
        back = body.joints[SEGMENT["chest"]] + np.array([0, 0.16, -0.19])
        pack = ellipsoid("chest", back, (rng.uniform(0.13, 0.18), rng.uniform(0.17, 0.25), 0.1), cloth_colour(rng))
        out.append(Piece(pack.vertices, pack.shares, pack.faces, pack.colours, carried=True))
    if rng.random() < 0.2:
        side = "l" if rng.random() < 0.5 else "r"
        wrist, elbow = (body.joints[SEGMENT[f"{side}_{part}"]] for part in ("hand", "fore"))
        along = (wrist - elbow) / np.linalg.norm(wrist - elbow)
        palm, colour, kind = wrist + 0.09 * along, cloth_colour(rng), rng.random()
        if kind < 0.4:
            size = rng.uniform(0.08, 0.18)
            bag = ellipsoid(f"{side}_hand", palm + along * (size + 0.06), (0.5 * size, 1.2 * size, size), colour)
            out.append(
                Piece(bag.vertices, rigid(f"{side}_hand", len(bag.vertices)), bag.faces, bag.colours, carried=True)
            )
        elif kind < 0.75:
            ahead = np.array([0.0, 0.2, 1.0])
            length, radius = rng.uniform(0.2, 0.9), rng.uniform(0.008, 0.03)
            out.append(tube(f"{side}_hand", palm - 0.2 * ahead, palm + length * ahead, (radius, radius), colour))
        else:
            size = rng.uniform(0.05, 0.13)
            ball = ellipsoid(f"{side}_hand", palm + along * size, (size, size, size), colour)
            out.append(Piece(ball.vertices, ball.shares, ball.faces, ball.colours, carried=True))
    return out
