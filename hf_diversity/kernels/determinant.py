"""log det(S + jitter I) with an analytic gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..tensors import without_autocast


class _LogDeterminant(torch.autograd.Function):
    """log det(S + eps I) = 2 sum_n log L_nn with L L^T = S + eps I; its gradient is (S + eps I)^-1.

    float64, because in float32 the sign was wrong at D = 512, gamma = 0.1. MPS has none and works in float32.
    """

    @staticmethod
    def forward(ctx: Any, similarity: Tensor, jitter: float) -> Tensor:
        dtype = torch.float32 if similarity.device.type == "mps" else torch.float64
        with without_autocast(similarity.device.type):
            matrix = similarity.to(dtype, copy=True)
            matrix.diagonal().add_(jitter)
            factor, info = torch.linalg.cholesky_ex(matrix)
            value = 2 * factor.diagonal().log().sum()
            value = torch.where(info == 0, value, torch.nan)  # no host synchronisation: the caller sees NaN
        ctx.save_for_backward(factor)
        ctx.dtype = similarity.dtype
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        with without_autocast(factor.device.type):
            # cholesky_inverse answers column-major, and reading that by rows is three times slower; as the inverse is
            # symmetric, its transpose is the same matrix in row-major order.
            inverse = torch.cholesky_inverse(factor).T
            return inverse.mul_(upstream).to(ctx.dtype).contiguous(), None


def log_determinant(similarity: Tensor, jitter: float) -> Tensor:
    """Log det(S + jitter I), differentiable once.

    Args:
        similarity: (D, D), symmetric positive semi-definite.
        jitter: added to the diagonal.

    Returns:
        0-dim float64 (float32 on MPS); NaN where S + jitter I is not positive definite.
    """
    value: Tensor = _LogDeterminant.apply(similarity, jitter)
    return value
