"""The one rule that decides which kernel computes the pair sum.

Costs in ns per element (value and gradient, float32, one thread of an AVX-512 server core), from `benchmarks/`; only
their ratios matter. D units; a row's series has P terms (`chebyshev.terms_needed`, about 6 + 3.7 sqrt(gamma) range)
and writes b + g polynomials (`chebyshev.cheapest_steps`):

    tiles    1.1 min(D, (D + 128) / 2)                     every pair once, both halves of the diagonal tiles of 128
    series   2 + 0.46 b + 0.69 g + 0.06 P                  polynomials and products, and for each row
             + (300 + P^2 / 40) / D                        moments to slopes
    sorted   90                                            whatever the range; rows with outliers or heavy tails

The smallest wins, for each row by itself. So layers of up to some 16 units go to tiles, usual rows to the series, and
rows of a range of more than about 100 / sqrt(gamma) to sorting; the range must be known on the host, hence CPU tensors
only. Elsewhere nothing may wait for the device: tiles, or on CUDA the kernels of `triton_direct`.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .backend import triton_serves
from .cells import pair_sum_sorted
from .chebyshev import cheapest_steps, level_of, levels_of, span_of, terms_needed
from .series import pair_sum_series
from .tiles import pair_sum_tiles

_SORTED_COST = 90.0
_CALL_COST = 300_000.0  # ns of any call, forward and backward: about sixty operations on small tensors
_COLD = 1.3  # the costs above, of a kernel by itself, times this where other work has had the caches in between
_LAST_LEVEL = level_of(128.0)  # matrices of longer spans take 50 ms and more to make, and what they save is little
# Rows share the series of their widest. Another bucket costs its small operations, whatever its size, and
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
    cost = min(_SORTED_COST, _tiles_cost(units), _series_cost(spread, units))
    return _CALL_COST + _COLD * rows * units * cost


def _tiles_cost(units: int) -> float:
    return 1.1 * min(units, (units + 128) / 2)


def _series_cost(span: float, units: int) -> float:
    terms = terms_needed(span, torch.float32)
    return 2 + cheapest_steps(terms).cost + (300 + terms**2 / 40) / units


@functools.lru_cache(maxsize=1024)
def _last_level(units: int) -> int:
    """The last level at which the series is the cheapest kernel; -1 where it never is."""
    other, level = min(_SORTED_COST, _tiles_cost(units)), 0
    while level <= _LAST_LEVEL and _series_cost(span_of(level), units) < other:
        level += 1
    return level - 1


def _pair_sum_cpu(activations: Tensor, gamma: float, gradient: Tensor | None, share: float) -> float:
    """The sum over all rows; its gradient times `share`."""
    rows, units = activations.shape
    last = _last_level(units)
    if last < 0:
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
    level = level_of(widest)
    if level <= last and _worth_a_bucket(level, 0, activations.numel()) <= 0:
        sums = pair_sum_series(activations, low, span, root, level, gradient, share=share)
        return float(sums.sum()) - rows * units
    total = 0.0
    for members, number in _buckets(levels_of(span * root), last, units):
        if number is None:
            total += float(_other_rows(activations, members, gamma, gradient, share))
            continue
        if len(members) >= _NEARLY_ALL * rows:
            # The largest bucket comes first: what it writes for the rows of others is overwritten by them
            sums = pair_sum_series(activations, low, span, root, number, gradient, share=share)[members]
        else:
            sums = pair_sum_series(activations, low, span, root, number, gradient, members, share)
        total += float(sums.sum()) - len(members) * units
    return total


def _other_rows(activations: Tensor, members: Tensor, gamma: float, gradient: Tensor | None, share: float) -> Tensor:
    """Rows that would need too many terms."""
    part = activations[members]
    part_gradient = torch.empty_like(part) if gradient is not None else None
    if _SORTED_COST < _tiles_cost(activations.shape[1]):
        with torch.device("cpu"):  # its new tensors, whatever the default device
            total = pair_sum_sorted(part, math.sqrt(gamma), part_gradient)
    else:
        total = pair_sum_tiles(part, gamma, part_gradient)
    if gradient is not None and part_gradient is not None:
        gradient[members] = part_gradient.mul_(share)
    return total


def _worth_a_bucket(upper: int, level: int, elements: int) -> float:
    """Nanoseconds saved if `elements` have a bucket of their own, of `level` instead of `upper`."""
    saved = _steps_cost(upper) - _steps_cost(level)
    return saved * elements - _BUCKET_COST


@functools.lru_cache(maxsize=1024)
def _steps_cost(level: int) -> float:
    return cheapest_steps(terms_needed(span_of(level), torch.float32)).cost


def _buckets(levels: Tensor, last: int, units: int) -> list[tuple[Tensor, int | None]]:
    """Divide rows by the level that they need, so that a row with an outlier does not tax the others.

    Args:
        levels: (N,) levels needed.
        last: rows that need more are no rows for the series.
        units: D, the length of a row.

    Returns:
        Row numbers and their level, None for the rows beyond `last`; the bucket of most rows first.
    """
    beyond = last + 1
    needed = levels.clamp(max=beyond)
    # Rows that need each level, the widest first
    counts = [(level, rows) for level, rows in enumerate(needed.bincount().tolist()) if rows][::-1]
    buckets: list[tuple[Tensor, int | None]] = []
    remaining = len(levels)
    if counts[0][0] == beyond:
        buckets.append(((needed == beyond).nonzero().flatten(), None))
        remaining -= counts.pop(0)[1]
    upper, above = counts[0][0] if counts else 0, 0
    for level, rows in counts:
        if remaining >= _NEARLY_ALL * len(levels):
            extra = above * units * _steps_cost(upper)  # a second time
        else:
            extra = _GATHER_COST * len(levels) * units
        if _worth_a_bucket(upper, level, remaining * units) > extra:
            buckets.append((((needed > level) & (needed <= upper)).nonzero().flatten(), upper))
            upper, above = level, 0
        remaining -= rows
        above += rows
    if counts:
        buckets.append(((needed <= upper).nonzero().flatten(), upper))
    return sorted(buckets, key=lambda bucket: len(bucket[0]), reverse=True)
