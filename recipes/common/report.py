"""Figures and the README.md of a run: what was trained and how, from `results.json` alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from hf_diversity import DiversityConfig, cards, plots
from hf_diversity.cards.log_table import training_log_rows
from hf_diversity.cards.repeat import environment_sentence
from hf_diversity.plots.saving import save_figures

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
# The mean of each metric over the corruptions of the test set
CORRUPTED = "test_corrupted"


def write_figures(folder: Path, results: dict[str, Any], matrices: dict[str, np.ndarray]) -> list[str]:
    """Draw the curves and similarity matrices into `folder`.

    Args:
        folder: where the PNG files go.
        results: as in `results.json`.
        matrices: similarity matrices by title, for example {"before training": S}; may be empty.

    Returns:
        Names of the files written; none, with a warning, if matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        logger.warning('no figures: matplotlib is not installed; type: pip install "hf_diversity[plots]"')
        return []
    matplotlib.use("Agg")
    history = results["history"]
    figures = {}
    if any("loss" in record for record in history):
        figures["training.png"] = plots.training_curves(history)
    metrics = [
        name for name in results["metrics"]["train"] if any(f"eval_train_{name}" in record for record in history)
    ]
    if metrics:
        figures["gap.png"] = plots.gap_curves({results["name"]: [history]}, metrics=metrics)
    if matrices:
        figures["similarity.png"] = plots.similarity_matrices(matrices)
    return save_figures(figures, folder)


def write_card(folder: Path, results: dict[str, Any], usage: str) -> None:
    """Write README.md, the model card: metadata for the Hub, results, data, settings and how to use the model.

    Args:
        folder: where it goes.
        results: as in `results.json`.
        usage: Python code that loads the model and predicts.
    """
    cards.save(make_card(results, usage), folder)


def make_card(results: dict[str, Any], usage: str) -> cards.Card:
    """What the card of a run says, from its results alone."""
    model, data, training = (results[key] for key in ("model", "data", "training"))
    measured = results["similarity"]
    rows = [
        (layer, f"{when} training", *(values[key] for key in ("mean_similarity", "gamma", "activation_norm")))
        for when, layers in measured.items()
        for layer, values in layers.items()
    ]
    hardware = results["hardware"]
    seeds = ", ".join(f"{name} {value}" for name, value in results["seeds"].items() if value is not None)
    device = (
        f"{hardware['device']} ({hardware['name']}), {hardware['threads']} thread(s) each; {training['seconds']:.0f} s"
    )
    return cards.Card(
        name=f"{model['name']} on {data['name']}: {results['name']}",
        diversity=DiversityConfig.from_dict(results["diversity"]["config"]),
        task=results["task"],
        library=model["library"],
        # timm's names are no Hub ids
        base_model=model["name"] if model["pretrained"] and "/" in model["name"] else None,
        start="fine-tuned from published weights" if model["pretrained"] else "trained from random weights",
        parameters=model["parameters"],
        datasets=[cards.Dataset(data["name"], data["hub_id"], results["arguments"].get("benchmark_task"))],
        layers=results["diversity"].get("layers") or list(measured.get("after", {})),
        metrics={name: results["metrics"][name] for name in (*SPLITS, CORRUPTED) if name in results["metrics"]},
        gaps=results["gaps"],
        twins=[cards.Twin(twin["name"], twin["metrics"], twin.get("gaps", {})) for twin in results["twins"]],
        notes=_notes(results),
        similarity=rows,
        log=training_log_rows(results["history"]),
        figures=results["figures"],
        usage=usage,
        command=results["command"],
        settings=results["arguments"],
        environment=[environment_sentence(seeds, results["versions"], hardware["processes"], device)],
        license=results["arguments"].get("license"),
        tags=[results["task"], *(["timm"] if model["library"] == "timm" else [])],
    )


def _notes(results: dict[str, Any]) -> list[str]:
    data, training = results["data"], results["training"]
    notes = [
        f"Trained on {data['train']:,} examples for {training['epochs']:.3g} epochs ({training['steps']:,} steps).",
        f"{data['validation']:,} validation examples, none of them from the test set, served for every choice; the "
        f"{data['test']:,} test examples were evaluated once, at the end. The training examples were evaluated "
        "without augmentation.",
    ]
    if data.get("noisy_labels"):
        notes.insert(1, f"{data['noisy_labels']:,} training labels were replaced by random ones.")
    if results["similarity"]:
        notes.append("Similarity was measured on the validation examples.")
    if under := _under_corruption(results):
        notes.append(
            f"The test examples were also evaluated once under each corruption: {under}. Kinds and strengths are "
            "those of CIFAR-10-C (Hendrycks & Dietterich, 2019); translation is none of them."
        )
    return notes


def _under_corruption(results: dict[str, Any]) -> str:
    """The accuracy under each corruption, and their mean; nothing if there were none."""
    found = {name: values["accuracy"] for name, values in results["metrics"].items() if name not in SPLITS}
    if not found:
        return ""
    mean, severity = found.pop(CORRUPTED), results["arguments"].get("corruption_severity", 3)
    listed = ", ".join(f"{name.removeprefix('test_')} {accuracy:.4f}" for name, accuracy in found.items())
    return f"accuracy at severity {severity}: {listed}; mean {mean:.4f} (`{CORRUPTED}`)"


def _metrics_table(results: dict[str, Any]) -> list[str]:
    metrics, gaps = results["metrics"], results["gaps"]
    rows = ["| metric | train | validation | test | gap to validation | gap to test |", "|---|---|---|---|---|---|"]
    for name in metrics["train"]:
        values = [metrics[split][name] for split in SPLITS]
        values += [gaps[split][name] for split in ("validation", "test")]
        rows.append(f"| {name} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    rows += ["", "A positive gap means worse than on the training examples (evaluated without augmentation)."]
    under = _under_corruption(results)
    return [*rows, "", f"Test set under corruption, {under}."] if under else rows


def read_twin(folder: str | Path) -> dict[str, Any]:
    """Name and metrics of a finished run, for the card of its twin.

    Raises:
        ValueError: the folder holds no finished run.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise ValueError(f"twin {folder} holds no results.json: name the output_dir of a finished run")
    results = read_results(folder)
    return {
        "name": results["name"],
        "seed": results["seeds"]["seed"],
        "metrics": results["metrics"],
        "gaps": results["gaps"],
    }


def read_results(folder: str | Path) -> dict[str, Any]:
    """Read the `results.json` of a finished run."""
    return json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))


def summary(results: dict[str, Any]) -> str:
    """Return the table that a recipe prints when it is done."""
    similarity = [
        f"{layer}: mean similarity {measured['mean_similarity']:.4f} {when} training (gamma {measured['gamma']:.4g})"
        for when, layers in results["similarity"].items()
        for layer, measured in layers.items()
    ]
    title = (
        f"{results['model']['name']} on {results['data']['name']}, {results['name']}, seed {results['seeds']['seed']}"
    )
    time = f"{results['training']['steps']} steps in {results['training']['seconds']:.1f} s"
    return "\n".join([title, *_metrics_table(results), "", *similarity, time])
