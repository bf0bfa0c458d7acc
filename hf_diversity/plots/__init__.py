"""Figures of trainings and of layers. Needs matplotlib: the extra `plots`.

Every function returns `(figure, axes)` and shows or saves nothing. Colours are safe for any kind of colour blindness.
"""

from .diagnostics import dead_units, distance_curves, redundancy, spectra
from .gaps import gaps
from .matrices import order_units, similarity_matrices
from .style import COLOURS, import_pyplot
from .training import gap_curves, history_curve, training_curves

__all__ = [
    "COLOURS",
    "dead_units",
    "distance_curves",
    "gap_curves",
    "gaps",
    "history_curve",
    "import_pyplot",
    "order_units",
    "redundancy",
    "similarity_matrices",
    "spectra",
    "training_curves",
]
