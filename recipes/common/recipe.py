"""The frame of every recipe: load the data, prepare the model and its inputs, train, report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Subset
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments, set_seed

from common.arguments import DataArguments, ModelArguments, RunArguments, parse_arguments
from common.data import Splits, describe_data
from common.report import summary
from common.schedule import RecipeTrainer
from common.training import find_checkpoint, train_and_report
from hf_diversity import DiversityConfig
from hf_diversity.data import stratified_subset
from hf_diversity.publishing.commit import PushError


@dataclass
class Prepared:
    """What is particular to one recipe.

    Attributes:
        task: name of the task on the Hub, for example "image-classification".
        model: ready to train.
        library: "timm" or "transformers".
        pretrained: whether the model starts from published weights.
        sets: "train" (without augmentation), "validation" and "test", as they are evaluated.
        train_labels: class of each item of `sets["train"]`, by which a part of it is drawn to be watched.
        usage: Python code that loads the model and predicts, for the README.
        scoring: further arguments of Trainer, for example `compute_metrics`.
        varied_train: the training examples with random changes, if there are any.
        collator: makes batches; default that of Trainer.
        processor: saved beside the model.
        measured_at_once: examples in a batch, over all processes, when similarity is measured.
        loss_is_a_mean: the model's loss ignores `num_items_in_batch` although its forward pass takes it
            (transformers#47688), and would come out too large with several processes or accumulation steps.
        data: further lines about the data for the results.
        corrupted: the test set under each corruption, by its name.
    """

    task: str
    model: PreTrainedModel
    library: str
    pretrained: bool
    sets: dict[str, Dataset]
    train_labels: np.ndarray
    usage: str
    scoring: Mapping[str, Any]
    varied_train: Dataset | None = None
    collator: Callable | None = None
    processor: Any = None
    measured_at_once: int = 256
    loss_is_a_mean: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)
    corrupted: Mapping[str, Dataset] = field(default_factory=dict)


def run_recipe(
    load: Callable[[Any], Splits],
    prepare: Callable[[Any, Any, Splits], Prepared],
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    run_arguments: RunArguments,
    diversity: DiversityConfig,
    training_arguments: TrainingArguments,
    callbacks: list[TrainerCallback] | None = None,
) -> dict[str, Any]:
    """Train and evaluate one model.

    Args:
        load: gives the examples that `data_arguments` name.
        prepare: gives the model and its inputs from `model_arguments`, `data_arguments` and the examples.
        model_arguments: which model.
        data_arguments: which examples.
        run_arguments: what to measure and draw, and the steps of the learning rate.
        diversity: the regulariser; weights 0 for a baseline.
        training_arguments: as for `transformers.Trainer`. `remove_unused_columns` is switched off: the inputs are made
            by the recipe, and Trainer does not know which columns they come from.
        callbacks: take the place of Trainer's own progress bar.

    Returns:
        What `results.json` in `output_dir` holds.

    Raises:
        ValueError: an argument does not fit the data, the model or `output_dir`; nothing has been trained or deleted.
    """
    checkpoint = find_checkpoint(training_arguments, run_arguments)
    training_arguments.remove_unused_columns = False
    with training_arguments.main_process_first(desc="loading the data"):
        splits = load(data_arguments)
    # Before the model is built: the seed decides its initial weights.
    set_seed(training_arguments.seed)
    prepared = prepare(model_arguments, data_arguments, splits)
    sets = prepared.sets
    watched = data_arguments.train_eval_samples or len(sets["validation"])
    watched_train = sets["train"]
    if watched < len(sets["train"]):
        watched_train = Subset(
            sets["train"], stratified_subset(prepared.train_labels, watched, data_arguments.split_seed).tolist()
        )
    trainer = RecipeTrainer(
        model=prepared.model,
        args=training_arguments,
        train_dataset=prepared.varied_train if prepared.varied_train is not None else sets["train"],
        eval_dataset={"validation": sets["validation"], "train": watched_train},
        data_collator=prepared.collator,
        processing_class=prepared.processor,
        diversity=diversity,
        run=run_arguments,
        **prepared.scoring,
    )
    if prepared.loss_is_a_mean:
        trainer.model_accepts_loss_kwargs = False
    folder = Path(model_arguments.model).expanduser()
    return train_and_report(
        trainer,
        sets,
        run=run_arguments,
        diversity=diversity,
        arguments=[model_arguments, data_arguments, run_arguments, diversity, training_arguments],
        task=prepared.task,
        model={
            "name": folder.resolve().name if folder.is_dir() else model_arguments.model,
            "library": prepared.library,
            "pretrained": prepared.pretrained,
        },
        data={**describe_data(data_arguments, splits), **prepared.data},
        usage=prepared.usage,
        measured_at_once=prepared.measured_at_once,
        corrupted=prepared.corrupted,
        checkpoint=checkpoint,
        callbacks=callbacks,
    )


def run_from_command_line(run: Callable[..., dict[str, Any]], types: Sequence[type], description: str | None) -> None:
    """Parse the command line, train, and print the result.

    What an argument or a file is to blame for ends with its message and exit status 2, as an unknown argument does;
    with HF_DIVERSITY_DEBUG=1 in the environment it ends with the traceback.
    """
    try:
        arguments = parse_arguments(types, description=description)
        results, failure = _results_of(run, arguments)
    except (OSError, TypeError, ValueError) as error:
        if os.environ.get("HF_DIVERSITY_DEBUG"):
            raise
        if os.environ.get("RANK", "0") == "0":  # all processes say the same
            print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    if arguments[-1].should_save:
        print(f"\n{summary(results)}\nwritten to {arguments[-1].output_dir}")
    if failure is not None:
        if os.environ.get("RANK", "0") == "0":
            print(f"{Path(sys.argv[0]).name}: {failure}", file=sys.stderr, flush=True)
        raise SystemExit(1)


def _results_of(
    run: Callable[..., dict[str, Any]], arguments: Sequence[Any]
) -> tuple[dict[str, Any], PushError | None]:
    """What `run` returns, also where only the publishing failed."""
    try:
        return run(*arguments), None
    except PushError as error:
        if error.train_output is None:  # before the training
            raise OSError(str(error)) from error
        return error.train_output, error
