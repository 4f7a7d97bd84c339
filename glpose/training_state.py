"""What an interrupted training goes on from: one file, replaced after every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from store.atomic import replacing
from store.errors import StoreError


def save_state(path: Path | None, recipe: str, epoch: int, parts: Mapping[str, dict[str, Any]]) -> None:
    """Write the state after `epoch`. recipe: identifies the training. parts: by variant, tensors and plain data."""
    if path is None:
        return
    with replacing(path) as temporary:
        torch.save({"recipe": recipe, "epoch": epoch, "parts": dict(parts)}, temporary)


def load_state(path: Path | None, recipe: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Epochs done and the parts; (0, {}) where nothing was saved, or of another training: that one starts anew.

    StoreError where the file is damaged.
    """
    found, epoch, parts = _read(path)
    return (epoch, parts) if found == recipe else (0, {})


def last_state(path: Path | None) -> tuple[int, dict[str, dict[str, Any]]]:
    """The last epoch that was saved, whatever the training, and its parts; (0, {}) where none was."""
    return _read(path)[1:]


def _read(path: Path | None) -> tuple[str, int, dict[str, dict[str, Any]]]:
    if path is None or not path.exists():
        return "", 0, {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return content["recipe"], int(content["epoch"]), dict(content["parts"])
    except Exception as error:  # damaged bytes raise anything
        raise StoreError(
            f"{path} is no whole training state ({type(error).__name__}): delete it to start anew"
        ) from None
