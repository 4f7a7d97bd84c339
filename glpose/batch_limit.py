"""Batches that shrink where a GPU's memory does not hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from store.errors import ConfigError, DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class BatchLimit:
    """How many items a device has been found to hold at once; halved whenever its memory does not suffice.

    items: what they are, in the plural. setting: the option that says how many a batch holds. notes: what there is to
    tell, one line per halving.
    """

    items: str
    setting: str
    largest: int | None = None
    notes: list[str] = field(default_factory=list)

    def run(self, compute: Callable[[Sequence[Item]], Sequence[Result]], batch: Sequence[Item]) -> list[Result]:
        """`compute(batch)`, in several parts where need be.

        ConfigError where not even one item fits, DataError where `compute` gives another number of results than items.
        """
        done: list[Result] = []
        while len(done) < len(batch):
            part = batch[len(done) :][: self.largest]
            try:
                found = compute(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise ConfigError(
                        f"the GPU's memory does not hold one of the {self.items}: use another device "
                        "(runtime.device=cpu)"
                    ) from None
                self.largest = len(part) // 2
                torch.cuda.empty_cache()
                self.notes.append(
                    f"the GPU's memory does not hold {len(part)} {self.items} at once: going on with {self.largest} "
                    f"({self.setting})"
                )
                continue
            if len(found) != len(part):
                raise DataError(f"there are {len(found)} results for {len(part)} {self.items}; each needs one")
            done += found
        return done

    def told(self) -> list[str]:
        """The notes, which are then told."""
        notes, self.notes = self.notes, []
        return notes
