"""A jointed body in metres: proportions, and where its points are for a vector of joint angles.

Body frame: x towards the person's left, y up, z forward; the ground is y = 0 under the pelvis. Angles are radians.
"""

from __future__ import annotations

from dataclasses import dataclass

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

POINTS = (
    "pelvis", "waist", "neck", "head_bottom", "head",
    "r_hip", "r_knee", "r_ankle", "r_toe", "r_heel", "l_hip", "l_knee", "l_ankle", "l_toe", "l_heel",
    "r_shoulder", "r_elbow", "r_wrist", "r_hand", "l_shoulder", "l_elbow", "l_wrist", "l_hand",
    "head_top", "nose", "hair_top", "hair_end",
)  # fmt: skip
POINT = {name: index for index, name in enumerate(POINTS)}

# Rows of POINTS in the order of glpose.keypoints.POSETRACK.
KEYPOINTS = [
    POINT[name]
    for name in (
        "r_ankle", "r_knee", "r_hip", "l_hip", "l_knee", "l_ankle", "r_wrist", "r_elbow", "r_shoulder",
        "l_shoulder", "l_elbow", "l_wrist", "head_bottom", "nose", "head_top",
    )
]  # fmt: skip


@dataclass(frozen=True)
class Body:
    """Bone lengths and half-widths in metres; `head` is the head's half (width, height, depth); `girth` is a factor
    on every limb's thickness; `widths` and `depths` are the trunk's half-sizes at hip, waist, chest and shoulder.
    """

    height: float
    upper_arm: float
    forearm: float
    hand: float
    thigh: float
    shin: float
    foot: float
    trunk: float
    neck: float
    shoulder: float
    hip: float
    head: tuple[float, float, float]
    girth: float
    widths: tuple[float, float, float, float]
    depths: tuple[float, float, float, float]
    hair_length: float


@dataclass(frozen=True)
class Posed:
    """Points (S, 27, 3) in the body frame for S instants, and the (S, 3, 3) axes of pelvis, trunk and head, whose
    columns are left, up and forward.
    """

    points: Array
    pelvis: Array
    trunk: Array
    head: Array


def sample_body(rng: np.random.Generator) -> Body:
    """A random build: children to tall adults, thin to stout."""
    child = rng.random() < 0.12
    height = rng.uniform(1.05, 1.45) if child else float(np.clip(rng.normal(1.71, 0.1), 1.48, 1.98))
    girth = float(np.clip(rng.normal(1.0, 0.13), 0.78, 1.4))
    head_scale = (1.25 if child else 1.0) * rng.uniform(0.92, 1.1) * (height / 1.71) ** 0.5

    def part(share: float, spread: float = 0.05) -> float:
        return share * height * float(np.clip(rng.normal(1, spread), 0.86, 1.14))

    shoulder, hip = part(0.108, 0.08), part(0.055, 0.1)
    widths = (hip + 0.045 * girth, (0.088 * height - 0.012) * girth, shoulder * 0.94 * girth**0.5, shoulder * 1.06)
    depths = (0.11 * girth, 0.095 * girth**1.5, 0.115 * girth, 0.075)
    return Body(
        height=height,
        upper_arm=part(0.172),
        forearm=part(0.15),
        hand=part(0.075),
        thigh=part(0.243),
        shin=part(0.24),
        foot=part(0.13),
        trunk=part(0.292),
        neck=part(0.052),
        shoulder=shoulder,
        hip=hip,
        head=(0.076 * head_scale, 0.118 * head_scale, 0.096 * head_scale),
        girth=girth * height / 1.71,
        widths=widths,
        depths=depths,
        hair_length=float(rng.uniform(0.14, 0.38)),
    )


def _rotation(axis: int, angle: Array) -> Array:
    """(S, 3, 3) rotations about one axis: 0 leans forward, 1 turns to the left, 2 leans to the left, when positive."""
    c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    rows = {
        0: (one, zero, zero, zero, c, -s, zero, s, c),
        1: (c, zero, s, zero, one, zero, -s, zero, c),
        2: (c, s, zero, -s, c, zero, zero, zero, one),
    }[axis]
    return np.stack(rows, axis=-1).reshape(*angle.shape, 3, 3)


