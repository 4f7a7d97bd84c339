"""Extraction of one video: the same numbers as crop by crop, nothing decoded or computed twice, bounded memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy_reference as reference
import pytest
import torch
import zarr
from torch import Tensor

from glpose.ahead import ahead
from glpose.crops import normalise, warp_crops
from glpose.extraction import Backbone, extract_video, feature_schema, load_backbone, local_offsets, source_frames
from glpose.geometry import crop_affine, crop_frame, warp_crop
from glpose.keypoints import POSETRACK
from glpose.models.checkpoints import load_heads, load_hrnet, read_metadata, save_checkpoint
from glpose.models.glpose import GLPoseHeads
from glpose.models.hrnet import HRNet, fold_batch_norm
from glpose.options import ExtractOptions, HeadOptions, RuntimeOptions
from glpose.runtime import choose_device, given_cores, workers_taken
from glpose.views import view_affines
from store.errors import CheckpointError, DataError
from store.features import GROUP, FeatureWriter

CROP = (64, 48)
LENGTH = 9
FRAMES = np.array([0, 0, 1, 3, 3, 3, 4, 7, 8])  # key frames of nine proposals


@dataclass
class Clip:
    """A clip of noise in memory, which counts what is decoded."""

    length: int = LENGTH
    decoded: Counter[int] = field(default_factory=Counter)

    @property
    def names(self) -> list[str]:
        return [f"{frame}.jpg" for frame in range(self.length)]

    def image(self, frame: int) -> np.ndarray:
        coarse = np.random.default_rng(frame).integers(0, 256, (15, 20, 3), dtype=np.uint8)
        return np.kron(coarse, np.ones((8, 8, 1), np.uint8))

    def read(self, wanted: Iterable[int], unreadable: dict[int, str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        for frame in sorted(set(wanted)):
            self.decoded[frame] += 1
            yield frame, self.image(frame)

    def size(self) -> tuple[int, int]:
        return 120, 160

    def fingerprint(self) -> str:
        return "clip"


def boxes(count: int) -> np.ndarray:
    """(count, 4) boxes, some reaching out of the frame's crop."""
    corner = np.random.default_rng(7).uniform(0, 90, (count, 2))
    return np.concatenate([corner, corner + np.random.default_rng(8).uniform(10, 60, (count, 2))], axis=1)


def options(**changes: object) -> ExtractOptions:
    return ExtractOptions.model_validate({"checkpoint": "unused", "crop_size": CROP, "k": 2} | changes)


def new_hrnet(seed: int = 0) -> HRNet:
    """A small network with features of about one, that differ from crop to crop."""
    torch.manual_seed(seed)
    net = HRNet(8, num_joints=0, stages=3).eval()
    for tensor in net.state_dict().values():
        if tensor.ndim == 4:
            tensor.normal_(0, 1.3 * tensor[0].numel() ** -0.5)
    return net


@pytest.fixture(scope="module")
def net() -> HRNet:
    return new_hrnet()


@pytest.fixture
def backbone(net: HRNet) -> Backbone:
    return Backbone(fold_batch_norm(net), "hrnet_w8", "space", torch.device("cpu"))


def spied(backbone: Backbone, batches: list[int]) -> Backbone:
    """The backbone with a quick stand-in for its features (2 channels), which notes the size of every batch."""

    def features(images: Tensor) -> Tensor:
        batches.append(len(images))
        return images[:, :2, ::4, ::4].abs()

    backbone.net.features = features  # pyright: ignore[reportAttributeAccessIssue]
    return backbone


def crop_by_crop(net: HRNet, frames: np.ndarray, k: int, edge: str) -> tuple[np.ndarray, np.ndarray]:
    """Key (P, C, H, W) and local maps (P, 2k, C, H, W): every crop on its own, batch norms not folded."""
    clip, out = Clip(), []
    for frame, box in zip(frames.tolist(), boxes(len(frames)), strict=True):
        maps = []
        for offset in [0, *range(-k, 0), *range(1, k + 1)]:
            source = frame + offset
            if not 0 <= source < LENGTH:
                source = frame if edge == "repeat_key" else max(0, min(LENGTH - 1, source))
            affine = crop_affine(crop_frame(box, CROP, 1.25), CROP)
            crop = normalise(torch.from_numpy(warp_crop(clip.image(source), affine, CROP)[None]))
            with torch.inference_mode():
                maps.append(net.features(crop)[0].numpy())
        out.append(maps)
    stacked = np.array(out)
    return stacked[:, 0], stacked[:, 1:]


