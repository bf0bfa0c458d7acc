"""The measures of within-layer diversity, and what they are compared with, as pure functions.

(N, D) activations in (weights for `orthogonality` and `srip`), a tensor out. Sources of the similarity measures:

Laakom, Raitoharju, Iosifidis, Gabbouj: "Within-layer Diversity Reduces Generalization Gap" (arXiv 2106.06012) and
"WLD-Reg: A Data-dependent Within-layer Diversity Regularizer" (AAAI-23, arXiv 2301.01352).

All of them are differentiable once with respect to the activations, take any float dtype, accumulate in float32
(float64 for float64) whatever autocast says, and never hold an N x D x D array. Arguments are validated on the CPU; on
CUDA nothing waits for the device, so non-finite activations or a bad gamma in a tensor give a NaN (or an infinity),
in the value or in the gradient, instead of an error there, and inside torch.compile.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from .decorrelation import correlation, covariance, decov, vcreg
from .kernels import log_determinant, pair_sum, similarity
from .orthogonality import orthogonality, srip
from .tensors import can_read, check_activations, check_float_tensor, upcast

__all__ = [
    "DEFAULT_JITTER",
    "activation_norm",
    "average_distance",
    "correlation",
    "covariance",
    "decov",
    "det",
    "det_from_similarity",
    "direct",
    "logdet",
    "logdet_from_similarity",
    "orthogonality",
    "similarity_matrix",
    "srip",
    "vcreg",
]

DEFAULT_JITTER = 1e-4
"""Part of the definition of det and logdet: they are those of S + 1e-4 I. It never failed; 1e-6 sometimes did, and 0
fails wherever two units are equal (dead units, for instance)."""

_underflow_was_reported = False


def similarity_matrix(activations: Tensor, gamma: Tensor | float) -> Tensor:
    """Similarity of every pair of units, s_nm = (1/N) sum_i exp(-gamma (a_in - a_im)^2).

    Args:
        activations: (N, D), N samples of D units, any float dtype, N >= 2, D >= 2.
        gamma: sharpness, in 1 / activation^2, positive; a number or a 0-dim tensor. It gets no gradient.

    Returns:
        (D, D) symmetric, positive semi-definite, diagonal exactly 1, entries in [0, 1]; float64 for float64
        activations and float32 for all others. Time O(N D^2), memory O(N D + D^2).

    Raises:
        TypeError: activations are no tensor or not of a float dtype; gamma is not a number.
        ValueError: the shape is not (N >= 2, D >= 2), gamma is not positive and finite, or an activation is not
            finite.
    """
    check_activations(activations)
    return similarity(activations, _check_gamma(gamma))


def direct(activations: Tensor, gamma: Tensor | float, reduction: str = "mean") -> Tensor:
    """Direct: J = sum_{n != m} s_nm, the off-diagonal of the similarity matrix; to be minimised.

    Args:
        activations: (N, D), any float dtype, N >= 2, D >= 2.
        gamma: sharpness, in 1 / activation^2, positive; a number or a 0-dim tensor. It gets no gradient.
        reduction: "mean" divides by the D (D - 1) pairs, so that a weight carries over between layers; "sum" is the
            paper's form.

    Returns:
        0-dim, in [0, 1] for "mean" and [0, D (D - 1)] for "sum"; float64 for float64 activations and float32 for all
        others. Time O(N D) for usual activations, memory O(N D); S is never formed.

    Raises:
        TypeError: as for `similarity_matrix`.
        ValueError: as for `similarity_matrix`, or the reduction is unknown.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}: unknown; type reduction='mean' or reduction='sum'")
    check_activations(activations)
    total = pair_sum(activations, _check_gamma(gamma))
    units = activations.shape[1]
    return total / (units * (units - 1)) if reduction == "mean" else total


def det(activations: Tensor, gamma: Tensor | float, jitter: float = DEFAULT_JITTER) -> Tensor:
    """Det: J = -det(S + jitter I); to be minimised.

    It underflows for all but the narrowest layers (det S = 8e-21 at D = 64 with correlated features), and then has no
    gradient: a warning says so once. `logdet` does not have this weakness.

    Args:
        activations: (N, D), any float dtype, N >= 2, D >= 2.
        gamma: sharpness, in 1 / activation^2, positive; a number or a 0-dim tensor. It gets no gradient.
        jitter: added to the diagonal of S; part of the definition.

    Returns:
        0-dim, in [-(1 + jitter)^D, 0], of the dtype of `similarity_matrix`.

    Raises:
        TypeError: as for `similarity_matrix`, or jitter is not a number.
        ValueError: as for `similarity_matrix`, jitter is negative, or S + jitter I is not positive definite.
    """
    return det_from_similarity(similarity_matrix(activations, gamma), jitter)


def logdet(activations: Tensor, gamma: Tensor | float, jitter: float = DEFAULT_JITTER) -> Tensor:
    """Logdet: J = -log det(S + jitter I); to be minimised.

    Args:
        activations: (N, D), any float dtype, N >= 2, D >= 2.
        gamma: sharpness, in 1 / activation^2, positive; a number or a 0-dim tensor. It gets no gradient.
        jitter: added to the diagonal of S; part of the definition.

    Returns:
        0-dim, at least -D log(1 + jitter), of the dtype of `similarity_matrix`. Time O(N D^2 + D^3).

    Raises:
        TypeError: as for `similarity_matrix`, or jitter is not a number.
        ValueError: as for `similarity_matrix`, jitter is negative, or S + jitter I is not positive definite.
    """
    return logdet_from_similarity(similarity_matrix(activations, gamma), jitter)


