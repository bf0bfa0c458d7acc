"""Sums over samples, and the diagnostics that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import functional
from ..bandwidth import wide_dtype
from ..distributed import max_over_processes, sum_over_processes
from ..evaluation import LayerMeasurement
from .checks import float64_activations
from .layer import LayerDiagnostics
from .quantiles import distance_quantiles
from .spectrum import effective_rank, participation_ratio, spectrum_slope, symmetric_eigenvalues
from .units import (
    activation_norm,
    average_distance,
    correlation_from_covariance,
    mean_absolute_correlation,
    normalised_gamma,
)


@dataclass
class Moments:
    """Count, mean and centred second moments of the samples so far, with the extremes of every unit.

    Batches are merged as in Chan, Golub and LeVeque (1979), so that an offset of the activations costs no digits.
    """

    mean: Tensor  # (D,)
    scatter: Tensor  # (D, D), sum_i (a_i - mean) (a_i - mean)^T
    highest: Tensor  # (D,)
    lowest: Tensor  # (D,)
    count: int = 0

    @classmethod
    def of_no_sample(cls, rows: Tensor) -> Moments:
        """Those of a layer like `rows`, (N, D), to which nothing was added yet."""
        units, wide = rows.shape[1], wide_dtype(rows.device)
        infinite = rows.new_full((units,), float("inf"), dtype=wide)
        zero = rows.new_zeros(units, dtype=wide)
        return cls(zero, rows.new_zeros((units, units), dtype=wide), -infinite, infinite)

    def add(self, rows: Tensor) -> None:
        """Add (N, D) activations, N >= 1, in the dtype of the sums."""
        count = len(rows)
        mean = rows.mean(0)
        centred = rows - mean
        shift = mean - self.mean
        total = self.count + count
        self.scatter.addmm_(centred.T, centred).addr_(shift, shift, alpha=self.count * count / total)
        self.mean += shift * (count / total)
        self.highest = torch.maximum(self.highest, rows.amax(0))
        self.lowest = torch.minimum(self.lowest, rows.amin(0))
        self.count = total

    def over_processes(self) -> Moments:
        """Those of all processes' samples, the same everywhere."""
        count = int(sum_over_processes(torch.tensor([self.count], device=self.mean.device)))
        if count == 0:
            raise ValueError("a layer has 0 samples in the whole data set: it is padding only, or there was no batch")
        mean = sum_over_processes(self.mean * self.count) / count
        shift = self.mean - mean
        scatter = sum_over_processes(torch.addr(self.scatter, shift, shift, alpha=float(self.count)))
        return Moments(mean, scatter, max_over_processes(self.highest), -max_over_processes(-self.lowest), count)


def describe(
    moments: Moments, own: LayerMeasurement, normalised: LayerMeasurement, distance_quantiles: dict[float, float]
) -> LayerDiagnostics:
    """What follows from the moments, from S at the training's and the normalised gamma, and from quantiles of D(x)."""
    covariance = moments.scatter / moments.count
    second = torch.addr(covariance, moments.mean, moments.mean)
    constant = moments.highest == moments.lowest
    correlation = correlation_from_covariance(covariance, constant)
    centred, uncentred = symmetric_eigenvalues(covariance), symmetric_eigenvalues(second)
    return LayerDiagnostics(
        num_samples=moments.count,
        num_units=len(moments.mean),
        gamma=_gamma(own),
        mean_similarity=own.mean_similarity,
        normalised_gamma=_gamma(normalised),
        mean_similarity_normalised=normalised.mean_similarity,
        mean_absolute_correlation=mean_absolute_correlation(correlation),
        activation_norm=float(second.trace()),
        largest_activation=float(torch.maximum(moments.highest.abs(), moments.lowest.abs()).max()),
        smallest_activation=float(moments.lowest.min()),
        constant_units=constant.cpu(),
        never_positive_units=(moments.highest <= 0).cpu(),
        effective_rank=effective_rank(centred),
        effective_rank_uncentred=effective_rank(uncentred),
        participation_ratio=participation_ratio(centred),
        participation_ratio_uncentred=participation_ratio(uncentred),
        spectrum_slope=spectrum_slope(centred),
        eigenvalues=centred.cpu(),
        similarity=own.similarity.cpu(),
        correlation=correlation.cpu(),
        distance_quantiles=distance_quantiles,
    )


def _gamma(measured: LayerMeasurement) -> float:
    assert measured.gamma is not None  # a similarity was measured
    return measured.gamma


def layer_diagnostics(activations: Tensor, gamma: float | None = None) -> LayerDiagnostics:
    """Everything that is measured of a layer, from all its activations at once; no other process takes part.

    Args:
        activations: (N, D), any float dtype, N >= 2, D >= 2.
        gamma: the training's; None for the normalised one.

    Raises:
        TypeError: activations are no tensor or not of a float dtype.
        ValueError: the shape is not (N >= 2, D >= 2), an activation is not finite, or gamma is not positive and
            finite.
    """
    rows = float64_activations(activations, units=2)
    moments = Moments.of_no_sample(rows)
    moments.add(rows)
    scaled = normalised_gamma(rows)
    scaled = 1.0 if math.isnan(scaled) else scaled  # equal units are similar at any gamma
    norm = activation_norm(rows)

    def at(sharpness: float) -> LayerMeasurement:
        similarity = functional.similarity_matrix(rows, sharpness)
        return LayerMeasurement(None, norm, float(sharpness), len(rows), similarity)

    normalised = at(scaled)
    own = normalised if gamma is None else at(gamma)
    return describe(moments, own, normalised, distance_quantiles(average_distance(rows)))
