"""Several processes that train together: torch.distributed, as torchrun starts it. One process is the usual case."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(hours=2)  # how long one may wait for another, which may be loading its share


@dataclass(frozen=True)
class Ranks:
    """The number of this process among `count` that train together; all methods but `share` are called by all."""

    number: int = 0
    count: int = 1

    def share(self, sizes: Mapping[str, int]) -> list[str]:
        """The videos of this process, by name: all have about as many proposals. sizes: proposals of every video."""
        loads = [0] * self.count
        own = []
        for video in sorted(sizes, key=lambda video: (-sizes[video], video)):
            least = loads.index(min(loads))
            loads[least] += sizes[video]
            if least == self.number:
                own.append(video)
        return sorted(own)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients that are means over all processes.

        Each process normalises by its own batch; running statistics follow the first process's.
        """
        return model if self.count == 1 else DistributedDataParallel(model)

    def most(self, value: int) -> int:
        """The largest of all processes' values."""
        if self.count == 1:
            return value
        tensor = torch.tensor(value, device=_device())
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, of the same shape."""
        if self.count > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def average_statistics(self, model: nn.Module) -> None:
        """Make batch norm's running statistics the means of all processes', which differ by the last batch's."""
        if self.count == 1:
            return
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
                for statistic in (layer.running_mean, layer.running_var):
                    statistic.copy_(self.total(statistic) / self.count)

    def from_first(self, value: Any) -> Any:
        """What the first process has given; the others' values are ignored."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=_device())
        return values[0]


def join_ranks() -> Ranks:
    """Meet the other processes that torchrun has started; alone where it has not."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank())
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    return Ranks(dist.get_rank(), count) if count > 1 else Ranks()


def leave_ranks() -> None:
    """End the meeting, if there was one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def local_rank() -> int:
    """Number of this process among those of its machine: of the GPU that it uses. 0 where torchrun was not used."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _device() -> torch.device:
    return torch.device("cuda", local_rank()) if dist.get_backend() == "nccl" else torch.device("cpu")
