"""Skinned bodies: rest meshes of 24 people, their joints, and linear blend skinning over 15 segments.

Body frame: x towards the person's left, y up, z forward, metres. The meshes (bodies.npz) were baked once from
MakeHuman's assets (CC0); they stand with slanted arms, which `Body.turns` turn down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from glpose.data.rendered.actions import ANGLE, Array

SEGMENTS = (
    "pelvis", "chest", "head", "l_thigh", "r_thigh", "l_shin", "r_shin", "l_foot", "r_foot",
    "l_arm", "r_arm", "l_fore", "r_fore", "l_hand", "r_hand",
)  # fmt: skip
SEGMENT = {name: index for index, name in enumerate(SEGMENTS)}
PARENT = (None, 0, 1, 0, 0, 3, 4, 5, 6, 1, 1, 9, 10, 11, 12)  # of each segment; parents come first
CHILD = {"thigh": "shin", "shin": "foot", "arm": "fore", "fore": "hand"}
# The bone whose head is a segment's joint.
_BONE = {
    "pelvis": "root", "chest": "spine04", "thigh": "upperleg01", "shin": "lowerleg01", "foot": "foot",
    "arm": "upperarm01", "fore": "lowerarm01", "hand": "wrist",
}  # fmt: skip
# Segments whose joints are keypoints, in the order of POSETRACK, where nose and head_top follow: those are vertices.
_JOINTS = (
    "r_foot", "r_shin", "r_thigh", "l_thigh", "l_shin", "l_foot",
    "r_hand", "r_fore", "r_arm", "l_arm", "l_fore", "l_hand", "head",
)  # fmt: skip
COUNT = 24


@dataclass(frozen=True)
class Body:
    """One person's rest mesh and joints.

    vertices: (V, 3) float64; joints: (15, 3) where each segment starts; turns: (15, 3, 3) that bring segments from rest
    to arms and legs straight down; nose, top: rows of `vertices`; reach: (15,) metres from a keypoint (POSETRACK order)
    to the body's surface.
    """

    vertices: Array
    joints: Array
    turns: Array
    nose: int
    top: int
    reach: Array

    @property
    def height(self) -> float:
        """Metres from the soles to the head's top, at rest."""
        return float(np.ptp(self.vertices[:, 1]))


@cache
def _baked() -> dict[str, np.ndarray]:
    with (files("glpose.data.rendered") / "bodies.npz").open("rb") as file:
        return dict(np.load(file))


@cache
def weights() -> Array:
    """(V, 15) share of each segment in every vertex; rows sum to 1."""
    shares = _baked()["weights"].astype(np.float64)
    return shares / shares.sum(axis=1, keepdims=True)


@cache
def faces() -> NDArray[np.int64]:
    """(F, 3) rows of vertices, counter-clockwise from outside."""
    return _baked()["faces"].astype(np.int64)


def make_body(shares: dict[int, float], size: float = 1.0) -> Body:
    """A mixture of baked bodies: {body: share}, shares summing to 1, scaled by `size`. IndexError outside 0..23."""
    if any(not 0 <= body < COUNT for body in shares):
        raise IndexError(f"bodies are 0..{COUNT - 1}, not {sorted(shares)}")
    baked = _baked()
    upright = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]).T  # baked with z up and y backwards
    vertices = size * sum(share * baked["verts"][body].astype(np.float64) for body, share in shares.items()) @ upright
    heads = size * sum(share * baked["heads"][body].astype(np.float64) for body, share in shares.items()) @ upright
    bone = {str(name): heads[index] for index, name in enumerate(baked["headbones"])}

    def joint(segment: str) -> Array:
        if segment == "head":
            return 0.5 * (bone["neck01"] + bone["head"])
        side, _, part = segment.rpartition("_")
        return bone[f"{_BONE[part]}.{side.upper()}" if side else _BONE[part]]

    joints = np.array([joint(segment) for segment in SEGMENTS])
    turns = np.tile(np.eye(3), (len(SEGMENTS), 1, 1))
    for side in "lr":
        for part, child in CHILD.items():
            along = joints[SEGMENT[f"{side}_{child}"]] - joints[SEGMENT[f"{side}_{part}"]]
            turns[SEGMENT[f"{side}_{part}"]] = shortest_turn(along[None], np.array([[0.0, -1.0, 0.0]]))[0]
        turns[SEGMENT[f"{side}_hand"]] = turns[SEGMENT[f"{side}_fore"]]
    head = np.flatnonzero(weights().argmax(axis=1) == SEGMENT["head"])
    face = vertices[head]
    upper = face[:, 1] > np.percentile(face[:, 1], 35)
    nose = int(head[upper][face[upper, 2].argmax()])
    top = int(head[face[:, 1].argmax()])
    points = [*joints[[SEGMENT[name] for name in _JOINTS]], vertices[nose], vertices[top]]
    away = np.linalg.norm(vertices[None] - np.array(points)[:, None], axis=2)
    return Body(vertices, joints, turns, nose, top, np.sort(away, axis=1)[:, :12].mean(axis=1))


