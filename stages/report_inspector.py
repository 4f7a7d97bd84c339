"""The report's retrieval inspector: people of the eval split, put together from extract, index and train."""

from __future__ import annotations

import numpy as np

from glpose.data.dataset import Video, joint_set, open_video
from glpose.data.truth import Truth, join_truth, truth_of
from glpose.evaluation import decodings, predict_poses
from glpose.models.glpose import GLPoseHeads
from glpose.report import readings
from glpose.report.contributions import Contributions, contributions, sources_of
from glpose.report.crop_pictures import cut_pictures
from glpose.report.inspection import Inspected, wanted_pictures
from glpose.report.inspector import inspector
from glpose.report.inspector_data import page_data
from glpose.report.local_frames import local_frames
from glpose.report.page import LeftOut, Section
from glpose.report.selection import choose_people
from glpose.retrieval import comparable
from stages.evaluate import heads_in_words, predict, prepare, trained_heads
from stages.report_state import finished, why_not
from stages.stage import Context, split_videos
from stages.train import Split, variants, with_embeddings
from store.tables import BOX

PEOPLE = 24  # that are shown, where nobody asks for another number


def inspector_section(context: Context, people: int = PEOPLE) -> Section:
    """At most so many people, as many as fit. LeftOut for 0, and where extract, index or train is not as configured."""
    if not people:
        raise LeftOut("nobody is asked for (--people 0)")
    _require(context)
    config, inspected = context.config, inspect_split(context, people)
    pictures: dict[str, str] = {}
    for name, wanted in wanted_pictures(inspected).items():
        frames = open_video(context.video(name)).frames
        pictures |= cut_pictures(frames, wanted, config.extract.crop_size)
    about = {
        "local": readings.about_local(config.train.heads),
        "references": readings.about_references(config.train.heads, config.index),
        "outcomes": readings.about_outcomes(config.train.heads, config.eval.flip),
    }
    data = page_data(inspected, joint_set(config.data), pictures, about)
    return inspector(data, heads_in_words(config))


def _require(context: Context) -> None:
    """LeftOut unless all that is read is there, made as configured from inputs as they are."""
    videos = split_videos(context, "eval")
    for stage, units in {"extract": videos, "index": videos, "train": list(variants(context.config))}.items():
        if not set(units) <= set(finished(context, stage)):
            raise LeftOut(why_not(context, stage))


def inspect_split(context: Context, people: int) -> Inspected:
    """The eval split with its chosen people, and all that goes into their poses."""
    config, split = context.config, prepare(context)
    features = split.features
    model = trained_heads(config, split, context.output("train", "glpose"))
    videos = {name: open_video(context.video(name)) for name in features.spans}
    truth = join_truth([_truth(context, split, video) for video in videos.values()])

    mean_error = truth.mean_errors(predict(config, split, context.output("train", "glpose"))[-1])
    gain = _baseline_error(context, split, model, truth) - mean_error
    chosen = choose_people(features.table, gain, truth.annotated, people)
    rows = np.array(list(chosen), np.int64)

    local, notes = _local(context, split, videos, model, rows)
    alone = trained_heads(config, split, context.output("train", "single_frame")) if _has_alone(context) else None
    return Inspected(
        table=features.table,
        regions=features.regions,
        embeddings=comparable(with_embeddings(context, features).embedding, config.index.similarity),
        references=split.references,
        truth=truth,
        mean_error=mean_error,
        gain=gain,
        chosen=chosen,
        offsets=model.offsets,
        local_frames=local,
        local_notes=notes,
        used=model.options.n if config.eval.n is None else min(config.eval.n, model.options.n),
        glpose=_contributions(context, split, model, rows),
        single_frame=None if alone is None else _contributions(context, split, alone, rows),
    )


def _local(
    context: Context, split: Split, videos: dict[str, Video], model: GLPoseHeads, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Frames (B, 2k) of the rows' local crops, and notes on them, video by video."""
    config, table = context.config, split.features.table
    frames, names = table["frame"].to_numpy()[rows], table["video"].to_numpy()[rows]
    shape = (len(rows), len(model.offsets))
    local, notes = np.zeros(shape, np.int64), np.full(shape, "", dtype=object)
    for name in np.unique(names.astype(str)).tolist():
        own = names == name
        unreadable = [frame for frame, _ in context.commit("detect", name).meta["unreadable"]]
        local[own], notes[own] = local_frames(
            frames[own], len(videos[name]), model.offsets, model.options, config.extract.edge,
            unreadable=unreadable, k=config.eval.k,
        )  # fmt: skip
    return local, notes


def _contributions(context: Context, split: Split, model: GLPoseHeads, rows: np.ndarray) -> Contributions:
    config = context.config
    return contributions(
        model, split.features, split.references, rows, decodings(config.eval)[-1], config.runtime.batch_size,
        k=config.eval.k, n=config.eval.n, sigma=config.train.sigma, flip_order=joint_set(config.data).flip_order,
    )  # fmt: skip


def _has_alone(context: Context) -> bool:
    return "single_frame" in variants(context.config)


def _baseline_error(context: Context, split: Split, model: GLPoseHeads, truth: Truth) -> np.ndarray:
    """(P,) mean error of the single frame's heads; without them, of GLPose's own on what is left of their inputs."""
    config = context.config
    if _has_alone(context):
        return truth.mean_errors(predict(config, split, context.output("train", "single_frame"))[-1])
    *_, (k, n) = sources_of(model, config.eval.k, config.eval.n).values()
    if (k, n) == (config.eval.k, config.eval.n):
        return np.full(len(split.features), np.nan)
    (poses,) = predict_poses(
        model, split.features, split.references, config.eval.score, config.runtime.batch_size,
        k=k, n=n, ways=decodings(config.eval)[-1:], sigma=config.train.sigma,
        flip_order=joint_set(config.data).flip_order,
    )  # fmt: skip
    return truth.mean_errors(poses)


def _truth(context: Context, split: Split, video: Video) -> Truth:
    table = split.features.table.iloc[slice(*split.features.spans[video.name])]
    frames, boxes = table["frame"].to_numpy(), table[BOX].to_numpy()
    return truth_of(frames, boxes, video.annotations, video.frames.size(), len(joint_set(context.config.data)))
