"""What eval writes for the PoseTrack test server, and for videos in which nobody is annotated."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from small_pipelines import finish_project, glpose_stage

from glpose.metrics.posetrack import evaluate


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run."""
    return finish_project(tmp_path_factory.mktemp("done"))


def test_the_archive_holds_one_file_per_video_and_no_folder(done: Path, tmp_path: Path) -> None:
    config, results = done / "pipelines.yaml", done / "work" / "eval" / "latest" / "results"
    assert not (results / "submission").exists()
    code, printed = glpose_stage(config, "eval", "--force", "--set", "eval.submission=true")
    assert code == 0, printed
    with zipfile.ZipFile(results / "submission" / "glpose.zip") as archive:
        assert archive.namelist() == ["c.json"]
        archive.extractall(tmp_path)
    zipped = evaluate(results / "ground_truth", tmp_path)
    written = json.loads((results / "scores.json").read_text())["glpose"]
    assert zipped.as_json() == written
    people = json.loads((tmp_path / "c.json").read_text())["annotations"]
    assert people and all(isinstance(p["track_id"], int) and 0 <= p["track_id"] <= 999 for p in people)


def test_a_test_set_without_annotations_is_predicted_and_not_scored(tmp_path: Path) -> None:
    folder = finish_project(tmp_path)
    truth = folder / "data" / "annotations" / "val" / "c.json"
    content = json.loads(truth.read_text())
    boxes = [
        {"image_id": person["image_id"], "bbox": person["bbox"], "score": 0.9, "category_id": 1}
        for person in content["annotations"]
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    truth.write_text(json.dumps({**content, "annotations": []}))
    settings = ("detect.eval.source=file", f"detect.eval.file={tmp_path / 'boxes.json'}", "eval.submission=true")
    for stage in ("detect", "extract", "index", "train", "eval"):
        arguments = [part for setting in settings for part in ("--set", setting)]
        code, printed = glpose_stage(folder / "pipelines.yaml", stage, "--force", *arguments)
        assert code == 0, printed
    results = folder / "work" / "eval" / "latest" / "results"
    table = (results / "table.txt").read_text()
    assert "nobody is annotated in these videos: predictions are written, nothing is scored" in table
    assert "Ankle" not in table
    predicted = json.loads((results / "predictions" / "glpose" / "c.json").read_text())
    assert len(predicted["annotations"]) == len(boxes) and len(predicted["images"]) == len(content["images"])
