"""gamma = "median": a sharpness of the similarity that follows the scale of the activations.

The gradient of exp(-gamma d^2) is largest at d = 1 / sqrt(2 gamma), so gamma = 1 / (2 m^2) with m the median distance
between two units pulls hardest on the typical pair, and makes J independent of the activations' scale.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .distributed import sum_over_processes

# Distances are counted in the bins that the exponent and the first five bits of the fraction of a float32 number make
# (2 to 3 % each). Counts add up over micro-batches and processes, so the median is the same however a batch is split,
# which no average of medians would be. It is interpolated within its bin.
_FRACTION_BITS = 5
_DROPPED_BITS = 23 - _FRACTION_BITS
_BINS = 2 ** (8 + _FRACTION_BITS)
_INFINITY = 255 << _FRACTION_BITS  # the first bin of numbers that are not finite
# 64 pairs of units times all samples: the median of a 64-sample batch is within some 2 % and the running average
# within 1 %. The scale of activations changes over many steps, so after the first few only every fourth is measured.
_PAIRS = 64
_EVERY, _FIRST_STEPS = 4, 16
_DECAY = 0.8  # per step that is measured
_STEPS_A_TABLE = 64


def wide_dtype(device: torch.device) -> torch.dtype:
    """Float64 where the device has it: for gamma and for sums over a data set."""
    return torch.float32 if device.type == "mps" else torch.float64


@functools.lru_cache(maxsize=32)
def _pair_table(units: int, pairs: int, number: int) -> Tensor:
    """Random pairs of different units for some steps, (steps, 2 x pairs): first units, then second ones."""
    with torch.inference_mode(False), torch.device("cpu"):  # it is kept, and used in other modes than this call's
        generator = torch.Generator().manual_seed(number)
        first = torch.rand(_STEPS_A_TABLE, units, generator=generator).argsort(1)[:, :pairs]
        shift = 1 + torch.randint(max(units - 1, 1), first.shape, generator=generator)
        return torch.cat([first, (first + shift) % units], 1)


def distance_histogram(rows: Tensor, seed: int, pairs: int = _PAIRS) -> Tensor:
    """Count the distances |a_in - a_im| > 0 over all samples i and some pairs of units n != m drawn by `seed`.

    Args:
        rows: (N, D) activations.
        seed: draws the pairs; the same for one optimiser step in every process.
        pairs: how many pairs; the number of units or more takes every unit as first one.

    Returns:
        (8192,) int64 counts, on the device of `rows`.
    """
    units = rows.shape[1]
    pairs = min(pairs, units)
    columns = _pair_table(units, pairs, seed // _STEPS_A_TABLE)[seed % _STEPS_A_TABLE]
    chosen = rows.detach().index_select(1, columns.to(rows.device, non_blocking=True))
    chosen = chosen if chosen.dtype == torch.float64 else chosen.float()
    distance = (chosen[:, :pairs] - chosen[:, pairs:]).abs_().float()
    bins = (distance.view(torch.int32) >> _DROPPED_BITS).long().flatten()
    counts = torch.zeros(_BINS, dtype=torch.int64, device=rows.device).scatter_add_(0, bins, torch.ones_like(bins))
    counts[0] = 0  # identical units say nothing about the scale
    counts[_INFINITY:] = 0  # nor does what is not finite
    return counts


@functools.cache
def _log2_edges(device: torch.device) -> Tensor:
    """log2 of the bins' lower edges, (8193,)."""
    with torch.inference_mode(False), torch.device("cpu"):
        edges = torch.arange(_BINS + 1).clamp_(max=_INFINITY).mul_(1 << _DROPPED_BITS).int().view(torch.float32)
        return edges.double().log2().to(device, wide_dtype(device))


def log2_median(histogram: Tensor) -> Tensor:
    """Median of log2 d, interpolated within its bin; NaN if nothing was counted. 0-dim float64 (float32 on MPS)."""
    cumulative = histogram.cumsum(0).to(wide_dtype(histogram.device))
    half = cumulative[-1] / 2
    index = torch.searchsorted(cumulative, half)
    inside = histogram[index]
    part = (half - (cumulative[index] - inside)) / inside  # 0/0 = NaN if nothing was counted
    edges = _log2_edges(histogram.device)
    return torch.lerp(edges[index], edges[index + 1], part)


def gamma_from_log2(log2_distance: Tensor) -> Tensor:
    """Return 1 / (2 m^2) for log2 m."""
    return torch.exp2(-2 * log2_distance - 1)


def estimate_gamma(rows: Tensor, seed: int = 0) -> Tensor:
    """Gamma of one batch alone, over all processes: (N, D) rows to a 0-dim tensor; NaN if all units agree."""
    return gamma_from_log2(log2_median(sum_over_processes(distance_histogram(rows, seed, pairs=rows.shape[1]))))


