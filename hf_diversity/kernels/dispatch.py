"""The one rule that decides which kernel computes the pair sum.

Costs in ns per element (value and gradient, float32, one thread of an AVX-512 server core), from `benchmarks/`; only
their ratios matter. D units, K terms of a row's Fourier series (`fourier.terms_needed`, about 1.3 (sqrt(gamma) range +
4)):

    tiles    1.1 min(D, (D + 128) / 2)            every pair once, both halves of the diagonal tiles of 128 units
    fourier  7.3 + 0.31 K + (200 + 60 K) / D      waves and products; per row, the table of some 3 K products
    sorted   140                                  whatever the range; rows with outliers or heavy tails

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
from .fourier import cheapest_steps, pair_sum_fourier, terms_needed, terms_of_rows
from .tiles import pair_sum_tiles

_SORTED_COST = 140.0
_CALL_COST = 300_000.0  # ns of any call, forward and backward: about a hundred operations on small tensors
_FEWEST_TERMS = 6  # of a row of equal units
# Rows share the number of terms of their widest. Another bucket costs its small operations, whatever its size, and
# where no bucket has nearly all rows, every row must be gathered and scattered.
_BUCKET_COST = 150_000.0  # ns
_GATHER_COST = 1.0  # ns per element of all rows
_NEARLY_ALL = 0.9  # of the rows: then they are computed in place, and the few others a second time


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
    gradient, share = None, 1 / rows
    if with_gradient:
        gradient = torch.empty_like(activations, memory_format=torch.contiguous_format)
    if triton_serves(activations):
        from .triton_direct import pair_sum_triton

        total = pair_sum_triton(activations, gamma, gradient)
    elif activations.device.type == "cpu":
        mean = _pair_sum_cpu(activations, float(gamma), gradient, share) / rows
        # Numbers, as an operation on a small tensor costs as much as ten of these. The series may leave [0, D (D - 1)]
        # by its error bound; NaN stays NaN.
        value = min(max(mean, 0.0), float(units * (units - 1)))
        return torch.tensor(value, dtype=activations.dtype, device=activations.device), gradient
    else:
        total = pair_sum_tiles(activations, gamma, gradient)
    if gradient is not None:
        gradient *= share
    return (total / rows).clamp(0, units * (units - 1)).to(activations.dtype), gradient


def estimated_cost(rows: int, units: int, spread: float = 4.5) -> float:
    """About how long value and gradient of Direct take on one CPU thread, by the costs above, in nanoseconds.

    Within 30 % of what was measured from 64 x 64 to 6272 x 768, normally distributed or behind a GELU, at gamma =
    median, on one core of an AVX-512 server. Another gamma and heavy tails change it.

    Args:
        rows: N.
        units: D.
        spread: sqrt(gamma) times the range of a row. At gamma = median that is 4.5 for normally distributed
            activations of 512 units.
    """
    terms = float(terms_needed(spread, torch.float32))
    return _CALL_COST + rows * units * min(_SORTED_COST, _tiles_cost(units), _fourier_cost(terms, units))


def _tiles_cost(units: int) -> float:
    return 1.1 * min(units, (units + 128) / 2)


def _fourier_cost(terms: float, units: int) -> float:
    return 7.3 + 0.31 * terms + (200 + 60 * terms) / units


def _most_terms(units: int) -> float:
    """The number of terms from which on another kernel is cheaper."""
    other = min(_SORTED_COST, _tiles_cost(units))
    return (other - 7.3 - 200 / units) / (0.31 + 60 / units)


def _pair_sum_cpu(activations: Tensor, gamma: float, gradient: Tensor | None, share: float) -> float:
    """The sum over all rows; its gradient times `share`."""
    rows, units = activations.shape
    most = _most_terms(units)
    if most < _FEWEST_TERMS:
        by_tiles = float(pair_sum_tiles(activations, gamma, gradient))
        if gradient is not None:
            gradient *= share
        return by_tiles
    root = math.sqrt(gamma)
    low = activations.amin(1)
    span = activations.amax(1) - low
    widest = float(span.max()) * root
    if not math.isfinite(widest):  # NaN or infinite activations: the caller sees NaN
        if gradient is not None:
            gradient.fill_(math.nan)
        return math.nan
    terms = terms_needed(widest, activations.dtype)
    if terms <= most and _worth_a_bucket(terms, _FEWEST_TERMS, activations.numel()) <= 0:
        sums = pair_sum_fourier(activations, low, span, root, terms, gradient, share=share)
        return float(sums.sum()) - rows * units
    total = 0.0
    for members, number in _buckets(terms_of_rows(span * root), most, units):
        if number is None:
            total += float(_other_rows(activations, members, gamma, gradient, share))
            continue
        if len(members) >= _NEARLY_ALL * rows:
            # The largest bucket comes first: what it writes for the rows of others is overwritten by them
            sums = pair_sum_fourier(activations, low, span, root, number, gradient, share=share)[members]
        else:
            sums = pair_sum_fourier(activations, low, span, root, number, gradient, members, share)
        total += float(sums.sum()) - len(members) * units
    return total


def _other_rows(activations: Tensor, members: Tensor, gamma: float, gradient: Tensor | None, share: float) -> Tensor:
    """Rows that would need too many terms."""
    part = activations[members]
    part_gradient = torch.empty_like(part) if gradient is not None else None
    if _SORTED_COST < _tiles_cost(activations.shape[1]):
        total = pair_sum_sorted(part, math.sqrt(gamma), part_gradient)
    else:
        total = pair_sum_tiles(part, gamma, part_gradient)
    if gradient is not None and part_gradient is not None:
        gradient[members] = part_gradient.mul_(share)
    return total


def _worth_a_bucket(upper: int, number: int, elements: int) -> float:
    """Nanoseconds saved if `elements` have a bucket of their own, of `number` instead of `upper` terms."""
    return (cheapest_steps(upper).cost - cheapest_steps(number).cost) * elements - _BUCKET_COST


def _buckets(terms: Tensor, most: float, units: int) -> list[tuple[Tensor, int | None]]:
    """Divide rows by the terms that they need, so that a row with an outlier does not tax the others.

    Args:
        terms: (N,) terms needed.
        most: rows that need more are no rows for the series.
        units: D, the length of a row.

    Returns:
        Row numbers and their number of terms, None for the rows beyond `most`; the bucket of most rows first.
    """
    beyond = int(most) + 1
    needed = terms.clamp(max=beyond).long()
    # Rows that need each number of terms, the widest first
    levels = [(number, rows) for number, rows in enumerate(needed.bincount().tolist()) if rows][::-1]
    buckets: list[tuple[Tensor, int | None]] = []
    remaining = len(terms)
    if levels[0][0] == beyond:
        buckets.append(((needed == beyond).nonzero().flatten(), None))
        remaining -= levels.pop(0)[1]
    upper = levels[0][0] if levels else 0
    for number, rows in levels:
        gather = 0.0 if remaining >= _NEARLY_ALL * len(terms) else _GATHER_COST * len(terms) * units
        if _worth_a_bucket(upper, number, remaining * units) > gather:
            buckets.append((((needed > number) & (needed <= upper)).nonzero().flatten(), upper))
            upper = number
        remaining -= rows
    if levels:
        buckets.append(((needed <= upper).nonzero().flatten(), upper))
    return sorted(buckets, key=lambda bucket: len(bucket[0]), reverse=True)
