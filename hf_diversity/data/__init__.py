"""The embedded images, and seeded stratified splits."""

from .embedded import load_embedded
from .splits import noisy_labels, stratified_split, stratified_subset

__all__ = ["load_embedded", "noisy_labels", "stratified_split", "stratified_subset"]
