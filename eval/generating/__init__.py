"""Streams generated text, and measures its speed."""
