"""What every recipe does once its trainer is made: check, train, measure, evaluate, save, report."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from common import report
from common.arguments import RunArguments
from common.results import command, hardware, versions, write_results
from hf_diversity import DiversityConfig, metrics
from hf_diversity.cards.card_mixin import regularised_layers
from hf_diversity.cards.settings import changed_fields, plain
from hf_diversity.diagnostics import LayerDiagnostics, generalization_gaps, measure_diagnostics
from hf_diversity.evaluation import LayerMeasurement, measure_layers
from hf_diversity.publishing.commit import Destination, PushError, publish
from hf_diversity.trainer_metrics import bare_metrics

WRITTEN = ("results.json", "README.md", "diversity_config.json", "similarity.npz", "predictions.npz")
Measured = LayerMeasurement | LayerDiagnostics


def find_checkpoint(arguments: TrainingArguments, run: RunArguments) -> str | None:
    """Return the checkpoint to resume from, after checking that `output_dir` may be written to.

    Call it before anything that takes long.

    Raises:
        ValueError: there is an earlier run that would be overwritten, nothing to resume from, or no twin.
    """
    folder = Path(arguments.output_dir)
    if run.twin is not None and (seed := report.read_twin(run.twin)["seed"]) != arguments.seed:
        raise ValueError(f"twin {run.twin} has seed {seed} and this run {arguments.seed}: type --seed {seed}")
    resume = arguments.resume_from_checkpoint
    if resume and str(resume).lower() not in ("false", "none"):
        if str(resume).lower() != "true":
            if not Path(resume).is_dir():
                raise ValueError(
                    f"resume_from_checkpoint {resume}: no such folder; type `true` for the last in output_dir"
                )
            return str(resume)
        last = get_last_checkpoint(folder) if folder.is_dir() else None
        if last is None:
            raise ValueError(
                f"there is no checkpoint to resume from in {folder}: leave resume_from_checkpoint out, with "
                "--overwrite_output_dir true if it holds an earlier run; --save_strategy epoch writes checkpoints"
            )
        return last
    if arguments.should_save and run.keep_files and not run.overwrite_output_dir and _earlier_run(folder):
        go_on = "--resume_from_checkpoint true to go on with it, " if get_last_checkpoint(folder) else ""
        raise ValueError(
            f"output_dir {folder} holds an earlier run: type another --output_dir, {go_on}or --overwrite_output_dir "
            "to delete it"
        )
    return None


def _earlier_run(folder: Path) -> list[Path]:
    return [*folder.glob("checkpoint-*"), *(folder / name for name in WRITTEN if (folder / name).exists())]


def accuracy_of_choices() -> dict[str, Callable]:
    """Return the two arguments of Trainer that make it report the accuracy of the most likely class."""
    accuracy = metrics.load("accuracy")

    def keep_choice(logits: Any, labels: Any) -> torch.Tensor:
        # The choice instead of every logit: less to gather and to hold.
        return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)

    def compute_metrics(evaluated: Any) -> dict[str, float]:
        return accuracy.compute(predictions=evaluated.predictions, references=evaluated.label_ids)

    return {"compute_metrics": compute_metrics, "preprocess_logits_for_metrics": keep_choice}


def name_of(diversity: DiversityConfig) -> str:
    """Return a short name of the method: "baseline", "norm only", or the measure and its weight."""
    if not diversity.is_active:
        return "baseline"
    if diversity.measure == "none" or diversity.diversity_weight == 0:
        return f"norm only {diversity.activation_weight:g}"
    norm = f" + norm {diversity.activation_weight:g}" if diversity.activation_weight else ""
    return f"{diversity.measure} {diversity.diversity_weight:g}{norm}"


def train_and_report(
    trainer: Trainer,
    sets: Mapping[str, torch.utils.data.Dataset],
    *,
    run: RunArguments,
    diversity: DiversityConfig,
    arguments: Sequence[Any],
    task: str,
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    usage: str,
    measured_at_once: int,
    corrupted: Mapping[str, torch.utils.data.Dataset] | None = None,
    checkpoint: str | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> dict[str, Any]:
    """Train, evaluate the splits, and leave in `output_dir` a model that reloads, with its results and README.

    With `run.keep_files` false nothing is written, and with `run.evaluate_test` false the test set is not looked at.

    Args:
        trainer: ready to train.
        sets: "train" (without augmentation), "validation" and "test", as the trainer evaluates them.
        run: what to measure and draw.
        diversity: the trainer's regulariser.
        arguments: dataclasses whose changed fields go into the results.
        task: name of the task on the Hub, for example "image-classification".
        model: "name", "library" and "pretrained" of the model, for the results.
        data: "name", "hub_id", "noisy_labels" and so on, for the results.
        usage: Python code that loads the model and predicts, for the README.
        measured_at_once: examples in a batch, over all processes, when similarity is measured.
        corrupted: the test set under each corruption, by its name; evaluated once each, after the test set, as
            "test_<name>", and their mean as `report.CORRUPTED`.
        checkpoint: where to resume.
        callbacks: take the place of Trainer's own progress bar.

    Returns:
        What `results.json` holds; the same on every process.

    Raises:
        PushError: everything is on the disk, and with `push_to_hub` something of it could not be published.
    """
    if callbacks is not None:
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        for callback in callbacks:
            trainer.add_callback(callback)
    settings = trainer.args
    # Pinned memory serves copies to a GPU; without one, DataLoader warns at every evaluation.
    settings.dataloader_pin_memory &= settings.device.type != "cpu"
    folder = Path(settings.output_dir)
    writes = settings.should_save and run.keep_files
    if checkpoint is None and writes:
        for path in _earlier_run(folder):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    trainer.accelerator.wait_for_everyone()

    measured: dict[str, dict[str, Measured]] = {}
    if run.measure_similarity and checkpoint is None:
        measured["before"] = measure(trainer, sets["validation"], diversity, measured_at_once, run.diagnostics)
    start = time.perf_counter()
    unpublished: PushError | None = None
    try:
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
    except PushError as error:  # the training is done: evaluate and write everything first
        unpublished, outcome = error, error.train_output
    seconds = time.perf_counter() - start
    pushes, settings.push_to_hub = settings.push_to_hub, False  # save_model would publish Trainer's card
    history = plain(trainer.state.log_history)
    if run.keep_files:
        trainer.save_model()
    if run.measure_similarity:
        measured["after"] = measure(trainer, sets["validation"], diversity, measured_at_once, run.diagnostics)
    values, predicted = {}, {}
    for name in report.SPLITS if run.evaluate_test else report.SPLITS[:-1]:
        values[name], predicted[name] = _evaluate(trainer, sets[name], name)
    gaps = {other: generalization_gaps(values["train"], values[other]) for other in values if other != "train"}
    if run.evaluate_test and corrupted:
        under = {f"test_{name}": _evaluate(trainer, images, f"test_{name}")[0] for name, images in corrupted.items()}
        values |= under
        values[report.CORRUPTED] = {
            key: statistics.fmean(found[key] for found in under.values()) for key in values["test"]
        }

    results: dict[str, Any] = {
        "name": name_of(diversity),
        "task": task,
        "metrics": values,
        "gaps": gaps,
        "similarity": {
            when: {name: _describe(layer) for name, layer in layers.items()} for when, layers in measured.items()
        },
        "model": {**model, "parameters": sum(p.numel() for p in trainer.model.parameters())},
        "data": dict(data),
        "diversity": {
            "active": diversity.is_active,
            "config": diversity.to_dict(),
            "layers": regularised_layers(trainer),
        },
        "training": {
            "steps": outcome.global_step,
            "epochs": trainer.state.epoch,
            "seconds": seconds,
            "resumed": checkpoint is not None,
        },
        "seeds": {"seed": settings.seed, "data_seed": settings.data_seed, **data.get("seeds", {})},
        "arguments": {key: value for item in arguments for key, value in changed_fields(item).items()},
        "command": command(),
        "versions": versions(),
        "hardware": hardware(settings.device, settings.world_size),
        "figures": [],
        "twins": [] if run.twin is None else [report.read_twin(run.twin)],
        "history": history,
    }
    if writes:
        matrices = {
            f"{when} training" + (f", {name}" if len(layers) > 1 else ""): layer.similarity.cpu().numpy()
            for when, layers in measured.items()
            for name, layer in layers.items()
        }
        if matrices:
            np.savez_compressed(folder / "similarity.npz", **{k: v.astype(np.float32) for k, v in matrices.items()})
        # Which test examples were right, for paired comparisons and for checking a reloaded model.
        np.savez_compressed(folder / "predictions.npz", **predicted["test"])
        if run.figures:
            results["figures"] = report.write_figures(folder, results, matrices)
        diversity.to_json_file(folder / "diversity_config.json")
        report.write_card(folder, results, usage)
        # Last: a folder with results.json is a finished run.
        write_results(folder, results)
    settings.push_to_hub = pushes
    trainer.accelerator.wait_for_everyone()
    failure = unpublished if unpublished is not None and unpublished.places != {""} else None
    if pushes and writes and settings.process_index == 0:
        place = Destination(trainer.hub_model_id, private=settings.hub_private_repo, revision=settings.hub_revision)
        try:
            publish(folder, place, settings.hub_token)
        except PushError as error:
            failure = error if failure is None else PushError(f"{error}\n{failure}")
    if failure is not None:
        failure.train_output = results
        raise failure
    return results


def measure(
    trainer: Trainer,
    examples: torch.utils.data.Dataset,
    diversity: DiversityConfig,
    at_once: int = 256,
    diagnose: bool = False,
) -> dict[str, Measured]:
    """Measure the regularised layers of the trainer's model over a data set, each process over its part.

    Args:
        trainer: its model and collator are used.
        examples: as the trainer evaluates them.
        diversity: which layers and samples.
        at_once: examples in a batch, over all processes.
        diagnose: measure the spectrum, correlations and dead units as well.
    """
    settings = trainer.args
    part = Subset(examples, range(settings.process_index, len(examples), settings.world_size))
    # The first batch of all processes together sets gamma: the same examples, however many processes there are.
    loader = DataLoader(part, batch_size=max(1, at_once // settings.world_size), collate_fn=trainer.data_collator)
    model = trainer.accelerator.unwrap_model(trainer.model)
    # A twin with weight 0 is measured as its partner is: weights do not matter here, and gamma follows the scale of
    # each network's activations, so that the numbers can be compared.
    diversity = dataclasses.replace(diversity, gamma="median")
    return (measure_diagnostics if diagnose else measure_layers)(model.to(settings.device), loader, diversity)


def _evaluate(
    trainer: Trainer, examples: torch.utils.data.Dataset, name: str
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    output = trainer.predict(examples, metric_key_prefix=name)
    return bare_metrics(output.metrics, name), {"predictions": output.predictions, "labels": output.label_ids}


def _describe(layer: Measured) -> dict[str, Any]:
    more = layer.scalars() if isinstance(layer, LayerDiagnostics) else {}
    return {
        **plain(more),
        "mean_similarity": layer.mean_similarity,
        "gamma": layer.gamma,
        "activation_norm": layer.activation_norm,
        "units": layer.similarity.shape[0],
        "samples": layer.num_samples,
    }
