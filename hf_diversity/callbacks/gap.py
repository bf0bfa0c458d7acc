"""`GeneralizationGapCallback`: by how much each evaluation is worse than one on training examples."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..diagnostics import generalization_gaps
from .bound import TrainerBoundCallback, some_examples, untouched_random_state

_TECHNICAL = ("runtime", "samples_per_second", "steps_per_second", "jit_compilation_time", "model_preparation_time")


class GeneralizationGapCallback(TrainerBoundCallback):
    """At each evaluation, evaluates training examples in the same way and tells the difference.

    A positive gap means worse than in training: held-out - train for losses and errors, train - held-out for scores.
    `gap_loss` and `gap_<metric>` are logged, with several evaluation sets `gap_<set>_<metric>`. The metrics that
    `evaluate` returns hold them as `eval_gap_loss`, so that `metric_for_best_model="gap_loss"` works, with early
    stopping as well. The loss is the task's alone.

    Cost: a forward pass over `train_samples` examples for each evaluation, once for several evaluation sets. It draws
    no random number: the training is the same, bit for bit, as without the callback.

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
        self.train_samples = train_samples
        self.train_dataset = train_dataset
        self.seed = seed
        self.lower_is_better = tuple(lower_is_better)
        self._examples: Any = None
        self._known: tuple[int, dict[str, float]] | None = None

    def bind(self, trainer: Any) -> None:
        """Work with this trainer, before callbacks that look for the gap in the metrics (early stopping)."""
        super().bind(trainer)
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
            callbacks.insert(0, self)

    def on_train_begin(self, args, state, control, **kwargs):
        """Refuse what could only fail at the first evaluation."""
        super().on_train_begin(args, state, control, **kwargs)
        best = args.metric_for_best_model or ""
        if "gap_" in best and args.greater_is_better:
            raise ValueError(
                f"metric_for_best_model is {best!r} and greater_is_better is True: the model with the largest gap "
                "would be the best; type greater_is_better=False"
            )
        self._known = None
        self._draw()

    def _draw(self) -> Any:
        if self._examples is None:
            data = self.train_dataset if self.train_dataset is not None else self.trainer.train_dataset
            if data is None:
                raise ValueError("there is no training set to compare with; type train_dataset=... for the callback")
            self._examples = some_examples(data, self.train_samples, self.seed, "train_dataset")
        return self._examples

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Add the gaps to the metrics, and log them."""
        # The shortest: a metric of the user's may end so as well
        prefixes = sorted((key.removesuffix("_runtime") for key in metrics or {} if key.endswith("_runtime")), key=len)
        prefix = prefixes[0] if prefixes else None
        if metrics is None or prefix is None:
            return
        with untouched_random_state():
            train = self._train_metrics()
        held_out = _plain(metrics, prefix)
        gaps = generalization_gaps(train, held_out, self.lower_is_better)
        metrics.update({f"{prefix}_gap_{name}": value for name, value in gaps.items()})
        which = "" if prefix == "eval" else prefix.removeprefix("eval_") + "_"
        self.trainer.log({f"gap_{which}{name}": value for name, value in gaps.items()})

    def _train_metrics(self) -> dict[str, float]:
        """Those of the training examples; once a step, however many evaluation sets there are."""
        trainer = self.trainer
        step = trainer.state.global_step
        if trainer.is_in_train and self._known is not None and self._known[0] == step:
            return self._known[1]
        output = trainer.evaluation_loop(
            self._loader_of(self._draw()),
            description="Evaluation of training examples",
            prediction_loss_only=True if trainer.compute_metrics is None else None,
            metric_key_prefix="train",
        )
        found = _plain(output.metrics, "train")
        self._known = (step, found)
        return found


def _plain(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """Metrics by their bare names, without times and counts."""
    found = {key.removeprefix(f"{prefix}_"): value for key, value in metrics.items() if key.startswith(f"{prefix}_")}
    return {key: value for key, value in found.items() if key not in _TECHNICAL and isinstance(value, int | float)}
