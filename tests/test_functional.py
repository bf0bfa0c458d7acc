"""Values, gradients and dtypes of hf_diversity.functional, against independent float64 oracles."""

import numpy as np
import oracles
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_diversity import functional as F
from hf_diversity.kernels.polynomials import release_memory

SHAPES = [(2, 2), (5, 7), (3, 40)]
GAMMAS = [0.1, 1.0, 10.0]


def normal(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def value_and_gradient(function, activations):
    activations = activations.detach().clone().requires_grad_()
    value = function(activations)
    (gradient,) = torch.autograd.grad(value.sum(), activations)
    return value.detach(), gradient


def assert_close(actual, expected, relative, floor=0.0):
    """Compare with the scale of the expectation, and refuse comparisons of nothing with nothing."""
    expected = np.asarray(expected, dtype=np.float64)
    scale = np.abs(expected).max()
    assert scale > floor, "vacuous: the expectation is zero"
    assert np.abs(np.asarray(actual, dtype=np.float64) - expected).max() <= relative * scale


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_similarity_matrix(shape, gamma, dtype, relative):
    a = normal(shape, dtype=dtype)
    weight = normal((shape[1], shape[1]), seed=1)  # not symmetric
    value, gradient = value_and_gradient(lambda x: (F.similarity_matrix(x, gamma) * weight).sum(), a)
    s = F.similarity_matrix(a, gamma)
    assert s.dtype == dtype
    assert_close(s, oracles.similarity(a, gamma), relative)
    assert_close(value, (oracles.similarity(a, gamma) * weight.numpy()).sum(), 10 * relative)
    assert_close(gradient, oracles.similarity_gradient(a, gamma, weight.numpy()), relative)
    assert torch.equal(s, s.T) and torch.equal(s.diagonal(), torch.ones(shape[1], dtype=dtype))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_direct(shape, gamma, dtype, relative):
    a = normal(shape, dtype=dtype)
    ones = 1 - np.eye(shape[1])
    expected = (oracles.similarity(a, gamma) * ones).sum()
    expected_gradient = oracles.similarity_gradient(a, gamma, ones)
    for reduction, pairs in (("sum", 1), ("mean", shape[1] * (shape[1] - 1))):
        value, gradient = value_and_gradient(lambda x, r=reduction: F.direct(x, gamma, reduction=r), a)
        assert value.dtype == dtype and gradient.dtype == dtype
        assert_close(value, expected / pairs, relative)
        assert_close(gradient, expected_gradient / pairs, relative)


def test_direct_defaults_to_the_mean():
    a = normal((4, 6))
    assert F.direct(a, 1.0) == F.direct(a, 1.0, reduction="mean") != F.direct(a, 1.0, reduction="sum")


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("shape", [(4, 2), (5, 7), (6, 12)])
def test_logdet_and_det(shape, gamma):
    a = normal(shape)
    expected = oracles.log_det(oracles.similarity(a, gamma), F.DEFAULT_JITTER)
    slope = oracles.log_det_gradient(a, gamma, F.DEFAULT_JITTER)
    value, gradient = value_and_gradient(lambda x: F.logdet(x, gamma), a)
    assert_close(value, -expected, 1e-9)
    assert_close(gradient, -slope, 1e-9)
    value, gradient = value_and_gradient(lambda x: F.det(x, gamma), a)
    assert_close(value, -np.exp(expected), 1e-9)
    assert_close(gradient, -np.exp(expected) * slope, 1e-9)


@pytest.mark.parametrize(("shape", "gamma"), [((32, 64), 1.0), ((32, 512), 0.1)])
def test_float32_logdet_of_a_nearly_singular_similarity(shape, gamma):
    """In float32 alone the logarithm had the wrong sign at D = 512, gamma = 0.1."""
    a = normal(shape, dtype=torch.float32).relu() + 0.5 * normal((shape[0], 1), dtype=torch.float32)
    value, gradient = value_and_gradient(lambda x: F.logdet(x, gamma), a)
    exact, exact_gradient = value_and_gradient(lambda x: F.logdet(x, gamma), a.double())
    assert exact > 0
    assert_close(value, exact, 1e-3)
    assert_close(gradient, exact_gradient, 0.02)  # cond (S + 1e-4 I) times 1e-7, S being float32


def test_from_similarity_matches_and_is_differentiable():
    a = normal((6, 5))
    s = F.similarity_matrix(a, 0.7)
    assert F.det_from_similarity(s) == F.det(a, 0.7)
    assert F.logdet_from_similarity(s, jitter=0.1) == F.logdet(a, 0.7, jitter=0.1) != F.logdet(a, 0.7)
    for function in (F.det_from_similarity, F.logdet_from_similarity):
        # a symmetric perturbation, as all similarity matrices are symmetric
        assert torch.autograd.gradcheck(lambda x, f=function: f((x + x.T) / 2), s.clone().requires_grad_())


@pytest.mark.parametrize(
    "function",
    [
        lambda a: F.direct(a, 0.7),
        lambda a: F.direct(a, 0.7, reduction="sum"),
        lambda a: F.det(a, 0.7),
        lambda a: F.logdet(a, 0.7),
        lambda a: F.similarity_matrix(a, 0.7),
        F.activation_norm,
        F.average_distance,
    ],
)
def test_gradients_against_finite_differences(function):
    assert torch.autograd.gradcheck(function, normal((3, 6)).requires_grad_())


def test_direct_of_a_wide_layer_against_finite_differences():
    """Wide enough for the series, whose gradient is no derivative of tiles."""
    a = normal((2, 150)).numpy()
    _, gradient = value_and_gradient(lambda x: F.direct(x, 2.0, "sum"), torch.from_numpy(a))
    assert_close(
        gradient, oracles.finite_difference(lambda x: F.direct(torch.from_numpy(x), 2.0, "sum").item(), a), 1e-7
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("units", [7, 300])
def test_half_precision_is_upcast_before_the_subtraction(dtype, units):
    a = (normal((4, units)) * 3 + 20).to(dtype)
    exact = a.double()
    for function in (lambda x: F.direct(x, 0.5), lambda x: F.logdet(x, 5.0), F.activation_norm):
        value, gradient = value_and_gradient(function, a)
        expected, expected_gradient = value_and_gradient(function, exact)
        assert value.dtype == torch.float32 and gradient.dtype == dtype
        assert_close(value, expected, 2e-5 if units < 100 else 1e-3)
        assert_close(gradient.double(), expected_gradient, 0.01)


def test_float16_gradient_of_the_mean_over_many_pairs():
    """1 / (D (D - 1)) is 1e-7 here, where float16 has steps of 6e-8: it must be applied in float32."""
    a = (normal((2, 3000)) / 1000).half()
    _, gradient = value_and_gradient(lambda x: F.direct(x, 1e6), a)
    _, expected = value_and_gradient(lambda x: F.direct(x, 1e6), a.double())
    assert_close(gradient.double(), expected, 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    a = normal((16, 200), dtype=dtype)
    for function in (lambda x: F.direct(x, 1.0), lambda x: F.logdet(x, 1.0), F.activation_norm, F.average_distance):
        plain = value_and_gradient(function, a)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = value_and_gradient(function, a)
        assert torch.equal(plain[0], inside[0]) and torch.equal(plain[1], inside[1])


def test_activation_norm_and_average_distance():
    a = normal((5, 6))
    value, gradient = value_and_gradient(F.activation_norm, a)
    assert_close(value, oracles.norm(a), 1e-12)
    assert_close(gradient, 2 * a.numpy() / 5, 1e-12)
    assert_close(F.average_distance(a), oracles.average_distance(a), 1e-12)
    assert F.average_distance(a.float()).shape == (5,)
    assert_close(F.average_distance(a.float() + 1e3), oracles.average_distance(a.float() + 1e3), 1e-4)
    assert F.activation_norm(a[:1]) > 0 and F.average_distance(a[:1]) > 0  # of one sample both are defined


def test_gamma_as_a_tensor_is_the_same():
    a = normal((8, 100), dtype=torch.float32)
    for function in (F.direct, F.logdet):
        assert function(a, torch.tensor(0.5)) == function(a, 0.5)
    assert F.direct(a, 1) == F.direct(a, 1.0)


def test_memory_layout_of_the_input_does_not_matter():
    a = normal((16, 200))
    wide = torch.stack([a, a], 2)[:, :, 0]
    for other in (a.T.contiguous().T, wide):
        assert not other.is_contiguous()
        for function in (lambda x: F.direct(x, 1.0), lambda x: F.logdet(x, 1.0)):
            expected, actual = value_and_gradient(function, a), value_and_gradient(function, other)
            assert_close(actual[0], expected[0], 1e-13)
            assert_close(actual[1], expected[1], 1e-11)


@pytest.mark.parametrize("function", [F.direct, F.det, F.logdet])
def test_second_derivatives_are_refused(function):
    a = normal((4, 5)).requires_grad_()
    (gradient,) = torch.autograd.grad(function(a, 1.0), a, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives|differentiate twice|once_differentiable"):
        gradient.square().sum().backward()


def test_upstream_gradients_scale():
    a = normal((8, 100)).requires_grad_()
    (once,) = torch.autograd.grad(F.direct(a, 1.0), a)
    (scaled,) = torch.autograd.grad(3 * F.direct(a, 1.0), a)
    assert once.abs().max() > 0
    torch.testing.assert_close(scaled, 3 * once)


def test_no_gradient_is_computed_where_none_is_needed():
    a = normal((8, 100))
    assert not F.direct(a, 1.0).requires_grad
    with torch.no_grad():
        assert not F.direct(a.requires_grad_(), 1.0).requires_grad


class LargestTensor(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("function", [F.direct, F.logdet])
def test_no_array_of_all_pairs_at_all_samples(function):
    samples, units = 64, 1024
    release_memory()  # larger calls before this one may have left more
    for a in (normal((samples, units), dtype=torch.float32), torch.empty(samples, units).cauchy_()):
        with LargestTensor() as largest:
            value_and_gradient(lambda x: function(x, 1.0), a)
        assert 0 < largest.elements <= max(2 * units * units, 20 * samples * units) < samples * units * units / 30


def test_inside_torch_compile():
    def step(a):
        h = torch.tanh(2 * a)
        return F.direct(h, 2.0) + F.logdet(h[:, :20], torch.tensor(2.0)) + F.activation_norm(h)

    a = normal((8, 100), dtype=torch.float32)
    expected = value_and_gradient(step, a)
    actual = value_and_gradient(torch.compile(step, fullgraph=True, backend="aot_eager"), a)  # fullgraph: no break
    assert_close(actual[0], expected[0], 1e-6)
    assert_close(actual[1], expected[1], 1e-5)
