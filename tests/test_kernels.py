"""Each kernel of Direct by itself against the oracle, the rule between them, and the ways into them."""

import math

import numpy as np
import oracles
import pytest
import torch

from hf_diversity import kernels
from hf_diversity.kernels import cells, dispatch, fourier, tiles
from hf_diversity.kernels.sine import sine_cosine


def by_tiles(a, gamma, gradient):
    return tiles.pair_sum_tiles(a, gamma, gradient)


def by_fourier(a, gamma, gradient):
    low, span = a.amin(1), a.amax(1) - a.amin(1)
    terms = fourier.terms_needed(float(span.max()) * math.sqrt(gamma), a.dtype)
    return fourier.pair_sum_fourier(a, low, span, math.sqrt(gamma), terms, gradient).sum() - a.numel()


def by_sorting(a, gamma, gradient):
    return cells.pair_sum_sorted(a, math.sqrt(gamma), gradient)


def rows(kind, samples, units):
    rng = np.random.default_rng(7)
    if kind == "mixed":  # dense centres that need cells, beside sparse rows that need windows
        a = rng.standard_cauchy((samples, units))
        a[::2] = rng.uniform(0, 4 * units, (len(a[::2]), units))
        a[0] = rng.standard_normal(units)
        return torch.from_numpy(a)
    return torch.from_numpy(rng.standard_normal((samples, units)) * {"normal": 1, "equal": 0}[kind])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.3, 5.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 3), (9, 200), (40, 131), (3, 1500)])
@pytest.mark.parametrize(
    ("kernel", "kind"),
    [(by_tiles, "mixed"), (by_fourier, "normal"), (by_fourier, "equal"), (by_sorting, "mixed"), (by_sorting, "equal")],
)
def test_kernel_against_the_oracle(kernel, kind, shape, gamma, dtype):
    a = rows(kind, *shape).to(dtype)
    gradient = torch.full_like(a, torch.nan)  # every entry must be written
    total = kernel(a, gamma, gradient)
    expected, expected_gradient = oracles.pair_sum(a.numpy(), gamma)
    samples, units = shape
    relative = 1e-12 if dtype == torch.float64 else 5e-6
    assert abs(total.item() / samples - expected) <= relative * (expected + units)
    scale = max(np.abs(expected_gradient).max(), math.sqrt(gamma) / samples)
    assert np.abs(gradient.numpy() / samples - expected_gradient).max() <= 10 * relative * scale
    torch.testing.assert_close(kernel(a, gamma, None), total, rtol=1e-9, atol=1e-9 * samples * units)


def test_sorting_by_integer_keys_is_sorting():
    a = torch.tensor([[0.0, -0.0, 1.5, -2.5, 3e38, -3e38, 1e-40, -1e-40, 7.0, -2.5]])
    values, order = cells._sort(a)
    assert torch.equal(values, a.sort(dim=1).values) and torch.equal(a.gather(1, order), values)
    assert sorted(order[0].tolist()) == list(range(a.shape[1]))


@pytest.mark.parametrize("terms", [1, 2, 3, 6, 16, 17, 45, 110, 333])
def test_tables_hold_every_term_and_its_gradient(terms):
    split = fourier.split_terms(terms, torch.float64)
    giant, baby, k = split.giant, split.baby, np.sqrt(-4 * split.exponents.numpy()).round().astype(int)
    assert k.tolist() == list(range(len(k))) and k[-1] >= terms
    assert 2 * (giant + baby) <= 4 * math.sqrt(terms) + 4  # waves: the point of the split

    x = np.random.default_rng(0).uniform(-3, 3, 5)
    stride = 2 * baby + 1
    giants = np.stack([np.cos(q * stride * x) if q <= 0 else np.sin(q * stride * x) for q in range(-giant, giant + 1)])
    babies = np.stack([np.cos(r * x) if r <= 0 else np.sin(r * x) for r in range(-baby, baby + 1)])
    products = torch.from_numpy(giants @ babies.T)
    one_term_each = torch.eye(len(k), dtype=torch.float64)
    same, opposite = fourier.quadratic_form(one_term_each, split)
    form = (products * (same * products + opposite * products.flip(0, 1))).sum((1, 2)) / 2
    waves = np.exp(1j * np.outer(k, x))
    total = waves.sum(1)
    weight = np.where(k == 0, 0.5, 1.0)  # c_0 is given as twice its value
    np.testing.assert_allclose(form, weight * np.abs(total) ** 2, atol=1e-11)

    first, second = fourier.slope_weights(one_term_each, split)
    slopes = (first * products.flip(0) + second * products.flip(1)).numpy()
    gradient = np.einsum("kqr,qn,rn->kn", slopes, giants, babies)
    expected = 2 * np.real(np.conj(total)[:, None] * 1j * k[:, None] * waves)
    np.testing.assert_allclose(gradient, expected, atol=1e-9 * len(k))


