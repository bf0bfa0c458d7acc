"""Forward passes that leave no trace: for what has to be known of a step before it is taken."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from .modes import modes_put_back
from .random_states import random_states_put_back


def remember_buffers(model: nn.Module) -> Callable[[], None]:
    """Copy all buffers (running statistics, say); what is returned puts them back as they were."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]

    @torch.no_grad()
    def restore() -> None:
        for module, name, buffer, value in buffers:
            buffer.copy_(value)
            module._buffers[name] = buffer

    return restore


@contextlib.contextmanager
def rehearsal(model: nn.Module) -> Iterator[None]:
    """Run forward passes in training mode, without gradient; all random states and buffers are as before afterwards.

    The passes that follow therefore draw the same random numbers (dropout, say), and running statistics count every
    batch once.

    Args:
        model: the model whose buffers and mode are restored.
    """
    restore_buffers = remember_buffers(model)
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with modes_put_back(model), random_states_put_back(devices), torch.no_grad():
            model.train()
            yield
    finally:
        restore_buffers()


def takes_inputs(model: nn.Module, inputs: Mapping[str, Any]) -> bool:
    """Whether a batch is the model's own arguments, so that no `compute_loss` has to run, which may count tokens."""
    try:
        inspect.signature(model.forward).bind(**inputs)
    except TypeError:
        return False
    return True
