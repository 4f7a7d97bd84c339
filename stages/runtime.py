"""Devices and threads: speed settings that never change a record."""

from __future__ import annotations

import torch

from glpose.options import RuntimeOptions
from store.errors import ConfigError


def choose_device(options: RuntimeOptions) -> torch.device:
    """The device to compute on; also sets the number of CPU threads. ConfigError for a device that is not there."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(options.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"runtime.device = {options.device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device
