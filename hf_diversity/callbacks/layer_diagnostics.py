"""`LayerDiagnosticsCallback`: what chosen layers look like, at each evaluation, in every log."""

from __future__ import annotations

from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.utils import logging

from ..config import DiversityConfig
from ..data_pass import iterate_rows
from ..diagnostics import LayerDiagnostics, measure_diagnostics
from ..diagnostics.memory import check_memory
from ..distributed import world_size
from ..layers import find_layers
from ..weight_regularizer import find_weighted_layers
from .bound import Session, TrainerBoundCallback, evaluation_prefix, some_examples
from .unnoticed import unnoticed

logger = logging.get_logger(__name__)

_LOGGED = (
    "mean_similarity",
    "mean_similarity_normalised",
    "mean_absolute_correlation",
    "activation_norm",
    "constant_share",
    "never_positive_share",
    "effective_rank",
    "effective_rank_uncentred",
    "participation_ratio",
    "spectrum_slope",
)


class _Session(Session):
    fits = False


class LayerDiagnosticsCallback(TrainerBoundCallback):
    """Measures layers on evaluation examples and logs the numbers as `layers/<layer>/<quantity>`.

    They reach every backend of `report_to`. TensorBoard also gets each layer's similarity matrix and spectrum as
    images, if matplotlib is installed.

    Cost: for each `every`-th evaluation a forward pass over `samples` examples, and for a layer of D units two D x D
    similarities and two eigenvalue problems: 0.06, 0.6 and 11 seconds at D = 128, 512 and 2,048 with 512 samples, on a
    busy CPU core; and memory for some D x D matrices in float64, no activations. Layers that would need more than 8 GB
    are refused when training starts, by a forward pass of one example. It draws no random number. One instance may
    serve several trainers.

    Args:
        layers: names and patterns, as in `DiversityConfig`; None for the layers of the trainer's regulariser.
        dataset: the examples; None for the trainer's evaluation set, the first one of several.
        samples: how many examples at most, the same each time. Several processes measure as many of them as fill
            their batches equally, so that none counts twice.
        every: while training, measure at each so many-th evaluation, counted from the first of the whole run, resumed
            or not; outside of training, at each.
        images: whether TensorBoard gets images.
        seed: draws the examples.

    Raises:
        ValueError: a number is below 1; when training starts: there are no examples, a layer does not exist, or the
            layers are too wide for the memory.
    """

    _session_type = _Session

    def __init__(
        self,
        layers: list[str] | None = None,
        dataset: Any = None,
        samples: int = 512,
        every: int = 1,
        images: bool = True,
        seed: int = 0,
    ):
        """See the class."""
        for name, value in (("samples", samples), ("every", every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}: it must be a whole number of at least 1; type {name}=1")
        super().__init__()
        self.layers, self.dataset, self.samples = layers, dataset, samples
        self.every, self.images, self.seed = every, images, seed

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse what could only fail at the first evaluation."""
        super().on_train_begin(args, state, control, **kwargs)
        trainer = self._trainer_of(state)
        with unnoticed(trainer):
            self._check_memory(trainer)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure and log, once a step, however many evaluation sets there are."""
        trainer = self._trainer_of(state)
        if trainer.is_in_train and not self._is_due(state):
            return
        with unnoticed(trainer):
            measured = self.measure(trainer)
        scalars = {
            f"layers/{name}/{quantity}": layer.scalars()[quantity]
            for name, layer in measured.items()
            for quantity in _LOGGED
        }
        trainer.log({key: value for key, value in scalars.items() if value == value})  # NaN is no JSON
        if self.images and state.is_world_process_zero:
            self._draw(trainer, measured, state.global_step)

    def _is_due(self, state: Any) -> bool:
        """Whether this is the first evaluation of its step, and the step's turn.

        Counted in the log, which a checkpoint keeps: a resumed run goes on with the same evaluations.
        """
        steps = [r.get("step") for r in state.log_history if evaluation_prefix(r) not in (None, "train")]
        return steps.count(state.global_step) <= 1 and (len(set(steps)) - 1) % self.every == 0

    def measure(self, trainer: Any = None) -> dict[str, LayerDiagnostics]:
        """The diagnostics now, by layer.

        Args:
            trainer: one of the trainers that have this callback; None for the one that was bound last.

        Raises:
            ValueError: the layers are too wide for the memory.
        """
        trainer = self.trainer if trainer is None else trainer
        self._check_memory(trainer)
        model, config, gammas = self._plan(trainer)
        loader = self._loader_of(trainer)
        return measure_diagnostics(model, loader, config, gammas, accelerator=trainer.accelerator)

    def _plan(self, trainer: Any) -> tuple[Any, DiversityConfig, dict[str, float]]:
        """The model, which of its layers, and the gammas that are known."""
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        config = getattr(trainer, "diversity", None) or DiversityConfig()
        gammas: dict[str, float] = {}
        if self.layers is None and config.is_of_weights:
            weighted = list(find_weighted_layers(model, config.layers))
            config = DiversityConfig(layers=weighted, samples=config.samples, unit_axis=config.unit_axis)
        elif self.layers is None:
            regularizer = getattr(trainer, "_regularizer", None)
            for name in _names(trainer, model):
                gamma = None if regularizer is None else regularizer.current_gamma(name, trainer.state.global_step)
                if gamma is not None:
                    gammas[name] = float(gamma)
        else:
            config = DiversityConfig.from_dict({**config.to_dict(), "layers": self.layers, "gamma": "median"})
        return model, config, gammas

    def _check_memory(self, trainer: Any) -> None:
        """Refuse layers that are too wide, by an example for each process; once in a training."""
        session = self._sessions[trainer]
        if session.fits:
            return
        model, config, _ = self._plan(trainer)
        few = trainer.get_test_dataloader(self._examples_of(trainer, world_size()))
        units: dict[str, int] = {}
        for rows in iterate_rows(model, few, config, accelerator=trainer.accelerator):
            units = {name: values.shape[1] for name, values in rows.items()}
        check_memory(units, f"type {type(self).__name__}(layers=[...]) with fewer or narrower ones")
        session.fits = True

    def _examples_of(self, trainer: Any, most: int | None = None) -> Any:
        data = self.dataset if self.dataset is not None else trainer.eval_dataset
        if isinstance(data, dict):
            data = next(iter(data.values()))
        if data is None:
            raise ValueError("there are no examples to measure layers on; type dataset=... for the callback")
        return some_examples(data, min(self.samples, most or self.samples), self.seed, "dataset")

    def _draw(self, trainer: Any, measured: dict[str, LayerDiagnostics], step: int) -> None:
        boards = [c for c in trainer.callback_handler.callbacks if isinstance(c, TensorBoardCallback)]
        writer = next((board.tb_writer for board in boards if board.tb_writer is not None), None)
        if writer is None:
            return
        try:
            import matplotlib.pyplot as pyplot

            from .. import plots
        except ImportError:
            logger.warning_once(
                'no images of layers for TensorBoard without matplotlib; type pip install "hf_diversity[plots]"'
            )
            return
        for name, layer in measured.items():
            for what, (figure, _) in (
                ("similarity", plots.similarity_matrices({name: layer.similarity})),
                ("spectrum", plots.spectra({name: layer})),
            ):
                writer.add_figure(f"layers/{name}/{what}", figure, step)
                pyplot.close(figure)


def _names(trainer: Any, model: Any) -> list[str]:
    config = getattr(trainer, "diversity", None) or DiversityConfig()
    return [target.name for target in find_layers(model, config.layers, config.drop_prefix_tokens)]
