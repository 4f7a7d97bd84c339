"""People of a clip: where a figure is at an instant, how it is lit, its layer, its shadow and its labels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from glpose.data.rendered.actions import ANGLE, Array
from glpose.data.rendered.camera import Camera
from glpose.data.rendered.figure import Figure
from glpose.data.rendered.labels import Seen
from glpose.data.rendered.layers import Layer
from glpose.data.rendered.motion import Motion, sample_motion
from glpose.data.rendered.raster import depth_map, paint_mesh, painting_order, window_of
from glpose.data.rendered.rig import Body, keypoints, make_body, pose
from glpose.data.rendered.shapes import SHIFT, hull
from glpose.data.rendered.wardrobe import sample_figure

FINE_FROM = 260  # px of height from which faces are painted in quarters


@dataclass(frozen=True)
class Light:
    """direction: (3,) towards the light, in the camera's frame (right, up, away); ambient and diffuse: strengths."""

    direction: Array
    ambient: float
    diffuse: float
    shadow: float


@dataclass(frozen=True)
class Person:
    """Who moves how in a clip."""

    track: int
    body: Body
    figure: Figure
    motion: Motion

    def vertices(self, times: Array) -> Array:
        """(S, V, 3) in camera metres: right, up from the ground, away."""
        return self._place(times)[0]

    def joints(self, times: Array) -> Array:
        """(S, 15, 3) keypoints, POSETRACK order, camera metres."""
        return self._place(times)[1]

    def depth(self, time: float) -> float:
        """Metres from the camera to the place where the person stands."""
        return float(self.motion.root(np.array([time]))[1][0])

    def _place(self, times: Array) -> tuple[Array, Array]:
        angles = self.motion.angles(times)
        posed = pose(self.body, angles)
        vertices = posed.skin(self.figure.vertices, self.figure.shares, self.body)
        points = keypoints(self.body, posed)
        body = vertices[:, : len(self.body.vertices)]
        lift = angles[:, ANGLE["hop"]] - body[..., 1].min(axis=1)
        x, z, yaw = self.motion.root(times)
        c, s, zero = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)
        turn = np.stack([c, zero, s, zero, zero + 1, zero, s, zero, -c], axis=-1).reshape(-1, 3, 3)
        shift = np.stack([x, lift, z], axis=-1)[:, None]
        return vertices @ turn.transpose(0, 2, 1) + shift, points @ turn.transpose(0, 2, 1) + shift


def sample_person(
    rng: np.random.Generator, track: int, bodies: tuple[int, ...], position: tuple[float, float], at: float,
    once: float | None,
) -> Person:  # fmt: skip
    """Somebody between two of `bodies` in shape, at a place (sideways, away, metres) at `at` seconds."""
    first, second = (int(rng.choice(bodies)) for _ in range(2))
    share = rng.uniform(0, 1)
    shares = {first: 1.0} if first == second else {first: share, second: 1 - share}
    size = rng.uniform(0.65, 0.85) if rng.random() < 0.1 else rng.uniform(0.95, 1.06)
    body = make_body(shares, float(size))
    return Person(track, body, sample_figure(rng, body), sample_motion(rng, position, at, once))


@dataclass(frozen=True)
class Shot:
    """One person in one exposure, ready to be laid over the picture.

    layer: None outside the frame. shadow: (N, 3) camera metres of what casts it. seen: for the labels, None outside.
    """

    layer: Layer | None
    shadow: Array
    seen: Seen | None


