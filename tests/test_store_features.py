"""Features on disk: exact to half a scale, readable by plain Zarr, never zeros or garbage in place of lost bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from store.errors import CorruptData, StoreError
from store.features import GROUP, FeatureWriter, VideoFeatures
from store.quantise import dequantise, quantise
from store.record import file_digest
from store.schema import FeatureSchema

C, H, W = 3, 4, 5
CODECS = ("crc32c", "zstd")
KINDS = [(dtype, codec) for dtype in ("uint8", "float16") for codec in CODECS]


def schema(**changes: Any) -> FeatureSchema:
    options = {
        "channels": C, "height": H, "width": W, "stride": 4, "offsets": (-1, 1), "backbone": "hrnet_w3", "space": "abc",
    }  # fmt: skip
    return FeatureSchema.model_validate({**options, **changes})


def maps(proposals: int, form: FeatureSchema, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps like HRNet's: not negative, many zeros, channels of very different size, one channel all zero."""
    rng = np.random.default_rng(seed)
    size = np.array([0.01, 1, 30], np.float32)[:, None, None]
    key = np.maximum(rng.normal(size=(proposals, form.views, C, H, W)), 0) * size
    local = np.maximum(rng.normal(size=(proposals, form.views, len(form.offsets), C, H, W)), 0) * size
    if proposals:
        key[0, 0, 1] = 0
    return key.astype(np.float32), local.astype(np.float32)


def write(folder: Path, form: FeatureSchema, key: np.ndarray, local: np.ndarray) -> VideoFeatures:
    with FeatureWriter(folder, form, len(key)) as writer:
        for number, (one, others) in enumerate(zip(key, local, strict=True)):
            writer.append(one, others, affines(number, form))
    return reopen(folder)


def affines(proposal: int, form: FeatureSchema) -> np.ndarray:
    """(V, 2, 3) affines of a proposal, no two alike; the last view is mirrored."""
    out = np.random.default_rng(proposal).uniform(0.5, 1, (form.views, 2, 3)) * [[1, -0.1, 9], [0.1, 1, 9]]
    if form.mirrored is not None:
        out[form.mirrored, 0] *= -1
    return out


def reopen(folder: Path) -> VideoFeatures:
    return VideoFeatures(folder, "clip", committed(folder))


def committed(folder: Path) -> dict[str, tuple[int, str]]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, file_digest(path)) for path in paths}


def largest_shard(folder: Path, name: str) -> Path:
    return max((folder / GROUP / name / "c").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())


# ------------------------------------------------------------------------------------------------------- quantisation
def test_error_is_at_most_half_a_scale() -> None:
    values = np.abs(np.random.default_rng(0).normal(size=(7, 5, 24, 18))).astype(np.float32)
    values *= np.logspace(-30, 30, 35, dtype=np.float32).reshape(7, 5, 1, 1)
    stored, scale = quantise(values)
    assert (stored.dtype, scale.dtype, scale.shape) == (np.uint8, np.float32, (7, 5))
    assert (stored.max(axis=(-2, -1)) == 255).all()
    error = np.abs(dequantise(stored, scale).astype(np.float64) - values)
    assert (error <= 0.5 * scale[..., None, None] * (1 + 1e-4)).all()
    assert error.max() > 0


def test_zero_and_vanishing_channels_become_zero() -> None:
    values = np.zeros((3, 2, 2), np.float32)
    values[1, 0, 0], values[2, 0, 0] = 1e-44, 2.9e-36
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        stored, scale = quantise(values)
    assert stored.tolist() == np.zeros((3, 2, 2)).tolist()
    assert scale.tolist() == [0, 0, 0]


def test_maps_are_rounded_alike_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.abs(np.random.default_rng(1).normal(size=(3, 5, 6, 4))).astype(np.float32)
    whole = quantise(values)
    monkeypatch.setattr("store.quantise.BLOCK", 4 * 6 * 4)  # four channels at a time, three at last
    for found, expected in zip(quantise(values), whole, strict=True):
        np.testing.assert_array_equal(found, expected)
    values[2, 4, 5, 3] = np.nan
    with pytest.raises(ValueError, match="finite and not negative"):
        quantise(values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e-6])