def shortest_turn(start: Array, end: Array) -> Array:
    """(N, 3, 3) rotations that turn directions start (N, 3) into end (N, 3) the shortest way."""
    a = start / np.linalg.norm(start, axis=1, keepdims=True)
    b = end / np.linalg.norm(end, axis=1, keepdims=True)
    axis, cosine = np.cross(a, b), np.maximum((a * b).sum(axis=1), -0.999)
    zero = np.zeros(len(a))
    cross = np.stack(
        [zero, -axis[:, 2], axis[:, 1], axis[:, 2], zero, -axis[:, 0], -axis[:, 1], axis[:, 0], zero], axis=1
    )
    cross = cross.reshape(-1, 3, 3)
    return np.eye(3) + cross + cross @ cross / (1 + cosine)[:, None, None]


def _about(axis: int, angle: Array) -> Array:
    """(S, 3, 3) right-handed rotations about x, y or z."""
    c, s = np.cos(angle), np.sin(angle)
    out = np.zeros((len(angle), 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out[:, axis, axis] = 1
    out[:, i, i], out[:, i, j], out[:, j, i], out[:, j, j] = c, -s, s, c
    return out


def orientations(angles: Array) -> Array:
    """(S, 15, 3, 3) rotation of every segment from hanging straight down, for joint angles (S, 24) (actions.ANGLES).

    Arms turn in the chest's frame, legs in the pelvis's. Shins and forearms bend from the thigh and upper arm the
    shortest way, as hinges do.
    """

    def a(name: str) -> Array:
        return angles[:, ANGLE[name]]

    count = len(angles)
    out = np.empty((count, len(SEGMENTS), 3, 3))
    pelvis = _about(2, -a("roll"))
    chest = pelvis @ _about(2, -a("side")) @ _about(0, a("lean")) @ _about(1, a("twist"))
    out[:, SEGMENT["pelvis"]] = pelvis @ _about(0, 0.3 * a("lean"))
    out[:, SEGMENT["chest"]] = chest
    out[:, SEGMENT["head"]] = chest @ _about(1, a("turn")) @ _about(2, -a("tilt")) @ _about(0, a("nod"))
    down = np.array([0.0, -1.0, 0.0])
    for side, sign in (("l", 1.0), ("r", -1.0)):
        for upper, lower, base in (("thigh", "shin", pelvis), ("arm", "fore", chest)):
            first, second = (
                _about(0, -a(f"{side}_{part}_f")) @ _about(2, sign * a(f"{side}_{part}_a")) for part in (upper, lower)
            )
            bend = shortest_turn(first @ down, second @ down)
            out[:, SEGMENT[f"{side}_{upper}"]] = base @ first
            out[:, SEGMENT[f"{side}_{lower}"]] = base @ bend @ first
        # Toes of a leg that swings back point down.
        pitch = np.clip(0.55 * a(f"{side}_shin_f"), -1.2, 0.5)
        out[:, SEGMENT[f"{side}_foot"]] = pelvis @ _about(1, np.full(count, 0.2 * sign)) @ _about(0, -pitch)
        out[:, SEGMENT[f"{side}_hand"]] = out[:, SEGMENT[f"{side}_fore"]]
    return out


@dataclass(frozen=True)
class Posed:
    """Segments of one body at S instants: turns (S, 15, 3, 3) from the rest mesh, and joints (S, 15, 3), body frame."""

    turns: Array
    joints: Array

    def skin(self, vertices: Array, shares: Array, body: Body) -> Array:
        """(S, V, 3): rest vertices (V, 3) moved by the segments in shares (V, 15)."""
        shift = self.joints - np.einsum("snij,nj->sni", self.turns, body.joints)
        both = np.concatenate([self.turns, shift[..., None]], axis=3).reshape(len(self.turns), len(SEGMENTS), 12)
        blended = (shares @ both).reshape(len(both), len(vertices), 3, 4)
        return np.einsum("svij,vj->svi", blended[..., :3], vertices) + blended[..., 3]


def pose(body: Body, angles: Array) -> Posed:
    """Forward kinematics for angles (S, 24); the pelvis's joint is at the origin."""
    turns = orientations(angles) @ body.turns
    joints = np.zeros((len(angles), len(SEGMENTS), 3))
    for segment, parent in enumerate(PARENT):
        if parent is not None:
            bone = body.joints[segment] - body.joints[parent]
            joints[:, segment] = joints[:, parent] + turns[:, parent] @ bone
    return Posed(turns, joints)


def keypoints(body: Body, posed: Posed) -> Array:
    """(S, 15, 3) in the order of glpose.keypoints.POSETRACK."""
    ends = [body.nose, body.top]
    face = posed.skin(body.vertices[ends], weights()[ends], body)
    return np.concatenate([posed.joints[:, [SEGMENT[name] for name in _JOINTS]], face], axis=1)
