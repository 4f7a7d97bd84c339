"""PoseTrack AP against recorded poseval results and an evaluator written with loops; and how its time grows.

    python benchmarks/metrics.py [--json FILE] [--vectors DIR]

Times are process CPU seconds of what is compared in turn, median of several. The vectors are not redistributable.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

if (here := str(Path(__file__).resolve().parent)) in sys.path:
    sys.path.remove(here)
sys.path.append(here)  # last: store.py beside this file must not be taken for the package `store`

import posetrack_growth
import poseval_baseline
from measuring import Entry, at_least, at_most, cpu_seconds, inputs_in_memory, unmeasured

from glpose.metrics import posetrack

DEFAULT_VECTORS = Path(here).parent.parent / "shared" / "data" / "vectors" / "poseval"
LARGE = "open_6_large17"
SAME = 1e-9  # percent points
TARGETS = {
    "posetrack_ap_difference": SAME,
    "posetrack_tie_order_difference": SAME,
    "posetrack_speedup_end_to_end": 4.0,
    "posetrack_speedup_without_parsing": 6.0,
}


@dataclass(frozen=True)
class Case:
    """A recorded case: mean AP in percent, differences in percent points, CPU seconds end to end."""

    name: str
    ours: float
    recorded: float
    interval: tuple[float, float] | None  # worst and best mean over all orders of equal scores; None without such
    difference: float  # largest of AP, mean, precision and recall; infinite where only one side is NaN
    outside: float  # how far an AP lies outside its worst-best interval, at most
    seconds: float
    loop_seconds: float
    poseval_seconds: float  # recorded on another machine

    @property
    def ratio(self) -> float:
        """CPU time of the loops over ours."""
        return self.loop_seconds / self.seconds

    @property
    def agrees(self) -> bool:
        """Equal to poseval, or to its stable reversed order and inside its interval."""
        return max(self.difference, self.outside) <= SAME


def measure_case(folder: Path) -> Case:
    """Agreement and CPU time of one recorded case."""
    expected = json.loads((folder / "expected.json").read_text())
    gt, pred = folder / "gt", folder / "pred"
    result = posetrack.evaluate(gt, pred)
    ap = [*result.ap.values(), result.mean]
    variants = expected["tie_variants"]
    stable, worst, best = (variants[f"ap_{kind}"] for kind in ("stable_reversed", "worst_tie_order", "best_tie_order"))
    others = zip(
        [*result.precision.values(), *result.recall.values()],
        expected["precision"][:15] + expected["recall"][:15],
        strict=True,
    )
    outside = [
        max(low - value, value - high, 0.0)
        for value, low, high in zip(ap, worst, best, strict=True)
        if low is not None and high is not None
    ]
    loops, ours = cpu_seconds(lambda: poseval_baseline.evaluate(gt, pred), lambda: posetrack.evaluate(gt, pred))
    return Case(
        name=folder.name,
        ours=result.mean,
        recorded=stable[-1],
        interval=(worst[-1], best[-1]) if expected["depends_on_tie_order"] else None,
        difference=max(apart(value, want) for value, want in [*zip(ap, stable, strict=True), *others]),
        outside=max(outside),
        seconds=ours,
        loop_seconds=loops,
        poseval_seconds=expected["seconds"]["cpu"]["total"],
    )


def apart(value: float, recorded: float | None) -> float:
    """Distance to a recorded number, None being NaN."""
    if recorded is None:
        return 0.0 if math.isnan(value) else math.inf
    return math.inf if math.isnan(value) else abs(value - recorded)


def table(cases: list[Case]) -> str:
    """All cases as plain text."""
    rows = [("case", "ours", "poseval", "worst-best order", "difference", "ours s", "loops s", "ratio", "poseval s")]
    for case in cases:
        interval = "-" if case.interval is None else "{:.4f}-{:.4f}".format(*case.interval)
        rows.append((case.name, f"{case.ours:.4f}", f"{case.recorded:.4f}", interval, f"{case.difference:.1e}",
                     f"{case.seconds:.4f}", f"{case.loop_seconds:.4f}", f"{case.ratio:.1f}x",
                     f"{case.poseval_seconds:.4f}"))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    notes = """(ours, poseval: mean AP. difference: largest of AP, mean, precision, recall in percent points, equal
scores in stable reversed order. s: CPU seconds end to end; poseval's recorded on another machine.)"""
    return "\n".join([*lines, notes])


def case_entry(case: Case) -> Entry:
    """The largest difference of one case, with all that the table says."""
    tied = "" if case.interval is None else " in stable reversed order, {:.6f}-{:.6f} in any".format(*case.interval)
    note = (
        f"mean AP {case.ours:.6f}, poseval {case.recorded:.6f}{tied}; end to end {case.ratio:.1f}x: "
        f"loops {case.loop_seconds:.4f} s, ours {case.seconds:.4f} s; poseval {case.poseval_seconds:.4f} s elsewhere"
    )
    return {"value": case.difference, "target": SAME, "ok": case.agrees, "note": note}


def recorded_entries(vectors: Path) -> dict[str, Entry]:
    """Agreement and speed on the recorded cases; prints their table."""
    cases = [measure_case(path.parent) for path in sorted(vectors.glob("*/expected.json"))]
    print(table(cases) + "\n")
    plain = [case for case in cases if case.interval is None]
    tied = [case for case in cases if case.interval is not None]
    large = next(case for case in cases if case.name == LARGE)
    gt, pred = poseval_baseline.load(vectors / LARGE / "gt", vectors / LARGE / "pred")
    pairs = list(zip(gt, pred, strict=True))
    with inputs_in_memory():
        loops, ours = cpu_seconds(
            lambda: poseval_baseline.score(gt, pred), lambda: posetrack_growth.score_parsed(pairs)
        )
    measured = {
        "posetrack_ap_difference": at_most(
            max(case.difference for case in plain), TARGETS["posetrack_ap_difference"],
            f"largest difference of AP, precision or recall in percent points, {len(plain)} cases without ties"),
        "posetrack_tie_order_difference": at_most(
            max(max(case.difference, case.outside) for case in tied), TARGETS["posetrack_tie_order_difference"],
            f"the same against stable reversed order: {', '.join(case.name for case in tied)}"),
        "posetrack_speedup_end_to_end": at_least(
            large.ratio, TARGETS["posetrack_speedup_end_to_end"],
            f"{LARGE}: loops {large.loop_seconds:.2f} s, ours {large.seconds:.3f} s; "
            f"poseval recorded {large.poseval_seconds:.2f} s on another machine"),
        "posetrack_speedup_without_parsing": at_least(
            loops / ours, TARGETS["posetrack_speedup_without_parsing"],
            f"{LARGE} from parsed JSON: loops {loops:.2f} s, ours {ours:.3f} s"),
    }  # fmt: skip
    return measured | {f"posetrack_case_{case.name}": case_entry(case) for case in cases}


def main() -> int:
    """Measure, print, write; 0 when every target is met."""
    parser = argparse.ArgumentParser(description="PoseTrack AP: agreement with poseval, speed and its growth.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the entries there")
    parser.add_argument("--vectors", type=Path, default=DEFAULT_VECTORS, metavar="DIR", help="recorded poseval cases")
    options = parser.parse_args()
    if (options.vectors / LARGE / "expected.json").is_file():
        entries = recorded_entries(options.vectors)
    else:
        note = f"no recorded poseval cases in {options.vectors}; name their folder with --vectors"
        print(note, file=sys.stderr)
        entries = {name: unmeasured(target, note) for name, target in TARGETS.items()}
    entries |= posetrack_growth.measure()
    for name, entry in entries.items():
        value = "-" if entry["value"] is None else f"{entry['value']:.4g}"
        verdict = "ok" if entry["ok"] else "NOT MET"
        print(f"{name:<42}{value:>10}  target {entry['target']:<8g}{verdict:<9}{entry['note']}")
    if options.json:
        options.json.write_text(json.dumps(entries, indent=1) + "\n")
    return 0 if all(entry["ok"] for entry in entries.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
