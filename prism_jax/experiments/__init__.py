"""Recipes, the objects that they load, and the files of runs."""
