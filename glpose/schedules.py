"""Learning-rate schedules."""

from __future__ import annotations

import math

WARM = 0.05  # of the steps


def warm_cosine(step: int, steps: int) -> float:
    """Factor of the learning rate at a step, 0-based: rising for a twentieth of the steps, then half a cosine."""
    warm = max(1, int(steps * WARM))
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
