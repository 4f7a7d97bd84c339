"""How a training goes: its loss and PCK while it runs, and one line per epoch and variant."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glpose.ranks import Ranks

REPORTED = 0.5  # s between reports: each waits for the device


@dataclass(frozen=True)
class EpochLog:
    """One epoch of one variant. pck: percent, by `targets.heatmap_hits`. validation_*: NaN without held-out videos."""

    epoch: int
    lr: float
    loss: float
    pck: float
    validation_loss: float = float("nan")
    validation_pck: float = float("nan")


@dataclass(frozen=True)
class Progress:
    """Where a training is. step: of this epoch. loss, pck: of this epoch so far, means over samples and variants.

    logs: by variant, where an epoch has just ended.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    pck: float
    samples_per_second: float
    logs: Mapping[str, EpochLog] | None = None

    @property
    def done(self) -> float:
        """Share of the whole training that is done."""
        return (self.epoch - 1 + self.step / self.steps) / self.epochs

    def __str__(self) -> str:
        """Such as `epoch 3/20, loss 0.00123, PCK 81.2, 310 samples/s`."""
        return (
            f"epoch {self.epoch}/{self.epochs}, loss {self.loss:.3g}, PCK {self.pck:.1f}, "
            f"{self.samples_per_second:.3g} samples/s"
        )


Report = Callable[[Progress], None]


class Meter:
    """Sums of one epoch after the other, kept on the device until somebody wants to know.

    A step's figures are (variants, 4): loss times samples, samples, hits, joints.
    """

    def __init__(self, variants: Sequence[str], epochs: int, report: Report) -> None:
        self._variants, self._epochs, self._report = list(variants), epochs, report
        self._figures: list[Tensor] = []
        self._rows: list[np.ndarray] = []
        self._looked = 0  # steps that have been found finite
        self._samples, self._began = 0, time.monotonic()
        self._reported = self._began

    @property
    def steps(self) -> int:
        """Steps of this epoch so far."""
        return len(self._figures)

    def add(self, rows: np.ndarray, figures: Tensor) -> None:
        """Count a step. rows: of its samples."""
        self._figures.append(figures)
        self._rows.append(rows)
        self._samples += len(rows)

    def due(self) -> bool:
        """Whether it is time to look and to report."""
        return time.monotonic() - self._reported >= REPORTED

    def not_finite(self) -> tuple[int, float, np.ndarray] | None:
        """The first step since the last look, from 1, whose loss is not finite; that loss, and the step's rows."""
        losses = torch.stack(self._figures)[self._looked :, :, 0].sum(dim=1).cpu()
        bad = torch.nonzero(~torch.isfinite(losses))
        if len(bad):
            step = int(bad[0])
            return self._looked + step + 1, float(losses[step]), self._rows[self._looked + step]
        self._looked = self.steps
        return None

    def report(self, epoch: int, steps: int, logs: Mapping[str, EpochLog] | None = None) -> None:
        """Tell how far the training is."""
        self._reported = time.monotonic()
        loss, samples, hits, joints = torch.stack(self._figures).sum(dim=(0, 1)).tolist()
        speed = self._samples / max(self._reported - self._began, 1e-9)
        pck = 100 * hits / max(joints, 1)
        self._report(Progress(epoch, self._epochs, self.steps, steps, loss / samples, pck, speed, logs))

    def end_epoch(self, epoch: int, lr: float, ranks: Ranks) -> dict[str, EpochLog]:
        """The epoch's line for each variant, over all processes."""
        figures = torch.stack(self._figures, dim=1)
        own_sums = [own.sum(dim=0) for own in figures]  # each by itself: rounded alike whatever else is trained
        sums = ranks.total(torch.stack(own_sums)).cpu().double()
        return {
            name: EpochLog(epoch, lr, float(own[0] / own[1]), 100 * float(own[2] / own[3].clamp(min=1)))
            for name, own in zip(self._variants, sums, strict=True)
        }

    def begin_epoch(self) -> None:
        """Forget the figures of the epoch before."""
        self._figures, self._rows, self._looked = [], [], 0
