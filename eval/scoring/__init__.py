"""How one setting is scored, and what a row of results holds."""
