"""Plans the settings of a sweep, and stores finished records."""
