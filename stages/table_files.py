"""What every table of a pipeline says of itself, and where its files lie."""

from __future__ import annotations

from glpose.data.published import published
from stages.config import PipelineConfig, flat
from stages.detect import boxes_in_words
from store.places import Place

STAGES = ("detect", "extract", "index", "train", "eval")  # whose options bear on scores
SAID = {"extract.checkpoint", "eval.joints", "eval.checkpoint", "train.augment"}  # elsewhere in every table
NO_MATTER = {
    "detect.strict", "extract.width", "extract.mirror", "train.single_frame", "eval.overlay", "eval.submission",
    "eval.heads", "eval.single_frame_hrnet",
}  # fmt: skip


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


def comparison_notes(config: PipelineConfig, videos: int) -> list[str]:
    """What keeps ours from being compared with published numbers. videos: that were evaluated."""
    notes, known = [], published(config.data)
    whole = None if known is None else known.videos.get("val")
    if whole is not None and whole != videos:
        notes.append(f"ours is of {videos} videos, what is published of the {whole} of val")
    if config.data.kind in ("posetrack17", "posetrack18") and config.detect.eval.source == "annotations":
        notes.append("ours is on annotated boxes, which are worth about 7 mAP; what is published is on detected ones")
    return notes


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
