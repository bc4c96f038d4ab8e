"""Writes results as files, tables, a report and plots."""
