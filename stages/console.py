"""What commands print while they work: lines as they are, and a progress bar where there is a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def say(console: Console, line: str) -> None:
    """Print a line as it is: paths may hold brackets, and are not to be broken."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def counting(console: Console) -> Progress:
    """A bar of things done and to do, with the time left, which goes when its block ends."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
