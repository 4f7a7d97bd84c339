"""What the retrieval inspector's page shows of chosen people, as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glpose.geometry import frame_to_heatmap
from glpose.keypoints import JointSet
from glpose.report import readings
from glpose.report.contributions import ALL, KEY_ALONE, NO_LOCAL, NO_NONLOCAL, SINGLE_FRAME
from glpose.report.crop_pictures import map_sheet
from glpose.report.embedding_map import principal_plane, sample_rows
from glpose.report.inspection import Inspected
from glpose.report.page import LeftOut

BYTES = 5_000_000  # of the data in the page, at most
POINTS = 3000  # proposals in the scatter, about

LABELS = {
    ALL: "GLPose",
    NO_LOCAL: "without local frames",
    NO_NONLOCAL: "without references",
    KEY_ALONE: "key frame alone",
    SINGLE_FRAME: "single-frame heads",
}
ABOUT = {
    ALL: "all that it is evaluated with",
    NO_LOCAL: "same heads; copies of the key frame in their slots",
    NO_NONLOCAL: "same heads; references count as missing",
    KEY_ALONE: "same heads; both of these",
    SINGLE_FRAME: "other heads, trained on the key frame alone",
}


def page_data(
    inspected: Inspected,
    joints: JointSet,
    pictures: Mapping[str, str],
    about: Mapping[str, str],
    most: int = BYTES,
) -> dict[str, Any]:
    """All that the page's script shows, as JSON holds it; of the chosen people as many as fit in `most` bytes.

    pictures: name -> data URI, of `wanted_pictures`; who has none of the key crop is left out. about: what is to be
    known of "local", "references" and "outcomes", from `readings`. LeftOut where nobody is left, or fits.
    """
    people = [
        _person(inspected, place, row, joints) for place, row in enumerate(inspected.chosen) if str(row) in pictures
    ]
    shown = {source: {"label": LABELS[source], "about": ABOUT[source]} for source in inspected.poses}
    points = _points(inspected, people)
    size = len(as_json(points))
    kept, used = [], {}
    for person in people:
        own = {name: pictures[name] for name in _pictures_of(person) if name in pictures and name not in used}
        size += len(as_json(person)) + len(as_json(own))
        if size > most:
            break
        kept.append(person)
        used |= own
    if not kept:
        raise LeftOut("there are no pictures of anybody" if not people else f"nobody fits in {most:,} bytes")
    return {
        "joints": [name.replace("_", " ") for name in joints.joints],
        "limbs": joints.limbs,
        "sources": shown,
        "baseline": _baseline(inspected),
        "about": dict(about),
        "grid": next(iter(inspected.heatmaps.values())).shape[-2:],
        "people": kept,
        "pictures": used,
        "points": points,
    }


def as_json(data: Any) -> str:
    """JSON that may stand in a script element: no tag can begin in it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _person(inspected: Inspected, place: int, row: int, joints: JointSet) -> dict[str, Any]:
    table, glpose = inspected.table, inspected.glpose
    frame, region = int(table["frame"].iloc[row]), inspected.regions[row]
    heatmaps = {source: maps[place] for source, maps in inspected.heatmaps.items()}
    top = max(float(max(maps.max() for maps in heatmaps.values())), 1e-6)
    tiles = np.stack(list(heatmaps.values())) / top  # (sources, J, H, W)
    mask = None if glpose.mask is None else glpose.mask[place]
    if mask is not None:
        low, high = float(mask.min()), float(mask.max())
        line = np.zeros_like(tiles[:1])
        line[0, 0] = (mask - low) / max(high - low, 1e-6)
        tiles = np.concatenate([tiles, line])
    return {
        "row": row,
        "why": inspected.chosen[row],
        "frame": frame,
        "local": [
            {
                "offset": offset,
                "frame": source,
                "picture": str(row) if source == frame else f"{row}@{source}",
                "weight": _weight(weight),
                "note": note,
            }
            for offset, source, weight, note in zip(
                inspected.offsets,
                inspected.local_frames[place].tolist(),
                glpose.local_weight.tolist(),
                inspected.local_notes[place].tolist(),
                strict=True,
            )
        ],
        "references": [
            {
                "row": other,
                "similarity": _rounded(similarity, 4),
                "weight": _weight(weight),
                "used": rank < inspected.used,
            }
            for rank, (other, similarity, weight) in enumerate(
                zip(
                    inspected.references.rows[row].tolist(),
                    inspected.references.similarity[row].tolist(),
                    glpose.nonlocal_weight[place].tolist(),
                    strict=True,
                )
            )
            if other >= 0
        ],
        "sheet": map_sheet(tiles),
        "top": _rounded(top, 4),
        "mask": None if mask is None else [_rounded(value, 3) for value in (mask.min(), mask.max(), mask.mean())],
        "poses": {source: _in_crop(poses[place], region, tiles.shape) for source, poses in inspected.poses.items()},
        "truth": _in_crop(inspected.truth.keypoints[row], region, tiles.shape),
        "errors": {source: _numbers(errors[place], 2) for source, errors in inspected.errors.items()},
        "size": _rounded(inspected.truth.sizes[row], 1),
        "readings": _readings(inspected, place, row, mask, joints),
    }


