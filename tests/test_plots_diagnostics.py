"""Figures of diagnostics: the right numbers at the right places, with labels."""

import math
import time

import numpy as np
import pytest
import torch

from hf_diversity import DiversityConfig, diagnostics, plots, theory

pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def layer(seed=0, units=16, dead=2):
    torch.manual_seed(seed)
    rows = torch.relu(torch.randn(80, 4) @ torch.randn(4, units))
    rows[:, :dead] = 0
    meter = diagnostics.DiagnosticsMeter()
    meter.update({"layer": rows})
    return meter.compute()["layer"]


def test_spectra_are_shares_of_the_variance():
    train = layer()
    _, axis = plots.spectra({"train": train, "test": layer(1)})
    first = axis.lines[0]
    np.testing.assert_allclose(first.get_ydata()[0], train.eigenvalues[0] / train.eigenvalues.sum())
    assert first.get_xdata()[0] == 1 and axis.get_xscale() == axis.get_yscale() == "log"
    assert "train: effective rank" in first.get_label() and axis.get_xlabel() and axis.get_ylabel()
    assert first.get_linestyle() != axis.lines[1].get_linestyle()


def test_a_layer_without_variance_is_named():
    _, axis = plots.spectra({"dead": layer(dead=16)})
    assert axis.lines[0].get_label() == "dead: no variance"


def test_distance_curves_hold_the_quantiles_and_the_bound():
    measured = layer()
    _, axes = plots.distance_curves({"train": measured})
    x, d = axes[0].lines[0].get_data()
    assert x[0] == 1 and x[-1] == 0 and list(d) == sorted(d)
    assert d[5] == pytest.approx(math.sqrt(measured.distance_quantiles[0.5]))
    expected = theory.output_bound(16, 1, measured.largest_activation, d[5])
    expected /= theory.output_bound(16, 1, measured.largest_activation, 0)
    assert axes[1].lines[0].get_ydata()[5] == pytest.approx(expected) and expected < 1


def test_the_bound_is_left_out_where_it_is_false():
    """Nine units at 1 and one at -1/2, with weights 1 and -1, break the bound: see theory.output."""
    meter = diagnostics.DiagnosticsMeter()
    meter.update({"layer": torch.tensor([[1.0] * 9 + [-0.5], [0.9] * 9 + [0.1]])})
    signed = meter.compute()["layer"]
    assert signed.smallest_activation == -0.5
    _, axes = plots.distance_curves({"signed": signed})
    assert len(axes) == 1 and len(axes[0].lines) == 1
    _, axes = plots.distance_curves({"signed": signed, "relu": layer()})
    assert [len(axis.lines) for axis in axes] == [2, 1] and axes[1].lines[0].get_label() == "relu"
    _, axes = plots.distance_curves({"dead": layer(dead=16)})
    assert len(axes) == 1


def test_the_bound_at_the_largest_distance_survives_rounding():
    meter = diagnostics.DiagnosticsMeter()
    meter.update({"layer": torch.tensor([[0.0, 0.1], [0.1, 0.0]])})
    _, axes = plots.distance_curves({"apart": meter.compute()["layer"]})
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), math.sqrt(3) / 2)


def test_dead_units_in_per_cent():
    _, axis = plots.dead_units({"a": layer(dead=2), "b": layer(dead=4)})
    assert [bar.get_width() for bar in axis.containers[0]] == [12.5, 25.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]


def test_redundancy_by_layer_and_split():
    a, b = layer(), layer(1)
    _, axis = plots.redundancy({"train": {"x": a, "y": b}, "test": {"y": a}})
    assert list(axis.lines[0].get_xdata()) == [a.mean_similarity_normalised, b.mean_similarity_normalised]
    assert list(axis.lines[1].get_ydata()) == [1]
    with pytest.raises(ValueError, match="choose from mean_similarity_normalised"):
        plots.redundancy({"train": {"x": a}}, "colour")


