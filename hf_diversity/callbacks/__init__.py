"""Callbacks: the generalisation gap, diagnostics of layers, and a schedule of the weights."""

from .bound import TrainerBoundCallback
from .gap import GeneralizationGapCallback
from .layer_diagnostics import LayerDiagnosticsCallback
from .schedule import DiversityScheduleCallback

__all__ = [
    "DiversityScheduleCallback",
    "GeneralizationGapCallback",
    "LayerDiagnosticsCallback",
    "TrainerBoundCallback",
]
