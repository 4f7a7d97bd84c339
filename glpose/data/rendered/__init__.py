"""Rendered clips: skinned people with exact labels, for tests, demonstrations and evidence without downloads."""

from __future__ import annotations

from glpose.data.rendered.labels import FrameLabels
from glpose.data.rendered.scene import Clip, ClipOptions
from glpose.data.rendered.write import write_clip

__all__ = ["Clip", "ClipOptions", "FrameLabels", "write_clip"]
