"""Exact values over a whole data set: the statistics are means over samples, so they are summed batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .bandwidth import estimate_gamma, wide_dtype
from .config import DiversityConfig
from .data_pass import iterate_rows
from .distributed import sum_over_processes, world_size
from .functional import mean_squared_norm
from .measures import Logdet, Measure, SimilarityMeasure, make_measure
from .regularizer import NonFiniteRegularizerError, check_rows, why_not_finite
from .tensors import without_autocast


@dataclass
class LayerMeasurement:
    """One layer over a whole data set.

    Attributes:
        diversity: J of the configured measure; None for `measure="none"`.
        activation_norm: P, the mean squared norm of a sample's activations.
        gamma: the gamma that was used; None if no similarity was asked for.
        num_samples: samples (rows) seen by all processes.
        statistic: the mean over samples from which J follows: a scalar for Direct, S (D, D) for Det and Logdet,
            moments (1 + D, D) for the measures of covariance, for one of yours what it says; or None.
    """

    diversity: float | None
    activation_norm: float
    gamma: float | None
    num_samples: int
    statistic: Tensor | None

    @property
    def similarity(self) -> Tensor:
        """S, (D, D)."""
        if self.statistic is None or self.statistic.ndim != 2 or self.statistic.shape[0] != self.statistic.shape[1]:
            raise AttributeError("the similarity matrix was not measured; call hf_diversity.evaluation.measure_layers")
        return self.statistic

    @property
    def mean_similarity(self) -> float:
        """Mean off-diagonal element of S."""
        units = self.similarity.shape[0]
        return float((self.similarity.sum() - self.similarity.trace()) / (units * (units - 1)))


class DiversityMeter:
    """Sums of a measure's statistic and of the norm over batches.

    Args:
        measure: None for the norm alone.
        gamma: gives a layer's gamma, or None where it has to be estimated, from the first batch with samples.
    """

    def __init__(self, measure: Measure | None, gamma: Callable[[str], Tensor | float | None]):
        """See the class."""
        self.measure = measure
        self._gamma = gamma
        # What the statistic of a layer is taken with: its gamma, or the measure's shift
        self._constants: dict[str, Tensor | float] = {}
        self._sums: dict[str, list[Tensor]] = {}
        self._counts: dict[str, int] = {}
        self._units: dict[str, int] = {}

    @torch.no_grad()
    def update(self, rows: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            rows: (N, D) by layer; N may be 0, and may differ between processes.

        Raises:
            TypeError: the activations are not floating point.
            ValueError: a layer has one unit.
        """
        for name, values in rows.items():
            check_rows(name, values, alone=False)
            with without_autocast(values.device.type):
                self._add(name, values)

    def _add(self, name: str, rows: Tensor) -> None:
        count, units = rows.shape
        wide = wide_dtype(rows.device)
        if name not in self._sums:
            self._counts[name], self._units[name] = 0, units
            self._sums[name] = [torch.zeros((), dtype=wide, device=rows.device)]
            if self.measure is not None:
                self._sums[name].append(rows.new_zeros(self.measure.statistic_shape(units), dtype=wide))
        if self.measure is not None and name not in self._constants:
            constant = self._gamma(name) if self.measure.has_gamma else None
            # Every process comes here for the same batches, so all take part in the collectives of an estimate
            if constant is None and int(sum_over_processes(torch.tensor([count], device=rows.device))):
                constant = (
                    estimate_gamma(rows) if self.measure.has_gamma else self.measure.shift(rows, world_size() > 1)
                )
            if constant is not None:
                self._constants[name] = constant
        if count:
            self._sums[name][0] += mean_squared_norm(rows).to(wide) * count
            if self.measure is not None:
                self._sums[name][1] += self.measure.statistic(rows, self._constants[name]).to(wide) * count
        self._counts[name] += count

    def compute(self) -> dict[str, LayerMeasurement]:
        """The values over everything that was added in all processes.

        Raises:
            NonFiniteRegularizerError: a value is not finite; names the layer and the cause.
            ValueError: a layer had no sample at all.
        """
        return {name: self._compute(name) for name in self._sums}

    def _compute(self, name: str) -> LayerMeasurement:
        sums = self._sums[name]
        count = int(sum_over_processes(torch.tensor([self._counts[name]], device=sums[0].device)))
        if count == 0:
            raise ValueError(f"layer {name!r} has 0 samples in the whole data set: it is padding only")
        norm, *rest = (sum_over_processes(total) / count for total in sums)
        statistic = rest[0] if rest else None
        gamma = float(self._constants[name]) if self.measure is not None and self.measure.has_gamma else None
        cause = why_not_finite(float(norm), gamma, None)
        diversity = None
        if cause is None and statistic is not None and self.measure is not None:
            diversity = float(self.measure.value(statistic, self._units[name], count))
            cause = why_not_finite(None, gamma, diversity)
        if cause is not None:
            raise NonFiniteRegularizerError(
                f"the diversity of layer {name!r} over the evaluation set is not finite: {cause}"
            )
        return LayerMeasurement(diversity, float(norm), gamma, count, statistic)


