"""Stored maps for training: from shard files straight into the caller's reused buffers, each one verified."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from crc32c import crc32c
from numcodecs.zstd import Zstd

from store.errors import CorruptData, StoreError
from store.places import Place
from store.ranges import Ranges, open_ranges
from store.shard_layout import CHECKSUM_BYTES, NOT_STORED, ShardLayout, parse_layout

MAPS_PER_READ = 512  # a map and its checksum are two buffers; Linux and macOS take 1,024 in one preadv
BYTES_PER_READ = 8 << 20  # bounds the scratch memory that compressed maps are read into
READS_AHEAD = 8  # announced together: requests to S3 that are under way at once

Targets = dict[int, memoryview]  # where maps go, by their numbers
Piece = tuple[int, int, int]  # begin and length in the file, and number of a map


class ShardReader:
    """Reads one array, `key` or `local`, of one video; `read_into` says how.

    folder: the attempt's, here or in S3. array: the array's path inside it, such as "features.zarr/key". files: what
    the video's commit lists. Keeps the shard indices it has read, and no open file: threads may share a reader, and
    processes, forked or spawned, may be handed one (of S3 only spawned ones: its connections do not survive a fork).

    CorruptData where zarr.json is missing or not what was committed; StoreError where it describes something other
    than `store.schema` writes.
    """

    def __init__(self, folder: Place, array: str, video: str, files: Mapping[str, tuple[int, str]]) -> None:
        self.video, self.name = video, array.rsplit("/", 1)[-1]
        self._path = folder / array
        self.layout = self._read_layout(files.get(f"{array}/zarr.json"))
        prefix = f"{array}/c/"
        self._sizes = {name[len(array) + 1 :]: size for name, (size, _) in files.items() if name.startswith(prefix)}
        self._indices: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_indices": {}}  # sooner read again than sent

    def __len__(self) -> int:
        return self.layout.shape[0]

    def read_into(
        self,
        out: np.ndarray,
        rows: Sequence[int] | np.ndarray,
        views: int | Sequence[int] = 0,
        offsets: Sequence[int] | None = None,
    ) -> int:
        """Fill `out` with the asked maps as stored, and read no others; gives the bytes read, indices included.

        out: C-contiguous, of the stored dtype, (n, [views,] [offsets,] C, H, W); a view given as a number has no axis.
        rows: (n,) proposals in any order, repeats allowed. offsets: positions along the offset axis of `local`, all by
        default; `key` has no such axis. ValueError for another `out`, IndexError for what is not there. CorruptData,
        naming video and proposal, where bytes are not those written; `out` then holds nothing of use.
        """
        shape = self.layout.shape
        axes = [_positions("proposals", rows, shape[0]), _positions("views", np.atleast_1d(views), shape[1])]
        if len(shape) == 6:
            axes.append(_positions("offsets", range(shape[2]) if offsets is None else offsets, shape[2]))
        elif offsets is not None:
            raise ValueError(f"{self.name} has no offsets to choose from")
        lead = [len(axis) for axis in axes]
        if np.ndim(views) == 0:
            del lead[1]
        _check_buffer(out, (*lead, *shape[-3:]), self.layout.dtype)
        if not out.size:
            return 0

        # a map's number is its place among all maps of the array, in C order; plain lists, as most requests are small
        asked = axes[0]
        for axis, count in zip(axes[1:], shape[1:], strict=False):
            asked = [number * count + position for number in asked for position in axis]
        shards: dict[int, Targets] = {}
        repeats: list[tuple[memoryview, memoryview]] = []
        size, per_shard, buffer = self.layout.map_bytes, self.layout.shard_maps, out.data.cast("B")
        for place, number in enumerate(asked):
            target = buffer[place * size : (place + 1) * size]
            targets = shards.setdefault(number // per_shard, {})
            if targets.setdefault(number, target) is not target:
                repeats.append((target, targets[number]))
        read = sum(self._read_shard(shard, targets) for shard, targets in shards.items())
        for target, source in repeats:
            target[:] = source
        return read

    def _read_shard(self, shard: int, targets: Targets) -> int:
        """Read maps of one shard to where they go; gives the bytes read."""
        name = self.layout.shard_file(shard)
        if name not in self._sizes:  # the commit has no such file: every map of the shard is zero
            for target in targets.values():
                target[:] = bytes(len(target))
            return 0
        try:
            with open_ranges(self._path / name, self._sizes[name]) as file:
                return self._read_file(file, shard, targets)
        except FileNotFoundError:
            raise self._corrupt(next(iter(targets)), f"{name} is missing") from None
        except OSError as error:
            raise StoreError(f"features of {self.video!r}: {self.name}/{name} cannot be read ({error})") from None

    def _read_file(self, file: Ranges, shard: int, targets: Targets) -> int:
        name, numbers = self.layout.shard_file(shard), list(targets)
        if file.size != self._sizes[name]:
            raise self._corrupt(numbers[0], f"{name} has {file.size} bytes, {self._sizes[name]} were committed")
        read = 0
        if shard not in self._indices:
            self._indices[shard], read = self._read_index(file, shard)
        start = shard * self.layout.shard_maps
        within = [number - start for number in numbers]
        pieces: list[Piece] = []
        for (begin, length), number in zip(self._indices[shard][within].tolist(), numbers, strict=True):
            if begin < 0:  # not stored
                targets[number][:] = bytes(self.layout.map_bytes)
            else:
                pieces.append((begin, length, number))
        pieces.sort()
        scratch = memoryview(b"")
        runs = list(_runs(pieces))
        for place, run in enumerate(runs):
            if place % READS_AHEAD == 0:
                file.announce([_span(ahead) for ahead in runs[place : place + READS_AHEAD]])
            begin, length = _span(run)
            into = [targets[number] for _, _, number in run]
            if self.layout.codec == "crc32c":
                sound = _read_checksummed(file, begin, into)
            else:
                if len(scratch) < length:
                    scratch = np.empty(length, np.uint8).data
                sound = _read_zstd(file, begin, [length for _, length, _ in run], scratch[:length], into)
            if not all(sound):
                raise self._corrupt(run[sound.index(False)][2], "it does not match its checksum")
            read += length
        return read

    def _read_index(self, file: Ranges, shard: int) -> tuple[np.ndarray, int]:
        """(maps, 2) int64 begin and length of every map of a shard, -1 where none is stored; also the bytes read."""
        count, total = self.layout.shard_maps, math.prod(self.layout.shape[:-3])
        first = shard * count
        raw = memoryview(bytearray(index_bytes(self.layout)))
        end = file.size - len(raw)  # of the maps
        if end < 0 or not file.read([raw], end):
            raise self._corrupt(first, "the shard's file ends too early")
        parsed = parse_index(raw, self.layout, end)
        if parsed is None:
            raise self._corrupt(first, "the shard's index does not match its checksum")
        index, sound = (part[: total - first] for part in parsed)  # the last may be partial
        if not sound.all():
            raise self._corrupt(first + int(np.argmin(sound)), "the shard's index points outside the file")
        return index, len(raw)

    def _read_layout(self, committed: tuple[int, str] | None) -> ShardLayout:
        where = f"features of {self.video!r}: {self.name}/zarr.json"
        try:
            text = (self._path / "zarr.json").read_bytes()
        except OSError as error:
            raise CorruptData(f"{where} cannot be read ({error.strerror}); run verify") from None
        if committed is None or hashlib.sha256(text).hexdigest() != committed[1]:
            raise CorruptData(f"{where} is not the one committed; run verify")
        try:
            return parse_layout(json.loads(text))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{where} is not of a form that training reads ({error}); zarr.open may read it") from None

    def _corrupt(self, number: int, fault: str) -> CorruptData:
        """The error for a map, by its number."""
        axes = ("proposal", "view", "local map")
        position = np.unravel_index(number, self.layout.shape[:-3])
        named = ", ".join(f"{axis} {int(place)}" for axis, place in zip(axes, position, strict=False))
        return CorruptData(f"features of {self.video!r} are damaged: {self.name} of {named}: {fault}; run verify")


def index_bytes(layout: ShardLayout) -> int:
    """Bytes of a shard's index, with which its file ends."""
    return 16 * layout.shard_maps + CHECKSUM_BYTES