def test_what_uint8_cannot_hold_is_refused(bad: float) -> None:
    values = np.ones((2, 3, 3), np.float32)
    values[1, 2, 2] = bad
    with pytest.raises(ValueError, match="finite and not negative"):
        quantise(values)


# --------------------------------------------------------------------------------------------------- writing, reading
@pytest.mark.parametrize("proposals", [0, 1, 32, 33, 70])
@pytest.mark.parametrize(("dtype", "codec"), KINDS)
def test_round_trip(tmp_path: Path, proposals: int, dtype: str, codec: str) -> None:
    form = schema(dtype=dtype, codec=codec)
    key, local = maps(proposals, form)
    if dtype == "float16":
        key, local = (array.astype(np.float16).astype(np.float32) for array in (key, local))
    features = write(tmp_path, form, key, local)
    assert len(features) == proposals
    assert features.schema == form
    for got, want in ((features.key(), key), (features.local(), local)):
        assert (got.dtype, got.shape) == (np.float32, want.shape)
        if dtype == "float16":
            assert np.array_equal(got, want)
        else:
            assert (np.abs(got - want) <= 0.501 / 255 * want.max(axis=(-2, -1), keepdims=True)).all()
    assert (features.embedding.dtype, features.embedding.shape) == (np.float32, (proposals, 1, C))
    np.testing.assert_allclose(features.embedding, key.mean(axis=(-2, -1)), rtol=1e-6)
    shards = [path for path in (tmp_path / GROUP / "key" / "c").rglob("*") if path.is_file()]
    assert len(shards) == -(-proposals // 32)


def test_several_views(tmp_path: Path) -> None:
    form = schema(views=2, dtype="float16")
    key, local = (array.astype(np.float16).astype(np.float32) for array in maps(3, form))
    features = write(tmp_path, form, key, local)
    assert np.array_equal(features.key(), key)
    assert np.array_equal(features.local(), local)
    assert features.embedding.shape == (3, 2, C)


def test_every_view_has_its_affine(tmp_path: Path) -> None:
    form = schema(views=3, mirrored=2)
    features = write(tmp_path, form, *maps(40, form))
    want = np.stack([affines(number, form) for number in range(40)])
    got = features.affine()
    assert got is not None and (got.dtype, got.shape) == (np.float64, (40, 3, 2, 3)) and np.array_equal(got, want)
    for rows in ([39, 0, 0], np.array([5]), slice(30, 35), slice(0, 0)):
        chosen = features.affine(rows)
        assert chosen is not None and np.array_equal(chosen, want[rows])
    assert features.schema == form
    group: Any = zarr.open(features.path, mode="r")
    assert group.attrs["mirrored"] == 2
    assert group["affine"].metadata.dimension_names == ("proposal", "view", "row", "column")


def test_one_view_has_the_affine_of_its_box(tmp_path: Path) -> None:
    features = write(tmp_path, schema(), *maps(2, schema()))
    assert features.affine() is None and "affine" not in features.keys()  # noqa: SIM118
    assert "mirrored" not in features.group.attrs


def test_several_views_without_affines_of_earlier_releases(tmp_path: Path) -> None:
    form = schema(views=2, dtype="float16")
    key, local = (array.astype(np.float16).astype(np.float32) for array in maps(3, form))
    write(tmp_path, form, key, local)
    shutil.rmtree(tmp_path / GROUP / "affine")
    features = reopen(tmp_path)
    assert features.affine() is None and np.array_equal(features.key(), key)


@pytest.mark.parametrize("wrong", [None, np.zeros((1, 2, 3)), np.zeros((2, 3, 2)), np.full((2, 2, 3), np.nan)], ids=str)
def test_views_without_sound_affines_are_refused(tmp_path: Path, wrong: np.ndarray | None) -> None:
    form = schema(views=2)
    key, local = maps(1, form)
    with pytest.raises(ValueError, match="2 views need finite affines"), FeatureWriter(tmp_path, form, 1) as writer:
        writer.append(key[0], local[0], wrong)


@pytest.mark.parametrize("changes", [{"mirrored": 0}, {"views": 2, "mirrored": 2}, {"views": 2, "mirrored": -1}])
def test_the_mirrored_view_must_be_one(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="mirrored"):
        schema(**changes)


def test_rows_come_in_the_order_asked_for(tmp_path: Path) -> None:
    form = schema()
    key, local = maps(40, form)
    features = write(tmp_path, form, key, local)
    all_keys, all_locals = features.key(), features.local()
    for rows in ([39, 0, 0, 33], np.array([5]), slice(30, 35), slice(0, 0), 34):
        assert np.array_equal(features.key(rows), all_keys[rows])
        assert np.array_equal(features.local(rows), all_locals[rows])
    with pytest.raises(IndexError):
        features.key([40])


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_views_and_offsets_are_chosen(tmp_path: Path, dtype: str) -> None:
    form = schema(views=3, offsets=(-2, -1, 1, 2), dtype=dtype)
    features = write(tmp_path, form, *maps(5, form))
    key, local = features.key(), features.local()
    sizes = {"proposal": 5, "view": 3, "offset": 4, "channel": C, "y": H, "x": W, "row": 2, "column": 3}
    assert features.sizes == sizes
    assert np.array_equal(features.key([4, 0], views=[2]), key[[4, 0]][:, [2]])
    assert np.array_equal(features.local(slice(1, 3), [0, 2], [2, -1]), local[1:3][:, [0, 2]][:, :, [3, 1]])
    assert np.array_equal(features.local(3, offsets=[1]), local[3][:, [2]])
    with pytest.raises(StoreError, match="'clip' have no offset 3; they have -2, -1, 1, 2"):
        features.local(offsets=[3])
    with pytest.raises(IndexError):
        features.key(views=[3])


def test_no_local_frames(tmp_path: Path) -> None:
    form = schema(offsets=())
    key, local = maps(2, form)
    features = write(tmp_path, form, key, local)
    assert features.keys() == ["embedding", "key", "key_scale"]
    assert features.local().shape == (2, 1, 0, C, H, W)
    assert features.local([1, 0, 1]).shape == (3, 1, 0, C, H, W)
    assert features.local(1).shape == (1, 0, C, H, W)


def test_plain_zarr_opens_it(tmp_path: Path) -> None:
    key, local = maps(33, schema())
    features = write(tmp_path, schema(), key, local)
    group: Any = zarr.open(features.path, mode="r")
    assert dict(group.attrs) == schema().attributes
    scale = group["key_scale"][:]
    assert np.array_equal(group["key"][:] * scale[..., None, None], features.key())
    assert {name: group[name].metadata.dimension_names for name in group} == {
        "key": ("proposal", "view", "channel", "y", "x"),
        "key_scale": ("proposal", "view", "channel"),
        "local": ("proposal", "view", "offset", "channel", "y", "x"),
        "local_scale": ("proposal", "view", "offset", "channel"),
        "embedding": ("proposal", "view", "channel"),
    }
    assert features.dims("local") == group["local"].metadata.dimension_names
    assert (group["local"].shape, group["local"].chunks) == ((33, 1, 2, C, H, W), (1, 1, 1, C, H, W))
    assert group["local"].shards == (32, 1, 2, C, H, W)
    assert np.array_equal(features["key"][:], group["key"][:])


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("where", ["key", "local"])
def test_not_finite_is_refused(tmp_path: Path, dtype: str, where: str) -> None:
    form = schema(dtype=dtype)
    key, local = maps(1, form)
    {"key": key, "local": local}[where].flat[7] = np.nan
    with pytest.raises(ValueError, match="finite"):
        write(tmp_path, form, key, local)


def test_negative_and_too_large_are_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    key, local = maps(1, schema())
    key.flat[0] = -0.5
    with pytest.raises(ValueError, match="not negative"):
        write(tmp_path / "a", schema(), key, local)
    assert write(tmp_path / "b", schema(dtype="float16"), key, local).key().flat[0] == -0.5
    key.flat[0] = 1e6
    with pytest.raises(ValueError, match="below 65504"), np.errstate(over="ignore"):
        write(tmp_path / "c", schema(dtype="float16"), key, local)


@pytest.mark.parametrize("announced", [0, 2, 4, 33])
def test_wrong_count_is_refused(tmp_path: Path, announced: int) -> None:
    key, local = maps(3 if announced < 33 else 34, schema())
    wrong = pytest.raises(ValueError, match=f"{announced} proposals were announced")
    with wrong, FeatureWriter(tmp_path, schema(), announced) as writer:
        for one, others in zip(key, local, strict=True):
            writer.append(one, others)


# -------------------------------------------------------------------------------------------------------------- damage
@pytest.mark.parametrize("array", ["key", "local", "embedding", "key_scale", "local_scale", "affine"])
@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_bit_is_never_returned_as_data(tmp_path: Path, codec: str, array: str) -> None:
    form = schema(codec=codec, views=2 if array == "affine" else 1)
    features = write(tmp_path, form, *maps(2, form))
    files, want = committed(tmp_path), features.read(array)
    shard = largest_shard(tmp_path, array)
    sound = shard.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.choice(len(sound), min(len(sound), 120), replace=False):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << int(rng.integers(8))
        shard.write_bytes(damaged)
        try:
            got = VideoFeatures(tmp_path, "clip", files).read(array)
        except CorruptData as error:
            assert "'clip'" in str(error)
            refused += 1
        else:
            assert np.array_equal(got, want), f"byte {position} of {len(sound)}"
    assert refused > 0.95 * min(len(sound), 120)  # a few bits of a Zstandard header carry nothing
    shard.write_bytes(sound)
    assert np.array_equal(VideoFeatures(tmp_path, "clip", files).read(array), want)


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [remove, truncate, lengthen])
@pytest.mark.parametrize("name", ["key/c/1/0/0/0/0", "local/c/0/0/0/0/0/0", "embedding/c/0/0/0", "local/zarr.json"])
def test_lost_or_cut_files_are_found_on_opening(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    write(tmp_path, schema(), *maps(33, schema()))
    files = committed(tmp_path)
    damage(tmp_path / GROUP / name)
    with pytest.raises(CorruptData, match=f"features of 'clip' are damaged: {GROUP}/{name} "):
        VideoFeatures(tmp_path, "clip", files)


def test_changed_description_is_found_on_opening(tmp_path: Path) -> None:
    write(tmp_path, schema(), *maps(2, schema()))
    files = committed(tmp_path)
    path = tmp_path / GROUP / "zarr.json"
    path.write_text(path.read_text().replace("abc", "abd"))
    with pytest.raises(CorruptData, match=r"zarr\.json does not match its checksum"):
        VideoFeatures(tmp_path, "clip", files)


def test_missing_or_foreign_group(tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match="features of 'clip' cannot be opened"):
        VideoFeatures(tmp_path, "clip", {})
    zarr.open_group(tmp_path / GROUP, mode="w", attributes={"something": "else"})
    with pytest.raises(CorruptData, match="features of 'clip' cannot be opened"):
        VideoFeatures(tmp_path, "clip", {})


def test_wholly_zero_maps_are_not_taken_for_lost_ones(tmp_path: Path) -> None:
    key, local = (np.zeros_like(array) for array in maps(40, schema()))
    assert not write(tmp_path, schema(), key, local).key().any()


def test_other_features_give_other_digests(tmp_path: Path) -> None:
    # CRC-32C over chunks that end in their CRC-32C would be the same for all
    for seed in (0, 1):
        write(tmp_path / str(seed), schema(), *maps(3, schema(), seed))
    one, other = committed(tmp_path / "0"), committed(tmp_path / "1")
    assert {name for name in one if one[name] == other[name]} == {name for name in one if name.endswith("zarr.json")}


def test_equal_features_give_equal_files(tmp_path: Path) -> None:
    for codec in CODECS:
        form = schema(codec=codec)
        for name in ("a", "b"):
            write(tmp_path / codec / name, form, *maps(40, form))
        assert committed(tmp_path / codec / "a") == committed(tmp_path / codec / "b")
