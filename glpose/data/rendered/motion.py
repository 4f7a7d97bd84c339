"""Procedural motion: an action in uneven time, and a path over the ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glpose.data.rendered.actions import ACTIONS, ANGLE, ANGLES, TAU, Array, action_angles, random_pose

KEYS = 4  # poses that a "free" cycle passes through


@dataclass(frozen=True)
class Motion:
    """One person's movement: an action in uneven time, a slow wobble, and a straight path with a heading.

    position: (2,) metres, sideways (image right) and away from the camera, at time `middle` (seconds); heading: yaw,
    radians, 0 facing the camera, pi / 2 facing image right.
    """

    action: str
    rate: float
    phase: float
    warp: tuple[float, float]
    manner: Array
    keys: Array
    wobble: Array
    offset: Array
    position: tuple[float, float]
    middle: float
    heading: float
    spin: float
    speed: float

    def angles(self, t: Array) -> Array:
        """(S, 24) joint angles at times t (S,) in seconds."""
        clock = self.rate * t
        p = self.phase + clock + 0.13 * np.sin(TAU * 0.43 * clock + self.warp[0])
        p = p + 0.06 * np.sin(TAU * 1.1 * clock + self.warp[1])
        angles = action_angles(self.action, np.asarray(p), self.manner, self.keys)
        amount, speed, start = self.wobble
        return angles + self.offset + amount * np.sin(TAU * speed * t[:, None] + start)

    def root(self, t: Array) -> tuple[Array, Array, Array]:
        """Sideways and depth position in metres and yaw in radians at times t, each (S,)."""
        passed = t - self.middle
        yaw = self.heading + self.spin * passed
        x = self.position[0] + self.speed * np.sin(self.heading) * passed
        z = self.position[1] - self.speed * np.cos(self.heading) * passed
        return x, np.maximum(z, 0.35 * self.position[1]), yaw


def sample_motion(
    rng: np.random.Generator, position: tuple[float, float], middle: float, once: float | None = None
) -> Motion:
    """A random action at a place; walkers and runners mostly cross the view, others face anywhere.

    once: seconds in which no pose shall come back; then the action is "free", through as many poses as that takes.
    """
    names = list(ACTIONS)
    weights = np.array([ACTIONS[name][1] for name in names])
    action = "free" if once is not None else str(rng.choice(names, p=weights / weights.sum()))
    rate = ACTIONS[action][0] * rng.uniform(0.75, 1.3)
    poses = KEYS if once is None else KEYS + int(np.ceil(KEYS * rate * once))
    rate *= KEYS / poses
    if action in ("walk", "run"):
        side = rng.choice([-1.0, 1.0]) * np.pi / 2
        heading = side + rng.normal(0, 0.35) if rng.random() < 0.65 else rng.uniform(-np.pi, np.pi)
        speed = rate * (2.4 if action == "run" else 1.35) * rng.uniform(0.8, 1.1)
        # A treadmill's gait now and then: the body moves and stays in view.
        speed *= 0.0 if rng.random() < 0.12 else 1.0
    else:
        heading = rng.normal(0, 0.8) if rng.random() < 0.65 else rng.uniform(-np.pi, np.pi)
        speed = rng.normal(0, 0.15)
    size = len(ANGLES)
    amount = np.abs(rng.normal(0, 0.05, size))
    offset = rng.normal(0, 0.06, size)
    hop, roll = ANGLE["hop"], ANGLE["roll"]
    amount[hop] = offset[hop] = 0.0
    amount[roll] *= 0.4
    offset[roll] *= 0.4
    offset[ANGLE["turn"]] += rng.normal(0, 0.25)
    offset[ANGLE["nod"]] += rng.normal(0.05, 0.15)
    if action == "free" and rng.random() < 0.15:
        offset[roll] = rng.uniform(-np.pi, np.pi)
    return Motion(
        action=action,
        rate=rate,
        phase=rng.random(),
        warp=(rng.uniform(0, TAU), rng.uniform(0, TAU)),
        manner=rng.random(12),
        keys=np.stack([random_pose(rng) for _ in range(poses)]),
        wobble=np.stack([amount, rng.uniform(0.2, 1.0, size), rng.uniform(0, TAU, size)]),
        offset=offset,
        position=position,
        middle=middle,
        heading=float(heading),
        spin=float(rng.normal(0, 0.35)) if rng.random() < 0.5 else 0.0,
        speed=float(speed),
    )