class MedianGamma:
    """The running estimate of gamma, one per layer.

    Within one optimiser step gamma is constant, so that gradient accumulation sees one loss: it comes from the steps
    before, the first 16 and then every fourth (exponential average of log2 m, decay 0.8, bias-corrected). The very
    first step has none before it: there gamma comes from its whole window by `calibrate`, or from its first batch if
    that is all there is. Everything stays on the device; only `state_dict` reads it.
    """

    def __init__(self) -> None:
        """Start without any estimate."""
        self._average: dict[str, Tensor] = {}  # (2,): sum of weights x log2 m, sum of weights
        self._gammas: dict[str, Tensor] = {}  # what follows from the averages
        self._first: dict[str, Tensor] = {}
        self._window: dict[str, Tensor] = {}
        self._window_step: int | None = None

    @property
    def has_estimate(self) -> bool:
        """Whether a step was measured, or a state loaded."""
        return bool(self._average or self._first)

    def calibrate(self, batches: Iterable[Mapping[str, Tensor]], step: int, synchronise: bool) -> None:
        """Set gamma for the first step from all its micro-batches, so that accumulation is exact there too.

        Args:
            batches: rows by layer, micro-batch by micro-batch.
            step: optimiser steps done so far.
            synchronise: whether to count over all processes (one collective).
        """
        totals: dict[str, Tensor] = {}
        for rows in batches:
            for name, values in rows.items():
                histogram = distance_histogram(values, step, values.shape[1])
                totals[name] = totals[name] + histogram if name in totals else histogram
        counts = torch.stack(list(totals.values()))
        if synchronise:
            counts = sum_over_processes(counts)
        self._window, self._window_step = {}, step
        self._first = {name: log2_median(histogram) for name, histogram in zip(totals, counts, strict=True)}

    def update(self, rows: Mapping[str, Tensor], step: int, synchronise: bool) -> dict[str, Tensor]:
        """Count this batch's distances, if this step is measured, and return each layer's gamma for it.

        Args:
            rows: (N, D) activations of each layer.
            step: optimiser steps done so far; a new value closes the window of the one before.
            synchronise: whether to count over all processes (one collective, in steps that are measured).

        Returns:
            0-dim gamma per layer; NaN while no two units ever differed.
        """
        self._close_window(step)
        if step >= _FIRST_STEPS and step % _EVERY and all(name in self._average for name in rows):
            return {name: self._gamma(name) for name in rows}
        # The first estimate takes every unit: in a layer of mostly dead ones, 64 pairs may hold none that is alive
        histograms: Iterable[Tensor] = [
            distance_histogram(r, step, _PAIRS if n in self._average else r.shape[1]) for n, r in rows.items()
        ]
        if synchronise:
            histograms = sum_over_processes(torch.stack(list(histograms)))
        gammas = {}
        for name, histogram in zip(rows, histograms, strict=True):
            self._window[name] = self._window[name] + histogram if name in self._window else histogram
            if name not in self._average and name not in self._first:
                self._first[name] = log2_median(histogram)
            gammas[name] = self._gamma(name)
        return gammas

    def discard_window(self) -> None:
        """Forget the distances of the step under way."""
        self._window, self._first = {}, {}

    def current(self, name: str, step: int) -> Tensor | None:
        """The estimate for a layer after `step` optimiser steps, or None before there is one."""
        self._close_window(step)
        return self._gamma(name) if name in self._average or name in self._first else None

    def _gamma(self, name: str) -> Tensor:
        if name not in self._average:
            return gamma_from_log2(self._first[name])
        if name not in self._gammas:
            total, weight = self._average[name]
            self._gammas[name] = gamma_from_log2(total / weight)  # 0/0 = NaN until two units differed in a step
        return self._gammas[name]

    def _close_window(self, step: int) -> None:
        if step == self._window_step:
            return
        for name, histogram in self._window.items():
            median = log2_median(histogram)
            old = self._average.get(name)
            if old is None:
                old = torch.zeros(2, dtype=median.dtype, device=median.device)
            new = torch.lerp(old, torch.stack([median, torch.ones_like(median)]), 1 - _DECAY)
            self._average[name] = torch.where(median.isfinite(), new, old)
            self._gammas.pop(name, None)
        self._window, self._first, self._window_step = {}, {}, step

    def state_dict(self, step: int) -> dict[str, Any]:
        """Plain JSON values from which `load_state_dict` continues bit for bit."""
        self._close_window(step)
        return {name: average.tolist() for name, average in self._average.items()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Continue from what `state_dict` gave."""
        dtype = wide_dtype(torch.device(device))
        self._first, self._window, self._window_step, self._gammas = {}, {}, None, {}
        self._average = {name: torch.tensor(pair, dtype=dtype, device=device) for name, pair in state.items()}