def test_a_second_backward_pass_gives_the_same_gradient():
    a = torch.randn(6, 50, requires_grad=True)
    total = kernels.pair_sum(a, 0.7)
    [first] = torch.autograd.grad(3 * total, a, retain_graph=True)
    first = first.clone()
    [second] = torch.autograd.grad(2 * total, a)
    np.testing.assert_allclose(second, first * 2 / 3, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_kept_between_calls_was_made_for_all_modes(dtype):
    fourier.release_memory()
    fourier._split.cache_clear()
    a = torch.randn(6, 77, dtype=dtype)
    with torch.inference_mode(), torch.device("meta"):
        first = kernels.pair_sum(a, 0.7)
    leaf = a.clone().requires_grad_()
    kernels.pair_sum(leaf, 0.7).backward()
    assert torch.equal(first, kernels.pair_sum(a, 0.7)) and leaf.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sine_and_cosine(dtype):
    angle = torch.linspace(-math.pi / 2, math.pi / 2, 20001, dtype=dtype)
    square, sine, cosine = torch.empty(3, len(angle), dtype=dtype)
    sine_cosine(angle, square, sine, cosine)
    precise = 2e-7 if dtype == torch.float32 else 1e-15
    np.testing.assert_allclose(sine, np.sin(angle.double()), rtol=precise)
    np.testing.assert_allclose(cosine, np.cos(angle.double()), atol=precise)


@pytest.mark.parametrize(
    ("activations", "expected"),
    [
        (torch.randn(16, 24), "tiles"),
        (torch.randn(16, 512), "fourier"),
        (torch.randn(16, 512) + 1e4, "fourier"),
        (torch.zeros(16, 512), "fourier"),
        (torch.linspace(0, 1e5, 512).repeat(16, 1), "sorted"),
        (torch.linspace(0, 1e5, 100).repeat(16, 1), "tiles"),
    ],
)
def test_the_rule_picks_the_kernel_by_cost(activations, expected, monkeypatch):
    used = []
    for name in ("tiles", "fourier", "sorted"):
        original = getattr(dispatch, f"pair_sum_{name}")
        monkeypatch.setattr(
            dispatch,
            f"pair_sum_{name}",
            lambda *args, n=name, f=original, **kwargs: (used.append(n), f(*args, **kwargs))[1],
        )
    dispatch.pair_sum_value(activations, 1.0, True)
    assert used == [expected]


def test_one_outlier_does_not_tax_the_other_rows():
    a = torch.randn(512, 256)
    a[3, 5] = 1e4
    terms = fourier.terms_of_rows(a.amax(1) - a.amin(1))
    buckets = dispatch._buckets(terms, 160.0, 256)
    assert [members.tolist() for members, number in buckets if number is None] == [[3]]
    assert sorted(torch.cat([members for members, _ in buckets]).tolist()) == list(range(512))
    assert all(terms[members].max() <= number < 40 for members, number in buckets if number is not None)


@pytest.mark.parametrize("name", ["pair_sum", "similarity", "similarity_gradient"])
def test_custom_operators_are_well_formed(name):
    a, gamma = torch.randn(4, 40), torch.tensor(0.5)
    arguments = {
        "pair_sum": (a, gamma, True),
        "similarity": (a, gamma),
        "similarity_gradient": (a, gamma, torch.randn(40, 40)),
    }[name]
    operator = getattr(torch.ops.hf_diversity, name).default
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_similarity_of_one_sample_and_of_one_unit():
    assert torch.equal(kernels.similarity(torch.randn(3, 1), 1.0), torch.ones(1, 1))
    assert kernels.pair_sum(torch.randn(3, 1), 1.0) == 0
    a = torch.randn(1, 5, dtype=torch.float64)
    np.testing.assert_allclose(kernels.similarity(a, 1.0), oracles.similarity(a, 1.0), rtol=1e-12)


@pytest.mark.parametrize("shape", [(5, 300), (130, 140)])
def test_similarity_across_tile_borders(shape):
    a = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(shape[1], shape[1], dtype=torch.float64)
    plain = a.detach().clone().requires_grad_()
    expected = sum(torch.exp(-0.8 * (row[:, None] - row[None]) ** 2) for row in plain) / shape[0]
    actual = kernels.similarity(a, 0.8)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
    (actual * upstream).sum().backward()
    (expected * upstream).sum().backward()
    assert plain.grad.abs().max() > 0
    torch.testing.assert_close(a.grad, plain.grad, rtol=1e-10, atol=1e-13)
