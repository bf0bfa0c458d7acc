"""Every collective of the package, in one place.

Without an initialised process group, or with one process, each function is the identity and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor of one shape over all processes, without gradient; the same result everywhere."""
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class _WeightedMean(torch.autograd.Function):
    """Mean over all processes' samples of several tensors, each a mean over this process's samples.

    Forward: sum_r N_r x_r / sum_r N_r, by one all-reduce of the payload and the count together.

    Backward: the gradient of the loss in process r with respect to x_r is W N_r / sum N times the incoming one, W the
    number of processes. A sum in the backward pass would collect the W incoming gradients, but they are equal: every
    process computes the same number from the same mean. So the sum is a factor W and needs no second collective. That
    factor is what the average of DDP, FSDP and DeepSpeed over processes takes away again, which leaves exactly the
    gradient of one process on the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, count: int, *means: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        dtype = torch.float64 if any(mean.dtype == torch.float64 for mean in means) else torch.float32
        # Without samples it is the statistic of a stand-in, which may be NaN
        parts = [mean.to(dtype).reshape(-1) * count if count else mean.new_zeros(mean.numel(), dtype=dtype)
                 for mean in means]  # fmt: skip
        payload = torch.cat([*parts, means[0].new_tensor([float(count)], dtype=dtype)])
        dist.all_reduce(payload)
        total = payload[-1]
        ctx.factor = dist.get_world_size() * count / total
        averages = (payload[:-1] / total).split([mean.numel() for mean in means])
        return tuple(a.reshape(mean.shape).to(mean.dtype) for a, mean in zip(averages, means, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *(None if g is None else (g * ctx.factor).to(g.dtype) for g in gradients)


def mean_over_samples(means: Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
    """Turn means over this process's samples into means over the samples of all processes.

    Args:
        means: tensors, the same shapes in every process; each a mean over `count` samples.
        count: samples in this process, may differ between processes and may be 0.

    Returns:
        Tensors of the same shapes, equal in every process. Their gradient, once parameter gradients are averaged over
        processes (as DDP and FSDP do), is that of one process on the whole batch. One collective for all of them.
    """
    if world_size() == 1:
        return tuple(means)
    averages: tuple[Tensor, ...] = _WeightedMean.apply(count, *means)
    return averages


class _Sum(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of theirs, which may differ."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def sum_with_gradient(tensor: Tensor) -> Tensor:
    """The sum over processes, for what each process goes on to use in a way of its own.

    One collective in the forward pass and one in the backward pass, which every process must reach.
    """
    return tensor if world_size() == 1 else _Sum.apply(tensor)


def real_batch_size(accelerator: Accelerator, batch_size: int) -> int:
    """How many of this process's `batch_size` examples are real in an evaluation batch.

    accelerate repeats examples so that every process has a full last batch, and `gather_for_metrics` drops what
    exceeds `gradient_state.remainder` of the processes' batches laid end to end; this is the same rule, locally.
    """
    state = accelerator.gradient_state
    if world_size() == 1 or not state.end_of_dataloader or state.remainder <= 0:
        return batch_size
    real: int = min(max(state.remainder - accelerator.process_index * batch_size, 0), batch_size)
    return real


def max_over_processes(tensor: Tensor) -> Tensor:
    """Elementwise maximum of a tensor over all processes, without gradient; the same result everywhere."""
    if world_size() == 1:
        return tensor.detach()
    largest = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def gather_over_processes(values: Tensor) -> Tensor:
    """The values (N,) of all processes, one after another, without gradient; N may differ between processes."""
    if world_size() == 1:
        return values.detach()
    here = torch.tensor([values.numel()], device=values.device)
    most = int(max_over_processes(here))
    padded = values.new_full((most + 1,), 0)
    padded[: values.numel()] = values.detach()
    padded[most] = values.numel()
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(part[most])] for part in parts])


def gather_objects(value: Any) -> list[Any]:
    """What every process gives, by its number; small things that can be pickled."""
    found = [value] * world_size()
    if len(found) > 1:
        dist.all_gather_object(found, value)
    return found


def text_of_process_zero(text: str | None) -> str | None:
    """The text, or None, that process 0 gives, in every process."""
    if world_size() == 1:
        return text
    holder = [text]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]
