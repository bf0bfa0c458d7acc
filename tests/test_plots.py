"""Figures: what is drawn, its labels, and errors that say what to do."""

import builtins

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from hf_diversity import plots  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def block_similarity(units=12, seed=0):
    """Two clusters of units, shuffled."""
    generator = np.random.default_rng(seed)
    cluster = np.arange(units) % 2
    matrix = np.where(cluster[:, None] == cluster[None, :], 0.9, 0.1)
    np.fill_diagonal(matrix, 1)
    order = generator.permutation(units)
    return matrix[np.ix_(order, order)], cluster[order]


def history(offset=0.0, epochs=3):
    records = [{"loss": 2.0 - e, "task_loss": 1.5 - e, "epoch": e + 1, "step": 10 * (e + 1)} for e in range(epochs)]
    for e in range(epochs):
        records.append({"eval_train_accuracy": 0.8 + 0.05 * e, "epoch": e + 1, "step": 10 * (e + 1)})
        records.append({"eval_validation_accuracy": 0.7 + 0.02 * e + offset, "epoch": e + 1, "step": 10 * (e + 1)})
    return records


def test_units_are_ordered_by_cluster():
    matrix, cluster = block_similarity()
    order = plots.order_units(torch.tensor(matrix))
    assert sorted(order) == list(range(12))
    assert np.sum(np.diff(cluster[order]) != 0) == 1, "each cluster must come out in one piece"


def test_similarity_matrices_share_one_scale_and_state_their_mean():
    matrix, _ = block_similarity()
    figure, axes = plots.similarity_matrices({"before": matrix, "after": torch.eye(12)}, title="layer")
    assert len(axes) == 2 and figure.get_suptitle() == "layer"
    for axis in axes:
        assert axis.images[0].get_clim() == (0, 1) and axis.get_xlabel().startswith("unit")
    expected = (matrix.sum() - 12) / 132
    assert f"{expected:.3f}" in axes[0].get_title() and "0.000" in axes[1].get_title()
    drawn = np.asarray(axes[0].images[0].get_array())
    np.testing.assert_allclose(np.sort(drawn, axis=None), np.sort(matrix, axis=None))
    assert drawn[0, 1] == 0.9 and drawn[0, -1] == 0.1, "clusters must show"


def test_gap_curves_draw_mean_gap_and_band():
    runs = {"baseline": [history(), history(offset=0.04)], "direct": [history(), history()]}
    figure, axes = plots.gap_curves(runs, metrics=["accuracy"])
    assert axes.shape == (2, 1)
    gap = axes[1, 0].lines[0]
    np.testing.assert_allclose(gap.get_ydata(), [0.1 - 0.02, 0.13 - 0.02, 0.16 - 0.02])
    np.testing.assert_allclose(gap.get_xdata(), [1, 2, 3])
    assert axes[1, 0].get_xlabel() == "epoch" and "train - validation" in axes[1, 0].get_ylabel()
    assert [text.get_text() for text in axes[0, 0].get_legend().get_texts()] == [
        "baseline, train",
        "baseline, validation",
        "direct, train",
        "direct, validation",
    ]
    assert len(axes[1, 0].collections) == 2 and "2 seeds" in figure.get_suptitle()
    assert len({line.get_color() for line in axes[1, 0].lines[:4:2]}) == 2


@pytest.mark.parametrize("metric", ["loss", "perplexity", "word_error"])
def test_gap_of_a_cost_is_validation_minus_train(metric):
    records = [{f"eval_train_{metric}": 0.2, "epoch": 1}, {f"eval_validation_{metric}": 0.5, "epoch": 1}]
    _, axes = plots.gap_curves({"x": [records]}, metrics=[metric])
    assert axes[1, 0].lines[0].get_ydata()[0] == pytest.approx(0.3)
    assert "validation - train" in axes[1, 0].get_ylabel()


def test_training_curves_put_both_losses_together_and_leave_out_what_was_not_logged():
    _, axes = plots.training_curves(history())
    assert len(axes) == 1
    assert [line.get_label() for line in axes[0].lines] == ["loss", "task_loss"]
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), [2.0, 1.0, 0.0])
    assert axes[0].get_xlabel() == "step"


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="nothing was given"):
        plots.similarity_matrices({})
    with pytest.raises(ValueError, match=r"after has shape \(3, 2\)"):
        plots.similarity_matrices({"after": np.zeros((3, 2))})
    with pytest.raises(ValueError, match="'eval_train_loss'.*eval_strategy"):
        plots.gap_curves({"baseline": [history()]}, metrics=["loss"])
    with pytest.raises(ValueError, match="smaller logging_steps"):
        plots.training_curves([])


def test_without_matplotlib_the_error_names_the_line_to_type(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "hf_diversity\[plots\]"'):
        plots.training_curves(history())
