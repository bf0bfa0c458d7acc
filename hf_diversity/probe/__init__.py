"""Measure the layers of any checkpoint on training and test data, and write a report that a person can read."""

from .findings import Finding
from .loading import LoadedModel, load_model
from .measuring import ModelReport
from .report import ProbeReport
from .run import probe
from .settings import ProbeSettings

__all__ = ["Finding", "LoadedModel", "ModelReport", "ProbeReport", "ProbeSettings", "load_model", "probe"]
