"""How near in true pose references are, by what they are chosen by: rows of Markdown, of a pipeline's train split.

python tools/nearness.py -p demo

Features must be there (`glpose-stage index`). Distances are those of `glpose.pose_distance`, in sizes of the person;
references who cannot be compared, for they share too few joints, are left out and counted.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import typer

import store
from glpose.embeddings import table_embeddings
from glpose.options import IndexOptions
from glpose.pose_distance import normalised_poses, pose_distance
from glpose.references import references_of
from glpose.retrieval import make_gallery
from stages.config import find_config, load_pipeline
from stages.last_layer import last_layer
from stages.stage import Context
from stages.train import load_split

CHOICES: dict[str, dict[str, Any]] = {
    "drawn at random": {"select": "random"},
    "inner product of pooled features (the paper's)": {},
    "their cosine": {"similarity": "cosine"},
    "pose, as the backbone sees it": {"embedding": "pose"},
    "true pose": {"select": "oracle"},
}
POOLS = (20, "all")


def main(
    pipeline: Annotated[str, typer.Option("-p", "--pipeline")],
    settings: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006
) -> None:
    """Print a row for each choice: median and mean distance, of pools of 20 and of everybody."""
    context = Context(load_pipeline(find_config(None), pipeline, settings))
    table = load_split(context, "train", k=0, n=0).features.table
    opened, layer = store.open(context.config.work), last_layer(context.config)
    poses = normalised_poses(table)
    print("| references by | pool 20: median, mean | all: median, mean | not compared |\n|---|---|---|---|")
    for words, changes in CHOICES.items():
        cells, lost = [], []
        for pool in POOLS:
            index = IndexOptions.model_validate({**context.config.index.model_dump(), "pool": pool, **changes})
            gallery = make_gallery(table, table_embeddings(opened, table, index, layer), index)
            rows = references_of(gallery, gallery.spans, index, index.n).rows
            apart = pose_distance(poses, poses[rows])[rows >= 0]
            comparable = np.isfinite(apart)
            cells.append(f"{np.median(apart[comparable]):.3f}, {apart[comparable].mean():.3f}")
            lost.append(f"{100 * (1 - comparable.mean()):.0f} %")
        print(f"| {words} | {cells[0]} | {cells[1]} | {', '.join(lost)} |")


if __name__ == "__main__":
    typer.run(main)
