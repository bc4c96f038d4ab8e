"""Scores one setting, and builds records of results."""
