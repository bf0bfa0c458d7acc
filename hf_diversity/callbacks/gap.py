"""`GeneralizationGapCallback`: by how much each evaluation is worse than one on training examples."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import default_compute_objective

from ..diagnostics import generalization_gaps
from ..trainer_metrics import bare_metrics
from .bound import Session, TrainerBoundCallback, evaluation_prefix, some_examples
from .unnoticed import unnoticed


class _GapSession(Session):
    known: tuple[int, dict[str, float]] | None = None  # the step, and the metrics of the training examples then


class GeneralizationGapCallback(TrainerBoundCallback):
    """At each evaluation, evaluates training examples in the same way and tells the difference.

    A positive gap means worse than in training: held-out - train for losses and errors, train - held-out for scores.
    `gap_loss` and `gap_<metric>` are logged, with several evaluation sets `gap_<set>_<metric>`. The metrics that
    `evaluate` returns hold them as `eval_gap_loss`, so that `metric_for_best_model="gap_loss"` works, with early
    stopping as well; the default objective of `hyperparameter_search` leaves them out. The loss is the task's alone,
    and the metrics are those of `compute_metrics`: what trl's trainers gather as they go has no gap.

    Cost: a forward pass over `train_samples` examples for each evaluation, once for several evaluation sets. It draws
    no random number, and other callbacks do not notice it: the training is the same, bit for bit, as without the
    callback. One instance may serve several trainers.

    Args:
        train_samples: how many training examples, the same at each evaluation; None for all.
        train_dataset: the examples themselves, say without the augmentation of the training set; None for the
            trainer's training set.
        seed: draws the examples.
        lower_is_better: further metrics of which less is better, see `generalization_gaps`.

    Raises:
        ValueError: `train_samples` is below 1; when training starts: there is nothing to draw from, or
            `greater_is_better` is set for a gap.
    """

    _session_type = _GapSession

    def __init__(
        self,
        train_samples: int | None = 1000,
        train_dataset: Any = None,
        seed: int = 0,
        lower_is_better: Collection[str] = (),
    ):
        """See the class."""
        if train_samples is not None and (
            isinstance(train_samples, bool) or not isinstance(train_samples, int) or train_samples < 1
        ):
            raise ValueError(f"train_samples is {train_samples!r}: it must be at least 1; type train_samples=1000")
        super().__init__()
        self.train_samples = train_samples
        self.train_dataset = train_dataset
        self.seed = seed
        self.lower_is_better = tuple(lower_is_better)
        self._added: set[str] = set()

    def bind(self, trainer: Any) -> None:
        """Work with this trainer, before callbacks that look for the gap in the metrics (early stopping)."""
        super().bind(trainer)
        callbacks = trainer.callback_handler.callbacks
        callbacks.remove(self)
        callbacks.insert(0, self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse what could only fail at the first evaluation."""
        super().on_train_begin(args, state, control, **kwargs)
        best = args.metric_for_best_model or ""
        if "gap_" in best and args.greater_is_better:
            raise ValueError(
                f"metric_for_best_model is {best!r} and greater_is_better is True: the model with the largest gap "
                "would be the best; type greater_is_better=False"
            )
        trainer = self._trainer_of(state)
        self._examples_of(trainer)
        objective = getattr(trainer, "compute_objective", None)  # while a search goes on
        defaults = (default_compute_objective, getattr(trainer, "_objective_of_the_task", default_compute_objective))
        if objective in defaults:
            trainer.compute_objective = partial(_objective_without, self._added, objective)

    def _examples_of(self, trainer: Any) -> Any:
        data = self.train_dataset if self.train_dataset is not None else trainer.train_dataset
        if data is None:
            raise ValueError("there is no training set to compare with; type train_dataset=... for the callback")
        return some_examples(data, self.train_samples, self.seed, "train_dataset")

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the gaps to the metrics, and log them."""
        prefix = evaluation_prefix(metrics or {})
        if metrics is None or prefix is None:
            return
        trainer = self._trainer_of(state)
        gaps = generalization_gaps(self._train_metrics(trainer), bare_metrics(metrics, prefix), self.lower_is_better)
        added = {f"{prefix}_gap_{name}": value for name, value in gaps.items()}
        self._added.update(added)
        metrics.update(added)
        which = "" if prefix == "eval" else prefix.removeprefix("eval_") + "_"
        trainer.log({f"gap_{which}{name}": value for name, value in gaps.items()})

    def _train_metrics(self, trainer: Any) -> dict[str, float]:
        """Those of the training examples; once a step, however many evaluation sets there are."""
        session, step = self._sessions[trainer], trainer.state.global_step
        known: tuple[int, dict[str, float]] | None = session.known
        if trainer.is_in_train and known is not None and known[0] == step:
            return known[1]
        with unnoticed(trainer):
            output = trainer.evaluation_loop(
                self._loader_of(trainer),
                description="Evaluation of training examples",
                prediction_loss_only=True if trainer.compute_metrics is None else None,
                metric_key_prefix="train",
            )
        found = bare_metrics(output.metrics, "train")
        session.known = (step, found)
        return found


def _objective_without(
    added: Collection[str], objective: Callable[[dict[str, float]], float], metrics: dict[str, float]
) -> float:
    """The objective of a search, as it is without the callback; Trainer's default sums all metrics."""
    return objective({key: value for key, value in metrics.items() if key not in added})
