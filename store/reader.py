"""What a user opens: the features and tables of one pipeline's folder, in pandas and numpy, read lazily."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from store.errors import NotCommitted, StoreError
from store.features import VideoFeatures
from store.folder import Commit, StageFolder
from store.places import Place, check_reachable, place
from store.record import Record
from store.tables import BOX, read_tables


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
        """One row per proposal: video, proposal, frame, person, x1, y1, x2, y2 (frame px), score, source, split.

        keypoints: adds a column of (J, 3) arrays, None where not annotated. embedding: adds a column of (C,) arrays.
        """
        columns = ["video", "proposal", "frame", "person", *BOX, "score", "source", "split"]
        columns += ["keypoints"] if keypoints else []
        table = read_tables(self._extract, self._chosen(video), "proposals", columns)
        if keypoints:
            table["keypoints"] = [None if row is None else row.reshape(-1, 3) for row in table["keypoints"]]
        if embedding:
            videos = [video] if video else self.videos
            rows = [row for name in videos for row in self.features(name).embedding[:, 0]]
            table["embedding"] = rows
        return table

    def neighbours(self, video: str | None = None) -> pd.DataFrame:
        """One row per proposal and rank: video, proposal, rank, reference, similarity. NotCommitted before `index`."""
        stage = StageFolder(self.root / "index")
        record = stage.record_in_force()
        if record is None:
            raise NotCommitted(f"{self.root} has no index yet: run glpose-stage index")
        commits = {video: stage.commit_of(record, video)} if video else stage.commits(record)
        return read_tables(stage, commits, "neighbours")

    def features(self, video: str) -> VideoFeatures:
        """The stored features of one video."""
        commit = self._commit(video)
        return VideoFeatures(self._extract.attempt_path(commit), video, commit.files)

    def describe(self) -> pd.DataFrame:
        """One row per array over all videos: shape of an entry, dtype, entries, bytes on disk, ratio to raw float16."""
        rows: dict[str, dict[str, Any]] = {}
        for video, commit in self._commits.items():
            features = self.features(video)
            for name in features.keys():  # noqa: SIM118 (not a dict)
                array = features[name]
                prefix = f"{features.path.name}/{name}/"
                size = sum(entry[0] for path, entry in commit.files.items() if path.startswith(prefix))
                row = rows.setdefault(
                    name,
                    {"dims": features.dims(name), "shape": array.shape[1:], "dtype": str(array.dtype),
                     "proposals": 0, "bytes": 0, "raw_bytes": 0},
                )  # fmt: skip
                row["proposals"] += array.shape[0]
                row["bytes"] += size
                row["raw_bytes"] += int(np.prod(array.shape)) * 2
        columns = ["dims", "shape", "dtype", "proposals", "bytes", "raw_bytes"]
        table = pd.DataFrame(list(rows.values()), index=list(rows), columns=columns)
        # without any proposal there is nothing to compare: NaN
        table["ratio_to_float16"] = table["bytes"].astype(float) / table["raw_bytes"].where(table["raw_bytes"] > 0)
        return table.drop(columns="raw_bytes").rename_axis("array")

    def verify(self) -> list[str]:
        """Check every committed file's size and checksum and every row count; one plain line per fault found."""
        faults = []
        for video, commit in self._commits.items():
            found = self._extract.faults(commit)
            if not found and (rows := len(self.table(video))) != (stored := len(self.features(video))):
                found = [f"{rows} proposals in the table, {stored} in the features"]
            faults += [f"{video}: {fault}" for fault in found]
        return faults

    def commit(self, video: str) -> Commit:
        """The commit record of a video's features: files, sizes, checksums and `meta`."""
        return self._commit(video)

    @property
    def record(self) -> Record:
        """The record of the extraction that is in force: its parameters and those of the stages before."""
        return self._record

    @cached_property
    def _extract(self) -> StageFolder:
        return StageFolder(self.root / "extract")

    @cached_property
    def _record(self) -> Record:
        record = self._extract.record_in_force()
        if record is None:
            raise NotCommitted(f"{self.root} holds no features yet: run glpose-stage extract")
        return record

    @cached_property
    def _commits(self) -> dict[str, Commit]:
        return self._extract.commits(self._record)

    def _chosen(self, video: str | None) -> dict[str, Commit]:
        return {video: self._commit(video)} if video else self._commits

    def _commit(self, video: str) -> Commit:
        try:
            return self._commits[video]
        except KeyError:
            near = ", ".join(self.videos[:3])
            raise StoreError(f"{self.root} has no features of a video {video!r}; it has {near} ...") from None
