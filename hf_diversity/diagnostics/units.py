"""Redundancy, scale and death of units, and how far apart they are: functions of activations (N, D)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import functional
from ..bandwidth import estimate_gamma

# At which quantiles of D(x) are reported
PROBABILITIES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


def normalised_gamma(activations: Tensor) -> float:
    """The scale-normalised gamma, 1 / (2 m^2), m the median distance of two units: that of `gamma="median"`.

    Args:
        activations: (N, D), N >= 1, D >= 2.

    Returns:
        gamma; NaN if no two units differ in any sample.
    """
    return float(estimate_gamma(activations.detach()))


def mean_similarity(activations: Tensor, gamma: float | None = None) -> float:
    """Mean off-diagonal similarity s_nm = (1/N) sum_i exp(-gamma (a_in - a_im)^2), in float64.

    Args:
        activations: (N, D), D >= 2.
        gamma: the training's; None for `normalised_gamma`, which makes layers of different scale comparable.

    Returns:
        Between 0 and 1.
    """
    sharpness = normalised_gamma(activations) if gamma is None else gamma
    return float(functional.direct(activations.detach().double(), gamma=sharpness))


def correlation_matrix(activations: Tensor) -> Tensor:
    """Pearson correlation of the units over the samples, (D, D) float64; NaN for constant units."""
    wide = activations.detach().double()
    centred = wide - wide.mean(0)
    return correlation_from_covariance(centred.T @ centred, constant_units(activations))


def correlation_from_covariance(covariance: Tensor, constant: Tensor) -> Tensor:
    """Correlation from a covariance of any scale (D, D); NaN for the constant units (D,)."""
    deviation = covariance.diagonal().sqrt()
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
    return float(activations.detach().double().square().sum(1).mean())


def largest_activation(activations: Tensor) -> float:
    """C5 as measured: the largest |a_in|."""
    return float(activations.detach().abs().max())


def constant_units(activations: Tensor) -> Tensor:
    """Units that have one value over all samples: dead, whatever the activation function. (D,) bool."""
    return activations.detach().amax(0) == activations.detach().amin(0)


def never_positive_units(activations: Tensor) -> Tensor:
    """Units that are never above 0: dead behind a ReLU. (D,) bool."""
    return activations.detach().amax(0) <= 0


def average_distance(activations: Tensor) -> Tensor:
    """D(x) = 1 / (2 D (D - 1)) sum_{n != m} (a_n - a_m)^2 of every sample: the unbiased variance over its units.

    Args:
        activations: (N, D), D >= 2.

    Returns:
        (N,) float64.

    References:
        The diversity of Laakom et al., arXiv 2106.06012; d_min^2 is a lower bound of it.
    """
    return activations.detach().double().var(1, unbiased=True)


def distance_quantiles(distances: Tensor, probabilities: Sequence[float] = PROBABILITIES) -> dict[float, float]:
    """Quantiles of D(x) by probability: D(x) >= the quantile at p with probability 1 - p. Linear between samples.

    Args:
        distances: (N,), from `average_distance`.
        probabilities: in [0, 1].
    """
    ordered = distances.double().sort().values  # torch.quantile takes 16 million numbers at most
    quantiles = {}
    for p in probabilities:
        position = p * (len(ordered) - 1)
        low = int(position)
        high = min(low + 1, len(ordered) - 1)
        quantiles[p] = float(torch.lerp(ordered[low], ordered[high], position - low))
    return quantiles
