"""Train twins with and without within-layer diversity, and show what came out.

    python recipes/demo.py --output_dir outputs/demo [--seeds 0 1 2] [--field value ...]

The twins of a seed start from the same weights and see the same images in the same order; they differ in the
regulariser alone. Every field of recipes/image_classification.py can be set; recipes/configs/demo.yaml is the default.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.arguments import RunArguments, parse_arguments
from common.comparison import compare, gap, mean_similarity, metric, over_layers, paired
from common.results import write_results
from common.terminal import quiet
from image_classification import TYPES, run
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainerCallback

from hf_diversity import DiversityConfig, plots
from hf_diversity.plots.saving import save_figures

CONFIG = Path(__file__).parent / "configs" / "demo.yaml"
BASELINE = ["--diversity_weight", "0", "--activation_weight", "0"]
ROWS = {
    "train accuracy": metric("train", "accuracy"),
    "test accuracy": metric("test", "accuracy"),
    "accuracy gap (train - test)": gap("test", "accuracy"),
    "loss gap (test - train)": gap("test", "loss"),
    "mean similarity before training": lambda result: mean_similarity(result, "before"),
    "mean similarity after training": lambda result: mean_similarity(result, "after"),
    "mean squared norm after training": lambda result: over_layers(result, "after", "activation_norm"),
    "seconds of training": lambda result: result["training"]["seconds"],
}


class ProgressLine(TrainerCallback):
    """One progress bar for each run, with the last validation accuracy."""

    def __init__(self, title: str):
        """Take the words that stand before the bar."""
        self.title = title
        self.bar: Any = None

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar."""
        self.bar = tqdm(total=state.max_steps, desc=self.title, unit="step", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        """Move the bar."""
        self.bar.update(state.global_step - self.bar.n)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Show how well the model does."""
        if metrics and "eval_validation_accuracy" in metrics:
            self.bar.set_postfix_str(f"validation accuracy {metrics['eval_validation_accuracy']:.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        """Leave the bar as it is."""
        self.bar.close()


def findings(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Say in words what the table shows, whatever it shows."""
    reference, *others = results
    seeds = len(results[reference])
    said = []
    for method in others:
        for title in ("test accuracy", "accuracy gap (train - test)", "mean similarity after training"):
            read = ROWS[title]
            differences = paired([read(r) for r in results[method]], [read(r) for r in results[reference]])
            mean = statistics.fmean(differences)
            up, down = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
            if max(up, down) == seeds and seeds > 1:
                chance = 2.0 ** (1 - seeds)  # a sign test: each seed is a coin
                verdict = f"in the same direction with all {seeds} seeds (by chance alone: {chance:.0%} of the time)"
            else:
                verdict = f"higher with {up}, lower with {down} of {seeds} seed(s): not to be told from chance"
            said.append(f"{method}: {title} {mean:+.4f} against {reference}, {verdict}.")
    accuracy = statistics.fmean(ROWS["test accuracy"](result) for result in results[reference])
    images = results[reference][0]["data"]["test"]
    error = math.sqrt(accuracy * (1 - accuracy) / images)
    said.append(
        f"One test accuracy over {images:,} images has a standard error of {error:.3f}, and {seeds} seed(s) are few: "
        "this shows how the method is used, not whether it works."
    )
    return said


def check_reload(folder: Path) -> tuple[int, int]:
    """Load a finished run with `from_pretrained` and predict the test images again.

    Returns:
        How many predictions are those made after training, of how many.
    """
    from hf_diversity.data import load_embedded

    saved = np.load(folder / "predictions.npz")["predictions"]
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    predicted: list[int] = []
    images = load_embedded()["test"]["image"][:]
    with torch.no_grad():
        for start in range(0, len(images), 200):
            inputs = processor(images[start : start + 200], return_tensors="pt")
            predicted += model(**inputs).logits.argmax(-1).tolist()
    return int(np.sum(np.array(predicted) == saved)), len(saved)


def write_figures(folder: Path, results: dict[str, list[dict[str, Any]]], folders: dict[str, Path]) -> list[Path]:
    """Draw the gap curves of all seeds and the similarity matrices of the first one."""
    import matplotlib

    matplotlib.use("Agg")
    stored = {method: np.load(path / "similarity.npz") for method, path in folders.items()}
    # The twins start from the same weights, so there is one matrix before training.
    matrices = {"before training": next(iter(stored.values()))["before training"]}
    matrices |= {f"after training, {method}": matrix["after training"] for method, matrix in stored.items()}
    seed = next(iter(results.values()))[0]["seeds"]["seed"]
    figures = {
        "similarity.png": plots.similarity_matrices(matrices, title=f"validation images, seed {seed}"),
        "gap.png": plots.gap_curves({m: [r["history"] for r in found] for m, found in results.items()}),
    }
    return [folder / name for name in save_figures(figures, folder, dpi=130)]


def main(words: list[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Train all twins, print the table and the findings, write figures, and reload a checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/demo"), help="folder for everything written")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one pair of twins for each seed")
    parser.add_argument("--config", type=Path, default=CONFIG, help="YAML file of the diversity twin")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads of torch: these operations are so small that a second one gains a quarter on an idle machine, "
        "and costs several times as much on a busy one",
    )
    options, fields = parser.parse_known_args(words)
    quiet()
    torch.set_num_threads(options.threads)

    shared = ["--config", str(options.config), *fields, "--overwrite_output_dir", "true"]
    twins = {"baseline": [*shared, *BASELINE], "diversity": shared}
    diversity = parse_arguments(TYPES, [*shared, "--output_dir", str(options.output_dir)])[
        TYPES.index(DiversityConfig)
    ]
    if diversity.activation_weight > 0:
        # Without it, what the norm term does could not be told from what diversity does
        twins["norm only"] = [*shared, "--measure", "none", "--diversity_weight", "0"]
    # Parse all of them before the first is trained: a mistyped word must not cost a minute.
    plan = {
        (seed, twin): parse_arguments(
            TYPES,
            [
                *line,
                *("--seed", str(seed), "--output_dir", str(options.output_dir / f"{twin.replace(' ', '_')}-{seed}")),
                *("--figures", str(seed == options.seeds[0]).lower()),  # one card with figures of each twin is enough
            ],
        )
        for seed in options.seeds
        for twin, line in twins.items()
    }
    results: dict[str, list[dict[str, Any]]] = {}
    folders: dict[str, Path] = {}
    for number, ((seed, twin), arguments) in enumerate(plan.items(), start=1):
        title = f"[{number}/{len(plan)}] {twin}, seed {seed}"
        if twin != "baseline":
            arguments[TYPES.index(RunArguments)].twin = str(options.output_dir / f"baseline-{seed}")
        result = run(*arguments, callbacks=[ProgressLine(title)])
        results.setdefault(result["name"], []).append(result)
        folders.setdefault(result["name"], Path(arguments[-1].output_dir))

    data, model = next(iter(results.values()))[0]["data"], next(iter(results.values()))[0]["model"]
    table = compare(results, ROWS)
    print(
        f"\n{model['name']} ({model['parameters']:,} parameters) on {data['name']}: {data['train']:,} training, "
        f"{data['validation']:,} validation, {data['test']:,} test images; {len(options.seeds)} seed(s), mean ± "
        f"standard deviation\n\n{table}\n"
    )
    for line in findings(results):
        print("-", line)
    regularised = list(folders.values())[1]
    same, total = check_reload(regularised)
    print(f"\nreloaded {regularised} with from_pretrained: {same} of {total} test predictions are unchanged")
    if same != total:
        raise RuntimeError(f"{regularised} does not reload: {total - same} of {total} predictions changed")
    options.output_dir.joinpath("table.md").write_text(table + "\n", encoding="utf-8")
    write_results(options.output_dir, {"runs": results})
    for path in write_figures(options.output_dir, results, folders):
        print(f"figure: {path}")
    return results


if __name__ == "__main__":
    main()
