"""Generated clips: repeatable, labelled exactly, and written in PoseTrack18's form."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from glpose.data.generated import Clip, ClipOptions, FrameLabels, render_clip, render_frame, write_clip
from glpose.data.generated.backdrop import Occluder
from glpose.keypoints import POSETRACK
from store.errors import DataError

SMALL = ClipOptions(height=96, width=128, frames=4, people=(2, 3), occluders=(1, 2), blur_samples=3)


def sampled_frames(count: int = 12, options: ClipOptions = SMALL) -> list[tuple[np.ndarray, FrameLabels]]:
    return [render_frame(options, 3, clip, clip % options.frames) for clip in range(count)]


def assert_same(one: tuple[np.ndarray, FrameLabels], two: tuple[np.ndarray, FrameLabels]) -> None:
    assert np.array_equal(one[0], two[0])
    for name in ("keypoints", "boxes", "head_boxes", "track_ids"):
        assert np.array_equal(getattr(one[1], name), getattr(two[1], name)), name


def test_same_seed_and_clip_give_the_same_pixels_and_labels() -> None:
    first, second = list(render_clip(SMALL, 7, 5).frames()), list(render_clip(SMALL, 7, 5).frames())
    assert len(first) == len(render_clip(SMALL, 7, 5)) == 4
    for one, two in zip(first, second, strict=True):
        assert_same(one, two)


def test_single_frame_equals_that_frame_of_the_clip() -> None:
    frames = list(render_clip(SMALL, 7, 2).frames())
    for index in (3, 0):
        assert_same(render_frame(SMALL, 7, 2, index), frames[index])


def test_seeds_clips_and_frames_differ() -> None:
    pictures = [render_frame(SMALL, seed, clip, 0)[0] for seed, clip in ((0, 0), (0, 1), (1, 0))]
    pictures.append(render_frame(SMALL, 0, 0, 3)[0])
    for i, one in enumerate(pictures):
        for two in pictures[:i]:
            assert not np.array_equal(one, two)


def test_shapes_and_types() -> None:
    picture, labels = render_frame(SMALL, 1, 1, 1)
    count = len(labels)
    assert picture.shape == (96, 128, 3) and picture.dtype == np.uint8
    assert labels.keypoints.shape == (count, 15, 3) and labels.keypoints.dtype == np.float32
    assert labels.boxes.shape == labels.head_boxes.shape == (count, 4)
    assert labels.boxes.dtype == labels.head_boxes.dtype == np.float32
    assert labels.track_ids.shape == (count,) and len(set(labels.track_ids.tolist())) == count


def test_flags_tell_inside_from_outside_and_boxes_hold_the_joints() -> None:
    seen = set()
    for _, labels in sampled_frames(40):
        for joints, box in zip(labels.keypoints, labels.boxes, strict=True):
            outside = joints[:, 2] == 0
            seen |= set(joints[:, 2].tolist())
            assert (joints[outside] == 0).all()
            inside = joints[~outside, :2]
            assert (inside >= 0).all() and (inside < [128, 96]).all()
            assert (joints[:, 2] == 2).any()
            assert (inside >= box[:2] - 0.1).all() and (inside <= box[2:] + 0.1).all()
            assert 0 <= box[0] < box[2] <= 128 and 0 <= box[1] < box[3] <= 96
    assert seen == {0, 1, 2}


def test_head_box_holds_nose_and_head_top() -> None:
    nose, top = POSETRACK.joints.index("nose"), POSETRACK.joints.index("head_top")
    for _, labels in sampled_frames():
        for joints, head in zip(labels.keypoints, labels.head_boxes, strict=True):
            for joint in (nose, top):
                if joints[joint, 2]:
                    assert (joints[joint, :2] >= head[:2] - 2).all() and (joints[joint, :2] <= head[2:] + 2).all()


def wall(clip: Clip, left: float, right: float) -> Occluder:
    """Something opaque before everyone, from `left` to `right` metres beside the camera at a depth of 0.5 m."""
    outline = np.array([[left, -50.0], [right, -50.0], [right, 50.0], [left, 50.0]])
    return Occluder(((outline, (10.0, 200.0, 10.0)),), (0.0, 0.5), 0.0, 0.0, 0.0)


def test_joints_behind_an_occluder_are_flagged() -> None:
    options = ClipOptions(height=96, width=128, frames=2, people=(3, 3), occluders=(0, 0), blur_samples=1, hardness=0)
    compared = 0
    for number in range(24):
        clip = render_clip(options, 11, number)
        _, free = clip.frame(0)
        clip._occluders = (wall(clip, -100.0, 0.0),)  # the left half of the picture, up to the camera's shake
        _, half = clip.frame(0)
        for joints, track in zip(half.keypoints, half.track_ids, strict=True):
            before = free.keypoints[list(free.track_ids).index(track)]
            assert (joints[:, :2] == before[:, :2]).all()
            hidden, open_ = joints[:, 0] < 50, joints[:, 0] > 78
            assert (joints[hidden & (joints[:, 2] > 0), 2] == 1).all()
            assert (joints[open_, 2] == before[open_, 2]).all()
            compared += int((hidden & (before[:, 2] == 2)).sum())
        clip._occluders = (wall(clip, -100.0, 100.0),)
        assert len(clip.frame(0)[1]) == 0  # nobody can be seen, so nobody is labelled
    assert compared > 5


def test_someone_nearer_covers_someone_farther() -> None:
    options = ClipOptions(height=96, width=128, frames=1, people=(1, 1), occluders=(0, 0))
    crowd = ClipOptions(height=96, width=128, frames=1, people=(8, 8), occluders=(0, 0))
    alone = np.mean([(render_frame(options, 2, i, 0)[1].keypoints[..., 2] == 1).mean() for i in range(10)])
    among = np.mean([(render_frame(crowd, 2, i, 0)[1].keypoints[..., 2] == 1).mean() for i in range(10)])
    assert among > alone


def test_people_move_and_are_painted() -> None:
    options = ClipOptions(height=96, width=128, frames=6, people=(2, 2), occluders=(0, 0), hardness=0)
    frames = list(render_clip(options, 4, 4).frames())
    assert any(not np.array_equal(frames[0][1].keypoints, labels.keypoints) for _, labels in frames[1:])
    assert all(picture.std() > 3 for picture, _ in frames)


@pytest.mark.parametrize(
    "bad",
    [
        {"height": 8},
        {"width": 100_000},
        {"frames": 0},
        {"fps": 0.0},
        {"people": (0, 2)},
        {"people": (3, 2)},
        {"occluders": (-1, 2)},
        {"blur_samples": 0},
        {"hardness": -0.5},
    ],
)
def test_bad_options_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ClipOptions(**bad)  # type: ignore[arg-type]


def test_bad_seed_and_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        render_clip(SMALL, -1, 0)
    with pytest.raises(IndexError):
        render_frame(SMALL, 0, 0, 4)


def test_written_clip_is_posetrack18(tmp_path: Path) -> None:
    path = write_clip(tmp_path, "val", "000321_made_up", SMALL, 7, 2)
    assert path == tmp_path / "annotations" / "val" / "000321_made_up.json"
    data = json.loads(path.read_text())
    names = data["categories"][0]["keypoints"]
    assert names[:5] == ["nose", "head_bottom", "head_top", "left_ear", "right_ear"] and len(names) == 17
    assert [image["file_name"] for image in data["images"]] == [
        f"images/val/000321_made_up/{i:06d}.jpg" for i in range(4)
    ]
    for image in data["images"]:
        assert image["vid_id"] == "000321" and image["nframes"] == 4 and image["is_labeled"] is True
        picture = cv2.imread(str(tmp_path / image["file_name"]))
        assert picture is not None and picture.shape == (96, 128, 3)
    ids = [annotation["id"] for annotation in data["annotations"]]
    assert len(set(ids)) == len(ids) > 0
    labels = [labels for _, labels in render_clip(SMALL, 7, 2).frames()]
    by_image = {image["id"]: index for index, image in enumerate(data["images"])}
    assert sum(len(frame) for frame in labels) == len(ids)
    for annotation in data["annotations"]:
        frame = labels[by_image[annotation["image_id"]]]
        row = frame.track_ids.tolist().index(annotation["track_id"])
        keypoints = np.array(annotation["keypoints"]).reshape(17, 3)
        assert (keypoints[3:5] == 0).all()
        for name, (x, y, flag) in zip(names, keypoints, strict=True):
            if name in POSETRACK.joints:
                expected = frame.keypoints[row, POSETRACK.joints.index(name)]
                assert np.allclose([x, y], expected[:2], atol=1e-3)
                assert flag == (expected[2] == 2)
        x, y, w, h = annotation["bbox"]
        assert np.allclose([x, y, x + w, y + h], frame.boxes[row], atol=2e-3)
        assert annotation["category_id"] == 1 and annotation["scores"] == [] and len(annotation["bbox_head"]) == 4


def test_written_clip_is_not_overwritten_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    options = ClipOptions(height=64, width=64, frames=1, blur_samples=1)
    path = write_clip(tmp_path, "train", "clip", options, 0, 0)
    assert [entry.name for entry in path.parent.iterdir()] == ["clip.json"]
    with pytest.raises(DataError, match="exists already"):
        write_clip(tmp_path, "train", "clip", options, 0, 0)
    with pytest.raises(ValueError, match="plain folder names"):
        write_clip(tmp_path, "train", "../clip", options, 0, 0)
