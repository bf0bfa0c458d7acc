"""The bounds of |f(x)|: identities in exact arithmetic, what attains them, and random networks that stay below."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_diversity import theory

BOUNDS = {"sqrt_j": theory.output_bound, "bhatia_davis": theory.output_bound_bhatia_davis}
many = settings(max_examples=300, deadline=None, derandomize=True)
rationals = st.fractions(min_value=0, max_value=3, max_denominator=50)
constants = st.just(0.0) | st.floats(1e-6, 1e3)


def distance(a):
    """D of one sample, from the definition: a sum over all ordered pairs of units."""
    units = len(a)
    return sum((p - q) ** 2 for i, p in enumerate(a) for j, q in enumerate(a) if i != j) / (2 * units * (units - 1))


def j_of_the_paper(units, c4, c5, d_squared):
    return c4**2 * (units * c5**2 + units * (units - 1) * (c5**2 - d_squared))


# ---- exact arithmetic


@given(st.lists(rationals, min_size=2, max_size=9))
@many
def test_the_average_distance_is_the_unbiased_variance(a):
    mean = sum(a) / Fraction(len(a))
    assert distance(a) == sum((x - mean) ** 2 for x in a) / Fraction(len(a) - 1)


@given(st.lists(rationals, min_size=2, max_size=9))
@many
def test_the_square_of_the_sum_splits_into_squares_and_distance(a):
    units = len(a)
    assert sum(a) ** 2 == units * sum(x**2 for x in a) - units * (units - 1) * distance(a)


@given(st.lists(rationals, min_size=2, max_size=9), st.lists(st.integers(-4, 4), min_size=9, max_size=9))
@many
def test_both_bounds_hold_in_exact_arithmetic(a, v):
    units, c5, c4 = len(a), max(a), Fraction(max(1, *map(abs, v)))
    output = sum(x * w for x, w in zip(a, v, strict=False))
    d_squared = distance(a)
    assert output**2 <= j_of_the_paper(units, c4, c5, d_squared)
    # f <= C4 M (C5/2 + root) without the root: either f/(C4 M) <= C5/2, or the square of what is above C5/2 is in it
    above = abs(output) / (c4 * units) - c5 / 2
    assert above <= 0 or above**2 <= c5**2 / 4 - d_squared * Fraction(units - 1, units)
    assert d_squared <= c5**2 * Fraction(units, 4 * (units - 1))


@given(st.integers(2, 40), rationals, rationals)
@many
def test_at_the_largest_distance_j_is_three_quarters_of_its_value_without_diversity(units, c4, c5):
    limit = c5**2 * Fraction(units, 4 * (units - 1))
    assert j_of_the_paper(units, c4, c5, limit) == Fraction(3, 4) * (units * c4 * c5) ** 2
    assert c5**2 / 4 - limit * Fraction(units - 1, units) == 0  # of Bhatia-Davis, M C4 C5 / 2 is left


@pytest.mark.parametrize("units", [2, 3, 4, 5, 8])
def test_the_largest_distance_is_that_of_all_activations_at_the_ends(units):
    """D is convex in each activation, so its maximum over [0, 1]^M is at a corner: all are tried."""
    largest = max(distance([Fraction(x) for x in corner]) for corner in product((0, 1), repeat=units))
    limit = Fraction(units, 4 * (units - 1))
    assert largest == (limit if units % 2 == 0 else Fraction(units + 1, 4 * units)) <= limit
    assert theory.largest_distance(units, 3.0) == pytest.approx(3 * math.sqrt(limit), rel=1e-14)


# ---- the functions


@given(st.integers(2, 10**6), constants, constants, st.floats(0, 1))
@many
def test_the_functions_are_the_formulas(units, c4, c5, share):
    d = share * theory.largest_distance(units, c5)
    j = j_of_the_paper(Fraction(units), Fraction(c4), Fraction(c5), Fraction(d) ** 2)
    assert theory.output_bound(units, c4, c5, d) == pytest.approx(math.sqrt(j), rel=1e-12)
    root = math.sqrt(max(0.0, float(Fraction(c5) ** 2 / 4 - (units - 1) * Fraction(d) ** 2 / units)))
    tolerance = c4 * units * c5 * 1e-7  # the root loses half of the digits where d is at its limit
    assert theory.output_bound_bhatia_davis(units, c4, c5, d) == pytest.approx(
        c4 * units * (c5 / 2 + root), rel=1e-12, abs=tolerance
    )


@given(st.integers(2, 10**6), constants, constants, st.floats(0, 1), st.floats(0, 1))
@many
def test_more_diversity_never_raises_a_bound_and_the_tighter_form_is_never_above_the_other(units, c4, c5, one, two):
    limit = theory.largest_distance(units, c5)
    low, high = sorted((one * limit, two * limit))
    for bound in BOUNDS.values():
        assert bound(units, c4, c5, high) <= bound(units, c4, c5, low)
    for d in (low, high):
        paper = theory.output_bound(units, c4, c5, d)
        assert theory.output_bound_bhatia_davis(units, c4, c5, d) <= paper * (1 + 1e-12)
        assert paper >= math.sqrt(3) / 2 * theory.output_bound(units, c4, c5, 0) * (1 - 1e-12)


@pytest.mark.parametrize("units", [2, 3, 64, 1000])
def test_the_limits_of_d(units):
    limit = theory.largest_distance(units, 0.7)
    for bound in BOUNDS.values():
        assert bound(units, 1.3, 0.7, 0.0) == pytest.approx(units * 1.3 * 0.7, rel=1e-14)
        assert bound(units, 1.3, 0.7, limit / 2) < bound(units, 1.3, 0.7, 0.0)
    assert 1 - theory.output_bound(units, 1, 0.7, limit) / (units * 0.7) == pytest.approx(0.1339745962, abs=1e-9)
    assert theory.output_bound_bhatia_davis(units, 1, 0.7, limit) == pytest.approx(units * 0.7 / 2, rel=1e-6)


def test_two_units_by_hand():
    """M = 2, C5 = 1, d^2 = 1/2 is one unit at 1 and one at 0: sqrt J = sqrt 3, and |f| is 1, as Bhatia-Davis says."""
    d = math.sqrt(0.5)
    assert theory.largest_distance(2, 1.0) == pytest.approx(d)
    assert theory.output_bound(2, 1.0, 1.0, d) == pytest.approx(math.sqrt(3))
    assert theory.output_bound_bhatia_davis(2, 1.0, 1.0, d) == pytest.approx(1.0)


@pytest.mark.parametrize("units", [2, 3, 10, 101])
def test_bhatia_davis_is_attained_so_it_cannot_be_improved(units):
    for at_the_top in range((units + 1) // 2, units + 1):
        a = np.zeros(units)
        a[:at_the_top] = 0.9
        d = math.sqrt(a.var(ddof=1))
        bound = theory.output_bound_bhatia_davis(units, 1.5, 0.9, d)
        assert 1.5 * a.sum() == pytest.approx(bound, rel=1e-6)
        assert 1.5 * a.sum() > 0.99 * bound


# ---- random networks


def random_networks(count):
    """Networks of every kind, with the constants they have: `count` times M, C4, C5, D(x) and |f(x)| at one input.

    C5 is the largest activation over 8 inputs, and D and f are those of each, so nothing here uses the bounds.
    """
    generator = np.random.default_rng(0)
    for number in range(count):
        units, features = int(generator.integers(2, 9)), int(generator.integers(1, 6))
        w = generator.standard_normal((units, features)) * generator.choice([0.1, 1.0, 5.0])
        if number % 3 == 0:
            w[:] = np.abs(w)  # aligned with positive inputs: the output comes near its bound
        x = generator.standard_normal((8, features))
        z = (np.abs(x) if number % 3 == 0 else x) @ w.T
        a = [np.maximum(z, 0), 1 / (1 + np.exp(-z)), np.clip(z, 0, 1), np.abs(np.tanh(z))][number % 4]
        v = generator.choice([-1.0, 1.0], units) if number % 2 else generator.uniform(-1, 1, units)
        if number % 5 == 0:
            v = np.abs(v)
        for row in a:
            yield units, np.abs(v).max(), a.max(), float(distance(row)), abs(float(row @ v))


@pytest.fixture(scope="module")
def networks():
    return list(random_networks(10_000))


def violations(networks, bound, factor):
    return sum(f > factor * bound(m, c4, c5, math.sqrt(d)) * (1 + 1e-9) for m, c4, c5, d, f in networks)


@pytest.mark.parametrize("bound", BOUNDS)
def test_no_network_exceeds_a_bound(networks, bound):
    assert len(networks) == 80_000 and np.mean([d > 0 for _, _, _, d, _ in networks]) > 0.9
    assert violations(networks, BOUNDS[bound], 1.0) == 0


@pytest.mark.parametrize("bound", BOUNDS)
def test_networks_exceed_a_bound_with_a_wrong_constant(networks, bound):
    assert violations(networks, BOUNDS[bound], 0.7) > 100
    assert violations(networks, BOUNDS[bound], 0.9) > 20


def test_networks_exceed_bhatia_davis_with_too_much_diversity(networks):
    """D is measured without the 2 of its 1/(2M(M-1)): it is then twice as large, and the bound is false."""
    exceeded = 0
    for m, c4, c5, d, f in networks:
        if math.sqrt(2 * d) <= theory.largest_distance(m, c5):
            exceeded += f > theory.output_bound_bhatia_davis(m, c4, c5, math.sqrt(2 * d)) * (1 + 1e-9)
    assert exceeded > 10


def test_signed_activations_need_the_distance_of_their_absolute_values():
    """Nine units at 1 and one at -1/2: with D of the signed values both bounds are false, as the module says."""
    a, v = np.array([1.0] * 9 + [-0.5]), np.array([1.0] * 9 + [-1.0])
    assert a.var(ddof=1) == pytest.approx(0.225) and a @ v == 9.5
    assert theory.output_bound(10, 1.0, 1.0, a.std(ddof=1)) == pytest.approx(8.93, abs=0.005)
    for bound in BOUNDS.values():
        assert bound(10, 1.0, 1.0, a.std(ddof=1)) < 9.5 <= bound(10, 1.0, 1.0, np.abs(a).std(ddof=1))
