"""What is published of the sizes of the benchmarks, to hold what is found against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from glpose.data.faults import Fault
from glpose.options import DataOptions, JHMDBData, RenderedData, SplitOptions


@dataclass(frozen=True)
class Published:
    """Published counts. videos: by subset (folder of annotations), or "" where splits share all. source: of these.

    others: counts of other releases, which are complete as well.
    """

    videos: dict[str, int]
    source: str
    frames: int | None = None
    remark: str = ""
    others: dict[str, tuple[int, ...]] = field(default_factory=dict)


# By data.kind; of jhmdb by data.splits.
PUBLISHED = {
    "posetrack17": Published({"train": 250, "val": 50}, "PoseTrack 2017 challenge, posetrack.net"),
    "posetrack18": Published(
        {"train": 593, "val": 170}, "PoseTrack 2018 challenge, posetrack.net", others={"val": (74,)}
    ),
    "posetrack21": Published({"train": 593, "val": 170}, "PoseTrack21 (CVPR 2022): the videos of PoseTrack18"),
    "sub_splits": Published(
        {"": 319},
        "GLPose § 4, Sub-JHMDB",
        frames=11_200,
        remark="the official split files list 316 clips",
        others={"": (316,)},
    ),
    "splits": Published({"": 928}, "JHMDB (ICCV 2013)"),
}


def published(data: DataOptions) -> Published | None:
    """Published counts of a data set; None for data of one's own."""
    return PUBLISHED.get(data.splits if isinstance(data, JHMDBData) else data.kind)


def published_videos(data: DataOptions, split: str) -> int | None:
    """Published number of videos of what a split is taken from."""
    known, options = published(data), split_options(data).get(split)
    return None if known is None or options is None or not options.subset else known.videos.get(options.subset)


def check_counts(data: DataOptions, videos: Mapping[str, int], frames: int) -> list[Fault]:
    """Counts that no release has, of splits that the options do not cut. videos: by split; frames: of all."""
    known, options = published(data), split_options(data)
    whole = {split for split, chosen in options.items() if (chosen.videos, chosen.frames) == ("*", (0, None))}
    if known is None:
        return []
    found: list[tuple[str, str, int, int | None]] = []  # what is counted, its subset, there are, published
    if "" in known.videos:
        if whole == {"train", "eval"}:
            clips = sum(videos.values())
            found.append(("clips", "", clips, known.videos[""]))
            if clips == known.videos[""]:
                found.append(("frames", "frames", frames, known.frames))
    else:
        found = [
            (f"videos in {options[split].subset}", options[split].subset, videos[split], published_videos(data, split))
            for split in sorted(whole)
        ]
    return [
        Fault("counts", "", None, f"{what}: {there}, published {right}")
        for what, subset, there, right in found
        if right is not None and there not in (right, *known.others.get(subset, ()))
    ]


def split_options(data: DataOptions) -> dict[str, SplitOptions]:
    """Options of the splits that a data set of files has."""
    pairs = [] if isinstance(data, RenderedData) else [("train", data.train), ("eval", data.eval)]
    return {split: options for split, options in pairs if options is not None}
