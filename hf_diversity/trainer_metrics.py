"""Which of the numbers that Trainer reports of an evaluation are results, and which only say how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TECHNICAL = ("runtime", "samples_per_second", "steps_per_second", "jit_compilation_time", "model_preparation_time")
"""Trainer's times and speeds, behind the prefix of an evaluation."""


def bare_metrics(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The results of an evaluation by their bare names: without prefix, times and speeds, and what is no number.

    Args:
        metrics: as `evaluate` and `predict` give them, or a record of Trainer's log.
        prefix: of the evaluation, "eval"; names that begin otherwise are left out.

    Example:
        >>> bare_metrics({"eval_loss": 0.5, "eval_runtime": 2.0, "epoch": 1.0}, "eval")
        {'loss': 0.5}
    """
    begin = f"{prefix}_"
    found = {name.removeprefix(begin): value for name, value in metrics.items() if name.startswith(begin)}
    return {
        name: float(value) for name, value in found.items() if name not in TECHNICAL and isinstance(value, int | float)
    }
