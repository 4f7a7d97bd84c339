"""Own videos to poses, files and overlays: what `glpose.predict` and `glpose-stage predict` do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from glpose.data.dataset import Video
from glpose.data.listing import find_videos
from glpose.options import PredictOptions, RuntimeOptions
from glpose.prediction_files import RECORD, pose_table, read_pose_table, write_files
from glpose.predictor import Prediction, Predictor, Report, timed
from store.atomic import parse_json, replacing_folder, write_json
from store.errors import ConfigError, DataError, StoreError
from store.record import fingerprint

OWNED = "predict.json"  # marks a folder that --work names


def predict_options(given: Mapping[str, Any]) -> PredictOptions:
    """Options of which some are given, the others (None) being the defaults. ConfigError for what cannot be."""
    try:
        return PredictOptions.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"predict: {where}: {reason}" if where else f"predict: {reason}") from None


def predict_videos(
    videos: Sequence[str | Path],
    out: Path | None,
    work: Path | None,
    options: PredictOptions,
    runtime: RuntimeOptions,
    *,
    force: bool = False,
) -> pd.DataFrame:
    """The poses of all videos as one table; see `glpose.predict`."""
    found = find_videos(videos)
    predictor = Predictor(options, runtime)
    tables = []
    for ref in found:
        video = predictor.open(ref)
        if out is not None:
            predict_into(predictor, video, out, work, _unheard, force=force)
            tables.append(read_pose_table(out / ref.name))
            continue
        with _working_folder(work, None) as folder:
            tables.append(pose_table(predictor.predict(video, folder, _unheard)))
    return pd.concat(tables, ignore_index=True)


def predict_into(
    predictor: Predictor, video: Video, out: Path, work: Path | None, report: Report, *, force: bool = False
) -> Prediction | None:
    """Predict one opened video and write its folder, `out/VIDEO`, whole or not at all; None where that is done already.

    work: folder that keeps features; None: a temporary one. force: replace what was made otherwise. DataError where
    the folder holds something else.
    """
    options, folder = predictor.options, out / video.name
    drawing = {"video": options.video, "show_boxes": options.show_boxes}
    record = {**predictor.record(video), "drawing": drawing}
    if folder.exists() and _made_from(folder) == fingerprint(record):
        return None
    if folder.exists() and _made_from(folder) is None:
        raise DataError(f"{folder} exists and is none that predict has written: give another folder with --out")
    if folder.exists() and not force:
        raise DataError(f"{folder} was made with other options, or of other frames: replace it with --force")
    with _working_folder(work, out) as features:
        prediction = predictor.predict(video, features, report)
        with timed(prediction.seconds, "files"), replacing_folder(folder) as temporary:
            write_files(temporary, prediction, report, video=options.video, boxes=options.show_boxes)
            write_json(temporary / RECORD, _described(prediction, options, record))
    return prediction


def _described(prediction: Prediction, options: PredictOptions, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a video's folder says of itself."""
    return {
        "frames": len(prediction.frames),
        "people": prediction.people,
        "poses": len(prediction.table),
        "frames_per_second": prediction.rate,
        "joints": list(prediction.joints.joints),
        "unreadable": sorted(prediction.unreadable),
        "notes": prediction.notes,
        "options": options.model_dump(mode="json"),
        "made_from": fingerprint(record),
    }


def _made_from(folder: Path) -> str | None:
    """What a folder's files say that they were made from; None where it is no folder of ours."""
    path = folder / RECORD
    if not path.is_file():
        return None
    content = parse_json(path, path.read_text())
    return str(content.get("made_from", "")) if isinstance(content, dict) else ""


@contextmanager
def _working_folder(work: Path | None, out: Path | None) -> Iterator[Path]:
    """The folder for features: the one given, which is kept, or a temporary one, in `out` where there is one."""
    if work is not None:
        _claim(work)
        yield work
        return
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".features-", dir=out) as folder:
        yield Path(folder)


def _claim(work: Path) -> None:
    """Mark a folder as one of features of predict. StoreError where it holds anything else."""
    if not (work / OWNED).is_file():
        if work.is_dir() and any(work.iterdir()):
            raise StoreError(f"{work} is not empty and holds no features of predict: give another folder with --work")
        write_json(work / OWNED, {"format": 1})


def _unheard(what: str, done: int, total: int) -> None:
    """For those who do not want to know how far it is."""
