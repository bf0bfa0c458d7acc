"""Sine and cosine of small angles, by whole tensors."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# Minimax polynomials on [-pi/2, pi/2], odd for the sine (relative error 4e-9) and even for the cosine (absolute error
# 2e-10): coefficients of the powers 9, 7, .. 1 and 10, 8, .. 0, by Lawson's iteration.
_SINE = (2.60522374e-06, -1.98090748e-04, 8.33305106e-03, -1.66666580e-01, 9.99999996e-01)
_COSINE = (-2.60514801e-07, 2.47601605e-05, -1.38883614e-03, 4.16666363e-02, -4.99999994e-01, 1.0)


@functools.cache
def _coefficients(values: tuple[float, ...]) -> list[Tensor]:
    with torch.inference_mode(False), torch.device("cpu"):
        return [torch.tensor(value) for value in values]


def sine_cosine(angle: Tensor, square: Tensor, sine: Tensor, cosine: Tensor) -> None:
    """Sine and cosine of angles between -pi/2 and pi/2; `square` is room for the squared angle.

    In float32 a polynomial by whole tensors takes half the time of torch.sin and torch.cos, which must reduce any
    angle.
    """
    if angle.dtype != torch.float32:
        torch.sin(angle, out=sine)
        torch.cos(angle, out=cosine)
        return
    torch.mul(angle, angle, out=square)
    for values, out in ((_SINE, sine), (_COSINE, cosine)):
        leading, second, *others = _coefficients(values)
        torch.addcmul(second, square, leading, out=out)
        for coefficient in others:
            torch.addcmul(coefficient, square, out, out=out)
    sine.mul_(angle)
