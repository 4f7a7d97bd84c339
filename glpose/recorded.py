"""Steps of a training on a GPU, recorded once and replayed: starting kernels can take longer than running them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

EAGER = 3  # calls before the recording: they make what lives longer than a call, such as an optimiser's state


class Recorded:
    """A function `f(constant, *tensors) -> tensor` by a CUDA graph, for tensors on one device.

    The function must do all of its work there, wait for nothing, and be of the tensors' values, not of numbers that
    change between calls. constant: the same object in every call (ValueError otherwise). What a call leaves behind for
    the next one or for the caller, such as gradients, must stay where the recorded call has put it. Tensors are not
    changed between calls: one that is given again is not copied again. None stays None. Tensors of other shapes than
    the first call's, such as an epoch's last batch, are given to the function itself.

    replays: calls that were replayed.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self.replays = 0
        self._function, self._device = function, device
        self._calls = 0
        self._constant: Any = None
        self._shapes: list[torch.Size | None] = []
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor | None] = []  # what the graph reads
        self._given: list[Tensor | None] = []  # what was last copied there
        self._output: Tensor | None = None

    def __call__(self, constant: Any, *tensors: Tensor | None) -> Tensor:
        """What the function returns, in memory of its own."""
        shapes = [None if tensor is None else tensor.shape for tensor in tensors]
        if not self._calls:
            self._constant, self._shapes = constant, shapes
        if constant is not self._constant:
            raise ValueError("recorded for another object")
        if shapes != self._shapes:
            return self._function(constant, *tensors)
        self._calls += 1
        with torch.cuda.device(self._device):
            if self._calls <= EAGER:
                return self._on_stream(*tensors)
            if self._graph is None:
                self._record(*tensors)
            return self._replay(*tensors)

    def _on_stream(self, *tensors: Tensor | None) -> Tensor:
        """Call the function on another stream than the usual one, as PyTorch asks for before a recording."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            output = self._function(self._constant, *tensors)
        torch.cuda.current_stream().wait_stream(self._stream)
        return output

    def _record(self, *tensors: Tensor | None) -> None:
        self._inputs = [None if tensor is None else tensor.clone() for tensor in tensors]
        self._given = list(tensors)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may prepare the next window
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            self._output = self._function(self._constant, *self._inputs)

    def _replay(self, *tensors: Tensor | None) -> Tensor:
        for own, tensor, given in zip(self._inputs, tensors, self._given, strict=True):
            if own is not None and tensor is not None and tensor is not given:
                own.copy_(tensor)
        self._given = list(tensors)
        assert self._graph is not None and self._output is not None
        self._graph.replay()
        self.replays += 1
        return self._output.clone()
