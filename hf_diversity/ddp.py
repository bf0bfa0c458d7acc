"""Layers that only the regulariser uses, under DistributedDataParallel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .capture import Captured, TemporaryHook


class _AddOutputs(TemporaryHook):
    def __init__(self, tensors: Callable[[], list[Tensor]]):
        self.tensors = tensors

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return output, self.tensors()


class _DropOutputs(TemporaryHook):
    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return output[0]


def captured_as_outputs(model: nn.Module, store: Mapping[str, list[Captured]]) -> AbstractContextManager[None]:
    """Show DDP the captured activations among the outputs of the forward passes inside, see `shown_as_outputs`.

    Args:
        model: as Trainer calls it.
        store: from `ActivationCapture.armed`.
    """
    return shown_as_outputs(model, lambda: [captured.tensor for layer in store.values() for captured in layer])


@contextlib.contextmanager
def shown_as_outputs(model: nn.Module, tensors: Callable[[], list[Tensor]]) -> Iterator[None]:
    """Show DDP more tensors among the outputs of the forward passes inside; the caller does not see them.

    With `find_unused_parameters=True`, Trainer's default, DDP looks back from the outputs for parameters that will get
    no gradient and takes them for finished. A layer beside the path to the loss gets one from the regulariser all the
    same, and DDP would refuse it as "marked ready twice".

    Args:
        model: as Trainer calls it.
        tensors: gives them after each forward pass; leaves have no history, and are not found by looking back.
    """
    if not isinstance(model, DistributedDataParallel) or not model.find_unused_parameters:
        yield
        return
    handles = [
        model.module.register_forward_hook(_AddOutputs(tensors)),
        model.register_forward_hook(_DropOutputs()),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