@pytest.mark.parametrize("draw", [plots.spectra, plots.distance_curves, plots.dead_units, plots.redundancy])
def test_nothing_to_draw_is_an_error(draw):
    with pytest.raises(ValueError, match="nothing was given"):
        draw({})


def test_a_large_matrix_is_drawn_in_blocks_whose_means_are_right():
    size = 1098
    matrix = np.full((size, size), 0.25)
    matrix[:549, :549] = matrix[549:, 549:] = 0.75
    np.fill_diagonal(matrix, 1.0)
    _, axes = plots.similarity_matrices({"big": matrix})
    shown = axes[0].images[0].get_array()
    assert len(shown) == 366 and "3 to a point" in axes[0].get_xlabel()
    assert shown.max() == pytest.approx(0.75 + 0.25 / 3) and shown.min() == pytest.approx(0.25)


def test_gaps_join_both_splits():
    train = {"a": {"accuracy": 0.9, "loss": 0.25}, "b": {"accuracy": 1.0}}
    test = {"a": {"accuracy": 0.6, "loss": 0.75}, "b": {"accuracy": 0.5}}
    _, axes = plots.gaps(train, test)
    assert [axis.get_xlabel() for axis in axes] == ["accuracy", "loss"]
    assert [text.get_text() for text in axes[0].texts] == ["gap +0.3", "gap +0.5"]
    assert [text.get_text() for text in axes[1].texts] == ["gap +0.5"]
    np.testing.assert_array_equal(axes[1].lines[0].get_xdata(), [0.25, 0.75])
    with pytest.raises(ValueError, match="no metric is in both"):
        plots.gaps(train, {"c": {"loss": 1.0}})


@pytest.mark.parametrize("units", [300, 700])
def test_units_of_a_chain_come_out_in_order(units):
    """Below 512 from all eigenvectors, above from the Krylov space."""
    place = np.random.default_rng(0).permutation(units)
    matrix = np.exp(-(((place[:, None] - place[None, :]) / (0.15 * units)) ** 2))
    order = place[plots.order_units(matrix)]
    assert abs(np.corrcoef(order, np.arange(units))[0, 1]) > 0.999


def test_many_units_are_ordered_fast():
    matrix = np.random.default_rng(0).random((2048, 2048))
    started = time.perf_counter()
    order = plots.order_units(matrix + matrix.T)
    assert time.perf_counter() - started < 5, "half a second on an idle machine"
    assert sorted(order) == list(range(2048))


@pytest.mark.parametrize("name", ["$x_1", "_orig_mod.fc", "<b>"])
def test_names_are_drawn_letter_by_letter(name):
    figures = [
        plots.spectra({name: layer()})[0],
        plots.redundancy({name: {name: layer()}})[0],
        plots.gaps({name: {"loss": 1.0}}, {name: {"loss": 2.0}})[0],
        plots.similarity_matrices({name: np.eye(3)}, title=name)[0],
    ]
    for figure in figures:
        figure.canvas.draw()
    _, axes = plots.distance_curves({name: layer()})
    assert len(axes[0].get_legend().get_texts()) == 1


@pytest.mark.parametrize(
    ("draw", "given", "message"),
    [
        (plots.dead_units, layer(), "a LayerDiagnostics was given"),
        (plots.spectra, {}, "nothing was given"),
        (plots.redundancy, {"fc": layer()}, "'fc' is a LayerDiagnostics: type .*measure_diagnostics"),
        (plots.similarity_matrices, torch.eye(3), "a Tensor was given"),
        (lambda given: plots.gaps(given, given), {"loss": 1.0}, "'loss' is a float"),
    ],
)
def test_what_has_no_label_is_refused_with_what_to_type(draw, given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        draw(given)


def test_batches_must_be_dicts():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    with pytest.raises(TypeError, match="batches must be dicts"):
        diagnostics.measure_diagnostics(model, [torch.ones(2, 4)], DiversityConfig(layers=["0"]))
