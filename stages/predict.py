"""predict: own videos to poses and overlays in one go, with the weights that ship or others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from glpose.data.listing import find_videos
from glpose.options import PredictOptions, RuntimeOptions
from glpose.prediction import predict_into
from glpose.predictor import Prediction, Predictor, Report
from stages.console import Tally, counting
from stages.run import UnitsFailed
from store.errors import DiskFull, GLPoseError

# What a video's steps take of its time, about, for the time that is left: measured with the weights that ship.
SHARES = {"boxes": 0.12, "features": 0.84, "heads": 0.03, "overlay": 0.01}


def predict(
    videos: Sequence[Path],
    out: Path,
    options: PredictOptions,
    runtime: RuntimeOptions,
    console: Console,
    *,
    work: Path | None = None,
    force: bool = False,
) -> None:
    """Write `out/VIDEO/` of every video, and say a line of each.

    work: folder that keeps boxes and features, so that another run goes on from them. UnitsFailed at the end where a
    video could not be used; the others are done.
    """
    found = find_videos(videos)
    predictor = Predictor(options, runtime)
    failures: dict[str, str] = {}
    with counting(console) as progress:
        tally = Tally(progress, "predict", len(found))
        for ref in found:
            tally.begin(ref.name)
            try:
                made = predict_into(predictor, predictor.open(ref), out, work, _watched(tally), force=force)
                line = f"{ref.name}: done already" if made is None else summary(made)
                tally.tell(f"  {line}; in {out / ref.name}")
                for note in [] if made is None else notes(made):
                    tally.tell(f"    {note}")
            except DiskFull:
                raise
            except GLPoseError as error:
                failures[ref.name] = str(error)
            tally.end(ref.name, failed=ref.name in failures)
    if failures:
        lines = [f"  {name}: {reason}" for name, reason in failures.items()]
        raise UnitsFailed("\n".join([f"predict: {len(failures)} of {len(found)} videos failed", *lines]))


def summary(made: Prediction) -> str:
    """Such as `a: 205 frames, 6 people in 812 poses, 3.2 frames/s (boxes 20 %, features 70 %, ...)`."""
    total = sum(made.seconds.values())
    shares = ", ".join(f"{name} {100 * own / total:.0f} %" for name, own in made.seconds.items())
    found = f"{made.people} people in {len(made.table)} poses" if made.people else "nobody was found"
    return f"{made.name}: {len(made.frames)} frames, {found}, {len(made.frames) / total:.3g} frames/s ({shares})"


def notes(made: Prediction) -> list[str]:
    """What there is to tell beside the summary."""
    lines = list(made.notes)
    if made.unreadable:
        first = next(iter(made.unreadable.values()))
        lines.append(f"{len(made.unreadable)} frames could not be read and show nobody; the first: {first}")
    return lines


def _watched(tally: Tally) -> Report:
    """Tells how far the running video is, all of its steps together."""

    def report(step: str, done: int, total: int) -> None:
        steps = list(SHARES)
        before = sum(SHARES[own] for own in steps[: steps.index(step)])
        tally.within(f"{step} {done}/{total}", before + SHARES[step] * done / total)

    return report
