"""The kernel exp(-t^2) as a short double series in Chebyshev polynomials, with which a row costs O(D) and not D^2.

Units of one row whose scaled activations t = sqrt(gamma) a lie within a span S have places x = 2 (t - middle) / S in
[-1, 1], and there

    exp(-(S / 2)^2 (x - y)^2) = sum_{j, k < P} A_jk T_j(x) T_k(y).

The left side is an entire function of x, so its Chebyshev coefficients fall faster than geometrically, and the
polynomial that agrees with it at Chebyshev points is off by little more than the coefficients left out (Trefethen,
"Approximation Theory and Approximation Practice", theorems 8.2 and 15.1). With the moments p_k = sum_n T_k(x_n),

    sum_{n, m} exp(-(t_n - t_m)^2) = p' A p,      d/dx_n = 2 (A p)' T'(x_n),

and both are polynomials in x. They are evaluated with baby steps r = 0..b and giant steps q = 0..g of length
M = b + 1. T_qM T_r has degree q M + r, so these products span all polynomials of degree < (g + 1) M = P, and their
moments are one small matrix product per row, sum_n T_qM(x_n) T_r(x_n). Only b + g, about 2 sqrt(P), polynomials are
ever written.

Chebyshev points crowd at the ends of [-1, 1], where the kernel needs no more of them than elsewhere: long intervals
take pi / 2 times as many terms as they would have to. There the places are first stretched in the middle, y = x (1 +
c - c x^2) with c = 0.3, and the series is one in y, with three quarters of the terms (Hale and Trefethen, "New
quadrature formulas from conformal maps", 2008).

All matrices depend on S alone. Spans are rounded up to a grid, so that few are ever made, in float64, and kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_LEVELS_PER_DOUBLING = 32  # of the span: rounding it up costs 1 % on average
_STRETCH = 0.3
_LONG = 16.0  # the span from which on places are stretched: five passes over them, for a quarter of the terms


def tolerance(dtype: torch.dtype) -> float:
    """The error of a similarity that is accepted, eps: 1e-7 for float32 and 1e-15 for float64."""
    return 1e-15 if dtype == torch.float64 else 1e-7


def reach(dtype: torch.dtype) -> float:
    """Return delta = sqrt(ln(1 / eps)): units at least so far apart, in t, have a similarity that counts as 0."""
    return math.sqrt(-math.log(tolerance(dtype)))


def level_of(span: float) -> int:
    """The smallest level of the grid whose span is at least `span`."""
    return max(0, math.ceil(_LEVELS_PER_DOUBLING * math.log2(max(span, 1.0))))


def levels_of(spans: Tensor) -> Tensor:
    """`level_of` of many spans, int64."""
    return spans.clamp(min=1).log2_().mul_(_LEVELS_PER_DOUBLING).ceil_().long()


def span_of(level: int) -> float:
    """The span that a level serves: 1 for level 0, twice as much 32 levels further."""
    return math.pow(2.0, level / _LEVELS_PER_DOUBLING)


def stretch_of(span: float, dtype: torch.dtype) -> float:
    """c, which is 0 where places are not stretched: in short intervals, and in float64, where it gains nothing."""
    return _STRETCH if span >= _LONG and dtype != torch.float64 else 0.0


@functools.lru_cache(maxsize=4096)
def terms_needed(span: float, dtype: torch.dtype) -> int:
    """P, the terms after which an error of about eps is left: 6 + 3.7 span in float32, 3 + 2.9 span where stretched.

    Without stretching, on the ellipse around [-1, 1] on which |x + sqrt(x^2 - 1)| = e^u, the kernel is at most
    exp((S / 2)^2 sinh^2 u), hence |c_j| <= 2 exp((S / 2)^2 sinh^2 u - j u) for every u. It is as large as that only
    where the real part of x is near y, a part of the ellipse whose length falls with sqrt(S / 2): the factor 2 is
    0.8 / sqrt(S / 2) for large S. With stretching, the line is fitted. In float32 the error that is
    left, rounding of the matrices included, is at most 3.5 eps (tested at every seventh level).
    """
    if stretch_of(span, dtype):
        return math.ceil(3 + 2.87 * span)
    half, factor = span / 2, min(2.0, 0.8 / math.sqrt(span / 2))
    with torch.inference_mode(False), torch.device("cpu"):
        u = torch.logspace(-2.5, 1, 1000, dtype=torch.float64)
    left_out = math.log(factor / (5 * tolerance(dtype))) - (-(-u).expm1()).log()
    return math.ceil(float(((half * u.sinh()).square() + left_out).div_(u).min()))


class Steps(NamedTuple):
    """Giant and baby steps that reach a number of terms, and what they cost in ns per element."""

    cost: float
    giant: int
    baby: int


@functools.lru_cache(maxsize=4096)
def cheapest_steps(terms: int) -> Steps:
    """Choose giant and baby steps with (giant + 1) (baby + 1) >= `terms`.

    Fitted to measured ns per element (within 20 %): 0.46 for each polynomial that is written, 0.23 for each pull, and
    0.06 for each product of two. That holds where baby + 1 is 4, 8 or a multiple of 16: matrix products of other
    widths are up to a third slower, so none is chosen.
    """
    choices = []
    for width in [4, 8, *range(16, terms + 16, 16)]:
        giant, baby = max(1, math.ceil(terms / width) - 1), width - 1
        choices.append(Steps(0.46 * (baby + giant) + 0.23 * giant + 0.06 * (giant + 1) * width, giant, baby))
    return min(choices)


def parts_of(multiple: int) -> tuple[int, int]:
    """The a >= b of which T_{a + b} = 2 T_a T_b - T_{a - b} makes a multiple, from 2 on.

    They are as equal as can be, because the rounding error grows with every step. But doubling again and again, 2, 4,
    8, 16, would magnify it four-fold each time at x = 0, the middle of a row, where all of these are 1 or -1: a
    multiple of 4 comes of odd ones, which are 0 there.
    """
    half = multiple // 2
    return (half + 1, half - 1) if multiple % 4 == 0 else (multiple - half, half)


def signs(giant: int, baby: int) -> tuple[list[int], list[int]]:
    """Signs with which the polynomials T_qM, q = 0..giant, and T_r, r = 0..baby, are written.

    A product and a difference are one pass, torch.addcmul, if T_{a - b} is added, and not subtracted: then the sign of
    T_{a + b} is the opposite of that of T_{a - b}, or +1 where a = b, and a constant -1 is added.
    """

    def signs_of_multiples(first: int, count: int) -> list[int]:
        found = [1, first]
        for multiple in range(2, count + 1):
            a, b = parts_of(multiple)
            found.append(1 if a == b else -found[a - b])
        return found

    babies = signs_of_multiples(1, baby + 1)
    return signs_of_multiples(babies[baby + 1], giant), babies[: baby + 1]


class Expansion(NamedTuple):
    """The kernel of one span as matrices between moments and coefficients, both (giant + 1) (baby + 1) long."""

    giant: int
    baby: int
    stretch: float  # c
    matrices: Tensor  # (offsets n, 2 n): moments at all offsets, as one row, to A p and to the slopes 2 (A p)' d/dy


@functools.lru_cache(maxsize=256)  # all levels that are used; in float32 together 30 MB, the usual ones 10 kB each
def expansion(span: float, dtype: torch.dtype, offsets: Sequence[float] = (0.0,)) -> Expansion:
    """Expand exp(-(span / 2)^2 (x - y - offset)^2) in the products T_qM T_r of x and of y in [-1, 1].

    Args:
        span: S, the length of [-1, 1] in t.
        dtype: of the matrices, and the accuracy.
        offsets: distances of other intervals, in x, whose units act on those of this one.
    """
    terms = terms_needed(span, dtype)
    _, giant, baby = cheapest_steps(terms)
    count, stride = (giant + 1) * (baby + 1), baby + 1
    with torch.inference_mode(False), torch.device("cpu"):
        order = torch.arange(count, dtype=torch.float64)
        angle = math.pi * (order + 0.5) / count
        nodes = stretched = angle.cos()
        stretch = stretch_of(span, dtype)
        if stretch:
            for _ in range(30):  # Newton's iteration for the places whose stretched ones are the Chebyshev points
                square = nodes.square()
                nodes = nodes - (nodes * (1 + stretch - stretch * square) - stretched) / (
                    1 + stretch - 3 * stretch * square
                )
        # From values at the nodes to coefficients of T_j
        analysis = torch.outer(order, angle).cos_().mul_(2 / count)
        analysis[0] /= 2
        # From coefficients of T_j to those of its derivative: T_j' = 2 j (T_{j-1} + T_{j-3} + ..), half of it at T_0
        below = order[:, None] - order
        derivative = torch.where((below > 0) & (below % 2 == 1), 2 * order[:, None], 0.0)
        derivative[:, 0] /= 2
        # The products in terms of T_j: T_a T_b = (T_{a + b} + T_{|a - b|}) / 2
        products = torch.zeros(count, count, dtype=torch.float64)
        giant_signs, baby_signs = signs(giant, baby)
        for q in range(giant + 1):
            for r in range(stride):
                half = giant_signs[q] * baby_signs[r] / 2
                products[q * stride + r, q * stride + r] += half
                products[q * stride + r, abs(q * stride - r)] += half
        inverse = torch.linalg.solve_triangular(products, torch.eye(count, dtype=torch.float64), upper=False)
        slopes = 2 * products @ derivative @ inverse
        blocks = []
        for offset in offsets:
            kernel = (span / 2 * (nodes[:, None] - nodes - offset)).square_().neg_().exp_()
            coefficients = analysis @ kernel @ analysis.T
            if offset == 0:  # a function of x - y alone: exactly no gradient where all units are equal
                coefficients[below % 2 == 1] = 0
            pairs = inverse.T @ coefficients @ inverse
            blocks.append(torch.cat([pairs.T, pairs.T @ slopes], 1))
        return Expansion(giant, baby, stretch, torch.cat(blocks).to(dtype))
