"""Which videos a data set has, and which of their frames belong to which split."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from glpose.data import annolist_mat, coco, jhmdb
from glpose.data.dataset import MAT, VideoRef
from glpose.data.json_files import JSON_ENDINGS, stem_of
from glpose.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_hidden
from glpose.options import (
    CocoData,
    FolderData,
    JHMDBData,
    PoseTrack17Data,
    PoseTrack18Data,
    PoseTrack21Data,
    SplitOptions,
)
from store.errors import DataError
from store.folder import as_unit_name, check_unit_name

Split = Literal["train", "eval"]
PoseTrackData = PoseTrack18Data | PoseTrack17Data | PoseTrack21Data
ListedData = PoseTrackData | JHMDBData | CocoData | FolderData


def list_videos(data: ListedData) -> list[VideoRef]:
    """Every video of the data set's splits, sorted by name. DataError where a folder is missing or empty."""
    if not data.root.is_dir():
        raise DataError(f"data folder {data.root} does not exist: give it with --set data.root=DIR")
    found: dict[str, VideoRef] = {}
    wanted: list[tuple[Split, SplitOptions | None]] = [("train", data.train), ("eval", data.eval)]
    for split, options in wanted:
        for ref in [] if options is None else _list_split(data, split, options):
            other = found.get(ref.name)
            if other is None:
                found[ref.name] = ref
            elif split in other.ranges and other.path == ref.path:
                raise DataError(f"video {ref.name!r} is listed twice in the {split} split")
            elif other.path == ref.path:
                found[ref.name] = replace(other, ranges=_disjoint(ref.name, {**other.ranges, **ref.ranges}))
            else:
                raise DataError(f"two videos are called {ref.name!r}: {other.path} and {ref.path}; rename one")
    return [found[name] for name in sorted(found)]


def find_videos(paths: Sequence[str | Path]) -> list[VideoRef]:
    """The videos that paths mean: video files, folders of images, and folders of such; all frames are of split eval.

    They are called as their files or folders are, with "_" for what no folder's name may hold. DataError where a path
    is none of these, or frames and a folder of videos at once, or two have one name.
    """
    found: dict[str, VideoRef] = {}
    for path in map(Path, paths):
        for own in _videos_at(path):
            ref = VideoRef(_name_of(own), "file", own, own.parent, {"eval": (0, None)})
            if (other := found.get(ref.name)) is not None:
                same = "is named twice" if other.path == ref.path else f"and {other.path} have one name: rename one"
                raise DataError(f"video {ref.path} {same}")
            found[ref.name] = ref
    return list(found.values())


def _list_split(data: ListedData, split: Split, options: SplitOptions) -> list[VideoRef]:
    if isinstance(data, JHMDBData):
        refs = _jhmdb_refs(data, split, options)
    elif isinstance(data, FolderData):
        refs = [
            VideoRef(_name_of(path), "file", path, data.root, {split: options.frames}) for path in _video_paths(data)
        ]
    elif isinstance(data, CocoData):
        refs = _coco_refs(data, split, options)
    else:
        refs = _posetrack_refs(data, split, options)
    chosen = [ref for ref in refs if fnmatch.fnmatch(ref.name, options.videos)]
    if not chosen:
        near = ", ".join(ref.name for ref in refs[:3])
        raise DataError(f"no video matches data.{split}.videos = {options.videos!r}; there are {near} ...")
    return chosen


def _posetrack_refs(data: PoseTrackData, split: Split, options: SplitOptions) -> list[VideoRef]:
    folder = data.root / data.annotations / options.subset
    if not folder.is_dir():
        raise DataError(f"annotation folder {folder} does not exist ({_where(split)})")
    files = sorted((path for path in folder.iterdir() if not is_hidden(path)), key=lambda path: path.name)
    paths, root = [path for path in files if path.name.endswith(JSON_ENDINGS)], data.root
    if isinstance(data, PoseTrack17Data):
        root = data.root / data.images
        converted = {stem_of(path) for path in paths}  # poseval's converter writes JSON beside the .mat
        paths += [path for path in files if path.suffix == MAT and path.stem not in converted]
    if not paths:
        kinds = f"*.json, *.json.gz{', *.mat' if isinstance(data, PoseTrack17Data) else ''}"
        raise DataError(f"{folder} holds no annotation files ({kinds})")
    refs = []
    for path in paths:
        for part in (annolist_mat.parts(path) if path.suffix == MAT else []) or [""]:
            name = check_unit_name(part or stem_of(path))
            refs.append(VideoRef(name, data.kind, path, root, {split: options.frames}, part))
    return refs


