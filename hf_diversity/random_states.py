"""The random states of Python, NumPy and torch."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator

import numpy as np
import torch


@contextlib.contextmanager
def random_states_put_back(devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Have the same numbers drawn afterwards as if nothing had happened.

    Args:
        devices: CUDA devices whose states are put back too; the CPU's always is.
    """
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
