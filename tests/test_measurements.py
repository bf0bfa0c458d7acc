"""The measurements of `evaluate`: loaded by path, offline, against plain float64 loops."""

import importlib.util
import math
import re
import socket
import tomllib
from pathlib import Path

import datasets
import evaluate
import numpy as np
import oracles
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_diversity import bandwidth, distributed, metrics

ROOT = Path(__file__).parent.parent
FOLDERS = [ROOT / "hf_diversity" / "metrics" / name for name in ("within_layer_diversity", "generalization_gap")]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a measurement opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def from_folder(name, config_name=None):
    return evaluate.load(str(ROOT / "hf_diversity" / "metrics" / name), config_name)


def rows(samples=12, units=5, seed=0):
    return np.random.default_rng(seed).normal(size=(samples, units))


# ---- within_layer_diversity


@pytest.mark.parametrize("load", [metrics.load, from_folder])
def test_values_are_those_of_plain_loops(load):
    values, gamma, units = rows(), 0.7, 5
    s = oracles.similarity(values, gamma)
    off = [s[n, m] for n in range(units) for m in range(units) if n != m]
    log_det = oracles.log_det(s, 1e-3)
    measurement = load("within_layer_diversity")
    for options, expected in (
        ({}, np.mean(off)),
        ({"reduction": "sum"}, np.sum(off)),
        ({"measure": "logdet", "jitter": 1e-3}, -log_det),
        ({"measure": "det", "jitter": 1e-3}, -math.exp(log_det)),
    ):
        found = measurement.compute(features=values, gamma=gamma, **options)
        assert found["diversity"] == pytest.approx(expected, rel=1e-10), options
        assert found["mean_similarity"] == pytest.approx(np.mean(off), rel=1e-10)
    assert (found["gamma"], found["num_samples"], found["num_units"]) == (gamma, 12, 5)
    assert found["activation_norm"] == pytest.approx(oracles.norm(values), rel=1e-12)
    correlation = np.abs(np.corrcoef(values.T))
    assert found["mean_absolute_correlation"] == pytest.approx((correlation.sum() - 5) / 20, rel=1e-10)
    assert {type(value) for value in found.values()} == {int, float}


@pytest.mark.parametrize(
    "given_as", [lambda v: v, lambda v: v.tolist(), torch.from_numpy, lambda v: torch.from_numpy(v).requires_grad_()]
)
def test_arrays_tensors_and_batches_are_the_same(given_as):
    values, measurement = rows(), metrics.load("within_layer_diversity")
    # Rounding may depend on where a tensor lies in memory
    expected = pytest.approx(measurement.compute(features=values.tolist(), gamma=0.7), rel=1e-12)
    assert measurement.compute(features=given_as(values), gamma=0.7) == expected
    measurement.add_batch(features=given_as(values)[:5])
    measurement.add(features=given_as(values)[5])
    assert measurement.compute(features=given_as(values)[6:], gamma=0.7) == expected
    measurement.add_batch(features=given_as(values))
    assert measurement.compute(gamma=0.7) == expected  # and the rows before are forgotten


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 6), st.integers(0, 99), st.floats(0.01, 100))
def test_median_gamma_does_not_see_the_scale(samples, units, seed, scale):
    measurement = metrics.load("within_layer_diversity")
    one = measurement.compute(features=rows(samples, units, seed))
    other = measurement.compute(features=scale * rows(samples, units, seed), gamma="median")
    # Distances are counted in bins, so that the scale moves gamma a little
    assert other["gamma"] * scale**2 == pytest.approx(one["gamma"], rel=0.1)
    assert other["diversity"] == pytest.approx(one["diversity"], abs=0.03)


