"""Diagnostics against closed forms and plain loops, and the streaming form against one of all rows at once."""

import importlib.util
import json
import math

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from launch import SCRIPTS, launch
from tiny import Mlp, Rows, Sentences, tiny_bert
from torch.utils.data import DataLoader

from hf_diversity import DiversityConfig, bandwidth, distributed
from hf_diversity import diagnostics as dg
from hf_diversity.diagnostics import describe


def data(samples=60, units=7, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(samples, units)) @ rng.normal(size=(units, units)) + offset
    return torch.from_numpy(values)


def orthonormal(size, seed=0):
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0])


# ---- spectrum


def test_spectrum_of_known_eigenvalues():
    known = torch.tensor([9.0, 4.0, 1.0, 0.25], dtype=torch.float64)
    scores = orthonormal(32)[:, :5]
    scores = scores[:, 1:] - scores[:, 1:].mean(0)  # centred; orthonormal again by a QR
    scores = torch.linalg.qr(scores).Q
    rows = scores * (32 * known).sqrt() @ orthonormal(4, 1).T
    torch.testing.assert_close(dg.covariance_eigenvalues(rows), known)
    torch.testing.assert_close(dg.covariance_eigenvalues(rows + 3.0), known)
    assert dg.second_moment_eigenvalues(rows + 3.0)[0] > 30


@pytest.mark.parametrize("units", [1, 2, 9])
def test_equal_eigenvalues_have_full_rank_and_one_has_rank_one(units):
    equal, one = torch.full((units,), 3.0), torch.tensor([5.0] + [0.0] * (units - 1))
    for rank in (dg.effective_rank, dg.participation_ratio):
        assert rank(equal) == pytest.approx(units, rel=1e-12)
        assert rank(one) == pytest.approx(1, rel=1e-12)
        assert math.isnan(rank(torch.zeros(units)))


def test_ranks_by_plain_loops():
    eigenvalues = [8.0, 3.0, 0.5, 0.01]
    sigma = [math.sqrt(v) for v in eigenvalues]
    p = [s / sum(sigma) for s in sigma]
    entropy = -sum(x * math.log(x) for x in p)
    assert dg.effective_rank(torch.tensor(eigenvalues)) == pytest.approx(math.exp(entropy), rel=1e-6)
    ratio = sum(eigenvalues) ** 2 / sum(v * v for v in eigenvalues)
    assert dg.participation_ratio(torch.tensor(eigenvalues)) == pytest.approx(ratio, rel=1e-6)
    tiny = torch.tensor(eigenvalues, dtype=torch.float64) * 1e-200
    assert dg.participation_ratio(tiny) == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.3])
def test_slope_of_a_power_law(alpha):
    values = 7.0 * torch.arange(1, 101, dtype=torch.float64) ** -alpha
    assert dg.spectrum_slope(values) == pytest.approx(alpha, abs=1e-10)
    bent = values.clone()
    bent[:10], bent[60:] = bent[9], 1e-30
    assert dg.spectrum_slope(bent, first=11, last=60) == pytest.approx(alpha, abs=1e-10)
    cut = torch.cat([values, torch.zeros(5, dtype=torch.float64)])
    assert dg.spectrum_slope(cut) == pytest.approx(alpha, abs=1e-10)


def test_slope_without_a_range():
    assert math.isnan(dg.spectrum_slope(torch.tensor([1.0, 0.0, 0.0])))
    assert math.isnan(dg.spectrum_slope(torch.zeros(4)))
    with pytest.raises(ValueError, match="ranks 3 to 2"):
        dg.spectrum_slope(torch.ones(4), first=3, last=2)


# ---- units


def test_redundancy_by_plain_loops():
    rows = data(20, 5)
    s = oracles.similarity(rows.numpy(), 0.4)
    off = [s[n, m] for n in range(5) for m in range(5) if n != m]
    assert dg.mean_similarity(rows, 0.4) == pytest.approx(np.mean(off), rel=1e-12)
    correlation = np.corrcoef(rows.numpy().T)
    torch.testing.assert_close(dg.correlation_matrix(rows), torch.from_numpy(correlation))
    off = [abs(correlation[n, m]) for n in range(5) for m in range(5) if n != m]
    assert dg.mean_absolute_correlation(dg.correlation_matrix(rows)) == pytest.approx(np.mean(off), rel=1e-12)
    assert dg.activation_norm(rows) == pytest.approx(oracles.norm(rows.numpy()), rel=1e-12)
    expected = oracles.average_distance(rows.numpy())
    torch.testing.assert_close(dg.average_distance(rows), torch.as_tensor(expected, dtype=torch.float64))


