"""PoseTrack AP against recorded poseval results: agreement, and CPU time against an evaluator written with loops.

    python benchmarks/metrics.py [--json FILE] [--vectors DIR]

Times are process CPU seconds of the two evaluators in turn, median of seven. The vectors are not redistributable.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import poseval_baseline

from glpose.metrics import posetrack
from glpose.metrics.posetrack_files import parse_video

DEFAULT_VECTORS = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "vectors" / "poseval"
LARGE = "open_6_large17"
REPEATS = 7
TARGETS = {
    "posetrack_ap_difference": 1e-9,
    "posetrack_tie_order_difference": 1e-9,
    "posetrack_speedup_end_to_end": 4.0,
    "posetrack_speedup_without_parsing": 6.0,
}

Entry = dict[str, Any]


def measure(vectors: Path) -> dict[str, Entry]:
    """All entries: name -> {"value", "target", "ok", "note"}."""
    cases = sorted(path.parent for path in vectors.glob("*/expected.json"))
    differences = {case.name: difference(case) for case in cases}
    tied = [case.name for case in cases if expected_of(case)["depends_on_tie_order"]]
    plain = {name: value for name, value in differences.items() if name not in tied}
    speed, speed_note, parsed_speed, parsed_note = speedups(vectors / LARGE)
    return {
        "posetrack_ap_difference": at_most(
            "posetrack_ap_difference", max(plain.values()),
            f"largest difference of AP, precision or recall in percent points, {len(plain)} cases without ties"),
        "posetrack_tie_order_difference": at_most(
            "posetrack_tie_order_difference", max(differences[name] for name in tied),
            f"the same against stable reversed order: {', '.join(tied)}"),
        "posetrack_speedup_end_to_end": at_least("posetrack_speedup_end_to_end", speed, speed_note),
        "posetrack_speedup_without_parsing": at_least("posetrack_speedup_without_parsing", parsed_speed, parsed_note),
    }  # fmt: skip


def difference(case: Path) -> float:
    """Largest difference to poseval's recorded numbers in percent points; infinite where only one is NaN."""
    expected = expected_of(case)
    result = posetrack.evaluate(case / "gt", case / "pred")
    ours = [*result.ap.values(), result.mean, *result.precision.values(), *result.recall.values()]
    recorded = expected["tie_variants"]["ap_stable_reversed"] + expected["precision"][:15] + expected["recall"][:15]
    return max(
        (0.0 if math.isnan(value) else math.inf) if want is None else abs(value - want)
        for value, want in zip(ours, recorded, strict=True)
    )


def speedups(case: Path) -> tuple[float, str, float, str]:
    """CPU time of the loops over ours, end to end and from parsed JSON, each with a note."""
    gt, pred = case / "gt", case / "pred"
    loops, ours = interleaved(lambda: poseval_baseline.evaluate(gt, pred), lambda: posetrack.evaluate(gt, pred))
    recorded = expected_of(case)["seconds"]["cpu"]["total"]
    note = (
        f"{case.name}, median of {REPEATS}: loops {loops:.2f} s, ours {ours:.3f} s; "
        f"poseval recorded {recorded:.2f} s on another machine"
    )
    parsed = poseval_baseline.load(gt, pred)
    gc.collect()
    gc.freeze()  # what is parsed already must not cost either side collections
    parsed_loops, parsed_ours = interleaved(lambda: poseval_baseline.score(*parsed), lambda: score_parsed(*parsed))
    gc.unfreeze()
    parsed_note = f"{case.name} from parsed JSON: loops {parsed_loops:.2f} s, ours {parsed_ours:.3f} s"
    return loops / ours, note, parsed_loops / parsed_ours, parsed_note


def score_parsed(gt_files: list[Any], pred_files: list[Any]) -> posetrack.PoseTrackResult:
    """Our evaluator from parsed JSON on, building of arrays included."""
    name = Path("memory.json")
    pairs = zip(gt_files, pred_files, strict=True)
    return posetrack.evaluate_videos((parse_video(name, gt), parse_video(name, pred)) for gt, pred in pairs)


def interleaved(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median CPU seconds of both, called in turn; one unmeasured call of each before."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(REPEATS + 1):
        for call, record in zip((first, second), seconds, strict=True):
            gc.collect()
            start = time.process_time()
            call()
            if repeat:
                record.append(time.process_time() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def expected_of(case: Path) -> dict[str, Any]:
    """What poseval computed for a case."""
    return json.loads((case / "expected.json").read_text())


def at_most(name: str, value: float, note: str) -> Entry:
    """An entry whose value must not exceed its target."""
    return {"value": value, "target": TARGETS[name], "ok": value <= TARGETS[name], "note": note}


def at_least(name: str, value: float, note: str) -> Entry:
    """An entry whose value must reach its target."""
    return {"value": value, "target": TARGETS[name], "ok": value >= TARGETS[name], "note": note}


def main() -> int:
    """Measure, print, write; 0 when every target is met."""
    parser = argparse.ArgumentParser(description="PoseTrack AP: agreement with poseval, and speed.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the entries there")
    parser.add_argument("--vectors", type=Path, default=DEFAULT_VECTORS, metavar="DIR", help="recorded poseval cases")
    options = parser.parse_args()
    if (options.vectors / LARGE / "expected.json").is_file():
        entries = measure(options.vectors)
    else:
        note = f"unmeasured: no recorded poseval cases in {options.vectors}; name their folder with --vectors"
        print(note, file=sys.stderr)
        entries = {name: {"value": None, "target": t, "ok": False, "note": note} for name, t in TARGETS.items()}
    for name, entry in entries.items():
        value = "-" if entry["value"] is None else f"{entry['value']:.4g}"
        verdict = "ok" if entry["ok"] else "NOT MET"
        print(f"{name:<36}{value:>10}  target {entry['target']:<8g}{verdict:<9}{entry['note']}")
    if options.json:
        options.json.write_text(json.dumps(entries, indent=1) + "\n")
    return 0 if all(entry["ok"] for entry in entries.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
