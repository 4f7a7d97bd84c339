"""A softmax without subnormal numbers, with which a CPU multiplies many times slower than with others."""

from __future__ import annotations

from torch import Tensor

# Logarithm of the least share over the largest: it adds nothing to 1 in float32, and its square is no subnormal number.
LEAST = -40.0


def bounded_softmax(logits: Tensor, dim: int = -1) -> Tensor:
    """Softmax in which no share is less than exp(LEAST) of the largest; of -inf too."""
    top = logits.detach().amax(dim=dim, keepdim=True)
    return (logits - top).clamp_min(LEAST).softmax(dim=dim)