def test_equal_units_and_distances_known_by_heart():
    measurement = metrics.load("within_layer_diversity")
    equal = measurement.compute(features=[[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    assert (equal["diversity"], equal["gamma"], equal["effective_rank"]) == (1.0, 1.0, 1.0)
    apart = measurement.compute(features=[[0.0, 4.0], [1.0, 5.0], [7.0, 3.0]])
    assert apart["gamma"] == pytest.approx(1 / 32, rel=0.04)
    assert apart["diversity"] == pytest.approx(math.exp(-1 / 2), rel=0.03)


@pytest.mark.parametrize(
    ("features", "options", "error", "message"),
    [
        ([[1, 2], [3]], {}, ValueError, "row 1 of features has 1 numbers and row 0 has 2"),
        ([[1, None], [3, 4]], {}, ValueError, "row 0 of features has no number for unit 1"),
        ([[1, math.nan], [3, 4]], {}, ValueError, "1 NaN or infinite"),
        ([[1], [3]], {}, ValueError, "1 unit"),
        ([[1, 2]], {"gamma": 1.0}, ValueError, "batch of 1"),
        ([[1, 2], [3, 4]], {"gamma": -1}, ValueError, "gamma is -1"),
        ([[1, 2], [3, 4]], {"gamma": "mean"}, ValueError, "gamma is 'mean'"),
        ([[1, 2], [3, 4]], {"measure": "logdit"}, ValueError, "measure is 'logdit'"),
        ([[1, 2], [3, 4]], {"measure": "none"}, ValueError, 'type measure="direct"'),
        ([[1, 2], [3, 4]], {"reduction": "max"}, ValueError, "reduction is 'max'"),
        ([["a", "b"]], {}, ValueError, "expected format"),
        ([1, 2], {}, ValueError, "expected format"),
        ([], {}, ValueError, "features has no row"),
        (None, {}, ValueError, r"nothing to measure: type compute\(features=\[...\]\)"),
    ],
)
def test_bad_features_are_errors(features, options, error, message):
    with pytest.raises(error, match=message):
        metrics.load("within_layer_diversity").compute(features=features, **options)


def test_one_process_of_several_may_measure_alone(monkeypatch):
    def refuse(tensor):
        raise AssertionError("a collective in a measurement")

    for module in (bandwidth, distributed):
        monkeypatch.setattr(module, "sum_over_processes", refuse)
    assert 0 < metrics.load("within_layer_diversity").compute(features=rows())["diversity"] < 1


# ---- generalization_gap


@pytest.mark.parametrize("load", [metrics.load, from_folder])
def test_gap_of_values(load):
    gap = load("generalization_gap")
    assert gap.compute(train=0.25, held_out=1.0, metric="loss") == {
        "train_loss": 0.25, "held_out_loss": 1.0, "gap_loss": 0.75, "num_runs": 1,
    }  # fmt: skip
    assert gap.compute(train=[1.0], held_out=[0.75], metric="accuracy")["gap_accuracy"] == 0.25
    train, held_out = [1.0, 0.9, 0.8], [0.7, 0.8, 0.3]
    gap.add_batch(train=train[:2], held_out=np.array(held_out[:2]))
    gap.add(train=train[2], held_out=held_out[2])
    found = gap.compute(metric="f1")
    assert found["gap_f1"] == pytest.approx(np.mean([0.3, 0.1, 0.5]), rel=1e-12)
    assert found["gap_f1_std"] == pytest.approx(np.std([0.3, 0.1, 0.5], ddof=1), rel=1e-12)
    assert found["num_runs"] == 3
    assert (found["train_f1"], found["held_out_f1"]) == pytest.approx((0.9, 0.6), rel=1e-12)


def test_what_the_user_says_is_better_holds_against_the_name():
    gap = metrics.load("generalization_gap")
    for name in ("loss", "accuracy"):
        assert gap.compute(train=1.0, held_out=3.0, metric=name, lower_is_better=True)[f"gap_{name}"] == 2
        assert gap.compute(train=1.0, held_out=3.0, metric=name, lower_is_better=False)[f"gap_{name}"] == -2


@pytest.mark.parametrize("load", [metrics.load, from_folder])
def test_gap_of_predictions(load):
    gap = load("generalization_gap", "predictions")
    gap.add_batch(predictions=[0, 1, 1], references=[0, 1, 1], splits=["train"] * 3)
    found = gap.compute(
        predictions=[0, 1, 2, 0], references=[0, 1, 1, 1], splits=["held_out", "train"] + ["held_out"] * 2
    )
    assert found == {
        "train_accuracy": 1.0,
        "held_out_accuracy": pytest.approx(1 / 3),
        "gap_accuracy": pytest.approx(2 / 3),
    }


class Errors(evaluate.Metric):
    """Mean squared error, and a list that is no single number."""

    def _info(self):
        value = datasets.Value("float64")
        features = datasets.Features({"predictions": value, "references": value})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        squares = [(a - b) ** 2 for a, b in zip(predictions, references, strict=True)]
        return {"mse": np.float64(np.mean(squares)), "squares": squares}


def test_gap_of_another_metric():
    gap = metrics.load("generalization_gap", "predictions")
    columns = {"predictions": [0.5, 1.0, 2.5], "references": [0, 1, 1], "splits": ["train", "train", "held_out"]}
    found = gap.compute(**columns, metric=Errors(keep_in_memory=True))
    assert found == {"train_mse": 0.125, "held_out_mse": 2.25, "gap_mse": 2.125}


@pytest.mark.parametrize(
    ("config_name", "columns", "options", "error", "message"),
    [
        ("values", {"train": 1.0}, {"metric": "loss"}, ValueError, "held_out is missing, beside train"),
        ("values", {"train": [1.0], "held_out": [1.0, 2.0]}, {"metric": "loss"}, ValueError, "Mismatch"),
        ("values", {"train": 1.0, "held_out": 1.0}, {}, ValueError, "metric is None: the sign"),
        ("values", {"train": [None], "held_out": [1.0]}, {"metric": "loss"}, ValueError, "row 0 of train is None"),
        ("values", {"train": [], "held_out": []}, {"metric": "loss"}, ValueError, "train has no row"),
        ("values", {}, {"metric": "loss"}, ValueError, "nothing to measure"),
        ("values", {"train": 1.0, "held_out": 1.0}, {"metric": "a", "lower_is_better": "yes"}, TypeError, "'yes'"),
        ("values", {"predictions": [1], "references": [1]}, {}, ValueError, 'config_name="predictions"'),
        ("predictions", {"train": [1], "held_out": [1]}, {}, ValueError, 'config_name="values"'),
        ("predictions", {"predictions": [1], "references": [1], "splits": ["test"]}, {}, ValueError, "has 'test'"),
        ("predictions", {"predictions": [1], "references": [1], "splits": ["train"]}, {}, ValueError, "'held_out'"),
        (
            "predictions",
            {"predictions": [1, 0.7], "references": [1, 1], "splits": ["train", "held_out"]},
            {}, ValueError, "predictions has 0.7",
        ),
        (
            "predictions",
            {"predictions": [1, 1], "references": [1, 1], "splits": ["train", "held_out"]},
            {"metric": "f1"}, TypeError, "metric is 'f1'",
        ),
    ],
)  # fmt: skip
def test_bad_gaps_are_errors(config_name, columns, options, error, message):
    with pytest.raises(error, match=message):
        metrics.load("generalization_gap", config_name).compute(**columns, **options)


def test_unknown_configuration_is_an_error():
    with pytest.raises(ValueError, match="config_name is 'pairs'"):
        metrics.load("generalization_gap", "pairs")


# ---- ready to be pushed as Spaces


def app(folder):
    spec = importlib.util.spec_from_file_location(f"app_of_{folder.name}", folder / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_front_matter_is_what_a_space_needs(folder):
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(front)
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert fields["sdk"] == "gradio" and re.fullmatch(r"\d+\.\d+\.\d+", fields["sdk_version"])
    assert (folder / fields["app_file"]).is_file() and (folder / "requirements.txt").is_file()
    assert {fields["colorFrom"], fields["colorTo"]} <= colours
    assert len(fields["short_description"]) <= 60
    assert {"evaluate", "measurement"} <= set(fields["tags"])
    assert body.strip().startswith(f"# {fields['title']}")


def test_pages_measure_what_is_typed():
    diversity, gap = map(app, FOLDERS)
    found = diversity.measure("0, 4\n1 5\n\n7,3", "0.03125", "direct", "sum")
    assert found["diversity"] == pytest.approx(2 * math.exp(-1 / 2), rel=1e-12)
    assert diversity.measure("[[0, 4], [1, 5], [7, 3]]", " 0.03125 ", "direct", "sum") == pytest.approx(
        found, rel=1e-12
    )
    assert diversity.measure("1 1\n1 1", "median", "direct", "mean")["effective_rank"] is None  # JSON has no NaN
    assert gap.measure("1.0, 0.5", "0.5 0.25", "f1", "told by the name")["gap_f1"] == 0.375
    assert gap.measure("1.0", "0.5", "f1", "lower is better")["gap_f1"] == -0.5
    with pytest.raises(ValueError, match="row 1"):
        diversity.measure("1 2\n3", "median", "direct", "mean")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_pages_are_built(folder):
    pytest.importorskip("gradio")
    page = app(folder).build()
    assert len(page.input_components) == 4 and len(page.output_components) == 1


def test_the_wheel_takes_every_file_of_the_folders():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["hf_diversity"]
    packed = {path for pattern in data for path in (ROOT / "hf_diversity").glob(pattern)}
    for folder in FOLDERS:
        files = {path for path in folder.iterdir() if path.is_file()}
        assert folder / "__init__.py" in files
        assert {path for path in files if path.suffix != ".py"} <= packed