def test_scale_normalised_similarity_does_not_see_the_scale():
    rows = data(200, 12)
    assert dg.normalised_gamma(rows) == pytest.approx(256 * dg.normalised_gamma(16 * rows), rel=1e-9)
    assert dg.mean_similarity(rows) == pytest.approx(dg.mean_similarity(16 * rows), rel=1e-9)
    assert dg.mean_similarity(rows, 0.1) > 2 * dg.mean_similarity(16 * rows, 0.1)


def test_dead_units():
    rows = torch.tensor([[0.0, 2.0, -1.0, 1.0, 0.0], [0.0, 2.0, -3.0, -1.0, 0.5]])
    assert dg.constant_units(rows).tolist() == [True, True, False, False, False]
    assert dg.never_positive_units(rows).tolist() == [True, False, True, False, False]
    correlation = dg.correlation_matrix(rows)
    assert correlation[0].isnan().all() and correlation[2, 3] == pytest.approx(1.0)
    assert dg.mean_absolute_correlation(correlation) == pytest.approx(1.0)  # of three units that vary, all by a line
    assert math.isnan(dg.mean_absolute_correlation(dg.correlation_matrix(torch.ones(4, 3))))


def test_a_variance_that_underflows_is_no_correlation():
    rows = data(20, 3)
    rows[:, 1] *= 1e-200
    correlation = dg.correlation_matrix(rows)
    assert not dg.constant_units(rows).any() and correlation[1].isnan().all()
    assert dg.mean_absolute_correlation(correlation) == pytest.approx(abs(float(correlation[0, 2])), rel=1e-12)


def test_half_precision_is_widened_before_anything():
    rows = data(40, 6, offset=3.0)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        narrow = rows.to(dtype)
        expected = dg.layer_diagnostics(narrow.double(), 0.3).scalars()
        assert dg.layer_diagnostics(narrow, 0.3).scalars() == pytest.approx(expected, rel=1e-12)
        # The sums of S and of the norm are of each batch in float32
        assert by_batches(narrow, 40, {"layer": 0.3}).scalars() == pytest.approx(expected, rel=1e-5)


def test_orthogonal_columns_are_uncorrelated():
    columns = torch.linalg.qr(orthonormal(16)[:, :6] - orthonormal(16)[:, :6].mean(0)).Q
    assert dg.mean_absolute_correlation(dg.correlation_matrix(columns)) < 1e-12


def test_gaps_have_the_sign_of_worse():
    train = {"loss": 0.5, "accuracy": 1.0, "task_error": 0.1, "f1": 0.9, "steps": 3.0}
    held_out = {"loss": 0.75, "accuracy": 0.75, "task_error": 0.3, "f1": 1.0}
    assert dg.generalization_gaps(train, held_out) == pytest.approx(
        {"loss": 0.25, "accuracy": 0.25, "task_error": 0.2, "f1": -0.1}
    )
    assert dg.generalization_gaps({"f1": 0.9}, {"f1": 1.0}, lower_is_better=["f1"]) == pytest.approx({"f1": 0.1})


# ---- streaming


def by_batches(rows, sizes, gammas=None):
    meter = dg.DiagnosticsMeter(gammas)
    for batch in rows.split(sizes):
        meter.update({"layer": batch})
    return meter.compute()["layer"]


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_streaming_is_the_function_of_all_rows(offset):
    rows = data(60, 7, offset=offset)
    rows[:, 2] = -1.5
    found = by_batches(rows, [60, 0], {"layer": 0.3})  # the normalised gamma is that of the first batch
    by_parts = by_batches(rows, [25, 0, 1, 34], {"layer": 0.3})
    assert (found.num_samples, found.num_units, found.gamma) == (60, 7, 0.3)
    centred, uncentred = dg.covariance_eigenvalues(rows), dg.second_moment_eigenvalues(rows)
    close = {"rtol": 1e-10, "atol": 1e-10}
    for one in (found, by_parts):
        torch.testing.assert_close(one.eigenvalues, centred, **close)
        torch.testing.assert_close(one.correlation, dg.correlation_matrix(rows), equal_nan=True, **close)
    expected = {
        "mean_similarity": dg.mean_similarity(rows, 0.3),
        "mean_absolute_correlation": dg.mean_absolute_correlation(dg.correlation_matrix(rows)),
        "activation_norm": dg.activation_norm(rows),
        "largest_activation": dg.largest_activation(rows),
        "effective_rank": dg.effective_rank(centred),
        "normalised_gamma": dg.normalised_gamma(rows),
        "mean_similarity_normalised": dg.mean_similarity(rows),
        "participation_ratio": dg.participation_ratio(centred),
        "participation_ratio_uncentred": dg.participation_ratio(uncentred),
        "spectrum_slope": dg.spectrum_slope(centred),
    }
    at_once = dg.layer_diagnostics(rows, 0.3)
    assert at_once.scalars() == pytest.approx(found.scalars(), rel=1e-12)
    torch.testing.assert_close(at_once.similarity, found.similarity, **close)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-10), name
        if "normalised" not in name:
            assert getattr(by_parts, name) == pytest.approx(value, rel=1e-10), name
    quantiles = dg.distance_quantiles(dg.average_distance(rows))
    for one in (found, by_parts):
        # Rounding of the largest eigenvalue, here 1e9, is the size of the smallest one
        near = pytest.approx(dg.effective_rank(uncentred), rel=1e-4 if offset else 1e-10)
        assert one.effective_rank_uncentred == near
        assert one.constant_units.tolist() == [n == 2 for n in range(7)]
        assert one.never_positive_units.tolist() == dg.never_positive_units(rows).tolist()
        assert one.distance_quantiles == pytest.approx(quantiles, rel=1e-10)


