"""Redundancy, scale and death of units, and how far apart they are: functions of activations (N, D).

Each takes N >= 1 samples in any float dtype, computes in float64 and gives no gradient. Each raises a TypeError for
what is no float tensor, and a ValueError for a wrong shape or for activations that are not finite.
"""

from __future__ import annotations

import math

from torch import Tensor

from .. import functional
from ..bandwidth import distance_histogram, gamma_from_log2, log2_median
from .checks import float64_activations


def normalised_gamma(activations: Tensor) -> float:
    """The scale-normalised gamma, 1 / (2 m^2), m the median distance of two units: that of `gamma="median"`.

    The median is over all samples and D random pairs of units, the same in every call, to some 1 %.

    Args:
        activations: (N, D), D >= 2.

    Returns:
        gamma; NaN if no two units differ in any sample.
    """
    wide = float64_activations(activations, units=2)
    # Not `estimate_gamma`, which counts over all processes
    return float(gamma_from_log2(log2_median(distance_histogram(wide, seed=0, pairs=wide.shape[1]))))


def mean_similarity(activations: Tensor, gamma: float | None = None) -> float:
    """Mean off-diagonal similarity s_nm = (1/N) sum_i exp(-gamma (a_in - a_im)^2), in float64.

    Args:
        activations: (N, D), N >= 2, D >= 2.
        gamma: the training's; None for `normalised_gamma`, which makes layers of different scale comparable.

    Returns:
        Between 0 and 1; 1 if no two units differ in any sample.
    """
    if gamma is None:
        gamma = normalised_gamma(activations)
        if math.isnan(gamma):
            return 1.0
    return float(functional.direct(float64_activations(activations, units=2), gamma=gamma))


def correlation_matrix(activations: Tensor) -> Tensor:
    """Pearson correlation of the units over the samples, (D, D) float64; NaN for constant units."""
    wide = float64_activations(activations)
    centred = wide - wide.mean(0)
    return correlation_from_covariance(centred.T @ centred, constant_units(activations))


def correlation_from_covariance(covariance: Tensor, constant: Tensor) -> Tensor:
    """Correlation from a covariance of any scale (D, D); NaN for the constant units (D,).

    A unit whose variance is 0 in float64 (it varies by less than 1e-154) counts as constant too.
    """
    deviation = covariance.diagonal().sqrt()
    constant = constant | (deviation == 0)
    correlation = (covariance / deviation[:, None] / deviation).clamp(-1, 1)
    correlation[constant] = math.nan
    correlation[:, constant] = math.nan
    correlation[~constant, ~constant] = 1.0
    return correlation


def mean_absolute_correlation(correlation: Tensor) -> float:
    """Mean |correlation| over pairs of different units that both vary; NaN where there is no such pair.

    Args:
        correlation: (D, D), as `correlation_matrix` gives it.
    """
    varies = ~correlation.diagonal().isnan()
    count = int(varies.sum())
    if count < 2:
        return math.nan
    some = correlation[varies][:, varies].abs()
    return float((some.sum() - some.diagonal().sum()) / (count * (count - 1)))


def activation_norm(activations: Tensor) -> float:
    """P, the mean squared norm (1/N) sum_i ||a_i||^2."""
    return float(functional.activation_norm(float64_activations(activations)))


def largest_activation(activations: Tensor) -> float:
    """C5 as measured: the largest |a_in|."""
    return float(float64_activations(activations).abs().max())


def constant_units(activations: Tensor) -> Tensor:
    """Units that have one value over all samples: dead, whatever the activation function. (D,) bool."""
    wide = float64_activations(activations)
    return wide.amax(0) == wide.amin(0)


def never_positive_units(activations: Tensor) -> Tensor:
    """Units that are never above 0: dead behind a ReLU. (D,) bool."""
    return float64_activations(activations).amax(0) <= 0


def average_distance(activations: Tensor) -> Tensor:
    """D(x) = 1 / (2 D (D - 1)) sum_{n != m} (a_n - a_m)^2 of every sample: the unbiased variance over its units.

    Args:
        activations: (N, D), D >= 2.

    Returns:
        (N,) float64.

    References:
        The diversity of Laakom et al., arXiv 2106.06012; d_min^2 is a lower bound of it.
    """
    return functional.average_distance(float64_activations(activations, units=2))