def det_from_similarity(similarity: Tensor, jitter: float = DEFAULT_JITTER) -> Tensor:
    """`det` from S itself, for instance after S was averaged over processes.

    Args:
        similarity: (D, D), symmetric positive semi-definite, float32 or float64.
        jitter: added to its diagonal.

    Returns:
        0-dim -det(S + jitter I), of the dtype of S; computed as exp(log det) in float64.

    Raises:
        TypeError: S is no float tensor, or jitter is not a number.
        ValueError: S is not square, jitter is negative, or S + jitter I is not positive definite (CPU only, NaN
            elsewhere).
    """
    value = _log_determinant(similarity, jitter).exp().to(similarity.dtype)
    _report_underflow(value)
    return -value


def logdet_from_similarity(similarity: Tensor, jitter: float = DEFAULT_JITTER) -> Tensor:
    """`logdet` from S itself, for instance after S was averaged over processes.

    Args:
        similarity: (D, D), symmetric positive semi-definite, float32 or float64.
        jitter: added to its diagonal.

    Returns:
        0-dim -log det(S + jitter I), of the dtype of S; computed in float64.

    Raises:
        TypeError: S is no float tensor, or jitter is not a number.
        ValueError: S is not square, jitter is negative, or S + jitter I is not positive definite (CPU only, NaN
            elsewhere).
    """
    return -_log_determinant(similarity, jitter).to(similarity.dtype)


def activation_norm(activations: Tensor) -> Tensor:
    """Norm term: P = (1/N) sum_i ||a_i||^2.

    Args:
        activations: (N, D), any float dtype, N >= 1, D >= 1.

    Returns:
        0-dim, in activation^2; float64 for float64 activations and float32 for all others.

    Raises:
        TypeError: activations are no tensor or not of a float dtype.
        ValueError: the shape is not (N >= 1, D >= 1), or an activation is not finite.
    """
    check_activations(activations, samples=1, units=1)
    return mean_squared_norm(activations)


def mean_squared_norm(rows: Tensor) -> Tensor:
    """`activation_norm` of any (N, D), unchecked; 0 with a gradient path where N is 0."""
    # Norms of rows first: squares of all activations would be written to memory and read again
    norms: Tensor = torch.linalg.vector_norm(upcast(rows), dim=1)
    return torch.dot(norms, norms) / max(rows.shape[0], 1)


def average_distance(activations: Tensor) -> Tensor:
    """Average distance between the units at each sample, D(x) = 1/(2 D (D-1)) sum_{n != m} (a_n - a_m)^2.

    That is the unbiased variance of the D activations: sum_{n,m} (a_n - a_m)^2 = 2 D sum_n (a_n - mean)^2. Source: the
    quantity that the bounds of Laakom et al. require to be at least d_min^2.

    Args:
        activations: (N, D), any float dtype, N >= 1, D >= 2.

    Returns:
        (N,), in activation^2; float64 for float64 activations and float32 for all others.

    Raises:
        TypeError: activations are no tensor or not of a float dtype.
        ValueError: the shape is not (N >= 1, D >= 2), or an activation is not finite.
    """
    check_activations(activations, samples=1)
    return upcast(activations).var(dim=1, unbiased=True)


def _log_determinant(similarity: Tensor, jitter: float) -> Tensor:
    check_float_tensor(similarity, "similarity")
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1] or similarity.shape[0] == 0:
        raise ValueError(
            f"similarity has shape {tuple(similarity.shape)}: it must be a square matrix (D, D); type "
            "similarity_matrix(activations, gamma)"
        )
    if isinstance(jitter, bool) or not isinstance(jitter, (int, float)):
        raise TypeError(
            f"jitter is {jitter!r} ({type(jitter).__name__}): it must be a number; type jitter={DEFAULT_JITTER}"
        )
    if not (math.isfinite(jitter) and jitter >= 0):
        raise ValueError(f"jitter is {jitter}: it must be finite and >= 0; type jitter={DEFAULT_JITTER}")
    value = log_determinant(similarity, float(jitter))
    if can_read(value) and not math.isfinite(value.item()):
        raise ValueError(
            f"S + jitter I is not positive definite with jitter={jitter}: units are equal (dead units, say) or S is "
            f"not a similarity matrix; type jitter={DEFAULT_JITTER} or larger"
        )
    return value


def _report_underflow(value: Tensor) -> None:
    global _underflow_was_reported
    if _underflow_was_reported or not can_read(value) or value.item() >= torch.finfo(value.dtype).tiny:
        return
    _underflow_was_reported = True
    warnings.warn(
        f"det(S + jitter I) underflows in {value.dtype}: it has no gradient, so it does not regularise; use logdet "
        '(measure="logdet")',
        RuntimeWarning,
        stacklevel=4,
    )


def _check_gamma(gamma: Tensor | float) -> Tensor | float:
    if isinstance(gamma, Tensor):
        if gamma.ndim != 0 or gamma.dtype == torch.bool or gamma.dtype.is_complex:
            raise TypeError(
                f"gamma is a tensor of shape {tuple(gamma.shape)} and dtype {gamma.dtype}: it must be one number; "
                "type gamma=1.0"
            )
        if gamma.requires_grad:
            raise ValueError("gamma requires a gradient, but it is a constant of the measure; type gamma.detach()")
        if not can_read(gamma):
            return gamma
        number = gamma.item()
    elif isinstance(gamma, bool) or not isinstance(gamma, (int, float)):  # torch 2.6 compiles no union
        raise TypeError(
            f"gamma is {gamma!r} ({type(gamma).__name__}): it must be a number or a 0-dim tensor; type gamma=1.0"
        )
    else:
        number = gamma
    if not (math.isfinite(number) and number > 0):
        raise ValueError(
            f"gamma is {number}: exp(-gamma d^2) is a similarity for a finite gamma > 0 only; type gamma=1.0"
        )
    return gamma
