"""`LayerDiagnostics`: everything that is measured of one layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class LayerDiagnostics:
    """One layer over a whole data set.

    Attributes:
        num_samples: N, rows seen by all processes.
        num_units: D.
        gamma: at which `similarity` was measured: the training's, or `normalised_gamma` where there is none.
        mean_similarity: mean off-diagonal s_nm at `gamma`.
        normalised_gamma: 1 / (2 m^2), m the median distance of two units in the first batch; 1 if none differ there.
        mean_similarity_normalised: mean off-diagonal s_nm at `normalised_gamma`.
        mean_absolute_correlation: over pairs of units that vary; NaN without such a pair.
        activation_norm: P, the mean squared norm of a sample.
        largest_activation: C5, the largest |a_in|.
        smallest_activation: the smallest a_in; the theory of the paper is for layers where it is >= 0.
        constant_units: (D,) bool, units with one value over all samples.
        never_positive_units: (D,) bool, units never above 0.
        effective_rank: of the covariance (centred).
        effective_rank_uncentred: of the second moments, RankMe.
        participation_ratio: of the covariance (centred).
        participation_ratio_uncentred: of the second moments.
        spectrum_slope: exponent alpha of the covariance's eigenvalues.
        eigenvalues: (D,) float64, of the covariance, descending.
        similarity: (D, D), S at `gamma`.
        correlation: (D, D), NaN for constant units.
        distance_quantiles: quantiles of the average distance D(x) by probability.
    """

    num_samples: int
    num_units: int
    gamma: float
    mean_similarity: float
    normalised_gamma: float
    mean_similarity_normalised: float
    mean_absolute_correlation: float
    activation_norm: float
    largest_activation: float
    smallest_activation: float
    constant_units: Tensor
    never_positive_units: Tensor
    effective_rank: float
    effective_rank_uncentred: float
    participation_ratio: float
    participation_ratio_uncentred: float
    spectrum_slope: float
    eigenvalues: Tensor
    similarity: Tensor
    correlation: Tensor
    distance_quantiles: dict[float, float]

    def scalars(self) -> dict[str, float]:
        """The numbers, with the shares of dead units."""
        return {
            **{name: getattr(self, name) for name in _SCALARS},
            "constant_share": float(self.constant_units.double().mean()),
            "never_positive_share": float(self.never_positive_units.double().mean()),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: scalars, quantiles, eigenvalues, numbers of dead units; no matrices, and None for NaN."""
        return {
            "num_samples": self.num_samples,
            "num_units": self.num_units,
            **{name: _number(value) for name, value in self.scalars().items()},
            "constant_units": self.constant_units.nonzero().flatten().tolist(),
            "never_positive_units": self.never_positive_units.nonzero().flatten().tolist(),
            "distance_quantiles": {f"{p:g}": _number(value) for p, value in self.distance_quantiles.items()},
            "eigenvalues": [_number(value) for value in self.eigenvalues.tolist()],
        }


_SCALARS = (
    "gamma",
    "mean_similarity",
    "normalised_gamma",
    "mean_similarity_normalised",
    "mean_absolute_correlation",
    "activation_norm",
    "largest_activation",
    "smallest_activation",
    "effective_rank",
    "effective_rank_uncentred",
    "participation_ratio",
    "participation_ratio_uncentred",
    "spectrum_slope",
)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
