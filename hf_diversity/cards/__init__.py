"""Model cards: what a model is, how it was trained and how far to trust it, for the Hub and for people."""

from .card import Card, Dataset, Twin, render, save

__all__ = ["Card", "Dataset", "Twin", "render", "save"]
