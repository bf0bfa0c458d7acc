"""The measures of redundancy, each split where batches and processes may be averaged.

`statistic` is a mean over samples, so that it may be averaged (weighted by samples) over micro-batches, processes and
a whole evaluation set; `value` turns the averaged statistic into J. For Direct `value` is linear, so averages of J are
exact as well; for all others they are not, and the statistic is what has to be averaged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from . import decorrelation, functional, kernels
from .config import DiversityConfig
from .distributed import mean_over_samples
from .registry import has_gamma, registered_measure
from .tensors import upcast


class Measure(ABC):
    """One way to say how redundant the units of a layer are.

    Attributes:
        has_gamma: it is taken at a gamma.
    """

    has_gamma: bool = True

    def __init__(self, config: DiversityConfig):
        """Keep the configuration; `reduction` and `jitter` are read from it."""
        self.config = config

    @abstractmethod
    def statistic(self, rows: Tensor, constant: Tensor | float) -> Tensor:
        """Mean over the samples of `rows` (N, D), differentiable; N may be 1.

        `constant` is the same for all samples that are averaged: gamma, or what `shift` gave.
        """

    def shift(self, rows: Tensor, synchronise: bool) -> Tensor | float:
        """The constant of a measure without gamma, from the first rows (N, D) of all processes if `synchronise`."""
        return 0.0

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

    has_gamma = False

    def shift(self, rows: Tensor, synchronise: bool) -> Tensor:
        """The mean (D,): near it, no digits of the moments cancel."""
        return common_mean(rows, synchronise)

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


class OwnMeasure(Measure):
    """A measure that a user has registered, see `registry.register_measure`."""

    def __init__(self, config: DiversityConfig, kind: type[Any]):
        """Make one of the class `kind`."""
        super().__init__(config)
        self.has_gamma = has_gamma(config.measure)
        self._own = kind()
        self._is_checked = False

    def statistic(self, rows: Tensor, constant: Tensor | float) -> Tensor:
        """See `Measure.statistic`; in float32 at least.

        Raises:
            TypeError: the class gives no float tensor.
            ValueError: it gives no mean over samples, or one without gradient.
        """
        found = self._statistic(rows, constant)
        if rows.requires_grad and torch.is_grad_enabled() and not found.requires_grad:
            raise ValueError(
                f"the statistic of measure {self.config.measure!r} has no gradient, so nothing would be trained: make "
                "it of the activations by operations of torch, without .detach(), .item() or NumPy"
            )
        if not self._is_checked and len(rows) > 1:  # once: it reads the device
            self._check_mean(rows[:4].detach(), constant)
        return found

    def _statistic(self, rows: Tensor, constant: Tensor | float) -> Tensor:
        found = self._own.statistic(upcast(rows), *([constant] if self.has_gamma else []))
        if not isinstance(found, Tensor) or not found.is_floating_point():
            what = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f"the statistic of measure {self.config.measure!r} is a {what}: it must be a float tensor")
        return found

    def _check_mean(self, rows: Tensor, constant: Tensor | float) -> None:
        whole = self._statistic(rows, constant)
        each = [self._statistic(row, constant) for row in rows.split(1)]
        is_mean = all(one.shape == whole.shape for one in each)
        if is_mean:
            error, size = (torch.stack(each).mean(0) - whole).abs(), whole.abs()
            is_mean = error.numel() == 0 or not bool(error.max() > 1e-3 * size.max())  # NaN is refused elsewhere
        if not is_mean:
            raise ValueError(
                f"the statistic of measure {self.config.measure!r} of {len(rows)} samples is not the mean of theirs, "
                "so it cannot be averaged over batches and processes: return the mean over the samples of something "
                "that does not depend on the others (no centring by the batch, say), and do the rest in value"
            )
        self._is_checked = True

    def statistic_shape(self, units: int) -> tuple[int, ...]:
        """See `Measure.statistic_shape`."""
        return tuple(self._statistic(torch.zeros(1, units), 1.0).shape)

    def value(self, statistic: Tensor, units: int, samples: Tensor | int) -> Tensor:
        """See `Measure.value`."""
        found: Any = self._own.value(statistic)
        if not isinstance(found, Tensor) or found.ndim:
            what = f"has shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"is a {type(found).__name__}"
            raise TypeError(f"the value of measure {self.config.measure!r} {what}: J must be a 0-dim tensor")
        if statistic.requires_grad and torch.is_grad_enabled() and not found.requires_grad:
            raise ValueError(
                f"the value of measure {self.config.measure!r} has no gradient, so nothing would be trained: make it "
                "of the statistic by operations of torch, without .detach(), .item() or NumPy"
            )
        return found


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
    own = registered_measure(config.measure)
    if own is not None:
        return OwnMeasure(config, own)
    kind = _MEASURES.get(config.measure)
    return None if kind is None else kind(config)
