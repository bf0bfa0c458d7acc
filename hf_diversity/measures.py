"""The measures of redundancy, each split where batches and processes may be averaged.

`statistic` is a mean over samples, so that it may be averaged (weighted by samples) over micro-batches, processes and
a whole evaluation set; `value` turns the averaged statistic into J. For Direct `value` is linear, so averages of J are
exact as well; for all others they are not, and the statistic is what has to be averaged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from . import decorrelation, functional, kernels
from .config import DiversityConfig
from .distributed import mean_over_samples
from .tensors import upcast


class Measure(ABC):
    """One way to say how redundant the units of a layer are.

    Attributes:
        of_similarity: it is made from the similarity matrix S, with a gamma; if not, from the covariance.
    """

    of_similarity: bool = True

    def __init__(self, config: DiversityConfig):
        """Keep the configuration; `reduction` and `jitter` are read from it."""
        self.config = config

    @abstractmethod
    def statistic(self, rows: Tensor, constant: Tensor | float) -> Tensor:
        """Mean over the samples of `rows` (N, D), differentiable; N may be 1.

        `constant` is the same for all samples that are averaged: gamma, or for a covariance the shift (D,).
        """

    @abstractmethod
    def statistic_shape(self, units: int) -> tuple[int, ...]:
        """Shape of the statistic of a layer with D = `units`."""

    @abstractmethod
    def value(self, statistic: Tensor, units: int, samples: Tensor | int) -> Tensor:
        """J, a scalar, from the statistic over all `samples`; `units` is D."""


class SimilarityMeasure(Measure):
    """A measure that S determines."""

    @abstractmethod
    def from_similarity(self, similarity: Tensor) -> Tensor:
        """The statistic, from a similarity matrix S (D, D) that is there already."""


class Direct(SimilarityMeasure):
    """J = sum or mean over pairs n != m of s_nm (SPEC: Direct). The statistic is the sum over pairs, a scalar."""

    def statistic(self, rows: Tensor, constant: Tensor | float) -> Tensor:
        """See `Measure.statistic`."""
        return kernels.pair_sum(rows, constant)

    def statistic_shape(self, units: int) -> tuple[int, ...]:
        """See `Measure.statistic_shape`."""
        return ()

    def from_similarity(self, similarity: Tensor) -> Tensor:
        """See `SimilarityMeasure.from_similarity`."""
        return similarity.sum() - similarity.trace()

    def value(self, statistic: Tensor, units: int, samples: Tensor | int) -> Tensor:
        """See `Measure.value`."""
        return statistic / (units * (units - 1)) if self.config.reduction == "mean" else statistic


class Det(SimilarityMeasure):
    """J = -det(S + jitter I). The statistic is S, (D, D)."""

    def statistic(self, rows: Tensor, constant: Tensor | float) -> Tensor:
        """See `Measure.statistic`."""
        return kernels.similarity(rows, constant)

    def statistic_shape(self, units: int) -> tuple[int, ...]:
        """See `Measure.statistic_shape`."""
        return (units, units)

    def from_similarity(self, similarity: Tensor) -> Tensor:
        """See `SimilarityMeasure.from_similarity`."""
        return similarity

    def value(self, statistic: Tensor, units: int, samples: Tensor | int) -> Tensor:
        """See `Measure.value`."""
        return functional.det_from_similarity(statistic, jitter=self.config.jitter)


class Logdet(Det):
    """J = -log det(S + jitter I). The statistic is S, (D, D)."""

    def value(self, statistic: Tensor, units: int, samples: Tensor | int) -> Tensor:
        """See `Measure.value`."""
        return functional.logdet_from_similarity(statistic, jitter=self.config.jitter)


class CovarianceMeasure(Measure):
    """A measure that the covariance of the units determines. The statistic is their moments, (1 + D, D)."""

    of_similarity = False

    def statistic(self, rows: Tensor, constant: Tensor | float) -> Tensor:
        """See `Measure.statistic`."""
        return decorrelation.moments(rows, torch.as_tensor(constant))

    def statistic_shape(self, units: int) -> tuple[int, ...]:
        """See `Measure.statistic_shape`."""
        return (1 + units, units)


class DeCov(CovarianceMeasure):
    """J = 1/2 (||C||_F^2 - ||diag C||^2)."""

    def value(self, statistic: Tensor, units: int, samples: Tensor | int) -> Tensor:
        """See `Measure.value`."""
        return decorrelation.decov_from_covariance(decorrelation.covariance_from_moments(statistic))


class VCReg(CovarianceMeasure):
    """J = mean hinge(1 - std) + mean of the squared off-diagonal of C."""

    def value(self, statistic: Tensor, units: int, samples: Tensor | int) -> Tensor:
        """See `Measure.value`."""
        return decorrelation.vcreg_from_covariance(decorrelation.covariance_from_moments(statistic), samples)


class Correlation(CovarianceMeasure):
    """J = mean of the squared off-diagonal of the correlation matrix."""

    def value(self, statistic: Tensor, units: int, samples: Tensor | int) -> Tensor:
        """See `Measure.value`."""
        return decorrelation.correlation_from_moments(statistic)


@torch.no_grad()
def common_mean(rows: Tensor, synchronise: bool) -> Tensor:
    """Mean (D,) of the rows (N, D), of all processes if `synchronise`: where the moments of a covariance are taken."""
    mean = upcast(rows).sum(0) / max(len(rows), 1)
    return mean_over_samples([mean], len(rows))[0] if synchronise else mean


_MEASURES: dict[str, type[Measure]] = {
    "direct": Direct,
    "det": Det,
    "logdet": Logdet,
    "decov": DeCov,
    "vcreg": VCReg,
    "correlation": Correlation,
}


def make_measure(config: DiversityConfig) -> Measure | None:
    """The measure of activations that `config.measure` names; None for "none" and for measures of weights."""
    kind = _MEASURES.get(config.measure)
    return None if kind is None else kind(config)
