import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_diversity.bandwidth import MedianGamma, distance_histogram, estimate_gamma, log2_median


def all_pairs_median(rows):
    """Median of the non-zero distances over all pairs, by NumPy in float64."""
    a = rows.double().numpy()
    first, second = np.triu_indices(a.shape[1], 1)
    distance = np.abs(a[:, first] - a[:, second])
    return np.median(distance[distance > 0])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gamma_follows_the_median_distance(scale, dtype):
    rows = (torch.randn(400, 60, dtype=torch.float64) * scale).to(dtype)
    expected = 1 / (2 * all_pairs_median(rows) ** 2)
    assert float(estimate_gamma(rows)) == pytest.approx(expected, rel=0.1)


def test_histogram_median_is_the_sampled_median():
    rows = torch.randn(301, 2)  # two units: every pair is the same one
    exact = np.median((rows[:, 0] - rows[:, 1]).abs().numpy())
    assert 2 ** float(log2_median(distance_histogram(rows, 0))) == pytest.approx(exact, rel=0.023)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(2, 20), st.integers(0, 10), st.integers(1, 39))
def test_counts_add_up_over_any_split_and_duplication(samples, units, seed, cut):
    rows = torch.randn(samples, units, generator=torch.Generator().manual_seed(seed))
    whole = distance_histogram(rows, seed)
    split = distance_histogram(rows[:cut], seed) + distance_histogram(rows[cut:], seed)
    assert torch.equal(whole, split)
    assert torch.equal(log2_median(torch.cat([whole])), log2_median(whole * 2))


def test_equal_units_do_not_count_and_nothing_is_nan_free():
    rows = torch.randn(50, 1).expand(50, 4)
    assert distance_histogram(rows, 0).sum() == 0
    assert torch.isnan(estimate_gamma(rows))
    half = torch.cat([rows, rows + torch.tensor([0.0, 0.0, 1.0, 1.0])])
    assert float(estimate_gamma(half)) == pytest.approx(0.5, rel=0.03)  # the non-zero distances are 1


def test_gamma_is_constant_within_a_step_and_moves_between_steps():
    gamma = MedianGamma()
    small, large = torch.randn(64, 8), 10 * torch.randn(64, 8)
    first = gamma.update({"a": small}, 0, False)["a"]
    assert torch.equal(gamma.update({"a": large}, 0, False)["a"], first)  # a second micro-batch of step 0
    second = gamma.update({"a": large}, 1, False)["a"]
    assert second < first
    assert torch.equal(gamma.update({"a": small}, 1, False)["a"], second)


def test_micro_batches_close_the_window_as_one_batch_does():
    rows = torch.randn(64, 8)
    whole, split = MedianGamma(), MedianGamma()
    whole.update({"a": rows}, 0, False)
    for part in rows.split(16):
        split.update({"a": part}, 0, False)
    assert torch.equal(whole.update({"a": rows}, 1, False)["a"], split.update({"a": rows}, 1, False)["a"])


def test_state_continues_bit_for_bit():
    batches = [torch.randn(32, 8) * (1 + i) for i in range(6)]
    whole = MedianGamma()
    expected = [whole.update({"a": b}, i, False)["a"] for i, b in enumerate(batches)]
    first = MedianGamma()
    for i, batch in enumerate(batches[:3]):
        first.update({"a": batch}, i, False)
    second = MedianGamma()
    second.load_state_dict(first.state_dict(3))
    resumed = [second.update({"a": b}, 3 + i, False)["a"] for i, b in enumerate(batches[3:])]
    assert [float(g) for g in expected[3:]] == [float(g) for g in resumed]


def test_a_discarded_step_leaves_no_trace():
    gamma, undisturbed = MedianGamma(), MedianGamma()
    rows = [torch.randn(32, 8) * scale for scale in (1, 1.5, 2)]
    for step, values in enumerate(rows):
        gamma.update({"a": values}, step, False)
        undisturbed.update({"a": values}, step, False)
    broken = torch.cat([rows[0] * 100, torch.full((8, 8), torch.nan)])
    gamma.update({"a": broken}, 3, False)
    gamma.discard_window()
    assert torch.equal(gamma.current("a", 4), undisturbed.current("a", 4))


def test_a_first_step_that_is_discarded_is_as_if_it_had_not_been():
    gamma, fresh = MedianGamma(), MedianGamma()
    gamma.update({"a": torch.full((8, 4), torch.inf)}, 0, False)
    gamma.discard_window()
    assert not gamma.has_estimate
    rows = torch.randn(32, 4)
    assert torch.equal(gamma.update({"a": rows}, 1, False)["a"], fresh.update({"a": rows}, 1, False)["a"])


def test_what_is_not_finite_does_not_count():
    rows = torch.randn(64, 6)
    assert torch.equal(distance_histogram(torch.cat([rows, rows * torch.inf]), 0), distance_histogram(rows, 0))


def test_global_random_state_is_untouched():
    before = torch.random.get_rng_state()
    MedianGamma().update({"a": torch.ones(4, 4)}, 0, False)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("seed", range(20))
def test_a_layer_of_mostly_dead_units_has_a_scale(seed):
    rows = torch.zeros(64, 512)
    rows[:, :4] = torch.randn(64, 4)
    gamma = MedianGamma()
    first = gamma.update({"a": rows}, seed, False)["a"]
    assert 0.02 < float(first) < 50
    assert float(gamma.update({"a": rows}, seed + 1, False)["a"]) > 0


def test_looking_after_a_step_is_what_saving_after_it_gives():
    gamma, other = MedianGamma(), MedianGamma()
    for g in (gamma, other):
        g.update({"a": torch.ones(4, 1) * torch.arange(3.0)}, 0, False)
        g.update({"a": torch.ones(4, 1) * torch.arange(3.0) * 9}, 1, False)
    looked = gamma.current("a", 2)
    other.state_dict(2)
    assert torch.equal(looked, other.current("a", 2)) and torch.equal(looked, gamma.current("a", 2))