def evaluation_record(measured: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Metrics of an evaluation: sums over layers, and each layer's where there are several.

    Args:
        measured: what has `diversity`, `activation_norm` and `gamma`, each may be None, by layer.
        prefix: of the metrics, "eval".
    """
    record: dict[str, float] = {}
    for part in ("activation_norm", "diversity"):
        values = [float(value) for layer in measured.values() if (value := getattr(layer, part)) is not None]
        if values:
            record[f"{prefix}_{part}"] = sum(values)
    for name, layer in measured.items():
        suffix = f"/{name}" if len(measured) > 1 else ""
        if layer.gamma is not None:
            record[f"{prefix}_gamma{suffix}"] = float(layer.gamma)
        if suffix and layer.diversity is not None:
            record[f"{prefix}_diversity{suffix}"] = float(layer.diversity)
    return record


def measure_layers(
    model: nn.Module,
    dataloader: Iterable[Mapping[str, Any]],
    diversity: DiversityConfig | None = None,
    gamma: float | None = None,
) -> dict[str, LayerMeasurement]:
    """Measure layers of any model over a data set, in evaluation mode, with their similarity matrices.

    Args:
        model: any model whose layers `find_layers` resolves; left in the mode it was in.
        dataloader: gives batches as dicts of the model's inputs; tensors are moved to the model's device.
        diversity: which layers, samples and gamma; weights do not matter. Default: `DiversityConfig()`.
        gamma: overrides `diversity.gamma`. With "median", it is that of the first batch.

    Returns:
        By layer; `LayerMeasurement.similarity` is the exact S over all samples. `diversity` is the value of the
        configured measure, with Direct in the configured reduction.

    Raises:
        ValueError: no batch came.
    """
    diversity = diversity or DiversityConfig()
    fixed = gamma if gamma is not None else (None if diversity.gamma == "median" else float(diversity.gamma))
    meter = DiversityMeter(Logdet(diversity), lambda name: fixed)  # its statistic is S, and all that follows from it
    measure = make_measure(diversity)
    other = None
    if measure is not None and not isinstance(measure, SimilarityMeasure):
        other = DiversityMeter(measure, lambda name: fixed)
    for rows in iterate_rows(model, dataloader, diversity):
        meter.update(rows)
        if other is not None:
            other.update(rows)
    measured = meter.compute()
    if not measured:
        raise ValueError("the data loader gave no batch: nothing was measured; check the data set")
    others = other.compute() if other is not None else {}
    for name, layer in measured.items():
        layer.diversity = others[name].diversity if name in others else None
        if isinstance(measure, SimilarityMeasure):
            statistic = measure.from_similarity(layer.similarity)
            layer.diversity = float(measure.value(statistic, len(layer.similarity), layer.num_samples))
    return measured
