"""Settings of hypothesis that the property tests share."""

from __future__ import annotations

import functools

from hypothesis import HealthCheck, settings

# The same examples in every run, and no time limit on one: a slow machine must not fail.
fixed = functools.partial(
    settings, derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
