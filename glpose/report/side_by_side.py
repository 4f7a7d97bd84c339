"""The side-by-side figure as HTML: per frame a strip of pictures, one per system and one of the truth."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from glpose.report.page import Section, template
from glpose.side_by_side import RINGS

ANCHOR = "side-by-side"
QUALITY = 78  # of the JPEGs
STYLE = """
.side-by-side-frame { margin: 0 0 1.6rem; }
.side-by-side-frame figcaption { margin: 0 0 .4rem; }
.side-by-side-gain { font-weight: 600; color: var(--good); }
.side-by-side-loss { font-weight: 600; color: var(--bad); }
.side-by-side-strip { display: flex; gap: .4rem; width: max-content; }
.side-by-side-strip div { width: min(13rem, 42vw); }
.side-by-side-strip img { display: block; width: 100%; height: auto; border-radius: 4px; }
.side-by-side-strip span { display: block; font-size: .82rem; color: var(--muted); margin-top: .2rem; }
.side-by-side-key {
  display: inline-block; width: .8em; height: .8em; border-radius: 50%; border: 3px solid; vertical-align: -.1em;
}
"""
KEYS = [  # style of a border, what it stands for
    (f"{style} rgb({red} {green} {blue})", label)
    for style, ((blue, green, red), label) in zip(("solid", "dashed"), RINGS, strict=True)
]


@dataclass(frozen=True)
class Strip:
    """One frame. kind: "gain", "loss" or "named". text: what is gained; where: which frame. pictures: label, right
    joints in words, BGR picture; of every row, then the truth.
    """

    kind: str
    text: str
    where: str
    pictures: Sequence[tuple[str, str, np.ndarray]]


def side_by_side_section(title: str, lead: str, strips: Sequence[Strip]) -> Section:
    """The section. lead: a sentence on what is compared, and when a joint is right."""
    shown = [
        (strip, [(label, words, _data_uri(picture), picture.shape) for label, words, picture in strip.pictures])
        for strip in strips
    ]
    html = template("side_by_side.html", lead=lead, strips=shown, keys=KEYS)
    return Section(title, ANCHOR, html, style=STYLE)


def _data_uri(picture: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