def parse_index(raw: memoryview, layout: ShardLayout, end: int) -> tuple[np.ndarray, np.ndarray] | None:
    """A shard's index; None where it does not match its checksum.

    raw: the file's last `index_bytes`. end: the file's bytes before them. Gives (maps, 2) int64 begin and length of
    every map in the file, -1 where none is stored, and (maps,) bool, whether that can be: within the file, and of a
    map's length where those are known.
    """
    if crc32c(raw[:-CHECKSUM_BYTES]) != int.from_bytes(raw[-CHECKSUM_BYTES:], "little"):
        return None
    index = np.frombuffer(raw[:-CHECKSUM_BYTES], "<u8").reshape(-1, 2)
    absent = (index == NOT_STORED).all(axis=1)
    begin, length = index.T
    inside = (begin <= end) & (length <= end - np.minimum(begin, end)) & (length > 0)
    if layout.codec == "crc32c":
        inside &= length == layout.map_bytes + CHECKSUM_BYTES
    return np.where(absent[:, None], -1, index.astype(np.int64)), absent | inside


def unpack_map(codec: str, stored: memoryview, scratch: memoryview) -> memoryview | None:
    """A map's bytes out of what a shard holds of it; None where they do not match their checksum.

    scratch: room for a map, used where it is compressed.
    """
    if codec == "zstd":
        return scratch if _unpack(stored, scratch) else None
    values = stored[:-CHECKSUM_BYTES]
    return values if crc32c(values) == int.from_bytes(stored[-CHECKSUM_BYTES:], "little") else None


