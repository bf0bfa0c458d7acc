"""DeCov, VCReg and the correlation: values and gradients against float64 loops, and what they do not depend on."""

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_diversity import functional as F
from hf_diversity.decorrelation import covariance_from_moments, moments

MEASURES = ["decov", "vcreg", "correlation"]


def normal(shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("shape", [(2, 2), (5, 7), (40, 3)])
@pytest.mark.parametrize("scale", [0.6, 2.0])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_value_and_gradient(name, shape, scale, dtype, relative):
    a = normal(shape, scale=scale)
    oracle = getattr(oracles, name)
    leaf = a.to(dtype).requires_grad_()
    value = getattr(F, name)(leaf)
    value.backward()
    assert value.dtype == dtype and leaf.grad.dtype == dtype
    expected = oracle(leaf.detach().double().numpy())
    assert expected > 1e-3 and value.item() == pytest.approx(expected, rel=relative)
    # Along random directions; where two units are all there is in two samples, R^2 = 1 whatever they do
    directions = [normal(shape, seed).numpy() for seed in (1, 2)]
    slopes = np.array([oracles.slope(oracle, leaf.detach().double().numpy(), d) for d in directions])
    found = np.array([float((leaf.grad.double() * torch.from_numpy(d)).sum()) for d in directions])
    if not (name == "correlation" and shape == (2, 2)):
        assert np.abs(slopes).max() > 1e-3
    np.testing.assert_allclose(found, slopes, atol=max(1e-6, 20 * relative) * max(1, np.abs(slopes).max()))


def test_covariance_keeps_its_digits_far_from_zero():
    a = normal((64, 5)) + 1e4
    found = F.covariance(a.float())
    exact = oracles.covariance(a.float().double().numpy())
    assert np.abs(found.numpy() - exact).max() < 1e-4 * np.abs(exact).max()


def test_moments_give_one_covariance_whatever_the_shift_and_the_batches():
    a = normal((30, 4)) + 3
    exact = F.covariance(a)
    for shift in (torch.zeros(4), a[0], a.mean(0)):
        parts = [moments(part, shift) * len(part) for part in a.split([7, 1, 22])]
        torch.testing.assert_close(covariance_from_moments(sum(parts) / 30), exact, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", MEASURES)
def test_a_unit_that_does_not_vary_is_finite_and_counts_as_its_source_says(name):
    a = normal((20, 4))
    a[:, 1] = 0.25
    leaf = a.float().requires_grad_()
    value = getattr(F, name)(leaf)
    value.backward()
    assert value.item() == pytest.approx(getattr(oracles, name)(a.numpy()), rel=1e-5)
    assert leaf.grad.isfinite().all()
    if name == "correlation":
        assert not leaf.grad[:, 1].any() and leaf.grad[:, 0].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(-100, 100), st.permutations(range(5)))
def test_what_the_measures_do_not_depend_on(seed, scale, offset, order):
    a = normal((12, 5), seed)
    for name in MEASURES:
        measure = getattr(F, name)
        value = measure(a)
        torch.testing.assert_close(measure(a[:, list(order)]), value)
        torch.testing.assert_close(measure(a[torch.randperm(12)]), value)
        torch.testing.assert_close(measure(a + offset * torch.arange(5)), value, rtol=1e-6, atol=1e-9)
    scales = scale ** torch.linspace(-1, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(F.correlation(a * scales), F.correlation(a), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(F.decov(a * scale), scale**4 * F.decov(a), rtol=1e-6, atol=0)
    assert 0 < F.correlation(a) <= 1


def test_correlation_of_equal_and_opposite_units_is_one():
    unit = normal((10, 1))
    assert F.correlation(torch.cat([unit, -2 * unit, unit + 5], 1)).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_half_precision_and_autocast_compute_in_float32(name):
    a = normal((16, 6))
    with torch.autocast("cpu", torch.bfloat16):
        inside = getattr(F, name)(a.float())
    assert inside.dtype == torch.float32
    assert torch.equal(inside, getattr(F, name)(a.float()))
    assert getattr(F, name)(a.bfloat16()).item() == pytest.approx(
        getattr(oracles, name)(a.bfloat16().double().numpy()), rel=1e-5
    )


@pytest.mark.parametrize("name", MEASURES)
def test_bad_input(name):
    measure = getattr(F, name)
    with pytest.raises(ValueError, match="batch of 1"):
        measure(torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        measure(torch.ones(2, 3, 4))
    with pytest.raises(TypeError, match="int64"):
        measure(torch.ones(2, 3, dtype=torch.long))


def test_correlation_of_quiet_units_beside_a_loud_one():
    """Outlier channels of transformers are thousands of times larger than the others."""
    a = normal((64, 8))
    a[:, 1] = a[:, 0]
    for scale in (1.0, 1e4, 1e6):
        b = torch.cat([a[:, :7], scale * a[:, 7:]], 1).float()
        leaf = b.clone().requires_grad_()
        value = F.correlation(leaf)
        value.backward()
        assert value.item() == pytest.approx(oracles.correlation(b.double().numpy()), rel=1e-4)
        assert leaf.grad[:, 2].any()


def test_a_constant_unit_far_from_zero_has_no_correlation():
    a = normal((64, 4)).float()
    a[:, 1] = 1234.567
    silent = torch.cat([a[:, :1], 0 * a[:, :1], a[:, 2:]], 1)
    assert F.correlation(a).item() == pytest.approx(oracles.correlation(silent.numpy()), rel=1e-4)