# ----------------------------------------------------------------------------------------------------- source frames
@pytest.mark.parametrize(
    ("edge", "frame", "wanted"),
    [
        ("repeat_key", 5, [5, 3, 4, 6, 7]),
        ("repeat_key", 0, [0, 0, 0, 1, 2]),
        ("repeat_key", 1, [1, 1, 0, 2, 3]),
        ("repeat_key", 8, [8, 6, 7, 8, 8]),
        ("repeat_key", 7, [7, 5, 6, 8, 7]),
        ("clamp", 5, [5, 3, 4, 6, 7]),
        ("clamp", 0, [0, 0, 0, 1, 2]),
        ("clamp", 1, [1, 0, 0, 2, 3]),
        ("clamp", 7, [7, 5, 6, 8, 8]),
    ],
)
def test_source_frames_at_the_edges(edge: str, frame: int, wanted: list[int]) -> None:
    assert source_frames(np.array([frame]), LENGTH, 2, edge).tolist() == [wanted]


@pytest.mark.parametrize(("edge", "wanted"), [("repeat_key", [1, 1, 1, 2, 1]), ("clamp", [1, 1, 1, 2, 1])])
def test_the_key_frame_stands_for_unreadable_ones(edge: str, wanted: list[int]) -> None:
    assert source_frames(np.array([1]), LENGTH, 2, edge, unreadable=[0, 3]).tolist() == [wanted]


def test_source_frames_of_a_clip_of_one_frame() -> None:
    for edge in ("repeat_key", "clamp"):
        assert source_frames(np.array([0, 0]), 1, 4, edge).tolist() == [[0] * 9] * 2
    assert source_frames(np.array([3]), 9, 0, "clamp").tolist() == [[3]]
    assert local_offsets(3) == (-3, -2, -1, 1, 2, 3)


# --------------------------------------------------------------------------------------------------------- extraction
@pytest.mark.parametrize("edge", ["repeat_key", "clamp"])
def test_same_as_crop_by_crop(net: HRNet, backbone: Backbone, edge: str) -> None:
    key, local = crop_by_crop(net, FRAMES, 2, edge)
    assert key.std() > 0.1 and np.abs(key[0] - key[1]).max() > 0.1  # otherwise agreement would mean nothing
    clip = Clip()
    found = list(extract_video("a", clip, FRAMES, boxes(len(FRAMES)), backbone, options(edge=edge), batch_size=5))
    assert [k.shape for k, _ in found] == [(1, 8, 16, 12)] * len(FRAMES)
    assert [m.shape for _, m in found] == [(1, 4, 8, 16, 12)] * len(FRAMES)
    scale = np.abs(key).max()
    np.testing.assert_allclose(np.concatenate([k for k, _ in found]), key, atol=2e-5 * scale)
    np.testing.assert_allclose(np.concatenate([m for _, m in found]), local, atol=2e-5 * scale)


@pytest.mark.parametrize("batch_size", [1, 3, 200])
def test_batch_size_changes_nothing(backbone: Backbone, batch_size: int) -> None:
    runs = [
        np.concatenate([np.append(k[:, None], m, axis=1) for k, m in maps])
        for maps in (
            extract_video("a", Clip(), FRAMES, boxes(len(FRAMES)), backbone, options(k=1), size)
            for size in (7, batch_size)
        )
    ]
    np.testing.assert_allclose(runs[0], runs[1], atol=1e-5 * runs[0].max())


