"""What one video of a data set holds, and what is wrong with it. Nothing is computed or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glpose.data import coco
from glpose.data.box_checks import Images, check_file_boxes
from glpose.data.boxes import BoxFile
from glpose.data.dataset import FORMATS, Video, VideoRef, ground_truth, open_video
from glpose.data.faults import Fault, px
from glpose.data.image_header import decode_size, probe_image
from glpose.data.numbering import check_frame_ids, check_numbering
from glpose.data.people_checks import check_people, check_posetrack
from glpose.data.video import ImageFrames
from store.errors import DataError


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
class Walk:
    """What the checks of all videos share.

    full: decode every image; otherwise the first, middle and last, and of the others see the header and the end.
    box_files: by split, where boxes come from one; those below min_score are not used. listed: every image that coco
    files list, whose videos may share a folder. complained: bytes that image libraries have complained in so far.
    """

    full: bool = False
    box_files: Mapping[str, BoxFile] = field(default_factory=dict)
    min_score: float = 0.0
    listed: Set[Path] = frozenset()
    complained: Callable[[], int] = lambda: 0


@dataclass(frozen=True)
class CheckedVideo:
    """What was found of one video.

    images: image files looked at, of which `decoded` from end to end. video_files: files of video, all decoded.
    suspects: frames and images during whose decoding a library complained, of one of them. boxed: images of box files
    that are its frames.
    """

    counts: dict[str, Counts]  # by split
    faults: list[Fault]
    images: int = 0
    decoded: int = 0
    video_files: int = 0
    suspects: Sequence[tuple[int, Path]] = ()
    boxed: Images = field(default_factory=set)


def check_video(ref: VideoRef, walk: Walk) -> CheckedVideo:
    """Look at every frame and every person of a video. One that cannot be opened is one fault.

    Files of video are always decoded, to count their frames.
    """
    try:
        video = open_video(ref)
        content = ground_truth(ref, 0, len(video)) if ref.format in (*FORMATS, "coco") else None
        counts = {split: _count(video, split) for split in ref.ranges}
        size = None if isinstance(video.frames, ImageFrames) else video.frames.size()
    except DataError as error:
        return CheckedVideo(
            dict.fromkeys(ref.ranges, Counts(videos=1)), [Fault("unusable", ref.name, None, str(error))]
        )
    faults = check_masks(ref, video.box_source)
    paths: tuple[Path, ...] = ()
    decode: set[int] = set()
    suspects: list[tuple[int, Path]] = []
    boxed: Images = set()
    if isinstance(video.frames, ImageFrames):
        paths = video.frames.paths
        decode = set(range(len(paths))) if walk.full else {0, len(paths) // 2, len(paths) - 1}
        sizes, damaged, suspects = check_images(ref.name, paths, decode, walk.complained)
        faults += damaged
        faults += check_sizes(ref.name, paths, sizes, _listed_sizes(content))
        if video.annotations is not None:
            faults = check_numbering(ref, paths, faults, walk.listed)
        size = _first(sizes)
    if ref.format == "coco" and content is not None and not any(fault.kind == "gaps" for fault in faults):
        faults += check_frame_ids(ref.name, content["images"])
    if video.annotations is not None and size is not None:
        faults += check_people(ref.name, video.annotations, *size)
    if walk.box_files and size is not None:
        wrong, boxed = check_file_boxes(video, walk.box_files, walk.min_score, *size)
        faults += wrong
    if content is not None and ref.format in FORMATS:
        faults += check_posetrack(ref, content)
    return CheckedVideo(counts, faults, len(paths), len(decode), int(not paths), suspects, boxed)


def listed_images(refs: Sequence[VideoRef]) -> frozenset[Path]:
    """Every image that coco files list. DataError where one cannot be read."""
    roots = {(ref.path, ref.root) for ref in refs if ref.format == "coco"}
    return frozenset(root / image["file_name"] for path, root in roots for image in coco.open_file(path).data["images"])


def check_images(
    video: str, paths: tuple[Path, ...], decode: set[int], complained: Callable[[], int]
) -> tuple[list[tuple[int, int] | None], list[Fault], list[tuple[int, Path]]]:
    """(height, width) px of every image, None where it has none to give, and the images that are absent or damaged.

    Also those that may be damaged: `complained` (see `Walk`) rose while they were looked at.
    """
    sizes: list[tuple[int, int] | None] = []
    faults = []
    suspects = []
    for frame, path in enumerate(paths):
        size = None
        before = complained()
        try:
            size = decode_size(path) if frame in decode else probe_image(path)
            if size is None:
                faults.append(Fault("unreadable", video, frame, f"{path} is cut off, or not an image"))
        except (FileNotFoundError, NotADirectoryError):
            faults.append(Fault("missing", video, frame, f"{path} does not exist"))
        except OSError as error:
            faults.append(Fault("unreadable", video, frame, f"{path}: {error.strerror}"))
        if size is not None and complained() > before:
            suspects.append((frame, path))
        sizes.append(size)
    return sizes, faults, suspects


def check_masks(ref: VideoRef, box_source: str) -> list[Fault]:
    """A video whose boxes should be those of masks, and are not."""
    if ref.masks is None or "joints" not in box_source:
        return []
    some = "has no mask in some frames: boxes there are" if "mask" in box_source else "gives no mask: all boxes are"
    return [Fault("no_mask", ref.name, None, f"{ref.masks} {some} the joints' extent")]


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


def _count(video: Video, split: str) -> Counts:
    frames = video.split == split
    notes = video.annotations
    if notes is None:
        return Counts(1, int(frames.sum()))
    people = frames[notes.frame]
    joints = (notes.keypoints[people, :, 2] > 0).sum()
    return Counts(1, int(frames.sum()), int((notes.labelled & frames).sum()), int(people.sum()), int(joints))


def _listed_sizes(content: dict[str, Any] | None) -> list[tuple[int, int] | None]:
    """(height, width) px of every frame as the annotation has it, where it does."""
    images = [] if content is None or "annolist" in content else content["images"]
    pairs = [(image.get("height"), image.get("width")) for image in images]
    known = [all(isinstance(side, int | float) and side for side in pair) for pair in pairs]
    return [pair if there else None for pair, there in zip(pairs, known, strict=True)]


def _first(sizes: list[tuple[int, int] | None]) -> tuple[int, int] | None:
    return next((size for size in sizes if size is not None), None)
