"""Generalisation gap, as a local module of the `evaluate` library."""
