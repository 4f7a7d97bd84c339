"""Staged jobs around the method: command line, configuration, records, re-runs."""