def shoot(
    person: Person,
    times: Array,
    shares: Array,
    cameras: list[Camera],
    speed: Array,
    light: Light,
    size: tuple[int, int],
) -> Shot:
    """Draw one person.

    times: (3,) start, end and middle of the exposure; shares: (S,) -0.5 to 0.5 of it, the last 0 (labels only);
    cameras: one per share; speed: (15,) px per frame of the keypoints; size: (height, width) px.
    """
    start, end, middle = person.vertices(times)
    figure = person.figure
    u = shares[:, None, None]
    # Vertices follow a parabola through the three poses.
    moved = middle + u * (end - start) + 2 * u * u * (start + end - 2 * middle)
    px = cameras[0].project(moved)[0] + (np.array([camera.centre for camera in cameras]) - cameras[0].centre)[:, None]
    last, depth = px[-1], middle[:, 2]
    box = window_of(last, size)
    if box is None:
        return Shot(None, middle, None)
    shade = _shade(figure, middle, light)
    if np.ptp(last[:, 1]) >= FINE_FROM:
        faces, px, shade = figure.fine, figure.refine(px), figure.refine(shade[:, None])[:, 0]
        colours = figure.colours
        order = painting_order(px[-1], figure.refine(depth[:, None])[:, 0], faces)
    else:
        faces, colours = figure.faces, figure.colours.reshape(-1, 4, 3).mean(axis=1)
        order = painting_order(last, depth, faces)
    lit = colours[order] * shade[faces[order]].mean(axis=1)[:, None]
    layer = paint_mesh(px[:-1], faces[order], lit, size)
    joints = person.joints(times[-1:])[0]
    return Shot(layer, middle, _seen(person, last, depth, joints, cameras[-1], speed, box))


def _seen(
    person: Person, px: Array, depth: Array, joints: Array, camera: Camera, speed: Array, box: tuple[int, int, int, int]
) -> Seen:
    figure = person.figure
    order = painting_order(px, depth, figure.faces)
    surface = depth_map(px, depth, figure.faces[order], box)
    own = surface
    if figure.carried.any():
        own = depth_map(px, depth, figure.faces[order[~figure.carried[order]]], box)
    return Seen(
        person.track,
        person.motion.action,
        camera.project(joints)[0],
        joints[:, 2],
        person.body.reach,
        px[np.unique(figure.faces[figure.head & ~figure.carried])],
        speed,
        surface,
        own,
        box[:2],
    )


def _shade(figure: Figure, vertices: Array, light: Light) -> Array:
    """(V,) factors on the colours of the vertices."""
    a, b, c = (vertices[figure.faces[:, corner]] for corner in range(3))
    flat = np.cross(c - a, b - a)  # outward: the camera's frame is left-handed
    normals = np.stack(
        [
            sum(np.bincount(figure.faces[:, corner], flat[:, axis], len(vertices)) for corner in range(3))
            for axis in range(3)
        ],
        axis=1,
    )
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    lambert = np.clip(normals @ light.direction, 0, 1)
    return light.ambient * (0.8 + 0.2 * normals[:, 1]) + light.diffuse * lambert


def cast_shadow(image: np.ndarray, person: Person, vertices: Array, camera: Camera, light: Light) -> None:
    """Darken the ground where a person keeps the light off; image: (H, W, 3) float32, in place."""
    if light.shadow <= 0 or light.direction[1] < 0.2:
        return
    ground = vertices - vertices[:, 1:2] / light.direction[1] * light.direction
    if ground[:, 2].min() < 0.5:
        return
    height, width = image.shape[:2]
    px = 0.5 * camera.project(ground)[0]
    edge = np.array([[-3.0, -3], [3, 3]])[:, None]  # room for the blur
    box = window_of(px + edge, ((height + 1) // 2, (width + 1) // 2))
    if box is None:
        return
    left, top, right, bottom = box
    mask = np.zeros((bottom - top, right - left), np.uint8)
    main = person.figure.shares.argmax(axis=1)
    for segment in range(person.figure.shares.shape[1]):
        cv2.fillConvexPoly(mask, hull(px[main == segment] - (left, top)), 255, cv2.LINE_AA, SHIFT)
    mask = cv2.blur(mask, (5, 5))
    x0, y0 = 2 * left, 2 * top
    window = image[y0 : min(y0 + 2 * mask.shape[0], height), x0 : min(x0 + 2 * mask.shape[1], width)]
    dark = cv2.resize(mask, (window.shape[1], window.shape[0])).astype(np.float32)
    window *= 1 - cv2.cvtColor(dark, cv2.COLOR_GRAY2BGR) * np.float32(light.shadow / 255)
