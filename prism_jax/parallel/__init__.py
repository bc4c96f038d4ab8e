"""Placement of parts: the partition, the two runners, and several processes."""
