"""Each kernel of Direct by itself against the oracle, the rule between them, and the ways into them."""

import math

import numpy as np
import oracles
import pytest
import torch

from hf_diversity import kernels
from hf_diversity.kernels import cells, chebyshev, dispatch, series, tiles
from hf_diversity.kernels.polynomials import Polynomials, release_memory


def by_tiles(a, gamma, gradient):
    return tiles.pair_sum_tiles(a, gamma, gradient)


def by_series(a, gamma, gradient):
    low, span = a.amin(1), a.amax(1) - a.amin(1)
    level = chebyshev.level_of(float(span.max()) * math.sqrt(gamma))
    return series.pair_sum_series(a, low, span, math.sqrt(gamma), level, gradient).sum() - a.numel()


def by_sorting(a, gamma, gradient):
    return cells.pair_sum_sorted(a, math.sqrt(gamma), gradient)


def rows(kind, samples, units):
    rng = np.random.default_rng(7)
    if kind == "mixed":  # dense centres that need cells, beside sparse rows that need windows
        a = rng.standard_cauchy((samples, units))
        a[::2] = rng.uniform(0, 4 * units, (len(a[::2]), units))
        a[0] = rng.standard_normal(units)
        return torch.from_numpy(a)
    return torch.from_numpy(rng.standard_normal((samples, units)) * {"normal": 1, "wide": 15, "equal": 0}[kind])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.3, 5.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 3), (9, 200), (40, 131), (3, 1500)])
@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        (by_tiles, "mixed"),
        (by_series, "normal"),
        (by_series, "wide"),
        (by_series, "equal"),
        (by_sorting, "mixed"),
        (by_sorting, "equal"),
    ],
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
    if kind == "equal":
        assert kernel is by_tiles or not gradient.any()  # exactly: dead layers are not pushed about
    assert np.abs(gradient.numpy() / samples - expected_gradient).max() <= 10 * relative * scale
    torch.testing.assert_close(kernel(a, gamma, None), total, rtol=1e-9, atol=1e-9 * samples * units)


def test_sorting_by_integer_keys_is_sorting():
    a = torch.tensor([[0.0, -0.0, 1.5, -2.5, 3e38, -3e38, 1e-40, -1e-40, 7.0, -2.5]])
    values, order = cells._sort(a)
    assert torch.equal(values, a.sort(dim=1).values) and torch.equal(a.gather(1, order), values)
    assert sorted(order[0].tolist()) == list(range(a.shape[1]))


@pytest.mark.parametrize(("giant", "baby"), [(1, 3), (2, 7), (6, 3), (14, 15), (5, 23), (33, 31)])
@pytest.mark.parametrize("stretch", [0.0, 0.3])
def test_polynomials_are_chebyshevs(giant, baby, stretch):
    shape = (giant, baby, stretch, 2, 500)
    buffers = Polynomials(*shape, torch.empty(Polynomials.numbers(*shape), dtype=torch.float64))
    x = np.linspace(-1, 1, 1000).reshape(2, 500)
    buffers.argument.copy_(torch.from_numpy(x))
    buffers.fill()
    giant_signs, baby_signs = chebyshev.signs(giant, baby)
    angle = np.arccos(np.clip(x * (1 + stretch - stretch * x**2), -1, 1))[:, None]
    babies = np.cos(angle * np.arange(baby + 1)[:, None]) * np.array(baby_signs)[:, None]
    giants = np.cos(angle * (baby + 1) * np.arange(giant + 1)[:, None]) * np.array(giant_signs)[:, None]
    np.testing.assert_allclose(buffers.baby, babies, atol=1e-11)
    np.testing.assert_allclose(buffers.giant, giants, atol=1e-9)
    slopes = np.random.default_rng(0).standard_normal((2, giant + 1, baby + 1))
    pulled = buffers.pull(torch.from_numpy(slopes), torch.empty(2, 500, dtype=torch.float64))
    slope = 1 + stretch - 3 * stretch * x**2 if stretch else 1
    expected = np.einsum("iqr,iqn,irn->in", slopes, giants, babies) * slope
    np.testing.assert_allclose(pulled, expected, atol=1e-8 * giant)


