"""The report of a pipeline as one HTML file: its page, charts and tables, from plain data."""
