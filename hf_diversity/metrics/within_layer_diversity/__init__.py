"""Within-layer diversity, as a local module of the `evaluate` library."""
