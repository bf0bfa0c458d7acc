"""Measures of linear redundancy, from the covariance of a layer's units: DeCov, VCReg, correlation.

They are what within-layer diversity is compared with. Each is split like the measures of similarity: means over
samples first (`moments`), which batches and processes may average, then the value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .tensors import check_activations, upcast, without_autocast

VCREG_EPS = 1e-4
"""Added to the variances before the root, whose gradient at 0 is infinite; that of VICReg and VCReg."""

_ROUNDINGS = 16  # of a difference of two sums over samples


def moments(activations: Tensor, shift: Tensor) -> Tensor:
    """First and second moments about `shift`, from which the covariance follows.

    The covariance is the same for any constant `shift`; near the mean, no digits cancel.

    Args:
        activations: (N, D), N >= 1.
        shift: (D,), without gradient.

    Returns:
        (1 + D, D), means over samples: first that of a - shift, then that of (a - shift) (a - shift)^T.
    """
    with without_autocast(activations.device.type):
        centred = upcast(activations)
        centred = centred - shift.to(centred)
        return torch.cat([centred.mean(0, keepdim=True), centred.T @ centred / len(centred)])


def covariance_from_moments(moments: Tensor) -> Tensor:
    """The covariance (D, D), with 1/N, from what `moments` gave, averaged over samples."""
    mean, second = moments[0], moments[1:]
    return second - mean[:, None] * mean


def covariance(activations: Tensor) -> Tensor:
    """Covariance of the units, C = (1/N) sum_i (a_i - mean) (a_i - mean)^T.

    Args:
        activations: (N, D), any float dtype, N >= 2, D >= 2.

    Returns:
        (D, D), in activation^2; float64 for float64 activations and float32 for all others. Time O(N D^2).

    Raises:
        TypeError: activations are no tensor or not of a float dtype.
        ValueError: the shape is not (N >= 2, D >= 2), or an activation is not finite.
    """
    check_activations(activations)
    return covariance_from_moments(moments(activations, upcast(activations.detach()).mean(0)))


def decov(activations: Tensor) -> Tensor:
    """DeCov: J = 1/2 (||C||_F^2 - ||diag C||^2), with C the covariance over the batch; to be minimised.

    Source: Cogswell, Ahmed, Girshick, Zitnick, Batra: "Reducing Overfitting in Deep Networks by Decorrelating
    Representations" (ICLR 2016), the equation of L_DeCov. It scales with the fourth power of the activations and grows
    as D^2.

    Args:
        activations: (N, D), any float dtype, N >= 2, D >= 2.

    Returns:
        0-dim, >= 0, in activation^4; of the dtype of `covariance`.

    Raises:
        TypeError: as for `covariance`.
        ValueError: as for `covariance`.
    """
    return decov_from_covariance(covariance(activations))


def decov_from_covariance(covariance: Tensor) -> Tensor:
    """`decov` from C (D, D) itself."""
    return _off_diagonal(covariance).square().sum() / 2


def vcreg(activations: Tensor) -> Tensor:
    """VCReg: J = mean_i max(0, 1 - std_i) + sum_{i != j} C_ij^2 / (D (D - 1)); to be minimised.

    std_i = sqrt(C_ii + 1e-4), and C has 1/(N - 1). The first term pulls the activations of a unit apart until their
    standard deviation is 1, so J depends on the scale of a layer. Source: Zhu, Evtimova, Chen, Shwartz-Ziv, LeCun:
    "Variance-Covariance Regularization Improves Representation Learning" (arXiv 2306.13292), with both terms in equal
    parts and the plain square: that paper also has a form in which large C_ij count linearly.

    Args:
        activations: (N, D), any float dtype, N >= 2, D >= 2.

    Returns:
        0-dim, >= 0; of the dtype of `covariance`.

    Raises:
        TypeError: as for `covariance`.
        ValueError: as for `covariance`.
    """
    return vcreg_from_covariance(covariance(activations), len(activations))


def vcreg_from_covariance(covariance: Tensor, samples: Tensor | int) -> Tensor:
    """`vcreg` from C (D, D), with 1/N, of N = `samples`."""
    unbiased = covariance * (samples / (samples - 1))
    units = len(covariance)
    spread = (1 - (unbiased.diagonal() + VCREG_EPS).sqrt()).clamp(min=0).mean()
    return spread + _off_diagonal(unbiased).square().sum() / (units * (units - 1))


def correlation(activations: Tensor) -> Tensor:
    """Correlation: J = mean_{i != j} R_ij^2, with R the correlation matrix over the batch; to be minimised.

    The redundancy term of Barlow Twins (Zbontar et al., ICML 2021) within one view, and of FedDecorr (Shi et al., ICLR
    2023). It does not depend on the scale or offset of any unit. A unit that does not vary by more than rounding has
    correlation 0 with all others, and no gradient.

    Args:
        activations: (N, D), any float dtype, N >= 2, D >= 2.

    Returns:
        0-dim, in [0, 1]; of the dtype of `covariance`.

    Raises:
        TypeError: as for `covariance`.
        ValueError: as for `covariance`.
    """
    check_activations(activations)
    return correlation_from_moments(moments(activations, upcast(activations.detach()).mean(0)))


def correlation_from_moments(moments: Tensor) -> Tensor:
    """`correlation` from what `moments` gave, averaged over samples."""
    covariance = covariance_from_moments(moments)
    variance, units = covariance.diagonal(), len(covariance)
    # A constant unit's variance is the rounding of its second moment about a shift that is its value up to rounding
    varies = variance > _ROUNDINGS * torch.finfo(covariance.dtype).eps * moments[1:].diagonal()
    scale = torch.where(varies, variance, 1.0).rsqrt() * varies
    correlations = _off_diagonal(covariance) * scale[:, None] * scale
    return correlations.square().sum() / (units * (units - 1))


def _off_diagonal(matrix: Tensor) -> Tensor:
    return matrix - torch.diag(matrix.diagonal())
