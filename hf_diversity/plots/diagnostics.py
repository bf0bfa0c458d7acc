"""What `hf_diversity.diagnostics` measured: spectra, distances between units, dead units, redundancy by layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..diagnostics import LayerDiagnostics
from ..theory import largest_distance, output_bound
from .style import COLOURS, MARKERS, STYLES, check_labels, import_pyplot, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_QUANTITIES = {
    "mean_similarity_normalised": "mean similarity of two units\n(scale-normalised gamma)",
    "mean_similarity": "mean similarity of two units\n(training gamma)",
    "mean_absolute_correlation": "mean |correlation| of two units",
    "effective_rank": "effective rank (centred)",
    "participation_ratio": "participation ratio (centred)",
    "activation_norm": "mean squared norm of a sample",
}


def spectra(measured: Mapping[str, LayerDiagnostics]) -> tuple[Figure, Axes]:
    """Draw the eigenvalues of the covariance, log-log, as shares of the variance.

    Args:
        measured: label and diagnostics of each curve, say `{"train": ..., "test": ...}` or one for each layer.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: nothing was given.
    """
    _check(measured)
    pyplot = import_pyplot()
    figure, axis = pyplot.subplots(figsize=(4.6, 3.8), layout="constrained")
    for index, (label, layer) in enumerate(measured.items()):
        values = layer.eigenvalues.double().numpy()
        total = values.sum()
        kept = values > 1e-10 * values[0]
        rank = f"effective rank {layer.effective_rank:.3g} of {layer.num_units}"
        name = f"{plain(label)}: {rank}, slope {layer.spectrum_slope:.2f}"
        if kept.any() and total > 0:
            ranks = np.arange(1, len(values) + 1)[kept]
            axis.plot(ranks, values[kept] / total, label=name, **_style(index))
        else:
            axis.plot([], [], label=f"{plain(label)}: no variance", **_style(index))
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("rank of the direction")
    axis.set_ylabel("share of the variance")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="lower left")  # which a falling curve leaves free
    return figure, axis


def distance_curves(measured: Mapping[str, LayerDiagnostics]) -> tuple[Figure, np.ndarray]:
    """Draw the d_min curve, and what it does to the paper's bound of the output.

    Above: d against Q, where the average distance D(x) >= d^2 holds for the share Q of the samples. Below: sqrt J at
    that d, with C5 the largest activation seen, over sqrt J at d = 0. The bound is false for activations below 0
    (`theory.output_bound`), and is drawn for layers without any.

    Args:
        measured: label and diagnostics of each curve.

    Returns:
        The figure, and its axes, shape (2,), or (1,) where no layer has a bound to draw.

    Raises:
        ValueError: nothing was given.
    """
    _check(measured)
    pyplot = import_pyplot()
    panels = 2 if any(_has_bound(layer) for layer in measured.values()) else 1
    figure, axes = pyplot.subplots(
        panels, 1, figsize=(4.6, 3.8 if panels == 1 else 5.6), sharex=True, squeeze=False, layout="constrained"
    )
    for index, (label, layer) in enumerate(measured.items()):
        kept = [1 - p for p in layer.distance_quantiles]
        distances = [math.sqrt(max(value, 0.0)) for value in layer.distance_quantiles.values()]
        style = {"marker": MARKERS[index % len(MARKERS)], "markersize": 4, **_style(index)}
        axes[0, 0].plot(kept, distances, label=plain(label), **style)
        if _has_bound(layer):
            axes[1, 0].plot(kept, _relative_bounds(layer, distances), label=plain(label), **style)
    axes[0, 0].set_ylabel("d (activation)")
    axes[0, 0].set_title("distance between units", fontsize=10)
    axes[0, 0].set_ylim(bottom=0)
    if panels == 2:
        axes[1, 0].set_ylabel("bound of |f(x)| at d / at d = 0")
        axes[1, 0].set_title("what it takes off the paper's bound (13.4 % at most)", fontsize=10)
        axes[1, 0].set_ylim(math.sqrt(3) / 2 - 0.01, 1.005)
    for axis in axes[:, 0]:
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    axes[-1, 0].set_xlabel("share Q of the samples with D(x) >= d²")
    return figure, axes[:, 0]


def _has_bound(layer: LayerDiagnostics) -> bool:
    return layer.smallest_activation >= 0 and layer.largest_activation > 0


def _relative_bounds(layer: LayerDiagnostics, distances: Iterable[float]) -> list[float]:
    units, c5 = layer.num_units, layer.largest_activation
    # C5 is measured, so D(x) is within its limit but for rounding
    most, alone = largest_distance(units, c5), output_bound(units, 1.0, c5, 0.0)
    return [output_bound(units, 1.0, c5, min(d, most)) / alone for d in distances]


def dead_units(measured: Mapping[str, LayerDiagnostics]) -> tuple[Figure, Axes]:
    """Draw the share of units that are constant, and that are never above 0.

    Args:
        measured: label and diagnostics of each bar, say one for each layer.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: nothing was given.
    """
    _check(measured)
    pyplot = import_pyplot()
    figure, axis = pyplot.subplots(figsize=(4.6, 1.3 + 0.42 * len(measured)), layout="constrained")
    positions = np.arange(len(measured))
    for shift, key, label, colour in (
        (-0.2, "constant_share", "constant over all samples", COLOURS[0]),
        (0.2, "never_positive_share", "never above 0", COLOURS[1]),
    ):
        shares = [100 * layer.scalars()[key] for layer in measured.values()]
        bars = axis.barh(positions + shift, shares, height=0.36, color=colour, label=label)
        axis.bar_label(bars, fmt="%.3g", fontsize=8, padding=2)
    axis.set_yticks(positions, [plain(name) for name in measured], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 112)
    axis.set_xlabel("units (per cent)")
    figure.legend(loc="outside upper center", fontsize=8, ncols=2)
    return figure, axis


def redundancy(
    measured: Mapping[str, Mapping[str, LayerDiagnostics]], quantity: str = "mean_similarity_normalised"
) -> tuple[Figure, Axes]:
    """Draw one quantity layer by layer, a row of dots for each split or checkpoint.

    Args:
        measured: by what is compared (say "train" and "test"), the diagnostics by layer.
        quantity: a number of `LayerDiagnostics`.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: nothing was given, or the quantity is unknown.
    """
    check_labels(measured, Mapping, '{"train": measure_diagnostics(model, loader)}')
    for by_layer in measured.values():
        _check(by_layer)
    if quantity not in _QUANTITIES:
        raise ValueError(f"quantity is {quantity!r}: choose from {', '.join(_QUANTITIES)}")
    pyplot = import_pyplot()
    layers = list(dict.fromkeys(name for by_layer in measured.values() for name in by_layer))
    figure, axis = pyplot.subplots(figsize=(4.8, 1.4 + 0.34 * len(layers)), layout="constrained")
    for index, (label, by_layer) in enumerate(measured.items()):
        rows = [row for row, name in enumerate(layers) if name in by_layer]
        values = [getattr(by_layer[layers[row]], quantity) for row in rows]
        axis.plot(
            values,
            rows,
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=6 + 2 * index,
            fillstyle="full" if index == 0 else "none",  # so that equal values hide nothing
            linestyle="",
            label=plain(label),
        )
    axis.set_yticks(range(len(layers)), [plain(name) for name in layers], fontsize=8)
    axis.set_ylim(len(layers) - 0.5, -0.5)
    if quantity.startswith("mean_s") or "correlation" in quantity:
        axis.set_xlim(0, 1)
    axis.set_xlabel(_QUANTITIES[quantity])
    axis.grid(alpha=0.25)
    figure.legend(loc="outside upper center", fontsize=8, ncols=4)
    return figure, axis


def _check(measured: Any) -> None:
    check_labels(
        measured, LayerDiagnostics, '{"fc": layer_diagnostics(activations)}, or what measure_diagnostics gave'
    )


def _style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": STYLES[index % len(STYLES)]}
