"""The summary of all bounds."""

from dataclasses import replace

import pytest

from hf_diversity import theory

INPUTS = theory.BoundInputs(num_units=64, num_samples=50_000, c1=1.0, c3=(1.0,), c4=1.0, d_min=0.5)


def rows(summary):
    return {(row.quantity, row.constant): row for row in summary.rows}


def test_every_bound_is_there_with_and_without_diversity():
    found = rows(theory.summary(INPUTS, c2=2.0, delta=0.1, contraction="one_sided"))
    assert len(found) == 8
    plain = replace(INPUTS, d_min=0.0)
    for words, constant, output in (
        ("sqrt J", "sqrt_j", theory.output_bound),
        ("Bhatia-Davis", "bhatia_davis", theory.output_bound_bhatia_davis),
    ):
        assert found["|f(x)|", words].with_diversity == output(64, 1.0, 1.0, 0.5)
        assert found["|f(x)|", words].without_diversity == 64
        options = {"delta": 0.1, "constant": constant, "contraction": "one_sided"}
        for loss, bound in (
            ("squared loss", lambda i, **options: theory.squared_loss_bound(i, 2.0, **options)),
            ("hinge loss", theory.hinge_loss_bound),
            ("logistic loss", theory.logistic_loss_bound),
        ):
            row = found[loss, words]
            assert row.estimation == bound(INPUTS, **options)
            assert row.with_diversity == row.estimation.value < row.without_diversity
            assert row.without_diversity == bound(plain, **options).value


def test_the_column_without_diversity_has_no_correction():
    diverse = theory.summary(replace(INPUTS, probability=0.5))
    assert rows(diverse)["squared loss", "sqrt J"].without_diversity == pytest.approx(
        theory.squared_loss_bound(replace(INPUTS, d_min=0.0), 1.0).value
    )
    assert rows(diverse)["squared loss", "sqrt J"].change > 0  # a condition that often fails costs more than it gives


def test_a_vacuous_bound_is_called_so_with_the_samples_it_needs():
    summary = theory.summary(INPUTS)
    assert summary.vacuous
    row = rows(summary)["squared loss", "sqrt J"]
    assert row.verdict == "vacuous; needs N of about 1.6e+10"
    assert str(summary).count("vacuous; needs N") == 6
    many = theory.summary(replace(INPUTS, num_samples=10**13))
    assert not many.vacuous and str(many).count("not vacuous") == 6
    hopeless = theory.summary(replace(INPUTS, probability=0.5, num_samples=10**13))
    assert rows(hopeless)["squared loss", "sqrt J"].verdict == "vacuous for any N"


def test_the_table_says_what_it_was_made_of():
    inputs = replace(INPUTS, c5_measured=0.999, probability=0.9, hidden_bias=(0.0,))
    text = str(theory.summary(inputs, c5="measured", contraction="one_sided"))
    for words in (
        "probability 0.95, one-sided contraction, C5 measured", "M = 64 units, N = 50000 samples", "C5 = 1 by formula",
        "0.999 measured", "d = 0.5 of at most 0.5034", "P(D(x) >= d^2) >= 0.9", "estimation error", "13.4 %", "50 %",
    ):  # fmt: skip
        assert words in text
    assert max(map(len, text.splitlines())) < 150


def test_no_output_weights_at_all():
    """Every bound is 0 or that of its second term; nothing divides by 0."""
    found = rows(theory.summary(replace(INPUTS, c4=0.0)))
    assert found["|f(x)|", "sqrt J"].with_diversity == found["|f(x)|", "sqrt J"].change == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"c2": -1.0}, "c2 is -1.0"), ({"delta": 0}, "delta is 0"), ({"c5": "measured"}, "c5_measured is None")],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        theory.summary(INPUTS, **options)