def _coco_refs(data: CocoData, split: Split, options: SplitOptions) -> list[VideoRef]:
    stem = data.root / data.annotations / options.subset
    paths = [path for suffix in JSON_ENDINGS if (path := stem.with_name(stem.name + suffix)).is_file()]
    if not paths:
        raise DataError(f"annotation file {stem}.json does not exist ({_where(split)})")
    return [
        VideoRef(name, "coco", paths[0], data.root / data.images, {split: options.frames}, name, joints=data.joints)
        for name in coco.video_names(coco.open_file(paths[0]))
    ]


def _where(split: Split) -> str:
    return f"data.annotations, data.{split}.subset; data.{split}=null for no such split"


def _name_of(path: Path) -> str:
    """What a video file or a folder of images is called, with "_" for what no folder's name may hold."""
    name = path.name if path.is_dir() else path.stem
    return check_unit_name(name) if name in (".", "..") else as_unit_name(name)


def _jhmdb_refs(data: JHMDBData, split: Split, options: SplitOptions) -> list[VideoRef]:
    folder = data.root / data.splits
    if not folder.is_dir():
        raise DataError(f"folder of split files {folder} does not exist (data.splits)")
    return [
        VideoRef(
            name=as_unit_name(clip.name),
            format="jhmdb",
            path=data.root / data.annotations / clip.action / clip.name / "joint_positions.mat",
            root=data.root / data.images,
            ranges={split: options.frames},
            masks=data.root / data.masks / clip.action / clip.name / "puppet_mask.mat",
            video=data.root / data.videos / clip.action / f"{clip.name}.avi",
        )
        for clip in jhmdb.read_splits(folder, data.split)
        if clip.split == split
    ]


def _video_paths(data: FolderData) -> list[Path]:
    if data.files:
        paths = [data.root / name for name in data.files]
        if missing := next((path for path in paths if not path.exists()), None):
            raise DataError(f"video {missing} does not exist (data.files)")
        if len(set(paths)) < len(paths):
            raise DataError("data.files names a video twice")
        return paths
    return _videos_within(data.root)


def _videos_at(path: Path) -> list[Path]:
    """The video that a path is, or those within a folder."""
    if not path.exists():
        raise DataError(f"video {path} does not exist")
    whole = path.resolve()  # a folder may be given as "."
    if not whole.is_dir():
        return [whole]
    if not (images := _images_in(whole)):
        return _videos_within(whole)
    if videos := _listed(whole):
        raise DataError(
            f"{path} holds images, as frames of a video ({images[0].name}), and videos ({videos[0].name}): name the "
            "videos themselves, or move the images"
        )
    return [whole]


def _videos_within(folder: Path) -> list[Path]:
    if paths := _listed(folder):
        return paths
    kinds = ", ".join(sorted(VIDEO_SUFFIXES))
    raise DataError(f"{folder} holds no videos: neither files ({kinds}) nor folders of images")


def _listed(folder: Path) -> list[Path]:
    """Its video files and folders of images."""
    paths = (path for path in folder.iterdir() if not is_hidden(path))
    return sorted(
        path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES or (path.is_dir() and _images_in(path))
    )


def _images_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path)]


def _disjoint(name: str, ranges: dict[str, tuple[int, int | None]]) -> dict[str, tuple[int, int | None]]:
    (first, a), (second, b) = sorted(ranges.items(), key=lambda item: item[1][0])
    if a[1] is None or a[1] > b[0]:
        raise DataError(
            f"video {name!r}: frames of the {first} split {list(a)} and the {second} split {list(b)} overlap; "
            "change data.train.frames or data.eval.frames"
        )
    return ranges
