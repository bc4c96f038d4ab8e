"""Which settings a sweep scores, and what it need not score again."""
