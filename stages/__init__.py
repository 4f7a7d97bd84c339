"""Staged jobs around the method: command line, configuration, records, re-runs."""

from __future__ import annotations

import glpose  # noqa: F401  first of all: it sets how idle threads wait, which torch reads when it is loaded
