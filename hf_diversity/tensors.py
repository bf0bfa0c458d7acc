"""What every function over activations asks of its tensors, and in which dtype it computes."""

from __future__ import annotations

import contextlib
import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def upcast(tensor: Tensor) -> Tensor:
    """`tensor` in `accumulation_dtype`: before any subtraction, for a difference of bfloat16 is exact in float32."""
    return tensor.to(accumulation_dtype(tensor.dtype))


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Switch autocast off where it is on: it would run pieces in half precision.

    Where it is off, nothing is done: entering `torch.autocast` costs as much as some small operations.
    """
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


def can_read(tensor: Tensor) -> bool:
    """Whether looking at a value costs no synchronisation with a device and no graph break."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def check_float_tensor(tensor: Tensor, name: str) -> None:
    """Raise a TypeError unless `tensor`, called `name`, is a tensor of a real float dtype."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name} is a {type(tensor).__name__}: it must be a torch.Tensor; type torch.as_tensor({name})"
        )
    if not tensor.dtype.is_floating_point:
        raise TypeError(
            f"{name} has dtype {tensor.dtype}: similarity is differentiated, so it must be a real float dtype; type "
            f"{name}.float()"
        )


def check_activations(activations: Tensor, samples: int = 2, units: int = 2) -> None:
    """Refuse what is not (N >= `samples`, D >= `units`) in a float dtype or, seen on the CPU only, not finite.

    Raises:
        TypeError: not a tensor, or not of a float dtype.
        ValueError: the shape is wrong, or a value is not finite.
    """
    check_float_tensor(activations, "activations")
    shape = tuple(activations.shape)
    if activations.ndim != 2:
        raise ValueError(
            f"activations have shape {shape}: they must be (N, D), samples by units; type activations.flatten(0, -2) "
            "to take every position as a sample"
        )
    if shape[0] < samples:
        what = "no sample" if shape[0] == 0 else "a batch of 1"
        raise ValueError(
            f"activations have shape {shape}: {what}; similarity is a mean over samples and needs at least {samples}; "
            "use a larger batch, or drop_last=True in the data loader (dataloader_drop_last=True in TrainingArguments)"
        )
    if shape[1] < units:
        raise ValueError(
            f"activations have shape {shape}: {shape[1]} unit(s), and diversity is between at least {units}; choose a "
            "wider layer"
        )
    # A sum is the cheapest pass over the data that no NaN or infinity survives; it may overflow by itself, hence the
    # second look.
    if can_read(activations) and not math.isfinite(upcast(activations.detach()).sum().item()):
        bad = int((~activations.detach().isfinite()).sum())
        if bad:
            raise ValueError(
                f"activations contain {bad} NaN or infinite value(s) of {activations.numel()}: the network diverged "
                "before this layer; lower the learning rate or check the inputs with torch.isfinite(inputs).all()"
            )
