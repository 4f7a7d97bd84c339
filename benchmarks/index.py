"""References of every proposal of a PoseTrack18-sized set, against a plain torch top-k.

    python benchmarks/index.py [--json FILE] [--videos N] [--repeats N]

1,138 videos with 150,000 embeddings of 48 channels: people with a vector each that changes a little from frame to
frame, all values positive as those of pooled ReLU maps are. Process CPU seconds of one thread, ours and torch in turn:
call by call and median for a video at a time, video by video and summed for all videos together, where one pass over
all queries takes minutes. Torch's way is the shortest that gives the same: products, a mask, `topk`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")  # before they load
if (here := str(Path(__file__).resolve().parent)) in sys.path:
    sys.path.remove(here)
sys.path.append(here)  # last: store.py beside this file must not be taken for the package `store`

import faiss
import numpy as np
import pandas as pd
import torch
from measuring import Entry, at_most, cpu_seconds, report, without_gpu

from glpose.options import IndexOptions
from glpose.retrieval import Gallery, Neighbours, excluded_range, find_references, make_gallery
from store.index import build_index

VIDEOS, PROPOSALS, CHANNELS = 1138, 150_000, 48
N, POOL, WINDOW = 6, 20, 4
SAME = 1e-5  # relative difference of similarities below which rows may stand in for each other
ONE_BY_ONE = 100  # queries that are searched one after the other, as once was done
BOTH = tuple[float, float]  # seconds of ours and of torch


@dataclass(frozen=True)
class People:
    """The set. table: proposals; embeddings: (P, C) float32; frames, vectors: the same for torch."""

    table: pd.DataFrame
    embeddings: np.ndarray
    frames: torch.Tensor
    vectors: torch.Tensor

    def gallery(self, device: str = "cpu", **options: Any) -> tuple[Gallery, IndexOptions]:
        """A gallery of everyone, as `index` makes it, with its options."""
        chosen = IndexOptions.model_validate({"n": N, "pool": POOL, "exclude_window": WINDOW} | options)
        return make_gallery(self.table, self.embeddings, chosen, device), chosen


def draw_people(videos: int) -> People:
    """The first videos of the set, each with 2 to 8 people in all of its frames."""
    rng = np.random.default_rng(0)
    frames = rng.multinomial(PROPOSALS, rng.dirichlet(np.full(VIDEOS, 20.0)))  # proposals of a video, for now
    parts, vectors = [], []
    for video in range(videos):
        count, people = int(frames[video]), int(rng.integers(2, 9))
        frame, person = np.divmod(np.arange(count), people)
        base = rng.gamma(1.0, 0.3, (people, CHANNELS)) * rng.gamma(20.0, 1 / 20, (people, 1))
        vectors.append(base[person] * rng.lognormal(0, 0.15, (count, CHANNELS)))
        parts.append(pd.DataFrame({"video": f"{video:06d}", "proposal": np.arange(count), "frame": frame}))
    table = pd.concat(parts, ignore_index=True).assign(score=1.0)
    embeddings = np.concatenate(vectors).astype(np.float32)
    return People(table, embeddings, torch.tensor(table["frame"].to_numpy()), torch.from_numpy(embeddings))


# ------------------------------------------------------------------------------------------------------- the two ways
def ours(gallery: Gallery, options: IndexOptions) -> Iterator[Neighbours]:
    """Video by video."""
    for video in gallery.spans:
        yield find_references(gallery, video, options, N)


def hide_window(products: torch.Tensor, frames: torch.Tensor) -> None:
    """-inf for what lies within the window, of the products of one video's proposals."""
    products.masked_fill_((frames[:, None] - frames).abs() <= WINDOW, -torch.inf)


