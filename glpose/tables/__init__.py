"""The paper's tables: what is published, ours beside it, and how tables are written."""
