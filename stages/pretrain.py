"""pretrain: a single-frame HRNet on generated frames; writes one checkpoint with its recipe and its figures."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from glpose.keypoints import POSETRACK
from glpose.models.checkpoints import save_checkpoint
from glpose.pretraining import held_out_pck, new_network
from glpose.pretraining import pretrain as train_network
from stages.config import PipelineConfig
from stages.runtime import choose_device
from store.errors import StoreError


def pretrain(config: PipelineConfig, out: Path, console: Console) -> Path:
    """Train and write the checkpoint (float16 tensors); returns `out`. StoreError if it exists."""
    if out.exists():
        raise StoreError(f"{out} exists already: name another with --out, or delete it")
    options = config.pretrain
    device = choose_device(config.runtime)
    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("pretrain")

        def report(seen: int, total: int, loss: float) -> None:
            progress.update(task, completed=seen, total=total, description=f"pretrain {seen}/{total} loss {loss:.4f}")

        model = train_network(options, new_network(options, len(POSETRACK)), device, config.runtime.workers, report)
    figures = held_out_pck(options, model, device)
    metadata = {
        "recipe": options.model_dump_json(),
        "joints": POSETRACK.name,
        **{f"pckh_{name}": f"{value:.1f}" for name, value in figures.items()},
    }
    tensors = {name: t.half() if t.dtype == torch.float32 else t for name, t in model.state_dict().items()}
    save_checkpoint(out, tensors, metadata)
    console.print(
        f"{out}: HRNet-W{options.width}, PCKh@0.5 on held-out generated frames {figures['visible']:.1f} % of visible, "
        f"{figures['hidden']:.1f} % of hidden joints",
        highlight=False,
    )
    return out
