"""Steps of a training on a GPU, recorded once and replayed: starting their kernels takes longer than running them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

EAGER = 3  # calls before the recording: they make what lives longer than a call, such as an optimiser's state


class Recorded:
    """A function `f(constant, *tensors) -> tensor` by a CUDA graph, for tensors on the current device.

    The function must do all of its work there, wait for nothing, and be of the tensors' values, not of numbers that
    change between calls. constant: the same object in every call. Tensors of other shapes than the first call's, such
    as an epoch's last batch, are given to the function itself. None stays None. replays: calls that were replayed.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self.replays = 0
        self._calls = 0
        self._shapes: list[torch.Size | None] = []
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor | None] = []
        self._output: Tensor | None = None

    def __call__(self, constant: Any, *tensors: Tensor | None) -> Tensor:
        """What the function returns, in memory of its own."""
        shapes = [None if tensor is None else tensor.shape for tensor in tensors]
        if not self._calls:
            self._shapes = shapes
        if shapes != self._shapes:
            return self._function(constant, *tensors)
        self._calls += 1
        if self._calls <= EAGER:
            return self._on_stream(constant, *tensors)
        if self._graph is None:
            self._record(constant, *tensors)
        for own, tensor in zip(self._inputs, tensors, strict=True):
            if own is not None and tensor is not None:
                own.copy_(tensor)
        assert self._graph is not None and self._output is not None
        self._graph.replay()
        self.replays += 1
        return self._output.clone()

    def _on_stream(self, constant: Any, *tensors: Tensor | None) -> Tensor:
        """Call the function on another stream than the usual one, as PyTorch asks for before a recording."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            output = self._function(constant, *tensors)
        torch.cuda.current_stream().wait_stream(self._stream)
        return output

    def _record(self, constant: Any, *tensors: Tensor | None) -> None:
        self._inputs = [None if tensor is None else tensor.clone() for tensor in tensors]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # others may prepare the next window
            self._output = self._function(constant, *self._inputs)
