"""GLPose: 2D human poses in video from a frame's own, its neighbours' and its most similar people's features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Set before torch is loaded: an idle OpenMP thread spins for microseconds, then sleeps. Torch's own default, to spin
# for milliseconds, is 4-10 times slower where cores are shared; to sleep at once is half as fast where they are not.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}  # of GNU's OpenMP, the count goes before the policy
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.update({**WAITING, **os.environ})


def predict(
    videos: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    heads: str | Path | None = None,
    backbone: str | Path | None = None,
    detector: str | Path | None = None,
    boxes: str | Path | None = None,
    min_score: float | None = None,
    start: int | None = None,
    end: int | None = None,
    every: int | None = None,
    video: bool | None = None,
    show_boxes: bool | None = None,
    work: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
) -> pd.DataFrame:
    """Poses of videos: a video file, a folder of images, a folder of such, or a list of these.

    One row per person and frame: video, frame (from 0, as in the source), person (a number over the video's frames),
    x1, y1, x2, y2 (box, px of the frame), score (of the box), pose_score, and of each joint JOINT_x, JOINT_y (px of the
    frame), JOINT_score; all but the first three float32.

    out: folder for the files of each video, `out/VIDEO/` (docs/predict.md); None: none are written. heads, backbone,
    detector: checkpoints, by default those that ship. boxes: COCO results JSON to take boxes from. start, end, every:
    frames start, start + every ... before end. video, show_boxes: of the overlay. work: folder that keeps features for
    another run. force: replace files that were made otherwise. device: as torch names it.

    Raises store.errors.GLPoseError, its message a line or two, for what cannot be used.
    """
    from glpose.options import RuntimeOptions  # here, for torch takes seconds to import
    from glpose.prediction import predict_options, predict_videos

    weights = {"heads": heads, "backbone": backbone, "detector": detector}
    options = predict_options(
        {name: None if value is None else str(value) for name, value in weights.items()}
        | {"boxes": boxes, "min_score": min_score, "start": start, "end": end, "every": every}
        | {"video": video, "show_boxes": show_boxes}
    )
    paths = [videos] if isinstance(videos, str | Path) else videos
    written, kept = (None if folder is None else Path(folder) for folder in (out, work))
    return predict_videos(paths, written, kept, options, RuntimeOptions(device=device), force=force)
