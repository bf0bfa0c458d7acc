"""What a training logged: curves, and train-validation gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..diagnostics.gaps import is_cost
from .style import COLOURS, import_pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, Any]]


def history_curve(history: History, key: str, axis: str = "epoch") -> tuple[np.ndarray, np.ndarray]:
    """Return where and what: the values of `axis` and of `key` in the records of a log history that hold both.

    Args:
        history: `trainer.state.log_history`.
        key: a logged name, for example "eval_validation_loss".
        axis: "epoch" or "step".
    """
    found = [(record[axis], record[key]) for record in history if key in record and axis in record]
    positions, values = zip(*found, strict=True) if found else ((), ())
    return np.asarray(positions, dtype=np.float64), np.asarray(values, dtype=np.float64)


def gap_curves(
    runs: Mapping[str, Sequence[History]], metrics: Sequence[str] = ("accuracy", "loss"), other: str = "validation"
) -> tuple[Figure, np.ndarray]:
    """Draw how each metric and its train-validation gap move during training, method by method.

    Args:
        runs: method and the log histories of its runs (one for each seed). A line is the mean over runs, a band
            reaches from the smallest to the largest.
        metrics: logged as `eval_train_<metric>` and `eval_<other>_<metric>`.
        other: the split that is compared with the training examples.

    Returns:
        The figure, and its axes, shape (2, len(metrics)): the metric above, its gap below.

    Raises:
        ValueError: a run did not log a metric for both splits.
    """
    pyplot = import_pyplot()
    figure, axes = pyplot.subplots(
        2, len(metrics), figsize=(4.6 * len(metrics), 6.4), squeeze=False, sharex=True, layout="constrained"
    )
    for column, metric in enumerate(metrics):
        for index, (method, histories) in enumerate(runs.items()):
            colour = COLOURS[index % len(COLOURS)]
            epochs, train = _stacked(histories, f"eval_train_{metric}", method)
            _, held_out = _stacked(histories, f"eval_{other}_{metric}", method)
            _line(axes[0, column], epochs, train, colour, "--", f"{method}, train")
            _line(axes[0, column], epochs, held_out, colour, "-", f"{method}, {other}")
            gap = held_out - train if is_cost(metric) else train - held_out
            _line(axes[1, column], epochs, gap, colour, "-", method)
        axes[0, column].set_ylabel(metric)
        difference = f"{other} - train" if is_cost(metric) else f"train - {other}"
        axes[1, column].set_ylabel(f"{metric} gap ({difference})")
        axes[1, column].axhline(0, color="0.6", linewidth=0.8, zorder=0)
        axes[1, column].set_xlabel("epoch")
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
    seeds = max(len(histories) for histories in runs.values())
    if seeds > 1:
        figure.suptitle(f"mean of {seeds} seeds; bands from the smallest to the largest", fontsize=10)
    return figure, axes


def training_curves(
    history: History, keys: Sequence[str] = ("loss", "task_loss", "diversity", "activation_norm", "gamma")
) -> tuple[Figure, np.ndarray]:
    """Draw what the trainer logged while training: each quantity by itself, `loss` and `task_loss` together.

    Args:
        history: `trainer.state.log_history`.
        keys: logged names; those that were not logged are left out.

    Returns:
        The figure, and its axes, shape (number of panels,).

    Raises:
        ValueError: none of the keys was logged.
    """
    pyplot = import_pyplot()
    curves = {key: history_curve(history, key, "step") for key in keys}
    curves = {key: curve for key, curve in curves.items() if len(curve[0])}
    if not curves:
        raise ValueError(f"none of {', '.join(keys)} was logged: train with a smaller logging_steps")
    panels: list[list[str]] = []
    for key in curves:
        if key == "task_loss" and panels and panels[-1] == ["loss"]:
            panels[-1].append(key)
        else:
            panels.append([key])
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(3.6 * len(panels), 3.2), squeeze=False, layout="constrained"
    )
    for axis, names in zip(axes[0], panels, strict=True):
        for index, name in enumerate(names):
            axis.plot(*curves[name], color=COLOURS[index], linestyle=("-", "--")[index % 2], label=name)
        axis.set_xlabel("step")
        axis.set_ylabel(names[0])
        axis.grid(alpha=0.25)
        if len(names) > 1:
            axis.legend(fontsize=8)
    return figure, axes[0]


def _line(axis: Axes, positions: np.ndarray, values: np.ndarray, colour: str, style: str, label: str) -> None:
    marker = "o" if len(positions) == 1 else ""  # a line of one point is invisible
    axis.plot(positions, values.mean(axis=0), color=colour, linestyle=style, marker=marker, label=label)
    if len(values) > 1:
        axis.fill_between(positions, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)


def _stacked(histories: Sequence[History], key: str, method: str) -> tuple[np.ndarray, np.ndarray]:
    curves = [history_curve(history, key) for history in histories]
    length = min((len(positions) for positions, _ in curves), default=0)
    if length == 0:
        raise ValueError(
            f"a run of {method!r} did not log {key!r}: train with eval_dataset={{'train': ..., 'validation': ...}} "
            "and eval_strategy='epoch'"
        )
    return curves[0][0][:length], np.stack([values[:length] for _, values in curves])
