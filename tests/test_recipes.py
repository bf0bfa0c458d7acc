"""The image recipe end to end: what it leaves behind, reloads, resumes, and refuses."""

import getpass
import json
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from common.arguments import parse_arguments
from image_classification import TYPES, main, run
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_diversity import DiversityConfig
from hf_diversity.data import load_embedded

RECIPES = Path(__file__).parent.parent / "recipes"
CONFIGS = sorted((RECIPES / "configs").glob("*.yaml"))  # each other recipe has a folder, and tests, of its own
SMALL = ["--max_train_samples", "64", "--max_validation_samples", "40", "--max_test_samples", "50"]
SMALL += ["--per_device_train_batch_size", "16", "--per_device_eval_batch_size", "20", "--logging_steps", "1"]
SMALL += ["--disable_tqdm", "true", "--use_cpu", "true", "--warmup_steps", "0"]


def train(folder, *words, config="demo.yaml"):
    """Run the recipe in this process."""
    line = ["--config", str(RECIPES / "configs" / config), *SMALL, "--output_dir", str(folder), *words]
    return run(*parse_arguments(TYPES, line))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, made as a user makes it."""
    folder = tmp_path_factory.mktemp("recipe") / "run"
    with pytest.MonkeyPatch.context() as patch:
        line = ["--config", str(RECIPES / "configs" / "demo.yaml"), *SMALL, "--num_train_epochs", "2"]
        line += [
            "--diversity_weight",
            "0.5",
            "--activation_weight",
            "0",
            "--label_noise",
            "0.25",
            "--output_dir",
            str(folder),
        ]
        patch.setattr("sys.argv", [str(RECIPES / "image_classification.py"), *line])
        main()
    return folder


@pytest.fixture(scope="module")
def results(finished):
    return json.loads((finished / "results.json").read_text())


def test_results_say_what_came_out(results):
    metrics, gaps = results["metrics"], results["gaps"]
    assert set(metrics) == {"train", "validation", "test"}
    for values in metrics.values():
        assert set(values) == {"loss", "accuracy"} and all(type(value) is float for value in values.values())
    for other in ("validation", "test"):
        assert gaps[other]["loss"] == metrics[other]["loss"] - metrics["train"]["loss"]
        assert gaps[other]["accuracy"] == metrics["train"]["accuracy"] - metrics[other]["accuracy"]
    (before,), (after,) = (results["similarity"][when].values() for when in ("before", "after"))
    assert 0 < after["mean_similarity"] < 1 and after["units"] == 96 and before["samples"] == 40
    assert results["training"]["steps"] == 8 and results["training"]["epochs"] == 2.0
    assert results["data"]["noisy_labels"] == 16 and results["data"]["train"] == 64
    assert results["seeds"] == {"seed": 42, "data_seed": None, "split_seed": 0, "label_noise_seed": 0}
    assert results["name"] == "direct 0.5" and results["diversity"]["config"]["diversity_weight"] == 0.5
    assert torch.__version__.startswith(results["versions"]["torch"]) and results["hardware"]["processes"] == 1


def test_history_has_the_parts_of_the_loss_and_both_sides_of_the_gap(results):
    steps = [record for record in results["history"] if "task_loss" in record]
    assert len(steps) == 8
    for record in steps:
        assert record["loss"] == pytest.approx(record["task_loss"] + 0.5 * record["diversity"], rel=1e-5)
    for name in ("eval_validation_accuracy", "eval_train_accuracy", "eval_validation_loss", "eval_train_loss"):
        assert sum(name in record for record in results["history"]) == 2
    # The test set is touched at the end alone.
    assert not any(key.startswith("test") or "eval_test" in key for record in results["history"] for key in record)


def test_the_reloaded_model_predicts_what_the_trained_one_did(finished, results):
    stored = np.load(finished / "predictions.npz")
    processor = AutoImageProcessor.from_pretrained(finished)
    model = AutoModelForImageClassification.from_pretrained(finished).eval()
    # The test subset, found by its labels' order: drawn again as the recipe draws it.
    from hf_diversity.data import stratified_subset

    test = load_embedded()["test"]
    chosen = test.select(stratified_subset(test["label"], 50, seed=0))
    assert stored["labels"].tolist() == chosen["label"][:]
    with torch.no_grad():
        predicted = model(**processor(chosen["image"][:], return_tensors="pt")).logits.argmax(-1)
    assert predicted.tolist() == stored["predictions"].tolist() and len(set(predicted.tolist())) > 1
    assert np.mean(stored["predictions"] == stored["labels"]) == results["metrics"]["test"]["accuracy"]


def test_the_readme_is_valid_complete_and_works(finished, results, tmp_path, monkeypatch, capsys):
    text = (finished / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["pipeline_tag"] == "image-classification" and metadata["library_name"] == "timm"
    assert (
        f"{results['metrics']['test']['accuracy']:.4f}" in body
        and "0.5 times" in body
        and "16 training labels" in body
    )
    for figure in results["figures"]:
        assert f"]({figure})" in body and Image.open(finished / figure).size[0] > 300
    assert set(results["figures"]) == {"training.png", "gap.png", "similarity.png"}
    # The code in it is run as it stands, in the folder.
    code = body.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(finished)
    load_embedded()["test"][0]["image"].save("picture.png")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() in load_embedded()["train"].features["label"].names
    (finished / "picture.png").unlink()


def test_nothing_published_names_the_machine(finished):
    for name in ("README.md", "results.json", "diversity_config.json", "config.json"):
        text = (finished / name).read_text()
        assert str(finished.parent) not in text and str(Path.home()) + "/" not in text, name
        assert platform.node() not in text or len(platform.node()) < 4, name
        user = getpass.getuser()
        assert f"/{user}" not in text, name
    assert DiversityConfig.from_json_file(finished / "diversity_config.json").diversity_weight == 0.5


def test_an_earlier_run_is_not_overwritten_unasked(finished):
    before = (finished / "results.json").read_bytes()
    with pytest.raises(ValueError, match="holds an earlier run: type another --output_dir, or --overwrite_output_dir"):
        train(finished)
    with pytest.raises(ValueError, match="did you mean 'label'"):
        train(finished, "--overwrite_output_dir", "--label_column", "lable")
    assert (finished / "results.json").read_bytes() == before, "a mistake must not cost the earlier run"


def test_overwriting_and_the_baseline(tmp_path):
    (tmp_path / "checkpoint-99").mkdir()
    words = [
        "--max_steps",
        "2",
        "--diversity_weight",
        "0",
        "--activation_weight",
        "0",
        "--figures",
        "false",
        "--overwrite_output_dir",
    ]
    found = train(tmp_path, *words)
    assert not (tmp_path / "checkpoint-99").exists() and found["name"] == "baseline"
    # The baseline is measured as its twin is.
    assert 0 < next(iter(found["similarity"]["after"].values()))["mean_similarity"] < 1
    assert DiversityConfig.from_json_file(tmp_path / "diversity_config.json").diversity_weight == 0
    assert "baseline" in (tmp_path / "README.md").read_text()


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path):
    words = ["--max_steps", "6", "--save_strategy", "steps", "--save_steps", "3", "--figures", "false"]
    words += ["--lr_scheduler_type", "linear", "--measure_similarity", "false"]
    whole = train(tmp_path / "whole", *words)
    (tmp_path / "broken").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "broken" / "checkpoint-3")
    resumed = train(tmp_path / "broken", *words, "--resume_from_checkpoint", "true")
    assert resumed["training"]["resumed"] and resumed["training"]["steps"] == 6
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    start = load_file(tmp_path / "whole" / "checkpoint-3" / "model.safetensors")
    assert one.keys() == two.keys() and len(one) > 50
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(start[name], one[name]) for name in one if "weight" in name)
    for split, values in whole["metrics"].items():
        assert resumed["metrics"][split] == pytest.approx(values, rel=1e-4), split


def test_there_must_be_something_to_resume_from(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        train(tmp_path, "--resume_from_checkpoint", "true")
    with pytest.raises(ValueError, match="no such folder"):
        train(tmp_path, "--resume_from_checkpoint", str(tmp_path / "checkpoint-7"))


def test_the_best_model_is_kept_when_asked(tmp_path):
    words = ["--num_train_epochs", "3", "--save_strategy", "epoch", "--load_best_model_at_end", "true"]
    # Asked for the largest loss, which is not the last: keeping the last model would not go unseen.
    words += ["--metric_for_best_model", "eval_validation_loss", "--greater_is_better", "true", "--figures", "false"]
    found = train(tmp_path, *words)
    losses = [record["eval_validation_loss"] for record in found["history"] if "eval_validation_loss" in record]
    assert max(losses) > losses[-1] + 1e-3, "the comparison would be empty"
    assert found["metrics"]["validation"]["loss"] == pytest.approx(max(losses), rel=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_trains_for_two_steps(config, tmp_path):
    words = ["--dataset", "embedded", "--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no"]
    values = yaml.safe_load(config.read_text())
    if "finetune" in config.stem:
        # In place of the published weights, which are on the Hub; the configuration asks for them.
        donor = timm.create_model("tf_efficientnet_lite0")
        save_file(donor.state_dict(), tmp_path / "weights.safetensors")
        words += ["--weights", str(tmp_path / "weights.safetensors"), "--learning_rate", "1e-9"]
    found = train(tmp_path, *words, "--figures", "false", config=config.name)
    if "finetune" in config.stem:
        trained = load_file(tmp_path / "model.safetensors")
        name = "conv_stem.weight"
        torch.testing.assert_close(trained[name], donor.state_dict()[name], rtol=0, atol=1e-6)
        assert found["model"]["pretrained"]
    losses = [record["loss"] for record in found["history"] if "loss" in record]
    assert len(losses) == 2 and all(np.isfinite(losses))
    assert (tmp_path / "model.safetensors").is_file()
    if "measure" in values:
        assert found["diversity"]["config"]["measure"] == values["measure"] and found["diversity"]["active"]


def test_triples_differ_in_the_regulariser_alone():
    for data in ("fashion_mnist", "cifar10"):
        parsed = {}
        for method in ("baseline", "direct", "logdet"):
            line = ["--config", str(RECIPES / "configs" / f"{data}_{method}.yaml"), "--use_cpu", "true"]
            model, images, _, diversity, training = parse_arguments(TYPES, line)
            settings = {
                k: v for k, v in training.to_dict().items() if k not in ("output_dir", "logging_dir", "run_name")
            }
            parsed[method] = (model, images, settings)
            assert diversity.is_active == (method != "baseline")
            assert training.output_dir == f"outputs/{data}_{method}"
        assert parsed["baseline"] == parsed["direct"] == parsed["logdet"]
