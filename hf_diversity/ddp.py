"""Layers that only the regulariser uses, under DistributedDataParallel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .capture import TemporaryHook


class _AddCaptured(TemporaryHook):
    def __init__(self, store: Mapping[str, list]):
        self.store = store

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return output, [captured.tensor for layer in self.store.values() for captured in layer]


class _DropCaptured(TemporaryHook):
    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return output[0]


@contextlib.contextmanager
def captured_as_outputs(model: nn.Module, store: Mapping[str, list]) -> Iterator[None]:
    """Show DDP the captured activations among the outputs of the forward passes inside; the caller does not see them.

    With `find_unused_parameters=True`, Trainer's default, DDP looks back from the outputs for parameters that will get
    no gradient and takes them for finished. A layer beside the path to the loss gets one from the regulariser all the
    same, and DDP would refuse it as "marked ready twice".

    Args:
        model: as Trainer calls it.
        store: from `ActivationCapture.armed`.
    """
    if not isinstance(model, DistributedDataParallel) or not model.find_unused_parameters:
        yield
        return
    handles = [
        model.module.register_forward_hook(_AddCaptured(store)),
        model.register_forward_hook(_DropCaptured()),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
