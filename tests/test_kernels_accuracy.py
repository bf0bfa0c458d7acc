"""The accuracy sweep: value and gradient of Direct in float32 against float64 loops, over kinds, sizes and gammas.

Bounds (the bars of benchmarks/): the value within 1e-5 of J + D, J the sum form; the gradient within 1e-4 of its
largest entry, or of D sqrt(gamma) / N (the size of a full gradient) where J vanishes, that is, where no two units are
near and the true gradient is a few numbers next to 0.
"""

import math

import numpy as np
import oracles
import pytest
import torch

from hf_diversity.kernels import pair_sum

VALUE_BOUND, GRADIENT_BOUND = 1e-5, 1e-4
GAMMAS = (0.1, 1.0, 10.0, 100.0)


def _normal(rng, samples, units):
    return rng.standard_normal((samples, units))


def _outlier(rng, samples, units):
    a = _normal(rng, samples, units)
    a[samples // 2, units // 3] = 1e4
    return a


def _duplicates(rng, samples, units):
    return _normal(rng, samples, (units + 1) // 2).repeat(2, axis=1)[:, :units]


def _dead(rng, samples, units):
    a = np.maximum(_normal(rng, samples, units), 0)
    a[:, : units // 2] = 0
    return a


KINDS = {
    "normal": _normal,
    "relu": lambda *args: np.maximum(_normal(*args), 0),
    "cauchy": lambda rng, *shape: rng.standard_cauchy(shape),
    "student": lambda rng, *shape: 3 * rng.standard_t(2, shape),
    "uniform": lambda rng, *shape: rng.uniform(0, 4 * shape[1], shape),
    "two_scales": lambda rng, *shape: rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, (shape[0], 1)),
    "constant": lambda rng, samples, units: np.full((samples, units), 3.7),
    "offset": lambda *args: 1e4 + _normal(*args),
    "bfloat16": lambda *args: torch.from_numpy(5 * _normal(*args)).bfloat16().double().numpy(),
    "outlier": _outlier,
    "duplicates": _duplicates,
    "dead": _dead,
}
SIZES = [(1, 1), (2, 2), (40, 8), (5, 33), (64, 70), (3, 257), (2, 1024)]
LARGE = [(1, 8192), (8192, 64), (128, 2048), (8192, 1)]


def errors(kind, size, gamma, function=pair_sum, dtype=torch.float32):
    """(value error, gradient error) as the bounds take them."""
    rng = np.random.default_rng([sorted(KINDS).index(kind), *size])
    a = torch.from_numpy(KINDS[kind](rng, *size)).to(dtype).requires_grad_()
    value = function(a, gamma)
    value.backward()
    samples, units = size
    expected, expected_gradient = oracles.pair_sum(a.detach().numpy(), gamma)
    full = units * math.sqrt(gamma) / samples
    largest = np.abs(expected_gradient).max()
    difference = np.abs(a.grad.numpy().astype(np.float64) - expected_gradient).max()
    assert value.dtype == dtype and a.grad.isfinite().all()
    if kind in ("normal", "relu", "offset") and units > 30 and gamma <= 10:
        assert largest > 0 and expected > 0, "vacuous"
    scale = largest if expected > units and largest > 0 else full
    return abs(value.item() - expected) / (expected + units), difference / scale


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("kind", KINDS)
def test_float32(kind, gamma, size):
    value_error, gradient_error = errors(kind, size, gamma)
    assert value_error <= VALUE_BOUND and gradient_error <= GRADIENT_BOUND


@pytest.mark.slow
@pytest.mark.parametrize("size", LARGE, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_large(kind, gamma, size):
    value_error, gradient_error = errors(kind, size, gamma)
    assert value_error <= VALUE_BOUND and gradient_error <= GRADIENT_BOUND


@pytest.mark.parametrize("size", [(40, 8), (3, 257)], ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("gamma", [0.1, 100.0])
@pytest.mark.parametrize("kind", KINDS)
def test_float64_follows_with_a_smaller_eps(kind, gamma, size):
    value_error, gradient_error = errors(kind, size, gamma, dtype=torch.float64)
    assert value_error <= 1e-12 and gradient_error <= 1e-11
