"""Generated clips: animated figures with exact labels, for tests, demonstrations and pretraining without downloads."""

from __future__ import annotations

from glpose.data.generated.labels import FrameLabels
from glpose.data.generated.scene import Clip, ClipOptions, render_clip, render_frame
from glpose.data.generated.write import write_clip

__all__ = ["Clip", "ClipOptions", "FrameLabels", "render_clip", "render_frame", "write_clip"]
