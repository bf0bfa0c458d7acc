"""The differentiable forms of the kernels, in eager mode and under torch.compile.

The kernels are custom operators (`hf_diversity::pair_sum`, ...), so that torch.compile sees one opaque node and never
breaks the graph; outside of it they are called directly, which saves 35 us a call.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from ..tensors import accumulation_dtype, upcast, without_autocast
from .backend import triton_serves
from .dispatch import pair_sum_value
from .tiles import similarity_backward, similarity_forward


def _as_number(gamma: Tensor | float) -> Tensor | float:
    """A number where reading it does not wait for a device."""
    return float(gamma) if isinstance(gamma, Tensor) and gamma.device.type == "cpu" else gamma


def _pair_sum(activations: Tensor, gamma: Tensor | float, with_gradient: bool) -> tuple[Tensor, Tensor]:
    with torch.no_grad(), without_autocast(activations.device.type):
        value, gradient = pair_sum_value(upcast(activations.detach()), _as_number(gamma), with_gradient)
    return value, value.new_empty(0) if gradient is None else gradient


def _similarity(activations: Tensor, gamma: Tensor | float) -> Tensor:
    with torch.no_grad(), without_autocast(activations.device.type):
        wide, gamma = upcast(activations.detach()), _as_number(gamma)
        if triton_serves(wide):
            from .triton_similarity import similarity_forward_triton

            return similarity_forward_triton(wide, gamma)
        return similarity_forward(wide, gamma)


def _similarity_gradient(activations: Tensor, gamma: Tensor | float, upstream: Tensor) -> Tensor:
    with torch.no_grad(), without_autocast(activations.device.type):
        wide, gamma = upcast(activations.detach()), _as_number(gamma)
        upstream = upstream.to(wide.dtype)
        if triton_serves(wide):
            from .triton_similarity import similarity_backward_triton

            return similarity_backward_triton(wide, gamma, upstream).to(activations.dtype)
        return similarity_backward(wide, gamma, upstream).to(activations.dtype)


@torch.library.custom_op("hf_diversity::pair_sum", mutates_args=())
def _pair_sum_operator(activations: Tensor, gamma: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
    return _pair_sum(activations, gamma, with_gradient)


@_pair_sum_operator.register_fake
def _(activations: Tensor, gamma: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
    value = activations.new_empty((), dtype=accumulation_dtype(activations.dtype))
    return value, value.new_empty(activations.shape if with_gradient else (0,))


@torch.library.custom_op("hf_diversity::similarity", mutates_args=())
def _similarity_operator(activations: Tensor, gamma: Tensor) -> Tensor:
    return _similarity(activations, gamma)


@_similarity_operator.register_fake
def _(activations: Tensor, gamma: Tensor) -> Tensor:
    units = activations.shape[1]
    return activations.new_empty((units, units), dtype=accumulation_dtype(activations.dtype))


@torch.library.custom_op("hf_diversity::similarity_gradient", mutates_args=())
def _similarity_gradient_operator(activations: Tensor, gamma: Tensor, upstream: Tensor) -> Tensor:
    return _similarity_gradient(activations, gamma, upstream)


@_similarity_gradient_operator.register_fake
def _(activations: Tensor, gamma: Tensor, upstream: Tensor) -> Tensor:
    return activations.new_empty(activations.shape)


class _FirstOrderOnly(torch.autograd.Function):
    """Identity on a gradient that refuses to be differentiated with respect to the activations it depends on."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, activations: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *unused: Tensor) -> NoReturn:
        raise RuntimeError(
            "second derivatives of hf_diversity's measures are not implemented: a gradient of a gradient of the "
            "similarity was asked for (create_graph=True, a gradient penalty, a Hessian); leave the regulariser out "
            "of that term"
        )


class _PairSum(torch.autograd.Function):
    """The gradient is computed in the forward pass, and scaled in place by the first backward pass.

    A copy of it would take new memory from the system, which costs some 5 % of the whole. A second backward pass
    through the same graph computes it anew.
    """

    @staticmethod
    def forward(ctx: Any, activations: Tensor, gamma: Tensor | float, with_gradient: bool) -> Tensor:
        value: Tensor
        ctx.gamma = gamma
        if torch.compiler.is_compiling():
            value, gradient = torch.ops.hf_diversity.pair_sum(activations, _as_tensor(gamma), with_gradient)
            ctx.save_for_backward(activations, gradient)
        else:
            value, ctx.gradient = _pair_sum(activations, gamma, with_gradient)
            ctx.save_for_backward(activations)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        # The scale comes last: 1 / (D (D - 1)), which may come from above, is next to nothing in float16
        if torch.compiler.is_compiling():
            activations, gradient = ctx.saved_tensors
            return (gradient * upstream).to(activations.dtype), None, None
        (activations,) = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            _, gradient = _pair_sum(activations, ctx.gamma, True)
        gradient = gradient.mul_(upstream.detach())
        if torch.is_grad_enabled() and activations.requires_grad:
            gradient = _FirstOrderOnly.apply(gradient, activations)
        return gradient.to(activations.dtype), None, None


class _Similarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, activations: Tensor, gamma: Tensor | float) -> Tensor:
        ctx.gamma = gamma
        ctx.save_for_backward(activations)
        if torch.compiler.is_compiling():
            matrix: Tensor = torch.ops.hf_diversity.similarity(activations, _as_tensor(gamma))
            return matrix
        return _similarity(activations, gamma)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (activations,) = ctx.saved_tensors
        if torch.compiler.is_compiling():
            gradient = torch.ops.hf_diversity.similarity_gradient(activations, _as_tensor(ctx.gamma), upstream)
        else:
            gradient = _similarity_gradient(activations, ctx.gamma, upstream)
            if torch.is_grad_enabled():
                gradient = _FirstOrderOnly.apply(gradient, activations)
        return gradient, None


def _as_tensor(gamma: Tensor | float) -> Tensor:
    """Custom operators take gamma as a tensor only."""
    return gamma if isinstance(gamma, Tensor) else torch.tensor(gamma, dtype=torch.float64)


def pair_sum(activations: Tensor, gamma: Tensor | float) -> Tensor:
    """(1/N) sum_i sum_{n != m} exp(-gamma (a_in - a_im)^2), differentiable once.

    Args:
        activations: (N, D), any float dtype, N >= 1, D >= 1.
        gamma: sharpness, positive; a number or a 0-dim tensor; a constant, it gets no gradient.

    Returns:
        0-dim, between 0 and D (D - 1); float64 for float64, float32 otherwise.
    """
    value: Tensor = _PairSum.apply(activations, gamma, activations.requires_grad and torch.is_grad_enabled())
    return value


def similarity(activations: Tensor, gamma: Tensor | float) -> Tensor:
    """S with s_nm = (1/N) sum_i exp(-gamma (a_in - a_im)^2), differentiable once.

    The backward pass recomputes its tiles, so only the activations are kept for it.

    Args:
        activations: (N, D), any float dtype, N >= 1, D >= 1.
        gamma: sharpness, positive; a number or a 0-dim tensor; a constant, it gets no gradient.

    Returns:
        (D, D), symmetric, unit diagonal; float64 for float64, float32 otherwise.
    """
    matrix: Tensor = _Similarity.apply(activations, gamma)
    return matrix
