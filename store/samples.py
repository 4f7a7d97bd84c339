"""One proposal's stored features with those of its local frames and references: what one step of training sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from store.errors import CorruptData, StoreError
from store.features import VideoFeatures
from store.tables import BOX


@dataclass(frozen=True, eq=False)
class Sample:
    """One training sample, in numpy. Maps are float32 features of C channels on a grid of H x W, `stride` crop px each.

    row: of the proposal in the store's table, without keypoints. view: which stored view of it the maps are of.
    affine: (2, 3) float64, frame px to the view's crop px; None where the store has the clean crop of the box alone.
    box: (4,) float64 x1, y1, x2, y2, px of the original frame, clipped to it.
    keypoints: (J, 3) float32 x, y in px of the original frame and flag (0 absent, 1 annotated but not visible, 2
    visible), None where not annotated.
    key: (C, H, W), of the proposal's own crop.
    local: (2k, C, H, W), the same box in the frames at `offsets`, numbers of frames, negative before.
    references: (m, C, H, W), key maps of the m most similar proposals, best first; m is less than the index's n where
    there are fewer. They are of the clean view, those of a mirrored sample of the mirrored one. similarity: (m,)
    float32. reference_rows: their m rows of the table. m is 0 before `index` ran.
    """

    row: pd.Series
    view: int
    affine: np.ndarray | None
    box: np.ndarray
    keypoints: np.ndarray | None
    key: np.ndarray
    local: np.ndarray
    offsets: tuple[int, ...]
    references: np.ndarray
    similarity: np.ndarray
    reference_rows: pd.DataFrame

    def __repr__(self) -> str:
        where = f"{self.row['video']!r}, proposal {self.row['proposal']}, frame {self.row['frame']}"
        return f"Sample({where}: key {self.key.shape}, local {self.local.shape}, references {self.references.shape})"


def read_sample(
    features: Mapping[str, VideoFeatures],
    tables: Mapping[str, pd.DataFrame],
    video: str,
    proposal: int,
    found: pd.DataFrame,
    view: int,
) -> Sample:
    """Read one proposal of a video. features, tables: by video, of this one and of those that references are of.

    tables: with keypoints. found: the proposal's rows of the neighbours' table, best first. StoreError for a view that
    is not there, CorruptData where the index speaks of other proposals.
    """
    own, views = features[video], features[video].schema.views
    if not 0 <= view < views:
        raise StoreError(f"{video!r} has no view {view}; it has {views}, numbered from 0")
    videos = np.array([video, *found["reference_video"]])  # the proposal itself, then its references
    proposals = np.array([proposal, *found["reference"]])
    maps = np.empty((len(videos), *own.schema.map_shape), np.float32)
    rows = []
    for name, table in tables.items():
        (at,) = np.nonzero(videos == name)
        chosen = proposals[at]
        if len(table) != len(features[name]) or ((chosen < 0) | (chosen >= len(table))).any():
            raise CorruptData(
                f"features, proposals and index of {name!r} do not belong together; run verify, then index"
            )
        maps[at] = features[name].key(chosen, [_reference_view(own, features[name], view)])[:, 0]
        rows.append(table.iloc[chosen].set_axis(at))
    if view:
        maps[0] = own.key([proposal], [view])[0, 0]
    described = pd.concat(rows).sort_index().drop(columns="keypoints")
    row = tables[video].iloc[proposal]
    affine = own.affine([proposal])
    return Sample(
        row=described.iloc[0],
        view=view,
        affine=None if affine is None else affine[0, view],
        box=row[BOX].to_numpy(np.float64),
        keypoints=row["keypoints"],
        key=maps[0],
        local=own.local([proposal], [view])[0, 0],
        offsets=own.schema.offsets,
        references=maps[1:],
        similarity=found["similarity"].to_numpy(np.float32),
        reference_rows=described.iloc[1:].reset_index(drop=True),
    )


def _reference_view(own: VideoFeatures, other: VideoFeatures, view: int) -> int:
    """The view that references of a proposal in this view are shown in."""
    if view == 0 or view != own.schema.mirrored:
        return 0
    if other.schema.mirrored is None:
        raise StoreError(f"{other.video!r} has no mirrored view, as {own.video!r} has: run extract for all videos")
    return other.schema.mirrored
