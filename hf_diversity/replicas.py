"""Putting together what the replicas of nn.DataParallel captured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def merge_replicas(captured: Sequence[Tensor]) -> list[Tensor]:
    """Turn what each replica's layer gave into what the layer of one process gives.

    nn.DataParallel runs one replica a device, each on its part of the batch, in threads: the order in which they come
    is random, but device numbers follow the order of the parts, and what one device gives is in order.

    Args:
        captured: activations in the order of capture, each (part of the batch, ...). On one device: no replicas.

    Returns:
        A tensor for each time the layer ran, over the whole batch, on the device of the first part. Gradients flow
        back to each device.

    Raises:
        RuntimeError: the replicas ran the layer a different number of times.
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in captured:
        by_device.setdefault(tensor.device, []).append(tensor)
    if len(by_device) <= 1:
        return list(captured)
    replicas = [by_device[device] for device in sorted(by_device, key=lambda device: device.index or 0)]
    times = [len(parts) for parts in replicas]
    if len(set(times)) > 1:
        raise RuntimeError(
            f"the replicas of nn.DataParallel ran the layer {', '.join(map(str, times))} times, so their parts of the "
            "batch cannot be put together; start with `accelerate launch`, which runs a process for each GPU"
        )
    first = replicas[0][0].device
    return [torch.cat([part.to(first) for part in parts]) for parts in zip(*replicas, strict=True)]
