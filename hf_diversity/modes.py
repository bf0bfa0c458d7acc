"""Training and evaluation mode, module by module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def modes_put_back(model: nn.Module) -> Iterator[None]:
    """Leave every module of `model` in the mode it was in; frozen parts may be in another than the whole."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
