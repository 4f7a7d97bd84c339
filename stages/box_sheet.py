"""A contact sheet of what detect has found: a few frames of every video with their boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from glpose.data.dataset import open_video
from glpose.drawing import contact_sheet, draw_boxes, write_image
from stages.stage import Context
from store.errors import DataError
from store.tables import BOX, read_table

FRAMES = 4  # of every video, evenly spaced among those with people
VIDEOS = 12  # at most
TILE_WIDTH = 480  # px


def write_box_sheet(context: Context, path: Path) -> Path:
    """Write the sheet of this run's first videos; returns `path`.

    NotCommitted where detect has not finished one, DataError where none of the frames can be read.
    """
    rows = []
    for ref in context.videos[:VIDEOS]:
        table = read_table(context.output("detect", ref.name), "proposals")
        video = open_video(ref)
        people = table["frame"].unique() if len(table) else np.flatnonzero(video.split != "")
        chosen = people[np.unique(np.linspace(0, len(people) - 1, FRAMES).round().astype(int))].tolist()
        pictures = []
        for frame, picture in video.frames.read(chosen, {}):
            own = table.loc[table["frame"] == frame]
            pictures.append(draw_boxes(picture, own[BOX].to_numpy(), own["score"].to_numpy()))
        label = f"{ref.name}: {len(table)} boxes in {len(video)} frames; frames {', '.join(map(str, chosen))}"
        if pictures:
            rows.append((label, pictures))
    if not rows:
        raise DataError(f"{path} is not written: none of the frames to draw can be read")
    write_image(path, contact_sheet(rows, TILE_WIDTH))
    return path
