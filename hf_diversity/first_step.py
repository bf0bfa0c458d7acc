"""What the first training step tells of a run, before the optimiser moved anything."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from .capture import LayerTarget
from .distributed import world_size
from .loss_scale import ignores_num_items
from .output_head import check_output_layers
from .regularizer import RegularizerOutput

# det(S) falls exponentially with the number of units: below this from about 16 on
NEGLIGIBLE_DET = 1e-6

logger = logging.get_logger(__name__)


def check_first_step(
    trainer: Any, targets: list[LayerTarget], task_loss: Tensor, rows: Mapping[str, Tensor], batch_size: int | None
) -> None:
    """Say what is regularised, and refuse what only a forward pass can tell, before anything was trained.

    Raises:
        ValueError: the last hidden layer is another, or the last batch of an epoch would have a single sample.
    """
    if trainer.args.process_index == 0:
        for target in targets:  # a warning, since Trainer's level hides anything less
            samples, units = rows[target.name].shape
            logger.warning(f"{target.describe()}: {units} units, {samples} samples")
    plain = not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or trainer.args.n_gpu > 1)
    if trainer.diversity.layers is None and plain:
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        confirmed = check_output_layers(model, targets, task_loss)
        if not confirmed and not isinstance(model, PreTrainedModel):
            names = ", ".join(target.describe() for target in targets)
            logger.warning(
                f"{names} was taken for the last hidden layer by the order in which {type(model).__name__} "
                "registers its layers; the loss cannot confirm it (compiled or frozen): if it is another, type "
                "DiversityConfig(layers=[...])"
            )
    examples = _examples_if_one_is_left_over(trainer)
    if examples is None:
        return
    for name, values in rows.items():
        if values.shape[0] == batch_size:  # one sample an example: the last batch would have a single one
            raise ValueError(
                f"the last batch of every epoch would have 1 example ({examples} examples in batches of "
                f"{batch_size}) and layer {name!r} 1 sample: similarity is an average over a batch; type "
                "dataloader_drop_last=True, or another per_device_train_batch_size"
            )


def warn_of_ignored_items(trainer: Any, inputs: Mapping[str, Any], num_items_in_batch: Any) -> None:
    """Say so where the task loss, and with it the relative strength of the regulariser, is not what it seems."""
    parts = trainer.args.gradient_accumulation_steps * world_size() * max(trainer.args.n_gpu, 1)
    by_trainer = trainer.compute_loss_func is not None or trainer.label_smoother is not None
    if parts == 1 or by_trainer or not trainer.model_accepts_loss_kwargs or num_items_in_batch is None:
        return
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if ignores_num_items(model, inputs, num_items_in_batch):
        logger.warning(
            f"{type(model).__name__} takes num_items_in_batch and does not use it (transformers#47688), so with "
            f"{parts} micro-batches a step Trainer's task loss is {parts} times too large, and the regulariser is "
            f"{parts} times weaker beside it than in one batch; type trainer.model_accepts_loss_kwargs = False "
            "before train()"
        )


def warn_of_negligible_det(output: RegularizerOutput) -> None:
    """Say so where det(S) is so small that no weight of use makes it a part of the loss."""
    for name, parts in output.layers.items():
        if parts.diversity is not None and abs(float(parts.diversity)) < NEGLIGIBLE_DET:
            logger.warning_once(
                f"det(S) of layer {name!r} is below {NEGLIGIBLE_DET:g}: its gradient is as small, so nothing is "
                'regularised; type measure="logdet"'
            )


def _examples_if_one_is_left_over(trainer: Any) -> int | None:
    """The number of training examples if this run reaches a last batch with a single one, else None."""
    loader = trainer.callback_handler.train_dataloader
    dataset, sampler = getattr(loader, "dataset", None), getattr(loader, "batch_sampler", None)
    size = getattr(sampler, "batch_size", None)
    if world_size() > 1 or not size or getattr(sampler, "drop_last", True) or not isinstance(dataset, Sized):
        return None
    examples = len(dataset)
    reached = trainer.state.max_steps * trainer.args.gradient_accumulation_steps >= -(-examples // size)
    return examples if reached and examples % size == 1 else None
