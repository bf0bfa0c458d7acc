"""The parts of the loss between two log records, kept on the device until they are written."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .config import DiversityConfig
from .distributed import sum_over_processes, world_size
from .regularizer import RegularizerOutput


class TrainingLog:
    """Sums of task loss, J and P since the last record.

    Scaled as Trainer scales `loss`, so that in every record, up to rounding,
    `loss = task_loss + diversity_weight * diversity + activation_weight * activation_norm`.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._sums: dict[str, Tensor] = {}
        self._of_step: dict[str, Tensor] = {}
        self._gammas: dict[str, Tensor] = {}
        self._step: int | None = None
        self._since_step: int | None = None
        self._skipped = 0
        self._scale: float | None = None

    def add(
        self,
        task_loss: Tensor,
        output: RegularizerOutput,
        step: int,
        task_share: float,
        share: float,
        factors: Mapping[str, Tensor] | None = None,
        scale: float | None = None,
    ) -> None:
        """Add one micro-batch.

        Args:
            task_loss: the task loss as Trainer's compute_loss gave it, detached.
            output: the regulariser of the micro-batch.
            step: optimiser steps done so far.
            task_share: what Trainer multiplies the task loss by before it logs it.
            share: the part of the optimiser step that this micro-batch is, if all have as many samples.
            factors: by layer, what `share` has to be multiplied by.
            scale: of the weights in this step; None if they are constant.
        """
        if step != self._step:
            self._end_step()
            self._step = step
        if self._since_step is None:
            self._since_step = step
        self._add("task_loss", task_loss.mean() * task_share)  # nn.DataParallel: one for each replica
        if scale is not None:
            self._add("penalty", output.penalty * share)
            self._scale = scale
        several = len(output.layers) > 1
        for name, parts in output.layers.items():
            mine = share if factors is None else share * factors[name]
            if parts.activation_norm is not None:
                self._add("activation_norm", parts.activation_norm * mine)
            if parts.diversity is not None:
                self._add("diversity", parts.diversity * mine)
                if several:
                    self._add(f"diversity/{name}", parts.diversity * mine)
            if parts.gamma is not None:
                self._gammas[f"gamma/{name}" if several else "gamma"] = parts.gamma

    def skip_step(self, step: int) -> None:
        """Leave out what was added in step `step`, which the optimiser does not take."""
        if self._step != step:
            self._end_step()
        self._of_step = {}
        self._skipped += 1
        self._since_step = step if self._since_step is None else self._since_step

    def _add(self, key: str, value: Tensor) -> None:
        _add_to(self._of_step, key, value.detach().float())

    def _end_step(self) -> None:
        for key, value in self._of_step.items():
            _add_to(self._sums, key, value)
        self._of_step = {}

    def flush(self, step: int) -> dict[str, float]:
        """The averages per optimiser step since the last flush, over all processes, unrounded; then start anew.

        Reads the device once and communicates once. `gamma` is the last realised one, with several layers their
        geometric mean beside one `gamma/<layer>` each. Skipped steps do not count and are told by `skipped_steps`.
        """
        self._end_step()
        if self._since_step is None:
            return {}
        record: dict[str, float] = {}
        if self._sums:
            record = self._averages(max(step - self._since_step - self._skipped, 1))
        if self._scale is not None:
            record["diversity_scale"] = self._scale
        if self._skipped:
            record["skipped_steps"] = self._skipped
        self._sums, self._gammas, self._since_step, self._skipped = {}, {}, None, 0
        return record

    def _averages(self, steps: int) -> dict[str, float]:
        keys = [*self._sums, *self._gammas]
        device = next(iter(self._sums.values())).device
        values = torch.stack([v.float().to(device) for v in (*self._sums.values(), *self._gammas.values())])
        means = (sum_over_processes(values) / world_size()).tolist()
        record = {key: mean / steps if key in self._sums else mean for key, mean in zip(keys, means, strict=True)}
        if len(self._gammas) > 1:
            logs = torch.tensor([record[key] for key in self._gammas], dtype=torch.float64).log()
            record["gamma"] = logs.mean().exp().item()
        return record


def _add_to(sums: dict[str, Tensor], key: str, value: Tensor) -> None:
    sums[key] = sums[key] + value.to(sums[key].device) if key in sums else value


def optimised_loss(record: Mapping[str, float], config: DiversityConfig) -> float:
    """The optimised loss from its parts in a record; NaN where no step was taken."""
    if "penalty" in record:
        return record["task_loss"] + record["penalty"]
    parts = {"task_loss": 1.0, "activation_norm": config.activation_weight}
    if config.measure != "none":
        parts["diversity"] = config.diversity_weight
    return sum(weight * record.get(part, float("nan")) for part, weight in parts.items() if weight)
