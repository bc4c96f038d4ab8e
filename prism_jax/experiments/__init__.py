"""Recipes, what they load, and what a run keeps."""
