"""Generated clips: options, a random scene for (seed, clip), and its frames with exact labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from glpose.data.generated.backdrop import Occluder, make_background, make_occluder
from glpose.data.generated.figures import Polygon, draw_list
from glpose.data.generated.labels import FrameLabels, label_people
from glpose.data.generated.looks import Look, sample_look
from glpose.data.generated.motion import Motion, sample_motion
from glpose.data.generated.placing import Camera, Placed, between, place
from glpose.data.generated.render import OCCLUDER, cast_shadow, composite, degrade, label_map, paint_layer
from glpose.data.generated.skeleton import KEYPOINTS, Array, Body, pose_body, sample_body

MAX_PEOPLE, MAX_OCCLUDERS = 64, 64


@dataclass(frozen=True)
class ClipOptions:
    """What to generate.

    height, width: px. frames: per clip. fps: frames per second, which sets how far things move between frames. people,
    occluders: smallest and largest number in a clip. blur_samples: instants averaged into one exposure at most (1: no
    motion blur). hardness: factor on noise, defocus and compression (0: clean pictures, 1: a mix, 2: poor ones).
    Raises ValueError for values out of range.
    """

    height: int = 240
    width: int = 320
    frames: int = 24
    fps: float = 15.0
    people: tuple[int, int] = (2, 4)
    occluders: tuple[int, int] = (0, 2)
    blur_samples: int = 6
    hardness: float = 1.0

    def __post_init__(self) -> None:
        limits = (("height", 32, 4096), ("width", 32, 4096), ("frames", 1, 9999), ("blur_samples", 1, 32))
        for name, low, high in limits:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie in {low}..{high}, not {getattr(self, name)}")
        for name, low, high in (("people", 1, MAX_PEOPLE), ("occluders", 0, MAX_OCCLUDERS)):
            least, most = getattr(self, name)
            if not low <= least <= most <= high:
                raise ValueError(f"{name} must be (least, most) within {low}..{high}, not ({least}, {most})")
        if not 1 <= self.fps <= 240:
            raise ValueError(f"fps must lie in 1..240, not {self.fps}")
        if not 0 <= self.hardness <= 3:
            raise ValueError(f"hardness must lie in 0..3, not {self.hardness}")


@dataclass(frozen=True)
class _Person:
    track: int
    body: Body
    look: Look
    motion: Motion


@dataclass(frozen=True)
class _Air:
    """How a clip is lit and filmed: shutter (share of the frame interval), lens blur and noise (sigmas), JPEG quality,
    gain and tint (3,), direction of the light (2,), shadow strength, shake amplitude (px) with drift (px/s) and rates,
    and defocus bursts (time s, length s, sigma px).
    """

    shutter: float
    lens: float
    noise: float
    quality: int | None
    tint: Array
    contrast: float
    light: Array
    shadow: float
    drift: Array
    shake: Array
    bursts: tuple[tuple[float, float, float], ...]
    flicker: float


class Clip:
    """One generated clip. Frames are drawn when asked for; any frame alone equals the same frame within the clip."""

    def __init__(self, options: ClipOptions, seed: int, clip: int) -> None:
        """Set the scene up; seed and clip are not negative (ValueError)."""
        if seed < 0 or clip < 0:
            raise ValueError(f"seed and clip must not be negative, not {seed} and {clip}")
        self.options, self.seed, self.index = options, seed, clip
        rng = np.random.default_rng([seed, clip])
        self._camera = self._place_camera(rng)
        self._air = self._sample_air(rng)
        self._people = self._sample_people(rng)
        self._occluders = self._sample_occluders(rng)
        self._margin = int(0.12 * max(options.height, options.width)) + 2
        m = self._margin
        self._background = make_background(
            rng, options.height + 2 * m, options.width + 2 * m, self._camera.centre[1] + m
        )

    def __len__(self) -> int:
        return self.options.frames

    def frames(self) -> Iterator[tuple[np.ndarray, FrameLabels]]:
        """All frames in order, each (H, W, 3) uint8 BGR with its labels."""
        for index in range(self.options.frames):
            yield self.frame(index)

    def frame(self, index: int) -> tuple[np.ndarray, FrameLabels]:
        """One frame, (H, W, 3) uint8 BGR, and its labels. Raises IndexError outside 0..frames - 1."""
        if not 0 <= index < self.options.frames:
            raise IndexError(f"frame {index} of a clip of {self.options.frames} frames")
        options, air = self.options, self._air
        size = (options.height, options.width)
        middle = index / options.fps
        exposure = air.shutter / options.fps if options.blur_samples > 1 else 0.0
        keys = middle + exposure * np.array([-0.5, 0.5, 0.0])
        coarse = [(person, self._place(person, keys)) for person in self._people]
        # The last instant is the middle of the exposure: labels only.
        shares = self._instants([placed for _, placed in coarse], middle, exposure)
        times = middle + exposure * shares
        cameras = [self._camera_at(t) for t in times]
        rng = np.random.default_rng([self.seed, self.index, index])
        image = self._backdrop(times)
        layers: list[tuple[float, int, list[list[Polygon]], float, int, float]] = []
        placed_by_owner: dict[int, Placed] = {}
        for person, key in coarse:
            placed = between(key, shares)
            lists = draw_list(person.body, person.look, placed, cameras, air.light)
            owner = person.track + 1
            placed_by_owner[owner] = placed
            depth = float(placed.points[-1, 0, 2])
            layers.append((depth, owner, lists, person.look.texture, 71 + person.track, 0.03))
        for number, occluder in enumerate(self._occluders):
            lists = [occluder.polygons(t, camera) for t, camera in zip(times, cameras, strict=True)]
            layers.append((occluder.position[1], OCCLUDER, lists, occluder.texture, 171 + number, 0.05))
        layers.sort(key=lambda layer: -layer[0])
        for depth, owner, lists, texture, number, grain in layers:
            scale = self._camera.focal / max(depth, 0.25)
            if owner != OCCLUDER and air.shadow > 0:
                foot = placed_by_owner[owner].points[-1, 0] * [1, 0, 1]
                at, _ = cameras[-1].project(foot)
                cast_shadow(image, float(at[0]), float(at[1]), 0.32 * scale, air.shadow)
            layer = paint_layer(lists[:-1], size, texture, self.index * 1009 + number, max(1.5, grain * scale))
            if layer is not None:
                composite(image, layer)
        image *= (air.tint * (1 + air.flicker * rng.normal())).astype(np.float32)
        image += np.float32(128 * (1 - air.contrast))
        blur = air.lens + sum(s * np.exp(-(((middle - t) / length) ** 2)) for t, length, s in air.bursts)
        window = (int(rng.integers(0, 1 << 16)), int(rng.integers(0, 1 << 16)))
        picture = degrade(image, float(blur), air.noise, window, air.quality)
        owners = label_map([(owner, lists[-1]) for _, owner, lists, *_ in layers], size)
        order = {owner: rank for rank, (_, owner, *_) in enumerate(layers)}
        people = [
            (owner, placed, cameras[-1].project(placed.points[-1, KEYPOINTS])[0], lists[-1])
            for owner, placed in sorted(placed_by_owner.items())
            for _, other, lists, *_ in layers
            if other == owner
        ]
        return picture, label_people(people, owners, order)

    def _place(self, person: _Person, times: Array) -> Placed:
        x, z, yaw = person.motion.root(times)
        return place(pose_body(person.body, person.motion.angles(times)), x, z, yaw)

    def _instants(self, people: list[Placed], middle: float, exposure: float) -> Array:
        """Shares of the exposure (S + 1,), -0.5 to 0.5, the middle (0) last: as many as the fastest joint needs.

        people: each at the start, the end and the middle of the exposure.
        """
        fastest = float(np.hypot(*(self._shift(middle + exposure / 2) - self._shift(middle - exposure / 2))))
        for placed in people:
            px, _ = self._camera.project(placed.points[:2])
            fastest = max(fastest, float(np.abs(px[1] - px[0]).max()))
        count = int(np.clip(np.ceil(fastest / 1.2), 1, self.options.blur_samples))
        return np.append((np.arange(count) + 0.5) / count - 0.5, 0.0)

    def _shift(self, t: float) -> Array:
        """(2,) px by which the camera's pan and shake move the picture at time t."""
        amplitude, rate, phase = self._air.shake
        middle = 0.5 * self.options.frames / self.options.fps
        move = self._air.drift * (t - middle) + amplitude * np.sin(2 * np.pi * rate * t + phase)
        return np.clip(move, 2 - self._margin_px, self._margin_px - 2)

    @property
    def _margin_px(self) -> float:
        return 0.12 * max(self.options.height, self.options.width)

    def _camera_at(self, t: float) -> Camera:
        x, y = self._shift(t) + self._camera.centre
        return Camera(self._camera.focal, self._camera.height, (float(x), float(y)))

    def _backdrop(self, times: Array) -> np.ndarray:
        """(H, W, 3) float32: the background, moved and blurred by the camera's own motion."""
        options, m = self.options, self._margin
        shifts = np.array([self._shift(t) for t in times[:-1]])
        if np.ptp(shifts, axis=0).max() < 0.3:
            shifts = shifts[:1]
        total = np.zeros((options.height, options.width, 3), np.float32)
        for x, y in shifts:
            matrix = np.array([[1, 0, x - m], [0, 1, y - m]])
            cv2.accumulate(cv2.warpAffine(self._background, matrix, (options.width, options.height)), total)
        total *= np.float32(1 / len(shifts))
        return total

    def _place_camera(self, rng: np.random.Generator) -> Camera:
        """A focal length and height; the horizon is set when the people are there."""
        height = float(rng.choice([rng.uniform(0.7, 1.8), rng.uniform(1.8, 4.0)], p=[0.75, 0.25]))
        return Camera(float(rng.uniform(0.9, 2.2) * self.options.height), height, (0.5 * self.options.width, 0.0))

    def _sample_air(self, rng: np.random.Generator) -> _Air:
        options = self.options
        unit, hard = options.height / 240, options.hardness
        angle = rng.uniform(0, 2 * np.pi)
        length = options.frames / options.fps
        bursts = tuple(
            (float(rng.uniform(0, length)), float(rng.uniform(0.05, 0.25)), float(rng.uniform(1, 3.5) * unit * hard))
            for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.5 else 0)
        )
        amplitude = np.abs(rng.normal(0, 0.012, 2)) * options.height * (rng.random() < 0.6)
        drift = rng.normal(0, 0.08, 2) * options.width * [1, 0.2] * (rng.random() < 0.5)
        contrast = float(rng.uniform(0.6, 1.05))
        return _Air(
            shutter=float(rng.uniform(0.1, 0.9)),
            lens=float(abs(rng.normal(0.3, 0.45)) * unit * hard),
            noise=float(abs(rng.normal(0, 4.5)) * hard),
            quality=int(rng.integers(25, 90)) if rng.random() < 0.3 * hard else None,
            tint=float(rng.uniform(0.75, 1.3)) * rng.normal(1, 0.05, 3) * contrast,
            contrast=contrast,
            light=np.array([np.cos(angle), -abs(np.sin(angle))]),
            shadow=float(rng.uniform(0.1, 0.6)) if rng.random() < 0.7 else 0.0,
            drift=drift,
            shake=np.stack([amplitude, rng.uniform(0.4, 2.5, 2), rng.uniform(0, 6.28, 2)]),
            bursts=bursts,
            flicker=0.02 if rng.random() < 0.2 else 0.0,
        )

    def _sample_people(self, rng: np.random.Generator) -> tuple[_Person, ...]:
        options = self.options
        count = int(rng.integers(options.people[0], options.people[1] + 1))
        focal, aspect = self._camera.focal, options.width / options.height
        middle = 0.5 * options.frames / options.fps
        usual = float(np.exp(rng.uniform(np.log(0.32), np.log(0.95))))
        people: list[_Person] = []
        places: list[tuple[float, float]] = []
        for track in range(count):
            body = sample_body(rng)
            # Heights in the picture, as shares of its height: similar within a clip, now and then a close-up.
            share = usual * float(np.exp(rng.normal(0, 0.28)))
            if rng.random() < 0.1:
                share = float(rng.uniform(1.0, 2.3))
            z = max(focal * 1.7 / (share * options.height), 0.9)
            # The roomiest of three random places, as shares of the picture's width.
            tries = rng.uniform(-0.44, 0.44, 3).tolist()
            across = max(tries, key=lambda at: min([abs(at - taken) for taken, _ in places], default=0.0))
            if places and rng.random() < 0.3:
                # Someone else's place: the two meet in the middle of the clip.
                across = places[int(rng.integers(len(places)))][0] + rng.normal(0, 0.05)
            places.append((across, z))
            x = across * aspect * options.height * z / focal
            at = middle * rng.uniform(0.4, 1.6)
            motion = sample_motion(rng, (float(x), float(z)), float(at))
            people.append(_Person(track, body, sample_look(rng, body), motion))
        nearest = float(np.median([z for _, z in places]))
        horizon = options.height * rng.uniform(0.42, 0.6) - (self._camera.height - 0.87) * focal / nearest
        self._camera = Camera(focal, self._camera.height, (0.5 * options.width, float(horizon)))
        return tuple(people)

    def _sample_occluders(self, rng: np.random.Generator) -> tuple[Occluder, ...]:
        options = self.options
        count = int(rng.integers(options.occluders[0], options.occluders[1] + 1))
        middle = 0.5 * options.frames / options.fps
        out: list[Occluder] = []
        for _ in range(count):
            person = self._people[int(rng.integers(len(self._people)))]
            x, z = person.motion.position
            share = rng.uniform(0.6, 0.95)
            out.append(make_occluder(rng, x * share + rng.normal(0, 0.65), z * share, middle * rng.uniform(0.5, 1.5)))
        return tuple(out)


def render_clip(options: ClipOptions, seed: int, clip: int) -> Clip:
    """The clip of (seed, clip): the same pixels and labels every time. Raises ValueError for negative numbers."""
    return Clip(options, seed, clip)


def render_frame(options: ClipOptions, seed: int, clip: int, frame: int) -> tuple[np.ndarray, FrameLabels]:
    """One frame of a clip without the others: (H, W, 3) uint8 BGR and its labels; IndexError outside the clip."""
    return Clip(options, seed, clip).frame(frame)
