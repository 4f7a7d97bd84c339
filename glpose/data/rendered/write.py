"""Write rendered clips as a PoseTrack18-style data set, with tags of every joint that the real one does not have."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import cv2
import numpy as np

from glpose.data.posetrack18 import NAMES
from glpose.data.rendered.labels import FrameLabels
from glpose.data.rendered.scene import Clip, ClipOptions
from glpose.data.tags import UNTAGGED
from glpose.keypoints import POSETRACK
from store.errors import DataError

SKELETON = [
    [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10], [9, 11],
    [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
]  # fmt: skip
QUALITY = 92


def video_number(name: str) -> int:
    """The six-digit number in PoseTrack's image ids: the name's first six digits, else a checksum of the name."""
    return int(name[:6]) if name[:6].isdigit() and len(name) >= 6 else zlib.crc32(name.encode()) % 1_000_000


def _xywh(box: list[float]) -> list[float]:
    return [round(v, 3) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])]


def _annotations(labels: FrameLabels, image_id: int) -> list[dict[str, object]]:
    rows = POSETRACK.indices_of(NAMES)
    out: list[dict[str, object]] = []
    for person in range(len(labels)):
        flat: list[float] = []
        occlusion: list[int] = []
        speed: list[float | None] = []
        for row in rows:
            x, y, flag = (0.0, 0.0, 0.0) if row is None else labels.keypoints[person, row].tolist()
            # PoseTrack's own flag is 1 or 0; a joint at exactly (0, 0, 0) is absent.
            flat += [round(x, 3), round(y, 3), 1 if flag == 2 else 0]
            hidden = UNTAGGED if row is None else int(labels.occlusion[person, row])
            occlusion.append(hidden)
            speed.append(None if row is None or hidden == UNTAGGED else round(float(labels.speed[person, row]), 3))
        track = int(labels.track_ids[person])
        out.append(
            {
                "id": image_id * 100 + track,
                "image_id": image_id,
                "track_id": track,
                "category_id": 1,
                "keypoints": flat,
                "bbox": _xywh(labels.boxes[person].tolist()),
                "bbox_head": _xywh(labels.head_boxes[person].tolist()),
                "scores": [],
                "occlusion": occlusion,
                "speed": speed,
                "visible": round(float(labels.visible[person]), 4),
                "action": labels.actions[person],
            }
        )
    return out


def write_clip(
    folder: Path | str,
    split: str,
    name: str,
    options: ClipOptions,
    seed: int,
    clip: int,
    label_every: int = 1,
    mp4: bool = False,
) -> Path:
    """Write images/<split>/<name>/000000.jpg ... and annotations/<split>/<name>.json under folder.

    mp4: images/<split>/<name>.mp4 instead, whose frames the annotations call by the names of the images.

    One frame of `label_every` is labelled. The annotation file is renamed into place last, so that its presence means a
    complete clip; returns its path. Raises DataError if it is there already or an image cannot be written, ValueError
    for a name with a separator.
    """
    for part in (split, name):
        if not part or Path(part).name != part:
            raise ValueError(f"split and name must be plain folder names, not {part!r}")
    root = Path(folder)
    target = root / "annotations" / split / f"{name}.json"
    if target.exists():
        raise DataError(f"{target} exists already: delete it to generate the clip again")
    pictures = root / "images" / split / name
    (pictures.parent if mp4 else pictures).mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    number = video_number(name)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    film: list[np.ndarray] = []
    for index, (picture, labels) in enumerate(Clip(options, seed, clip).frames()):
        path = pictures / f"{index:06d}.jpg"
        if mp4:
            film.append(picture)
        elif not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]):
            raise DataError(f"{path} could not be written")
        image_id = 10_000_000_000 + number * 10_000 + index
        images.append(
            {
                "id": image_id,
                "frame_id": image_id,
                "vid_id": f"{number:06d}",
                "nframes": options.frames,
                "is_labeled": index % label_every == 0,
                "has_no_densepose": True,
                "file_name": path.relative_to(root).as_posix(),
                "width": options.width,
                "height": options.height,
                "defocus": round(labels.defocus, 3),
                "ignore_regions_x": [],
                "ignore_regions_y": [],
            }
        )
        if index % label_every == 0:
            annotations += _annotations(labels, image_id)
    if mp4:
        _write_mp4(pictures.with_name(f"{name}.mp4"), film, options.fps)
    category = {
        "supercategory": "person", "id": 1, "name": "person", "keypoints": list(NAMES), "skeleton": SKELETON,
    }  # fmt: skip
    text = json.dumps({"images": images, "annotations": annotations, "categories": [category]})
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, target)
    return target


def _write_mp4(path: Path, frames: list[np.ndarray], fps: float) -> None:
    """Write BGR frames of one size as MPEG-4 part 2, which every OpenCV writes. DataError where this one cannot."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, frames[0].shape[1::-1])
    try:
        if not writer.isOpened():
            raise DataError(f"{path} cannot be written as an MP4 by this OpenCV; set data.encoding=jpeg")
        for frame in frames:
            writer.write(frame)
    finally:
        writer.release()
