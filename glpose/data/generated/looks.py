"""What a person wears: a random wardrobe as tapered capsules on the skeleton, trunk patches, hair and face."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from glpose.data.generated.skeleton import POINT, Body

Colour = tuple[float, float, float]

# What is painted as one piece; labels ask which item covers a joint. Values are rows of BIAS.
ITEMS = (
    "r_foot", "l_foot", "r_shin", "l_shin", "r_thigh", "l_thigh", "hips", "trunk", "neck", "head", "hair",
    "r_arm", "l_arm", "r_fore", "l_fore", "r_hand", "l_hand", "skirt", "pack", "r_held", "l_held",
)  # fmt: skip
ITEM = {name: index for index, name in enumerate(ITEMS)}
# Metres added to an item's depth before sorting: touching parts come out in the order in which clothes cover them.
BIAS = np.array(
    [
        0.0, 0.0, 0.01, 0.01, 0.08, 0.08, 0.03, 0.0, 0.05, -0.04, 0.0,
        -0.06, -0.06, -0.07, -0.07, -0.08, -0.08, 0.0, 0.0, -0.085, -0.085,
    ]
)  # fmt: skip
SKIN = ((188, 208, 240), (160, 186, 226), (128, 160, 208), (96, 130, 182), (70, 98, 146), (48, 66, 102), (34, 46, 72))
SCENERY = (
    (128, 128, 128), (150, 175, 195), (205, 180, 150), (90, 130, 110), (110, 130, 150), (220, 222, 224), (80, 90, 120),
)  # fmt: skip
HAIR = ((22, 22, 26), (30, 40, 56), (40, 62, 96), (70, 116, 160), (120, 176, 208), (150, 150, 150), (210, 212, 214))


@dataclass(frozen=True)
class Capsule:
    """A tapered limb piece between two skeleton points, from share t0 to t1 of the way, radii in metres."""

    item: int
    start: int
    end: int
    t0: float
    t1: float
    r0: float
    r1: float
    colour: Colour


@dataclass(frozen=True)
class Patch:
    """A coloured area on the trunk: angles in radians from straight ahead towards the left, levels from hip (0) to
    shoulder (1). Painted where it faces the camera.
    """

    angles: tuple[float, float]
    levels: tuple[float, float]
    colour: Colour


@dataclass(frozen=True)
class Look:
    """Everything visible of one person besides pose and build. Colours are BGR 0..255.

    capsules: in painting order within an item. shade: contrast of limb shading. hairline: height of the hair's edge on
    the head, None for none. skirt: (top colour, length as a share of the thigh and shin, flare), or None.
    """

    capsules: tuple[Capsule, ...]
    patches: tuple[Patch, ...]
    skin: Colour
    top: Colour
    bottom: Colour
    hair: Colour
    hairline: float | None
    hair_bulk: float
    beard: Colour | None
    glasses: bool
    hat: Colour | None
    brim: bool
    hips_in_top: bool
    skirt: tuple[Colour, float, float] | None
    pack: Colour | None
    shade: float
    texture: float


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


def _skin(rng: np.random.Generator) -> Colour:
    at = rng.beta(1.0, 1.5) * (len(SKIN) - 1.001)
    low, share = int(at), at % 1
    mixed = np.array(SKIN[low]) * (1 - share) + np.array(SKIN[low + 1]) * share
    b, g, r = mixed * rng.normal(1, 0.03, 3)
    return (float(b), float(g), float(r))


def _sides(rng: np.random.Generator, value: Colour, chance: float) -> tuple[Colour, Colour]:
    """The same colour for right and left, or sometimes two."""
    return (value, cloth_colour(rng)) if rng.random() < chance else (value, value)


def _legs(
    rng: np.random.Generator, g: float, skin: Colour, bottom: Colour, cover: float, loose: float
) -> list[Capsule]:
    """cover: 0 bare legs, 1 to the knee, 2 to the ankle."""
    shoes = _sides(rng, cloth_colour(rng), 0.03)
    bare_feet = rng.random() < 0.06
    socks = cloth_colour(rng) if rng.random() < 0.5 else None
    tights = cloth_colour(rng) if cover < 1.5 and rng.random() < 0.15 else skin
    out: list[Capsule] = []
    for index, side in enumerate("rl"):
        hip, knee, ankle = (POINT[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
        thigh, shin, foot = (ITEM[f"{side}_{name}"] for name in ("thigh", "shin", "foot"))
        out.append(Capsule(thigh, hip, knee, 0.05, 1, 0.082 * g, 0.054 * g, tights))
        out.append(Capsule(shin, knee, ankle, 0, 0.35, 0.05 * g, 0.056 * g, tights))
        out.append(Capsule(shin, knee, ankle, 0.3, 1, 0.056 * g, 0.036 * g, tights))
        if socks is not None and cover < 1.9:
            out.append(Capsule(shin, knee, ankle, rng.uniform(0.4, 0.85), 1, 0.048 * g, 0.039 * g, socks))
        if cover > 0.05:
            share = min(cover, 1.0)
            end = (0.086 * (1 - share) + 0.058 * share) * g * loose
            out.append(Capsule(thigh, hip, knee, 0.03, share, 0.086 * g * loose**0.5, end, bottom))
        if cover > 1.02:
            share = min(cover - 1, 0.97)
            out.append(Capsule(shin, knee, ankle, 0, share, 0.058 * g * loose, 0.046 * g * loose**1.5, bottom))
        toe, heel = POINT[f"{side}_toe"], POINT[f"{side}_heel"]
        shoe = skin if bare_feet else shoes[index]
        out.append(Capsule(foot, ankle, heel, 0, 0.6, 0.04 * g, 0.042 * g, shoe))
        out.append(Capsule(foot, heel, toe, 0.05, 1, 0.042 * g, 0.034 * g, shoe))
    return out


def _arms(rng: np.random.Generator, g: float, skin: Colour, top: Colour, cover: float, loose: float) -> list[Capsule]:
    """cover: 0 sleeveless, 1 to the elbow, 2 to the wrist."""
    sleeves = _sides(rng, cloth_colour(rng) if rng.random() < 0.1 else top, 0.02)
    gloves = cloth_colour(rng) if rng.random() < 0.08 else skin
    cuff = cloth_colour(rng) if rng.random() < 0.15 else None
    watch = rng.random() < 0.2
    out: list[Capsule] = []
    for index, side in enumerate("rl"):
        shoulder, elbow, wrist, hand = (POINT[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist", "hand"))
        arm, fore = ITEM[f"{side}_arm"], ITEM[f"{side}_fore"]
        out.append(Capsule(arm, shoulder, elbow, 0, 1, 0.051 * g, 0.039 * g, skin))
        out.append(Capsule(fore, elbow, wrist, 0, 1, 0.04 * g, 0.027 * g, skin))
        if cover > 0.05:
            share = min(cover, 1.0)
            out.append(Capsule(arm, shoulder, elbow, 0, share, 0.055 * g * loose, 0.045 * g * loose, sleeves[index]))
        if cover > 1.02:
            share = min(cover - 1, 0.97)
            out.append(Capsule(fore, elbow, wrist, 0, share, 0.044 * g * loose, 0.034 * g * loose, sleeves[index]))
            if cuff is not None:
                out.append(Capsule(fore, elbow, wrist, share - 0.12, share, 0.036 * g * loose, 0.035 * g * loose, cuff))
        elif watch and side == "l":
            out.append(Capsule(fore, elbow, wrist, 0.9, 0.97, 0.03 * g, 0.03 * g, cloth_colour(rng)))
        out.append(Capsule(ITEM[f"{side}_hand"], wrist, hand, 0.1, 0.8, 0.03 * g, 0.034 * g, gloves))
    return out


def _held(rng: np.random.Generator) -> list[Capsule]:
    """Now and then a bag, a stick or a small thing in one hand."""
    if rng.random() > 0.22:
        return []
    side = "r" if rng.random() < 0.5 else "l"
    item, wrist, hand = ITEM[f"{side}_held"], POINT[f"{side}_wrist"], POINT[f"{side}_hand"]
    colour, kind = cloth_colour(rng), rng.random()
    if kind < 0.45:
        size = rng.uniform(0.07, 0.17)
        return [Capsule(item, wrist, hand, 1.4, 2.5 + 6 * size, size * 0.7, size, colour)]
    if kind < 0.75:
        # Away from the elbow and across the hand: a paddle, a racket, an umbrella.
        radius = rng.uniform(0.01, 0.03)
        other = POINT["head"] if rng.random() < 0.4 else POINT[f"{side}_knee"]
        return [Capsule(item, hand, other, -rng.uniform(0.3, 1.6), rng.uniform(0.2, 0.6), radius, radius, colour)]
    size = rng.uniform(0.03, 0.12)
    return [Capsule(item, wrist, hand, 1.0, 1.3, size, size, colour)]


def _patches(rng: np.random.Generator, top: Colour, skin: Colour) -> list[Patch]:
    out: list[Patch] = []
    second = cloth_colour(rng) if rng.random() < 0.7 else scaled(top, rng.uniform(0.5, 1.6))
    kind = rng.random()
    if kind < 0.14:
        count = int(rng.integers(3, 8))
        width = rng.uniform(0.3, 0.6) / count
        out += [Patch((-np.pi, np.pi), (i / count, i / count + width), second) for i in range(count)]
    elif kind < 0.22:
        count = int(rng.integers(5, 11))
        for i in range(count):
            angle = 2 * np.pi * i / count - np.pi
            out.append(Patch((angle, angle + rng.uniform(1.5, 3.2) / count), (0.02, 0.95), second))
    elif kind < 0.29:
        low = rng.uniform(0.2, 0.75)
        out.append(Patch((-np.pi, np.pi), (low, low + rng.uniform(0.1, 0.35)), second))
    elif kind < 0.44:
        half = rng.uniform(0.12, 0.5)
        out.append(Patch((-half, half), (0.15 if rng.random() < 0.6 else 0.0, 0.95), second))
    if rng.random() < 0.3:
        low, half = rng.uniform(0.4, 0.7), rng.uniform(0.2, 0.75)
        out.append(Patch((-half, half), (low, low + rng.uniform(0.08, 0.25)), cloth_colour(rng)))
    if rng.random() < 0.12:
        low, half = rng.uniform(0.4, 0.6), rng.uniform(0.3, 0.8)
        out.append(Patch((np.pi - half, np.pi + half), (low, low + 0.3), cloth_colour(rng)))
    if rng.random() < 0.35:
        out.append(Patch((-0.4, 0.4), (0.9, 1.02), skin))
    if rng.random() < 0.25:
        out.append(Patch((-np.pi, np.pi), (-0.02, 0.06), cloth_colour(rng)))
    return out


def sample_look(rng: np.random.Generator, body: Body) -> Look:
    """A random wardrobe for a body."""
    g, skin = body.girth, _skin(rng)
    top, bottom = cloth_colour(rng), cloth_colour(rng)
    if rng.random() < 0.08:
        bottom = top
    if rng.random() < 0.04:
        top = skin
    sleeves = float(rng.choice([0.0, rng.uniform(0.35, 0.75), rng.uniform(0.8, 1.6), 2.0], p=[0.13, 0.37, 0.1, 0.4]))
    legs = float(rng.choice([0.15, rng.uniform(0.4, 1.0), rng.uniform(1.2, 1.7), 2.0], p=[0.08, 0.22, 0.08, 0.62]))
    skirt = None
    if rng.random() < 0.13:
        length = rng.uniform(0.45, 1.7)
        skirt = (top if rng.random() < 0.5 else bottom, length, rng.uniform(0.9, 1.6))
        legs = 0.0 if rng.random() < 0.6 else 2.0
    elif rng.random() < 0.1:
        skirt = (top, rng.uniform(0.3, 0.9), rng.uniform(0.9, 1.1))  # a coat
    capsules = _legs(rng, g, skin, bottom, legs, rng.uniform(0.98, 1.4))
    capsules += _arms(rng, g, skin, top, 0.0 if top == skin else sleeves, rng.uniform(1.0, 1.35))
    capsules += _held(rng)
    capsules.append(Capsule(ITEM["neck"], POINT["neck"], POINT["head"], 0.1, 0.7, 0.052 * g, 0.047 * g, skin))
    hair_at = rng.uniform(0, len(HAIR) - 1.001) if rng.random() < 0.4 else rng.uniform(0, 3)
    low = int(hair_at)
    b, gr, r = np.array(HAIR[low]) * (low + 1 - hair_at) + np.array(HAIR[low + 1]) * (hair_at - low)
    hair = random_colour(rng) if rng.random() < 0.03 else (float(b), float(gr), float(r))
    if rng.random() < 0.33:
        r0 = 0.07 * rng.uniform(0.8, 1.5)
        long = Capsule(ITEM["hair"], POINT["hair_top"], POINT["hair_end"], 0, 1, r0, r0 * rng.uniform(0.4, 1.1), hair)
        capsules.append(long)
    return Look(
        capsules=tuple(capsules),
        patches=tuple(_patches(rng, top, skin)),
        skin=skin,
        top=top,
        bottom=bottom,
        hair=hair,
        hairline=None if rng.random() < 0.07 else float(rng.uniform(0.05, 0.5)),
        hair_bulk=float(rng.uniform(1.03, 1.3)),
        beard=scaled(hair, 0.9) if rng.random() < 0.12 else None,
        glasses=bool(rng.random() < 0.15),
        hat=cloth_colour(rng) if rng.random() < 0.15 else None,
        brim=bool(rng.random() < 0.6),
        hips_in_top=bool(rng.random() < 0.4),
        skirt=skirt,
        pack=cloth_colour(rng) if rng.random() < 0.14 else None,
        shade=float(rng.uniform(0.05, 0.35)),
        texture=float(rng.uniform(0.02, 0.2)),
    )
