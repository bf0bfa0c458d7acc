"""The invariants of the measures as properties of random activations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_diversity import functional as F

MEASURES = {
    "direct": lambda a, gamma: F.direct(a, gamma),
    "direct_sum": lambda a, gamma: F.direct(a, gamma, reduction="sum"),
    "det": lambda a, gamma: F.det(a, gamma, jitter=1e-3),
    "logdet": lambda a, gamma: F.logdet(a, gamma, jitter=1e-3),
}
quick = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def batches(draw, least=2):
    """(N, D) float64 activations of several kinds and scales, with a gamma."""
    samples, units = draw(st.integers(2, 9)), draw(st.sampled_from([least, 3, 5, 40, 90]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "relu", "heavy", "dead", "duplicate"]))
    a = generator.standard_normal((samples, units))
    if kind == "relu":
        a = np.maximum(a, 0)
    elif kind == "heavy":
        a = generator.standard_cauchy((samples, units))
    elif kind == "dead":
        a[:, : units // 2] = 0
    elif kind == "duplicate":
        a[:, -1] = a[:, 0]
    return torch.from_numpy(a * draw(st.sampled_from([0.1, 1.0, 10.0]))), draw(st.sampled_from([0.05, 1.0, 7.0]))


def gradient(function, a):
    a = a.clone().requires_grad_()
    (result,) = torch.autograd.grad(function(a), a)
    return result


@pytest.mark.parametrize("measure", MEASURES)
@given(batch=batches(), seed=st.integers(0, 2**31))
@quick
def test_a_constant_per_sample_changes_nothing(measure, batch, seed):
    a, gamma = batch
    function = MEASURES[measure]
    shift = torch.randn(len(a), 1, dtype=a.dtype, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(function(a + shift, gamma), function(a, gamma), rtol=1e-8, atol=1e-12)
    slope = gradient(lambda x: function(x, gamma), a)
    assert slope.sum(1).abs().max() <= 1e-9 * max(1.0, slope.abs().sum(1).max())


@pytest.mark.parametrize("measure", MEASURES)
@given(batch=batches(), seed=st.integers(0, 2**31))
@quick
def test_the_order_of_units_and_samples_does_not_matter(measure, batch, seed):
    a, gamma = batch
    generator = torch.Generator().manual_seed(seed)
    units, samples = torch.randperm(a.shape[1], generator=generator), torch.randperm(len(a), generator=generator)
    s = F.similarity_matrix(a, gamma)
    torch.testing.assert_close(F.similarity_matrix(a[:, units], gamma), s[units][:, units], rtol=1e-12, atol=1e-14)
    function = MEASURES[measure]
    torch.testing.assert_close(function(a[samples][:, units], gamma), function(a, gamma), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(function(torch.cat([a, a]), gamma), function(a, gamma), rtol=1e-8, atol=1e-12)


@given(batch=batches())
@quick
def test_similarity_is_symmetric_positive_semidefinite_with_unit_diagonal(batch):
    s = F.similarity_matrix(*batch)
    assert torch.equal(s, s.T) and torch.equal(s.diagonal(), torch.ones_like(s.diagonal()))
    assert s.min() >= 0 and s.max() <= 1
    assert torch.linalg.eigvalsh(s).min() >= -1e-12 * len(s)


@given(batch=batches())
@quick
def test_ranges(batch):
    a, gamma = batch
    units = a.shape[1]
    assert 0 <= F.direct(a, gamma) <= 1
    assert 0 <= F.direct(a, gamma, reduction="sum") <= units * (units - 1)
    assert -(1.001**units) * (1 + 1e-12) <= F.det(a, gamma, jitter=1e-3) <= 0
    assert F.logdet(a, gamma, jitter=1e-3) >= -units * np.log(1.001) - 1e-12
    s = F.similarity_matrix(a, gamma)
    torch.testing.assert_close(F.direct(a, gamma, "sum"), s.sum() - units, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("units", [2, 20, 300])
def test_equal_units_are_the_worst_case(units):
    a = torch.randn(6, 1, dtype=torch.float64).expand(6, units)
    torch.testing.assert_close(F.direct(a, 3.0).item(), 1.0)
    torch.testing.assert_close(F.direct(a, 3.0, "sum").item(), float(units * (units - 1)))
    assert F.direct(a, 3.0, "sum") <= units * (units - 1)
    # S is all ones: det(S + e I) = e^(D-1) (D + e)
    expected = -(units - 1) * np.log(1e-4) - np.log(units + 1e-4)
    torch.testing.assert_close(F.logdet(a, 3.0).item(), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("units", [5, 100])
def test_units_far_apart_are_the_best_case(units):
    a = (1e3 * torch.arange(units, dtype=torch.float64)).repeat(4, 1)
    assert F.direct(a, 1.0) <= 1e-12
    torch.testing.assert_close(F.det(a, 1.0, jitter=0.0).item(), -1.0)
    assert abs(F.logdet(a, 1.0, jitter=0.0)) <= 1e-9


@given(batch=batches(), cut=st.integers(1, 8))
@quick
def test_direct_over_shards_is_their_weighted_mean(batch, cut):
    a, gamma = batch
    a = torch.cat([a, a + 1, a * 2])
    cut = max(2, min(cut, len(a) - 2))
    parts = [a[:cut], a[cut:]]
    mean = sum(len(p) * F.direct(p, gamma) for p in parts) / len(a)
    torch.testing.assert_close(F.direct(a, gamma), mean, rtol=1e-9, atol=1e-13)
    s = sum(len(p) * F.similarity_matrix(p, gamma) for p in parts) / len(a)
    torch.testing.assert_close(F.similarity_matrix(a, gamma), s, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(F.logdet_from_similarity(s, 1e-3), F.logdet(a, gamma, 1e-3), rtol=1e-8, atol=1e-10)


@given(batch=batches())
@quick
def test_jensen_bounds_direct_by_the_average_distance(batch):
    """Mean off-diagonal s >= exp(-2 gamma Dbar): the mean of (a_n - a_m)^2 over pairs is twice the average
    distance."""
    a, gamma = batch
    bound = torch.exp(-2 * gamma * F.average_distance(a).mean())
    assert F.direct(a, gamma) >= bound * (1 - 1e-9) - 1e-12


@given(batch=batches(), scale=st.sampled_from([0.25, 3.0, 100.0]))
@quick
def test_gamma_is_an_inverse_square_scale(batch, scale):
    a, gamma = batch
    torch.testing.assert_close(F.direct(a * scale, gamma / scale**2), F.direct(a, gamma), rtol=1e-8, atol=1e-12)
