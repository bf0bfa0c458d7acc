"""Figures as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .style import import_pyplot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figures(figures: Mapping[str, tuple[Figure, Any]], folder: Path, dpi: int = 120) -> list[str]:
    """Write figures, and close them.

    Args:
        figures: what the functions of this package return, by the name of the file.
        folder: where the files go.
        dpi: pixels per inch.

    Returns:
        The names of the files.
    """
    for name, (figure, _) in figures.items():
        figure.savefig(folder / name, dpi=dpi)
        import_pyplot().close(figure)
    return list(figures)
