"""What all figures share: colours, and matplotlib where it is installed."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's: people with any kind of colour blindness can tell them apart; lines also differ in style
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")


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
