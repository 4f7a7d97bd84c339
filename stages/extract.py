"""extract: backbone features of every proposal and of its box in the neighbouring frames."""

from __future__ import annotations

from typing import Any

from glpose.data.dataset import joint_set, open_video
from glpose.extraction import VERSION, Backbone, extract_video, feature_schema, load_backbone, store_features
from glpose.models.checkpoints import resolve_checkpoint
from glpose.runtime import choose_device
from glpose.views import planned_views, view_affines
from stages.config import PipelineConfig
from stages.stage import Context, Stage, video_units
from store.folder import Attempt
from store.record import file_digest, fingerprint
from store.tables import BOX, merge_tables, read_table, write_table


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """All options but `mirror`, those of augmented views only where there are some; the checkpoint by its contents.

    Of joints that are the user's own, what half bodies of such views go by.
    """
    unused = {"checkpoint", "width", "mirror"}
    unused |= {"views", "augmentation", "view_seed"} if config.extract.views == 1 else set()
    options = config.extract.model_dump(mode="json", exclude=unused)
    if config.extract.views > 1 and config.data.kind == "coco":
        options["upper_body"] = joint_set(config.data).upper_body
    return {**options, "checkpoint": file_digest(resolve_checkpoint(config.extract.checkpoint))}


def inputs(context: Context, unit: str) -> str:
    """Digest of the video's proposals and frames, and of whether its mirrored view is asked for.

    Were that in the record, whoever wants the flip test would extract and train everything anew, not only what eval
    looks at.
    """
    ref = context.video(unit)
    mirrored = context.config.extract.mirror and "eval" in ref.ranges
    asked = ["mirrored"] if mirrored else []
    return fingerprint([context.commit("detect", unit).digest, open_video(ref).frames.fingerprint(), *asked])


def prepare(context: Context) -> Backbone:
    """Load the backbone, once."""
    return load_backbone(context.config.extract, choose_device(context.config.runtime))


def make(context: Context, shared: Backbone, unit: str, attempt: Attempt) -> str:
    """Write one video's features, and its proposals table beside them."""
    options = context.config.extract
    video = open_video(context.video(unit))
    table = read_table(context.output("detect", unit), "proposals")
    frames, boxes = table["frame"].to_numpy(), table[BOX].to_numpy()
    unreadable = [frame for frame, _ in context.commit("detect", unit).meta["unreadable"]]
    batch_size = context.config.runtime.batch_size
    views, mirrored = planned_views(set(table["split"]), options)
    joints = joint_set(context.config.data) if views - (mirrored is not None) > 1 else None
    keypoints = [None if row is None else row.reshape(-1, 3) for row in table["keypoints"]]
    affines = view_affines(unit, boxes, keypoints, joints, options, views, mirrored)
    maps = extract_video(unit, video.frames, frames, boxes, shared, options, batch_size, unreadable, affines)
    for _ in store_features(attempt.path, unit, feature_schema(options, shared, views, mirrored), affines, maps):
        pass
    write_table(attempt.path, "proposals", table)
    attempt.meta = {"proposals": len(table), "space": shared.space, "backbone": shared.name}
    if views > 1:
        attempt.meta["views"] = views
    return "; ".join(shared.limit.told())


def finish(context: Context) -> list[str]:
    """Merge the tables; say how much is stored."""
    commits = context.commits("extract")
    merge_tables(context.folder("extract"), commits, "proposals")
    commits = context.current(commits)
    total, size = sum(c.meta["proposals"] for c in commits.values()), sum(c.bytes for c in commits.values())
    stored = sum(c.meta["proposals"] * c.meta.get("views", 1) for c in commits.values())
    maps = f"{stored * (1 + 2 * context.config.extract.k)} maps" + (f" of {stored} views" if stored > total else "")
    return [f"  features of {total} proposals ({maps}) in {len(commits)} videos, {size / 1e6:.1f} MB"]


STAGE = Stage(
    name="extract",
    version=VERSION,
    after=lambda config: ("detect",),
    parameters=parameters,
    units=video_units,
    inputs=inputs,
    prepare=prepare,
    make=make,
    finish=finish,
    distributed=True,
    by_video=True,
)
