"""Diagnostics over a whole data set: sums that batches and processes add to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..bandwidth import estimate_gamma, wide_dtype
from ..config import DiversityConfig
from ..data_pass import iterate_rows
from ..distributed import sum_over_processes
from ..evaluation import DiversityMeter
from ..measures import Logdet
from ..regularizer import check_rows
from ..tensors import without_autocast
from .describe import Moments, describe
from .layer import LayerDiagnostics
from .quantiles import EXACT_SAMPLES, QuantileMeter


class DiagnosticsMeter:
    """Sums over batches from which `LayerDiagnostics` follow.

    It holds three D x D matrices in float64 for each layer, and 8 MB at most for the quantiles of D(x). Those are
    exact up to `exact_samples` samples (see `QuantileMeter`), and all else is for any number.

    Args:
        gammas: the training gamma by layer; a layer without one is measured at its normalised gamma.
        exact_samples: samples of a layer, over all processes, up to which the quantiles of D(x) are exact.
    """

    def __init__(self, gammas: Mapping[str, float] | None = None, exact_samples: int = EXACT_SAMPLES):
        """See the class."""
        given = dict(gammas or {})
        for name, gamma in given.items():
            if not 0 < gamma < float("inf"):
                raise ValueError(f"the gamma of layer {name!r} is {gamma}: it must be positive and finite")
        matrix = Logdet(DiversityConfig())  # its statistic is S
        self._given = given
        self._at_training = DiversityMeter(matrix, given.get)
        self._scales: dict[str, float] = {}
        self._normalised = DiversityMeter(matrix, self._scales.get)
        self._moments: dict[str, Moments] = {}
        self._distances: dict[str, QuantileMeter] = {}
        self._exact_samples = exact_samples

    @torch.no_grad()
    def update(self, rows: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            rows: (N, D) by layer, every layer in every batch; N may be 0, and may differ between processes.

        Raises:
            TypeError: the activations are not floating point.
            ValueError: a layer has one unit, or its rows are not (N, D).
        """
        self._estimate_scales(rows)
        self._normalised.update(rows)
        self._at_training.update({name: values for name, values in rows.items() if name in self._given})
        for name, values in rows.items():
            if name not in self._moments:
                self._moments[name] = Moments.of_no_sample(values)
                self._distances[name] = QuantileMeter(self._exact_samples)
            with without_autocast(values.device.type):
                if len(values):
                    wide = values.to(wide_dtype(values.device))
                    self._moments[name].add(wide)
                    self._distances[name].add(wide.var(1, unbiased=True))  # D(x), see `average_distance`

    def _estimate_scales(self, rows: Mapping[str, Tensor]) -> None:
        for name, values in rows.items():
            if values.ndim != 2:
                raise ValueError(
                    f"layer {name!r} gives activations of shape {tuple(values.shape)}: they must be (N, D), samples "
                    "by units; type activations.flatten(0, -2) to take every position as a sample"
                )
            check_rows(name, values, alone=False)
            count = torch.tensor([len(values)], device=values.device)
            if name not in self._scales and int(sum_over_processes(count)):
                gamma = float(estimate_gamma(values))
                # Equal units are similar at any gamma. Activations that are not finite are told by `compute`
                self._scales[name] = gamma if math.isfinite(gamma) else 1.0

    def compute(self) -> dict[str, LayerDiagnostics]:
        """The diagnostics of everything that was added in all processes.

        Raises:
            NonFiniteRegularizerError: activations are NaN or infinite; names the layer.
            ValueError: a layer had no sample at all.
        """
        normalised, at_training = self._normalised.compute(), self._at_training.compute()
        found = {}
        for name, moments in self._moments.items():
            found[name] = describe(
                moments.over_processes(),
                at_training.get(name, normalised[name]),
                normalised[name],
                self._distances[name].compute(device=moments.mean.device),
            )
        return found


def measure_diagnostics(
    model: nn.Module,
    dataloader: Iterable[Mapping[str, Any]],
    diversity: DiversityConfig | None = None,
    gammas: Mapping[str, float] | None = None,
    progress: Callable[[Iterable[Mapping[str, Any]]], Iterable[Mapping[str, Any]]] | None = None,
    on_batch: Callable[[Mapping[str, Any], Any], None] | None = None,
    accelerator: Any = None,
) -> dict[str, LayerDiagnostics]:
    """Diagnose layers of any model over a data set, in evaluation mode.

    Args:
        model: any model whose layers `find_layers` resolves; left in the mode it was in.
        dataloader: gives batches as dicts of the model's inputs. With several processes each gives its own part, and
            all must give as many batches.
        diversity: which layers, samples and gamma; weights do not matter. Default: `DiversityConfig()`.
        gammas: the training gamma by layer, say from `diversity_state.json`; else it is `diversity.gamma`, and with
            "median" the normalised gamma of the first batch.
        progress: wraps the data loader to show how far it is: `tqdm`, or a function that returns one.
        on_batch: called with each batch and what the model gave for it.
        accelerator: that prepared the data loader; the examples that it repeats to fill the last batch do not count.

    Returns:
        By layer.

    Raises:
        ValueError: no batch came, `gammas` names another layer, or a layer has one unit.
    """
    diversity = diversity or DiversityConfig()
    meter: DiagnosticsMeter | None = None
    batches = dataloader if progress is None else progress(dataloader)
    for rows in iterate_rows(model, batches, diversity, on_batch, accelerator):
        if meter is None:
            given = {} if diversity.gamma == "median" else dict.fromkeys(rows, float(diversity.gamma))
            for name in gammas or {}:
                if name not in rows:
                    raise ValueError(f"gammas names {name!r}: the layers are {', '.join(map(repr, rows))}")
            meter = DiagnosticsMeter({**given, **(gammas or {})})
        meter.update(rows)
    if meter is None:
        raise ValueError("the data loader gave no batch: nothing was measured; check the data set")
    return meter.compute()
