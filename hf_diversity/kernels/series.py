"""The pair sum of rows of moderate range by the series of `chebyshev`: O(D P) work instead of D^2 exponentials."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .chebyshev import expansion, span_of
from .polynomials import SCRATCH_MOST, Polynomials, polynomials

# Elements of a chunk of rows. One polynomial of a chunk is 128 kB in float32 and the usual 17 take 2.2 MB; fewer
# elements pay more Python calls (2^14 is 10 % slower). Twice as many are 4 to 8 % faster, and taken where their 4 MB
# are little beside the activations themselves.
CHUNK = 2**15
_LARGE = 2**19  # elements of activations from which on chunks are twice as large


def pair_sum_series(
    activations: Tensor,
    low: Tensor,
    span: Tensor,
    root: float,
    level: int,
    gradient: Tensor | None,
    members: Tensor | None = None,
    share: float = 1.0,
) -> Tensor:
    """Sum of similarities over samples and ordered pairs of different units, by the Chebyshev series.

    Args:
        activations: (N, D) float32 or float64, on the CPU.
        low: (N,) minimum of each row.
        span: (N,) maximum less minimum of each row.
        root: sqrt(gamma).
        level: of `chebyshev.span_of`, at least that of root times the span of every row.
        gradient: (N, D) to receive the gradient of the sum times `share`, or None.
        members: numbers of the rows to take; None for all. The gradient of other rows is left as it is.
        share: a factor of the gradient, which costs nothing here and a pass over all activations afterwards.

    Returns:
        The sum over all n and m of each of those rows, float64, not divided by N: n = m contributes D.
    """
    if members is not None:
        low, span = low[members], span[members]
    count, units = len(low), activations.shape[1]
    giant, baby, stretch, matrices = expansion(span_of(level), activations.dtype)
    scale = 2 * root / span_of(level)
    rows = _rows_of_a_chunk(giant, baby, stretch, count, units)
    buffers = polynomials(giant, baby, stretch, rows, units, activations.dtype)
    products = activations.new_empty((count, giant + 1, baby + 1))
    size = (giant + 1) * (baby + 1)

    def split_rows(tensor: Tensor) -> Sequence[Tensor]:
        # A view costs as much as a small operation: those of all chunks are made at once, and none for a single chunk
        return (tensor,) if rows == count else tensor.split(rows)

    # The difference to the middle of the row is exact where it matters (an offset cancels without rounding) and is
    # scaled afterwards; the series itself depends on differences only, so any reference does.
    middles = split_rows(torch.add(low, span, alpha=0.5)[:, None])
    chunks = split_rows(activations if members is None else members)
    gradients = split_rows(gradient) if gradient is not None and members is None else None
    for number, (middle, moments, chunk) in enumerate(zip(middles, split_rows(products), chunks, strict=True)):
        if len(chunk) < rows:
            buffers = buffers.first(len(chunk))
        if members is None:
            torch.sub(chunk, middle, out=buffers.argument)
        else:
            torch.index_select(activations, 0, chunk, out=buffers.argument).sub_(middle)
        buffers.argument.mul_(scale)
        buffers.fill()
        buffers.products(out=moments)
        if gradient is None:
            continue
        slopes = (moments.view(-1, size) @ matrices[:, size:]).mul_(scale * share).view(moments.shape)
        if gradients is not None:
            buffers.pull(slopes, out=gradients[number])
        else:
            gradient.index_copy_(0, chunk, buffers.pull(slopes, out=buffers.argument))
    flat = products.view(count, size)
    # Rows in float64: sums of a million numbers of one sign lose digits in float32
    return (flat @ matrices[:, :size]).mul_(flat).sum(1).double()


def _rows_of_a_chunk(giant: int, baby: int, stretch: float, count: int, units: int) -> int:
    rows = CHUNK // units
    if (
        count * units >= _LARGE and Polynomials.numbers(giant, baby, stretch, 2 * rows, units) <= SCRATCH_MOST
    ):  # they are kept
        rows *= 2
    return max(1, min(count, rows))
