"""What every table of a pipeline says of itself, and where its files lie."""

from __future__ import annotations

from stages.config import PipelineConfig, flat
from stages.detect import boxes_in_words
from store.places import Place

STAGES = ("detect", "extract", "index", "train", "eval")  # whose options bear on scores
SAID = {"extract.checkpoint", "eval.joints", "eval.checkpoint", "train.augment"}  # elsewhere in every table
NO_MATTER = {"detect.strict", "eval.overlay", "eval.submission", "train.single_frame"}


def table_folder(config: PipelineConfig) -> Place:
    """Folder of the pipeline's tables."""
    return config.work / "tables"


def about(config: PipelineConfig, videos: int) -> dict[str, str]:
    """What bears on all numbers of a table. videos: that were evaluated."""
    best = "best epoch on held-out training videos"
    return {
        "pipeline": config.name,
        "boxes": boxes_in_words(config),
        "joints": config.eval.joints,
        "videos": str(videos),
        "checkpoint": "last epoch" if config.eval.checkpoint == "last" else best,
        "augmentation": config.train.augment,
        "options": ", ".join(_changed(config)) or "all defaults",
    }


def _changed(config: PipelineConfig) -> list[str]:
    """Options that are not the defaults, as `stage.key=value`, without those of boxes, which are told in words."""
    found = []
    for stage in STAGES:
        options = getattr(config, stage)
        defaults = {key: value for key, value, _ in flat(type(options)(), f"{stage}.")}
        for key, value, _ in flat(options, f"{stage}."):
            told = key in SAID | NO_MATTER or key.startswith(("detect.train.", "detect.eval.", "detect.detector."))
            if not told and value != defaults[key]:
                found.append(f"{key}={list(value) if isinstance(value, tuple) else value}")
    return found