def expanded(span, offset):
    """Kernel and derivative between many places, as the matrices of float32 have them, in float64, and as they are."""
    expansion = chebyshev.expansion(span, torch.float32, (offset,))
    count = (expansion.giant + 1) * (expansion.baby + 1)
    x = np.cos(np.linspace(0, np.pi, 301))
    shape = (expansion.giant, expansion.baby, expansion.stretch, 1, len(x))
    buffers = Polynomials(*shape, torch.empty(Polynomials.numbers(*shape), dtype=torch.float64))
    buffers.argument.copy_(torch.from_numpy(x))
    buffers.fill()
    products = (buffers.giant[0][:, None] * buffers.baby[0]).reshape(count, -1).T
    both = products @ expansion.matrices.double()  # a row for each source
    slope = buffers.slope[0, 0] if expansion.stretch else 1
    difference = x - x[:, None] - offset  # of the target, less the source
    exact = np.exp(-((span / 2 * difference) ** 2))
    derivative = 2 * -2 * (span / 2) ** 2 * difference * exact
    return both[:, :count] @ products.T, exact, (both[:, count:] @ products.T) * slope, derivative


LEVELS = [*range(0, 260, 7), *range(126, 132)]  # on both sides of where places begin to be stretched


@pytest.mark.parametrize("level", LEVELS)
def test_the_series_is_the_kernel_within_eps(level):
    span = chebyshev.span_of(level)
    offsets = (0.0, 2.0, -2.0) if span < chebyshev._LONG else (0.0,)
    for offset in offsets:
        value, exact, slope, derivative = expanded(span, -offset)
        assert exact.max() > 0.9 and np.abs(derivative).max() > 0.1  # not vacuous
        np.testing.assert_allclose(value, exact, rtol=0, atol=4e-7)
        np.testing.assert_allclose(slope, derivative, rtol=0, atol=4e-5 * span)


def test_levels_of_tensors_are_those_of_numbers_and_reach_their_spans():
    spans = torch.tensor([0.0, 0.3, 1.0, 1.001, 7.0, 123.0, 2000.0])
    levels = chebyshev.levels_of(spans).tolist()
    assert levels == [chebyshev.level_of(float(span)) for span in spans]
    assert all(chebyshev.span_of(level) >= span * (1 - 1e-6) for level, span in zip(levels, spans, strict=True))
    assert all(chebyshev.span_of(level - 1) < span for level, span in zip(levels[3:], spans[3:], strict=True))


@pytest.mark.parametrize("terms", [*range(1, 70), 100, 333, 900])
def test_steps_reach_the_terms_with_few_polynomials(terms):
    steps = chebyshev.cheapest_steps(terms)
    assert (steps.giant + 1) * (steps.baby + 1) >= terms
    assert steps.giant + steps.baby <= 2.6 * math.sqrt(terms) + 3  # the point of two kinds of steps


def test_a_second_backward_pass_gives_the_same_gradient():
    a = torch.randn(6, 50, requires_grad=True)
    total = kernels.pair_sum(a, 0.7)
    [first] = torch.autograd.grad(3 * total, a, retain_graph=True)
    first = first.clone()
    [second] = torch.autograd.grad(2 * total, a)
    np.testing.assert_allclose(second, first * 2 / 3, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6, 77), (6, 400)])
@pytest.mark.parametrize("scale", [1, 1000], ids=["usual", "wide"])
def test_what_is_kept_between_calls_was_made_for_all_modes(dtype, shape, scale):
    release_memory()
    chebyshev.expansion.cache_clear()
    chebyshev.terms_needed.cache_clear()
    a = torch.randn(*shape, dtype=dtype)
    a[:, 0] *= scale
    with torch.inference_mode(), torch.device("meta"):
        first = kernels.pair_sum(a, 0.7)
    leaf = a.clone().requires_grad_()
    kernels.pair_sum(leaf, 0.7).backward()
    assert torch.equal(first, kernels.pair_sum(a, 0.7)) and leaf.grad.isfinite().all()


@pytest.mark.parametrize(
    ("activations", "expected"),
    [
        (torch.randn(16, 8), "tiles"),
        (torch.randn(16, 512), "series"),
        (torch.randn(16, 512) + 1e4, "series"),
        (torch.zeros(16, 512), "series"),
        (torch.linspace(0, 1e5, 512).repeat(16, 1), "sorted"),
        (torch.linspace(0, 1e5, 60).repeat(16, 1), "tiles"),
    ],
)
def test_the_rule_picks_the_kernel_by_cost(activations, expected, monkeypatch):
    used = []
    for name in ("tiles", "series", "sorted"):
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
    levels = chebyshev.levels_of(a.amax(1) - a.amin(1))
    buckets = dispatch._buckets(levels, 240, 256)
    assert [members.tolist() for members, number in buckets if number is None] == [[3]]
    assert sorted(torch.cat([members for members, _ in buckets]).tolist()) == list(range(512))
    assert all(levels[members].max() <= number < 130 for members, number in buckets if number is not None)


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