@pytest.mark.parametrize("edge", ["repeat_key", "clamp"])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_nothing_is_decoded_or_computed_twice(backbone: Backbone, edge: str, batch_size: int) -> None:
    frames = np.array([0, 0, 1, 7, 8])
    batches: list[int] = []
    clip = Clip()
    quick = spied(backbone, batches)
    list(extract_video("a", clip, frames, boxes(5), quick, options(edge=edge), batch_size))
    assert clip.decoded == dict.fromkeys([0, 1, 2, 3, 5, 6, 7, 8], 1)  # frame 4 is nobody's neighbour
    # distinct frames of each proposal: 0 and 0 see 0 1 2; 1 sees 0 1 2 3; 7 sees 5 6 7 8; 8 sees 6 7 8
    assert sum(batches) == 3 + 3 + 4 + 4 + 3
    assert all(size == batch_size for size in batches[:-1])


def test_without_local_frames(backbone: Backbone) -> None:
    clip, batches = Clip(), []
    quick = spied(backbone, batches)
    found = list(extract_video("a", clip, FRAMES, boxes(len(FRAMES)), quick, options(k=0), 4))
    assert found[0][1].shape == (1, 0, 2, 16, 12)
    assert sum(batches) == len(FRAMES) and set(clip.decoded) == set(FRAMES.tolist())


def test_video_without_proposals(backbone: Backbone) -> None:
    clip = Clip()
    assert list(extract_video("a", clip, FRAMES[:0], np.zeros((0, 4)), backbone, options(), 4)) == []
    assert not clip.decoded


def test_memory_holds_a_window_of_proposals(backbone: Backbone) -> None:
    """Proposals come out as soon as their last frame was seen: a long video is not held."""
    frames = np.repeat(np.arange(60), 2)
    clip, batches = Clip(length=60), []
    maps = extract_video("a", clip, frames, boxes(len(frames)), spied(backbone, batches), options(k=2), batch_size=1)
    assert not clip.decoded  # nothing is done before the first is asked for
    for proposal, _ in enumerate(maps):
        assert max(clip.decoded) == min(frames[proposal] + 2, 59)
        computed_ahead = sum(batches) - 5 * proposal
        assert computed_ahead <= 2 * 5 * 5  # two people in 2k + 1 frames, 2k + 1 maps each
    assert proposal == len(frames) - 1


def test_maps_of_a_proposal_are_its_own_and_in_order(backbone: Backbone) -> None:
    """Every frame has its own grey: the maps tell which frame each slot was cropped from."""

    class Greys(Clip):
        def image(self, frame: int) -> np.ndarray:
            return np.full((120, 160, 3), 20 * (frame + 1), np.uint8)

    box = np.repeat([[60.0, 40.0, 90.0, 80.0]], len(FRAMES), axis=0)
    quick = spied(backbone, [])
    grey = lambda m: np.rint((m[..., 0, 8, 6] - 0.485 / 0.229) * 0.229 * 255 / 20 - 1)  # noqa: E731
    quick.net.features = lambda images: images[:, :1, ::4, ::4] + 2 * 0.485 / 0.229  # pyright: ignore
    found = [
        [*grey(key)[:1], *grey(local)[0]]
        for key, local in extract_video("a", Greys(), FRAMES, box, quick, options(), batch_size=4)
    ]
    assert found == source_frames(FRAMES, LENGTH, 2, "repeat_key").tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_unfit_features_name_video_and_proposal(bad: float, backbone: Backbone) -> None:
    def features(images: Tensor) -> Tensor:
        white = (images.amin(dim=(1, 2, 3)) > 2)[:, None, None, None]
        return torch.where(white, bad, images[:, :, ::4, ::4].abs())

    class White(Clip):
        def image(self, frame: int) -> np.ndarray:
            return np.full((120, 160, 3), 255 if frame == 7 else 100, np.uint8)

    backbone.net.features = features  # pyright: ignore[reportAttributeAccessIssue]
    box = np.repeat([[60.0, 40.0, 90.0, 80.0]], len(FRAMES), axis=0)
    maps = extract_video("clip_3", White(), FRAMES, box, backbone, options(k=0), batch_size=1)
    with pytest.raises(DataError, match=r"'clip_3'.*proposal 7 "):
        list(maps)


