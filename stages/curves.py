"""Training curves for TensorBoard, while a training runs: below work/logs, outside every record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np

from glpose.training_log import Progress
from stages.stage import Context


class Curves:
    """Writes loss, PCK and learning rate of every epoch, a run per unit; nothing where work is not a local folder.

    Use it in a `with` block.
    """

    def __init__(self, context: Context, stage: str, units: Sequence[str]) -> None:
        work = context.config.work
        self._writers = {}
        if not context.config.runtime.tensorboard or not isinstance(work, Path):
            return
        from torch.utils.tensorboard import SummaryWriter

        self._writers = {unit: SummaryWriter(str(work / "logs" / stage / unit)) for unit in units}

    def add(self, progress: Progress) -> None:
        """Note the lines of an epoch that has ended."""
        for unit, line in (progress.logs or {}).items():
            if unit not in self._writers:
                continue
            for name, value in asdict(line).items():
                if name != "epoch" and np.isfinite(value):
                    self._writers[unit].add_scalar(name, value, line.epoch)

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        for writer in self._writers.values():
            writer.close()
