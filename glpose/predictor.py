"""Poses of one video of one's own: boxes, features, references and heads, by networks that are loaded once.

Frames are read as they are needed and features lie in a folder, so that memory does not grow with the video.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glpose.box_sources import box_sources
from glpose.data.counted_frames import CountedFrames
from glpose.data.dataset import Video, VideoRef
from glpose.data.predictions import coco_scores
from glpose.data.resident import map_bytes
from glpose.data.video import FrameSource, frame_rate, open_frames
from glpose.detectors import detector_identity
from glpose.embeddings import stored_embeddings
from glpose.extraction import extract_video, feature_schema, load_backbone, store_features
from glpose.keypoints import JointSet
from glpose.models.checkpoints import load_heads, resolve_checkpoint
from glpose.options import (
    BoxOptions,
    DetectOptions,
    DetectorOptions,
    EvalOptions,
    IndexOptions,
    PredictOptions,
    RuntimeOptions,
    index_problem,
)
from glpose.proposals import propose
from glpose.references import References, references_of
from glpose.retrieval import make_gallery
from glpose.runtime import choose_device
from glpose.single_frame import feature_layer
from glpose.streaming import stream_poses
from glpose.tracking import assign_tracks
from glpose.trained_on import read_trained_on
from glpose.views import box_affines
from store.errors import CheckpointError, DataError, DiskFull
from store.features import VideoFeatures
from store.folder import Attempt, Commit, StageFolder
from store.record import Record, file_digest, fingerprint, make_record
from store.tables import BOX, read_table, write_table

VERSION = 1  # bump when the poses that are found change
IMAGES_RATE = 25.0  # frames per second of a folder of images
WAIT = 1.0  # seconds for which somebody who is not seen keeps the number

Report = Callable[[str, int, int], None]  # what is being made, how many of it are done, of how many


@dataclass(frozen=True)
class Prediction:
    """Poses of P boxes of people in F frames of one video.

    frames: (F,) rising numbers of the frames that were looked at. rate: frames per second of the video, read or
    assumed. table: P rows in frame order: video, frame, person (0, 1, 2 ... over the whole video), x1,
    y1, x2, y2 (frame px), score (of the box). poses: (P, J, 3) x, y in frame px, score. scores: (P,) of the poses.
    unreadable: frames that could not be read, with the reason. notes: what else there is to tell, a line each. seconds:
    what took how long.
    """

    name: str
    source: FrameSource
    frames: np.ndarray
    rate: float
    table: pd.DataFrame
    poses: np.ndarray
    scores: np.ndarray
    joints: JointSet
    unreadable: dict[int, str]
    notes: list[str]
    seconds: dict[str, float]

    @property
    def people(self) -> int:
        """How many people there are, each counted once."""
        return len(np.unique(self.table["person"].to_numpy()))


class Predictor:
    """The networks, loaded, and what is done with them. CheckpointError, DataError where they do not go together."""

    def __init__(self, options: PredictOptions, runtime: RuntimeOptions) -> None:
        device = choose_device(runtime)
        self.options, self.runtime = options, runtime
        heads = _weights("heads", options.heads)
        trained = read_trained_on(heads)
        self.joints, self.index = trained.joints, _index_of_one_video(trained.index, options.heads)
        used = {"checkpoint": str(_weights("backbone", options.backbone)), "k": trained.heads.k}
        self.extract = trained.extract.model_copy(update=used)
        self.backbone = load_backbone(self.extract, device)
        try:
            self.model = load_heads(heads, space=self.backbone.space).to(device)
        except CheckpointError as error:
            raise CheckpointError(f"heads {options.heads} and backbone {options.backbone}: {error}") from None
        if problem := index_problem(trained.heads, self.index):
            raise CheckpointError(f"heads {options.heads}: {problem}")
        self._layer = feature_layer(self.extract.checkpoint, self.joints) if self.index.embedding == "pose" else None
        self._heads = file_digest(heads)
        self.detect = _boxes_options(options)
        self._source = box_sources(self.detect, device, self.runtime.frames)["eval"]

    def open(self, ref: VideoRef) -> Video:
        """A video, the frames to look at being those of its split "eval". DataError where there are none."""
        source, options = open_frames(ref.name, ref.path), self.options
        count = len(source.names)
        if options.start >= count:
            raise DataError(f"video {ref.name!r} has {count} frames: it cannot begin at frame {options.start}")
        split = np.full(count, "", dtype="<U5")
        split[options.start : options.end : options.every] = "eval"
        return Video(ref.name, source, None, split)

    def record(self, video: Video) -> dict[str, Any]:
        """All that a video's poses depend on, as plain data; files by their contents."""
        looked_at = np.flatnonzero(video.split == "eval")
        return {
            **self._records["extract"],
            "heads": self._heads,
            "video": [video.name, video.frames.fingerprint(), fingerprint(looked_at.tolist())],
        }

    def predict(self, video: Video, work: Path, report: Report) -> Prediction:
        """Poses in the frames of an opened video. work: folder for features; what it has already is not made again.

        DataError where the video cannot be used, DiskFull where the features would have no room.
        """
        seconds: dict[str, float] = {}
        frames = np.flatnonzero(video.split == "eval")
        with timed(seconds, "boxes"):
            boxes = self._boxes(video, frames, work, report)
            table = read_table(boxes.folder, "proposals")
        notes = list(boxes.commit.meta["notes"])
        unreadable = {frame: reason for frame, reason in boxes.commit.meta["unreadable"]}
        with timed(seconds, "features"):
            features = self._features(video, table, unreadable, boxes, work, report) if len(table) else None
        poses = np.zeros((len(table), len(self.joints), 3))
        with timed(seconds, "heads"):
            if features is not None:
                found = self._references(table, features)
                if self.model.options.n and (lacking := int((found.rows < 0).any(axis=1).sum())):
                    few = f"fewer than {self.model.options.n} references"
                    notes.append(f"{lacking} of {len(table)} people have {few}, for the video shows too few")
                score = EvalOptions().score
                size = self.runtime.batch_size
                for rows, own in stream_poses(self.model, features, table, found, self.extract, score, size):
                    poses[rows] = own
                    report("heads", int(rows[-1]) + 1, len(table))
        rate = frame_rate(video.frames) or IMAGES_RATE
        table["person"] = assign_tracks(table["frame"].to_numpy(), table[BOX].to_numpy(), round(WAIT * rate))
        return Prediction(
            name=video.name,
            source=video.frames,
            frames=frames,
            rate=rate,
            table=table.filter(["video", "frame", "person", *BOX, "score"]),
            poses=poses,
            scores=coco_scores(poses[..., 2], table["score"].to_numpy()),
            joints=self.joints,
            unreadable=unreadable,
            notes=notes,
            seconds=seconds,
        )

    @cached_property
    def _boxes_from(self) -> dict[str, Any]:
        """What the boxes depend on beside the frames."""
        source = self.detect.eval.source
        made = {"min_score": self.detect.min_score, "source": source}
        if self.options.boxes is not None:
            return {**made, "file": file_digest(self.options.boxes)}
        return {**made, "detector": detector_identity(source, self.detect.detector)}

    def _boxes(self, video: Video, frames: np.ndarray, work: Path, report: Report) -> _Made:
        """The video's proposals."""

        def make(attempt: Attempt) -> None:
            counted = CountedFrames(video.frames, lambda done: report("boxes", done, len(frames)))
            looked_at = video if self.options.boxes is not None else Video(video.name, counted, None, video.split)
            found = propose(looked_at, {"eval": self._source}, self.detect.min_score)
            notes = [*found.notes, *(f"{count} boxes {why} left out" for why, count in found.left_out.items())]
            if self.options.boxes is not None and found.table.empty and not found.left_out:
                called = video.frames.names[0]
                notes.append(f"{self.options.boxes} has no boxes for it: they go by names as {called!r}")
            if len(counted.sizes) > 1:
                notes.append(f"its frames have {len(counted.sizes)} sizes; the overlay has the first's")
            write_table(attempt.path, "proposals", found.table)
            attempt.meta = {"notes": notes, "unreadable": [list(own) for own in found.unreadable.items()]}

        inputs = fingerprint([video.frames.fingerprint(), frames.tolist()])
        return _made(StageFolder(work / "detect"), self._records["detect"], video.name, inputs, make)

    def _features(
        self, video: Video, table: pd.DataFrame, unreadable: dict[int, str], boxes: _Made, work: Path, report: Report
    ) -> VideoFeatures:
        """The features of the video's proposals."""
        options, causal = self.extract, self.model.options.causal
        schema = feature_schema(options, self.backbone, causal=causal)
        affines = box_affines(table[BOX].to_numpy(), options.crop_size, options.crop_scale)[:, None]

        def make(attempt: Attempt) -> None:
            maps_each = 1 + len(schema.offsets)
            needed, free = len(table) * maps_each * map_bytes(schema), shutil.disk_usage(work).free
            if needed > free:
                raise DiskFull(
                    f"the features of {len(table)} people of {video.name!r} take {needed / 1e9:.1f} GB, {work} has "
                    f"{free / 1e9:.1f} GB free: give another folder with --work, or fewer frames with --every, --end"
                )
            maps = extract_video(
                video.name, video.frames, table["frame"].to_numpy(), table[BOX].to_numpy(), self.backbone, options,
                self.runtime.batch_size, list(unreadable), affines, causal=causal,
            )  # fmt: skip
            for proposal in store_features(attempt.path, video.name, schema, affines, maps):
                report("features", proposal + 1, len(table))
            write_table(attempt.path, "proposals", table)
            attempt.meta = {"proposals": len(table), "space": self.backbone.space, "backbone": self.backbone.name}

        stage = StageFolder(work / "extract")
        made = _made(stage, self._records["extract"], video.name, boxes.commit.digest, make)
        return VideoFeatures(made.folder, video.name, made.commit.files)

    @cached_property
    def _records(self) -> dict[str, Record]:
        """What boxes and features depend on, beside the videos."""
        extract = {**self.extract.model_dump(mode="json", exclude={"checkpoint"}), "space": self.backbone.space}
        extract |= {"causal": True} if self.model.options.causal else {}
        detected = make_record("detect", VERSION, self._boxes_from, {})
        return {"detect": detected, "extract": make_record("extract", VERSION, extract, {"detect": detected})}

    def _references(self, table: pd.DataFrame, features: VideoFeatures) -> References:
        """The references that the heads see of each proposal, as rows of the table."""
        gallery = make_gallery(table, stored_embeddings(features, slice(None), self.index, self._layer), self.index)
        return references_of(gallery, [features.video], self.index, self.model.options.n)


