"""What a user opens: the features and tables of one pipeline's folder, in pandas and numpy, read lazily."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from store.attempts import started
from store.description import describe, proposals_of, schemas_of
from store.errors import NotCommitted, StoreError
from store.features import VideoFeatures
from store.folder import Commit, StageFolder
from store.index import gallery_digest, gallery_of, made_from
from store.places import Place, check_reachable, place
from store.record import Record
from store.samples import Sample, read_sample
from store.tables import BOX, SCHEMAS, read_tables
from store.verify import read_in_force, verify_stage


def open_store(root: str | Place) -> Store:
    """Open a pipeline's folder, "work/demo" or "s3://bucket/demo". NotCommitted if nothing was extracted there yet."""
    return Store(place(root))


@dataclass(frozen=True)
class Store:
    """Features, proposals and neighbours of the videos that `extract` has finished below `root`."""

    root: Place

    def __post_init__(self) -> None:
        check_reachable(self.root)
        if not self.root.is_dir():
            raise NotCommitted(f"there is no feature store at {self.root}: the folder does not exist")
        _ = self._commits  # opening a folder without features fails here, not at first use

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r}, {len(self.videos)} videos)"

    @property
    def videos(self) -> list[str]:
        """Names of the videos that have features, sorted."""
        return sorted(self._commits)

    def table(self, video: str | None = None, *, keypoints: bool = False, embedding: bool = False) -> pd.DataFrame:
        """One row per proposal, videos in order of their names; only the columns that are asked for are read.

        Columns: video, proposal, frame, person, x1, y1, x2, y2 (frame px), score, source, split as docs/schema.md has
        them; views, how many views of its maps are stored, and shape, the (C, H, W) of one map. keypoints: adds a
        column of (J, 3) arrays, None where not annotated. embedding: adds a column of (C,) arrays, of view 0.
        """
        columns = ["video", "proposal", "frame", "person", *BOX, "score", "source", "split"]
        columns += ["keypoints"] if keypoints else []
        chosen = self._chosen(video)
        table = read_tables(self._extract, chosen, "proposals", columns)
        codes, names = pd.factorize(table["video"])  # faster than to look up every row
        schemas = schemas_of(self._extract, {name: chosen[name] for name in names})
        shapes = np.empty(len(names), object)
        for code, name in enumerate(names):  # one by one: numpy would make columns of a list of tuples
            shapes[code] = schemas[name].map_shape
        at = columns.index("split") + 1
        table.insert(at, "views", np.array([schemas[name].views for name in names], np.int32)[codes])
        table.insert(at + 1, "shape", shapes[codes])
        if keypoints:
            table["keypoints"] = [None if row is None else row.reshape(-1, 3) for row in table["keypoints"]]
        if embedding:
            table["embedding"] = [row for name in sorted(chosen) for row in self.features(name).embedding[:, 0]]
        return table

    def neighbours(self, video: str | Sequence[str] | None = None) -> pd.DataFrame:
        """One row per proposal and rank: video, proposal, rank, reference_video, reference, similarity.

        video: one or several; all by default. NotCommitted before `index`, and where it was made of other features than
        the store has.
        """
        table = self._neighbours(video)
        own = set(table["video"])
        if others := set(table["reference_video"]).difference(own).intersection(self._commits):
            self.indexed(sorted(own | others))  # an imported store may lack some
        return table

    def indexed(self, videos: Sequence[str] | None = None) -> dict[str, Commit]:
        """Commits of the index by video; none before `index` has begun.

        videos: by default all but those that have left the data set since. NotCommitted where one was made of other
        features than the store has, or they were not all made of the same.
        """
        commits = self._made_indices(videos)
        if videos is None:
            commits = self._without_departed(commits)
        stale = [
            name for name, made in commits.items() if made.inputs != made_from(self.commit(name), gallery_of(made))
        ]
        # references of other videos are sound where those videos' own are, and all were made of the same features
        first = {split: digest for made in reversed(commits.values()) for split, digest in gallery_of(made).items()}
        stale += [name for name, made in commits.items() if not gallery_of(made).items() <= first.items()]
        if stale:
            raise NotCommitted(
                f"{self.root}: the index of {stale[0]!r} ({len(stale)} in all) is of other features: run glpose-stage "
                "index, or open the store again; if the data set has it no longer, verify --prune removes it"
            )
        return commits

    def features(self, video: str) -> VideoFeatures:
        """The stored features of one video."""
        commit = self.commit(video)
        return VideoFeatures(self._extract.attempt_path(commit), video, commit.files)

    def sample(self, row: pd.Series | tuple[str, int] | int, view: int = 0) -> Sample:
        """One training sample: a proposal's features, its local frames', its references', and its keypoints.

        row: a row of `table()` or of what was chosen from it, a video and the proposal's number in it, or the number
        of a row of `table()`, from 0. Reads this proposal's maps and its references' alone. StoreError for what is not
        there; NotCommitted where `index` has begun but has not come to this video.
        """
        video, proposal = self._proposal(row)
        features = {video: self.features(video)}
        if not 0 <= proposal < len(features[video]):
            count = len(features[video])
            raise StoreError(f"{video!r} has no proposal {proposal}; it has {count}, numbered from 0")
        begun = self._index.record_in_force() is not None
        neighbours = self._neighbours(video) if begun else SCHEMAS["neighbours"].empty_table().to_pandas()
        found = neighbours.loc[neighbours["proposal"] == proposal].sort_values("rank")
        if others := set(found["reference_video"]) - {video}:
            features |= {name: self.features(name) for name in others}
            if lacking := others.difference(self.indexed([video, *others])):
                raise self._not_indexed(min(lacking))
        tables = {name: self.table(name, keypoints=True) for name in features}
        return read_sample(features, tables, video, proposal, found, view)

    def describe(self) -> pd.DataFrame:
        """One row per array, per file beside the arrays, and for the total; merged tables are copies and do not count.

        Made from the commits and from one opened video of each form; a name stands twice where there are two forms.
        Columns: dims; shape and dtype of one proposal's entry; videos and proposals that have one; bytes on disk; and
        ratio_to_float16, bytes over those of the maps as raw float16, NaN for what is no map.
        """
        return describe(self._extract, self._commits, self._index, self._made_indices(None))

    def verify(self) -> list[str]:
        """Check every file, shard, count, scale and embedding of the features; one plain line per fault found."""
        found = read_in_force(self._extract)
        verdict = verify_stage(self._extract, found)
        units = [f"{video}: {line}" for video, lines in verdict.units.items() for line in lines]
        return [*verdict.records, *units]

    @property
    def record(self) -> Record:
        """The record of the extraction that is in force: its parameters and those of the stages before."""
        return self._record

    @cached_property
    def _extract(self) -> StageFolder:
        return StageFolder(self.root / "extract")

    @cached_property
    def _index(self) -> StageFolder:
        return StageFolder(self.root / "index")

    @cached_property
    def _record(self) -> Record:
        record = self._extract.record_in_force()
        if record is None:
            raise NotCommitted(f"{self.root} holds no features yet: run glpose-stage extract")
        return record

    @cached_property
    def _commits(self) -> dict[str, Commit]:
        return self._extract.commits(self._record)

    def _neighbours(self, video: str | Sequence[str] | None) -> pd.DataFrame:
        """Rows of the neighbours' table, of an index of the features that the store has of these videos."""
        if self._index.record_in_force() is None:
            raise NotCommitted(f"{self.root} has no index yet: run glpose-stage index")
        names = [video] if isinstance(video, str) else video
        for name in names or ():
            self.commit(name)  # where the video is unknown, this says so
        commits = self.indexed(names)
        if lacking := set(names or ()).difference(commits):
            raise self._not_indexed(min(lacking))
        return read_tables(self._index, commits, "neighbours")

    def _not_indexed(self, video: str) -> NotCommitted:
        return NotCommitted(f"{self.root} has no index of {video!r} yet: run glpose-stage index")

    def _made_indices(self, videos: Sequence[str] | None) -> dict[str, Commit]:
        """Commits of the index of these videos, or of all that the store has; other commits are not read."""
        record = self._index.record_in_force()
        if record is None:
            return {}
        if videos is None:
            return {video: commit for video, commit in self._index.commits(record).items() if video in self._commits}
        finished = [video for video in videos if self._index.is_finished(record, video)]
        return {video: self._index.commit_of(record, video) for video in finished}

    def _without_departed(self, made: dict[str, Commit]) -> dict[str, Commit]:
        """Indices without those of galleries that are no more, where references are of any video of a split.

        A gallery is whole where the videos that were indexed with it are all that it was made of. Beside the last such
        one of a split, others are of videos that were of the split before.
        """
        sharing: dict[tuple[str, str], list[str]] = {}
        for name, commit in made.items():
            for gallery in gallery_of(commit).items():
                sharing.setdefault(gallery, []).append(name)
        by_time = sorted(sharing, key=lambda gallery: max(started(made[name].attempt) for name in sharing[gallery]))
        whole = {
            split: digest
            for split, digest in by_time
            if digest == gallery_digest(self._commits, sharing[split, digest])
        }
        return {
            name: commit
            for name, commit in made.items()
            if all(whole.get(split, digest) == digest for split, digest in gallery_of(commit).items())
        }

    def _chosen(self, video: str | None) -> dict[str, Commit]:
        return self._commits if video is None else {video: self.commit(video)}

    def commit(self, video: str) -> Commit:
        """The commit record of a video's features: files, sizes, checksums and `meta`. StoreError if it has none."""
        try:
            return self._commits[video]
        except KeyError:
            near = difflib.get_close_matches(str(video), self.videos, 3)
            there = f"did you mean {' or '.join(map(repr, near))}?" if near else _some(self.videos)
            raise StoreError(f"{self.root} has no features of a video {video!r}; {there}") from None

    def _proposal(self, row: pd.Series | tuple[str, int] | int) -> tuple[str, int]:
        """Video and number of a proposal, however it is told."""
        if isinstance(row, pd.Series) and {"video", "proposal"} <= set(row.index):
            told = row.to_dict()
            return str(told["video"]), int(told["proposal"])
        if isinstance(row, tuple) and len(row) == 2:
            return str(row[0]), int(row[1])
        if not isinstance(row, (int, np.integer)):
            raise StoreError("a sample is asked for by a row of table(), by (video, proposal), or by a row's number")
        ends = np.cumsum([proposals_of(self._commits[video]) for video in self.videos])
        total = int(ends[-1]) if len(ends) else 0
        if not 0 <= row < total:
            raise StoreError(f"{self.root} has no row {row}; table() has {total}, numbered from 0")
        place = int(np.searchsorted(ends, row, side="right"))
        video = self.videos[place]
        return video, int(row - ends[place]) + proposals_of(self._commits[video])


def _some(videos: list[str]) -> str:
    if not videos:
        return "it has none"
    return f"it has {', '.join(videos[:3])}" + (" ..." if len(videos) > 3 else "")
