"""Quantiles of the average distance D(x), of all samples at once or over batches and processes in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..distributed import gather_over_processes, max_over_processes, sum_over_processes
from .checks import float64

PROBABILITIES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""At which quantiles of D(x) are reported."""

EXACT_SAMPLES = 2**20
"""Up to so many samples of a layer, over all processes, quantiles are exact: 8 MB."""

# Beyond, values are counted in the bins that the exponent and the first 12 bits of the fraction of a float32 number
# make, 8 MB as well. A bin is at most 2^-12 of its values wide, and its middle is within half of that.
_FRACTION_BITS = 12
_DROPPED_BITS = 23 - _FRACTION_BITS
_BINS = 255 << _FRACTION_BITS  # those of finite numbers


def distance_quantiles(distances: Tensor, probabilities: Sequence[float] = PROBABILITIES) -> dict[float, float]:
    """Quantiles of D(x) by probability: D(x) >= the quantile at p with probability 1 - p. Linear between samples.

    Args:
        distances: (N,), N >= 1, from `average_distance`.
        probabilities: in [0, 1].

    Raises:
        ValueError: the shape is not (N >= 1,), or a probability is outside [0, 1].
    """
    if distances.ndim != 1 or len(distances) == 0:
        raise ValueError(
            f"distances have shape {tuple(distances.shape)}: they must be (N,), N >= 1; type "
            "average_distance(activations)"
        )
    ordered = float64(distances).sort().values  # torch.quantile takes 16 million numbers at most
    return _between_samples(lambda rank: ordered[rank], len(ordered), probabilities)


def _between_samples(
    sample: Callable[[int], Tensor], count: int, probabilities: Sequence[float]
) -> dict[float, float]:
    """Interpolate; `sample(k)` is the k-th smallest of `count` values, from 0."""
    quantiles = {}
    for p in probabilities:
        if not 0 <= p <= 1:
            raise ValueError(f"a probability is {p}: quantiles are at probabilities from 0 to 1; type 0.05 for 5 %")
        position = p * (count - 1)
        low = int(position)
        quantiles[p] = float(torch.lerp(sample(low), sample(min(low + 1, count - 1)), position - low))
    return quantiles


class QuantileMeter:
    """Quantiles of non-negative values, added batch by batch.

    Up to `exact_samples` values over all processes they are exact. Beyond, values are counted in bins, and a quantile
    is within 1/8000 of what it would be (relative, for values from 1e-38 to 3e38); the least and the largest value
    stay exact. No value is drawn at random, and neither the order nor the split over processes matters.

    Args:
        exact_samples: values that are kept before they are counted only.
    """

    def __init__(self, exact_samples: int = EXACT_SAMPLES):
        """See the class."""
        self.exact_samples = exact_samples
        self.count = 0
        self._kept: list[Tensor] = []
        self._histogram: Tensor | None = None
        self._lowest, self._highest = torch.tensor(torch.inf).double(), torch.tensor(-torch.inf).double()

    def add(self, values: Tensor) -> None:
        """Add values (N,), N >= 0."""
        values = float64(values).cpu()
        if not len(values):
            return
        self.count += len(values)
        self._lowest = torch.minimum(self._lowest, values.min())
        self._highest = torch.maximum(self._highest, values.max())
        if self._histogram is not None:
            self._histogram += _histogram(values)
            return
        self._kept.append(values)
        if self.count > self.exact_samples:
            self._histogram = self._counts()
            self._kept = []

    def _counts(self) -> Tensor:
        if self._histogram is not None:
            return self._histogram
        return _histogram(torch.cat(self._kept)) if self._kept else torch.zeros(_BINS, dtype=torch.int64)

    def compute(
        self, probabilities: Sequence[float] = PROBABILITIES, device: torch.device | str = "cpu"
    ) -> dict[float, float]:
        """Quantiles of the values of all processes, the same in each.

        Args:
            probabilities: in [0, 1].
            device: on which processes exchange tensors.

        Raises:
            ValueError: no process has a value, or a probability is outside [0, 1].
        """
        total = int(sum_over_processes(torch.tensor([self.count], device=device)))
        if total <= self.exact_samples:
            kept = torch.cat(self._kept) if self._kept else torch.zeros(0, dtype=torch.float64)
            return distance_quantiles(_exchange(gather_over_processes, kept, device), probabilities)
        lowest = -_exchange(max_over_processes, -self._lowest, device)
        highest = _exchange(max_over_processes, self._highest, device)
        cumulative = _exchange(sum_over_processes, self._counts(), device).cumsum(0)

        def sample(rank: int) -> Tensor:
            if rank in (0, total - 1):
                return lowest if rank == 0 else highest
            index = torch.searchsorted(cumulative, rank + 1)
            edges = torch.stack([index, index + 1]).mul(1 << _DROPPED_BITS).int().view(torch.float32).double()
            return edges.mean().clamp(lowest, highest)

        return _between_samples(sample, total, probabilities)


def _histogram(values: Tensor) -> Tensor:
    """Counts of non-negative values by bin, (1044480,) int64; what is too large or NaN is in the last one."""
    bins = (values.float().view(torch.int32) >> _DROPPED_BITS).long().clamp_(0, _BINS - 1)
    return torch.bincount(bins, minlength=_BINS)


def _exchange(collective: Callable[[Tensor], Tensor], tensor: Tensor, device: torch.device | str) -> Tensor:
    """Run a collective on `device`, and come back to the CPU."""
    on_device = tensor if torch.device(device).type == "mps" else tensor.to(device)  # MPS: one process, no float64
    return collective(on_device).cpu()
