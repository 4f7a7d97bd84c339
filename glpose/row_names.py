"""Names of a table's rows, chosen by patterns."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

from store.errors import ConfigError


def choose_names(names: Sequence[str], patterns: str, of: str, option: str) -> list[str]:
    """Names that match any of these shell patterns, separated by commas, in their own order.

    of: whose rows they are. option: where the patterns are from. ConfigError for a pattern without a row, and where
    none is given.
    """
    chosen: set[str] = set()
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        matched = fnmatch.filter(names, pattern)
        if not matched:
            near = difflib.get_close_matches(pattern, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            raise ConfigError(f"{of} has no row {pattern!r} ({option}); {hint}")
        chosen.update(matched)
    if not chosen:
        raise ConfigError(f"no row is asked for ({option}); there are {', '.join(names)}")
    return [name for name in names if name in chosen]
