"""Rendered frames that a network is trained on, drawn with a progress bar."""

from __future__ import annotations

from rich.console import Console

from glpose.rendered_frames import RenderedFrame, rendered_frames
from stages.console import counting


def draw_with_progress(console: Console, name: str, count: int, workers: int) -> list[RenderedFrame]:
    """`rendered_frames` of a set. workers: processes that draw."""
    with counting(console) as progress:
        task = progress.add_task(f"frames of {name}", total=count)
        return rendered_frames(name, count, workers, lambda drawn: progress.update(task, completed=drawn))
