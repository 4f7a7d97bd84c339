"""What the retrieval inspector looks at: chosen people of a split with all that goes into their poses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from glpose.data.truth import Truth
from glpose.references import References
from glpose.report.contributions import ALL, SINGLE_FRAME, Contributions
from glpose.report.crop_pictures import Wanted

KEY_HEIGHT, SMALL_HEIGHT = 256, 128  # px of pictures: of key crops, of local and non-local ones


@dataclass(frozen=True)
class Inspected:
    """A split as the inspector looks at it: P proposals, of which B people are chosen.

    table: of the split, P rows. regions: (P, 3) cx, cy, sw of their crops, frame px. embeddings: (P, C), comparable.
    references: of all, n each. truth: of all. mean_error, gain: (P,) of GLPose, and how much smaller it is than the
    single frame's, in sizes of the person, NaN where not known. chosen: row -> why, B of them. offsets: (2k,) of the
    local frames. local_frames: (B, 2k) that the local crops are cut from. local_notes: (B, 2k) why that is not the one
    at the offset, or empty. used: how many of the n references the heads are given. glpose: of the B people.
    single_frame: likewise, if there are such heads.
    """

    table: pd.DataFrame
    regions: np.ndarray
    embeddings: np.ndarray
    references: References
    truth: Truth
    mean_error: np.ndarray
    gain: np.ndarray
    chosen: dict[int, str]
    offsets: tuple[int, ...]
    local_frames: np.ndarray
    local_notes: np.ndarray
    used: int
    glpose: Contributions
    single_frame: Contributions | None

    @property
    def poses(self) -> dict[str, np.ndarray]:
        """Source -> (B, J, 3), GLPose's first."""
        alone = {} if self.single_frame is None else {SINGLE_FRAME: self.single_frame.poses[ALL]}
        return {**self.glpose.poses, **alone}

    @property
    def heatmaps(self) -> dict[str, np.ndarray]:
        """Source -> (B, J, H, W), in the order of the poses."""
        alone = {} if self.single_frame is None else {SINGLE_FRAME: self.single_frame.heatmaps[ALL]}
        return {**self.glpose.heatmaps, **alone}

    @cached_property
    def errors(self) -> dict[str, np.ndarray]:
        """Source -> (B, J) px from the truth, NaN where it is not known."""
        truth = Truth(self.truth.keypoints[list(self.chosen)], ())
        return {source: truth.errors(poses) for source, poses in self.poses.items()}


def wanted_pictures(inspected: Inspected) -> dict[str, dict[str, Wanted]]:
    """Video -> name -> crop, of everything that is shown. A key crop is named by its row: "12", a local one "12@7"."""
    frames, videos = inspected.table["frame"].to_numpy(), inspected.table["video"].to_numpy()
    wanted: dict[str, dict[str, Wanted]] = {}

    def want(name: str, row: int, frame: int, height: int) -> None:
        wanted.setdefault(str(videos[row]), {}).setdefault(name, Wanted(frame, inspected.regions[row], height))

    for row in inspected.chosen:
        want(str(row), row, int(frames[row]), KEY_HEIGHT)
    for row, local in zip(inspected.chosen, inspected.local_frames, strict=True):
        for frame in local[local != frames[row]].tolist():
            want(f"{row}@{frame}", row, frame, SMALL_HEIGHT)
        for other in inspected.references.rows[row].tolist():
            if other >= 0:
                want(str(other), other, int(frames[other]), SMALL_HEIGHT)
    return wanted
