"""The bounds of the paper's theory as functions, with their derivations and their limits."""

from .output import largest_distance, output_bound, output_bound_bhatia_davis

__all__ = ["largest_distance", "output_bound", "output_bound_bhatia_davis"]