def test_stored_embedding_is_the_pooled_key(backbone: Backbone, tmp_path: Path) -> None:
    extract = options(k=1, dtype="float16")
    with FeatureWriter(tmp_path, feature_schema(extract, backbone), len(FRAMES)) as writer:
        keys = []
        for key, local in extract_video("a", Clip(), FRAMES, boxes(len(FRAMES)), backbone, extract, 8):
            writer.append(key, local)
            keys.append(key[0])
    stored = zarr.open_group(tmp_path / GROUP, mode="r")
    wanted = [reference.embedding(key.astype(np.float64)) for key in keys]
    np.testing.assert_allclose(np.asarray(stored["embedding"])[:, 0], wanted, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(stored["key"])[:, 0], keys, rtol=1e-3, atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- views
def test_every_view_of_every_frame_is_its_own_crop(net: HRNet, backbone: Backbone) -> None:
    affines = view_affines("a", boxes(9), [None] * 9, POSETRACK, options(), 4, 3)
    clip = Clip()
    own = options(k=1)
    found = list(extract_video("a", clip, FRAMES, boxes(9), backbone, own, 7, affines=affines))
    assert clip.decoded == dict.fromkeys(range(LENGTH), 1)  # once for all views
    sources = source_frames(FRAMES, LENGTH, 1, "repeat_key")
    assert [key.shape for key, _ in found] == [(4, 8, 16, 12)] * 9
    assert [local.shape for _, local in found] == [(4, 2, 8, 16, 12)] * 9
    for proposal in (0, 4, 8):
        key, local = found[proposal]
        for view in range(4):
            crops = np.stack([warp_crop(clip.image(f), affines[proposal, view], CROP) for f in sources[proposal]])
            with torch.inference_mode():
                wanted = net.features(normalise(torch.from_numpy(crops))).numpy()
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(key[view], wanted[0], atol=2e-5 * scale)
            np.testing.assert_allclose(local[view], wanted[1:], atol=2e-5 * scale)


def test_one_view_is_what_boxes_alone_give(backbone: Backbone) -> None:
    plain, with_affines = (
        list(extract_video("a", Clip(), FRAMES, boxes(9), backbone, options(k=1), 5, affines=affines))
        for affines in (None, view_affines("a", boxes(9), [None] * 9, None, options(), 1, None))
    )
    for one, other in zip(plain, with_affines, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert feature_schema(options(), backbone) == feature_schema(options(views=4, mirror=True), backbone)


def test_mirrored_features_are_those_of_the_clean_crop_mirrored(backbone: Backbone) -> None:
    """A network that samples pixel 4 i for feature i: mirrored back, the maps lie on each other to the pixel."""
    affines = view_affines("a", boxes(9), [None] * 9, None, options(), 2, 1)
    quick = spied(backbone, [])
    for key, local in extract_video("a", Clip(), FRAMES, boxes(9), quick, options(k=1), 8, affines=affines):
        step = 1.01 / (255 * 0.224)  # a grey level, normalised
        assert np.abs(key[1, ..., ::-1] - key[0]).max() <= step and key[0].std() > 0.3
        assert np.abs(local[1, ..., ::-1] - local[0]).max() <= step


# ------------------------------------------------------------------------------------------------------ feature space
@pytest.fixture(scope="module")
def checkpoint(net: HRNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "a.safetensors"
    save_checkpoint(path, net.state_dict(), {})
    return path


def space(checkpoint: Path, **changes: object) -> str:
    return load_backbone(options(**{"checkpoint": str(checkpoint)} | changes), torch.device("cpu")).space


def test_space_covers_what_features_depend_on(checkpoint: Path, tmp_path: Path) -> None:
    own = space(checkpoint)
    copy = tmp_path / "copy.safetensors"
    save_checkpoint(copy, load_hrnet(checkpoint).state_dict(), {"name": "other"})
    for same in (
        space(checkpoint, k=4), space(checkpoint, dtype="float16"), space(checkpoint, codec="zstd"),
        space(checkpoint, edge="clamp"), space(copy), space(checkpoint, width=8),
    ):  # fmt: skip
        assert same == own

    state = {name: tensor.clone() for name, tensor in load_hrnet(checkpoint).state_dict().items()}
    state["stage3.2.branches.1.3.bn2.running_var"][5] += 1e-4
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, state, {})
    spaces = [own, space(other), space(checkpoint, crop_size=(80, 48)), space(checkpoint, crop_scale=1.3)]
    assert len(set(spaces)) == 4


def test_schema_says_what_is_stored(checkpoint: Path) -> None:
    extract = options(k=3, checkpoint=str(checkpoint), dtype="float16", codec="zstd")
    backbone = load_backbone(extract, torch.device("cpu"))
    schema = feature_schema(extract, backbone)
    assert (schema.map_shape, schema.stride, schema.offsets) == ((8, 16, 12), 4, (-3, -2, -1, 1, 2, 3))
    assert (schema.dtype, schema.codec, schema.backbone) == ("float16", "zstd", "hrnet_w8")
    assert schema.space == backbone.space


def test_backbone_of_another_width_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"W8.*W48"):
        space(checkpoint, width=48)


def test_loaded_backbone_gives_the_networks_features(checkpoint: Path, net: HRNet) -> None:
    backbone = load_backbone(options(checkpoint=str(checkpoint)), torch.device("cpu"))
    images = torch.randn(2, 3, *CROP, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = backbone.net.features(images), net.features(images)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * float(wanted.max()))


# ----------------------------------------------------------------------------------------------------- heads on disk
def save_heads(path: Path, heads: GLPoseHeads, space: str) -> None:
    metadata = {
        "heads": heads.options.model_dump_json(), "channels": "4", "offsets": "[-1, 1]", "joints": "posetrack",
        "num_joints": "5", "backbone": "hrnet_w8", "space": space,
    }  # fmt: skip
    save_checkpoint(path, heads.state_dict(), metadata)


def test_heads_come_back_as_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    heads = GLPoseHeads(4, 5, (-1, 1), HeadOptions(k=1, n=2, head="5x5", init_std=0.2)).eval()
    save_heads(tmp_path / "h.safetensors", heads, "ab" * 32)
    loaded = load_heads(tmp_path / "h.safetensors", space="ab" * 32)
    assert loaded.options == heads.options and loaded.offsets == heads.offsets and not loaded.training
    key, local, references = torch.rand(1, 4, 8, 6), torch.rand(1, 2, 4, 8, 6), torch.rand(1, 2, 4, 8, 6)
    with torch.inference_mode():
        inputs = (key, local, references, torch.rand(1, 2))
        np.testing.assert_array_equal(loaded(*inputs), heads(*inputs))


def test_heads_of_another_space_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    save_heads(path, GLPoseHeads(4, 5, (-1, 1), HeadOptions(k=1, n=2)), "ab" * 32)
    with pytest.raises(CheckpointError, match=f"{'ab' * 6}.*{'cd' * 6}"):
        load_heads(path, space="cd" * 32)


def test_heads_that_do_not_fit_their_description_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    heads = GLPoseHeads(4, 5, (-1, 1), HeadOptions(k=1, n=2))
    save_heads(path, heads, "ab" * 32)
    metadata = read_metadata(path)
    for broken in ({"num_joints": "6"}, {"channels": "many"}, {"heads": "{}x"}):
        save_checkpoint(path, heads.state_dict(), {**metadata, **broken})
        with pytest.raises(CheckpointError, match="do not fit their own description"):
            load_heads(path, space="ab" * 32)
    save_checkpoint(path, heads.state_dict(), {key: metadata[key] for key in metadata if key != "space"})
    with pytest.raises(CheckpointError, match="no 'space' in its metadata"):
        load_heads(path, space="ab" * 32)


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\0" * 64])
def test_damaged_heads_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "h.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"h\.safetensors"):
        load_heads(path, space="a")


def test_a_backbone_is_no_heads(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no GLPose heads"):
        load_heads(checkpoint, space="a")
    with pytest.raises(CheckpointError, match="absent"):
        load_heads(tmp_path / "absent.safetensors", space="a")


# ---------------------------------------------------------------------------------------------- all at the same time
def test_work_done_ahead_is_the_same_work() -> None:
    assert list(ahead(iter(range(100)), 3)) == list(range(100))
    assert list(ahead(iter(()), 1)) == []
    assert list(ahead(ahead((n for n in range(20)), 1), 2)) == list(range(20))


def threads_ahead() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_an_error_comes_in_its_place_and_leaves_no_thread() -> None:
    def failing() -> Iterator[int]:
        yield from (1, 2)
        raise DataError("the third is damaged")

    seen = []
    with pytest.raises(DataError, match="the third is damaged"):
        for item in ahead(ahead(failing(), 1), 1):
            seen.append(item)
    assert seen == [1, 2] and threads_ahead() == []


@pytest.mark.parametrize("depth", [1, 4])
def test_a_consumer_that_stops_stops_the_work(depth: int) -> None:
    made: list[int] = []
    closed: list[str] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                made.append(len(made))
                yield len(made)
        finally:
            closed.append(threading.current_thread().name)

    items = ahead(ahead(endless(), depth), depth)
    assert next(items) == 1
    items.close()
    assert threads_ahead() == [] and closed == ["ahead"] and len(made) <= 2 * depth + 5


def test_nothing_is_made_ahead_beyond_the_depth() -> None:
    made: list[int] = []

    def counted() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    items = ahead(counted(), 3)
    next(items)
    deadline = time.monotonic() + 60
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # for what must not come
    assert len(made) == 5  # one taken, three ready, one in hand
    items.close()


def test_an_early_end_of_extraction_leaves_no_thread(backbone: Backbone) -> None:
    maps = extract_video("v", Clip(), FRAMES, boxes(len(FRAMES)), backbone, options(), 2)
    next(iter(maps))
    maps.close()
    assert threads_ahead() == []


def test_a_frame_that_fails_while_others_are_computed(backbone: Backbone) -> None:
    class Failing(Clip):
        def image(self, frame: int) -> np.ndarray:
            if frame == 3:
                raise DataError("frame 3 cannot be decoded")
            return super().image(frame)

    with pytest.raises(DataError, match="frame 3 cannot be decoded"):
        list(extract_video("v", Failing(), FRAMES, boxes(len(FRAMES)), backbone, options(), 2))
    assert threads_ahead() == []


def test_a_network_that_fails_while_frames_wait(backbone: Backbone) -> None:
    def features(images: Tensor) -> Tensor:
        raise RuntimeError("the network failed")

    backbone.net.features = features  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(RuntimeError, match="the network failed"):
        list(extract_video("v", Clip(), FRAMES, boxes(len(FRAMES)), backbone, options(), 1))
    del backbone.net.features
    assert threads_ahead() == []


def test_batches_that_a_gpu_does_not_hold_are_halved(net: HRNet) -> None:
    own = Backbone(fold_batch_norm(net), "hrnet_w8", "space", torch.device("cpu"))
    whole = list(extract_video("v", Clip(), FRAMES, boxes(len(FRAMES)), own, options(), 3))
    compute, sizes = own.net.features, []

    def features(images: Tensor) -> Tensor:
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(images)

    own.net.features = features  # pyright: ignore[reportAttributeAccessIssue]
    halved = list(extract_video("v", Clip(), FRAMES, boxes(len(FRAMES)), own, options(), 6))
    assert sizes[:3] == [6, 3, 3] and max(sizes[1:]) == 3
    assert own.limit.told() == [
        "the GPU's memory does not hold 6 crops at once: going on with 3 (runtime.batch_size)"
    ] and own.limit.told() == []  # fmt: skip
    for (key, local), (other_key, other_local) in zip(whole, halved, strict=True):
        np.testing.assert_allclose(key, other_key, atol=1e-5)
        np.testing.assert_allclose(local, other_local, atol=1e-5)


# --------------------------------------------------------------------------------------------- as a GPU would do it
@pytest.mark.parametrize("rotation", [0.0, 33.0])
@pytest.mark.parametrize("box", [(20, 10, 90, 80), (-30, 50, 60, 140), (100, 70, 104, 79), (0, 0, 160, 120)])
def test_crops_warped_by_torch_are_opencv_s(box: tuple[float, ...], rotation: float) -> None:
    frame = Clip().image(3)
    region = crop_frame(np.array(box, float), CROP, 1.25)
    affines = [crop_affine(region, CROP, rotation), crop_affine(region * [1.1, 0.9, 1.3], CROP, rotation)]
    crops = warp_crops(torch.from_numpy(frame), affines, CROP).numpy().astype(int)
    for crop, affine in zip(crops, affines, strict=True):
        difference = np.abs(crop - warp_crop(frame, affine, CROP).astype(int))
        if int(cv2.__version__.split(".")[0]) >= 5:
            assert difference.max() <= 1 and (difference > 0).mean() < 0.01
        else:  # rounds coordinates to 1/32 px
            assert difference.mean() < 1


def test_crops_are_normalised_as_rgb() -> None:
    crops = np.zeros((2, 3, 5, 3), np.uint8)
    crops[1, 2, 4] = (10, 20, 30)  # blue, green, red
    images = normalise(torch.from_numpy(crops)).numpy()
    assert images.shape == (2, 3, 3, 5) and images.dtype == np.float32
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(images[0, :, 0, 0], -mean / deviation, rtol=1e-5)
    np.testing.assert_allclose(images[1, :, 2, 4], (np.array([30, 20, 10]) / 255 - mean) / deviation, rtol=1e-5)
    crops = np.random.default_rng(0).integers(0, 256, (3, *CROP, 3), dtype=np.uint8)
    wanted = ((crops[..., ::-1] / 255 - mean) / deviation).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(normalise(torch.from_numpy(crops)).numpy(), wanted, atol=2e-6)


def test_lower_precision_is_close_and_of_the_same_space(tmp_path: Path) -> None:
    checkpoint = tmp_path / "net.safetensors"
    save_checkpoint(checkpoint, new_hrnet().state_dict(), {})
    exact, rough = (
        load_backbone(options(checkpoint=str(checkpoint), precision=precision), torch.device("cpu"))
        for precision in ("float32", "bfloat16")
    )
    assert rough.dtype == torch.bfloat16 and rough.space == exact.space
    maps = [list(extract_video("v", Clip(), FRAMES[:3], boxes(3), own, options(), 4)) for own in (exact, rough)]
    for (key, local), (other_key, other_local) in zip(*maps, strict=True):
        for a, b in ((key, other_key), (local, other_local)):
            assert b.dtype == np.float32 and 0 < np.linalg.norm(a - b) < 0.03 * np.linalg.norm(a)


# ------------------------------------------------------------------------------------------------------------ threads
@pytest.mark.parametrize(("quota", "cores"), [("100000 100000\n", 1), ("50000 100000\n", 1), ("max 100000\n", None)])
def test_cores_are_those_given(tmp_path: Path, quota: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    everything = given_cores(tmp_path / "absent")
    assert 1 <= everything <= (os.cpu_count() or 1)
    assert given_cores(tmp_path / "cpu.max") == (cores or everything)


def test_all_cores_draw_and_read_unless_fewer_are_asked_for() -> None:
    assert workers_taken(RuntimeOptions()) == given_cores()
    assert workers_taken(RuntimeOptions(workers=3)) == 3


@pytest.mark.parametrize("before", [True, False])
def test_a_gpu_computes_float32_in_full_where_that_is_asked_for(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    choose_device(RuntimeOptions(device="cpu"))
    assert torch.backends.cudnn.allow_tf32 is before
    choose_device(RuntimeOptions(device="cpu", tf32=False))
    assert torch.backends.cudnn.allow_tf32 is False


@pytest.mark.parametrize("module", ["glpose.extraction", "stages.cli", "glpose.runtime"])
@pytest.mark.parametrize(
    ("given", "waits"),
    [
        ({}, "PASSIVE 1000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ({"GOMP_SPINCOUNT": "7"}, "PASSIVE 7"),
    ],
)
def test_idle_threads_soon_sleep_whatever_is_imported_first(module: str, given: dict[str, str], waits: str) -> None:
    code = f"import {module}, os; print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'))"
    clean = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", code], env={**clean, **given}, capture_output=True, text=True)
    assert done.stdout == waits + "\n", done.stderr
