"""What is wrong with how a video's images are named or numbered: otherwise than annotated, gaps, one name twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from glpose.data.dataset import VideoRef
from glpose.data.faults import Fault
from glpose.data.video import IMAGE_SUFFIXES, is_hidden

# Digits of a frame's name, and number of the first frame.
NUMBERING = {"posetrack17": (8, 1), "posetrack18": (6, 0), "posetrack21": (6, 0), "jhmdb": (5, 1)}
STEPS = (1, -1, 2, -2)  # numbers that all images may be higher by than the annotation says


@dataclass(frozen=True)
class Shift:
    """How the images are numbered. lost: positions of those listed that are not there under the other number either."""

    step: int
    lost: tuple[int, ...]
    what: str


def check_numbering(
    ref: VideoRef, paths: tuple[Path, ...], faults: list[Fault], others: Set[Path] = frozenset()
) -> list[Fault]:
    """`faults` and those of the frames' names, folder by folder.

    Of images that are there under another number, one fault says so; only what is absent then stays missing. others:
    images of other videos, which may lie in the same folder. Images that are not listed are told of but for coco, whose
    files list those that were annotated.
    """
    for folder, frames in _folders(paths).items():
        listed = [paths[frame].name for frame in frames]
        names, here = set(listed), set(frames)
        on_disk = [name for name in _images_in(folder) if name in names or folder / name not in others]
        if names - set(on_disk) and (shift := find_shift(listed, on_disk)):
            missing = {fault for fault in faults if fault.kind == "missing" and fault.frame in here}
            first = min((fault.frame for fault in missing if fault.frame is not None), default=frames[0])
            faults = [fault for fault in faults if fault not in missing]
            faults.append(Fault("shifted", ref.name, first, f"{folder}: {shift.what}"))
            for frame in (frames[position] for position in shift.lost):
                what = f"{paths[frame]} does not exist, nor does number {int(paths[frame].stem) + shift.step}"
                faults.append(Fault("missing", ref.name, frame, what))
        elif ref.format != "coco" and (extra := [name for name in on_disk if name not in names]):
            what = f"{folder} holds {len(extra)} images that are not listed, {extra[0]} the first"
            faults.append(Fault("unlisted", ref.name, None, what))
        faults += _gaps(ref.name, frames, listed)
    return faults + list(_first_number(ref, paths[0])) + list(_twice(ref.name, paths))


def check_frame_ids(video: str, images: Sequence[Mapping[str, Any]]) -> list[Fault]:
    """Gaps in the `frame_id` of a COCO file's images, in frame order: it orders frames, and says nothing of how far."""
    ids = [image.get("frame_id") for image in images]
    odd = [k for k, (one, other) in enumerate(pairwise(ids)) if one is not None and other - one != 1]
    if not odd:
        return []
    k, far = odd[0], "frames around the key frame are further away than they look"
    what = f"frame_id {ids[k]} is followed by {ids[k + 1]}; {len(odd)} such places: {far}"
    return [Fault("gaps", video, k + 1, what)]


def find_shift(listed: Sequence[str], on_disk: Sequence[str]) -> Shift | None:
    """How images on disk are numbered where that leaves clearly fewer of those listed missing than their names do.

    A step is clear if it finds half at least of what it could find, and no image lies outside of where it moves those
    listed: in a folder of more images than are listed, a deleted one would look like a step.
    """
    there = {int(Path(name).stem): name for name in reversed(on_disk) if _is_number(name)}
    if not there or not all(_is_number(name) for name in listed):
        return None
    numbers = [int(Path(name).stem) for name in listed]
    lost = {step: tuple(k for k, n in enumerate(numbers) if n + step not in there) for step in (0, *STEPS)}

    def is_clear(step: int) -> bool:
        found = len(lost[0]) - len(lost[step])
        could = len({number + step for number in numbers} - set(numbers))
        within = min(numbers) + step <= min(there) and max(there) <= max(numbers) + step
        return found > 0 and 2 * found >= could and within

    clear = [step for step in STEPS if is_clear(step)]
    renamed = len(set(listed) - set(on_disk)) - len(lost[0])
    if clear:
        step = min(clear, key=lambda step: len(lost[step]))
        by = f"all numbers are {abs(step)} {'higher' if step > 0 else 'lower'}"
    elif renamed > 0 and 2 * renamed >= len(listed):
        step, by = 0, "other digits or type"
    else:
        return None
    k = next(k for k in range(len(numbers)) if k not in lost[step])
    what = f"the annotation lists {listed[k]} ..., there are {there[numbers[k] + step]} ...: {by}"
    return Shift(step, lost[step], what)


def _folders(paths: tuple[Path, ...]) -> dict[Path, list[int]]:
    """Frames by the folder of their images."""
    folders: dict[Path, list[int]] = {}
    for frame, path in enumerate(paths):
        folders.setdefault(path.parent, []).append(frame)
    return folders


def _images_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(p))


def _first_number(ref: VideoRef, path: Path) -> Iterator[Fault]:
    digits, start = NUMBERING.get(ref.format, (0, 0))
    if digits and not (path.stem.isdigit() and len(path.stem) == digits and int(path.stem) == start):
        yield Fault("numbering", ref.name, 0, f"the first frame is {path.name}, not {start:0{digits}d}{path.suffix}")


def _gaps(video: str, frames: list[int], listed: list[str]) -> Iterator[Fault]:
    if not all(_is_number(name) for name in listed):
        return
    steps = np.diff([int(Path(name).stem) for name in listed])
    odd = np.flatnonzero((steps != 1) & (steps != 0))  # 0: an image named twice, a fault of its own
    if len(odd):
        k = int(odd[0])
        what = f"{listed[k]} is followed by {listed[k + 1]}; {len(odd)} such places"
        yield Fault("gaps", video, frames[k + 1], what)


def _twice(video: str, paths: tuple[Path, ...]) -> Iterator[Fault]:
    first: dict[Path, int] = {}
    for frame, path in enumerate(paths):
        if (before := first.setdefault(path, frame)) != frame:
            yield Fault("twice", video, frame, f"{path} is frame {before} already")


def _is_number(name: str) -> bool:
    stem = Path(name).stem
    return stem.isascii() and stem.isdigit()
