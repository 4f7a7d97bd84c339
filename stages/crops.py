"""crops: images of every proposal of the train split with room for augmentation, and of its box in nearby frames."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glpose.context_crops import context_affine, context_size, cut_context_crops
from glpose.data.dataset import joint_set, open_video
from glpose.extraction import local_offsets
from glpose.geometry import crop_frames
from stages.config import PipelineConfig
from stages.stage import Context, Stage, nothing
from store.crops import CropFile, CropSchema, CropWriter
from store.errors import StoreError, TrainingError
from store.folder import Attempt
from store.record import fingerprint
from store.tables import BOX, read_table

VERSION = 1
FILE = "crops.h5"


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """All options, those of extract that say what a crop shows, and what is read of joints that are the user's own."""
    shown = config.extract.model_dump(mode="json", include={"crop_size", "crop_scale", "k", "edge"})
    own: dict[str, Any] = {}
    if config.data.kind == "coco":
        joints = joint_set(config.data)
        halves = {"upper_body": joints.upper_body} if config.crops.half_body else {}
        own = {"joints": joints.joints, **halves}
    return {**config.crops.model_dump(mode="json"), **shown, **own}


def inputs(context: Context, unit: str) -> str:
    """Digest of the video's proposals and frames."""
    return fingerprint([context.commit("detect", unit).digest, open_video(context.video(unit)).frames.fingerprint()])


def train_proposals(context: Context, video: str) -> pd.DataFrame:
    """A video's proposals of the train split, in the order of its crop file. keypoints are (J, 3) or None."""
    table = read_table(context.output("detect", video), "proposals")
    table = table.loc[table["split"] == "train"].reset_index(drop=True)
    shaped = [None if own is None else np.asarray(own, np.float64).reshape(-1, 3) for own in table["keypoints"]]
    return table.assign(keypoints=pd.Series(shaped, dtype=object))


def open_crops(context: Context, video: str) -> CropFile:
    """The crops of a video's train split. StoreError in S3, whose files HDF5 cannot read."""
    folder = context.output("crops", video)
    if not isinstance(folder, Path):
        raise StoreError("crops are read as files: choose a local folder with --set work=DIR")
    return CropFile(folder / FILE, video)


def make(context: Context, shared: None, unit: str, attempt: Attempt) -> str:
    """Write one video's crop file."""
    extract, options = context.config.extract, context.config.crops
    video, table = open_video(context.video(unit)), train_proposals(context, unit)
    joints, size = joint_set(context.config.data), context_size(extract, options)
    boxes = table[BOX].to_numpy()
    affines = [
        context_affine(box, keypoints, joints, extract, options)
        for box, keypoints in zip(boxes, table["keypoints"], strict=True)
    ]
    own = crop_frames(boxes, extract.crop_size, extract.crop_scale)[:, 2]
    stored = np.array([size[1] / affine[0, 0] for affine in affines])  # width of their regions, frame px
    schema = CropSchema(
        video=unit,
        height=size[0],
        width=size[1],
        offsets=local_offsets(extract.k),
        context=float((stored / own).min(initial=np.inf)) if len(table) else 1.0,
        encoding=options.encoding,
        quality=options.quality,
    )
    unreadable = [frame for frame, _ in context.commit("detect", unit).meta["unreadable"]]
    cut = cut_context_crops(video.frames, table["frame"].to_numpy(), affines, size, extract.k, extract.edge, unreadable)
    with closing(cut), CropWriter(attempt.path / FILE, schema, len(table)) as writer:
        for crops, affine in zip(cut, affines, strict=True):
            writer.append(crops, affine)
    attempt.meta = {"proposals": len(table)}
    return "" if len(table) else "nobody in the train split"


def units(context: Context, everything: bool) -> list[str]:
    """One unit per video with frames in the train split. TrainingError where the data set has none."""
    videos = [ref.name for ref in (context.all_videos if everything else context.videos) if "train" in ref.ranges]
    if not videos and not any("train" in ref.ranges for ref in context.all_videos):
        raise TrainingError("no video has frames in the train split, which crops are made of: look at data.train")
    return videos


def finish(context: Context) -> list[str]:
    """Say how much is stored."""
    commits = context.commits("crops")
    total, size = sum(c.meta["proposals"] for c in commits.values()), sum(c.bytes for c in commits.values())
    height, width = context_size(context.config.extract, context.config.crops)
    count = total * (1 + 2 * context.config.extract.k)
    return [
        f"  {count} crops of {height} x {width} px of {total} proposals in {len(commits)} videos, {size / 1e6:.1f} MB"
    ]


STAGE = Stage(
    name="crops",
    version=VERSION,
    after=lambda config: ("detect",),
    parameters=parameters,
    units=units,
    inputs=inputs,
    prepare=nothing,
    make=make,
    finish=finish,
    distributed=True,
    by_video=True,
)
