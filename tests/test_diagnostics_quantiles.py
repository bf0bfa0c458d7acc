"""Quantiles of D(x): exact ones are NumPy's, counted ones are within their bound, whatever the order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_diversity import diagnostics as dg

BOUND = 1 / 8000


def values(size, seed=3, spread=2.0):
    return torch.from_numpy(np.random.default_rng(seed).lognormal(sigma=spread, size=size))


def by_batches(numbers, sizes, exact_samples):
    meter = dg.QuantileMeter(exact_samples)
    for batch in numbers.split(sizes):
        meter.add(batch)
    return meter.compute()


@pytest.mark.parametrize("found", [dg.distance_quantiles, lambda v: by_batches(v, 10, 37)])
def test_quantiles_are_numpys(found):
    distances = values(37)
    quantiles = found(distances)
    assert tuple(quantiles) == dg.PROBABILITIES
    for p, value in quantiles.items():
        assert value == pytest.approx(np.quantile(distances.numpy(), p), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-30, 1e30), min_size=3, max_size=40), st.integers(1, 9), st.randoms(use_true_random=False))
def test_counted_quantiles_are_within_the_bound(numbers, size, shuffle):
    counted = by_batches(torch.tensor(numbers, dtype=torch.float64), size, exact_samples=2)
    for p, value in counted.items():
        assert value == pytest.approx(np.quantile(numbers, p), rel=BOUND)
    assert counted[0.0] == min(numbers) and counted[1.0] == max(numbers)
    shuffle.shuffle(numbers)
    assert by_batches(torch.tensor(numbers, dtype=torch.float64), 3, exact_samples=2) == counted


def test_many_values_are_counted_and_not_kept():
    numbers = values(100_000)
    meter = dg.QuantileMeter(exact_samples=1000)
    for batch in numbers.split(7000):
        meter.add(batch)
    assert not meter._kept
    counted, exact = meter.compute(), dg.distance_quantiles(numbers)
    assert counted == pytest.approx(exact, rel=BOUND)
    assert counted[0.5] != exact[0.5]  # it did count


def test_zeros_and_huge_values_are_counted():
    counted = by_batches(torch.tensor([0.0, 0.0, 0.0, 1e300, 1e300], dtype=torch.float64), 2, exact_samples=1)
    assert counted[0.0] == 0.0 and counted[0.25] < 1e-38 and counted[1.0] == 1e300


@pytest.mark.parametrize("compute", [lambda p: dg.distance_quantiles(values(5), p), lambda p: kept().compute(p)])
def test_bad_input_is_an_error(compute):
    with pytest.raises(ValueError, match="probability is 5"):
        compute([5])
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        dg.QuantileMeter().compute()
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        dg.distance_quantiles(torch.eye(2))


def kept():
    meter = dg.QuantileMeter()
    meter.add(values(5))
    return meter
