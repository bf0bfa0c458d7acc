"""Figures of a study: what each method reached, and how far it is from the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_diversity.plots.saving import save_figures
from hf_diversity.plots.style import COLOURS, import_pyplot
from studies.analysis import CORRUPTED_MEASURES, MEASURES, MethodResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Mapping[str, Mapping[str, MethodResult]]
COMPARED = ("test_accuracy", "accuracy_gap", "test_loss", "loss_gap", "calibration_error")
# Drawn as well where test images were corrupted
CORRUPTED_ACCURACY = "test_corrupted_accuracy"
MARKERS = ("o", "s", "^", "D", "v", "P")


def difference_figure(results: Results, reference: str) -> tuple[Figure, np.ndarray]:
    """Draw the paired difference of every method to the reference, with its 95 % t interval.

    Args:
        results: by condition and method.
        reference: name of the method that the others are compared with.

    Returns:
        The figure, and its axes, one for each measure of `COMPARED`, and of `CORRUPTED_ACCURACY` if it is there.
        Conditions differ in colour and marker. A filled marker stands for p < 0.05 after Holm's correction.

    Raises:
        ValueError: there is no difference to draw.
    """
    methods = list(dict.fromkeys(m for found in results.values() for m, r in found.items() if r.differences))
    if not methods:
        raise ValueError("no method has a finished final run with a seed that the reference has too")
    pyplot = import_pyplot()
    height = 1.6 + 0.34 * len(methods) * max(1, 0.6 * len(results))
    names = [
        name
        for name in (*COMPARED, CORRUPTED_ACCURACY)
        if any(name in result.differences for found in results.values() for result in found.values())
    ]
    figure, axes = pyplot.subplots(
        1, len(names), figsize=(3.1 * len(names), height), sharey=True, layout="constrained"
    )
    offsets = _offsets(len(results))
    for axis, name in zip(axes, names, strict=True):
        for index, (condition, found) in enumerate(results.items()):
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            for place, method in enumerate(methods):
                if method not in found or name not in found[method].differences:
                    continue
                interval = found[method].differences[name].difference
                clear = found[method].adjusted_p[name] < 0.05
                axis.errorbar(
                    interval.mean,
                    place + offsets[index],
                    xerr=[[_reach(interval.mean, interval.low)], [_reach(interval.mean, interval.high)]],
                    color=colour,
                    marker=marker,
                    markerfacecolor=colour if clear else "white",
                    markersize=6,
                    capsize=2.5,
                    linewidth=1.4,
                )
            axis.plot([], [], color=colour, marker=marker, markerfacecolor="white", label=condition)
        measure = {**MEASURES, **CORRUPTED_MEASURES}[name]
        axis.axvline(0, color="0.5", linewidth=0.9, zorder=0)
        axis.grid(axis="x", alpha=0.25)
        axis.set_title(measure.title, fontsize=10)
        axis.set_xlabel("better →" if measure.better > 0 else "← better", fontsize=9)
        axis.tick_params(axis="x", labelsize=8, rotation=30)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.suptitle(
        f"difference to {reference}, paired by seed: mean and 95 % interval; filled: p < 0.05 after Holm's correction",
        fontsize=10,
    )
    if len(results) > 1:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(results), fontsize=9)
    return figure, axes


def accuracy_figure(results: Results) -> tuple[Figure, np.ndarray]:
    """Draw the training and test accuracy of every method, each seed a dot.

    Args:
        results: by condition and method.

    Returns:
        The figure, and its axes, one for each condition with a finished run.

    Raises:
        ValueError: there is no finished final run.
    """
    shown = {
        condition: {method: result for method, result in found.items() if result.seeds}
        for condition, found in results.items()
    }
    shown = {condition: found for condition, found in shown.items() if found}
    if not shown:
        raise ValueError("no final run is finished")
    pyplot = import_pyplot()
    methods = max(len(found) for found in shown.values())
    columns = min(2, len(shown))
    rows = math.ceil(len(shown) / columns)
    size = (5.6 * columns, 0.6 + (1 + 0.4 * methods) * rows)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    axes = grid.flatten()
    for unused in axes[len(shown) :]:
        unused.remove()
    axes = axes[: len(shown)]
    styles = {"test_accuracy": (COLOURS[0], "o", "test"), "train_accuracy": (COLOURS[1], "^", "train")}
    for axis, (condition, found) in zip(axes, shown.items(), strict=True):
        for name, (colour, marker, label) in styles.items():
            for place, result in enumerate(found.values()):
                values = result.values[name]
                heights = place + 0.5 * _offsets(len(values))
                axis.plot(values, heights, marker, color=colour, alpha=0.35, markersize=4, linestyle="none")
                axis.plot(result.means[name].mean, place, marker, color=colour, markersize=8, linestyle="none")
            axis.plot([], [], marker, color=colour, linestyle="none", label=label)
        axis.set_yticks(range(len(found)), list(found))
        axis.invert_yaxis()
        axis.set_xlabel("accuracy (share of the examples)")
        axis.set_title(condition, fontsize=10)
        axis.grid(axis="x", alpha=0.25)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle("large: mean over the seeds; small: each seed", fontsize=10)
    return figure, axes


def _offsets(count: int) -> np.ndarray:
    return np.linspace(-0.25, 0.25, count) if count > 1 else np.zeros(1)


def _reach(mean: float, end: float) -> float:
    """Length of one side of an error bar; none for a single seed."""
    return abs(mean - end) if np.isfinite(end) else 0.0


def write_figures(folder: Path, results: Results, reference: str) -> list[str]:
    """Draw what can be drawn into `folder`.

    Returns:
        Names of the files written.
    """
    import matplotlib

    matplotlib.use("Agg")
    figures = {}
    if any(result.differences for found in results.values() for result in found.values()):
        figures["differences.png"] = difference_figure(results, reference)
    if any(result.seeds for found in results.values() for result in found.values()):
        figures["accuracy.png"] = accuracy_figure(results)
    return save_figures(figures, folder, dpi=130)
