"""The bounds of the paper's theory as functions, with their derivations and their limits."""

from .estimation import (
    EstimationBound,
    hinge_loss_bound,
    logistic_loss_bound,
    squared_loss_bound,
    without_diversity,
)
from .inputs import BoundInputs, rademacher_bound
from .measure import measure_inputs
from .output import largest_distance, output_bound, output_bound_bhatia_davis
from .summary import Summary, SummaryRow, summary

__all__ = [
    "BoundInputs",
    "EstimationBound",
    "Summary",
    "SummaryRow",
    "hinge_loss_bound",
    "largest_distance",
    "logistic_loss_bound",
    "measure_inputs",
    "output_bound",
    "output_bound_bhatia_davis",
    "rademacher_bound",
    "squared_loss_bound",
    "summary",
    "without_diversity",
]
