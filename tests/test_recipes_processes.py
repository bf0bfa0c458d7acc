"""Two processes train as one does: same seed and global batch, same loss curve."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_text_folders import bert_folder, text_folder

ROOT = Path(__file__).parent.parent
SHARED = ["--max_steps", "6", "--logging_steps", "1", "--learning_rate", "1e-3", "--figures", "false"]
SHARED += ["--disable_tqdm", "true", "--save_strategy", "no"]
# Layer norm, not batch norm: statistics over each process's half of a batch are another model than over the whole of
# it, with or without this library. No dropout and no augmentation: processes draw other random numbers.
IMAGES = ["image_classification", "--model", "test_vit", "--model_args", '{"in_chans": 1}', "--image_size", "32"]
IMAGES += ["--dataset", "embedded", "--max_train_samples", "96", "--max_validation_samples", "32"]
IMAGES += ["--max_test_samples", "30", *SHARED]
TEXTS = ["text_classification", "--model", "MODEL", "--dataset", "TEXTS", *SHARED, "--max_train_samples", "80"]
TEXTS += ["--max_validation_samples", "8"]
BLOCKS = ["language_modeling", "--model", "gpt2", "--tokenizer", "MODEL", "--dataset", "TEXTS", *SHARED]
BLOCKS += ["--block_size", "6", "--max_validation_samples", "8", "--model_args"]
BLOCKS += ['{"n_embd": 16, "n_head": 2, "n_layer": 1, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}']
METHODS = {
    "direct": [*IMAGES, "--measure", "direct", "--gamma", "median", "--diversity_weight", "1"],
    # The gradient of -log det is an inverse with a condition number of up to 1/jitter, so sums in another order change
    # it by about 1e-5 of its norm at the default jitter of 1e-4. AdamW, whose first steps are signs of the gradient,
    # makes that visible in the loss (5e-5 at step 2), and so do three steps of plain gradient descent (3e-5).
    "logdet": [*IMAGES, "--measure", "logdet", "--gamma", "median", "--diversity_weight", "0.01"]
    + ["--jitter", "0.01", "--optim", "sgd", "--learning_rate", "0.01"],
    "texts": [*TEXTS, "--gamma", "2", "--diversity_weight", "1", "--learning_rate", "0.01"],
    "blocks": [*BLOCKS, "--gamma", "2", "--diversity_weight", "1", "--learning_rate", "0.01"],
}


def launch(config, batch, folder, places):
    """Train with every method under an accelerate configuration; return results and what was printed."""
    words = []
    for method, choice in METHODS.items():
        words += ["::", *(places.get(word, word) for word in choice), "--per_device_train_batch_size", str(batch)]
        words += ["--output_dir", str(folder / method)]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"recipes/accelerate/{config}.yaml"]
        + ["tests/launch_recipes.py", *words[1:]],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = {method: json.loads((folder / method / "results.json").read_text()) for method in METHODS}
    return results, done.stdout


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    places = {"MODEL": str(bert_folder(root / "bert")), "TEXTS": str(text_folder(root / "texts"))}
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    return launch("cpu", 16, one, places), launch("cpu_2", 8, two, places)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_give_the_loss_curve_of_one(both, method):
    (one, _), (two, _) = both
    one, two = one[method], two[method]
    assert (one["hardware"]["processes"], two["hardware"]["processes"]) == (1, 2)
    steps = [[record for record in found["history"] if "task_loss" in record] for found in (one, two)]
    assert len(steps[0]) == len(steps[1]) == 6
    for first, second in zip(*steps, strict=True):
        for name in ("loss", "task_loss", "diversity", "gamma"):
            assert second[name] == pytest.approx(first[name], rel=1e-5, abs=0), (name, first["step"])
        # The norm of an ill-conditioned gradient (see above); a wrong factor would be off by half.
        assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=3e-4), first["step"]
    # Guards against comparing nothing: the loss moves, and the regulariser is part of it.
    losses = [record["loss"] for record in steps[0]]
    assert max(losses) - min(losses) > 0.1 and abs(losses[0] - steps[0][0]["task_loss"]) > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_measure_what_one_does(both, method):
    (one, _), (two, _) = both
    for when in ("before", "after"):
        (first,), (second,) = (found[method]["similarity"][when].values() for found in (one, two))
        assert second["samples"] == first["samples"] >= 8
        assert second["mean_similarity"] == pytest.approx(first["mean_similarity"], abs=1e-4)
    for split in ("train", "validation", "test"):
        first, second = one[method]["metrics"][split], two[method]["metrics"][split]
        for name in first.keys() - {"loss"}:
            assert second[name] == pytest.approx(first[name], rel=1e-4), (split, name)
    # 96 and 80 examples divide evenly; else Trainer counts some of the last batch twice in the loss.
    # Not so in the perplexity.
    if method != "blocks":
        first, second = one[method]["metrics"]["train"], two[method]["metrics"]["train"]
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)


def test_only_one_process_prints(both):
    (_, alone), (_, together) = both
    assert together.count("gap to test") == alone.count("gap to test") == len(METHODS)


def test_launch_files_name_their_processes():
    found = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "recipes" / "accelerate").glob("*.yaml")}
    assert found["cpu"]["num_processes"] == 1 and found["cpu_2"]["num_processes"] == 2
    assert found["cpu"]["use_cpu"] and found["cpu_2"]["use_cpu"] and "use_cpu" not in found["multi_gpu"]
