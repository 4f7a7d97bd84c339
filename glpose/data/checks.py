"""What one video of a data set holds, and what is wrong with it. Nothing is computed or written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glpose.data.dataset import Video, VideoRef, ground_truth, open_video
from glpose.data.faults import Fault, px
from glpose.data.image_header import decode_size, probe_image
from glpose.data.people_checks import check_people, check_posetrack
from glpose.data.video import IMAGE_SUFFIXES, ImageFrames
from store.errors import DataError

# Digits of a frame's name, and number of the first frame.
NUMBERING = {"posetrack17": (8, 1), "posetrack18": (6, 0), "posetrack21": (6, 0), "jhmdb": (5, 1)}
HEAD_BOXES = ("posetrack17", "posetrack18", "posetrack21")  # formats that PoseTrack's protocol scores


@dataclass(frozen=True)
class Counts:
    """What one split of a video, or of a data set, holds. joints: annotated ones, visible or not."""

    videos: int = 0
    frames: int = 0
    labelled: int = 0
    people: int = 0
    joints: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class CheckedVideo:
    """What was found of one video.

    images: image files looked at, of which `decoded` from end to end. video_files: files of video, all decoded.
    """

    counts: dict[str, Counts]  # by split
    faults: list[Fault]
    images: int = 0
    decoded: int = 0
    video_files: int = 0


def check_video(ref: VideoRef, full: bool) -> CheckedVideo:
    """Look at every frame and every person of a video.

    full: decode every image; otherwise the first, middle and last, and of the others see the header and the end. Files
    of video are always decoded, to count their frames. A video that cannot be opened is one fault.
    """
    try:
        video = open_video(ref)
        content = ground_truth(ref, 0, len(video)) if ref.format in HEAD_BOXES else None
        counts = {split: _count(video, split) for split in ref.ranges}
        size = None if isinstance(video.frames, ImageFrames) else video.frames.size()
    except DataError as error:
        return CheckedVideo(
            dict.fromkeys(ref.ranges, Counts(videos=1)), [Fault("unusable", ref.name, None, str(error))]
        )
    faults: list[Fault] = []
    paths: tuple[Path, ...] = ()
    decode: set[int] = set()
    if isinstance(video.frames, ImageFrames):
        paths = video.frames.paths
        decode = set(range(len(paths))) if full else {0, len(paths) // 2, len(paths) - 1}
        sizes, faults = check_images(ref.name, paths, decode)
        faults += check_sizes(ref.name, paths, sizes, _listed_sizes(content))
        if video.annotations is not None:
            faults = check_numbering(ref, paths, faults)
        size = _first(sizes)
    if video.annotations is not None and size is not None:
        faults += check_people(ref.name, video.annotations, *size)
    if content is not None:
        faults += check_posetrack(ref, content)
    return CheckedVideo(counts, faults, len(paths), len(decode), video_files=int(not paths))


def check_images(
    video: str, paths: tuple[Path, ...], decode: set[int]
) -> tuple[list[tuple[int, int] | None], list[Fault]]:
    """(height, width) px of every image, None where it has none to give, and the images that are absent or damaged."""
    sizes: list[tuple[int, int] | None] = []
    faults = []
    for frame, path in enumerate(paths):
        size = None
        try:
            size = decode_size(path) if frame in decode else probe_image(path)
            if size is None:
                faults.append(Fault("unreadable", video, frame, f"{path} is cut off, or not an image"))
        except (FileNotFoundError, NotADirectoryError):
            faults.append(Fault("missing", video, frame, f"{path} does not exist"))
        except OSError as error:
            faults.append(Fault("unreadable", video, frame, f"{path}: {error.strerror}"))
        sizes.append(size)
    return sizes, faults


def check_sizes(
    video: str, paths: tuple[Path, ...], sizes: list[tuple[int, int] | None], listed: list[tuple[int, int] | None]
) -> list[Fault]:
    """Images of another size than the first, which the whole video is taken to have, or than the annotation says."""
    faults = []
    first = _first(sizes)
    for frame, size in enumerate(sizes):
        if first is None or size is None:
            continue
        said = listed[frame] if listed else None
        if size != first:
            faults.append(Fault("size", video, frame, f"{paths[frame]} is {px(size)}, the first frame {px(first)}"))
        elif said is not None and size != said:
            faults.append(
                Fault("size", video, frame, f"{paths[frame]} is {px(size)}, its annotation is for {px(said)}")
            )
    return faults


def check_numbering(ref: VideoRef, paths: tuple[Path, ...], faults: list[Fault]) -> list[Fault]:
    """`faults` and those of the frames' numbers. One fault says that all images are there, but numbered otherwise."""
    folder = paths[0].parent
    on_disk = sorted(path.name for path in folder.iterdir() if _is_image(path)) if folder.is_dir() else []
    listed = {path.name for path in paths}
    if listed - set(on_disk) and (shift := _shift(paths, on_disk)):
        first = next((fault.frame for fault in faults if fault.kind == "missing"), 0)
        faults = [fault for fault in faults if fault.kind != "missing"]
        faults.append(Fault("shifted", ref.name, first, f"{folder}: {shift}"))
    elif extra := [name for name in on_disk if name not in listed]:
        what = f"{folder} holds {len(extra)} images that are not listed, {extra[0]} the first"
        faults.append(Fault("unlisted", ref.name, None, what))
    return faults + list(_odd_numbers(ref, paths))


