"""Box files, and proposals made from them or from annotations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glpose.box_sources import annotated_boxes, boxes_of_file
from glpose.data.annotations import Annotations
from glpose.data.boxes import BoxFile, read_box_file
from glpose.data.dataset import Video, open_video
from glpose.data.listing import list_videos
from glpose.keypoints import POSETRACK
from glpose.options import PoseTrack18Data
from glpose.proposals import propose
from store.errors import DataError
from store.tables import BOX, PROPOSALS, read_table, write_table

HEIGHT, WIDTH = 100, 200


@dataclass(frozen=True)
class BlackFrames:
    """Frames without files; `names` as an annotation has them."""

    names: list[str]

    def read(self, wanted: Iterable[int], unreadable: dict[int, str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        return ((frame, np.zeros((HEIGHT, WIDTH, 3), np.uint8)) for frame in sorted(set(wanted)))

    def size(self) -> tuple[int, int]:
        return HEIGHT, WIDTH

    def fingerprint(self) -> str:
        return "black"


def video(boxes: Sequence[Sequence[float]] | None = None, splits: str = "eee", frame: list[int] | None = None) -> Video:
    """A video of as many frames as letters in `splits` (e: eval, t: train, -: none), with annotated boxes."""
    names = [f"images/v/{k:06}.jpg" for k in range(len(splits))]
    split = np.array([{"e": "eval", "t": "train", "-": ""}[letter] for letter in splits], "<U5")
    if boxes is None:
        return Video("v", BlackFrames(names), None, split)
    n = len(boxes)
    keypoints = np.zeros((n, 15, 3))
    keypoints[:, :, :2], keypoints[:, :3, 2] = 7, 2
    annotations = Annotations(
        joints=POSETRACK,
        frame_names=tuple(names),
        image_ids=tuple(str(1000 + k) for k in range(len(splits))),
        labelled=np.ones(len(splits), bool),
        frame=np.array(frame or [0] * n, np.int64),
        person=np.arange(n),
        boxes=np.array(boxes, float).reshape(-1, 4),
        keypoints=keypoints,
    )
    return Video("v", BlackFrames(names), annotations, split)


def entry(image: Any = "images/v/000000.jpg", key: str = "image_name", **changes: Any) -> dict[str, Any]:
    return {key: image, "bbox": [10, 20, 30, 40], "score": 0.9, "category_id": 1} | changes


def box_file(folder: Path, entries: Any) -> BoxFile:
    path = folder / "boxes.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return read_box_file(path)


# -------------------------------------------------------------------------------------------------------- box files
def test_boxes_become_corners(tmp_path: Path) -> None:
    found = box_file(tmp_path, [entry(), entry(bbox=[1.5, 2, 3, 4], score=0.25), entry("other.jpg")])
    boxes, scores = found.of_frame(["images/v/000000.jpg"])
    assert boxes.tolist() == [[10, 20, 40, 60], [1.5, 2, 4.5, 6]]
    assert scores.tolist() == [0.9, 0.25]
    boxes, scores = found.of_frame(["nobody.jpg"])
    assert boxes.shape == (0, 4) and scores.shape == (0,)


@pytest.mark.parametrize(("key", "image"), [("image_name", "a/0.jpg"), ("file_name", "a/0.jpg"), ("image_id", 100341)])
def test_images_go_by_name_or_id(tmp_path: Path, key: str, image: Any) -> None:
    found = box_file(tmp_path, [entry(image, key)])
    assert len(found.of_frame(["nothing", str(image)])[0]) == 1


def test_names_go_before_ids(tmp_path: Path) -> None:
    found = box_file(tmp_path, [entry("a.jpg", "image_name", image_id=7)])
    assert len(found.of_frame(["a.jpg", "7"])[0]) == 1
    assert len(found.of_frame(["7"])[0]) == 0


def test_other_categories_are_dropped(tmp_path: Path) -> None:
    bare = {key: value for key, value in entry().items() if key != "category_id"}
    found = box_file(tmp_path, [entry(category_id=18), entry(score=0.5), bare, entry(category_id=2)])
    assert found.of_frame(["images/v/000000.jpg"])[1].tolist() == [0.5, 0.9]


def test_a_file_without_a_person_says_which_categories_it_has(tmp_path: Path) -> None:
    entries = [entry(category_id=0), entry(category_id=16), entry(category_id=0)]
    with pytest.raises(DataError, match=r"boxes\.json: none of its 3 boxes has category_id 1, .*; found 0, 16$"):
        box_file(tmp_path, entries)


def test_an_empty_list(tmp_path: Path) -> None:
    found = box_file(tmp_path, [])
    assert found.boxes.shape == (0, 4) and found.scores.shape == (0,)


@pytest.mark.parametrize(
    "bad",
    [
        {"bbox": [1, 2, 3]}, {"bbox": [1, 2, 3, 4, 5]}, {"bbox": "1234x"}, {"bbox": None}, {"bbox": [1, 2, None, 4]},
        {"score": None}, {"score": "high"}, {"image_name": None},
    ],
)  # fmt: skip
def test_malformed_entries_are_named(tmp_path: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"box file .*boxes\.json: entry 2 (is malformed|names no image)"):
        box_file(tmp_path, [entry(), entry(), entry() | bad])


@pytest.mark.parametrize("missing", ["bbox", "score", "image_name"])
def test_entries_that_lack_something(tmp_path: Path, missing: str) -> None:
    broken = {key: value for key, value in entry().items() if key != missing}
    with pytest.raises(DataError, match=r"boxes\.json: entry 1 "):
        box_file(tmp_path, [entry(), broken])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2", "is not readable JSON"),
        ("", "is not readable JSON"),
        ('{"annotations": []}', "holds a dict; COCO results are a list of boxes"),
        ("[[1, 2, 3, 4]]", "entry 0 is malformed"),
        ("[null]", "entry 0 is malformed"),
    ],
)
def test_files_that_are_no_box_files(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        box_file(tmp_path, text)
    assert words in str(caught.value) and "boxes.json" in str(caught.value)


def test_a_missing_box_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"box file .*gone\.json does not exist"):
        read_box_file(tmp_path / "gone.json")


# -------------------------------------------------------------------------------------------------------- proposals
def test_boxes_that_are_none_are_left_out_and_counted(tmp_path: Path) -> None:
    nan = float("nan")
    bad = [
        {"bbox": [nan, 1, 5, 5]}, {"bbox": [1, 1, float("inf"), 5]}, {"score": nan},
        {"bbox": [500, 10, 20, 20]}, {"bbox": [-50, 10, 20, 20]}, {"bbox": [10, 10, 0, 20]}, {"bbox": [10, 10, -5, 20]},
        {"bbox": [199.5, 10, 20, 20]}, {"score": 0.19}, {"score": 0.0},
    ]  # fmt: skip
    entries = [entry(score=0.2), *(entry() | change for change in bad), entry(bbox=[-10, 50, 500, 100])]
    proposals = propose(video(), {"train": annotated_boxes, "eval": boxes_of_file(box_file(tmp_path, entries))}, 0.2)
    table, left_out = proposals.table, proposals.left_out
    assert left_out == {"with NaN": 3, "of no area or outside the frame": 5, "below score 0.2": 2}
    assert table[BOX].to_numpy().tolist() == [[10, 20, 40, 60], [0, 50, WIDTH, HEIGHT]]  # clipped to the frame
    assert np.isfinite(table["score"].to_numpy()).all()


def test_boxes_of_a_file_by_name_or_image_id(tmp_path: Path) -> None:
    entries = [entry("images/v/000002.jpg"), entry(1001, "image_id", score=0.5), entry(score=0.25), entry("w/0.jpg")]
    annotated = video([])
    proposals = propose(annotated, {"train": annotated_boxes, "eval": boxes_of_file(box_file(tmp_path, entries))}, 0.0)
    table, left_out = proposals.table, proposals.left_out
    assert table["frame"].tolist() == [0, 1, 2]
    assert table["score"].tolist() == [0.25, 0.5, 0.9]
    assert table["proposal"].tolist() == [0, 1, 2]
    assert set(table["person"]) == {-1} and set(table["source"]) == {"file:boxes.json"} and left_out == {}
    assert table["keypoints"].tolist() == [None] * 3


def test_annotated_boxes_keep_their_people() -> None:
    boxes = [[0, 0, 10, 10], [5, 5, 300, 50], [np.nan] * 4]
    proposals = propose(video(boxes, frame=[0, 2, 2]), {"train": annotated_boxes, "eval": annotated_boxes}, 0.9)
    table, left_out = proposals.table, proposals.left_out
    assert table[BOX].to_numpy().tolist() == [[0, 0, 10, 10], [5, 5, 200, 50]]
    assert table["person"].tolist() == [0, 1] and set(table["score"]) == {1.0}
    assert left_out == {"with NaN": 1}
    assert table["keypoints"].iloc[1].reshape(15, 3)[0].tolist() == [7, 7, 2]


def test_only_frames_of_splits_have_proposals(tmp_path: Path) -> None:
    boxes = [[0, 0, 10 + k, 10] for k in range(4)]
    entries = [entry(f"images/v/{k:06}.jpg") for k in range(4)]
    annotated = video(boxes, splits="t-ee", frame=[0, 1, 2, 3])
    table = propose(
        annotated, {"train": annotated_boxes, "eval": boxes_of_file(box_file(tmp_path, entries))}, 0.2
    ).table
    assert table["frame"].tolist() == [0, 2, 3]
    assert table["split"].tolist() == ["train", "eval", "eval"]
    assert table["source"].tolist() == ["annotation", "file:boxes.json", "file:boxes.json"]


@pytest.mark.parametrize("source", ["annotations", "file", "no split"])
def test_a_video_without_people(tmp_path: Path, source: str) -> None:
    boxes = boxes_of_file(box_file(tmp_path, [entry("elsewhere.jpg")])) if source == "file" else annotated_boxes
    nobody = video([], splits="---" if source == "no split" else "eee")
    proposals = propose(nobody, {"train": annotated_boxes, "eval": boxes}, 0.2)
    table, left_out = proposals.table, proposals.left_out
    assert table.empty and left_out == {}
    write_table(tmp_path, "proposals", table)
    assert list(read_table(tmp_path, "proposals").columns) == PROPOSALS.names


def test_annotations_that_are_not_there() -> None:
    with pytest.raises(DataError, match=r"video 'v' has no annotations: give boxes with detect\.eval\.source=file"):
        propose(video(), {"train": annotated_boxes, "eval": annotated_boxes}, 0.2)


def test_published_detections_fit_the_posetrack18_sample(shared_data: Path) -> None:
    root = shared_data / "real" / "posetrack18_sample"
    boxes = read_box_file(root / "annotations" / "test_posetrack18_human_detections.json")
    videos = [open_video(ref) for ref in list_videos(PoseTrack18Data(root=root, train=None))]
    tables = [propose(one, {"train": annotated_boxes, "eval": boxes_of_file(boxes)}, 0.2).table for one in videos]
    scores = np.concatenate([table["score"].to_numpy() for table in tables])
    assert len(scores) == (boxes.scores >= 0.2).sum() > 20
    assert all(len(table) for table in tables)
