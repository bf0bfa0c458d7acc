"""Exact kernels by blocks: every pair of units of every sample, one small tile at a time.

exp2 and not exp: torch.exp is 3 times slower on CPU, and 12 times where its result underflows. The difference is taken
first and scaled afterwards, so that rows with a large offset or an outlier lose nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOG2_E = math.log2(math.e)
# Numbers in a tile: a few of these stay in the second-level cache of a CPU core; a GPU wants enough to fill it.
_TILE_CPU = 2**15
_TILE_OTHER = 2**24
# Units on a side of a tile. Tiles on the diagonal compute both halves, so wide ones waste; narrow ones pay a Python
# call each.
_SIDE_CPU = 128
_SIDE_OTHER = 1024


def _scale(gamma: Tensor | float) -> Tensor | float:
    """-gamma log2(e), so that exp(-gamma d^2) = exp2(scale d^2)."""
    return gamma * -_LOG2_E


def _similar(difference: Tensor, scale: Tensor | float, out: Tensor | None = None) -> Tensor:
    """exp2(scale * difference^2), elementwise."""
    out = torch.mul(difference, difference, out=out)
    return out.mul_(scale).exp2_()


def _tiles(rows: int, units: int, device: torch.device) -> tuple[int, int]:
    """Samples and units of a tile."""
    tile, side = (_TILE_CPU, _SIDE_CPU) if device.type == "cpu" else (_TILE_OTHER, _SIDE_OTHER)
    side = min(side, units)
    return max(1, min(rows, tile // (side * side))), side


def pair_sum_tiles(activations: Tensor, gamma: Tensor | float, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Sum of similarities over samples and ordered pairs of different units, by exact tiles.

    With d = a_in - a_im and e = exp(-gamma d^2), unit n appears in the ordered pairs (n, m) and (m, n), hence
    d(sum)/d(a_in) = sum_m 2 * (-2 gamma d e) = -4 gamma sum_m d e.

    Args:
        activations: (N, D) float32 or float64.
        gamma: sharpness, positive.
        with_gradient: whether to compute the gradient.

    Returns:
        The sum over i and n != m, 0-dim, not divided by N; its gradient, (N, D), or None.
    """
    rows, units = activations.shape
    step, side = _tiles(rows, units, activations.device)
    scale = _scale(gamma)
    total = activations.new_zeros(())
    gradient = torch.zeros_like(activations, memory_format=torch.contiguous_format) if with_gradient else None
    for row in range(0, rows, step):
        block = activations[row : row + step]
        for first in range(0, units, side):
            left = block[:, first : first + side, None]
            for second in range(first, units, side):
                difference = left - block[:, None, second : second + side]
                similar = _similar(difference, scale)
                if first == second:
                    similar.diagonal(dim1=1, dim2=2).zero_()
                total += similar.sum() * (1 if first == second else 2)
                if gradient is not None:
                    pull = similar.mul_(difference)
                    gradient[row : row + step, first : first + side] += pull.sum(2)
                    if first != second:
                        gradient[row : row + step, second : second + side] -= pull.sum(1)
    if gradient is not None:
        gradient *= -4 * gamma
    return total, gradient


def similarity_forward(activations: Tensor, gamma: Tensor | float) -> Tensor:
    """S with s_nm = (1/N) sum_i exp(-gamma (a_in - a_im)^2), by exact tiles of its upper triangle.

    Args:
        activations: (N, D) float32 or float64.
        gamma: sharpness, positive.

    Returns:
        (D, D), exactly symmetric, with a diagonal of exactly 1.
    """
    rows, units = activations.shape
    step, side = _tiles(rows, units, activations.device)
    scale = _scale(gamma)
    similarity = activations.new_empty((units, units))
    for first in range(0, units, side):
        for second in range(first, units, side):
            tile = similarity[first : first + side, second : second + side].zero_()
            for row in range(0, rows, step):
                block = activations[row : row + step]
                difference = block[:, first : first + side, None] - block[:, None, second : second + side]
                tile += _similar(difference, scale, out=difference).sum(0)
            tile /= rows
            if first != second:
                similarity[second : second + side, first : first + side] = tile.T
    similarity.fill_diagonal_(1)
    return similarity


def similarity_backward(activations: Tensor, gamma: Tensor | float, upstream: Tensor) -> Tensor:
    """Gradient of sum_nm upstream_nm s_nm with respect to the activations, recomputing the tiles.

    With G = upstream + upstream^T, dL/d(a_in) = (1/N) sum_m G_nm * (-2 gamma d e); the summand is antisymmetric in (n,
    m), so each tile of the upper triangle gives its row sums to one side and takes its column sums from the other.

    Args:
        activations: (N, D) float32 or float64.
        gamma: sharpness, positive.
        upstream: (D, D), any.

    Returns:
        (N, D), of the dtype of `activations`.
    """
    rows, units = activations.shape
    step, side = _tiles(rows, units, activations.device)
    scale = _scale(gamma)
    gradient = torch.zeros_like(activations, memory_format=torch.contiguous_format)
    for first in range(0, units, side):
        left = slice(first, first + side)
        for second in range(first, units, side):
            right = slice(second, second + side)
            weight = upstream[left, right] + upstream[right, left].T
            for row in range(0, rows, step):
                block = activations[row : row + step]
                difference = block[:, left, None] - block[:, None, right]
                pull = _similar(difference, scale).mul_(difference).mul_(weight)
                gradient[row : row + step, left] += pull.sum(2)
                if first != second:
                    gradient[row : row + step, right] -= pull.sum(1)
    return gradient.mul_(gamma * (-2 / rows))
