"""What is wrong with the boxes of a box file (detect.train.file, detect.eval.file), held against the frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from glpose.data.boxes import BoxFile
from glpose.data.dataset import Video
from glpose.data.faults import Fault
from glpose.data.people_checks import check_boxes

Images = set[tuple[Path, str]]  # a box file, and what it calls an image


def check_file_boxes(
    video: Video, files: Mapping[str, BoxFile], min_score: float, height: int, width: int
) -> tuple[list[Fault], Images]:
    """Frames of a video without a box, and boxes that do not fit; also the images of the files that are its frames.

    files: by split. min_score: boxes below it are not used, so that nothing is said of them.
    """
    faults: list[Fault] = []
    found: Images = set()
    names, keys = video.frames.names, [video.image_keys(frame) for frame in range(len(video))]
    for file in files.values():
        found |= {(file.path, key) for frame in keys if (key := next((k for k in frame if k in file.rows), None))}
    for split, file in files.items():
        frames, boxes, said = [], [], []
        for frame in np.flatnonzero(video.split == split).tolist():
            given, scores = file.of_frame(keys[frame])
            used = scores >= min_score
            if not used.any():
                what = f"{file.path} has no box of score {min_score:g} or more for {names[frame]}"
                faults.append(Fault("no_box", video.name, frame, what))
            frames += [frame] * int(used.sum())
            boxes += list(given[used])
            said += [f"{file.path.name}, score {score:.2f}" for score in scores[used].tolist()]
        faults += check_boxes(video.name, frames, np.array(boxes, np.float64).reshape(-1, 4), said, height, width)
    return faults, found


def check_matches(files: Mapping[str, BoxFile], found: Images) -> list[Fault]:
    """Images of box files that are a frame of no video; a fault that stops where that is all of them."""
    faults = []
    for file in {file.path: file for file in files.values()}.values():
        unknown = [key for key in file.rows if (file.path, key) not in found]
        if not file.rows:
            faults.append(Fault("box_file", "", None, f"{file.path} holds no boxes of people"))
        elif len(unknown) == len(file.rows):
            what = f"{file.path} has boxes for {unknown[0]!r} ..., no frame: images go by the annotation's name or id"
            faults.append(Fault("box_file", "", None, what))
        else:
            faults += [Fault("unknown", "", None, f"{file.path} has boxes for {key!r}, no frame") for key in unknown]
    return faults
