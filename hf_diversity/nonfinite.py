"""What happens to an optimiser step in which the regulariser is NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers.utils import logging

from .distributed import sum_over_processes, world_size
from .regularizer import NonFiniteRegularizerError
from .rehearsal import remember_buffers

logger = logging.get_logger(__name__)

MOST_IN_A_ROW = 20


class StepGuard:
    """Raises, or drops the gradients of the optimiser steps that had a fault.

    Args:
        skip: `on_nonfinite="skip"`; otherwise the first fault is raised.
    """

    def __init__(self, skip: bool):
        """See the class."""
        self.skip = skip
        self._fault: NonFiniteRegularizerError | None = None
        self._in_a_row = 0
        self._restore_buffers: Callable[[], None] | None = None

    @property
    def is_faulty(self) -> bool:
        """Whether the step under way had a fault in this process."""
        return self._fault is not None

    def begin_step(self, model: nn.Module | None) -> None:
        """Remember running statistics, which a forward pass changes; only if steps may be skipped."""
        if self.skip and model is not None:
            self._restore_buffers = remember_buffers(model)

    def fault(self, error: NonFiniteRegularizerError) -> None:
        """Take note of a fault in the current step.

        Raises:
            NonFiniteRegularizerError: unless steps are to be skipped.
        """
        if not self.skip:
            raise error
        self._fault = error

    def end_step(self, model: nn.Module, scaler: torch.amp.GradScaler | None, device: torch.device) -> bool:
        """Before the optimiser: drop the gradients if any micro-batch of any process had a fault.

        An optimiser leaves parameters without gradient alone, their momentum and weight decay too. Running statistics
        go back to what they were. The learning rate's schedule goes on.

        Returns:
            Whether they were dropped.

        Raises:
            NonFiniteRegularizerError: 20 steps in a row were dropped, so nothing is being trained.
        """
        if not self.skip:
            return False
        fault, self._fault = self._fault, None
        faulty = fault is not None
        if world_size() > 1:  # with sync="local" only some processes know
            faulty = bool(sum_over_processes(torch.tensor(float(faulty), device=device)) > 0)
        self._in_a_row = self._in_a_row + 1 if faulty else 0
        if not faulty:
            return False
        cause = str(fault) if fault is not None else "the regulariser of another process is not finite"
        if self._in_a_row >= MOST_IN_A_ROW:
            raise NonFiniteRegularizerError(f"{MOST_IN_A_ROW} optimiser steps in a row were skipped: {cause}")
        logger.warning(f"this optimiser step is skipped: {cause}")
        if self._restore_buffers is not None:
            self._restore_buffers()
        if scaler is None:
            model.zero_grad(set_to_none=True)
            return True
        # A gradient scaler insists on gradients, and skips a step of infinite ones itself
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(torch.inf)
        return True
