import pytest
import torch
from test_regularizer import similarity_by_definition
from tiny import Mlp, Rows, Sentences, tiny_bert
from torch.utils.data import DataLoader

from hf_diversity import DiversityConfig
from hf_diversity.evaluation import DiversityMeter, measure_layers
from hf_diversity.measures import make_measure


@pytest.mark.parametrize("measure", ["direct", "det", "logdet"])
def test_streaming_is_the_value_over_the_whole_set(measure):
    config, rows = DiversityConfig(measure=measure, gamma=0.9), torch.randn(23, 5)
    meter = DiversityMeter(make_measure(config), lambda name: 0.9)
    for part in rows.split(4):
        meter.update({"a": part})
    measured = meter.compute()["a"]
    similarity = similarity_by_definition(rows, 0.9)
    exact = {
        "direct": (similarity.sum() - 5) / 20,
        "det": -torch.det(similarity + 1e-4 * torch.eye(5)),
        "logdet": -torch.logdet(similarity + 1e-4 * torch.eye(5)),
    }[measure]
    assert measured.diversity == pytest.approx(float(exact), rel=1e-5)
    assert measured.num_samples == 23


def test_measure_layers_of_a_model():
    model, data = Mlp(), Rows(21)
    model.train()
    measured = measure_layers(model, DataLoader(data, batch_size=4), DiversityConfig(), gamma=0.5)
    [layer] = measured.values()
    assert list(measured) == ["out"] and model.training
    hidden = model.act2(model.fc2(torch.tanh(model.fc1(data.x)))).detach()
    exact = similarity_by_definition(hidden, 0.5)
    torch.testing.assert_close(layer.similarity, exact, rtol=1e-5, atol=1e-6)
    assert layer.mean_similarity == pytest.approx(float((exact.sum() - 8) / 56), rel=1e-5)
    assert layer.diversity == pytest.approx(layer.mean_similarity)
    assert layer.gamma == 0.5 and layer.num_samples == 21
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_median_gamma_is_that_of_the_first_batch_and_padding_is_left_out():
    model, data = tiny_bert(), Sentences(9)
    config = DiversityConfig(layers=["bert.encoder.layer.1"])
    layer = measure_layers(model, DataLoader(data, batch_size=3), config)["bert.encoder.layer.1"]
    assert layer.num_samples == int(data.lengths.sum())
    assert layer.gamma > 0


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="no batch"):
        measure_layers(Mlp(), [], DiversityConfig())


def test_similarity_of_a_direct_meter_is_not_there():
    meter = DiversityMeter(make_measure(DiversityConfig(gamma=1.0)), lambda name: 1.0)
    meter.update({"a": torch.randn(4, 3)})
    with pytest.raises(AttributeError, match="measure_layers"):
        meter.compute()["a"].similarity  # noqa: B018


@pytest.mark.parametrize(
    ("rows", "gamma", "error", "words"),
    [
        (torch.randn(4, 1), 1.0, ValueError, "layer 'a' has 1 unit"),
        (torch.ones(4, 3), None, ValueError, "over the evaluation set is not finite.*no two units differ"),
        (torch.full((4, 3), float("nan")), 1.0, ValueError, "over the evaluation set is not finite.*NaN"),
        (torch.zeros(0, 3), 1.0, ValueError, "0 samples in the whole data set"),
    ],
)
def test_bad_rows_are_errors_in_evaluation_too(rows, gamma, error, words):
    meter = DiversityMeter(make_measure(DiversityConfig()), lambda name: gamma)
    with pytest.raises(error, match=words):
        meter.update({"a": rows})
        meter.compute()


def test_gamma_comes_from_the_first_batch_that_has_samples():
    meter = DiversityMeter(make_measure(DiversityConfig()), lambda name: None)
    for rows in (torch.zeros(0, 3), torch.randn(5, 3)):
        meter.update({"a": rows})
    assert meter.compute()["a"].diversity > 0


def test_measuring_leaves_every_modules_mode_as_it_was():
    model = Mlp()
    model.train()
    model.act2.eval()
    measure_layers(model, DataLoader(Rows(8), batch_size=4), DiversityConfig(), gamma=0.5)
    assert model.training and model.fc1.training and not model.act2.training
