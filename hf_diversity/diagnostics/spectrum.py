"""The spectrum of a layer: how many directions its units use.

Each function takes eigenvalues, so that it serves centred and uncentred spectra, of one batch or of a whole data set:
those of the covariance (centred) or of the second moments (1/N) A^T A (uncentred).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import float64, float64_activations, float64_eigenvalues


def covariance_eigenvalues(activations: Tensor) -> Tensor:
    """Eigenvalues of the covariance (1/N) sum_i (a_i - mean) (a_i - mean)^T, descending.

    Args:
        activations: (N, D), N >= 1.

    Returns:
        (D,) float64, >= 0.
    """
    wide = float64_activations(activations)
    return _spectrum(wide - wide.mean(0))


def second_moment_eigenvalues(activations: Tensor) -> Tensor:
    """Eigenvalues of the second moments (1/N) A^T A, descending: the squared singular values of A over N.

    Args:
        activations: (N, D), N >= 1.

    Returns:
        (D,) float64, >= 0.
    """
    return _spectrum(float64_activations(activations))


def _spectrum(rows: Tensor) -> Tensor:
    """From singular values: no square of a condition number, and no eigenvalue below 0."""
    count, units = rows.shape
    values = torch.linalg.svdvals(rows).square() / count
    return torch.cat([values, values.new_zeros(units - len(values))])


def symmetric_eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues of a positive semi-definite matrix (D, D), descending, (D,) float64.

    Those below D times the rounding of the largest are 0. They are rounding, of either sign, and their roots would
    count in the effective rank (with fewer samples than units most of them are of this kind).
    """
    values: Tensor = torch.linalg.eigvalsh(float64(matrix)).flip(0)
    return values.where(values > len(values) * torch.finfo(values.dtype).eps * values[0], 0.0)


def effective_rank(eigenvalues: Tensor) -> float:
    """Effective rank: exp of the entropy of p = sigma / ||sigma||_1, the roots of the eigenvalues.

    1 for one direction, D for D equal ones. With `covariance_eigenvalues` it is the centred variant; with
    `second_moment_eigenvalues` it is RankMe.

    Args:
        eigenvalues: (D,), >= 0.

    Returns:
        Between 1 and D; NaN if all are 0.

    References:
        Roy and Vetterli, "The effective rank" (EUSIPCO 2007); Garrido et al., "RankMe" (ICML 2023).
    """
    sigma = float64_eigenvalues(eigenvalues).sqrt()
    p = sigma / sigma.sum()
    return float(torch.special.entr(p).sum().exp())


def participation_ratio(eigenvalues: Tensor) -> float:
    """(sum lambda)^2 / sum lambda^2: the dimension that the variance fills. Between 1 and D; NaN if all are 0.

    References:
        Gao et al., "A theory of multineuronal dimensionality" (2017).
    """
    values = float64_eigenvalues(eigenvalues)
    values = values / values.max()  # squares of tiny numbers would vanish
    return float(values.sum().square() / values.square().sum())


def spectrum_slope(eigenvalues: Tensor, first: int = 1, last: int | None = None) -> float:
    """Exponent alpha of lambda_k ~ k^-alpha, by least squares in log-log over ranks `first` to `last`.

    Args:
        eigenvalues: (D,), descending.
        first: first rank used, from 1.
        last: last rank used; None for the last eigenvalue above 1e-10 times the largest.

    Returns:
        alpha, >= 0 for a falling spectrum; NaN with fewer than 2 eigenvalues to use.

    Raises:
        ValueError: `first` and `last` are no range of ranks.

    References:
        Stringer et al., Nature 571 (2019); Agrawal et al., "alpha-ReQ" (NeurIPS 2022).
    """
    values = float64_eigenvalues(eigenvalues)
    end = len(values) if last is None else last
    if not 1 <= first <= end <= len(values):
        raise ValueError(
            f"ranks {first} to {last}: type first=1 and last=None, or ranks from 1 to {len(values)} in order"
        )
    used = int((values > 1e-10 * values[0]).sum())
    end = min(end, used)
    if end - first < 1:
        return math.nan
    x = torch.arange(first, end + 1, dtype=torch.float64, device=values.device).log()
    y = values[first - 1 : end].log()
    x = x - x.mean()
    return float(-(x @ (y - y.mean())) / (x @ x))
