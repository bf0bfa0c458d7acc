"""The one rule that decides which kernel computes the pair sum.

Costs in ns per element (value and gradient, float32, one thread of an AVX-512 server core), from `benchmarks/`; only
their ratios matter. D units, K terms of a row's Fourier series (`fourier.terms_needed`, about 1.3 (sqrt(gamma) range +
4)):

    tiles    1.1 min(D, (D + 128) / 2)           every pair once, both halves of the diagonal tiles of 128 units
    fourier  10 + 0.36 K + (300 + 110 K) / D     waves and products; per row, the table of some 3 K products
    sorted   140                                 whatever the range; rows with outliers or heavy tails

The smallest wins, for each row by itself. So layers of up to some 32 units go to tiles, usual rows to Fourier, and
rows of more than about 300 terms to sorting; K must be known on the host, hence CPU tensors only. Elsewhere nothing
may wait for the
device: tiles, or on CUDA the kernels of `triton_direct`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .backend import triton_serves
from .cells import pair_sum_sorted
from .fourier import CHUNK, pair_sum_fourier, terms_needed
from .tiles import pair_sum_tiles

_SORTED_COST = 140.0
_FEWEST_TERMS = 6  # of a row of equal units
# Rows share the number of terms of their widest. Another bucket costs 3 ns per element (its rows are gathered and
# scattered), which pays where rows need a quarter and 8 terms less.
_BUCKET_SHARE, _BUCKET_TERMS = 0.75, 8


def pair_sum_value(activations: Tensor, gamma: Tensor | float, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """(1/N) sum_i sum_{n != m} exp(-gamma (a_in - a_im)^2) and its gradient.

    Args:
        activations: (N, D) float32 or float64, without gradient.
        gamma: sharpness, positive; on the CPU a number.
        with_gradient: whether to compute the gradient.

    Returns:
        0-dim value; (N, D) gradient or None.
    """
    rows, units = activations.shape
    gradient = None
    if with_gradient:
        gradient = torch.empty_like(activations, memory_format=torch.contiguous_format)
    if triton_serves(activations):
        from .triton_direct import pair_sum_triton

        total = pair_sum_triton(activations, gamma, gradient)
    elif activations.device.type == "cpu":
        total = _pair_sum_cpu(activations, float(gamma), gradient)
    else:
        total = pair_sum_tiles(activations, gamma, gradient)
    if gradient is not None:
        gradient /= rows
    # The series may leave [0, D (D - 1)] by its error bound.
    return (total / rows).clamp(0, units * (units - 1)).to(activations.dtype), gradient


def estimated_cost(rows: int, units: int, spread: float = 4.5) -> float:
    """About how long value and gradient of Direct take on one CPU thread, by the costs above, in nanoseconds.

    Args:
        rows: N.
        units: D.
        spread: sqrt(gamma) times the range of a row. At gamma = median that is 4.5 for normally distributed
            activations of 512 units.
    """
    terms = float(terms_needed(torch.tensor([spread], device="cpu"))[0])
    return rows * units * min(_SORTED_COST, _tiles_cost(units), _fourier_cost(terms, units))


def _tiles_cost(units: int) -> float:
    return 1.1 * min(units, (units + 128) / 2)


def _fourier_cost(terms: float, units: int) -> float:
    return 10 + 0.36 * terms + (300 + 110 * terms) / units


def _most_terms(units: int) -> float:
    """The number of terms from which on another kernel is cheaper."""
    other = min(_SORTED_COST, _tiles_cost(units))
    return (other - 10 - 300 / units) / (0.36 + 110 / units)


def _least_of_bucket(widest: float) -> float:
    return min(_BUCKET_SHARE * widest, widest - _BUCKET_TERMS)


def _pair_sum_cpu(activations: Tensor, gamma: float, gradient: Tensor | None) -> Tensor:
    units = activations.shape[1]
    most = _most_terms(units)
    if most < _FEWEST_TERMS:
        return pair_sum_tiles(activations, gamma, gradient)
    root = math.sqrt(gamma)
    low, high = activations.amin(1), activations.amax(1)
    terms = terms_needed((high - low) * root)
    fewest, widest = float(terms.min()), float(terms.max())
    if not math.isfinite(widest):  # NaN or infinite activations: the caller sees NaN
        if gradient is not None:
            gradient.fill_(math.nan)
        return torch.tensor(math.nan, dtype=torch.float64)
    if widest <= most and (fewest >= _least_of_bucket(widest) or activations.numel() <= CHUNK // 2):
        return pair_sum_fourier(activations, low, high, root, int(widest), gradient)

    total = torch.zeros((), dtype=torch.float64)
    for members, number in _buckets(terms, most, units):
        if number is not None:
            total += pair_sum_fourier(activations, low, high, root, number, gradient, members)
            continue
        part = activations[members]
        part_gradient = torch.empty_like(part) if gradient is not None else None
        if _SORTED_COST < _tiles_cost(units):
            total += pair_sum_sorted(part, root, part_gradient)
        else:
            total += pair_sum_tiles(part, gamma, part_gradient)
        if gradient is not None and part_gradient is not None:
            gradient[members] = part_gradient
    return total


def _buckets(terms: Tensor, most: float, units: int) -> list[tuple[Tensor, int | None]]:
    """Divide rows by the terms that they need, so that a row with an outlier does not tax the others.

    Args:
        terms: (N,) terms needed.
        most: rows that need more are no rows for the series.
        units: D, the length of a row.

    Returns:
        Row numbers and their number of terms, None for the rows beyond `most`.
    """
    ordered, order = terms.sort(descending=True)
    numbers = ordered.tolist()
    first = sum(number > most for number in numbers)
    buckets: list[tuple[Tensor, int | None]] = [(order[:first], None)] if first else []
    while first < len(numbers):
        last = first + 1
        while last < len(numbers) and (
            numbers[last] >= _least_of_bucket(numbers[first]) or (last - first) * units < CHUNK // 2
        ):
            last += 1
        buckets.append((order[first:last], int(numbers[first])))
        first = last
    return buckets