def _count(video: Video, split: str) -> Counts:
    frames = video.split == split
    notes = video.annotations
    if notes is None:
        return Counts(1, int(frames.sum()))
    people = frames[notes.frame]
    joints = (notes.keypoints[people, :, 2] > 0).sum()
    return Counts(1, int(frames.sum()), int((notes.labelled & frames).sum()), int(people.sum()), int(joints))


def _shift(paths: tuple[Path, ...], on_disk: list[str]) -> str:
    """How the images on disk are numbered, where all that are listed are there under another number or name."""
    there = {int(Path(name).stem): name for name in on_disk if _is_number(Path(name))}
    if not all(_is_number(path) for path in paths):
        return ""
    for step in (0, 1, -1):
        names = [there.get(int(path.stem) + step) for path in paths]
        if None not in names:
            by = f"all numbers are {abs(step)} {'higher' if step > 0 else 'lower'}" if step else "other digits or type"
            return f"the annotation lists {paths[0].name} ..., there are {names[0]} ...: {by}"
    return ""


def _odd_numbers(ref: VideoRef, paths: tuple[Path, ...]) -> Iterator[Fault]:
    digits, start = NUMBERING.get(ref.format, (0, 0))
    if digits and not (paths[0].stem.isdigit() and len(paths[0].stem) == digits and int(paths[0].stem) == start):
        expected = f"{start:0{digits}d}{paths[0].suffix}"
        yield Fault("numbering", ref.name, 0, f"the first frame is {paths[0].name}, not {expected}")
    if not all(_is_number(path) for path in paths):
        return
    steps = np.diff([int(path.stem) for path in paths])
    if len(odd := np.flatnonzero(steps != 1)):
        frame = int(odd[0]) + 1
        what = f"{paths[frame - 1].name} is followed by {paths[frame].name}; {len(odd)} such places"
        yield Fault("gaps", ref.name, frame, what)


def _listed_sizes(content: dict[str, Any] | None) -> list[tuple[int, int] | None]:
    """(height, width) px of every frame as the annotation has it, where it does."""
    images = [] if content is None or "annolist" in content else content["images"]
    pairs = [(image.get("height"), image.get("width")) for image in images]
    return [(height, width) if height and width else None for height, width in pairs]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _is_number(path: Path) -> bool:
    return path.stem.isascii() and path.stem.isdigit()


def _first(sizes: list[tuple[int, int] | None]) -> tuple[int, int] | None:
    return next((size for size in sizes if size is not None), None)
