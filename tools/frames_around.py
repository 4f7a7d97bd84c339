"""What the frames around the key frame could give: tables in Markdown, of a pipeline's train split.

python tools/frames_around.py -p demo

Features must be there (`glpose-stage index`), boxes and every frame annotated. The backbone's own last layer reads each
frame; a joint is found within 0.1 of the larger side of the extent of the person's joints. The first table says how
often a joint that is missed in one frame is missed in another; two lines below it, how often hidden joints are found
in the frames where they are visible. The second multiplies what the frames show, as `heads.prior: frames` does before
it is trained: of the frames as they are, of frames warped onto the key frame's pose (`glpose.models.alignment`), and of
frames with every joint moved back by as much as it truly moved, which no aggregation knows. Blur: of a joint's place
for each frame away, px of a grid 36 wide. Its last row takes each hidden joint from the nearest frame in which it is
visible, and knows which that is as well. Shares are in percent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn

from glpose.data.dataset import joint_set
from glpose.examples import Examples, make_examples
from glpose.geometry import frame_to_heatmap
from glpose.heatmaps import decode_argmax
from glpose.models.alignment import Alignment, moved
from glpose.models.prior import GRID, SHARP, Prior
from stages.config import find_config, load_pipeline
from stages.last_layer import last_layer
from stages.stage import Context
from stages.train import load_split

HIDDEN, VISIBLE = 1, 2  # flags of annotated joints
WITHIN = 0.1
BATCH = 32
OFFSETS = (1, 2, 4, 8)  # frames, of the first table
NONE, AS_THEY_ARE, WARPED, TRUE_MOTION = "none", "as they are", "warped", "true motion"
WAYS = [(NONE, 0.0), *((how, blur) for how in (AS_THEY_ARE, WARPED, TRUE_MOTION) for blur in (0.0, 0.25, 0.5))]


def main(
    pipeline: Annotated[str, typer.Option("-p", "--pipeline")],
    settings: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006
) -> None:
    """Print how often frames miss the same joints, and a row for each way to multiply what they see."""
    context = Context(load_pipeline(find_config(None), pipeline, settings))
    config, joints = context.config, joint_set(context.config.data)
    learnt = load_split(context, "train", k=config.train.heads.k, n=0)
    examples = make_examples(learnt.features, learnt.references, joints, config.train)
    layer = last_layer(config)
    prior = Prior(layer.in_channels, len(joints), examples.split.offsets)
    prior.start_from(layer, 1.0, examples.split.schema.width)
    alignment = Alignment(layer.in_channels, len(joints))
    alignment.start_from(layer)
    moves, visible = true_moves(examples)

    def right(how: str, blur: float) -> np.ndarray:
        """(P, J): joints that are found."""
        with torch.inference_mode():
            distance = torch.tensor([0.0, *(abs(offset) for offset in examples.split.offsets)])
            sigma = (SHARP + blur * distance) * examples.split.schema.width / GRID
            prior.log_sigma.copy_(sigma.log()[:, None].expand_as(prior.log_sigma))
            found = np.concatenate([fuse(how, prior, alignment, *own) for own in batches(examples, moves)])
        return within(found, examples)

    flags = np.where(examples.weight[:, 0] > 0, _keypoints(examples)[..., 2], 0)
    kinds = [np.equal(flags, HIDDEN), np.equal(flags, VISIBLE)]
    alone = right(NONE, 0.0)
    print(
        "| frames away | hidden joints missed | there too | by chance | visible joints missed | there too | by chance |"
    )
    print("|---|---|---|---|---|---|---|")
    for offset in OFFSETS:
        shares = [share for kind in kinds for share in missed_again(examples, alone, flags, kind, offset)]
        print(f"| {offset} | {' | '.join(f'{100 * share:.0f}' for share in shares)} |")
    seen, unseen = (kinds[0] & own for own in (visible.any(axis=1), ~visible.any(axis=1)))
    back = np.concatenate([moved_back(layer, local, own) for _, local, own in batches(examples, moves)])
    there = np.stack([within(back[:, slot], examples) for slot in range(back.shape[1])], axis=1)  # (P, 2k, J)
    nearest = np.argmax(visible[:, order := np.argsort(np.abs(examples.split.offsets), kind="stable")], axis=1)
    taken = np.where(seen, np.take_along_axis(there[:, order], nearest[:, None], axis=1)[:, 0], alone)
    print(f"\n{100 * seen.sum() / kinds[0].sum():.0f} % of the hidden joints are visible in a frame around")
    print(f"and found in {100 * there[visible & kinds[0][:, None]].mean():.0f} % of the frames in which they are\n")
    print("| frames around | blur | hidden | visible in a frame around | hidden there too | visible |")
    print("|---|---|---|---|---|---|")
    for how, blur in WAYS:
        found = right(how, blur)
        shares = [f"{100 * found[own].mean():.1f}" for own in (kinds[0], seen, unseen, kinds[1])]
        print(f"| {how} | {blur} | {' | '.join(shares)} |", flush=True)
    shares = [f"{100 * taken[own].mean():.1f}" for own in (kinds[0], seen, unseen)]
    print(f"| nearest in which the joint is visible, true motion | | {' | '.join(shares)} | |")


def missed_again(
    examples: Examples, found: np.ndarray, flags: np.ndarray, kind: np.ndarray, offset: int
) -> tuple[float, float, float]:
    """Shares of a kind's joints that are missed, and of those, that are missed in the frame `offset` away, too.

    found, flags, kind: (P, J). Of people and joints that are annotated in both frames, before and after alike. The
    third is what the second would be by chance: if joints of one name, hidden or visible there, were missed alike.
    """
    rates = np.stack([np.mean(~found, axis=0, where=np.equal(flags, own)) for own in (HIDDEN, VISIBLE)])  # (2, J)
    missed = both = again = chance = 0
    for away in (-offset, offset):
        others = rows_away(examples, away)
        there = kind & (flags[others] > 0) & (others >= 0)[:, None]
        both += there.sum()
        there &= ~found
        missed += there.sum()
        again += (there & ~found[others]).sum()
        chance += np.where(flags[others] == HIDDEN, *rates)[there].sum()
    return missed / both, again / missed, chance / missed


def rows_away(examples: Examples, offset: int) -> np.ndarray:
    """(P,) rows of the same people so many frames later, -1 where there are none."""
    table = examples.split.table
    people = list(zip(table["video"], table["person"], table["frame"], strict=True))
    row_of = {own: row for row, own in enumerate(people)}
    return np.array([row_of.get((video, person, frame + offset), -1) for video, person, frame in people])


def batches(examples: Examples, moves: np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Key maps (B, C, H, W), local maps (B, 2k, C, H, W) and true moves (B, 2k, J, 2) of all proposals, in order."""
    features = examples.split.window(list(examples.split.spans)).features
    for rows in torch.arange(len(examples.split)).split(BATCH):
        key, local, _ = features.inputs(rows, rows[:, None][:, :0])
        yield key, local, torch.from_numpy(moves[rows.numpy()])