def _along(axes: Array, x: float, y: float, z: float) -> Array:
    return axes @ np.array([x, y, z])


def pose_body(body: Body, angles: Array) -> Posed:
    """Forward kinematics. angles: (S, 24) in the order of ANGLES. The lowest point touches the ground, plus `hop`."""

    def a(name: str) -> Array:
        return angles[:, ANGLE[name]]

    def limb(side: str, bone: str, axes: Array, length: float) -> Array:
        forward, out = a(f"{side}_{bone}_f"), a(f"{side}_{bone}_a")
        sign = 1.0 if side == "l" else -1.0
        local = np.stack([sign * np.sin(out), -np.cos(out) * np.cos(forward), np.cos(out) * np.sin(forward)], axis=-1)
        return length * np.einsum("sij,sj->si", axes, local)

    count = len(angles)
    pelvis = _rotation(2, a("roll"))
    half = pelvis @ _rotation(2, a("side") * 0.5) @ _rotation(0, a("lean") * 0.55)
    trunk = pelvis @ _rotation(2, a("side")) @ _rotation(0, a("lean")) @ _rotation(1, a("twist"))
    head = trunk @ _rotation(1, a("turn")) @ _rotation(2, a("tilt")) @ _rotation(0, a("nod"))
    points = np.zeros((count, len(POINTS), 3))

    def put(name: str, value: Array) -> Array:
        points[:, POINT[name]] = value
        return value

    _, tall, deep = body.head
    waist = put("waist", _along(half, 0, 0.42 * body.trunk, 0))
    neck = put("neck", waist + _along(trunk, 0, 0.58 * body.trunk, 0))
    bottom = put("head_bottom", neck + _along(trunk, 0, body.neck * 0.55, 0.012))
    middle = put("head", bottom + _along(trunk, 0, body.neck * 0.3, 0.01) + _along(head, 0, tall * 0.92, 0.02))
    put("head_top", middle + _along(head, 0, tall, -0.01))
    put("nose", middle + _along(head, 0, -0.12 * tall, deep * 1.12))
    hair = put("hair_top", middle + _along(head, 0, 0.25 * tall, -0.55 * deep))
    put("hair_end", hair + _along(head, 0, -body.hair_length, -0.25 * deep) - _along(trunk, 0, 0, 0.02))
    for side, sign in (("r", -1.0), ("l", 1.0)):
        joint = put(f"{side}_hip", _along(pelvis, sign * body.hip, -0.01, 0))
        joint = put(f"{side}_knee", joint + limb(side, "thigh", pelvis, body.thigh))
        joint = put(f"{side}_ankle", joint + limb(side, "shin", pelvis, body.shin))
        # The foot follows the shin half way, which points the toes of a leg that swings back.
        pitch = np.clip(0.55 * a(f"{side}_shin_f"), -1.2, 0.5)
        ahead = np.stack([np.full(count, sign * 0.25), np.sin(pitch), np.cos(pitch)], axis=-1)
        ahead = np.einsum("sij,sj->si", pelvis, ahead)
        down = _along(pelvis, 0, -0.045, 0)
        put(f"{side}_toe", joint + ahead * body.foot * 0.85 + down)
        put(f"{side}_heel", joint - ahead * body.foot * 0.22 + down)
        joint = put(f"{side}_shoulder", neck + _along(trunk, sign * body.shoulder, -0.045, 0))
        joint = put(f"{side}_elbow", joint + limb(side, "arm", trunk, body.upper_arm))
        joint = put(f"{side}_wrist", joint + limb(side, "fore", trunk, body.forearm))
        put(f"{side}_hand", joint + limb(side, "fore", trunk, body.hand))
    lowest = points[:, :, 1].min(axis=1) - 0.03
    points[:, :, 1] += (a("hop") - lowest)[:, None]
    return Posed(points, pelvis, trunk, head)
