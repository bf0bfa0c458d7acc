"""Metrics of models on two splits, and the gap between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..diagnostics import generalization_gaps
from .style import COLOURS, MARKERS, check_labels, import_pyplot, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Metrics = Mapping[str, Mapping[str, float]]


def gaps(train: Metrics, held_out: Metrics, split: str = "test") -> tuple[Figure, np.ndarray]:
    """Draw each metric on the training and the held-out examples, joined by the gap between them.

    Args:
        train: model, and its metrics over training examples: `{"baseline": {"accuracy": 1.0, "loss": 0.1}}`.
        held_out: the same over held-out examples. What not both have is left out.
        split: what the held-out examples are called.

    Returns:
        The figure, and its axes, shape (number of metrics,).

    Raises:
        ValueError: no metric is in both.
    """
    for metrics_by_model in (train, held_out):
        check_labels(metrics_by_model, Mapping, '{"baseline": {"accuracy": 1.0, "loss": 0.1}}')
    shared = {name: generalization_gaps(metrics, held_out.get(name, {})) for name, metrics in train.items()}
    metrics = list(dict.fromkeys(metric for found in shared.values() for metric in found))
    if not metrics:
        raise ValueError("no metric is in both: pass {model: {metric: value}} for both splits, with the same names")
    pyplot = import_pyplot()
    height = 0.6 + (0.75 + 0.45 * len(shared)) * len(metrics)
    figure, axes = pyplot.subplots(len(metrics), 1, figsize=(4.6, height), squeeze=False, layout="constrained")
    for axis, metric in zip(axes[:, 0], metrics, strict=True):
        rows = {name: found[metric] for name, found in shared.items() if metric in found}
        for row, (name, gap) in enumerate(rows.items()):
            ends = (train[name][metric], held_out[name][metric])
            axis.plot(ends, (row, row), color="0.6", linewidth=2, zorder=1)
            for index, (value, label) in enumerate(zip(ends, ("train", split), strict=True)):
                axis.plot(value, row, MARKERS[index], color=COLOURS[index], label=plain(label) if row == 0 else None)
            where = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            axis.annotate(f"gap {gap:+.3g}", (sum(ends) / 2, row), **where)
        axis.set_yticks(range(len(rows)), [plain(name, 30) for name in rows], fontsize=8)
        axis.set_ylim(len(rows) - 0.5, -0.7)
        axis.margins(x=0.15)
        axis.grid(axis="x", alpha=0.25)
        axis.set_xlabel(metric)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", fontsize=8, ncols=2)
    return figure, axes[:, 0]
