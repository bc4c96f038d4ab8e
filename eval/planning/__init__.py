"""Judges the ways to run a model, and puts the answer in words."""
