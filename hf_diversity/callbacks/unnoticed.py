"""A trainer at work without anybody noticing: neither its other callbacks, nor its logs, nor the training."""

from __future__ import annotations

import contextlib
import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

from ..random_states import random_states_put_back


@contextlib.contextmanager
def unnoticed(trainer: Any) -> Iterator[None]:
    """What the trainer does in here leaves no trace, except in its model if that is changed.

    No callback is called or finds another data loader afterwards; what is logged is dropped; and the numbers that the
    trainer keeps, among them the metrics that trl's trainers gather until their next log, are what they were.

    Args:
        trainer: any `transformers.Trainer`.
    """
    kept = {name: value for name, value in vars(trainer).items() if _may_be_a_sum(name, value)}
    scratch = {name: _copied(value) for name, value in kept.items()}
    for name in ("callback_handler", "state", "control"):
        kept[name] = getattr(trainer, name)
        scratch[name] = copy.copy(kept[name])
    if "evaluator" in vars(trainer):  # sentence-transformers': it has data of its own, and writes files
        kept["evaluator"], scratch["evaluator"] = trainer.evaluator, None
    scratch["callback_handler"].callbacks = []
    scratch["state"].log_history = []
    vars(trainer).update(scratch)
    try:
        with random_states_put_back():  # data loaders draw a seed each
            yield
    finally:
        vars(trainer).update(kept)


def _may_be_a_sum(name: str, value: Any) -> bool:
    # A data set may be a list, too long to be copied each time
    return isinstance(value, dict | list | deque | int | float | torch.Tensor) and not name.endswith("_dataset")


def _copied(value: Any) -> Any:
    """A copy of containers and running sums; what else they hold is shared."""
    if isinstance(value, dict | list | deque):
        new: Any = copy.copy(value)  # keeps what a defaultdict makes
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            new[key] = _copied(item)
        return new
    if isinstance(value, torch.Tensor):
        return value.clone() if value.ndim == 0 else value
    return value
