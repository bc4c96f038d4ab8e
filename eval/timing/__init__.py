"""Requests timed on real processes, and latency predicted."""
