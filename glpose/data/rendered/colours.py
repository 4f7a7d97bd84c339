"""Random colours of skin, hair, clothes and scenery, BGR 0..255."""

from __future__ import annotations

import colorsys

import numpy as np

Colour = tuple[float, float, float]

SKIN = ((188, 208, 240), (160, 186, 226), (128, 160, 208), (96, 130, 182), (70, 98, 146), (48, 66, 102), (34, 46, 72))
SCENERY = (
    (128, 128, 128), (150, 175, 195), (205, 180, 150), (90, 130, 110), (110, 130, 150), (220, 222, 224), (80, 90, 120),
)  # fmt: skip
HAIR = ((22, 22, 26), (30, 40, 56), (40, 62, 96), (70, 116, 160), (120, 176, 208), (150, 150, 150), (210, 212, 214))


def random_colour(rng: np.random.Generator) -> Colour:
    """Any colour, evenly in hue; BGR."""
    r, g, b = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.95), rng.uniform(0.15, 0.98))
    return (255 * b, 255 * g, 255 * r)


def cloth_colour(rng: np.random.Generator) -> Colour:
    """Street clothes: mostly neutral, black, white, denim; else anything."""
    kind = rng.random()
    if kind < 0.22:
        value = rng.uniform(14, 60)
    elif kind < 0.34:
        value = rng.uniform(185, 245)
    elif kind < 0.5:
        value = rng.uniform(60, 185)
    elif kind < 0.64:
        value = rng.uniform(0.3, 1.0)
        return (150 * value + 10, 105 * value + 8, 70 * value + 8)
    else:
        return random_colour(rng)
    b, g, r = value + rng.normal(0, 5, 3)
    return (float(b), float(g), float(r))


def scene_colour(rng: np.random.Generator) -> Colour:
    """Walls, streets, skies, fields: paler and duller than clothes."""
    base = np.array(SCENERY[int(rng.integers(len(SCENERY)))]) * rng.uniform(0.45, 1.2) + rng.normal(0, 12, 3)
    b, g, r = np.clip(base, 8, 250)
    return random_colour(rng) if rng.random() < 0.15 else (float(b), float(g), float(r))


def scaled(colour: Colour, factor: float, plus: float = 0.0) -> Colour:
    """Brighter or darker, at most 255."""
    b, g, r = (min(channel * factor + plus, 255.0) for channel in colour)
    return (b, g, r)


def skin_colour(rng: np.random.Generator) -> Colour:
    at = rng.beta(1.0, 1.5) * (len(SKIN) - 1.001)
    low, share = int(at), at % 1
    mixed = np.array(SKIN[low]) * (1 - share) + np.array(SKIN[low + 1]) * share
    b, g, r = mixed * rng.normal(1, 0.03, 3)
    return (float(b), float(g), float(r))
