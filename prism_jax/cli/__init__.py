"""Command lines of the entry points."""