@dataclass(frozen=True)
class _Made:
    """A finished unit and its folder."""

    commit: Commit
    folder: Path


def _made(stage: StageFolder, record: Record, unit: str, inputs: str, make: Callable[[Attempt], None]) -> _Made:
    """A unit of a stage, made if it is not there, or is of other inputs; the record is in force from then on."""
    stage.begin(record)
    commit = stage.commit_of(record, unit) if stage.is_finished(record, unit) else None
    if commit is None or commit.inputs != inputs:
        with stage.writing(record, unit, inputs, replace=commit) as attempt:
            make(attempt)
        commit = stage.commit_of(record, unit)
    if (in_force := stage.record_in_force()) is not None and in_force != record:
        stage.put_in_force(record, expected=in_force)
    return _Made(commit, Path(str(stage.attempt_path(commit))))


def _weights(what: str, name: str) -> Path:
    try:
        return resolve_checkpoint(name)
    except CheckpointError as error:
        raise CheckpointError(f"{what}: {error}") from None


def _boxes_options(options: PredictOptions) -> DetectOptions:
    """Where boxes come from. DataError, CheckpointError where the file is not there."""
    least = options.min_score
    if options.boxes is not None:
        if not options.boxes.is_file():
            raise DataError(f"box file {options.boxes} does not exist")
        return DetectOptions(eval=BoxOptions(source="file", file=options.boxes), min_score=least)
    file, colon, function = options.detector.rpartition(":")
    if file and colon and function.isidentifier():  # a function of the user's own
        own = DetectorOptions(model=options.detector)
        return DetectOptions(eval=BoxOptions(source="python"), detector=own, min_score=least)
    own = DetectorOptions(checkpoint=str(_weights("detector", options.detector)))
    return DetectOptions(eval=BoxOptions(source="cascade_rcnn"), detector=own, min_score=least)


def _index_of_one_video(index: IndexOptions, heads: str) -> IndexOptions:
    """The heads' own options of references, of one video's people. CheckpointError for controls that need more."""
    if index.select in ("oracle", "other_video"):
        raise CheckpointError(
            f"heads {heads} were trained with index.select {index.select}, a control that a video alone cannot give"
        )
    return index.model_copy(update={"scope": "video"})


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note what a block takes."""
    began = time.monotonic()
    yield
    seconds[name] = time.monotonic() - began
