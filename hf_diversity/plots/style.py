"""What all figures share: colours, and matplotlib where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's: people with any kind of colour blindness can tell them apart; lines also differ in style."""
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^v<>"


def import_pyplot() -> Any:
    """Return matplotlib.pyplot.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            'hf_diversity.plots needs matplotlib, which is not installed; type: pip install "hf_diversity[plots]"'
        ) from error
    return pyplot


def check_labels(given: Any, kind: type | tuple[type, ...], example: str) -> None:
    """Refuse what is no mapping from labels to what is drawn.

    Args:
        given: what was passed.
        kind: of its values.
        example: what to type.

    Raises:
        TypeError: it is something else.
        ValueError: it is empty.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"a {type(given).__name__} was given: what is drawn needs a label; type {example}")
    if not given:
        raise ValueError(f"nothing was given to draw: type {example}")
    for label, value in given.items():
        if not isinstance(value, kind):
            raise TypeError(f"{label!r} is a {type(value).__name__}: type {example}")


def plain(name: str, most: int = 40) -> str:
    """A name as matplotlib writes it letter by letter: no mathematics between dollars, shown in legends too.

    A long one keeps its end, which tells layers apart.
    """
    short = name if len(name) <= most else "…" + name[1 - most :]
    escaped = short.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
