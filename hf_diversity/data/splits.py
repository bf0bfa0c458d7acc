"""Seeded, stratified subsets and label noise: functions of an array of class indices, the same on every process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratified_subset(labels: Sequence[int] | np.ndarray, size: int, seed: int) -> np.ndarray:
    """Choose `size` positions so that every class keeps its share.

    Shares are rounded by largest remainder, so class counts differ from the exact share by less than one.

    Args:
        labels: class index of every example, shape (N,).
        size: how many to choose, 1 <= size <= N.
        seed: seed of the choice; the choice depends on nothing else.

    Returns:
        Sorted positions, shape (size,), int64.

    Raises:
        ValueError: `size` is out of range.
    """
    labels = np.asarray(labels)
    if not 1 <= size <= len(labels):
        raise ValueError(f"cannot choose {size} of {len(labels)} examples: choose 1 to {len(labels)}")
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (size / len(labels))
    quota = np.floor(exact).astype(np.int64)
    # Largest remainder; a stable sort breaks ties by class index.
    leftover = np.argsort(quota - exact, kind="stable")[: size - quota.sum()]
    quota[leftover] += 1
    generator = np.random.default_rng(seed)
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def stratified_split(
    labels: Sequence[int] | np.ndarray, held_out: float | int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into a kept and a held-out part with the same class shares.

    Args:
        labels: class index of every example, shape (N,).
        held_out: fraction in (0, 1), or number of examples, to hold out.
        seed: seed of the split.

    Returns:
        Sorted positions of the kept and of the held-out examples.

    Raises:
        ValueError: nothing would be kept, or nothing held out.
    """
    labels = np.asarray(labels)
    size = round(held_out * len(labels)) if isinstance(held_out, float) else held_out
    if not 1 <= size < len(labels):
        raise ValueError(
            f"holding out {held_out} of {len(labels)} examples leaves {len(labels) - size} and {size}: both parts "
            "need at least 1"
        )
    held = stratified_subset(labels, size, seed)
    return np.setdiff1d(np.arange(len(labels)), held), held


def noisy_labels(
    labels: Sequence[int] | np.ndarray, fraction: float, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give a random fraction of the examples a random label.

    The new label is uniform over all classes (Zhang et al., 2017), so about fraction * (1 - 1 / num_classes) of all
    labels end up wrong.

    Args:
        labels: class index of every example, shape (N,).
        fraction: share of the examples that get a random label, in [0, 1].
        num_classes: number of classes to draw from.
        seed: seed of the draw.

    Returns:
        The labels, and the sorted positions that were redrawn.

    Raises:
        ValueError: `fraction` is out of range.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"label noise is {fraction}: it must be a fraction between 0 and 1")
    labels = np.array(labels, dtype=np.int64)
    generator = np.random.default_rng(seed)
    redrawn = np.sort(generator.permutation(len(labels))[: round(fraction * len(labels))])
    labels[redrawn] = generator.integers(num_classes, size=len(redrawn))
    return labels, redrawn
