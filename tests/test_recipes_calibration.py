"""Expected calibration error."""

import numpy as np
import pytest
from common.calibration import expected_calibration_error
from hypothesis import given
from hypothesis import strategies as st


def by_bins(confidences, correct, bins):
    """Average |accuracy - confidence|, bin by bin."""
    error = 0.0
    for place in range(bins):
        own = [
            (c, right)
            for c, right in zip(confidences, correct, strict=True)
            if place / bins < c <= (place + 1) / bins or (place == 0 and c == 0)
        ]
        if own:
            gap = np.mean([right for _, right in own]) - np.mean([c for c, _ in own])
            error += len(own) / len(correct) * abs(gap)
    return error


@given(
    examples=st.lists(st.tuples(st.integers(0, 64), st.booleans()), min_size=1, max_size=40),
    bins=st.sampled_from([1, 2, 8, 16]),
)
def test_it_is_what_its_definition_says(examples, bins):
    # Multiples of 1/64 and powers of two: the edges of the bins are exact.
    confidences, correct = np.array([c / 64 for c, _ in examples]), np.array([right for _, right in examples])
    found = expected_calibration_error(confidences, correct, bins)
    assert found == pytest.approx(by_bins(confidences, correct, bins), abs=1e-12) and 0 <= found <= 1


def test_known_values():
    assert expected_calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0.0)
    assert expected_calibration_error([1.0, 1.0], [False, False]) == pytest.approx(1.0)
    # One bin of .9 with half of it right, one of .5 with all right: (.4 + .5) / 2
    assert expected_calibration_error([0.9, 0.9, 0.5, 0.5], [True, False, True, True]) == pytest.approx(0.45)
    # Float32 softmax may end a hair above 1
    assert expected_calibration_error(np.array([1.0000001], np.float32), [True]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("confidences", "correct", "message"),
    [([], [], "one number for each"), ([0.5], [True, False], "one number for each"), ([2.0], [True], "apply softmax")],
)
def test_bad_input_is_refused(confidences, correct, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(confidences, correct)
