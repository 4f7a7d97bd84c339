"""Writing an array's shard files as its rows come, in the layout that Zarr's sharding codec reads.

zarr-python writes a shard from a copy of all its maps; here a row is on its way to the disk before the next one comes,
so that memory does not grow with the shard. What stands where: docs/store-format.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from crc32c import crc32c
from numcodecs.zstd import Zstd

from store.shard_layout import CHECKSUM_BYTES, NOT_STORED, ShardLayout


class ShardWriter:
    """Writes one array below its folder, row by row. `close` ends the last shard; until then its file has no index.

    Every map is stored, those that are all zero too: one that is absent is damage.
    """

    def __init__(self, folder: Path, layout: ShardLayout) -> None:
        self.layout = layout
        self._folder = folder
        self._rows = 0
        self._file: BinaryIO | None = None
        self._index = _empty_index(layout)
        self._compressor = Zstd(level=1, checksum=True) if layout.codec == "zstd" else None

    def append(self, maps: np.ndarray) -> None:
        """Add a row, (V, C, H, W) or (V, 2k, C, H, W) of the stored type. ValueError for another shape or type."""
        shape = self.layout.shape[1:]
        if maps.shape != shape or maps.dtype != self.layout.dtype:
            raise ValueError(f"a row is {self.layout.dtype} of shape {shape}, not {maps.dtype} of {maps.shape}")
        place = self._rows % self.layout.shard_rows
        if self._file is None:
            path = self._folder / self.layout.shard_file(self._rows // self.layout.shard_rows)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "wb")  # noqa: SIM115 (closed with the shard)
        content = np.ascontiguousarray(maps).data.cast("B")
        size = self.layout.map_bytes
        for number in range(len(content) // size):
            payload = content[number * size : (number + 1) * size]
            begin = self._file.tell()
            if self._compressor is None:
                self._file.write(payload)
                self._file.write(crc32c(payload).to_bytes(CHECKSUM_BYTES, "little"))
            else:
                self._file.write(self._compressor.encode(payload))
            entry = place * (len(content) // size) + number
            self._index[entry] = begin, self._file.tell() - begin
        self._rows += 1
        if place == self.layout.shard_rows - 1:
            self.close()

    def close(self) -> None:
        """End the shard that is being written, with its index."""
        if self._file is None:
            return
        with self._file as file:
            index = self._index.tobytes()
            file.write(index + crc32c(index).to_bytes(CHECKSUM_BYTES, "little"))
        self._file, self._index = None, _empty_index(self.layout)

    def abandon(self) -> None:
        """Close the file as it is; what it holds is no shard."""
        if self._file is not None:
            self._file.close()


def _empty_index(layout: ShardLayout) -> np.ndarray:
    """(maps, 2) begin and length of every map of a shard."""
    return np.full((layout.shard_maps, 2), NOT_STORED, "<u8")
