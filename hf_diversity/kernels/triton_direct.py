"""The pair sum on CUDA in Triton: the Fourier series with its own number of terms in every row, and exact rows beyond.

Let t_n = sqrt(gamma) a_n, R the range of a row and tau = 2 pi / (R + delta). By Poisson summation

    exp(-t^2) = sum_{|k| <= K} tau / (2 sqrt(pi)) exp(-(k tau)^2 / 4) exp(i k tau t)      for |t| <= R

up to the images of the periodised kernel, of which the nearest is R + delta - |t| >= delta away, so at most
2 exp(-delta^2), and up to the terms left out, at most erfc(K tau / 2). With delta = sqrt(ln(1 / eps)) and
K = delta (R + delta) / pi, every s_nm is off by at most 2 eps + erfc(delta). With F_k = sum_n exp(i k tau t_n),

    sum_{n, m} exp(-(t_n - t_m)^2) = sum_{k >= 0} c_k |F_k|^2,
    c_0 = tau / (2 sqrt(pi)),   c_k = tau / sqrt(pi) exp(-(k tau)^2 / 4) for k > 0.

Plane waves for the Gauss transform are due to Greengard and Sun ("A new version of the fast Gauss transform", 1998).
The number of terms is a row's own, as is tau, and nothing is read back by the host: the CPU's way, `series`, needs one
span for many rows. Waves are multiplied up one by one in registers. One program serves one block of units of one row:

    sums      F_k of its block, for k up to the row's own K
    gradient  sum_k 2 c_k k h (Im F_k cos(k x) - Re F_k sin(k x)), and in the first block the row's value
    exact     the same for rows of more than `MOST_TERMS` terms, for float64, and for NaN; others leave at once
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .chebyshev import reach
from .tiles import LOG2_E

# The rounding error of z^k by repeated multiplication grows with k; 128 terms keep the gradient within 1e-5.
MOST_TERMS = 128
_BLOCK = 1024
_EXACT_BLOCK = 64
_PI = tl.constexpr(math.pi)
_MINUS_LOG2_E = tl.constexpr(-LOG2_E)


@triton.jit
def _row(low_ptr, high_ptr, gamma_ptr, row, delta):
    """Middle, angle per unit of activation, tau, and number of terms of a row."""
    low = tl.load(low_ptr + row).to(tl.float32)
    high = tl.load(high_ptr + row).to(tl.float32)
    root = tl.sqrt(tl.load(gamma_ptr).to(tl.float32))
    span = (high - low) * root + delta
    tau = 1 / span * (2 * _PI)  # a tensor comes first: the interpreter takes constexpr op tensor for a constexpr
    return low + (high - low) / 2, tau * root, tau, span * delta / _PI


@triton.jit
def _sums_kernel(a_ptr, low_ptr, high_ptr, gamma_ptr, sums_ptr, units, delta, most, block: tl.constexpr):
    row, part = tl.program_id(0), tl.program_id(1)
    middle, step, tau, terms = _row(low_ptr, high_ptr, gamma_ptr, row, delta)
    if terms <= most:
        columns = part * block + tl.arange(0, block)
        present = columns < units
        a = tl.load(a_ptr + row.to(tl.int64) * units + columns, mask=present, other=0.0)
        angle = (a - middle) * step
        cosine, sine = tl.cos(angle), tl.sin(angle)
        real = tl.where(present, cosine, 0.0)
        imaginary = tl.where(present, sine, 0.0)
        base = sums_ptr + (row.to(tl.int64) * tl.num_programs(1) + part) * (most + 1) * 2
        for k in range(1, tl.ceil(terms).to(tl.int32) + 1):
            tl.store(base + 2 * k, tl.sum(real, axis=0))
            tl.store(base + 2 * k + 1, tl.sum(imaginary, axis=0))
            real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine


@triton.jit
def _gradient_kernel(
    a_ptr, low_ptr, high_ptr, gamma_ptr, sums_ptr, value_ptr, gradient_ptr, units, parts, delta, most, scale,
    with_gradient: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, part = tl.program_id(0), tl.program_id(1)
    middle, step, tau, terms = _row(low_ptr, high_ptr, gamma_ptr, row, delta)
    if terms <= most:
        columns = part * block + tl.arange(0, block)
        present = columns < units
        a = tl.load(a_ptr + row.to(tl.int64) * units + columns, mask=present, other=0.0)
        angle = (a - middle) * step
        cosine, sine = tl.cos(angle), tl.sin(angle)
        real, imaginary = cosine, sine
        gradient = tl.zeros_like(a)
        count = tau * 0 + units  # as a float
        value = tau * 0.28209479177387814 * count * count - count  # c_0 D^2 - D; 0.282... = 1 / (2 sqrt(pi))
        base = sums_ptr + row.to(tl.int64) * parts * (most + 1) * 2
        for k in range(1, tl.ceil(terms).to(tl.int32) + 1):
            sum_real = tl.load(base + 2 * k)
            sum_imaginary = tl.load(base + 2 * k + 1)
            for other in range(1, parts):
                sum_real += tl.load(base + other * (most + 1) * 2 + 2 * k)
                sum_imaginary += tl.load(base + other * (most + 1) * 2 + 2 * k + 1)
            half = 0.5 * k * tau
            weight = tau * 0.5641895835477563 * tl.exp2(half * half * _MINUS_LOG2_E)  # 2 / (2 sqrt(pi))
            value += weight * (sum_real * sum_real + sum_imaginary * sum_imaginary)
            if with_gradient:
                slope = 2 * weight * k * step
                gradient += slope * (sum_imaginary * real - sum_real * imaginary)
                real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
        if part == 0:
            tl.store(value_ptr + row, value)
        if with_gradient:
            tl.store(gradient_ptr + row.to(tl.int64) * units + columns, gradient * scale, mask=present)


@triton.jit
def _exact_kernel(
    a_ptr, low_ptr, high_ptr, gamma_ptr, value_ptr, gradient_ptr, units, delta, most, scale,
    with_gradient: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, part = tl.program_id(0), tl.program_id(1)
    middle, step, tau, terms = _row(low_ptr, high_ptr, gamma_ptr, row, delta)
    if not (terms <= most):  # NaN as well
        a_row = a_ptr + row.to(tl.int64) * units
        columns = part * block + tl.arange(0, block)
        present = columns < units
        a = tl.load(a_row + columns, mask=present, other=0.0)
        gamma = tl.load(gamma_ptr).to(a.dtype)
        total = tl.zeros_like(a)
        gradient = tl.zeros_like(a)
        for start in range(0, units, block):
            others = start + tl.arange(0, block)
            b = tl.load(a_row + others, mask=others < units, other=0.0)
            difference = a[:, None] - b[None, :]
            similar = tl.exp2(difference * difference * gamma * _MINUS_LOG2_E)
            counted = (others < units)[None, :] & (columns[:, None] != others[None, :])
            similar = tl.where(counted, similar, 0.0)
            total += tl.sum(similar, axis=1)
            if with_gradient:
                gradient += tl.sum(similar * difference, axis=1)
        tl.atomic_add(value_ptr + row, tl.sum(tl.where(present, total, 0.0), axis=0))
        if with_gradient:
            tl.store(gradient_ptr + row.to(tl.int64) * units + columns, -4 * gamma * scale * gradient, mask=present)


def pair_sum_triton(activations: Tensor, gamma: Tensor | float, gradient: Tensor | None) -> Tensor:
    """Sum of similarities over samples and ordered pairs of different units.

    Args:
        activations: (N, D) float32 or float64, on CUDA (or on the CPU under TRITON_INTERPRET=1).
        gamma: sharpness, positive.
        gradient: (N, D), contiguous, to receive the gradient of the sum, or None.

    Returns:
        The sum over i and n != m, 0-dim float64, not divided by N.
    """
    activations = activations.contiguous()
    rows, units = activations.shape
    double = activations.dtype == torch.float64
    most = 0 if double else MOST_TERMS
    gamma = torch.as_tensor(gamma, dtype=activations.dtype, device=activations.device)
    low, high = activations.amin(1), activations.amax(1)
    delta = reach(activations.dtype)
    values = activations.new_zeros(rows)
    target = gradient if gradient is not None else values  # never written without a gradient
    shared = (activations, low, high, gamma)
    with_gradient = gradient is not None
    if not double:
        block = min(_BLOCK, triton.next_power_of_2(units))
        parts = triton.cdiv(units, block)
        sums = activations.new_empty((rows, parts, most + 1, 2))
        _sums_kernel[(rows, parts)](*shared, sums, units, delta, most, block=block)
        _gradient_kernel[(rows, parts)](
            *shared, sums, values, target, units, parts, delta, most, 1.0, with_gradient=with_gradient, block=block
        )
    block = _EXACT_BLOCK
    _exact_kernel[(rows, triton.cdiv(units, block))](
        *shared, values, target, units, delta, most, 1.0, with_gradient=with_gradient, block=block
    )
    return values.sum(dtype=torch.float64)
