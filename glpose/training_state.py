"""What an interrupted training goes on from: one file, replaced after every epoch, or every so many steps."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from store.atomic import replacing
from store.errors import StoreError, TrainingError


def save_state(path: Path | None, recipe: str, epoch: int, parts: Mapping[str, Any]) -> None:
    """Write the state after `epoch`, or step. recipe: identifies the training. parts: tensors, plain data by name."""
    if path is None:
        return
    content = io.BytesIO()  # of a full disk torch's own writing says nothing that could be told from other errors
    torch.save({"recipe": recipe, "epoch": epoch, "parts": dict(parts)}, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_state(path: Path | None, recipe: str) -> tuple[int, dict[str, Any]]:
    """Epochs done and the parts; (0, {}) where nothing was saved, or of another training: that one starts anew.

    StoreError where the file is damaged.
    """
    found, epoch, parts = _read(path)
    return (epoch, parts) if found == recipe else (0, {})


def load_same_state(path: Path, recipe: str) -> tuple[int, dict[str, Any]]:
    """As `load_state`, but StoreError for a state of another training: a command's own file is not overwritten."""
    found, epoch, parts = _read(path)
    if parts and found != recipe:
        raise StoreError(f"{path} is of a training with other options or data: delete it to start anew")
    return epoch, parts


def check_finite(loss: Tensor, parameters: Iterable[Tensor], step: int, advice: str, state: Path) -> None:
    """TrainingError, naming the step, where the loss or a gradient is no number: before any weight is.

    state: file of the last good state, which is named where it is there.
    """
    norm = nn.utils.get_total_norm([own.grad for own in parameters if own.grad is not None])
    if torch.isfinite(loss) and torch.isfinite(norm):
        return
    what = f"loss is {loss.item()}" if not torch.isfinite(loss) else f"gradient's norm is {norm.item()}"
    kept = f"; {state} holds the last good state" if state.exists() else ""
    raise TrainingError(f"the {what} at step {step}: {advice}{kept}")


def _read(path: Path | None) -> tuple[str, int, dict[str, Any]]:
    if path is None or not path.exists():
        return "", 0, {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return content["recipe"], int(content["epoch"]), dict(content["parts"])
    except Exception as error:  # damaged bytes raise anything
        raise StoreError(
            f"{path} is no whole training state ({type(error).__name__}): delete it to start anew"
        ) from None
