"""What a stage is: a name, a code version, its parameters, its units, and a function that makes one unit."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from glpose.data.dataset import VideoRef
from glpose.data.listing import list_videos
from glpose.options import DataOptions, RenderedData
from stages.config import PipelineConfig
from stages.console import Tally
from store.errors import ConfigError, NotCommitted, StoreError
from store.folder import Attempt, Commit, StageFolder
from store.index import gallery_digest
from store.places import Place

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """One run of one pipeline: its configuration, where its outputs lie, which videos it is about."""

    config: PipelineConfig
    pattern: str = "*"  # shell pattern of video names (--videos)
    found: tuple[VideoRef, ...] = ()  # videos that have been found already, where no others are asked for
    watch: Tally | None = None  # who is told how far a unit is

    def of(self, found: tuple[VideoRef, ...]) -> Context:
        """The same run about videos that have been found already; it keeps what this one has read of all of them."""
        return self._keeping(replace(self, found=found))

    def watched(self, watch: Tally) -> Context:
        """The same run, with somebody to be told how far its units are."""
        return self._keeping(replace(self, watch=watch))

    def configured(self, config: PipelineConfig) -> Context:
        """The same run about the same videos with other options."""
        return self._keeping(replace(self, config=config))

    def tell(self, line: str) -> None:
        """Print a line, if anybody watches."""
        if self.watch is not None:
            self.watch.tell(line)

    def within(self, text: str, share: float) -> None:
        """How far the unit is that is being made, if anybody watches."""
        if self.watch is not None:
            self.watch.within(text, share)

    def _keeping(self, other: Context) -> Context:
        kept = {"all_videos", "features", "split_digests", "_known"}
        vars(other).update({name: value for name, value in vars(self).items() if name in kept})
        return other

    def folder(self, stage: str) -> StageFolder:
        """Outputs of a stage."""
        return StageFolder(self.config.work / stage)

    @cached_property
    def all_videos(self) -> list[VideoRef]:
        """Every video of the pipeline's data set; those that `render` has written, where it draws them."""
        data = self.config.data
        if isinstance(data, RenderedData) and data.root is None:
            return _rendered(self.folder("render"), data)
        refs = list_videos(data.files if isinstance(data, RenderedData) else data)
        for ref in refs:
            _check_gap(ref, self.config.extract.k)
        return refs

    @cached_property
    def videos(self) -> list[VideoRef]:
        """The videos that this run is about. ConfigError where the pattern matches none, or there are no splits."""
        if not self.all_videos:  # a split without videos is an error of its own
            raise ConfigError("data.train and data.eval are both null: there are no videos; set one of them")
        chosen = [ref for ref in self.all_videos if fnmatch.fnmatch(ref.name, self.pattern)]
        if not chosen:
            near = ", ".join(ref.name for ref in self.all_videos[:3])
            raise ConfigError(f"--videos {self.pattern!r} matches no video; there are {near} ...")
        return chosen

    def video(self, name: str) -> VideoRef:
        """One video by its name."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, VideoRef]:
        return {ref.name: ref for ref in self.found or self.all_videos}

    def commits(self, stage: str) -> dict[str, Commit]:
        """What a stage has finished, by unit; empty before it was ever begun."""
        record = self.folder(stage).record_in_force()
        return self.folder(stage).commits(record) if record else {}

    def current(self, commits: Mapping[str, Commit]) -> dict[str, Commit]:
        """Of commits by video, those of videos that the data set has; a stage may have finished others before."""
        names = {ref.name for ref in self.all_videos}
        return {name: commit for name, commit in commits.items() if name in names}

    def commit(self, stage: str, unit: str) -> Commit:
        """What a stage before has made of a unit. NotCommitted if it has not."""
        record = self.folder(stage).record_in_force()
        if record is None:
            raise NotCommitted(f"{stage} has not run yet for pipeline {self.config.name!r}")
        return self.folder(stage).commit_of(record, unit)

    @cached_property
    def features(self) -> dict[str, Commit]:
        """What extract has finished, by video, as this run saw it first: many units ask for all of them."""
        return self.commits("extract")

    @cached_property
    def split_digests(self) -> dict[str, str]:
        """Digest of the features of all videos of a split, for each split whose videos all have some."""
        names = {split: split_videos(self, split) for split in ("train", "eval")}
        return {
            split: gallery_digest(self.features, videos)
            for split, videos in names.items()
            if videos and all(name in self.features for name in videos)
        }

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """What many units of this run need alike, computed for the first of them. name: what it is."""
        known: dict[str, Any] = vars(self).setdefault("_known", {})
        if name not in known:
            known[name] = compute()
        return known[name]

    def output(self, stage: str, unit: str) -> Place:
        """Folder of what a stage before has made of a unit. NotCommitted if it has not."""
        return self.folder(stage).attempt_path(self.commit(stage, unit))


@dataclass(frozen=True)
class Stage:
    """A staged job. Bump `version` when what it writes changes.

    after: the stages that it reads. parameters: the options that change its results, as plain data (digests in place of
    files). units: names of the units of all videos, or of those of this run. inputs: digest of what one unit is made
    from. prepare: what all units share, made once (a loaded network). make: fill one attempt; returns one line to tell,
    or "". finish: after all units, returns lines to print. distributed: whether `cluster` may make its units. by_video:
    whether each unit is a video's, made from that video.
    """

    name: str
    version: int
    after: Callable[[PipelineConfig], tuple[str, ...]]
    parameters: Callable[[PipelineConfig], dict[str, Any]]
    units: Callable[[Context, bool], list[str]]
    inputs: Callable[[Context, str], str]
    prepare: Callable[[Context], Any]
    make: Callable[[Context, Any, str, Attempt], str]
    finish: Callable[[Context], list[str]]
    distributed: bool = False
    by_video: bool = False


def video_units(context: Context, everything: bool) -> list[str]:
    """One unit per video."""
    return [ref.name for ref in (context.all_videos if everything else context.videos)]


def split_videos(context: Context, split: str) -> list[str]:
    """Names of all videos with frames in a split, whatever --videos says."""
    return [ref.name for ref in context.all_videos if split in ref.ranges]


def nothing(_: Context) -> None:
    """For stages that share nothing between units."""


def no_lines(_: Context) -> list[str]:
    """For stages with nothing to tell at the end."""
    return []


def shown_output(context: Context, stage: str, unit: str = "") -> Place:
    """Where people find what a stage has made: by its links, or in S3, which has none, by its attempts."""
    folder = context.config.work / stage
    if isinstance(folder, Path):
        return folder / "latest" / unit
    return context.output(stage, unit) if unit else folder / "data"


def _check_gap(ref: VideoRef, k: int) -> None:
    """ConfigError where one video's splits lie so close that a local frame of one is a key frame of the other."""
    if len(ref.ranges) < 2:
        return
    (_, (_, stop)), (_, (start, _)) = sorted(ref.ranges.items(), key=lambda item: item[1][0])
    if stop is not None and start - stop < k:
        raise ConfigError(
            f"video {ref.name!r}: {start - stop} frames lie between its train and eval split; with extract.k = {k} "
            f"there must be {k} at least (data.train.frames, data.eval.frames)"
        )


def draws(data: DataOptions) -> bool:
    """Whether `render` draws this data."""
    return isinstance(data, RenderedData) and data.root is None


def clip_names(data: RenderedData) -> list[str]:
    """Names of the clips of a rendered data set."""
    train = [f"{clip:06d}_rendered_train" for clip in range(data.train_clips)]
    return train + [f"{clip:06d}_rendered_eval" for clip in range(data.eval_clips)]


def _rendered(folder: StageFolder, data: RenderedData) -> list[VideoRef]:
    record = folder.record_in_force()
    if record is None:
        raise NotCommitted("render has not run yet: its clips are this pipeline's videos")
    refs = []
    wanted = set(clip_names(data))  # fewer than there are, where the configuration has shrunk
    for name, commit in sorted(folder.commits(record).items()):
        if name not in wanted:
            continue
        split = commit.meta["split"]
        root = folder.attempt_path(commit)
        if not isinstance(root, Path):
            raise StoreError("rendered clips are read as files: choose a local folder with --set work=DIR")
        path = root / "annotations" / split / f"{name}.json"
        refs.append(VideoRef(name, "posetrack18", path, root, {split: (0, None)}))
    if not refs:
        raise StoreError("render has written no clips: raise data.train_clips or data.eval_clips")
    return refs
