"""Metrics and measurements that need no network: local modules of the `evaluate` library.

`evaluate.load("accuracy")` downloads a script from the Hub; these files are here. `evaluate.load` takes their folders,
and those of `within_layer_diversity` and `generalization_gap` can be pushed as Spaces as they are.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path

import evaluate

NAMES = ("accuracy", "generalization_gap", "within_layer_diversity")
"""The modules that are there."""


def path(name: str) -> str:
    """Return the file that `evaluate.load` takes for a metric.

    Args:
        name: one of `NAMES`.

    Raises:
        ValueError: the name is unknown.

    Example:
        >>> evaluate.load(path("accuracy")).compute(predictions=[0, 1], references=[0, 0])["accuracy"]
        0.5
    """
    if name not in NAMES:
        close = difflib.get_close_matches(str(name), NAMES, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(NAMES)}"
        raise ValueError(f"unknown metric {name!r}: {hint}")
    return str(Path(__file__).parent / name / f"{name}.py")


def load(name: str, config_name: str | None = None) -> evaluate.EvaluationModule:
    """Load a metric or measurement.

    Unlike `evaluate.load(path(name))` this copies nothing into the user's cache and keeps its inputs in memory, so
    that several processes can compute at the same time without waiting for one another's locks.

    Args:
        name: one of `NAMES`.
        config_name: which form of its inputs; see `generalization_gap`.

    Raises:
        ValueError: the name is unknown.

    Example:
        >>> load("accuracy").compute(predictions=[0, 1], references=[0, 0])["accuracy"]
        0.5
    """
    path(name)
    module = importlib.import_module(f"{__name__}.{name}.{name}")
    return getattr(module, name.title().replace("_", ""))(config_name=config_name, keep_in_memory=True)
