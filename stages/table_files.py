"""What every table of a pipeline says of itself, and where its files lie."""

from __future__ import annotations

from stages.config import PipelineConfig
from stages.detect import boxes_in_words
from store.places import Place


def table_folder(config: PipelineConfig) -> Place:
    """Folder of the pipeline's tables."""
    return config.work / "tables"


def about(config: PipelineConfig, videos: int) -> dict[str, str]:
    """What bears on all numbers of a table. videos: that were evaluated."""
    return {
        "pipeline": config.name,
        "boxes": boxes_in_words(config),
        "joints": config.eval.joints,
        "videos": str(videos),
    }
