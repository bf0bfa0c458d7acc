import dataclasses
import inspect
import json

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_diversity import DiversityConfig


def parse(*arguments):
    parser = HfArgumentParser((DiversityConfig, TrainingArguments))
    return parser.parse_args_into_dataclasses([*arguments, "--output_dir", "x"])[0]


def test_command_line_takes_every_field_beside_training_arguments():
    config = parse(
        "--measure", "logdet", "--diversity_weight", "0.5", "--activation_weight", "0.25", "--gamma", "2.5",
        "--layers", "a.*", "b", "--samples", "first", "--max_samples", "7", "--sync", "local",
        "--jitter", "0.001",
    )  # fmt: skip
    assert config == DiversityConfig(
        measure="logdet", diversity_weight=0.5, activation_weight=0.25, gamma=2.5,
        layers=["a.*", "b"], samples="first", max_samples=7, sync="local", jitter=0.001,
    )  # fmt: skip
    assert isinstance(config.gamma, float)
    assert parse("--reduction", "sum") == DiversityConfig(reduction="sum")


def test_command_line_defaults_are_the_class_defaults():
    assert parse() == DiversityConfig()
    assert parse("--gamma", "median").gamma == "median"


def test_every_field_has_help_that_argparse_can_print():
    HfArgumentParser((DiversityConfig,)).format_help()
    for field in dataclasses.fields(DiversityConfig):
        assert len(field.metadata["help"]) > 20, field.name


@pytest.mark.parametrize("gamma", ["median", 0.5])
def test_json_round_trip(tmp_path, gamma):
    config = DiversityConfig(gamma=gamma, layers=["x"], measure="det")
    path = tmp_path / "config.json"
    config.to_json_file(path)
    assert DiversityConfig.from_json_file(path) == config
    assert json.loads(path.read_text()) == config.to_dict()
    assert DiversityConfig.from_dict(config.to_dict()) == config


def test_unknown_key_names_the_nearest():
    with pytest.raises(ValueError, match="unknown key 'lamda'"):
        DiversityConfig.from_dict({"lamda": 1})
    with pytest.raises(ValueError, match="did you mean 'diversity_weight'"):
        DiversityConfig.from_dict({"diversity_wieght": 1})


def test_an_argument_that_is_no_field_is_told_with_the_field_to_type():
    with pytest.raises(TypeError, match="did you mean 'diversity_weight' or 'activation_weight'"):
        DiversityConfig(weight=1)
    with pytest.raises(TypeError, match="did you mean 'layers'"):
        DiversityConfig("direct", layer=["fc"])
    with pytest.raises(TypeError, match="known: measure, diversity_weight"):
        DiversityConfig(x_=1)
    assert list(inspect.signature(DiversityConfig).parameters) == [f.name for f in dataclasses.fields(DiversityConfig)]


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"measure": "cosine"}, ValueError, "measure is 'cosine': unknown; it must be one of 'direct'"),
        (
            {"reduction": "sum", "measure": "logdet"},
            ValueError,
            "measure is 'logdet', which has no such choice; leave reduction out",
        ),
        ({"reduction": "max"}, ValueError, "reduction is 'max'"),
        ({"samples": "last"}, ValueError, "samples is 'last'"),
        ({"sync": "none"}, ValueError, "sync is 'none'"),
        ({"diversity_weight": -1}, ValueError, "diversity_weight is -1.0"),
        ({"diversity_weight": float("nan")}, ValueError, "diversity_weight is nan"),
        ({"activation_weight": float("inf")}, ValueError, "activation_weight is inf"),
        ({"diversity_weight": "0.1"}, TypeError, "diversity_weight is '0.1'"),
        ({"diversity_weight": True}, TypeError, "diversity_weight is True"),
        ({"gamma": 0}, ValueError, "gamma is 0"),
        ({"gamma": -2.0}, ValueError, "gamma is -2.0"),
        ({"gamma": "wide"}, ValueError, "gamma is 'wide'"),
        ({"gamma": float("nan")}, ValueError, "gamma is nan"),
        ({"gamma": None}, TypeError, "gamma is None"),
        ({"jitter": -1e-4}, ValueError, "jitter is -0.0001"),
        ({"max_samples": 1}, ValueError, "max_samples is 1"),
        ({"max_samples": 2.5}, TypeError, "max_samples is 2.5"),
        ({"layers": "fc"}, TypeError, r"type layers=\['fc'\]"),
        ({"layers": []}, ValueError, "layers is empty"),
        ({"layers": [1]}, TypeError, "layers is"),
        ({"measure": "none"}, ValueError, "nothing would be regularised"),
    ],
)
def test_bad_values_are_refused_with_a_cure(kwargs, error, words):
    with pytest.raises(error, match=words):
        DiversityConfig(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "active"),
    [
        ({}, True),
        ({"diversity_weight": 0.0}, False),
        ({"diversity_weight": 0.0, "activation_weight": 1.0}, True),
        ({"measure": "none", "activation_weight": 1.0}, True),
        ({"measure": "none", "diversity_weight": 0.0}, False),
    ],
)
def test_is_active(kwargs, active):
    assert DiversityConfig(**kwargs).is_active is active


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"unit_axis": 0}, ValueError, "first axis is the batch; type unit_axis=1"),
        ({"unit_axis": 1.5}, TypeError, "unit_axis is 1.5"),
        ({"unit_axis": True}, TypeError, "unit_axis is True"),
        ({"drop_prefix_tokens": 1}, TypeError, "drop_prefix_tokens is 1"),
        ({"drop_prefix_tokens": True, "samples": "first"}, ValueError, "drop_prefix_tokens=False"),
    ],
)
def test_what_a_unit_and_a_sample_is(fields, error, said):
    with pytest.raises(error, match=said):
        DiversityConfig(**fields)
