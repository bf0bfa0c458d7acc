"""Similarity matrices as heat maps, similar units side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import check_labels, import_pyplot, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_POINTS = 512  # drawn along an axis
# All eigenvectors of more units take seconds
_LARGE = 512
_KRYLOV_STEPS = 80


def order_units(similarity: Any) -> np.ndarray:
    """Return an order of the units that puts similar ones side by side (spectral seriation, by the Fiedler vector).

    Of more than 512 units the vector is approximated in a Krylov space: half a second for 2,048.

    Args:
        similarity: S, shape (D, D), symmetric.

    Returns:
        A permutation of 0 ... D - 1.

    References:
        Atkins, Boman, Hendrickson: A spectral algorithm for seriation and the consecutive ones problem (1998).
    """
    similarity = _matrix("similarity", similarity)
    degrees = similarity.sum(axis=1)
    # Normalised, so that a few units unlike all others do not take the whole vector.
    scale = 1 / np.sqrt(degrees)
    normalised = scale[:, None] * similarity * scale[None, :]
    if len(similarity) > _LARGE:
        second = _second_eigenvector(normalised, first=np.sqrt(degrees / degrees.sum()))
    else:
        second = np.linalg.eigh(normalised)[1][:, -2]
    return np.argsort(second * scale, kind="stable")


def _second_eigenvector(matrix: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The eigenvector of the second largest eigenvalue, where the `first` is known, by Rayleigh and Ritz."""
    vector = np.random.default_rng(0).standard_normal(len(matrix))
    basis = [first]
    images: list[np.ndarray] = []
    for _ in range(_KRYLOV_STEPS):
        for _ in range(2):  # once leaves rounding along the earlier directions
            known = np.stack(basis)
            vector = vector - known.T @ (known @ vector)
        length = np.linalg.norm(vector)
        if length < 1e-10:  # the space holds every direction that matters
            break
        basis.append(vector / length)
        images.append(matrix @ basis[-1])
        vector = images[-1]
    space = np.stack(basis[1:])
    _, coefficients = np.linalg.eigh(space @ np.stack(images).T)
    vector = np.asarray(space.T @ coefficients[:, -1])
    return vector


def similarity_matrices(matrices: Mapping[str, Any], title: str | None = None) -> tuple[Figure, np.ndarray]:
    """Draw similarity matrices side by side in one colour scale, units ordered so that clusters show.

    Args:
        matrices: title and S, shape (D, D), of each, for example `{"before": S0, "after": S1}`. Each is ordered by
            itself (`order_units`): a network's units have no order of their own.
        title: written over all of them.

    Returns:
        The figure, and its axes, shape (len(matrices),).

    Raises:
        TypeError: a matrix was given without a title.
        ValueError: nothing was given, or a matrix is not square.
    """
    check_labels(matrices, object, '{"after": matrix}')
    pyplot = import_pyplot()
    drawn = {name: _matrix(name, values) for name, values in matrices.items()}
    figure, axes = pyplot.subplots(
        1, len(drawn), figsize=(3.3 * len(drawn) + 0.9, 3.9), squeeze=False, layout="constrained"
    )
    for column, (axis, (name, matrix)) in enumerate(zip(axes[0], drawn.items(), strict=True)):
        order = order_units(matrix)
        shown, block = _averaged(matrix[np.ix_(order, order)])
        image = axis.imshow(
            shown, vmin=0, vmax=1, cmap="cividis", interpolation="nearest", extent=(0, len(matrix), len(matrix), 0)
        )
        axis.set_title(f"{plain(name)}\nmean off-diagonal {_mean_off_diagonal(matrix):.3f}", fontsize=10)
        axis.set_xlabel(f"unit (similar ones side by side{f', {block} to a point' if block > 1 else ''})")
        if column == 0:
            axis.set_ylabel("unit")
    figure.colorbar(image, ax=axes[0].tolist(), label="similarity of two units", shrink=0.75)
    if title:
        figure.suptitle(plain(title))
    return figure, axes[0]


def _averaged(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    """Means over blocks of units, so that no more points are drawn than can be seen; and the size of a block."""
    block = -(-len(matrix) // _MOST_POINTS)
    starts = np.arange(0, len(matrix), block)
    sizes = np.diff([*starts, len(matrix)])
    sums = np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)
    return sums / np.outer(sizes, sizes), block


def _matrix(name: str, values: Any) -> np.ndarray:
    matrix = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}: a similarity matrix is (D, D) with D >= 2")
    return matrix.astype(np.float64)


def _mean_off_diagonal(matrix: np.ndarray) -> float:
    units = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (units * (units - 1)))