def _positions(what: str, chosen: Sequence[int] | np.ndarray, count: int) -> list[int]:
    positions = np.asarray(chosen)
    if positions.ndim != 1 or (positions.size and positions.dtype.kind not in "iu"):
        raise ValueError(f"{what} must be a list of numbers")
    numbers: list[int] = positions.tolist()
    if numbers and not 0 <= min(numbers) <= max(numbers) < count:
        raise IndexError(f"{what} must be from 0 to {count - 1}; asked for {min(numbers)} to {max(numbers)}")
    return numbers


def _check_buffer(out: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"the buffer must be {dtype} of shape {shape}; it is {out.dtype} of shape {out.shape}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("the buffer must be C-contiguous and writeable")


def _runs(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """Pieces in file order, together where one's bytes follow another's; of bounded size."""
    run: list[Piece] = []
    size = 0
    for piece in pieces:
        joined = run and sum(run[-1][:2]) == piece[0]
        if run and (not joined or len(run) == MAPS_PER_READ or size + piece[1] > BYTES_PER_READ):
            yield run
            run, size = [], 0
        run.append(piece)
        size += piece[1]
    if run:
        yield run


def _span(run: list[Piece]) -> tuple[int, int]:
    """Begin and length of neighbouring pieces."""
    return run[0][0], sum(length for _, length, _ in run)


def _read_checksummed(file: Ranges, begin: int, targets: list[memoryview]) -> list[bool]:
    """Read neighbouring maps, each followed by its CRC-32C; whether each is sound."""
    checksums = [bytearray(CHECKSUM_BYTES) for _ in targets]
    buffers = [memoryview(part) for pair in zip(targets, checksums, strict=True) for part in pair]
    if not file.read(buffers, begin):
        return [False] * len(targets)
    return [crc32c(t) == int.from_bytes(checksum, "little") for t, checksum in zip(targets, checksums, strict=True)]


def _read_zstd(
    file: Ranges, begin: int, lengths: list[int], scratch: memoryview, targets: list[memoryview]
) -> list[bool]:
    """Read neighbouring zstd frames by way of `scratch` and unpack each; whether each is sound."""
    if not file.read([scratch], begin):
        return [False] * len(targets)
    sound, start = [], 0
    for length, target in zip(lengths, targets, strict=True):
        sound.append(_unpack(scratch[start : start + length], target))
        start += length
    return sound


def _unpack(frame: memoryview, target: memoryview) -> bool:
    """Whether a zstd frame holds exactly a map, and with it a checksum that is right."""
    if _frame_content(frame) != len(target):
        return False
    try:
        Zstd().decode(frame, target)
    except (RuntimeError, ValueError):  # what numcodecs raises for a broken frame
        return False
    return True


def _frame_content(frame: memoryview) -> int | None:
    """Bytes that a zstd frame says it unpacks to; None without a checksum or such a number (RFC 8878, section 3.1.1).

    libzstd takes a frame without a checksum, and numcodecs one that fills less than its target.
    """
    if len(frame) < 14 or frame[:4] != b"\x28\xb5\x2f\xfd" or frame[4] & 0b11111 != 0b00100:
        return None  # the low bits: reserved, checksum present, no dictionary
    alone = frame[4] >> 5 & 1  # a single segment: no window byte
    width = (alone, 2, 4, 8)[frame[4] >> 6]
    start = 5 + (1 - alone)
    if not width:
        return None
    return int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)
