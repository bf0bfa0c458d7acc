"""Bad input to the diagnostics is refused here, and numbers become float64."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bandwidth import wide_dtype
from ..tensors import check_activations


def float64(tensor: Tensor) -> Tensor:
    """`tensor` without gradient in float64, on the CPU where its device has none (MPS)."""
    tensor = tensor.detach()
    return (tensor if wide_dtype(tensor.device) == torch.float64 else tensor.cpu()).double()


def float64_activations(activations: Tensor, units: int = 1) -> Tensor:
    """Activations (N, D) in float64.

    Args:
        activations: (N, D), any float dtype, N >= 1.
        units: the least D.

    Raises:
        TypeError: activations are no tensor or not of a float dtype.
        ValueError: the shape is wrong, or an activation is not finite (seen on the CPU only).
    """
    check_activations(activations, samples=1, units=units)
    return float64(activations)


def float64_eigenvalues(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues (D,) in float64.

    Raises:
        TypeError: eigenvalues are no tensor.
        ValueError: the shape is not (D >= 1,), or one is negative or not finite.
    """
    if not isinstance(eigenvalues, Tensor):
        raise TypeError(
            f"eigenvalues is a {type(eigenvalues).__name__}: type covariance_eigenvalues(activations), or torch.tensor"
        )
    if eigenvalues.ndim != 1 or len(eigenvalues) == 0:
        raise ValueError(
            f"eigenvalues have shape {tuple(eigenvalues.shape)}: they must be (D,); type "
            "covariance_eigenvalues(activations)"
        )
    values = float64(eigenvalues)
    bad = ~((values >= 0) & values.isfinite())
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {len(values)} eigenvalues are negative or not finite, the first is "
            f"{float(values[bad][0])}: those of a covariance are finite and >= 0; type "
            "covariance_eigenvalues(activations)"
        )
    return values
