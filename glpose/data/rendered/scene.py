"""Rendered clips: options, a random scene for (seed, clip), and its frames with exact labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from glpose.data.rendered.actions import Array
from glpose.data.rendered.backdrop import Occluder, make_background, make_occluder
from glpose.data.rendered.camera import Camera
from glpose.data.rendered.labels import THING, FrameLabels, label_people
from glpose.data.rendered.layers import composite, paint_polygons
from glpose.data.rendered.people import Light, Person, Shot, cast_shadow, sample_person, shoot
from glpose.data.rendered.photos import list_photos
from glpose.data.rendered.picture import degrade
from glpose.data.rendered.rig import COUNT
from glpose.data.rendered.shapes import SHIFT
from store.errors import DataError

MAX_PEOPLE, MAX_OCCLUDERS = 64, 64


@dataclass(frozen=True)
class ClipOptions:
    """What to render.

    height, width: px. frames: per clip. fps: frames per second, which sets how far things move between frames. people,
    occluders: smallest and largest number in a clip. bodies: of the 24 baked ones, those whose mixtures appear.
    recurring: whether actions repeat within a clip. blur_samples: instants averaged into one exposure at most (1: no
    motion blur). hardness: factor on noise, defocus and compression (0: clean, 1: a mix, 2: poor pictures). photos: a
    folder of pictures to stand before; None: drawn scenes. Raises ValueError for values out of range.
    """

    height: int = 270
    width: int = 480
    frames: int = 40
    fps: float = 25.0
    people: tuple[int, int] = (2, 4)
    occluders: tuple[int, int] = (1, 4)
    bodies: tuple[int, ...] = tuple(range(COUNT))
    recurring: bool = True
    blur_samples: int = 5
    hardness: float = 1.0
    photos: Path | None = None

    def __post_init__(self) -> None:
        limits = (("height", 32, 4096), ("width", 32, 4096), ("frames", 1, 9999), ("blur_samples", 1, 32))
        for name, low, high in limits:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie in {low}..{high}, not {getattr(self, name)}")
        for name, low, high in (("people", 1, MAX_PEOPLE), ("occluders", 0, MAX_OCCLUDERS)):
            least, most = getattr(self, name)
            if not low <= least <= most <= high:
                raise ValueError(f"{name} must be (least, most) within {low}..{high}, not ({least}, {most})")
        if not self.bodies or not set(self.bodies) <= set(range(COUNT)):
            raise ValueError(f"bodies must be some of 0..{COUNT - 1}, not {self.bodies}")
        if not 1 <= self.fps <= 240:
            raise ValueError(f"fps must lie in 1..240, not {self.fps}")
        if not 0 <= self.hardness <= 3:
            raise ValueError(f"hardness must lie in 0..3, not {self.hardness}")

    @property
    def seconds(self) -> float:
        """Length of a clip."""
        return self.frames / self.fps


@dataclass(frozen=True)
class _Air:
    """How a clip is filmed: shutter (share of the frame interval), lens blur and noise (sigmas), JPEG quality, gain and
    tint (3,), drift (px/s), shake (amplitude px, rate, phase), and defocus bursts (time s, length s, sigma px).
    """

    shutter: float
    lens: float
    noise: float
    quality: int | None
    tint: Array
    contrast: float
    drift: Array
    shake: Array
    bursts: tuple[tuple[float, float, float], ...]
    flicker: float


class Clip:
    """One rendered clip. Frames are drawn when asked for; any frame alone equals the same frame within the clip."""

    def __init__(self, options: ClipOptions, seed: int, clip: int) -> None:
        """Set the scene up; seed and clip are not negative (ValueError). DataError for a folder without photos."""
        if seed < 0 or clip < 0:
            raise ValueError(f"seed and clip must not be negative, not {seed} and {clip}")
        self.options, self.seed, self.index = options, seed, clip
        self._size = (options.height, options.width)
        rng = np.random.default_rng([seed, clip])
        self._air, self._light = self._sample_air(rng), _sample_light(rng)
        self._camera, self._people = self._sample_people(rng)
        self._occluders = self._sample_occluders(rng)
        self._margin = int(0.12 * max(self._size)) + 2
        self._background = self._paint_background(rng)

    def __len__(self) -> int:
        return self.options.frames

    def frames(self) -> Iterator[tuple[np.ndarray, FrameLabels]]:
        """All frames in order, each (H, W, 3) uint8 BGR with its labels."""
        for index in range(self.options.frames):
            yield self.frame(index)

    def frame(self, index: int) -> tuple[np.ndarray, FrameLabels]:
        """One frame, (H, W, 3) uint8 BGR, and its labels. Raises IndexError outside 0..frames - 1."""
        options, air, light = self.options, self._air, self._light
        if not 0 <= index < options.frames:
            raise IndexError(f"frame {index} of a clip of {options.frames} frames")
        middle = index / options.fps
        exposure = air.shutter / options.fps if options.blur_samples > 1 else 0.0
        times = middle + exposure * np.array([-0.5, 0.5, 0.0])
        instants = middle + exposure * self._shares(self._shift_speed(middle), exposure)
        cameras = [self._camera_at(t) for t in instants]
        image = self._backdrop(instants)
        owners = np.zeros(self._size, np.uint8)
        shots = []
        for person in self._people:
            speed = self._speed(person, middle)
            shares = self._shares(float(speed.max()), exposure)
            at = [self._camera_at(t) for t in middle + exposure * shares]
            shots.append(shoot(person, times, shares, at, speed, light, self._size))
        for person, shot in zip(self._people, shots, strict=True):
            cast_shadow(image, person, shot.shadow, cameras[-1], light)
        things = [(person.depth(middle), number) for number, person in enumerate(self._people)]
        things += [(occluder.position[1], ~number) for number, occluder in enumerate(self._occluders)]
        for depth, number in sorted(things, reverse=True):  # far to near
            if number >= 0:
                _lay_person(image, owners, shots[number])
            else:
                self._lay_occluder(image, owners, ~number, depth, instants, cameras)
        rng = np.random.default_rng([self.seed, self.index, index])
        image *= (air.tint * (1 + air.flicker * rng.normal())).astype(np.float32)
        image += np.float32(128 * (1 - air.contrast))
        blur = air.lens + sum(s * np.exp(-(((middle - t) / length) ** 2)) for t, length, s in air.bursts)
        noise_at = (int(rng.integers(0, 1 << 16)), int(rng.integers(0, 1 << 16)))
        picture = degrade(image, float(blur), air.noise, noise_at, air.quality)
        seen = [shot.seen for shot in shots if shot.seen is not None]
        return picture, label_people(seen, owners, float(blur))

    # ---------------------------------------------------------------------------------------------------------- layers
    def _lay_occluder(
        self, image: np.ndarray, owners: np.ndarray, number: int, depth: float, instants: Array, cameras: list[Camera]
    ) -> None:
        occluder = self._occluders[number]
        lists = [occluder.polygons(t, camera) for t, camera in zip(instants, cameras, strict=True)]
        grain = max(1.5, 0.05 * self._camera.focal / max(depth, 0.25))
        layer = paint_polygons(lists[:-1], self._size, occluder.texture, self.index * 1009 + number, grain)
        if layer is not None:
            composite(image, layer)
        for polygon in lists[-1]:
            cv2.fillConvexPoly(owners, polygon.points, THING, cv2.LINE_8, SHIFT)

    def _backdrop(self, instants: Array) -> np.ndarray:
        """(H, W, 3) float32: the background, moved and blurred by the camera's own motion."""
        options, m = self.options, self._margin
        shifts = np.array([self._shift(t) for t in instants[:-1]])
        if np.ptp(shifts, axis=0).max() < 0.3:
            shifts = shifts[:1]
        total = np.zeros((options.height, options.width, 3), np.float32)
        for x, y in shifts:
            matrix = np.array([[1, 0, x - m], [0, 1, y - m]])
            cv2.accumulate(cv2.warpAffine(self._background, matrix, (options.width, options.height)), total)
        total *= np.float32(1 / len(shifts))
        return total

    # ---------------------------------------------------------------------------------------------------------- motion
    def _speed(self, person: Person, middle: float) -> Array:
        """(15,) px per frame of the keypoints, the camera's motion included."""
        around = middle + np.array([-0.5, 0.5]) / self.options.fps
        before, after = person.joints(around)
        first, second = (
            self._camera_at(t).project(points)[0] for t, points in zip(around, (before, after), strict=True)
        )
        return np.linalg.norm(second - first, axis=1)

    def _shift_speed(self, middle: float) -> float:
        """Px per frame by which the camera's own motion moves the picture."""
        half = 0.5 / self.options.fps
        return float(np.hypot(*(self._shift(middle + half) - self._shift(middle - half))))

    def _shares(self, speed: float, exposure: float) -> Array:
        """Shares of the exposure (S + 1,), -0.5 to 0.5, the middle (0) last: as many as px per frame `speed` need."""
        count = int(np.clip(np.ceil(speed * exposure * self.options.fps / 1.5), 1, self.options.blur_samples))
        return np.append((np.arange(count) + 0.5) / count - 0.5, 0.0)

    def _shift(self, t: float) -> Array:
        """(2,) px by which the camera's pan and shake move the picture at time t."""
        amplitude, rate, phase = self._air.shake
        move = self._air.drift * (t - 0.5 * self.options.seconds) + amplitude * np.sin(2 * np.pi * rate * t + phase)
        reach = 0.12 * max(self._size)
        return np.clip(move, 2 - reach, reach - 2)

    def _camera_at(self, t: float) -> Camera:
        x, y = self._shift(t) + self._camera.centre
        return Camera(self._camera.focal, self._camera.height, (float(x), float(y)))

    # ----------------------------------------------------------------------------------------------------------- scene
    def _sample_air(self, rng: np.random.Generator) -> _Air:
        options = self.options
        unit, hard = options.height / 240, options.hardness
        bursts = tuple(
            (float(rng.uniform(0, options.seconds)), float(rng.uniform(0.05, 0.25)), float(rng.uniform(1, 3.5) * unit))
            for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.5 * min(hard, 1) else 0)
        )
        amplitude = np.abs(rng.normal(0, 0.012, 2)) * options.height * (rng.random() < 0.6)
        drift = rng.normal(0, 0.08, 2) * options.width * [1, 0.2] * (rng.random() < 0.5)
        contrast = float(rng.uniform(0.6, 1.05))
        return _Air(
            shutter=float(rng.uniform(0.1, 0.95)),
            lens=float(abs(rng.normal(0.3, 0.45)) * unit * hard),
            noise=float(abs(rng.normal(0, 4.5)) * hard),
            quality=int(rng.integers(25, 90)) if rng.random() < 0.3 * hard else None,
            tint=float(rng.uniform(0.75, 1.3)) * rng.normal(1, 0.05, 3) * contrast,
            contrast=contrast,
            drift=drift,
            shake=np.stack([amplitude, rng.uniform(0.4, 2.5, 2), rng.uniform(0, 6.28, 2)]),
            bursts=bursts,
            flicker=0.02 if rng.random() < 0.2 else 0.0,
        )

    def _sample_people(self, rng: np.random.Generator) -> tuple[Camera, tuple[Person, ...]]:
        """The camera and who is before it. Some stand in one another's way in the middle of the clip."""
        options = self.options
        count = int(rng.integers(options.people[0], options.people[1] + 1))
        height = float(rng.choice([rng.uniform(0.7, 1.8), rng.uniform(1.8, 4.0)], p=[0.75, 0.25]))
        focal, middle = float(rng.uniform(0.9, 2.2) * options.height), 0.5 * options.seconds
        # Heights in the picture, as shares of its height: similar within a clip, now and then a close-up.
        usual = float(np.exp(rng.uniform(np.log(0.32), np.log(0.95))))
        people: list[Person] = []
        places: list[tuple[float, float]] = []
        for track in range(count):
            share = usual * float(np.exp(rng.normal(0, 0.28)))
            if rng.random() < 0.1:
                share = float(rng.uniform(1.0, 2.3))
            z = max(focal * 1.7 / (share * options.height), 0.9)
            # The roomiest of three random places, as shares of the picture's width.
            tries = rng.uniform(-0.44, 0.44, 3).tolist()
            across = max(tries, key=lambda at: min([abs(at - taken) for taken, _ in places], default=0.0))
            if places and rng.random() < 0.3:
                across = places[int(rng.integers(len(places)))][0] + rng.normal(0, 0.05)
            places.append((across, z))
            x = across * options.width * z / focal
            at = middle * rng.uniform(0.4, 1.6)
            once = None if options.recurring else options.seconds
            people.append(sample_person(rng, track, options.bodies, (float(x), float(z)), float(at), once))
        nearest = float(np.median([z for _, z in places]))
        horizon = options.height * rng.uniform(0.42, 0.6) - (height - 0.87) * focal / nearest
        return Camera(focal, height, (0.5 * options.width, float(horizon))), tuple(people)

    def _sample_occluders(self, rng: np.random.Generator) -> tuple[Occluder, ...]:
        options = self.options
        count = int(rng.integers(options.occluders[0], options.occluders[1] + 1))
        out: list[Occluder] = []
        for _ in range(count):
            person = self._people[int(rng.integers(len(self._people)))]
            x, z = person.motion.position
            share, at = rng.uniform(0.6, 0.95), 0.5 * options.seconds * rng.uniform(0.5, 1.5)
            out.append(make_occluder(rng, x * share + rng.normal(0, 0.65), z * share, at))
        return tuple(out)

    def _paint_background(self, rng: np.random.Generator) -> np.ndarray:
        height, width = self._size[0] + 2 * self._margin, self._size[1] + 2 * self._margin
        if self.options.photos is None:
            return make_background(rng, height, width, self._camera.centre[1] + self._margin)
        files = list_photos(self.options.photos)
        path = files[int(rng.integers(len(files)))]
        photo = cv2.imread(str(path))
        if photo is None:
            raise DataError(f"{path} is no picture that OpenCV can read")
        scale = max(width / photo.shape[1], height / photo.shape[0]) * float(rng.uniform(1, 1.4))
        size = (max(width, round(photo.shape[1] * scale)), max(height, round(photo.shape[0] * scale)))
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        y, x = int(rng.integers(size[1] - height + 1)), int(rng.integers(size[0] - width + 1))
        return photo[y : y + height, x : x + width]


def _lay_person(image: np.ndarray, owners: np.ndarray, shot: Shot) -> None:
    if shot.layer is not None:
        composite(image, shot.layer)
    if shot.seen is not None:
        left, top = shot.seen.corner
        h, w = shot.seen.surface.shape
        owners[top : top + h, left : left + w][np.isfinite(shot.seen.surface)] = shot.seen.track + 1


def _sample_light(rng: np.random.Generator) -> Light:
    direction = np.array([rng.uniform(-1, 1), rng.uniform(0.4, 1.2), -rng.uniform(0.1, 1)])
    shadow = float(rng.uniform(0.15, 0.55)) if rng.random() < 0.7 else 0.0
    return Light(
        direction / np.linalg.norm(direction), float(rng.uniform(0.4, 0.75)), float(rng.uniform(0.25, 0.7)), shadow
    )
