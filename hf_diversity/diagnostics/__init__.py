"""What a layer's activations look like: redundancy, spectrum, dead units, distances, and train-test gaps.

Functions of activations (N, D), N samples of D units, computed in float64, and `layer_diagnostics` for all of them;
`measure_diagnostics` gives the same over a whole data set without keeping its activations.
"""

from .describe import layer_diagnostics
from .gaps import generalization_gaps
from .layer import LayerDiagnostics
from .meter import DiagnosticsMeter, measure_diagnostics
from .quantiles import PROBABILITIES, QuantileMeter, distance_quantiles
from .spectrum import (
    covariance_eigenvalues,
    effective_rank,
    participation_ratio,
    second_moment_eigenvalues,
    spectrum_slope,
)
from .units import (
    activation_norm,
    average_distance,
    constant_units,
    correlation_matrix,
    largest_activation,
    mean_absolute_correlation,
    mean_similarity,
    never_positive_units,
    normalised_gamma,
)

__all__ = [
    "PROBABILITIES",
    "DiagnosticsMeter",
    "LayerDiagnostics",
    "QuantileMeter",
    "activation_norm",
    "average_distance",
    "constant_units",
    "correlation_matrix",
    "covariance_eigenvalues",
    "distance_quantiles",
    "effective_rank",
    "generalization_gaps",
    "largest_activation",
    "layer_diagnostics",
    "mean_absolute_correlation",
    "mean_similarity",
    "measure_diagnostics",
    "never_positive_units",
    "normalised_gamma",
    "participation_ratio",
    "second_moment_eigenvalues",
    "spectrum_slope",
]
