"""Writes docs/images/rendered.jpg: frames of clips that ship, with what is labelled.

python tools/rendered_sheet.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from glpose.data.annotations import Annotations
from glpose.data.dataset import open_video
from glpose.drawing import WRONG, contact_sheet, draw_ring, draw_skeleton
from stages.config import find_config, load_pipeline
from stages.stage import Context

OUT = Path(__file__).parent.parent / "docs" / "images" / "rendered.jpg"
CLIPS = ("000000_rendered_eval", "000003_rendered_eval", "000001_rendered_train", "000006_rendered_train")
FRAMES = (1, 7, 13, 19)
ENLARGED, TILE, QUALITY = 2, 320, 80  # while drawing; px; of JPEG


def draw_labels(frame: np.ndarray, notes: Annotations, number: int) -> np.ndarray:
    """The frame, enlarged, with everybody's skeleton and a ring round each joint that cannot be seen."""
    picture = cv2.resize(frame, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
    for keypoints in notes.keypoints[notes.frame == number]:
        points = np.where(keypoints[:, 2:] > 0, keypoints[:, :2] * ENLARGED, np.nan)
        draw_skeleton(picture, points, notes.joints, thickness=2)
        for joint in np.flatnonzero(keypoints[:, 2] == 1):
            draw_ring(picture, points[joint], 8, WRONG, dashed=False)
    return picture


def row(context: Context, clip: str) -> tuple[str, list[np.ndarray]]:
    """The frames of one clip, and what it shows."""
    video = open_video(context.video(clip))
    notes = video.annotations
    assert notes is not None and notes.tags is not None
    pictures = [draw_labels(frame, notes, number) for number, frame in video.frames.read(FRAMES)]
    actions = sorted({action for action in notes.tags.action if action})
    return f"{clip}: {', '.join(actions)}", pictures


if __name__ == "__main__":
    demo = Context(load_pipeline(find_config(None), "demo"))
    OUT.parent.mkdir(exist_ok=True)
    sheet = contact_sheet([row(demo, clip) for clip in CLIPS], TILE)
    cv2.imwrite(str(OUT), sheet, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    print(f"{OUT}: {sheet.shape[1]} x {sheet.shape[0]} px, {OUT.stat().st_size / 1e3:.0f} kB")
