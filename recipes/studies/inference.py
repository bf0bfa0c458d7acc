"""Means with intervals, and paired differences, corrected for the number of comparisons; by SciPy and statsmodels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

LEVEL = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """A mean and its two-sided 95 % t interval; NaN ends for a single value.

    Attributes:
        mean: of the values.
        low: lower end.
        high: upper end.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class PairedDifference:
    """A method minus the reference, seed by seed.

    Attributes:
        difference: mean and 95 % t interval of the differences.
        bootstrap_low: lower end of the 95 % BCa bootstrap interval (Efron, 1987) of their mean.
        bootstrap_high: upper end.
        p: of the two-sided paired t test; 1 if no seed differs, NaN for a single seed.
        higher: seeds with which the method's value is higher.
        lower: seeds with which it is lower.
    """

    difference: Interval
    bootstrap_low: float
    bootstrap_high: float
    p: float
    higher: int
    lower: int


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean and its t interval."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return Interval(float(array.mean()), math.nan, math.nan, len(array))
    if np.ptp(array) == 0:
        return Interval(float(array[0]), float(array[0]), float(array[0]), len(array))
    found = stats.ttest_1samp(array, 0.0).confidence_interval(LEVEL)
    return Interval(float(array.mean()), float(found.low), float(found.high), len(array))


def paired_difference(values: Sequence[float], reference: Sequence[float], seed: int = 0) -> PairedDifference:
    """Compare a method with the reference.

    Args:
        values: of the method, one for each seed.
        reference: those of the reference with the same seeds, in the same order.
        seed: of the bootstrap.

    Raises:
        ValueError: the values are not as many.
    """
    if len(values) != len(reference) or not len(values):
        raise ValueError(f"there are {len(values)} and {len(reference)} values: pairs need as many, at least one")
    array = np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    interval = mean_interval(array.tolist())
    higher, lower = int((array > 0).sum()), int((array < 0).sum())
    if len(array) < 2:
        return PairedDifference(interval, math.nan, math.nan, math.nan, higher, lower)
    if np.ptp(array) == 0:
        # No spread to judge by. Where nothing differs at all, nothing speaks against equality.
        p = 1.0 if array[0] == 0 else math.nan
        return PairedDifference(interval, interval.low, interval.high, p, higher, lower)
    p = float(stats.ttest_rel(values, reference).pvalue)
    resampled = stats.bootstrap(
        (array,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, random_state=np.random.default_rng(seed)
    ).confidence_interval
    return PairedDifference(interval, float(resampled.low), float(resampled.high), p, higher, lower)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm, 1979); NaN stays NaN and is not counted."""
    array = np.asarray(p_values, dtype=np.float64)
    known = np.isfinite(array)
    adjusted = np.full(len(array), math.nan)
    if known.any():
        adjusted[known] = multipletests(array[known], method="holm")[1]
    return adjusted.tolist()
