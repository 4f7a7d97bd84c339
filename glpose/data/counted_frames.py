"""Frames of which it is told how many have been read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from glpose.data.video import FrameSource


@dataclass
class CountedFrames:
    """A `FrameSource` that tells after each frame how many it has given. sizes: (height, width) -> how many had it."""

    source: FrameSource
    tell: Callable[[int], None]
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def names(self) -> list[str]:
        return self.source.names

    def read(self, wanted: Iterable[int], unreadable: dict[int, str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        for done, (frame, image) in enumerate(self.source.read(wanted, unreadable), 1):
            self.sizes[(image.shape[0], image.shape[1])] += 1
            yield frame, image
            self.tell(done)

    def size(self) -> tuple[int, int]:
        return self.source.size()

    def fingerprint(self) -> str:
        return self.source.fingerprint()
