"""Orthogonality of the weights of a layer: SO and SRIP. They see no activation.

Source: Bansal, Chen, Wang: "Can We Gain More from Orthogonality Regularizations in Training Deep CNNs?" (NeurIPS
2018). There W has a column for each unit; a torch weight has a row, so W^T W is here the product of the weight and its
transpose. Both are 0 for orthonormal units, which a layer with more units than inputs cannot have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .tensors import check_float_tensor, upcast, without_autocast


def orthogonality(weight: Tensor) -> Tensor:
    """SO, soft orthogonality: J = ||W^T W - I||_F^2; to be minimised.

    Args:
        weight: (units, ...), of a linear layer or a convolution; any float dtype. All but the first axis are inputs.

    Returns:
        0-dim, >= 0; float64 for a float64 weight and float32 for all others. Time O(units^2 x inputs).

    Raises:
        TypeError: the weight is no tensor or not of a float dtype.
        ValueError: it has fewer than two axes.
    """
    with without_autocast(weight.device.type):
        matrix = _rows(weight)
        return torch.addmm(torch.eye(len(matrix)).to(matrix), matrix, matrix.T, beta=-1).square().sum()


def srip(weight: Tensor, iterations: int = 1, seed: int = 0) -> Tensor:
    """SRIP, spectral restricted isometry: J = sigma(W^T W - I), the largest singular value; to be minimised.

    By power iteration, as in the source: u = A v / ||A v||, once by default, then J = ||A u||. That is at most the
    largest singular value and reaches it with the number of iterations. u is a constant of the gradient.

    Args:
        weight: (units, ...), of a linear layer or a convolution; any float dtype. All but the first axis are inputs.
        iterations: products before the last one, >= 1.
        seed: of the first v, normally distributed; the global random state is left alone.

    Returns:
        0-dim, >= 0; float64 for a float64 weight and float32 for all others. Time O(units x inputs).

    Raises:
        TypeError: the weight is no tensor or not of a float dtype.
        ValueError: it has fewer than two axes, or there is no iteration.
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}: power iteration needs at least one; type iterations=1")
    matrix = _rows(weight)
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(len(matrix), generator=generator, dtype=torch.float64).to(matrix)
    with without_autocast(weight.device.type):
        with torch.no_grad():
            for _ in range(iterations):
                vector = torch.nn.functional.normalize(_defect(matrix, vector), dim=0)
        norm: Tensor = torch.linalg.vector_norm(_defect(matrix, vector))
        return norm


def _rows(weight: Tensor) -> Tensor:
    check_float_tensor(weight, "weight")
    if weight.ndim < 2:
        raise ValueError(
            f"the weight has shape {tuple(weight.shape)}: orthogonality is between the rows of a matrix (units, "
            "inputs); name a linear layer or a convolution"
        )
    return upcast(weight).flatten(1)


def _defect(matrix: Tensor, vectors: Tensor) -> Tensor:
    """W^T W - I of the source, times `vectors`."""
    return matrix @ (matrix.T @ vectors) - vectors