def test_fewer_samples_than_units():
    rows = data(11, 90)
    found = by_batches(rows, 4)
    assert (found.eigenvalues > 0).sum() == 10  # the mean takes one direction
    for name, eigenvalues in (
        ("effective_rank", dg.covariance_eigenvalues(rows)),
        ("effective_rank_uncentred", dg.second_moment_eigenvalues(rows)),
    ):
        assert getattr(found, name) == pytest.approx(dg.effective_rank(eigenvalues), rel=1e-10), name


def test_more_batches_after_a_look():
    rows, meter = data(20, 4), dg.DiagnosticsMeter({"layer": 0.3})
    meter.update({"layer": rows[:12]})
    first = meter.compute()["layer"]
    assert meter.compute()["layer"].scalars() == pytest.approx(first.scalars(), rel=1e-12)
    meter.update({"layer": rows[12:]})
    expected = by_batches(rows, [12, 8], {"layer": 0.3}).scalars()
    assert meter.compute()["layer"].scalars() == pytest.approx(expected, rel=1e-12)
    assert first.num_samples == 12


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40), st.integers(2, 9), st.randoms(use_true_random=False))
def test_order_of_samples_and_units_and_repetition_do_not_matter(seed, samples, units, shuffle):
    rows = data(samples, units, seed)
    order, columns = list(range(samples)), list(range(units))
    shuffle.shuffle(order)
    shuffle.shuffle(columns)
    gamma = {"layer": 0.2}
    first = by_batches(rows, samples, gamma)
    for other in (rows[order][:, columns], torch.cat([rows, rows])):
        second = by_batches(other, max(1, len(other) // 3), gamma)
        for name, value in first.scalars().items():
            if name in ("normalised_gamma", "mean_similarity_normalised", "num_samples"):
                continue  # of the first batch, which differs
            if name.startswith(("effective_rank", "spectrum_slope")):  # of eigenvalues that may be rounding alone
                continue
            assert second.scalars()[name] == pytest.approx(value, rel=1e-8, nan_ok=True), name


def test_a_dead_layer_is_described():
    found = by_batches(torch.zeros(10, 4), 5)
    assert found.mean_similarity_normalised == 1.0 and found.normalised_gamma == 1.0
    assert found.constant_units.all() and math.isnan(found.effective_rank)
    described = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert described["effective_rank"] is None and described["constant_units"] == [0, 1, 2, 3]


def test_bad_rows_are_errors():
    with pytest.raises(ValueError, match="1 unit"):
        by_batches(torch.ones(4, 1), 4)
    with pytest.raises(ValueError, match="not finite"):
        by_batches(torch.full((4, 3), math.nan), 4)
    with pytest.raises(ValueError, match="0 samples"):
        by_batches(torch.ones(0, 3), 1)
    with pytest.raises(ValueError, match="gamma of layer 'a' is -1"):
        dg.DiagnosticsMeter({"a": -1.0})
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\)"):
        dg.DiagnosticsMeter().update({"a": torch.ones(2, 3, 4)})


@pytest.mark.parametrize(
    "function",
    [
        dg.activation_norm, dg.average_distance, dg.constant_units, dg.correlation_matrix, dg.covariance_eigenvalues,
        dg.largest_activation, dg.layer_diagnostics, dg.mean_similarity, dg.never_positive_units, dg.normalised_gamma,
        dg.second_moment_eigenvalues,
    ],
)  # fmt: skip
def test_bad_activations_are_errors(function):
    with pytest.raises(TypeError, match="dtype"):
        function(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="list"):
        function([[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        function(torch.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        function(torch.tensor([[1.0, math.nan], [1.0, 2.0]]))
    with pytest.raises(ValueError, match="no sample"):
        function(torch.ones(0, 3))


@pytest.mark.parametrize("function", [dg.effective_rank, dg.participation_ratio, dg.spectrum_slope])
def test_bad_eigenvalues_are_errors(function):
    with pytest.raises(TypeError, match="list"):
        function([1.0, 2.0])
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        function(torch.eye(2))
    with pytest.raises(ValueError, match="1 of 2 eigenvalues.*-1.0"):
        function(torch.tensor([2.0, -1.0]))
    with pytest.raises(ValueError, match="nan"):
        function(torch.tensor([2.0, math.nan]))


def test_functions_of_activations_need_no_other_process(monkeypatch):
    def refuse(tensor):
        raise AssertionError("a collective in a function of one tensor")

    for module in (bandwidth, distributed, describe):
        monkeypatch.setattr(module, "sum_over_processes", refuse)
    assert 0 < dg.mean_similarity(data()) < 1
    found = dg.layer_diagnostics(data())
    assert found.gamma == found.normalised_gamma == dg.normalised_gamma(data())


def test_equal_units_are_similar_at_any_gamma():
    equal = torch.arange(5.0)[:, None].expand(5, 3)
    assert math.isnan(dg.normalised_gamma(equal)) and dg.mean_similarity(equal) == 1.0
    found = dg.layer_diagnostics(equal)
    assert found.mean_similarity == found.gamma == 1.0


def test_of_a_model_without_padding():
    model, texts = tiny_bert(), Sentences(9)
    name = "bert.encoder.layer.1"
    seen = []
    found = dg.measure_diagnostics(
        model, DataLoader(texts, batch_size=4), DiversityConfig(layers=[name]), {name: 0.7},
        on_batch=lambda batch, outputs: seen.append((len(batch["labels"]), outputs.loss is not None)),
    )[name]  # fmt: skip
    assert found.num_samples == int(texts.lengths.sum()) < 9 * 12 and found.gamma == 0.7
    assert seen == [(4, True), (4, True), (1, True)]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_of_the_hidden_layer_of_a_network():
    model, rows, batches = Mlp(), Rows(21), []

    def progress(loader):
        for batch in loader:
            batches.append(len(batch["labels"]))
            yield batch

    loader = DataLoader(rows, batch_size=4)
    [found] = dg.measure_diagnostics(model, loader, DiversityConfig(gamma=0.5), progress=progress).values()
    assert batches == [4, 4, 4, 4, 4, 1]
    hidden = model.act2(model.fc2(torch.tanh(model.fc1(rows.x)))).detach().double()
    assert found.gamma == 0.5
    assert found.mean_similarity == pytest.approx(dg.mean_similarity(hidden, 0.5), rel=1e-5)
    assert found.effective_rank == pytest.approx(dg.effective_rank(dg.covariance_eigenvalues(hidden)), rel=1e-5)


def test_no_batch_and_unknown_layers_are_errors():
    with pytest.raises(ValueError, match="no batch"):
        dg.measure_diagnostics(Mlp(), [])
    with pytest.raises(ValueError, match="gammas names 'fc7'"):
        dg.measure_diagnostics(Mlp(), DataLoader(Rows(4)), gammas={"fc7": 1.0})


def test_two_processes_are_one():
    output = launch(SCRIPTS / "diagnostics.py")
    results = [line.removeprefix("RESULT ") for line in output.splitlines() if line.startswith("RESULT ")]
    found, counted = map(json.loads, results)
    spec = importlib.util.spec_from_file_location("diagnostics_script", SCRIPTS / "diagnostics.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    one = by_batches(script.seen(), 36, {"layer": 0.3}).to_dict()
    first_batch = {"normalised_gamma", "mean_similarity_normalised"}
    assert found["num_samples"] == 36 and found["constant_units"] == [2]
    for name in set(one) - first_batch:
        assert found[name] == pytest.approx(one[name], rel=1e-10, abs=1e-12), name
    # One process has counted its distances in bins, the other kept them
    quantiles = counted.pop("distance_quantiles")
    assert quantiles == pytest.approx(found.pop("distance_quantiles"), rel=1 / 8000)
    for name in counted:
        assert counted[name] == pytest.approx(found[name], rel=1e-12, abs=1e-12), name
    assert quantiles != pytest.approx(one["distance_quantiles"], rel=1e-10)