def fuse(how: str, prior: Prior, alignment: Alignment, key: Tensor, local: Tensor, moves: Tensor) -> np.ndarray:
    """(B, J, 2) heatmap px: the peaks of the frames' maps, multiplied."""
    if how == TRUE_MOTION:  # every joint moves all maps by a way of its own
        ways = moves[..., None, None].expand(*moves.shape, *key.shape[2:]).unbind(dim=2)
        maps = torch.stack([prior(key, moved(local, way))[:, joint] for joint, way in enumerate(ways)], dim=1)
    elif how == WARPED:
        maps = prior(key, alignment(key, local))
    else:
        maps = prior(key, local if how == AS_THEY_ARE else key[:, None].expand_as(local))
    return decode_argmax(maps.numpy())[0]


def moved_back(layer: nn.Conv2d, local: Tensor, moves: Tensor) -> np.ndarray:
    """(B, 2k, J, 2) heatmap px: each local map's own peaks, less as much as the joints truly moved."""
    with torch.inference_mode():
        maps = layer(local.flatten(0, 1)).numpy()
    return decode_argmax(maps)[0].reshape(moves.shape) - moves.numpy()


def true_moves(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2k, J, 2) heatmap px that joints move from the key frame to each other, and (P, 2k, J) if visible there.

    0 where a joint is not annotated in both.
    """
    split, keypoints = examples.split, _keypoints(examples)
    size = (split.schema.height, split.schema.width)
    here = frame_to_heatmap(keypoints[..., :2], split.regions, size)
    moves, visible = [], []
    for offset in split.offsets:
        others = rows_away(examples, offset)
        there = frame_to_heatmap(keypoints[others, :, :2], split.regions, size)  # in the key frame's crop
        both = (keypoints[..., 2] > 0) & (keypoints[others, :, 2] > 0) & (others >= 0)[:, None]
        moves.append(np.where(both[..., None], there - here, 0))
        visible.append(both & (keypoints[others, :, 2] == VISIBLE))
    return np.stack(moves, axis=1).astype(np.float32), np.stack(visible, axis=1)


def within(points: np.ndarray, examples: Examples) -> np.ndarray:
    """(P, J): whether points (P, J, 2) are near enough to the annotated ones."""
    truth, counts = examples.points[:, 0], examples.weight[:, 0, :, None] > 0
    extent = np.where(counts, truth, -np.inf).max(axis=1) - np.where(counts, truth, np.inf).min(axis=1)
    return np.linalg.norm(points - truth, axis=-1) <= WITHIN * extent.max(axis=-1, keepdims=True)


def _keypoints(examples: Examples) -> np.ndarray:
    """(P, J, 3) of the frames, zeros where nobody is annotated."""
    nobody = np.zeros((len(examples.joints), 3))
    return np.stack([nobody if own is None else np.reshape(own, (-1, 3)) for own in examples.split.table["keypoints"]])


if __name__ == "__main__":
    typer.run(main)
