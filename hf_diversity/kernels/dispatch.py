"""Which kernel computes what."""

from __future__ import annotations

from torch import Tensor

from .tiles import pair_sum_tiles


def pair_sum_value(activations: Tensor, gamma: Tensor | float, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """(1/N) sum_i sum_{n != m} exp(-gamma (a_in - a_im)^2) and its gradient.

    Args:
        activations: (N, D) float32 or float64, without gradient.
        gamma: sharpness, positive.
        with_gradient: whether to compute the gradient.

    Returns:
        0-dim value; (N, D) gradient or None.
    """
    rows, units = activations.shape
    total, gradient = pair_sum_tiles(activations, gamma, with_gradient)
    if gradient is not None:
        gradient /= rows
    return (total / rows).clamp(0, units * (units - 1)), gradient
