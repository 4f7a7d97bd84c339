"""What is published of the sizes of the benchmarks, to print beside what is found."""

from __future__ import annotations

from dataclasses import dataclass

from glpose.options import DataOptions, JHMDBData


@dataclass(frozen=True)
class Published:
    """Published counts. videos: by subset (folder of annotations), or "" where splits share all. source: of these."""

    videos: dict[str, int]
    source: str
    frames: int | None = None
    remark: str = ""


# By data.kind; of jhmdb by data.splits.
PUBLISHED = {
    "posetrack17": Published({"train": 250, "val": 50}, "PoseTrack 2017 challenge, posetrack.net"),
    "posetrack18": Published({"train": 593, "val": 170}, "PoseTrack 2018 challenge, posetrack.net"),
    "posetrack21": Published({"train": 593, "val": 170}, "PoseTrack21 (CVPR 2022): the videos of PoseTrack18"),
    "sub_splits": Published(
        {"": 319}, "GLPose § 4, Sub-JHMDB", frames=11_200, remark="the official split files list 316 clips"
    ),
    "splits": Published({"": 928}, "JHMDB (ICCV 2013)"),
}


def published(data: DataOptions) -> Published | None:
    """Published counts of a data set; None for data of one's own."""
    return PUBLISHED.get(data.splits if isinstance(data, JHMDBData) else data.kind)
