"""Unvalidated kernels under `hf_diversity.functional`: the pair sum of Direct and the similarity matrix S."""

from .autograd import pair_sum, similarity
from .determinant import log_determinant

__all__ = ["log_determinant", "pair_sum", "similarity"]
