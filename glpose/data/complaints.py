"""What the image libraries say of damaged images, on standard error and nowhere else, and of which image they say it.

libjpeg returns an image where data in the middle is damaged, and only complains. It notices what upsets the order of
its codes: of 120 JPEGs with 16 bytes overwritten 109, with 512 bytes 119; of 40 with 16 bytes cut out 13, with 512
bytes 38. Damage that decodes as other, valid codes is seen by no one; formats without codes or checksums (BMP) cannot
tell at all.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glpose.data.image_header import decode_size

DAMAGE = re.compile(rb"(Corrupt JPEG data|Premature end of JPEG|TIFF_Error)[^\r\n]*")  # other lines are harmless
STDERR = 2


@dataclass(frozen=True)
class Complaints:
    """The lines caught so far. file: descriptor of the file that they are in."""

    file: int

    def written(self) -> int:
        """Bytes so far: an image during whose decoding they grow, in whatever thread, may be damaged."""
        return os.fstat(self.file).st_size

    def of_image(self, path: Path) -> str:
        """What is said of this image, "" if nothing of damage. Nothing else may be decoded meanwhile."""
        before = self.written()
        decode_size(path)
        said = DAMAGE.search(os.pread(self.file, self.written() - before, before))
        return said[0].decode(errors="replace") if said else ""


@contextlib.contextmanager
def catch_complaints() -> Iterator[Complaints]:
    """Keep what libraries write on the process's standard error from the terminal; Python's own lines still go there.

    One at a time: the descriptor belongs to the whole process.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile()).fileno()
        terminal = os.dup(STDERR)
        stack.callback(os.close, terminal)
        if _writes_to(STDERR):
            ours = stack.enter_context(os.fdopen(os.dup(terminal), "w", buffering=1))
            stack.enter_context(contextlib.redirect_stderr(ours))
        stack.callback(os.dup2, terminal, STDERR)
        os.dup2(file, STDERR)
        yield Complaints(file)


def _writes_to(descriptor: int) -> bool:
    """Whether Python's standard error is this descriptor; notebooks and tests have put another in its place."""
    try:
        return sys.stderr.fileno() == descriptor
    except OSError:  # it is no file
        return False
