"""Rendered clips: repeatable, labelled exactly, and written in PoseTrack18's form."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_pipelines import RENDERED, context, glpose_stage, write_pipeline

from glpose.data.dataset import VideoRef, open_video
from glpose.data.rendered import Clip, ClipOptions, FrameLabels, write_clip
from glpose.data.rendered.actions import ANGLE, ANGLES
from glpose.data.rendered.backdrop import Occluder
from glpose.data.rendered.figure import subdivide
from glpose.data.rendered.rig import keypoints, make_body, pose, weights
from glpose.data.rendered.sets import SETS, labels_digest
from glpose.keypoints import POSETRACK
from glpose.options import DEMO_CLIPS
from stages.run import stages_of
from stages.stage import split_videos
from store.errors import DataError

SMALL = ClipOptions(height=96, width=128, frames=4, people=(2, 3), occluders=(1, 2), blur_samples=3)


def sampled_frames(count: int = 12, options: ClipOptions = SMALL) -> list[tuple[np.ndarray, FrameLabels]]:
    return [Clip(options, 3, clip).frame(clip % options.frames) for clip in range(count)]


def assert_same(one: tuple[np.ndarray, FrameLabels], two: tuple[np.ndarray, FrameLabels]) -> None:
    assert np.array_equal(one[0], two[0])
    for name in ("keypoints", "boxes", "head_boxes", "track_ids"):
        assert np.array_equal(getattr(one[1], name), getattr(two[1], name)), name


def test_same_seed_and_clip_give_the_same_pixels_and_labels() -> None:
    first, second = list(Clip(SMALL, 7, 5).frames()), list(Clip(SMALL, 7, 5).frames())
    assert len(first) == len(Clip(SMALL, 7, 5)) == 4
    for one, two in zip(first, second, strict=True):
        assert_same(one, two)


def test_single_frame_equals_that_frame_of_the_clip() -> None:
    frames = list(Clip(SMALL, 7, 2).frames())
    for index in (3, 0):
        assert_same(Clip(SMALL, 7, 2).frame(index), frames[index])


def test_seeds_clips_and_frames_differ() -> None:
    pictures = [Clip(SMALL, seed, clip).frame(0)[0] for seed, clip in ((0, 0), (0, 1), (1, 0))]
    pictures.append(Clip(SMALL, 0, 0).frame(3)[0])
    for i, one in enumerate(pictures):
        for two in pictures[:i]:
            assert not np.array_equal(one, two)


def test_shapes_and_types() -> None:
    picture, labels = Clip(SMALL, 1, 1).frame(1)
    count = len(labels)
    assert picture.shape == (96, 128, 3) and picture.dtype == np.uint8
    assert labels.keypoints.shape == (count, 15, 3) and labels.keypoints.dtype == np.float32
    assert labels.boxes.shape == labels.head_boxes.shape == (count, 4)
    assert labels.boxes.dtype == labels.head_boxes.dtype == np.float32
    assert labels.track_ids.shape == (count,) and len(set(labels.track_ids.tolist())) == count


def test_flags_tell_inside_from_outside_and_boxes_hold_what_is_seen() -> None:
    seen, left_out = set(), 0
    for _, labels in sampled_frames(40):
        for person, (joints, box) in enumerate(zip(labels.keypoints, labels.boxes, strict=True)):
            outside = joints[:, 2] == 0
            seen |= set(joints[:, 2].tolist())
            assert (joints[outside] == 0).all()
            assert ((labels.occlusion[person] == -1) == outside).all()
            assert ((labels.occlusion[person] == 0) == (joints[:, 2] == 2)).all()
            inside, visible = joints[~outside, :2], joints[joints[:, 2] == 2, :2]
            assert (inside >= 0).all() and (inside < [128, 96]).all()
            assert len(visible)
            assert (visible >= box[:2] - 4).all() and (visible <= box[2:] + 4).all()
            left_out += int(((inside < box[:2] - 4) | (inside > box[2:] + 4)).any())
            assert 0 <= box[0] < box[2] <= 128 and 0 <= box[1] < box[3] <= 96
            assert 0 < labels.visible[person] <= 1
    assert seen == {0, 1, 2}
    assert left_out  # boxes are of visible pixels alone: somewhere a hidden joint lies beyond


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
    options = ClipOptions(height=96, width=128, frames=2, people=(6, 6), occluders=(0, 0), blur_samples=1, hardness=0)
    compared = 0
    for number in range(24):
        clip = Clip(options, 11, number)
        _, free = clip.frame(0)
        clip._occluders = (wall(clip, -100.0, 0.0),)  # the left half of the picture, up to the camera's shake
        _, half = clip.frame(0)
        for joints, track in zip(half.keypoints, half.track_ids, strict=True):
            before = free.keypoints[list(free.track_ids).index(track)]
            assert (joints[:, :2] == before[:, :2]).all()
            hidden, open_ = joints[:, 0] < 50, joints[:, 0] > 78
            assert (joints[hidden & (joints[:, 2] > 0), 2] == 1).all()
            assert (joints[open_, 2] == before[open_, 2]).all()
            row = half.track_ids.tolist().index(track)
            assert (half.occlusion[row, hidden & (joints[:, 2] > 0)] == 2).all()
            compared += int((hidden & (before[:, 2] == 2)).sum())
        clip._occluders = (wall(clip, -100.0, 100.0),)
        assert len(clip.frame(0)[1]) == 0  # nobody can be seen, so nobody is labelled
    assert compared > 5


def test_someone_nearer_covers_someone_farther() -> None:
    options = ClipOptions(height=96, width=128, frames=1, people=(1, 1), occluders=(0, 0))
    crowd = ClipOptions(height=96, width=128, frames=1, people=(8, 8), occluders=(0, 0))
    alone = np.mean([(Clip(options, 2, i).frame(0)[1].keypoints[..., 2] == 1).mean() for i in range(10)])
    among = np.mean([(Clip(crowd, 2, i).frame(0)[1].keypoints[..., 2] == 1).mean() for i in range(10)])
    assert among > alone


def test_speed_is_that_of_the_joints_between_frames() -> None:
    options = ClipOptions(height=96, width=128, frames=9, fps=240, people=(2, 3), occluders=(0, 0))
    close, compared = [], 0
    for number in range(6):
        frames = [labels for _, labels in Clip(options, 5, number).frames()]
        for before, labels, after in zip(frames[3:], frames[4:], frames[5:], strict=False):
            for row, track in enumerate(labels.track_ids.tolist()):
                sides = [other.keypoints[list(other.track_ids).index(track)] for other in (before, after)
                         if track in other.track_ids]  # fmt: skip
                if len(sides) < 2:
                    continue
                shown = (sides[0][:, 2] > 0) & (sides[1][:, 2] > 0) & (labels.keypoints[row, :, 2] > 0)
                expected = np.linalg.norm(sides[1][shown, :2] - sides[0][shown, :2], axis=1) / 2
                close += np.isclose(labels.speed[row, shown], expected, rtol=0.1, atol=0.02).tolist()
                compared += int((expected > 0.1).sum())
    assert compared > 100 and np.mean(close) > 0.98  # but where an action stops short


def test_blur_is_told() -> None:
    sharp = ClipOptions(height=96, width=128, frames=2, hardness=0)
    assert all(labels.defocus == 0 for _, labels in sampled_frames(6, sharp))
    assert any(labels.defocus > 0.5 for _, labels in sampled_frames(6, ClipOptions(96, 128, frames=2, hardness=3)))


def test_who_is_shown_is_told() -> None:
    """A person alone: everything that the picture without people differs in lies in the box, and is seen."""
    options = ClipOptions(
        height=192, width=256, frames=1, people=(1, 1), occluders=(0, 0), blur_samples=1, hardness=0, bodies=(18, 19)
    )
    for number in range(8):
        clip = Clip(options, 21, number)
        picture, labels = clip.frame(0)
        clip._light = replace(clip._light, shadow=0.0)
        picture, _ = clip.frame(0)
        clip._people = ()
        empty, nobody = clip.frame(0)
        assert len(nobody) == 0
        y, x = np.nonzero(np.abs(picture.astype(int) - empty).max(axis=2) > 12)
        if not len(labels):
            continue
        left, top, right, bottom = labels.boxes[0]
        inside = (x >= left - 1) & (x <= right) & (y >= top - 1) & (y <= bottom)
        carried = clip_carries(options, number)
        assert inside.mean() > (0.8 if carried else 0.999)
        assert labels.visible[0] == 1.0 and (labels.occlusion[0] != 2).all()


def clip_carries(options: ClipOptions, number: int) -> bool:
    return any(person.figure.carried.any() for person in Clip(options, 21, number)._people)


def test_actions_come_back_unless_told_otherwise() -> None:
    """The least distance of a pose to those half a second and more away, in a clip of two seconds."""

    def least(recurring: bool) -> float:
        options = ClipOptions(frames=50, people=(1, 1), recurring=recurring)
        found = []
        for number in range(12):
            (person,) = Clip(options, 9, number)._people
            angles = person.motion.angles(np.arange(50) / 25)[:, 8:]  # arms and legs
            away = np.abs(angles[:, None] - angles[None]).max(axis=2)
            apart = np.abs(np.arange(50)[:, None] - np.arange(50)[None]) >= 12
            found.append(float(np.median(np.where(apart, away, np.inf).min(axis=1))))
        return float(np.median(found))

    assert least(recurring=True) < 0.5 * least(recurring=False)


def test_sets_share_no_body_and_no_seed() -> None:
    bodies = [body for one in SETS.values() for body in one.bodies]
    assert sorted(bodies) == list(range(24))
    assert len({one.seed for one in SETS.values()}) == len(SETS) == 4


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("pretrain", "ddaad6d6ba98f3e1"),
        ("train", "4d6fda700a8cdf62"),
        ("val", "2a4023ffb5447956"),
        ("test", "2a7a4ec92e308989"),
    ],
)
def test_clips_are_those_that_were_published(name: str, digest: str, tmp_path: Path) -> None:
    """Whoever changes what is drawn changes the benchmark: a new version of it, and figures measured again."""
    clips = SETS[name]
    path = write_clip(tmp_path, name, "000000_clip", ClipOptions(frames=2, bodies=clips.bodies), clips.seed, 0)
    assert labels_digest([path]) == digest
    moved = json.loads(path.read_text())
    moved["annotations"][0]["bbox"][0] += 0.2
    path.write_text(json.dumps(moved))
    assert labels_digest([path]) != digest


def test_people_stand_before_photos(tmp_path: Path) -> None:
    photo = np.full((50, 80, 3), (40, 200, 90), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    options = ClipOptions(height=96, width=128, frames=1, people=(1, 1), occluders=(0, 0), hardness=0, photos=tmp_path)
    clip = Clip(options, 3, 1)
    clip._people = ()
    picture = clip.frame(0)[0].reshape(-1, 3)
    assert np.ptp(picture, axis=0).max() <= 1 and picture[0, 1] > picture[0, 2] > picture[0, 0]
    with pytest.raises(DataError, match="no pictures"):
        Clip(replace(options, photos=tmp_path / "nowhere"), 3, 1)
    (tmp_path / "photo.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="OpenCV can read"):
        Clip(options, 3, 1)


def test_bodies_at_rest_hang_straight_and_bend_at_their_joints() -> None:
    body = make_body({3: 0.4, 20: 0.6})
    rest, bent = np.zeros((1, len(ANGLES))), np.zeros((1, len(ANGLES)))
    bent[0, ANGLE["l_fore_f"]] = np.pi / 2
    straight, elbow = keypoints(body, pose(body, rest))[0], keypoints(body, pose(body, bent))[0]
    at = {name: index for index, name in enumerate(POSETRACK.joints)}
    for side in ("right", "left"):
        for upper, lower in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")):
            bone = straight[at[f"{side}_{lower}"]] - straight[at[f"{side}_{upper}"]]
            assert bone @ [0, -1, 0] > 0.999 * np.linalg.norm(bone)
    assert straight[at["left_hip"], 0] > 0 > straight[at["right_hip"], 0]  # x is towards the person's left
    assert straight[at["head_top"], 1] > straight[at["nose"], 1] > straight[at["head_bottom"], 1]
    assert straight[at["nose"], 2] > straight[at["head_bottom"], 2]  # z is ahead
    moved = np.linalg.norm(elbow - straight, axis=1) > 1e-9
    assert [POSETRACK.joints[joint] for joint in np.flatnonzero(moved)] == ["left_wrist"]
    fore = elbow[at["left_wrist"]] - elbow[at["left_elbow"]]
    assert fore @ [0, 0, 1] > 0.999 * np.linalg.norm(fore)
    with pytest.raises(IndexError, match="bodies are 0"):
        make_body({24: 1.0})


def test_skin_follows_its_bones() -> None:
    """Every vertex stays as far from the joint of its own segment as at rest, where no other segment pulls at it."""
    body = make_body({7: 1.0})
    angles = np.random.default_rng(0).normal(0, 0.6, (4, len(ANGLES)))
    moved = pose(body, angles)
    shares = weights()
    alone = shares.max(axis=1) > 0.999
    segment = shares.argmax(axis=1)[alone]
    before = np.linalg.norm(body.vertices[alone] - body.joints[segment], axis=1)
    after = np.linalg.norm(moved.skin(body.vertices, shares, body)[:, alone] - moved.joints[:, segment], axis=2)
    assert alone.sum() > 300 and np.allclose(after, before, atol=1e-3)


def test_quarters_of_faces_lie_on_their_face() -> None:
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    faces = np.array([[0, 1, 2], [1, 3, 2]])
    edges, fine = subdivide(faces, 4)
    assert len(edges) == 5 and len(fine) == 8  # the shared edge is cut once
    points = np.concatenate([corners, corners[edges].mean(axis=1)])

    def area(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        a, b, c = (at[rows[:, corner]] for corner in range(3))
        return 0.5 * np.cross(b - a, c - a)[:, 2]

    assert np.allclose(area(fine, points), 0.125)  # as large, and turned the same way
    assert np.allclose(area(fine, points).reshape(2, 4).sum(axis=1), area(faces, corners))


def test_people_move_and_are_painted() -> None:
    options = ClipOptions(height=96, width=128, frames=6, people=(2, 2), occluders=(0, 0), hardness=0)
    frames = list(Clip(options, 4, 4).frames())
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
        {"bodies": (24,)},
        {"bodies": ()},
    ],
)
def test_bad_options_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ClipOptions(**bad)  # type: ignore[arg-type]


def test_bad_seed_and_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Clip(SMALL, -1, 0)
    with pytest.raises(IndexError):
        Clip(SMALL, 0, 0).frame(4)


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
    labels = [labels for _, labels in Clip(SMALL, 7, 2).frames()]
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
        assert annotation["action"] == frame.actions[row] and 0 < annotation["visible"] <= 1
        for name, hidden, speed in zip(names, annotation["occlusion"], annotation["speed"], strict=True):
            if name not in POSETRACK.joints or hidden == -1:
                assert hidden == -1 and speed is None
            else:
                joint = POSETRACK.joints.index(name)
                assert hidden == frame.occlusion[row, joint]
                assert speed == pytest.approx(float(frame.speed[row, joint]), abs=1e-3)
        assert annotation["category_id"] == 1 and annotation["scores"] == [] and len(annotation["bbox_head"]) == 4


def test_one_frame_of_some_is_labelled(tmp_path: Path) -> None:
    data = json.loads(write_clip(tmp_path, "val", "clip", SMALL, 7, 2, label_every=3).read_text())
    assert [image["is_labeled"] for image in data["images"]] == [True, False, False, True]
    labelled = {image["id"] for image in data["images"] if image["is_labeled"]}
    assert {annotation["image_id"] for annotation in data["annotations"]} == labelled
    assert all(image["defocus"] >= 0 for image in data["images"])


def test_clips_that_ship_are_read_where_they_lie(tmp_path: Path) -> None:
    config = write_pipeline(tmp_path, {"kind": "rendered", "root": "demo"})
    own = context(config)
    assert [stage.name for stage in stages_of(own)] == ["detect", "extract", "index", "train", "eval"]
    assert {split: len(split_videos(own, split)) for split in ("train", "eval")} == {"train": 8, "eval": 4}
    for ref in own.videos:
        video = open_video(ref)
        assert len(video) == 20 and video.frames.size() == (270, 480)
        notes = video.annotations
        assert notes is not None and notes.tags is not None and notes.labelled.all()
    size = sum(path.stat().st_size for path in DEMO_CLIPS.rglob("*") if path.is_file())
    assert size < 5e6
    code, printed = glpose_stage(config, "render")
    assert code == 2 and "there is nothing to render" in printed


def test_a_folder_of_clips_is_read_in_their_place(tmp_path: Path) -> None:
    for split, clip in (("train", 1), ("eval", 2)):
        write_clip(tmp_path / "clips", split, f"{clip:06d}_clip", SMALL, 7, clip, mp4=split == "eval")
    config = write_pipeline(tmp_path, {"kind": "rendered", "root": str(tmp_path / "clips")})
    code, printed = glpose_stage(config, "detect")
    assert code == 0 and "in 2 videos; boxes: annotations" in printed
    assert not (tmp_path / "work" / "render").exists()


def test_pictures_to_stand_before_count_by_their_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = tmp_path / "photos" / "wall" / "1.png"
    photo.parent.mkdir(parents=True)
    cv2.imwrite(str(photo), np.full((50, 80, 3), 90, np.uint8))
    config = write_pipeline(tmp_path, RENDERED | {"photos": str(tmp_path / "photos")})
    code, printed = glpose_stage(config, "render")
    assert code == 0, printed
    shutil.copytree(tmp_path / "photos", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for same in ("photos", "./photos/../moved"):
        code, printed = glpose_stage(config, "render", "--set", f"data.photos={same}")
        assert (code, "render 3 done, 0 to do" in printed) == (0, True), printed
    cv2.imwrite(str(photo), np.full((50, 80, 3), 200, np.uint8))
    code, printed = glpose_stage(config, "render")
    assert (code, "\n  render.photos: " in printed) == (1, True), printed
    shutil.rmtree(tmp_path / "photos")
    code, printed = glpose_stage(config, "render")
    assert (code, "photos has no pictures (.jpg, .jpeg, .png) to stand before" in printed) == (1, True), printed


def test_a_clip_may_be_one_file(tmp_path: Path) -> None:
    path = write_clip(tmp_path, "val", "clip", SMALL, 7, 2, mp4=True)
    assert not (tmp_path / "images" / "val" / "clip").exists()
    ref = VideoRef("clip", "posetrack18", path, tmp_path, {"eval": (0, None)})
    video = open_video(ref)
    assert video.frames.names == [f"images/val/clip/{frame:06d}.jpg" for frame in range(4)]
    read = dict(video.frames.read([0, 3]))
    for frame, picture in read.items():
        drawn = Clip(SMALL, 7, 2).frame(frame)[0]
        assert np.abs(picture.astype(float) - drawn).mean() < 12 < np.abs(picture.astype(float) - drawn[::-1]).mean()
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "images": data["images"][:3], "annotations": []}))
    with pytest.raises(DataError, match="lists 3 frames"):
        open_video(ref)
    (tmp_path / "images" / "val" / "clip").mkdir()  # images that should be there: not silently replaced
    with pytest.raises(DataError, match=r"000000\.jpg"):
        next(open_video(ref).frames.read([0]))


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "images" / "val" / "clip.mp4").mkdir(parents=True)
    with pytest.raises(DataError, match=r"clip\.mp4 cannot be written as an MP4 .*data\.encoding=jpeg"):
        write_clip(tmp_path, "val", "clip", SMALL, 7, 2, mp4=True)
    assert not (tmp_path / "annotations" / "val" / "clip.json").exists()


def test_written_clip_is_not_overwritten_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    options = ClipOptions(height=64, width=64, frames=1, blur_samples=1)
    path = write_clip(tmp_path, "train", "clip", options, 0, 0)
    assert [entry.name for entry in path.parent.iterdir()] == ["clip.json"]
    with pytest.raises(DataError, match="exists already"):
        write_clip(tmp_path, "train", "clip", options, 0, 0)
    with pytest.raises(ValueError, match="plain folder names"):
        write_clip(tmp_path, "train", "../clip", options, 0, 0)
