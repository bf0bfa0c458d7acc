"""The measures of redundancy, each split where batches and processes may be averaged.

`statistic` is a mean over samples, so that it may be averaged (weighted by samples) over micro-batches, processes and
a whole evaluation set; `value` turns the averaged statistic into J. For Direct `value` is linear, so averages of J are
exact as well; for Det and Logdet they are not, and the statistic is what has to be averaged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from . import functional, kernels
from .config import DiversityConfig

WLD_REG_BIBTEX = """@inproceedings{laakom2023wldreg,
  title     = {{WLD-Reg}: A Data-Dependent Within-Layer Diversity Regularizer},
  author    = {Laakom, Firas and Raitoharju, Jenni and Iosifidis, Alexandros and Gabbouj, Moncef},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  volume    = {37},
  year      = {2023},
  doi       = {10.1609/aaai.v37i7.26015},
}"""


class Measure(ABC):
    """One way to say how redundant the units of a layer are."""

    citation: str = WLD_REG_BIBTEX

    def __init__(self, config: DiversityConfig):
        """Keep the configuration; `reduction` and `jitter` are read from it."""
        self.config = config

    @abstractmethod
    def statistic(self, rows: Tensor, gamma: Tensor | float) -> Tensor:
        """Mean over the samples of `rows` (N, D), differentiable; N may be 1."""

    @abstractmethod
    def statistic_shape(self, units: int) -> tuple[int, ...]:
        """Shape of the statistic of a layer with D = `units`."""

    @abstractmethod
    def from_similarity(self, similarity: Tensor) -> Tensor:
        """The statistic, from a similarity matrix S (D, D) that is there already."""

    @abstractmethod
    def value(self, statistic: Tensor, units: int) -> Tensor:
        """J, a scalar, from the statistic over all samples; `units` is D."""


class Direct(Measure):
    """J = sum or mean over pairs n != m of s_nm (SPEC: Direct). The statistic is the sum over pairs, a scalar."""

    def statistic(self, rows: Tensor, gamma: Tensor | float) -> Tensor:
        """See `Measure.statistic`."""
        return kernels.pair_sum(rows, gamma)

    def statistic_shape(self, units: int) -> tuple[int, ...]:
        """See `Measure.statistic_shape`."""
        return ()

    def from_similarity(self, similarity: Tensor) -> Tensor:
        """See `Measure.from_similarity`."""
        return similarity.sum() - similarity.trace()

    def value(self, statistic: Tensor, units: int) -> Tensor:
        """See `Measure.value`."""
        return statistic / (units * (units - 1)) if self.config.reduction == "mean" else statistic


class Det(Measure):
    """J = -det(S + jitter I). The statistic is S, (D, D)."""

    def statistic(self, rows: Tensor, gamma: Tensor | float) -> Tensor:
        """See `Measure.statistic`."""
        return kernels.similarity(rows, gamma)

    def statistic_shape(self, units: int) -> tuple[int, ...]:
        """See `Measure.statistic_shape`."""
        return (units, units)

    def from_similarity(self, similarity: Tensor) -> Tensor:
        """See `Measure.from_similarity`."""
        return similarity

    def value(self, statistic: Tensor, units: int) -> Tensor:
        """See `Measure.value`."""
        return functional.det_from_similarity(statistic, jitter=self.config.jitter)


class Logdet(Det):
    """J = -log det(S + jitter I). The statistic is S, (D, D)."""

    def value(self, statistic: Tensor, units: int) -> Tensor:
        """See `Measure.value`."""
        return functional.logdet_from_similarity(statistic, jitter=self.config.jitter)


_MEASURES: dict[str, type[Measure]] = {"direct": Direct, "det": Det, "logdet": Logdet}


def make_measure(config: DiversityConfig) -> Measure | None:
    """The measure that `config.measure` names; None for "none"."""
    return None if config.measure == "none" else _MEASURES[config.measure](config)
