"""Metrics that work offline."""

import socket

import evaluate
import pytest

from hf_diversity import metrics


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("load", [metrics.load, lambda name: evaluate.load(metrics.path(name))])
def test_accuracy(load):
    metric = load("accuracy")
    assert metric.compute(predictions=[0, 1, 2, 2], references=[0, 1, 1, 2]) == {"accuracy": 0.75}
    # A second use starts afresh, and batches may be added one by one.
    metric.add_batch(predictions=[0, 0], references=[0, 1])
    metric.add_batch(predictions=[5], references=[5])
    assert metric.compute()["accuracy"] == pytest.approx(2 / 3, abs=1e-15)


def test_accuracy_is_a_plain_float():
    assert type(metrics.load("accuracy").compute(predictions=[1], references=[1])["accuracy"]) is float


def test_unknown_metric_names_the_nearest():
    with pytest.raises(ValueError, match="unknown metric 'acuracy': did you mean 'accuracy'"):
        metrics.load("acuracy")
