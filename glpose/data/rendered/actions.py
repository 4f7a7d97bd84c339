"""Actions: joint angles (radians) as functions of a phase, which repeats every 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# One pose is a vector of these angles (and one height, `hop`, in metres). `_f` swings a limb forward from hanging
# down, `_a` swings it outward; limbs of the arms are given in the frame of the trunk, of the legs in the pelvis's.
ANGLES = (
    "lean", "side", "twist", "nod", "turn", "tilt", "roll", "hop",
    "r_arm_f", "r_arm_a", "r_fore_f", "r_fore_a", "l_arm_f", "l_arm_a", "l_fore_f", "l_fore_a",
    "r_thigh_f", "r_thigh_a", "r_shin_f", "r_shin_a", "l_thigh_f", "l_thigh_a", "l_shin_f", "l_shin_a",
)  # fmt: skip
ANGLE = {name: index for index, name in enumerate(ANGLES)}
TAU = 2 * np.pi
# name -> (cycles per second, chance to be drawn)
ACTIONS: dict[str, tuple[float, float]] = {
    "walk": (0.95, 5.0),
    "run": (1.45, 2.5),
    "stand": (0.3, 3.0),
    "wave": (1.4, 1.0),
    "jack": (1.1, 1.0),
    "squat": (0.7, 1.0),
    "kick": (0.9, 1.0),
    "bend": (0.6, 1.0),
    "punch": (1.2, 1.0),
    "throw": (0.8, 1.0),
    "dance": (0.9, 1.5),
    "sit": (0.4, 0.8),
    "lunge": (0.7, 0.8),
    "jump": (0.9, 0.8),
    "free": (0.55, 3.0),
}


def _ease(p: Array, low: float, high: float) -> Array:
    """0 to 1 and back over one cycle: up between phases low and high, down in the remainder."""
    p = p % 1.0
    up = np.clip((p - 0.02) / (low - 0.02), 0, 1)
    down = np.clip((p - high) / (0.98 - high), 0, 1)
    value = np.where(p < high, up, 1 - down)
    return value * value * (3 - 2 * value)


def _rest(count: int) -> dict[str, Array]:
    pose = {name: np.zeros(count) for name in ANGLES}
    for side in "rl":
        pose[f"{side}_arm_a"] += 0.13
        pose[f"{side}_fore_a"] += 0.06
        pose[f"{side}_fore_f"] += 0.22
        pose[f"{side}_thigh_a"] += 0.05
        pose[f"{side}_shin_a"] += 0.04
    return pose


def _gait(pose: dict[str, Array], p: Array, k: Array, fast: bool) -> None:
    swing = (0.62 if fast else 0.42) * (0.75 + 0.5 * k[0])
    knee = (1.45 if fast else 0.85) * (0.8 + 0.4 * k[1])
    elbow = 1.35 if fast else 0.2 + 0.5 * k[2]
    arms = (0.75 if fast else 0.45) * (0.4 + 1.1 * k[3])
    for side, shift in (("r", 0.0), ("l", 0.5)):
        angle = TAU * (p + shift)
        thigh = swing * np.sin(angle) + (0.25 if fast else 0.06)
        # The knee bends while the leg swings forward and is nearly straight while it carries the body.
        bend = 0.1 + knee * np.clip(np.cos(angle + 0.35), 0, 1) ** 1.5 + 0.15 * np.clip(-np.cos(angle), 0, 1)
        pose[f"{side}_thigh_f"] = thigh
        pose[f"{side}_shin_f"] = thigh - bend
        arm = -arms * np.sin(angle)
        pose[f"{side}_arm_f"] = arm
        pose[f"{side}_fore_f"] = arm + elbow + 0.2 * np.clip(-np.sin(angle), -0.5, 1)
    pose["twist"] = (0.18 if fast else 0.1) * np.sin(TAU * p)
    pose["lean"] = np.full_like(p, 0.2 if fast else 0.06 * k[4])
    pose["hop"] = (0.07 if fast else 0.0) * np.abs(np.cos(TAU * p))


def _arms_style(pose: dict[str, Array], p: Array, k: Array) -> None:
    """What the arms of someone standing do: hang, hips, crossed, telephone, reading, carrying, pointing, behind."""
    style = int(k[5] * 9)
    sides = "rl" if k[6] < 0.5 else "lr"
    one = sides[0]
    sway = 0.08 * np.sin(TAU * p)
    if style == 1:
        for side in sides:
            pose[f"{side}_arm_a"], pose[f"{side}_arm_f"] = 0.75 + sway, 0 * p - 0.3
            pose[f"{side}_fore_a"], pose[f"{side}_fore_f"] = 0 * p - 0.75, 0 * p + 0.45
    elif style == 2:
        for side, lift in zip(sides, (0.0, 0.12), strict=True):
            pose[f"{side}_arm_f"], pose[f"{side}_arm_a"] = 0.35 + sway, 0 * p + 0.2
            pose[f"{side}_fore_f"], pose[f"{side}_fore_a"] = 1.35 + lift + sway, 0 * p - 1.0
    elif style == 3:
        pose[f"{one}_arm_f"], pose[f"{one}_arm_a"] = 0.5 + sway, 0 * p + 0.5
        pose[f"{one}_fore_f"], pose[f"{one}_fore_a"] = 0 * p + 2.7, 0 * p - 0.35
        pose["tilt"] = 0 * p + (0.15 if one == "l" else -0.15)
    elif style == 4:
        for side in sides:
            pose[f"{side}_arm_f"], pose[f"{side}_arm_a"] = 0.35 + sway, 0 * p + 0.1
            pose[f"{side}_fore_f"], pose[f"{side}_fore_a"] = 1.75 + sway, 0 * p - 0.4
        pose["nod"] = 0 * p + 0.45
    elif style == 5:
        pose[f"{one}_arm_f"], pose[f"{one}_fore_f"] = 1.2 + sway, 1.45 + sway
        pose[f"{one}_arm_a"] = 0 * p + 0.9 * k[7]
        pose[f"{one}_fore_a"] = 0 * p + 0.9 * k[7]
    elif style == 6:
        for side in sides:
            pose[f"{side}_arm_f"], pose[f"{side}_arm_a"] = 0 * p - 0.45, 0 * p + 0.3
            pose[f"{side}_fore_f"], pose[f"{side}_fore_a"] = 0 * p - 0.35, 0 * p - 0.6
    elif style == 7:
        for side in sides:
            pose[f"{side}_arm_f"], pose[f"{side}_arm_a"] = 0 * p + 2.6 * k[7], 0 * p + 0.3
            pose[f"{side}_fore_f"], pose[f"{side}_fore_a"] = 0.4 + 2.6 * k[7] + sway, 0 * p - 0.1


def action_angles(name: str, p: Array, k: Array, keys: Array) -> Array:
    """(S, 24) angles of one action at phases p (S,). k: (12,) in 0..1, the performer's manner; keys: (K, 24) random
    poses, which "free" passes through.
    """
    pose = _rest(len(p))
    sides = ("r", "l") if k[6] < 0.5 else ("l", "r")
    one, other = sides
    wave = np.sin(TAU * p)
    reach = _ease(p, 0.35 + 0.1 * k[0], 0.55 + 0.1 * k[1])
    if name in ("walk", "run"):
        _gait(pose, p, k, name == "run")
        if name == "walk" and k[8] < 0.25:
            _arms_style(pose, p, k)
    elif name == "stand":
        _arms_style(pose, p, k)
        pose["turn"] = 0.7 * (k[0] - 0.5) + 0.35 * wave
        pose["side"] = 0.06 * wave
        shift = 0.25 * (k[1] - 0.3)
        pose[f"{one}_thigh_f"] += shift
        pose[f"{one}_shin_f"] += shift - 0.25 * k[2]
        pose[f"{other}_thigh_a"] += 0.15 * k[3]
        pose[f"{other}_shin_a"] += 0.15 * k[3]
    elif name == "wave":
        pose[f"{one}_arm_a"] = 1.2 + 0.9 * k[0] + 0.1 * wave
        pose[f"{one}_fore_a"] = 2.6 + (0.35 + 0.4 * k[1]) * wave
        pose[f"{one}_arm_f"] = 0 * p + 0.6 * (k[2] - 0.3)
        if k[3] < 0.3:
            pose[f"{other}_arm_a"] = 1.2 + 0.9 * k[0] - 0.1 * wave
            pose[f"{other}_fore_a"] = 2.6 - (0.35 + 0.4 * k[1]) * wave
    elif name == "jack":
        open_ = 0.5 - 0.5 * np.cos(TAU * p)
        for side in sides:
            pose[f"{side}_arm_a"] = 0.2 + (2.0 + 0.6 * k[0]) * open_
            pose[f"{side}_fore_a"] = 0.15 + (2.3 + 0.6 * k[0]) * open_
            pose[f"{side}_thigh_a"] = pose[f"{side}_shin_a"] = 0.04 + 0.45 * open_
        pose["hop"] = 0.12 * np.abs(wave)
    elif name == "squat":
        for side in sides:
            pose[f"{side}_thigh_f"] = (1.3 + 0.5 * k[0]) * reach
            pose[f"{side}_shin_f"] = -(0.65 + 0.2 * k[1]) * reach
            pose[f"{side}_thigh_a"] = 0.1 + 0.35 * k[2] * reach
            pose[f"{side}_arm_f"] = (0.3 + 1.3 * k[3]) * reach
            pose[f"{side}_fore_f"] = 0.2 + (0.5 + 1.3 * k[3]) * reach
        pose["lean"] = (0.4 + 0.3 * k[4]) * reach
    elif name == "kick":
        swing = np.sin(TAU * p) * (0.5 + 0.5 * k[0])
        high = 0.4 + 1.0 * k[1]
        pose[f"{one}_thigh_f"] = np.where(swing > 0, high * swing * 1.3, 0.7 * swing)
        pose[f"{one}_shin_f"] = pose[f"{one}_thigh_f"] - np.clip(0.3 - 1.2 * np.sin(TAU * p - 0.9), 0, 1.5)
        pose[f"{one}_thigh_a"] = pose[f"{one}_shin_a"] = 0.05 + 0.9 * k[2] ** 2 * np.clip(swing, 0, 1)
        pose[f"{one}_arm_f"], pose[f"{other}_arm_f"] = -0.6 * swing, 0.8 * swing
        pose[f"{one}_arm_a"] = pose[f"{other}_arm_a"] = 0.4 + 0.3 * np.abs(swing)
        pose[f"{one}_fore_a"] = pose[f"{other}_fore_a"] = 0.3 + 0.3 * np.abs(swing)
        pose["lean"] = -0.25 * np.clip(swing, 0, 1)
    elif name == "bend":
        pose["lean"] = (0.8 + 0.7 * k[0]) * reach
        pose["side"] = 0.5 * (k[1] - 0.5) * reach
        for side in sides:
            pose[f"{side}_arm_f"] = (0.6 + 0.8 * k[2]) * reach
            pose[f"{side}_fore_f"] = 0.2 + (0.6 + 0.8 * k[2]) * reach
            pose[f"{side}_thigh_f"] = 0.9 * k[3] * reach
            pose[f"{side}_shin_f"] = -0.5 * k[3] * reach
    elif name == "punch":
        for side, part in ((one, np.clip(wave, 0, 1)), (other, np.clip(-wave, 0, 1))):
            out = part**0.7
            pose[f"{side}_arm_f"] = 0.25 + 1.25 * out
            pose[f"{side}_fore_f"] = 2.2 - 0.6 * out
            pose[f"{side}_fore_a"] = -0.35 + 0.3 * out
        pose["twist"] = 0.45 * wave * (1 if one == "r" else -1)
        pose[f"{one}_thigh_f"], pose[f"{one}_shin_f"] = 0 * p - 0.25, 0 * p - 0.5
        pose[f"{other}_thigh_f"], pose[f"{other}_shin_f"] = 0 * p + 0.4, 0 * p + 0.05
    elif name == "throw":
        pose[f"{one}_arm_a"] = 0.3 + 1.2 * reach
        pose[f"{one}_arm_f"] = -0.5 + 2.6 * reach * k[0]
        pose[f"{one}_fore_a"] = 0.1 + (1.0 + 1.2 * np.cos(TAU * p)) * reach
        pose[f"{one}_fore_f"] = 0.2 + 2.4 * reach
        pose[f"{other}_arm_f"] = 0.9 * (1 - reach)
        pose[f"{other}_fore_f"] = 1.2 * (1 - reach) + 0.2
        pose["twist"] = 0.6 * wave * (1 if one == "r" else -1)
        pose[f"{other}_thigh_f"] = pose[f"{other}_shin_f"] = 0.5 * reach
        pose["lean"] = 0.4 * (wave - 0.3) * k[2]
    elif name in ("sit", "lunge"):
        if name == "sit":
            _arms_style(pose, p, k)
            for side in sides:
                pose[f"{side}_thigh_f"] = 1.4 + 0.15 * (k[0] - 0.5) + 0.03 * wave
                pose[f"{side}_thigh_a"] = 0 * p + 0.05 + 0.35 * k[1]
                pose[f"{side}_shin_f"] = 0 * p + 0.9 * (k[2] - 0.6)
            pose["lean"] = 0.5 * (k[3] - 0.4) + 0.05 * wave
        else:
            pose[f"{one}_thigh_f"], pose[f"{one}_shin_f"] = 0.2 + 1.2 * reach, -0.1 * reach
            pose[f"{other}_thigh_f"], pose[f"{other}_shin_f"] = -0.7 * reach, -0.2 - 1.3 * reach
            pose["lean"] = 0.4 * k[0] * reach
            _arms_style(pose, p, k)
    elif name == "jump":
        air = np.clip(np.sin(TAU * p), 0, 1)
        crouch = np.clip(-np.sin(TAU * p), 0, 1)
        pose["hop"] = (0.15 + 0.35 * k[0]) * air
        for side in sides:
            pose[f"{side}_thigh_f"] = 1.1 * crouch + 1.2 * k[1] * air
            pose[f"{side}_shin_f"] = -0.7 * crouch - 0.6 * k[2] * air
            pose[f"{side}_arm_f"] = -0.6 * crouch + (1.5 + 1.3 * k[3]) * air
            pose[f"{side}_fore_f"] = 0.3 - 0.3 * crouch + (1.6 + 1.3 * k[3]) * air
        pose["lean"] = 0.5 * crouch
    elif name == "free":
        return _through(keys, p)
    else:  # dance
        for i, side in enumerate(sides):
            turn = TAU * (p + 0.5 * i * (k[0] > 0.4))
            pose[f"{side}_arm_a"] = 0.6 + 1.3 * k[1] + 0.7 * np.sin(turn)
            pose[f"{side}_arm_f"] = 0.9 * k[2] + 0.6 * np.cos(turn)
            pose[f"{side}_fore_a"] = pose[f"{side}_arm_a"] + 1.4 * (k[3] - 0.5) + 0.6 * np.sin(turn + TAU * k[4])
            pose[f"{side}_fore_f"] = pose[f"{side}_arm_f"] + 1.0 * k[7] + 0.5 * np.cos(2 * turn)
            lift = np.clip(np.sin(turn), 0, 1) * (0.3 + 0.8 * k[8])
            pose[f"{side}_thigh_f"], pose[f"{side}_shin_f"] = lift, -0.6 * lift
            pose[f"{side}_thigh_a"] = pose[f"{side}_shin_a"] = 0.05 + 0.3 * k[9] + 0.1 * np.sin(turn)
        pose["side"], pose["twist"] = 0.25 * wave, 0.4 * np.sin(2 * TAU * p)
    return np.stack([np.broadcast_to(pose[name], p.shape) for name in ANGLES], axis=1)


def _through(keys: Array, p: Array) -> Array:
    at = (p % 1.0) * len(keys)
    index = at.astype(int) % len(keys)
    share = np.clip((at - np.floor(at)) * 1.4, 0, 1)[:, None]
    share = share * share * (3 - 2 * share)
    return keys[index] * (1 - share) + keys[(index + 1) % len(keys)] * share


def random_pose(rng: np.random.Generator) -> Array:
    """(24,) a plausible pose: arms anywhere within reach, legs from standing to deep lunge, sometimes upside down."""
    pose = np.zeros(len(ANGLES))

    def put(name: str, value: float) -> None:
        pose[ANGLE[name]] = value

    put("lean", float(np.clip(rng.normal(0.15, 0.35), -0.4, 1.4)))
    put("side", rng.normal(0, 0.2))
    put("twist", rng.normal(0, 0.25))
    put("nod", rng.normal(0.05, 0.25))
    put("turn", rng.normal(0, 0.4))
    put("tilt", rng.normal(0, 0.12))
    low = rng.random() < 0.3
    for side in "rl":
        out, ahead = abs(rng.normal(0.2, 0.75)), rng.normal(0.5, 0.9)
        put(f"{side}_arm_a", min(out, 2.5))
        put(f"{side}_arm_f", float(np.clip(ahead, -0.9, 2.9)))
        # Elbows bend forward and inward of the upper arm, never back.
        put(f"{side}_fore_a", min(out, 2.5) + rng.normal(-0.15, 0.45))
        put(f"{side}_fore_f", float(np.clip(ahead, -0.9, 2.9)) + abs(rng.normal(0.3, 0.8)))
        thigh = rng.uniform(0.5, 1.7) if low else rng.normal(0.15, 0.4)
        put(f"{side}_thigh_f", thigh)
        put(f"{side}_thigh_a", abs(rng.normal(0.1, 0.25)))
        put(f"{side}_shin_f", thigh - abs(rng.normal(1.3 if low else 0.2, 0.5)))
        put(f"{side}_shin_a", rng.normal(0.08, 0.1))
    return pose
