"""Figures and the README.md of a run: what was trained and how, from `results.json` alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import yaml

logger = logging.getLogger(__name__)


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

        matplotlib.use("Agg")
        from matplotlib import pyplot

        from hf_diversity import plots
    except ImportError:
        logger.warning('no figures: matplotlib is not installed; type: pip install "hf_diversity[plots]"')
        return []
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
    for name, (figure, _) in figures.items():
        figure.savefig(folder / name, dpi=120)
        pyplot.close(figure)
    return list(figures)


def write_readme(folder: Path, results: dict[str, Any], usage: str) -> None:
    """Write README.md: metadata for the Hub, then results, data, settings and how to use the model.

    Args:
        folder: where it goes.
        results: as in `results.json`.
        usage: Python code that loads the model and predicts.
    """
    lines = ["---", yaml.safe_dump(_metadata(results), sort_keys=False, allow_unicode=True).strip(), "---", ""]
    lines += [f"# {results['model']['name']} on {results['data']['name']}: {results['name']}", "", _story(results), ""]
    lines += ["## Results", "", *_metrics_table(results), ""]
    if results["similarity"]:
        lines += [*_similarity_table(results), ""]
    lines += [f"![{name.removesuffix('.png')}]({name})\n" for name in results["figures"]]
    lines += ["## Use", "", "```python", usage.strip(), "```", ""]
    lines += ["## Settings", "", "What differs from the defaults:", "", "```yaml"]
    lines += [yaml.safe_dump(results["arguments"], sort_keys=False, allow_unicode=True).strip(), "```", ""]
    lines += ["`diversity_config.json` holds every field of the regulariser, `results.json` every number.", ""]
    lines += ["Command:", "", "```bash", results["command"], "```", ""]
    software = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    hardware = results["hardware"]
    lines += [
        f"{software}; {hardware['processes']} process(es) on {hardware['device']} ({hardware['name']}), "
        f"{hardware['threads']} thread(s) each; {results['training']['seconds']:.0f} s.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _metadata(results: dict[str, Any]) -> dict[str, Any]:
    data = results["data"]
    tags = ["hf_diversity", results["task"]] + (["timm"] if results["model"]["library"] == "timm" else [])
    metadata: dict[str, Any] = {
        "library_name": results["model"]["library"],
        "pipeline_tag": results["task"],
        "tags": tags,
        "metrics": [name for name in results["metrics"]["test"] if name != "loss"],
    }
    if data["hub_id"]:
        metadata["datasets"] = [data["hub_id"]]
        measured = [
            {"type": name, "name": name, "value": value}
            for name, value in results["metrics"]["test"].items()
            if name != "loss"
        ]
        source = {"type": data["hub_id"], "name": data["name"], "split": "test"}
        entry = {"task": {"type": results["task"]}, "dataset": source, "metrics": measured}
        metadata["model-index"] = [{"name": results["model"]["name"], "results": [entry]}]
    return metadata


def _story(results: dict[str, Any]) -> str:
    model, data, training, diversity = (results[key] for key in ("model", "data", "training", "diversity"))
    start = "fine-tuned from published weights" if model["pretrained"] else "trained from random weights"
    sentences = [
        f"`{model['name']}` ({model['parameters']:,} parameters), {start} on {data['train']:,} examples of "
        f"{data['name']} with hf_diversity for {training['epochs']:.3g} epochs ({training['steps']:,} steps), seed "
        f"{results['seeds']['seed']}."
    ]
    if diversity["active"]:
        config = diversity["config"]
        sentences.append(
            f"The loss was the task's plus {config['diversity_weight']:g} times the within-layer redundancy "
            f"`{config['measure']}` (reduction {config['reduction']}, gamma {config['gamma']}) and "
            f"{config['activation_weight']:g} times the mean squared norm of the activations, after Laakom et al. "
            "(WLD-Reg, AAAI-23); no reproduction of the paper's tables is claimed."
        )
    else:
        sentences.append("Both weights of the diversity regulariser were 0: this is a baseline.")
    if data.get("noisy_labels"):
        sentences.append(f"{data['noisy_labels']:,} training labels were replaced by random ones.")
    sentences.append(
        f"{data['validation']:,} validation examples, none of them from the test set, served for every choice; "
        f"the {data['test']:,} test examples were evaluated once, at the end."
    )
    return " ".join(sentences)


def _metrics_table(results: dict[str, Any]) -> list[str]:
    metrics, gaps = results["metrics"], results["gaps"]
    rows = ["| metric | train | validation | test | gap to validation | gap to test |", "|---|---|---|---|---|---|"]
    for name in metrics["train"]:
        values = [metrics[split][name] for split in ("train", "validation", "test")]
        values += [gaps[split][name] for split in ("validation", "test")]
        rows.append(f"| {name} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    return rows + ["", "A positive gap means worse than on the training examples (evaluated without augmentation)."]


def _similarity_table(results: dict[str, Any]) -> list[str]:
    rows = ["| layer | when | mean similarity of two units | gamma | mean squared norm |", "|---|---|---|---|---|"]
    for when, layers in results["similarity"].items():
        for layer, measured in layers.items():
            numbers = [measured[key] for key in ("mean_similarity", "gamma", "activation_norm")]
            rows.append(f"| {layer} | {when} training | " + " | ".join(f"{number:.4g}" for number in numbers) + " |")
    return rows + ["", "On the validation examples."]


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
