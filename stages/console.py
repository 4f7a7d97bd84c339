"""What commands print while they work: lines as they are, and a progress bar where there is a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINES = 20  # of a training's progress where there is no terminal to draw a bar on
TOLD = 60.0  # s between lines about a long unit where there is no terminal to draw a bar on


def say(console: Console, line: str) -> None:
    """Print a line as it is: paths may hold brackets, and are not to be broken."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def text_lines(shown: RenderableType, width: int) -> list[str]:
    """A table, or text, as plain lines of at most `width` characters."""
    console = Console(width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as printed:
        console.print(shown)
    return [line.rstrip() for line in printed.get().splitlines()]


def size_words(count: int) -> str:
    """A number of bytes for people: 1 kB is 1,000 bytes."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


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


@contextmanager
def training_bar(console: Console, name: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar of a training's steps, or LINES lines; yields what is told the steps done, of how many, and what else."""
    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name)

        def told(step: int, steps: int, words: str) -> None:
            line = f"{name} {step}/{steps} {words}"
            progress.update(task, completed=step, total=steps, description=line)
            if not console.is_terminal and step % max(1, steps // LINES) == 0:
                say(console, f"  {line}")

        yield told


class Tally:
    """Counts of a stage's units while they are made, shown on a bar of their own."""

    def __init__(self, progress: Progress, stage: str, total: int) -> None:
        """total: units to make."""
        self.total, self.done, self.failed, self.people = total, 0, 0, 0
        self.running: dict[str, None] = {}  # in the order in which they began
        self._progress, self._stage, self._began = progress, stage, time.monotonic()
        self._bar = progress.add_task(stage, total=total)
        self._told = self._began

    def begin(self, unit: str) -> None:
        """A unit is being made from now on."""
        self.running[unit] = None
        self._show()

    def end(self, unit: str, people: int = 0, *, failed: bool = False) -> None:
        """A unit is done, or has failed."""
        self.running.pop(unit, None)
        self.done, self.failed, self.people = self.done + 1, self.failed + failed, self.people + people
        self._progress.update(self._bar, completed=self.done)
        self._show()

    def within(self, text: str, share: float) -> None:
        """How far the one running unit is: on the bar, or without a terminal as a line a minute."""
        now = time.monotonic()
        self._progress.update(self._bar, completed=self.done + share, description=f"{self}: {text}")
        if self._progress.disable and now - self._told > TOLD:
            self._told = now
            self.tell(f"  {self}: {text}")

    def tell(self, line: str) -> None:
        """Print a line above the bar."""
        say(self._progress.console, line)

    def __str__(self) -> str:
        """Such as `extract, 4 running, 1 failed, 310 people/s`."""
        parts = [f"{self._stage} {unit}" for unit in self.running] if len(self.running) == 1 else [self._stage]
        parts += [f"{len(self.running)} running"] if len(self.running) > 1 else []
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.people / (time.monotonic() - self._began):.3g} people/s"] if self.people else []
        return ", ".join(parts)

    def _show(self) -> None:
        self._progress.update(self._bar, description=str(self))
