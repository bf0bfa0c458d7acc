"""S and its gradient on CUDA in Triton: exact tiles in registers, nothing of size N x D x D anywhere."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import LOG2_E

_FORWARD_BLOCK = 64
_BACKWARD_BLOCK = 32
_BACKWARD_SAMPLES = 4
_MINUS_LOG2_E = tl.constexpr(-LOG2_E)


@triton.jit
def _forward_kernel(a_ptr, gamma_ptr, s_ptr, samples, units, block: tl.constexpr):
    """One tile of the upper triangle of S, all samples; written to both triangles."""
    left, right = tl.program_id(0), tl.program_id(1)
    if left <= right:
        n = left * block + tl.arange(0, block)
        m = right * block + tl.arange(0, block)
        gamma = tl.load(gamma_ptr)
        total = tl.zeros((block, block), dtype=a_ptr.dtype.element_ty)
        for i in range(0, samples):
            row = a_ptr + tl.cast(i, tl.int64) * units
            a = tl.load(row + n, mask=n < units, other=0.0)
            b = tl.load(row + m, mask=m < units, other=0.0)
            difference = a[:, None] - b[None, :]
            total += tl.exp2(difference * difference * gamma * _MINUS_LOG2_E)
        total = total / samples
        present = (n < units)[:, None] & (m < units)[None, :]
        tl.store(s_ptr + n[:, None].to(tl.int64) * units + m[None, :], total, mask=present)
        tl.store(s_ptr + m[None, :].to(tl.int64) * units + n[:, None], total, mask=present)


@triton.jit
def _backward_kernel(
    a_ptr, gamma_ptr, weight_ptr, gradient_ptr, samples, units, some: tl.constexpr, block: tl.constexpr
):
    """Gradient of `some` samples at one block of units; a tile of the weights is read once for all of them."""
    i = tl.program_id(0) * some + tl.arange(0, some)
    n = tl.program_id(1) * block + tl.arange(0, block)
    rows = a_ptr + i[:, None].to(tl.int64) * units
    present = (i < samples)[:, None] & (n < units)[None, :]
    a = tl.load(rows + n[None, :], mask=present, other=0.0)
    gamma = tl.load(gamma_ptr)
    total = tl.zeros_like(a)
    for start in range(0, units, block):
        m = start + tl.arange(0, block)
        b = tl.load(rows + m[None, :], mask=(i < samples)[:, None] & (m < units)[None, :], other=0.0)
        inside = (n < units)[:, None] & (m < units)[None, :]
        weight = tl.load(weight_ptr + n[:, None].to(tl.int64) * units + m[None, :], mask=inside, other=0.0)
        difference = a[:, :, None] - b[:, None, :]
        similar = tl.exp2(difference * difference * gamma * _MINUS_LOG2_E)
        total += tl.sum(similar * difference * weight[None, :, :], axis=2)
    total = -2 * gamma / samples * total
    tl.store(gradient_ptr + i[:, None].to(tl.int64) * units + n[None, :], total, mask=present)


def similarity_forward_triton(activations: Tensor, gamma: Tensor | float) -> Tensor:
    """S, as `tiles.similarity_forward`; activations (N, D) float32 or float64 on CUDA."""
    activations = activations.contiguous()
    samples, units = activations.shape
    gamma = torch.as_tensor(gamma, dtype=activations.dtype, device=activations.device)
    similarity = activations.new_empty((units, units))
    tiles = triton.cdiv(units, _FORWARD_BLOCK)
    _forward_kernel[(tiles, tiles)](activations, gamma, similarity, samples, units, block=_FORWARD_BLOCK)
    return similarity


def similarity_backward_triton(activations: Tensor, gamma: Tensor | float, upstream: Tensor) -> Tensor:
    """Gradient of sum_nm upstream_nm s_nm, as `tiles.similarity_backward`."""
    activations = activations.contiguous()
    samples, units = activations.shape
    gamma = torch.as_tensor(gamma, dtype=activations.dtype, device=activations.device)
    weight = (upstream + upstream.T).contiguous()
    gradient = torch.empty_like(activations)
    grid = (triton.cdiv(samples, _BACKWARD_SAMPLES), triton.cdiv(units, _BACKWARD_BLOCK))
    _backward_kernel[grid](
        activations, gamma, weight, gradient, samples, units, some=_BACKWARD_SAMPLES, block=_BACKWARD_BLOCK
    )
    return gradient
