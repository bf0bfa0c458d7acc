"""Configuration files and command lines of the recipes."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from common.arguments import DataArguments, ModelArguments, RunArguments, parse_arguments
from common.images import ImageArguments
from common.results import command
from image_classification import TYPES
from transformers import TrainingArguments

from hf_diversity.cards.settings import changed_fields, plain, without_paths

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture
def config(tmp_path):
    def write(text, name="config.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return ["--config", str(path), "--output_dir", str(tmp_path / "out"), "--use_cpu", "true"]

    return write


def test_a_file_is_the_same_as_typing_its_lines(config):
    text = """
        model: resnet10t
        model_args: {in_chans: 1}
        learning_rate: 1e-3
        augmentation: [crop, flip]
        gamma: 2
        layers: [fc, "layer*"]
        bf16: false
        max_steps: -1
    """
    model, data, _, diversity, training = parse_arguments(TYPES, config(text))
    assert model.model == "resnet10t" and model.model_args == {"in_chans": 1}
    assert data.augmentation == ["crop", "flip"]
    assert diversity.gamma == 2.0 and diversity.layers == ["fc", "layer*"]
    # YAML reads 1e-3 as text: it must become a number all the same.
    assert training.learning_rate == 1e-3 and training.bf16 is False and training.max_steps == -1


def test_the_command_line_wins(config):
    words = [*config("gamma: 2\nseed: 1\n"), "--gamma", "median", "--seed", "5", "--model_args", '{"depth": 3}']
    model, _, _, diversity, training = parse_arguments(TYPES, words)
    assert diversity.gamma == "median" and training.seed == 5 and model.model_args == {"depth": 3}


def test_a_base_file_comes_first(config):
    config("seed: 7\nmodel: resnet10t\n", "base.yaml")
    model, *_, training = parse_arguments(TYPES, config("base: base.yaml\nmodel: resnet18\n"))
    assert training.seed == 7 and model.model == "resnet18"


def test_null_is_none(config):
    _, data, *_ = parse_arguments(TYPES, config("validation_fraction: 0.3\nmax_train_samples: null\n"))
    assert data.max_train_samples is None and data.validation_fraction == 0.3


@pytest.mark.parametrize("words", [["--dataset_config", "null"], ["--dataset_config=null"]])
def test_null_on_the_command_line_is_none_and_wins_over_the_file(config, words):
    typed = [*config("dataset_config: rte\n"), "--do_eval", *words, "--seed", "7"]
    _, data, *_, training = parse_arguments(TYPES, typed)
    assert data.dataset_config is None and training.seed == 7
    _, data, *_ = parse_arguments(TYPES, [*typed, "--dataset_config", "cola"])
    assert data.dataset_config == "cola"
    _, data, *_ = parse_arguments(TYPES, [*typed, "--max_train_samples", "5", "--max-train-samples", "null"])
    assert data.max_train_samples is None


@pytest.mark.parametrize("typed", ['{"in_chans": 1, "drop_rate": 0.1}', "{in_chans: 1, drop_rate: 0.1}"])
def test_model_args_in_json_or_yaml(typed):
    model, *_ = parse_arguments(TYPES, ["--model_args", typed, "--output_dir", "x"])
    assert model.model_args == {"in_chans": 1, "drop_rate": 0.1}


def test_a_mistake_in_an_argument_is_a_message_and_no_traceback(tmp_path):
    command = [sys.executable, str(RECIPES / "image_classification.py"), "--output_dir", str(tmp_path)]
    command += ["--dataset", "embedded", "--momentum", "3"]
    environment = {**os.environ, "PYTHONPATH": str(RECIPES.parent)}
    environment.pop("HF_DIVERSITY_DEBUG", None)
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("image_classification.py: error: momentum is 3.0: it must")
    again = subprocess.run(command, capture_output=True, text=True, env={**environment, "HF_DIVERSITY_DEBUG": "1"})
    assert again.returncode == 1 and "Traceback" in again.stderr


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("lambda_1: 3", [], "unknown key 'lambda_1'"),
        ("diversity_wieght: 3", [], "did you mean 'diversity_weight'"),
        ("", ["--layer", "fc"], "unknown argument '--layer': did you mean 'layers'"),
        ("", ["word"], "unexpected word 'word'"),
        ("learning_rate: fast", [], "invalid float value: 'fast'"),
        ("- a\n- b", [], "holds list"),
        ("a: [", [], "not YAML"),
        ("base: nowhere.yaml", [], "no such file"),
        ("measure: directt", [], "invalid choice: 'directt'"),
    ],
)
def test_mistakes_are_named(config, capsys, text, words, message):
    with pytest.raises(SystemExit):
        parse_arguments(TYPES, [*config(text), *words])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_noise": 40}, "label_noise is 40: it must be a fraction"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"max_train_samples": 0}, "max_train_samples is 0"),
        ({"augmentation": ["rotate"]}, "augmentation 'rotate' is unknown: choose from crop, flip"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_mean": [0.5]}, "image_mean and image_std go together"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ImageArguments(**changes)


def test_model_args_must_be_a_mapping():
    with pytest.raises(ValueError, match="must be a mapping"):
        ModelArguments(model_args="in_chans=1")
    with pytest.raises(ValueError, match="must be a mapping"):
        ModelArguments(model_args="[1]")


@pytest.mark.parametrize("kind", [ModelArguments, DataArguments, ImageArguments, RunArguments])
def test_every_argument_has_help(kind):
    for field in dataclasses.fields(kind):
        assert len(field.metadata.get("help", "")) > 15, field.name


def test_help_can_be_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(TYPES, ["--help"])
    assert stopped.value.code == 0 and "8 to 100 % of the area" in " ".join(capsys.readouterr().out.split())


def test_processes_that_would_train_apart_are_refused(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 1))
    # What is at hand when accelerate's launcher loses `use_cpu` on a machine with a GPU.
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)
    with pytest.raises(RuntimeError, match="2 processes were started, but 1 would train together.*--use_cpu true"):
        parse_arguments(TYPES, config(""))


def test_published_text_has_no_machine_paths(monkeypatch):
    assert without_paths("/home/someone/data/cifar10") == "cifar10"
    assert without_paths("~/data/x.parquet") == "x.parquet"
    assert without_paths("/home/someone") == "~", "the last part is a person's name"
    assert without_paths("recipes/configs/demo.yaml") == "recipes/configs/demo.yaml"
    assert without_paths("uoft-cs/cifar10 https://hf.co/a/b 1/2") == "uoft-cs/cifar10 https://hf.co/a/b 1/2"
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    typed = command(
        ["/srv/repo/recipes/image_classification.py", "--dataset=/mnt/d/cifar10", "--output_dir", "/o/run 1"]
    )
    assert typed == "python recipes/image_classification.py --dataset=cifar10 --output_dir 'run 1'"


def test_changed_fields_are_few_plain_and_hold_no_secret(tmp_path):
    arguments = TrainingArguments(str(tmp_path), learning_rate=1e-3, hub_token="hf_secret", use_cpu=True, seed=3)
    found = changed_fields(arguments)
    # Versions of transformers differ in what __post_init__ fills in.
    assert found.pop("fsdp_config", None) is None or not arguments.fsdp
    assert found == {"learning_rate": 1e-3, "seed": 3}
    assert plain({"a": float("nan"), "b": (1, True)}) == {"a": None, "b": [1, True]}
