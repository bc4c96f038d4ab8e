"""The one block of all models."""
