"""render: clips of skinned people with exact labels, for pipelines without data of their own."""

from __future__ import annotations

from typing import Any

from glpose.data.rendered import ClipOptions, write_clip
from glpose.data.rendered.photos import photos_digest
from glpose.data.rendered.sets import SETS
from glpose.options import RenderedData
from stages.config import PipelineConfig
from stages.stage import Context, Stage, clip_names, draws, no_lines, nothing
from store.errors import ConfigError
from store.folder import Attempt
from store.record import fingerprint

VERSION = 2


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """What the pixels depend on, pictures by their contents; the number of clips only says how many units there are."""
    data = _options(config)
    options = data.model_dump(mode="json", exclude={"kind", "train_clips", "eval_clips"})
    return options if data.photos is None else {**options, "photos": photos_digest(data.photos)}


def units(context: Context, everything: bool) -> list[str]:
    """Names of the clips; all of them in every run, as they are the videos that a pattern chooses from."""
    return clip_names(_options(context.config))


def make(context: Context, shared: None, unit: str, attempt: Attempt) -> str:
    """Write one clip's frames and annotation in PoseTrack18's form."""
    data = _options(context.config)
    number, _, split = unit.split("_")
    clips = SETS[data.train_set if split == "train" else data.eval_set]
    options = ClipOptions(
        height=data.height,
        width=data.width,
        frames=data.frames,
        fps=data.fps,
        people=data.people,
        occluders=data.occluders,
        bodies=clips.bodies,
        recurring=data.recurring or split == "train",
        hardness=data.hardness,
        photos=data.photos,
    )
    write_clip(
        attempt.path, split, unit, options, data.seed + clips.seed, int(number), data.label_every,
        mp4=data.encoding == "mp4",
    )  # fmt: skip
    attempt.meta = {"split": split, "frames": data.frames}
    return ""


def _options(config: PipelineConfig) -> RenderedData:
    if not isinstance(config.data, RenderedData) or not draws(config.data):
        raise ConfigError(f"pipeline {config.name!r} reads its {config.data.kind} data: there is nothing to render")
    return config.data


STAGE = Stage(
    name="render",
    version=VERSION,
    after=lambda config: (),
    parameters=parameters,
    units=units,
    inputs=lambda context, unit: fingerprint(unit),
    prepare=nothing,
    make=make,
    finish=no_lines,
    distributed=True,
)
