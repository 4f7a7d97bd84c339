"""Backgrounds and occluders: everything in the picture that is not a person."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from glpose.data.rendered.actions import Array
from glpose.data.rendered.camera import Camera
from glpose.data.rendered.colours import Colour, cloth_colour, random_colour, scaled, scene_colour
from glpose.data.rendered.shapes import SHIFT, Polygon, fixed, hull


def value_noise(rng: np.random.Generator, height: int, width: int, coarse: float, octaves: int = 4) -> np.ndarray:
    """(height, width) float32 in about -1..1; `coarse` cells across, doubling per octave at half the strength."""
    total = np.zeros((height, width), np.float32)
    strength = 1.0
    for _ in range(octaves):
        rows, columns = max(2, int(coarse * height / width) + 2), int(coarse) + 2
        grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
        smooth = cv2.INTER_CUBIC if coarse < 16 else cv2.INTER_LINEAR
        total += np.float32(strength) * cv2.resize(grid, (width, height), interpolation=smooth)
        strength *= rng.uniform(0.4, 0.65)
        coarse = min(coarse * 2, width / 2)
    return total * 0.6


def _paint(image: np.ndarray, points: Array, colour: Colour) -> None:
    cv2.fillConvexPoly(image, hull(points), colour, cv2.LINE_AA, SHIFT)


def _rectangle(x: float, y: float, w: float, h: float) -> Array:
    return np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])


def _building(rng: np.random.Generator, image: np.ndarray, x: float, base: float, w: float, h: float) -> None:
    wall, glass = scene_colour(rng), cloth_colour(rng)
    _paint(image, _rectangle(x, base - h, w, h), wall)
    columns, rows = int(rng.integers(2, 9)), int(rng.integers(2, 9))
    across, down = w / columns, h / rows
    share_x, share_y = rng.uniform(0.3, 0.85), rng.uniform(0.3, 0.8)
    for i in range(columns):
        for j in range(rows):
            if rng.random() < 0.93:
                _paint(image, _rectangle(x + across * (i + 0.15), base - h + down * (j + 0.15), across * share_x,
                                         down * share_y), glass)  # fmt: skip


def _blob(rng: np.random.Generator, image: np.ndarray, x: float, y: float, r: float, colour: Colour) -> None:
    for _ in range(int(rng.integers(6, 16))):
        at = rng.normal(0, 0.5, 2) * r + [x, y]
        tone = rng.uniform(0.6, 1.35)
        size = max(1, int(r * rng.uniform(0.2, 0.5)))
        cv2.circle(image, (int(at[0]), int(at[1])), size, scaled(colour, tone), -1, cv2.LINE_AA)


def _limb(rng: np.random.Generator, image: np.ndarray, x: float, y: float, length: float) -> None:
    """A pole, branch or pipe in any colour, so that elongated shapes alone do not mean a person."""
    angle = rng.normal(np.pi / 2, 0.25) if rng.random() < 0.6 else rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)]) * length
    across = np.array([-along[1], along[0]]) * rng.uniform(0.02, 0.11)
    start = np.array([x, y])
    taper = rng.uniform(0.4, 1)
    colour = cloth_colour(rng)
    quad = np.array([start - across, start + across, start + along + across * taper, start + along - across * taper])
    _paint(image, quad, colour)
    core = np.array([start - across * 0.4, start + across * 0.4, start + along + across * 0.4 * taper, start + along])
    _paint(image, core, scaled(colour, 1.2, 5))


def make_background(rng: np.random.Generator, height: int, width: int, horizon: float) -> np.ndarray:
    """(height, width, 3) uint8 BGR: one of several random settings; horizon: its row in px, may lie outside."""
    kind = rng.random()
    # The soft part, at half the resolution: a gradient, the ground, clouds of light and of tint.
    h, w = (height + 1) // 2, (width + 1) // 2
    image = np.empty((h, w, 3), np.float32)
    rows = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    top, bottom = np.array(scene_colour(rng)), np.array(scene_colour(rng))
    image[:] = (top * (1 - rows) + bottom * rows)[:, None].astype(np.float32)
    line = int(np.clip(horizon + rng.normal(0, 0.05) * height, 0.05 * height, 0.95 * height))
    if kind < 0.75:
        ground = np.array(scene_colour(rng) if rng.random() < 0.7 else (70, 115, 95)) * rng.uniform(0.6, 1.2)
        shading = np.linspace(rng.uniform(0.7, 1.1), 1, h - line // 2, dtype=np.float32)
        image[line // 2 :] = ground.astype(np.float32) * shading[:, None, None]
    clouds = value_noise(rng, h, w, rng.uniform(1, 10), 4) * np.float32(40 * rng.uniform(0, 1) ** 2)
    tints = [value_noise(rng, h, w, rng.uniform(1, 6), 1) * np.float32(20 * rng.uniform(0, 1) ** 2) for _ in "bg"]
    image += cv2.merge([clouds + tints[0], clouds, clouds + tints[1]])
    picture = cv2.resize(cv2.convertScaleAbs(np.maximum(image, 0)), (width, height))
    if kind < 0.4:
        x = -rng.uniform(0, 0.2) * width
        while x < width:
            w = rng.uniform(0.08, 0.45) * width
            if rng.random() < 0.75:
                _building(rng, picture, x, line, w, rng.uniform(0.15, 1.0) * max(line, 0.3 * height))
            x += w * rng.uniform(0.8, 1.5)
    elif kind < 0.65:
        for _ in range(int(rng.integers(0, 7))):
            x, y = rng.uniform(0, width), rng.uniform(0, max(line, 10))
            panel = _rectangle(x, y, rng.uniform(0.05, 0.3) * width, rng.uniform(0.05, 0.45) * height)
            _paint(picture, panel, cloth_colour(rng))
            middle = panel.mean(axis=0)
            _paint(picture, middle + (panel - middle) * rng.uniform(0.6, 0.95), cloth_colour(rng))
    elif kind < 0.9:
        for _ in range(int(rng.integers(6, 40))):
            centre = rng.uniform(0, 1, 2) * [width, height]
            size = rng.uniform(0.03, 0.3) * height
            points = centre + rng.normal(0, 1, (int(rng.integers(3, 7)), 2)) * size
            _paint(picture, points, random_colour(rng) if rng.random() < 0.3 else cloth_colour(rng))
    if rng.random() < 0.35:
        _lines(rng, picture, line)
    green: Colour = (rng.uniform(20, 80), rng.uniform(60, 140), rng.uniform(30, 110))
    for _ in range(int(rng.integers(0, 5))):
        _blob(rng, picture, rng.uniform(0, width), line - rng.normal(0.05, 0.12) * height,
              rng.uniform(0.04, 0.25) * height, green if rng.random() < 0.7 else cloth_colour(rng))  # fmt: skip
    for _ in range(int(rng.integers(0, 7))):
        _limb(rng, picture, rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.05, 0.45) * height)
    if rng.random() < 0.6:
        grain = value_noise(rng, height, width, rng.uniform(10, width / 5), 2) * np.float32(30 * rng.uniform(0, 1) ** 2)
        picture = cv2.convertScaleAbs(np.maximum(picture + grain[..., None], 0))
    if rng.random() < 0.6:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 2.5)) * height / 240)
    return picture


def _lines(rng: np.random.Generator, image: np.ndarray, horizon: int) -> None:
    """Stripes of a wall, a fence or planks running to a vanishing point."""
    height, width = image.shape[:2]
    colour, thick = cloth_colour(rng), int(rng.integers(1, max(2, height // 60)))
    if rng.random() < 0.5:
        step = rng.uniform(0.02, 0.15) * width
        low, high = (0, horizon) if rng.random() < 0.7 else (0, height)
        for i in range(int(width / step) + 1):
            x = int(i * step)
            cv2.line(image, (x, low), (x, high), colour, thick, cv2.LINE_AA)
    else:
        vanish = (int(rng.uniform(0, width)), horizon)
        for x in np.linspace(-2 * width, 3 * width, int(rng.integers(8, 30))):
            cv2.line(image, vanish, (int(x), height), colour, thick, cv2.LINE_AA)


@dataclass(frozen=True)
class Occluder:
    """A thing in front of someone. shapes: convex outlines (M, 2) in metres, x to the right, y down from the ground
    point, with a colour each; position: sideways and away, metres at `middle` seconds; speed: sideways, metres/s.
    """

    shapes: tuple[tuple[Array, Colour], ...]
    position: tuple[float, float]
    middle: float
    speed: float
    texture: float

    def polygons(self, t: float, camera: Camera) -> list[Polygon]:
        """What to paint at time t, in painting order."""
        foot = np.array([self.position[0] + self.speed * (t - self.middle), 0.0, self.position[1]])
        base, scale = camera.project(foot)
        return [Polygon(fixed(outline * scale + base), colour) for outline, colour in self.shapes]


def make_occluder(rng: np.random.Generator, x: float, z: float, middle: float) -> Occluder:
    """A post, box, board, bush, wall end or passing car at (x, z) metres."""
    kind = rng.random()
    colour, second = cloth_colour(rng), cloth_colour(rng)
    light = scaled(colour, 1.2)
    speed = 0.0
    shapes: list[tuple[Array, Colour]] = []
    if kind < 0.3:
        w, h, slant = rng.uniform(0.06, 0.32), rng.uniform(1.2, 4.5), rng.normal(0, 0.12)
        post = np.array([[-w / 2, 0], [w / 2, 0], [w / 2 + slant * h, -h], [-w / 2 + slant * h, -h]])
        shapes += [(post, colour), (post * [0.5, 1.0] + [0.1 * w, 0], light)]
        for i in range(int(rng.integers(0, 5))):
            y = -h * (0.15 + 0.17 * i)
            shapes.append((_rectangle(-w / 2 - slant * y, y, w, 0.06 * h), second))
    elif kind < 0.55:
        w, h = rng.uniform(0.4, 1.6), rng.uniform(0.35, 1.25)
        shapes += [(_rectangle(-w / 2, -h, w, h), colour), (_rectangle(-w / 2, -h, w, 0.15 * h), light)]
        for _ in range(int(rng.integers(0, 4))):
            at = rng.uniform(-0.4, 0.2, 2)
            shapes.append((_rectangle(at[0] * w, (at[1] - 0.5) * h, 0.25 * w, 0.25 * h), second))
    elif kind < 0.7:
        w, h, low = rng.uniform(0.3, 1.2), rng.uniform(0.25, 0.9), rng.uniform(0.5, 1.5)
        shapes.append((_rectangle(-0.04, -low, 0.08, low), second))
        shapes.append((_rectangle(-w / 2, -low - h, w, h), colour))
        shapes.append((_rectangle(-w * 0.4, -low - h * 0.8, w * 0.8, h * 0.6), light))
        speed = rng.normal(0, 0.8) if rng.random() < 0.4 else 0.0
    elif kind < 0.91:
        r = rng.uniform(0.2, 0.7)
        ring = np.linspace(0, 2 * np.pi, 9, endpoint=False)
        circle = np.stack([np.cos(ring), np.sin(ring)], axis=-1)
        green = (rng.uniform(15, 80), rng.uniform(50, 150), rng.uniform(20, 110)) if rng.random() < 0.7 else colour
        for _ in range(int(rng.integers(8, 20))):
            at = rng.normal(0, 0.55, 2) * [r, r] - [0, r * 1.1]
            tone = rng.uniform(0.55, 1.4)
            shapes.append((circle * r * rng.uniform(0.15, 0.45) + at, scaled(green, tone)))
    else:
        w, h = rng.uniform(1.6, 4.2), rng.uniform(0.9, 1.6)
        size = np.array([w, h])
        low = 0.2 / h
        shapes.append((size * [[-0.5, -low], [0.5, -low], [0.5, -0.55], [-0.5, -0.6]], colour))
        shapes.append((size * [[-0.36, -0.5], [0.34, -0.5], [0.2, -1], [-0.24, -1]], light))
        shapes.append((size * [[-0.3, -0.55], [0.28, -0.55], [0.17, -0.93], [-0.2, -0.93]], second))
        ring = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        for side in (-0.3, 0.3):
            wheel = np.stack([np.cos(ring), np.sin(ring)], axis=-1) * 0.28 + [side * w, -0.28]
            shapes.append((wheel, (25.0, 25.0, 28.0)))
        speed = rng.choice([-1, 1]) * rng.uniform(0.5, 6)
    return Occluder(tuple(shapes), (x, z), middle, float(speed), float(rng.uniform(0.03, 0.3)))
