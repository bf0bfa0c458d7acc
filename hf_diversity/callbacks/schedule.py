"""`DiversityScheduleCallback`: the regulariser's weights over the course of training."""

from __future__ import annotations

import math
from typing import Any, cast

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from .bound import TrainerBoundCallback

logger = logging.get_logger(__name__)

DECAYS = ("constant", "linear", "cosine", "step")


class DiversityScheduleCallback(TrainerBoundCallback, ExportableState):
    """Scales both weights of the regulariser, step by step: off until `start`, then up to 1, then perhaps down.

    The factor is a function of the optimiser step and the number of steps alone, so a resumed run goes on exactly.
    While it is 0 a step is Trainer's, bit for bit. Records of the log gain `diversity_scale`, the factor of the last
    step, and `penalty`, what the regulariser added, so that `loss = task_loss + penalty`. It costs nothing. A run
    that resumes from a checkpoint without a schedule may begin one; a warning says so.

    Args:
        start: share of training before which the factor is 0.
        warmup: share of training over which it then rises from 0 to 1, linearly.
        decay: how it falls from there: "constant" (not at all), "linear" or "cosine", to `final` at the last step, or
            "step", to `final` at once.
        final: the factor at the end of a decay.
        hold: share of training over which it stays 1 between warm-up and decay.

    Raises:
        ValueError: a share is out of range, or an unknown decay; when training starts: the checkpoint was trained with
            another schedule.
    """

    def __init__(
        self,
        start: float = 0.0,
        warmup: float = 0.0,
        decay: str = "constant",
        final: float = 0.0,
        hold: float = 0.0,
    ):
        """See the class."""
        for name, value in (("start", start), ("warmup", warmup), ("final", final), ("hold", hold)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"{name} is {value!r}: it must be a number from 0 to 1; type {name}=0.1")
        if start + warmup + hold > 1:
            raise ValueError(
                f"start {start}, warmup {warmup} and hold {hold} together exceed the whole training; type smaller "
                "shares, say warmup=0.1"
            )
        if decay not in DECAYS:
            raise ValueError(f"decay is {decay!r}: choose from {', '.join(DECAYS)}")
        if hold and decay == "constant":
            raise ValueError(f'hold is {hold}, but no decay comes after it: type decay="linear", or leave hold out')
        if start == warmup == 0 and decay == "constant":
            raise ValueError('this schedule changes nothing: type warmup=0.1, start=0.5 or decay="linear"')
        super().__init__()
        self.start, self.warmup, self.decay, self.final, self.hold = start, warmup, decay, final, hold

    def factor(self, step: int, max_steps: int) -> float:
        """What the weights are multiplied by in the step after `step` optimiser steps of `max_steps`."""
        progress = step / max(max_steps, 1)
        if progress < self.start:
            return 0.0
        if progress < self.start + self.warmup:
            return (progress - self.start) / self.warmup
        falls_from = self.start + self.warmup + self.hold
        if self.decay == "constant" or progress < falls_from:
            return 1.0
        if self.decay == "step":
            return self.final
        left = max_steps * (1 - falls_from) - 1  # the last step is the one after max_steps - 1
        done = min((step - max_steps * falls_from) / left, 1.0) if left > 0 else 1.0
        shape = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.final + (1 - self.final) * shape

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        names = ("start", "warmup", "decay", "final", "hold")
        return {"args": {name: getattr(self, name) for name in names}, "attributes": {}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse to go on with another schedule than the checkpoint's."""
        super().on_train_begin(args, state, control, **kwargs)
        trainer = self._trainer_of(state)
        if not hasattr(trainer, "_scale_diversity"):
            raise RuntimeError(
                f"{type(self).__name__} belongs to DiversityTrainer: {type(trainer).__name__} has no regulariser"
            )
        mine, name = self.state(), type(self).__name__
        # By name, whatever the annotation of transformers says
        states: dict[str, Any] = cast(Any, state.stateful_callbacks)
        found = states.get(name)
        stored: Any = found[0] if isinstance(found, list) and found else found
        if stored is None:
            # A checkpoint of a run without this callback: Trainer looks for the entry when it saves the next one
            states[name] = mine
            logger.warning_once(
                f"the checkpoint of step {state.global_step} was trained without a schedule of the diversity weights; "
                f"from here on it is {mine['args']}, as if it had been so from step 0"
            )
        elif state.global_step and {"hold": 0.0, **stored["args"]} != mine["args"]:  # older ones have no hold
            raise ValueError(
                f"the checkpoint was trained with the schedule {stored['args']}, and this one is {mine['args']}; type "
                f"DiversityScheduleCallback(**{stored['args']}) to go on with it"
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the factor of this step."""
        self._trainer_of(state)._scale_diversity(self.factor(state.global_step, state.max_steps))