def torch_all(people: People, start: int, stop: int, everywhere: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities (Q, n) and rows of the most similar, of one video or of all."""
    begin, end = (0, len(people.vectors)) if everywhere else (start, stop)
    products = people.vectors[start:stop] @ people.vectors[begin:end].T
    hide_window(products[:, start - begin : stop - begin], people.frames[start:stop])
    similarity, rows = products.topk(min(N, end - begin))
    return similarity, rows + begin


def torch_pool(people: People, start: int, stop: int, everywhere: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The most similar of pools drawn at random: the largest of random numbers, or of all videos any 20.

    Of all videos a few are drawn twice or lie within the window: torch has no cheap way to leave them out.
    """
    own, frames = people.vectors[start:stop], people.frames[start:stop]
    if everywhere:
        pool = torch.randint(len(people.vectors), (stop - start, POOL))
    else:
        keys = torch.rand(stop - start, stop - start)
        hide_window(keys, frames)
        pool = keys.topk(min(POOL, stop - start)).indices + start
    similarity, best = torch.einsum("qc,qpc->qp", own, people.vectors[pool]).topk(N)
    return similarity, pool.gather(1, best)


TorchWay = Callable[[People, int, int, bool], tuple[torch.Tensor, torch.Tensor]]


# ---------------------------------------------------------------------------------------------------------- measuring
def a_video_at_a_time(people: People, way: TorchWay, repeats: int, **options: Any) -> BOTH:
    """CPU seconds of one pass over all videos, galleries and indices included."""
    spans = people.gallery()[0].spans.values()
    first, second = cpu_seconds(
        lambda: [None for _ in ours(*people.gallery(**options))],
        lambda: [way(people, start, stop, False) for start, stop in spans],
        repeats=repeats,
    )
    return first, second


def all_videos_together(
    people: People, way: TorchWay, clock: Callable[[], float] = time.process_time, **options: Any
) -> tuple[float, float, float]:
    """Seconds of ours and of torch for all queries, and the largest disagreement."""
    start = clock()
    gallery, chosen = people.gallery(scope="dataset", **options)
    if chosen.pool == "all":
        _ = gallery.index  # built at its first use
    seconds, worst = [clock() - start, 0.0], 0.0
    for number, (video, (begin, end)) in enumerate(gallery.spans.items()):
        results: list[object] = [None, None]
        calls = (lambda v=video: find_references(gallery, v, chosen, N), lambda b=begin, e=end: way(people, b, e, True))
        for side in (number % 2, 1 - number % 2):
            before = clock()
            results[side] = calls[side]()
            seconds[side] += clock() - before
        if chosen.pool == "all":
            worst = max(worst, disagreement(*results))  # pyright: ignore[reportArgumentType]
    return seconds[0], seconds[1], worst


def disagreement(found: Neighbours, theirs: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Share of references that differ by more than a tie: at their rank the similarities differ."""
    similarity, rows = (part.cpu().numpy() for part in theirs)
    rows = np.where(np.isfinite(similarity), rows, -1)
    with np.errstate(invalid="ignore"):
        tie = np.abs(found.similarity - similarity) <= SAME * np.abs(similarity)
    return float(((found.rows != rows) & ~tie).mean()) if rows.size else 0.0


def one_by_one(people: People) -> BOTH:
    """CPU seconds a query of all videos' index: in a video's batch, and one after the other with a selector each."""
    gallery, chosen = people.gallery(scope="dataset", pool="all")
    index, video = gallery.index, next(iter(gallery.spans))
    frames = gallery.frames[: gallery.spans[video][1]]
    ranges = excluded_range(frames, frames, WINDOW)[:ONE_BY_ONE]

    def search() -> None:
        for query, (start, stop) in zip(gallery.embeddings, ranges, strict=False):
            outside = faiss.IDSelectorNot(faiss.IDSelectorRange(int(start), int(stop)))
            parameters = faiss.SearchParameters(sel=outside)  # pyright: ignore[reportCallIssue]
            index.search(query[None], N, params=parameters)  # pyright: ignore[reportCallIssue]

    batch, single = cpu_seconds(lambda: find_references(gallery, video, chosen, N), search, repeats=3)
    return batch / len(frames), single / len(ranges)


def ratio(seconds: BOTH, target: float, note: str) -> Entry:
    """Ours over torch."""
    return at_most(seconds[0] / seconds[1], target, f"{note}: {seconds[0]:.2f} s, torch {seconds[1]:.2f} s")


def information(value: float, note: str) -> Entry:
    """An entry without a target."""
    return {"value": value, "target": None, "ok": True, "note": note}


def on_gpu(people: People) -> Entry:
    """All queries on the GPU, both ways, on the clock."""
    if not faiss.get_num_gpus() or not torch.cuda.is_available():
        return without_gpu()
    there = People(people.table, people.embeddings, people.frames.cuda(), people.vectors.cuda())

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    first, second, worst = all_videos_together(there, torch_all, clock, pool="all", device="cuda")
    return ratio((first, second), 1.0, f"{torch.cuda.get_device_name()}, {worst:.2g} differ")


def main() -> int:
    """Measure, print, write; 0 when every target is met."""
    parser = argparse.ArgumentParser(description="References of a PoseTrack18-sized set against a plain torch top-k.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the entries there")
    parser.add_argument("--videos", type=int, default=VIDEOS, metavar="N", help="fewer videos, for a quick look")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="of the passes that take seconds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    people = draw_people(options.videos)
    size = f"{options.videos} videos, {len(people.table):,} proposals"
    gallery, chosen = people.gallery(pool="all")
    worst = max(
        disagreement(found, torch_all(people, *span, False))
        for found, span in zip(ours(gallery, chosen), gallery.spans.values(), strict=True)
    )
    (building,) = cpu_seconds(lambda: build_index(people.embeddings), repeats=options.repeats)
    whole = all_videos_together(people, torch_all, pool="all")
    batch, single = one_by_one(people)
    entries = {
        "index_video_all_vs_torch": ratio(
            a_video_at_a_time(people, torch_all, options.repeats, pool="all"), 1.0, f"{size}, each in its video"
        ),
        "index_video_pool_vs_torch": ratio(
            a_video_at_a_time(people, torch_pool, options.repeats), 1.0, f"pools of {POOL} of the video"
        ),
        "index_dataset_all_vs_torch": ratio(whole[:2], 1.0, "each in all videos"),
        "index_dataset_pool_vs_torch": ratio(
            all_videos_together(people, torch_pool)[:2], 2.0, f"pools of {POOL} of all videos, torch's with repetitions"
        ),
        "index_video_disagreement": at_most(worst, 0.0, "share of references that differ, ties apart"),
        "index_dataset_disagreement": at_most(whole[2], 0.0, "the same of all videos"),
        "index_dataset_build": information(building, f"s to build the index of {len(people.table):,} vectors"),
        "index_dataset_all_vs_one_by_one": information(
            batch / single, f"{1e3 * batch:.2f} ms a query, one by one with selectors {1e3 * single:.2f} ms"
        ),
        "index_dataset_all_gpu_vs_torch": on_gpu(people),
    }
    return report(entries, options.json)


if __name__ == "__main__":
    sys.exit(main())
