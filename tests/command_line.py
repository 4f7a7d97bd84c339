"""`glpose-stage` called within the test's own process."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from stages.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error message, which is plain: a few lines, no traceback, nothing else on stderr."""
        assert self.err.startswith("error: ") and self.err.endswith("\n")
        assert "Traceback" not in self.err and "Error(" not in self.err
        return self.err.removeprefix("error: ").rstrip("\n")


def glpose_stage(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Run a command. Exceptions that would be tracebacks pass through."""
    capsys.readouterr()
    before, sys.argv = sys.argv, ["glpose-stage", *map(str, arguments)]
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    printed = capsys.readouterr()
    assert code is None or isinstance(code, int)
    return Outcome(code or 0, printed.out, printed.err)
