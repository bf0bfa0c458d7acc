"""`DiversityTrainer`: Hugging Face's Trainer with the within-layer diversity regulariser in its loss."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainer, Trainer, TrainingArguments
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, default_compute_objective
from transformers.utils import logging

from .callbacks.bound import bind_callbacks
from .capture import ActivationCapture
from .cards.card_mixin import CardMixin
from .checkpoints import CheckpointMixin
from .compat import compiles
from .config import DiversityConfig
from .ddp import captured_as_outputs, shown_as_outputs
from .distributed import real_batch_size, world_size
from .evaluation import DiversityMeter, evaluation_record
from .first_step import check_first_step, warn_of_ignored_items, warn_of_negligible_det
from .layers import find_layers
from .loss_scale import task_loss_is_normalised
from .masks import Mask, position_masks
from .nonfinite import StepGuard
from .regularizer import DiversityRegularizer, NonFiniteRegularizerError, RegularizerOutput
from .rehearsal import rehearsal, takes_inputs
from .samples import rows_by_layer, subsample
from .timm_models import is_raw_timm_model, wrap_timm_model
from .training_log import TrainingLog, optimised_loss
from .weight_regularizer import WeightRegularizer, announce_weights
from .window import Window, kind_of_samples

logger = logging.get_logger(__name__)


class DiversityMixin(CardMixin, CheckpointMixin):
    """Adds the regulariser to any subclass of `transformers.Trainer`: `class MyTrainer(DiversityMixin, Base): ...`.

    The regulariser is added in `compute_loss`, to what the base class computes, so that every loss of the base class
    stays what it is. One weight means one strength: whatever the accumulation steps, the number of processes or the
    way the model normalises its own loss, the optimiser sees `diversity_weight` times the gradient of J.

    Args:
        *args: the base class's.
        diversity: what to regularise and how; None means `DiversityConfig()`. With both weights 0 nothing is
            registered, computed, logged or saved: it is the base class.
        **kwargs: the base class's.

    Raises:
        ValueError: `diversity.layers` matches nothing in the model, or its last hidden layer cannot be told.

    Logs:
        Records with `loss` also hold `task_loss`, `diversity` (J summed over layers), `activation_norm` (P summed over
        layers), `gamma`; with several layers `diversity/<layer>` and `gamma/<layer>`. `loss` stays the optimised sum.
        Evaluation adds `eval_diversity`, `eval_activation_norm` and `eval_gamma`, exact over the whole set, while
        `eval_loss` stays the task loss alone.
    """

    def __init__(self, *args: Any, diversity: DiversityConfig | None = None, **kwargs: Any):
        """See the class."""
        if diversity is not None and not isinstance(diversity, DiversityConfig):
            raise TypeError(
                f"diversity is a {type(diversity).__name__}: it must be a DiversityConfig; type "
                "diversity=DiversityConfig(...), or DiversityConfig.from_dict(...) for a dict"
            )
        self.diversity = diversity if diversity is not None else DiversityConfig()
        self.diversity.validate()
        self._regularizer = self._new_regularizer()
        self._training_log = TrainingLog()
        self._capture: ActivationCapture | None = None
        self._capture_model: weakref.ref[nn.Module] | None = None
        self._meter: DiversityMeter | None = None
        self._unchecked: RegularizerOutput | None = None
        self._first_step = True
        self._compiles_with_hooks = False
        self._guard = StepGuard(skip=False)
        self._window: Window | None = None
        self._measured: set[str] = set()
        if args and is_raw_timm_model(args[0]):
            args = (wrap_timm_model(args[0]), *args[1:])
        elif is_raw_timm_model(kwargs.get("model")):
            kwargs["model"] = wrap_timm_model(kwargs["model"])
        super().__init__(*args, **kwargs)
        bind_callbacks(self)
        if self.diversity.is_active:
            if self.diversity.on_nonfinite == "skip" and self.is_deepspeed_enabled:
                raise ValueError(
                    'on_nonfinite is "skip": DeepSpeed takes its optimiser step by itself, and no step can be '
                    'dropped; type on_nonfinite="raise"'
                )
            # A layer that does not exist fails here, not after the data are loaded
            if self.diversity.is_of_weights:
                announce_weights(self)
            else:
                self._capture_for(self.model)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse `class Mine(Trainer, DiversityMixin)`, in which Trainer's methods would hide the mixin's."""
        super().__init_subclass__(**kwargs)
        if Trainer in cls.__mro__ and cls.__mro__.index(Trainer) < cls.__mro__.index(DiversityMixin):
            raise TypeError(
                f"{cls.__name__} names Trainer before DiversityMixin, so nothing would be regularised; type class "
                f"{cls.__name__}(DiversityMixin, ...)"
            )

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Call `model_init`, and wrap a raw timm model it gives."""
        model = super().call_model_init(trial)
        return wrap_timm_model(model) if is_raw_timm_model(model) else model

    def add_callback(self, callback: Any) -> None:
        """Add a callback, and tell it its trainer if it wants to know."""
        super().add_callback(callback)
        bind_callbacks(self)

    def _load_callback_state(self) -> None:
        """Restore callbacks as the base class does, by new ones."""
        super()._load_callback_state()
        bind_callbacks(self)

    def _new_regularizer(self) -> DiversityRegularizer | WeightRegularizer:
        kind = WeightRegularizer if self.diversity.is_of_weights else DiversityRegularizer
        return kind(self.diversity)

    # ---- training

    def _scale_diversity(self, factor: float) -> None:
        """Multiply both weights of the regulariser from the next step on; for callbacks, which call it each step."""
        self._regularizer.scale = factor

    def _inner_training_loop(
        self, batch_size: int | None = None, args: TrainingArguments | None = None,
        resume_from_checkpoint: str | None = None, trial: Any = None, ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:  # fmt: skip
        """Train from a clean state of the regulariser; also at every batch size that auto_find_batch_size tries."""
        self.diversity.validate()
        self._regularizer = self._new_regularizer()
        self._training_log = TrainingLog()
        self._capture, self._unchecked, self._first_step = None, None, True
        self._guard = StepGuard(skip=self.diversity.on_nonfinite == "skip")
        if self.diversity.is_active and compiles(self) and not self._compiles_with_hooks:
            # Dynamo does not look for hooks, and would reuse what another trainer compiled without them
            torch.compiler.reset()
            self._compiles_with_hooks = True
        if self.diversity.is_active and resume_from_checkpoint is not None:
            self._load_diversity_state(resume_from_checkpoint)
        return super()._inner_training_loop(batch_size, args, resume_from_checkpoint, trial, ignore_keys_for_eval)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Get the micro-batches of a step, and see how much each counts; for the first step, set gamma from all."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._guard.begin_step(self.model)
        self._window = None
        if len(batches) > 1 and self.diversity.is_active and not self.diversity.is_of_weights:
            capture = self._capture_for(self.model)
            masks = [self._masks(capture, inputs) for inputs in batches]
            together = self.diversity.sync == "global" and world_size() > 1
            self._window = Window(batches, masks, together, self.args.device)
            if isinstance(self._regularizer, DiversityRegularizer) and self._regularizer.wants_calibration:
                self._regularizer.calibrate(self._rehearse(batches, items), self.state.global_step)
        return batches, items

    def _rehearse(self, batches: list[Any], items: Tensor | int | None) -> Iterator[dict[str, Tensor]]:
        """The rows of each micro-batch as its training step will have them."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        capture = self._capture_for(model)
        with rehearsal(model):
            for batch in batches:
                inputs = self._prepare_inputs(batch)
                masks = self._masks(capture, inputs)
                with capture.armed() as store, self.compute_loss_context_manager():
                    if takes_inputs(model, inputs):
                        model(**inputs)
                    else:  # the base class calls the model in a way of its own
                        super().compute_loss(model, inputs, num_items_in_batch=items)
                activations = capture.take(store, training=False)
                yield self._drawn(rows_by_layer(activations, capture.targets, self.diversity, masks))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Run the base class's step, then refuse a regulariser that is not finite before the optimiser sees it.

        The check comes after the backward pass, where Trainer reads the loss from the device anyway.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        step = self.state.global_step
        unchecked, self._unchecked = self._unchecked, None
        if unchecked is not None:
            try:
                unchecked.check_finite(step)
                if self.diversity.measure == "det" and step == 0:
                    warn_of_negligible_det(unchecked)
            except NonFiniteRegularizerError as error:
                self._guard.fault(error)
        if self._guard.is_faulty:
            loss = torch.zeros_like(loss)  # a NaN would stay in Trainer's running sum
        window_ends = self.accelerator.sync_gradients
        if window_ends and self._guard.end_step(model, self.accelerator.scaler, self.args.device):
            self._training_log.skip_step(step)
            self._regularizer.discard_step()
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # fmt: skip
        """The base class's loss, plus the regulariser while training; while evaluating, only measure it."""
        training = model.training and torch.is_grad_enabled()
        if not self.diversity.is_active or not (training or self._meter is not None):
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        if self.diversity.is_of_weights:
            regularizer = cast(WeightRegularizer, self._regularizer)
            with shown_as_outputs(model, lambda: regularizer.shown(cast(nn.Module, self.model))):
                result: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if not training:
                return result
            loss = self._add_penalty(result[0] if return_outputs else result, {}, None, num_items_in_batch)
            return (loss, result[1]) if return_outputs else loss
        capture = self._capture_for(model)
        # Masks and sizes are taken first: the base class may pop labels from the caller's dict
        masks = self._masks(capture, inputs)
        batch_size = find_batch_size(inputs)
        with capture.armed() as store, captured_as_outputs(model, store):
            result = super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        activations = capture.take(store, training)
        if self._meter is not None and not training:
            real = batch_size if batch_size is None else real_batch_size(self.accelerator, batch_size)
            share = None if batch_size is None or real is None or real == batch_size else (real, batch_size)
            self._meter.update(rows_by_layer(activations, capture.targets, self.diversity, masks, share))
            return result
        rows = rows_by_layer(activations, capture.targets, self.diversity, masks)
        task_loss = result[0] if return_outputs else result
        if self._first_step:
            self._first_step = False
            check_first_step(self, capture.targets, task_loss, rows, batch_size)
            warn_of_ignored_items(self, inputs, num_items_in_batch)
        factors = self._factors(activations, masks, batch_size)
        try:
            loss = self._add_penalty(task_loss, rows, factors, num_items_in_batch)
        except NonFiniteRegularizerError as error:
            self._guard.fault(error)
            loss = task_loss
        return (loss, result[1]) if return_outputs else loss

    def _factors(
        self, activations: dict[str, list[Tensor]], masks: dict[str, Mask], batch_size: int | None
    ) -> dict[str, Tensor] | None:
        """What beside 1 / k this micro-batch counts in its window; None where it is the whole step."""
        if self._window is None or self._window.is_over:
            return None
        samples = self.diversity.samples
        return self._window.next_factors(
            {
                name: kind_of_samples(captured[0], masks[name], samples, batch_size)
                for name, captured in activations.items()
            }
        )

    def _add_penalty(
        self, task_loss: Tensor, rows: dict[str, Tensor], factors: dict[str, Tensor] | None,
        num_items_in_batch: Tensor | int | None,
    ) -> Tensor:  # fmt: skip
        """The optimised loss of one micro-batch, and its parts into the log.

        Trainer divides the loss by the accumulation steps, unless the task loss is already normalised over the whole
        window; then only the penalty still has to be divided.
        """
        step = self.state.global_step
        normalised = task_loss_is_normalised(self, num_items_in_batch)
        if isinstance(self._regularizer, WeightRegularizer):
            output = self._regularizer(cast(nn.Module, self.model), step)
        else:
            counts = {name: values.shape[0] for name, values in rows.items()}
            output = self._regularizer(self._drawn(rows), step, factors, counts)
        self._unchecked = output
        steps = getattr(self, "current_gradient_accumulation_steps", self.args.gradient_accumulation_steps)
        task_share = 1.0 if normalised else 1 / steps
        self._training_log.add(
            task_loss.detach(), output, step, task_share, 1 / steps, factors, self._regularizer.scale
        )
        # A new tensor: task_loss is the model's own outputs.loss, which callers may read
        return task_loss + output.penalty.to(task_loss.device) / (steps if normalised else 1)

    # ---- what a batch looks like

    def _masks(self, capture: ActivationCapture, inputs: dict[str, Any]) -> dict[str, Mask]:
        return position_masks(inputs, capture.targets, cast(nn.Module, self.model))

    def _drawn(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """At most `max_samples` of them; others in every step and process, without the global random state."""
        seed = (self.args.seed * 1_000_003 + self.state.global_step) * 4099 + self.args.process_index
        return {name: subsample(values, self.diversity.max_samples, seed) for name, values in rows.items()}

    # ---- hooks

    def _capture_for(self, model: nn.Module | None) -> ActivationCapture:
        """The capture of this model's layers; made anew where `model_init` or FSDP replaced the model."""
        model = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        if self._capture is None or self._capture_model is None or self._capture_model() is not model:
            self._capture = ActivationCapture(
                find_layers(model, self.diversity.layers, self.diversity.drop_prefix_tokens), model
            )
            self._capture_model = weakref.ref(model)
        return self._capture

    # ---- logs and evaluation

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the base class does, with the parts of the loss in the training record."""
        if "loss" in logs and "learning_rate" in logs:  # Trainer's training record, written in every process
            logs.update(self._training_log.flush(self.state.global_step))
            if "skipped_steps" in logs:  # Trainer's mean counts the dropped steps
                logs["loss"] = optimised_loss(logs, self.diversity)
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader: DataLoader[Any], description: str, prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:  # fmt: skip
        """Evaluate as the base class does, and measure the regulariser over the whole set (not in `predict`)."""
        arguments = (dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        outer, step = self._meter, self.state.global_step
        measure = self.diversity.is_active and description == "Evaluation"
        meter = DiversityMeter(self._regularizer.measure, lambda name: self._regularizer.current_gamma(name, step))
        # compute_metrics may evaluate or predict something else: that has a meter of its own, or none
        self._meter = meter if measure else None
        try:
            output = super().evaluation_loop(*arguments)
        finally:
            self._meter = outer
        if measure and output.metrics is not None:
            if isinstance(self._regularizer, WeightRegularizer):
                parts = self._regularizer(cast(nn.Module, self.model), step).layers
                record = evaluation_record(parts, metric_key_prefix)
            else:
                record = evaluation_record(meter.compute(), metric_key_prefix)
            if not record:
                logger.warning_once(
                    "eval_diversity was not measured: this evaluation computed no loss through compute_loss (no "
                    "labels, or it generates)"
                )
            output.metrics.update(record)
            self._measured.update(record)
        return output

    def hyperparameter_search(
        self, hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None, n_trials: int = 20,
        direction: str | list[str] = "minimize", backend: Any = None, hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Search as the base class does; the default objective is made of the same metrics as without regulariser."""
        if compute_objective is None and self.diversity.is_active:
            compute_objective = self._objective_of_the_task
        return super().hyperparameter_search(
            hp_space, compute_objective, n_trials, direction, backend, hp_name, **kwargs
        )

    def _objective_of_the_task(self, metrics: dict[str, float]) -> float:
        """Trainer's default: the evaluation loss, or the sum of all metrics if there are others."""
        return default_compute_objective({key: value for key, value in metrics.items() if key not in self._measured})


class DiversityTrainer(DiversityMixin, Trainer):
    """`transformers.Trainer` with within-layer diversity; see `DiversityMixin`.

    Example:
        >>> trainer = DiversityTrainer(  # doctest: +SKIP
        ...     model=model, args=TrainingArguments("out"), train_dataset=train, eval_dataset=validation,
        ...     diversity=DiversityConfig(measure="direct", diversity_weight=0.01),
        ... )
        >>> trainer.train()  # doctest: +SKIP
    """


class DiversitySeq2SeqTrainer(DiversityMixin, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` with within-layer diversity; see `DiversityMixin`.

    An evaluation that generates (`predict_with_generate` with `compute_metrics`) takes its loss from a forward pass of
    its own, so `eval_diversity` is not measured there; generation itself is never hooked.
    """
