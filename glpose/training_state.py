"""An interrupted training's state in one file: written whole, read back only by a training of the same recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from store.atomic import replacing
from store.errors import StoreError, TrainingError


def save_state(path: Path, recipe: str, step: int, content: Mapping[str, Any]) -> None:
    """Write, in place of the state before, what a training needs to go on after `step` steps.

    content: state dicts and plain data. recipe: all that decides the weights but the number of steps done.
    """
    with replacing(path) as temporary:
        torch.save({"recipe": recipe, "step": step, **content}, temporary)


def load_state(path: Path, recipe: str) -> tuple[int, dict[str, Any]]:
    """Steps done, and the content as it was saved; 0 and nothing where there is no file.

    StoreError where the file is damaged, or of a training of another recipe.
    """
    if not path.exists():
        return 0, {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found, step = content.pop("recipe"), int(content.pop("step"))
    except Exception as error:  # damaged bytes raise anything
        raise StoreError(
            f"{path} is no whole training state ({type(error).__name__}): delete it to start anew"
        ) from None
    if found != recipe:
        raise StoreError(f"{path} is of a training with other options or data: delete it to start anew")
    return step, content


def check_finite(loss: Tensor, parameters: Iterable[Tensor], step: int, advice: str, state: Path) -> None:
    """TrainingError, naming the step, where the loss or a gradient is no number: before any weight is.

    state: file of the last good state, which is named where it is there.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if torch.isfinite(loss) and torch.isfinite(norm):
        return
    what = f"loss is {loss.item()}" if not torch.isfinite(loss) else f"gradient's norm is {norm.item()}"
    kept = f"; {state} holds the last good state" if state.exists() else ""
    raise TrainingError(f"the {what} at step {step}: {advice}{kept}")
