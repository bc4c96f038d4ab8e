"""Text that is generated as it comes, and how fast."""
