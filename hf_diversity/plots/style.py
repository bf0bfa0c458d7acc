"""What all figures share: colours, and matplotlib where it is installed."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's: people with any kind of colour blindness can tell them apart; lines also differ in style
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
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


def plain(name: str, most: int = 40) -> str:
    """A name as matplotlib writes it letter by letter: no mathematics between dollars, shown in legends too.

    A long one keeps its end, which tells layers apart.
    """
    short = name if len(name) <= most else "…" + name[1 - most :]
    escaped = short.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