def _readings(inspected: Inspected, place: int, row: int, mask: np.ndarray | None, joints: JointSet) -> list[str]:
    video, person = inspected.table["video"].to_numpy(), inspected.table["person"].to_numpy()
    there = np.flatnonzero(inspected.references.rows[row][: inspected.used] >= 0)
    same = [
        None if person[row] < 0 or person[other] < 0 else (video[other], person[other]) == (video[row], person[row])
        for other in inspected.references.rows[row, there]
    ]
    errors = {source: values[place] for source, values in inspected.errors.items()}
    found = [readings.of_weights(inspected.glpose.nonlocal_weight[place, there], inspected.used, same)]
    if (baseline := _baseline(inspected)) is not None:
        size = float(inspected.truth.sizes[row])
        pair = {source: errors[source] for source in (ALL, baseline)}
        found.append(readings.of_errors(pair, LABELS, joints.joints, size))
    if np.isfinite(errors[ALL]).any():
        means = {LABELS[s]: float(np.nanmean(errors[s])) for s in (NO_LOCAL, NO_NONLOCAL) if s in errors}
        found.append(readings.of_sources(means, float(np.nanmean(errors[ALL]))))
    if mask is not None:
        found.append(readings.of_mask(mask, _at_joints(inspected, place, row, mask), joints.joints))
    return [sentence for sentence in found if sentence]


def _baseline(inspected: Inspected) -> str | None:
    """The source that gains are over: the single frame's heads, else what GLPose makes of the least; None for none."""
    *_, last = inspected.poses
    return last if last != ALL else None


def _at_joints(inspected: Inspected, place: int, row: int, mask: np.ndarray) -> np.ndarray:
    """(J,) the mask where the joints are: where annotated, else where GLPose sees them; NaN outside of the crop."""
    truth = inspected.truth.keypoints[row]
    points = truth if truth[:, 2].any() else inspected.poses[ALL][place]
    at = frame_to_heatmap(points[None, :, :2], inspected.regions[row][None], mask.shape)[0].round().astype(int)
    inside = (at >= 0).all(axis=1) & (at[:, 0] < mask.shape[1]) & (at[:, 1] < mask.shape[0]) & (points[:, 2] > 0)
    return np.where(inside, mask[at[:, 1].clip(0, mask.shape[0] - 1), at[:, 0].clip(0, mask.shape[1] - 1)], np.nan)


def _points(inspected: Inspected, people: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The scatter: a column for each quantity, a row for each proposal that is shown, references among them."""
    table = inspected.table
    needed = {person["row"] for person in people} | {r["row"] for person in people for r in person["references"]}
    rows = sample_rows(len(table), POINTS, needed)
    places, shares = principal_plane(inspected.embeddings)
    videos, video = np.unique(table["video"].to_numpy(str), return_inverse=True)
    return {
        "of": len(table),
        "shares": _numbers(shares, 4),
        "videos": videos.tolist(),
        "row": rows.tolist(),
        "video": video[rows].tolist(),
        "proposal": table["proposal"].to_numpy()[rows].tolist(),
        "frame": table["frame"].to_numpy()[rows].tolist(),
        "person": table["person"].to_numpy()[rows].tolist(),
        "score": _numbers(table["score"].to_numpy()[rows], 3),
        "x": _numbers(places[rows, 0], 3),
        "y": _numbers(places[rows, 1], 3),
        "action": [inspected.truth.action[row] for row in rows.tolist()],
        "error": _numbers(inspected.mean_error[rows], 4),
        "gain": _numbers(inspected.gain[rows], 4),
    }


def _pictures_of(person: dict[str, Any]) -> list[str]:
    names = [str(person["row"]), *(own["picture"] for own in person["local"])]
    return [*names, *(str(own["row"]) for own in person["references"])]


def _in_crop(points: np.ndarray, region: np.ndarray, shape: tuple[int, ...]) -> list[list[float | None]]:
    """(J, 3) in frame px as shares of the crop's width and height, and the third number."""
    height, width = shape[-2:]
    at = frame_to_heatmap(points[None, :, :2], region[None], (height, width))[0] / [width, height]
    return [
        [_rounded(x, 4), _rounded(y, 4), _rounded(value, 3)] for (x, y), value in zip(at, points[:, 2], strict=True)
    ]


def _numbers(values: np.ndarray, digits: int) -> list[float | None]:
    return [_rounded(value, digits) for value in values.tolist()]


def _weight(value: float) -> float:
    """To four digits, however small."""
    return float(f"{value:.4g}")


def _rounded(value: float, digits: int) -> float | None:
    """None for NaN and infinity, which JSON has not."""
    return round(float(value), digits) if np.isfinite(value) else None
