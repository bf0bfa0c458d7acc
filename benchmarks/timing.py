"""Interleaved timing: all cases once per round, the median of each over the rounds.

Times are CPU times of this process, which runs one thread: on an idle machine they are what a clock on the wall shows,
and on a busy one they leave out the time in which others had the core.
"""

import statistics
import time
from pathlib import Path

import torch


def forward_backward(function, activations):
    """A case: value and gradient of a scalar function of activations."""
    activations = activations.detach().requires_grad_()

    def run():
        activations.grad = None
        function(activations).backward()

    return run


def interleaved(cases, rounds, slow=(), slow_rounds=2):
    """Median seconds of each case.

    The machine's speed drifts, so that only cases timed side by side can be compared.

    Args:
        cases: name -> callable.
        rounds: how often all are timed, each time after a call to warm up.
        slow: names that are called in the first `slow_rounds` rounds only, and not to warm up.
        slow_rounds: see `slow`.
    """
    times = {name: [] for name in cases}
    for index in range(rounds):
        for name, run in cases.items():
            if name in slow and index >= slow_rounds:
                continue
            if name not in slow:
                run()  # untimed: the system is still clearing the pages that the case before gave back
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def available_memory():
    """Bytes that may be taken without swapping; 0 where it cannot be told."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cauchy(*shape, seed=0):
    return torch.empty(shape).cauchy_(generator=torch.Generator().manual_seed(seed))
