"""What TrainingArguments cannot say in every version: SGD's momentum, and steps of the learning rate and lambda."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import MultiStepLR
from transformers import TrainingArguments

from common.arguments import RunArguments
from common.diversity_schedule import make_diversity_schedule
from hf_diversity import DiversityTrainer


class RecipeTrainer(DiversityTrainer):
    """DiversityTrainer with a recipe's momentum, steps of the learning rate and schedule of the regulariser.

    Args:
        *args: those of DiversityTrainer.
        run: `momentum`, `lr_milestones`, `lr_factor` and `diversity_schedule`.
        **kwargs: those of DiversityTrainer.

    Raises:
        ValueError: momentum or milestones do not go with the other arguments.
    """

    def __init__(self, *args: Any, run: RunArguments, **kwargs: Any):
        """See the class."""
        self.run = run
        settings: TrainingArguments = kwargs["args"]
        if run.momentum is not None:
            if settings.optim != "sgd":
                raise ValueError(f"momentum is {run.momentum} but optim is {settings.optim.value}: type optim: sgd")
            # The decay is set for each group of parameters, by Trainer.
            kwargs["optimizer_cls_and_kwargs"] = (
                torch.optim.SGD,
                {"lr": settings.learning_rate, "momentum": run.momentum},
            )
        if run.lr_milestones is not None and settings.get_warmup_steps(100):
            raise ValueError("lr_milestones go without warm-up: type warmup_steps: 0, or leave lr_milestones out")
        if (schedule := make_diversity_schedule(run.diversity_schedule)) is not None:
            kwargs["callbacks"] = [*(kwargs.get("callbacks") or ()), schedule]
        super().__init__(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Create the scheduler: steps at `lr_milestones`, or Trainer's own."""
        if self.run.lr_milestones is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        steps = steps_per_epoch(len(self.train_dataset), self.args)
        milestones = [epoch * steps for epoch in self.run.lr_milestones]
        self.lr_scheduler = MultiStepLR(optimizer or self.optimizer, milestones, gamma=self.run.lr_factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler


def steps_per_epoch(examples: int, arguments: TrainingArguments) -> int:
    """Return the number of optimiser steps in an epoch, over all processes, as Trainer counts them."""
    batches = examples / (arguments.train_batch_size * arguments.world_size)
    batches = math.floor(batches) if arguments.dataloader_drop_last else math.ceil(batches)
    return max(1, math.ceil(batches / arguments.gradient_accumulation_steps))
