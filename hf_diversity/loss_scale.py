"""How Trainer scales the task loss over gradient accumulation, and a fault of some models in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from .compat import told_that_loss_is_scaled
from .modes import modes_put_back


def task_loss_is_normalised(trainer: Trainer, num_items_in_batch: Any) -> bool:
    """Whether Trainer takes the task loss as normalised over the whole window, and does not divide it by its steps.

    The rule of `Trainer.training_step`.
    """
    told = told_that_loss_is_scaled(trainer)
    if told is not None:
        return told
    by_model = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
    return by_model or trainer.compute_loss_func is not None


@torch.no_grad()
def ignores_num_items(model: nn.Module, inputs: Mapping[str, Any], num_items_in_batch: Any) -> bool:
    """Whether a model takes `num_items_in_batch` and returns the same loss whatever it is (transformers#47688).

    Trainer believes that such a loss is normalised over the accumulation window and over processes. It is not: it is k
    times too large at k micro-batches. Two forward passes in evaluation mode, which draw no random numbers and change
    no running statistics.

    Args:
        model: the unwrapped model; left in the mode it was in.
        inputs: one micro-batch with labels.
        num_items_in_batch: as Trainer passes it.
    """
    losses = []
    with modes_put_back(model):
        model.eval()
        for items in (num_items_in_batch, 2 * num_items_in_batch):
            outputs = model(**inputs, num_items_in_batch=items)
            losses.append(outputs["loss"] if isinstance(outputs, Mapping) else outputs[0])
    return bool(torch.equal(losses[0], losses[1]) and losses[0] != 0)
