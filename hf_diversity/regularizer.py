"""`DiversityRegularizer`: activations in, named parts of the loss out. It knows neither the model nor the trainer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .bandwidth import MedianGamma, wide_dtype
from .config import DiversityConfig
from .distributed import mean_over_samples, sum_over_processes, sum_with_gradient, world_size
from .functional import mean_squared_norm
from .measures import CovarianceMeasure, SimilarityMeasure, make_measure
from .registry import citation_of
from .tensors import upcast, without_autocast


class NonFiniteRegularizerError(ValueError):
    """The regulariser of a layer is NaN or infinite; the step must not reach the optimiser."""


class LayerParts(NamedTuple):
    """What one layer contributes, unweighted; 0-dim tensors on the device of the activations.

    `diversity` (J) is None for `measure="none"`, `gamma` for all measures that have none, and `activation_norm` for
    those of weights.
    """

    activation_norm: Tensor | None
    gamma: Tensor | None
    diversity: Tensor | None

    def tensors(self) -> list[Tensor]:
        """The parts that there are."""
        return [part for part in self if part is not None]


@dataclass
class RegularizerOutput:
    """The regulariser of one batch.

    Attributes:
        penalty: diversity_weight * sum J + activation_weight * sum P, to be added to the task loss; with gradient.
        layers: the detached, unweighted parts by layer.
    """

    penalty: Tensor
    layers: dict[str, LayerParts]

    def check_finite(self, step: int) -> None:
        """Raise if a part of any layer is not finite. Reads the device once.

        Args:
            step: the optimiser step, for the message.

        Raises:
            NonFiniteRegularizerError: names layer, step and cause.
        """
        values = torch.stack([part.double() for layer in self.layers.values() for part in layer.tensors()]).tolist()
        for name, layer in self.layers.items():
            norm, gamma, diversity = (values.pop(0) if part is not None else None for part in layer)
            if cause := why_not_finite(norm, gamma, diversity):
                raise NonFiniteRegularizerError(_not_finite_message(name, step, cause))


def _not_finite_message(name: str, step: int, cause: str) -> str:
    return (
        f"the diversity regulariser of layer {name!r} is not finite at step {step}: {cause}. The optimiser has not "
        "seen this step; the last checkpoint is usable"
    )


def why_not_finite(norm: float | None, gamma: float | None, diversity: float | None) -> str | None:
    """The cause in words, or None if all that there is, is finite."""
    if norm is not None and not math.isfinite(norm):
        return (
            f"its activations have the mean squared norm {norm}: they hold NaN or inf, or are too large to be "
            "squared; look for a learning rate that is too high, fp16 overflow or bad input data"
        )
    if gamma is not None and not math.isfinite(gamma):
        return (
            'gamma="median" has no value because no two units differ in any sample (dead or identical units); type a '
            "number, say gamma=1.0, or check the layer's initialisation"
        )
    if diversity is not None and not math.isfinite(diversity):
        if gamma is None:
            return f"the diversity loss is {diversity}: its input is not finite, or too large to be squared"
        return (
            f"the diversity loss is {diversity} at gamma = {gamma}: differences between units overflow, or (det, "
            "logdet) the similarity matrix is numerically singular; type a smaller gamma, or a larger jitter, say "
            "jitter=1e-3"
        )
    return None


class DiversityRegularizer:
    """Within-layer diversity over the rows of one or more layers.

    Pure but for one thing: with `gamma="median"` it keeps a running estimate of gamma per layer, which `state_dict`
    and `load_state_dict` carry over a restart.

    Args:
        config: what to compute.

    References:
        Laakom et al., "Within-layer Diversity Reduces Generalization Gap" (arXiv 2106.06012) and "WLD-Reg" (AAAI-23).

    Example:
        >>> regularizer = DiversityRegularizer(DiversityConfig(gamma=1.0))
        >>> output = regularizer({"fc": torch.randn(8, 4, requires_grad=True)}, step=0)
        >>> output.penalty.backward()
    """

    def __init__(self, config: DiversityConfig):
        """See the class."""
        self.config = config
        self.measure = make_measure(config)
        self._has_gamma = self.measure is not None and self.measure.has_gamma
        self.median_gamma = MedianGamma() if self._has_gamma and config.gamma == "median" else None
        # What both weights are multiplied by, see `callbacks.DiversityScheduleCallback`; None where nobody sets it
        self.scale: float | None = None
        self._fixed_gamma = None if config.gamma == "median" else float(config.gamma)

    @property
    def citation(self) -> str | None:
        """BibTeX of the measure's source; None where it has none, and for the norm term alone."""
        return citation_of(self.config.measure)

    def get_config_dict(self) -> dict[str, Any]:
        """The configuration as plain values."""
        return self.config.to_dict()

    def __call__(
        self,
        rows: Mapping[str, Tensor],
        step: int,
        factors: Mapping[str, Tensor] | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> RegularizerOutput:
        """Compute the regulariser of one batch.

        Args:
            rows: (N, D) activations by layer, N samples of D units; N may differ between layers and processes.
            step: optimiser steps done so far.
            factors: of each layer's part of the penalty, 0-dim; the parts themselves are as without.
            counts: of the samples that each layer's rows stand for, where they are drawn from more.

        Returns:
            The penalty and its parts. With `sync="global"` they are those of all processes' samples.

        Raises:
            ValueError: a layer has one unit, or one sample where there is one process, or none.
            TypeError: activations are not floating point.
        """
        synchronise = self.config.sync == "global" and world_size() > 1
        for name, values in rows.items():
            check_rows(name, values, alone=not synchronise)
        # Autocast would run the pieces in half precision, where det and cholesky do not exist and sums lose digits
        with without_autocast(next(iter(rows.values())).device.type):
            gammas = self._gammas(rows, step, synchronise)
            terms, layers = [], {}
            for name, values in rows.items():
                try:
                    count = values.shape[0] if counts is None else counts[name]
                    diversity, norm = self._layer(values, count, gammas.get(name), synchronise)
                except ValueError as error:
                    if not isinstance(self.measure, SimilarityMeasure):  # a measure of one's own is not of its form
                        raise
                    # det and logdet of a matrix that is not positive definite, on the CPU
                    size = mean_squared_norm(values.detach()).item()
                    gamma = float(gammas[name]) if name in gammas else None
                    cause = why_not_finite(size, gamma, None) or str(error)
                    raise NonFiniteRegularizerError(_not_finite_message(name, step, cause)) from error
                mine = []
                if self._weight_of_norm > 0:
                    mine.append(self._weight_of_norm * norm)
                if self._weight_of_diversity > 0 and diversity is not None:
                    mine.append(self._weight_of_diversity * diversity)
                terms += [term if factors is None else term * factors[name].to(term) for term in mine]
                layers[name] = LayerParts(
                    norm.detach(), gammas.get(name), None if diversity is None else diversity.detach()
                )
            first, *others = terms or [norm.new_zeros(())]
            penalty = sum((term.to(first.device) for term in others), first)
        return RegularizerOutput(penalty, layers)

    @property
    def _weight_of_diversity(self) -> float:
        return self.config.diversity_weight * (1.0 if self.scale is None else self.scale)

    @property
    def _weight_of_norm(self) -> float:
        return self.config.activation_weight * (1.0 if self.scale is None else self.scale)

    def _gammas(self, rows: Mapping[str, Tensor], step: int, synchronise: bool) -> dict[str, Tensor]:
        if not self._has_gamma:
            return {}
        if self.median_gamma is not None:
            return self.median_gamma.update(rows, step, synchronise)
        return {
            name: torch.tensor(self._fixed_gamma, dtype=wide_dtype(r.device), device=r.device)
            for name, r in rows.items()
        }

    def _layer(
        self, rows: Tensor, count: int, gamma: Tensor | None, synchronise: bool
    ) -> tuple[Tensor | None, Tensor]:
        """J (or None) and P of one layer, over all processes if `synchronise`."""
        units = rows.shape[1]
        # A part with weight 0 is logged, and must not cost a gradient
        parts = [mean_squared_norm(rows if self._weight_of_norm > 0 else rows.detach())]
        if self.measure is not None:
            some = rows if self._weight_of_diversity > 0 else rows.detach()
            constant = self.measure.shift(rows, synchronise) if gamma is None else gamma
            if self.config.scale_invariant and some.requires_grad:
                some = at_constant_scale(some, count, synchronise)
            if rows.shape[0] == 0:  # a process without samples takes part with weight 0
                some = torch.cat([some, some.new_zeros(1, units)])
            parts.append(self.measure.statistic(some, constant))
        if synchronise:
            parts = list(mean_over_samples(parts, count))
        if self.measure is None:
            return None, parts[0]
        samples: Tensor | int = rows.shape[0]
        if synchronise and isinstance(self.measure, CovarianceMeasure):
            samples = sum_over_processes(torch.tensor(float(samples), dtype=parts[1].dtype, device=rows.device))
        return self.measure.value(parts[1], units, samples), parts[0]

    @property
    def wants_calibration(self) -> bool:
        """Whether gamma of the first step should come from its whole accumulation window, see `calibrate`."""
        return self.median_gamma is not None and not self.median_gamma.has_estimate

    def calibrate(self, batches: Iterable[Mapping[str, Tensor]], step: int) -> None:
        """Set gamma for the first step from the rows of all its micro-batches."""
        if self.median_gamma is not None:
            self.median_gamma.calibrate(batches, step, self.config.sync == "global" and world_size() > 1)

    def discard_step(self) -> None:
        """Forget what the current step told about gamma: it is not taken."""
        if self.median_gamma is not None:
            self.median_gamma.discard_window()

    def current_gamma(self, name: str, step: int) -> Tensor | float | None:
        """A layer's gamma outside training: the number, the running estimate, or None before there is one."""
        if not self._has_gamma:
            return None
        return self.median_gamma.current(name, step) if self.median_gamma is not None else self._fixed_gamma

    def state_dict(self, step: int) -> dict[str, Any]:
        """What has to be saved after `step` optimiser steps to continue exactly; plain JSON values."""
        return {"gamma": self.median_gamma.state_dict(step)} if self.median_gamma is not None else {}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Continue from `state_dict`."""
        if self.median_gamma is not None:
            self.median_gamma.load_state_dict(state.get("gamma", {}), device)


def at_constant_scale(rows: Tensor, count: int, synchronise: bool) -> Tensor:
    """The same rows, but with a gradient that does not see their scale: none of it grows or shrinks all distances.

    They are divided by the root mean square of the distances between units and multiplied by its value. So J has the
    gradient of J at a gamma that follows this distance, while gamma itself is a constant within a step.

    Args:
        rows: (N, D).
        count: of the samples that they stand for.
        synchronise: the distance is that over all processes.
    """
    spread = upcast(rows).var(dim=1, unbiased=False).sum() * (count / max(len(rows), 1))
    if synchronise:
        spread = sum_with_gradient(spread)
    # Where no two units differ there is no scale to keep, and no gradient either
    spread = torch.where(spread > 0, spread, 1.0)
    # In the wider dtype: rounded to half precision, the factor's gradient would bring back what it takes out
    return upcast(rows) * (spread.detach() / spread).sqrt()


def check_rows(name: str, rows: Tensor, alone: bool = True) -> None:
    """Refuse rows from which similarity over a batch cannot be computed.

    Args:
        name: the layer, for the message.
        rows: (N, D).
        alone: whether these are all samples there are; other processes may hold more otherwise.

    Raises:
        TypeError: not floating point.
        ValueError: fewer than 2 units, or fewer than 2 samples.
    """
    if not rows.is_floating_point():
        raise TypeError(
            f"layer {name!r} gives {rows.dtype} activations: similarity needs floating point; name a layer that "
            "computes"
        )
    if rows.shape[1] < 2:
        raise ValueError(
            f"layer {name!r} has {rows.shape[1]} unit: within-layer diversity compares units and needs at least 2; "
            "name another layer"
        )
    if alone and rows.shape[0] == 0:
        raise ValueError(
            f"layer {name!r} has 0 samples after the attention mask: the batch is padding only; check the data "
            "collator"
        )
    if alone and rows.shape[0] == 1:
        raise ValueError(
            f"layer {name!r} has 1 sample in this batch: similarity is an average over a batch and needs at least 2; "
            "type a larger per_device_train_batch_size, or dataloader_drop_last=True if it is the last batch of an "
            "epoch"
        )
