"""The softmax that leaves out numbers which slow a CPU, against PyTorch's own."""

from __future__ import annotations

import torch

from glpose.models.glpose import nonlocal_weights
from glpose.models.softmax import bounded_softmax
from glpose.options import HeadOptions


def test_shares_and_gradients_are_softmaxs() -> None:
    logits = torch.tensor([[0.0, -5.0, -90.0, -1e4], [3.0, 3.0, 3.0, 3.0]], requires_grad=True)
    found = bounded_softmax(logits)
    torch.testing.assert_close(found, logits.softmax(dim=-1), rtol=1e-6, atol=1e-17)
    found[0, 1].backward()
    expected = torch.autograd.grad(logits.softmax(dim=-1)[0, 1], logits)[0]
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected, rtol=1e-6, atol=1e-17)


def test_no_share_or_its_square_is_subnormal() -> None:
    logits = torch.linspace(-500, 500, 101)[:, None].repeat(1, 2)
    assert bounded_softmax(logits, dim=0).min() ** 2 > torch.finfo(torch.float32).tiny
    assert (logits.softmax(dim=0)[:, 0] == 0).any()  # as it is without


def test_references_far_less_similar_than_the_first_weigh_next_to_nothing() -> None:
    """As they are for pooled features, whose products differ by a hundred: and missing ones nothing at all."""
    weights = nonlocal_weights(torch.tensor([[220.0, 130.0, 100.0, -torch.inf]]), HeadOptions())
    assert weights[0, 0] == 1 and weights[0, 3] == 0
    assert (weights[0, 1:3] < 1e-17).all() and (weights[0, 1:3] > 1e-18).all()
