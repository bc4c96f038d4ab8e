"""Starts, monitors and ends several processes on one machine."""
