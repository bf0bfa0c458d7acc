"""The bounds of the estimation error: by hand, and against the exact truth where every outcome can be enumerated."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_diversity import theory

ONES = theory.BoundInputs(num_units=2, num_samples=100, c1=1.0, c3=(1.0,), c4=1.0)
LOSSES = {
    "squared": lambda inputs, **options: theory.squared_loss_bound(inputs, 2.0, **options),
    "hinge": theory.hinge_loss_bound,
    "logistic": theory.logistic_loss_bound,
}
TRUE_LOSSES = {
    "squared": lambda f, y: (f - y) ** 2 / 2,
    "hinge": lambda f, y: np.maximum(0, 1 - y * f),
    "logistic": lambda f, y: np.log(1 + np.exp(-y * f)),
}
LABEL = {"squared": 2.0, "hinge": 1.0, "logistic": 1.0}
TINY = 1e-200  # so small a delta that the second term, not the complexity, is most of the bound
many = settings(max_examples=200, deadline=None, derandomize=True)


@st.composite
def classes(draw):
    """Inputs with all constants, one to three hidden layers."""
    size = st.floats(0.01, 5)
    depth = draw(st.integers(1, 3))
    inputs = theory.BoundInputs(
        num_units=draw(st.integers(2, 100)), num_samples=draw(st.integers(1, 10**5)), c1=draw(size),
        c3=tuple(draw(size) for _ in range(depth)), c4=draw(size), lipschitz=draw(size),
        phi_zero=draw(st.floats(0, 2)),
        hidden_bias=tuple(draw(st.floats(0, 1)) for _ in range(depth)), output_bias=draw(st.floats(0, 1)),
    )  # fmt: skip
    limit = theory.largest_distance(inputs.num_units, inputs.c5_formula)
    return replace(
        inputs, d_min=draw(st.floats(0, 1)) * limit, probability=draw(st.sampled_from([1.0, 0.9, 0.2, 0.0]))
    )


OPTIONS = st.fixed_dictionaries({
    "constant": st.sampled_from(["sqrt_j", "bhatia_davis"]),
    "contraction": st.sampled_from(["two_sided", "one_sided"]),
    "delta": st.sampled_from([0.5, 0.05, 1e-9, TINY]),
})  # fmt: skip


# ---- by hand


def test_the_squared_loss_by_hand():
    """M = 2, N = 100, all else 1: sqrt J = 2, R(F) <= 2 * 2 / 10; delta = 2/e^2 makes the last root 0.2."""
    bound = theory.squared_loss_bound(ONES, 1.0, delta=2 / math.e**2)
    assert bound.output == 2 and theory.rademacher_bound(ONES) == pytest.approx(0.4)
    assert bound.complexity == pytest.approx(8 * 3 * 0.4)
    assert bound.confidence == pytest.approx(0.5 * 9 * 0.2)
    assert bound.correction == 0 and bound.value == pytest.approx(10.5)
    assert bound.trivial == 0.5 and bound.largest_loss == 4.5
    tighter = theory.squared_loss_bound(ONES, 1.0, delta=2 / math.e**2, contraction="one_sided")
    assert tighter.complexity == pytest.approx(4 * 3 * 0.4) and tighter.confidence == bound.confidence


def test_hinge_and_logistic_loss_by_hand():
    hinge = theory.hinge_loss_bound(ONES, delta=2 / math.e**2)
    assert hinge.value == pytest.approx(8 * 0.4 + 3 * 0.2) and hinge.trivial == 1
    logistic = theory.logistic_loss_bound(ONES, delta=2 / math.e**2)
    assert logistic.complexity == pytest.approx(8 * 0.4 / (1 + math.exp(-2)))
    assert logistic.confidence == pytest.approx(math.log(1 + math.exp(2)) * 0.2)
    assert logistic.trivial == pytest.approx(0.6931471806)


def test_diversity_by_hand():
    """M = 2 and d^2 = 1/2: sqrt J = sqrt 3 and Bhatia-Davis 1."""
    diverse = replace(ONES, d_min=math.sqrt(0.5))
    for constant, r in (("sqrt_j", math.sqrt(3)), ("bhatia_davis", 1.0)):
        bound = theory.squared_loss_bound(diverse, 1.0, delta=2 / math.e**2, constant=constant)
        assert bound.value == pytest.approx(8 * (r + 1) * 0.4 + 0.5 * (r + 1) ** 2 * 0.2, rel=1e-6)
        with_q = theory.squared_loss_bound(
            replace(diverse, probability=0.75), 1.0, delta=2 / math.e**2, constant=constant
        )
        assert with_q.value - bound.value == pytest.approx(0.25 * (4.5 - 0.5 * (r + 1) ** 2), rel=1e-6)


def test_an_extremely_small_delta_by_hand():
    """delta = 2/e^200 makes s = 1: of (B0 - B) s = 1 half of the complexity, 0.8, pays all but 0.2, if Q < 1."""
    diverse = replace(ONES, d_min=math.sqrt(0.5), probability=0.75)
    options = {"delta": 2 * math.exp(-200), "constant": "bhatia_davis", "contraction": "one_sided"}
    bound = theory.hinge_loss_bound(diverse, **options)
    assert bound.complexity == pytest.approx(1.6) and bound.correction == pytest.approx(0.25, rel=1e-6)
    assert bound.confidence == pytest.approx(2 * 2 + 0.2, rel=1e-6)
    certain = theory.hinge_loss_bound(replace(diverse, probability=1.0), **options)
    assert certain.confidence == pytest.approx(2 * 2, rel=1e-6)


def test_the_first_term_of_all_constants_one():
    """All constants 1, M = 64, N = 50,000: the first term of the squared loss is about 300."""
    bound = theory.squared_loss_bound(replace(ONES, num_units=64, num_samples=50_000), 1.0)
    assert bound.complexity == pytest.approx(8 * 65 * 2 * 64 / math.sqrt(50_000)) and 297 < bound.complexity < 298
    assert bound.vacuous


def test_deep_networks_by_hand():
    """Two hidden layers: R_1 = 2 (3 * 5 + .5) + .25, R_2 = 2 (2 R_1 + 1) + .25, all over sqrt N; C5 likewise."""
    deep = theory.BoundInputs(
        num_units=4, num_samples=100, c1=5.0, c3=(3.0, 2.0), c4=0.5, phi_zero=0.25, hidden_bias=(0.5, 1.0),
        output_bias=3.0,
    )  # fmt: skip
    r1 = 2 * 15.5 + 0.25
    assert theory.rademacher_bound(deep) == pytest.approx((0.5 * 4 * (2 * (2 * r1 + 1) + 0.25) + 3) / 10)
    assert deep.c5_formula == pytest.approx(2 * (15.5 + 0.25) + 1 + 0.25)
    assert theory.hinge_loss_bound(deep).output == pytest.approx(4 * 0.5 * deep.c5_formula + 3)


def test_the_measured_c5_makes_smaller_bounds():
    inputs = replace(ONES, c5_measured=0.5)
    assert theory.squared_loss_bound(inputs, 1.0).output == 2
    assert theory.squared_loss_bound(inputs, 1.0, c5="measured").output == 1


# ---- properties


@pytest.mark.parametrize("loss", LOSSES)
@given(inputs=classes(), options=OPTIONS)
@many
def test_what_is_tighter_is_never_larger(loss, inputs, options):
    bound = LOSSES[loss](inputs, **options)
    assert bound.value == bound.complexity + bound.confidence + bound.correction
    assert LOSSES[loss](inputs, **options | {"constant": "bhatia_davis"}).complexity <= bound.complexity * (1 + 1e-12)
    assert LOSSES[loss](inputs, **options | {"contraction": "one_sided"}).value <= bound.value * (1 + 1e-12)
    certain = LOSSES[loss](replace(inputs, probability=1.0), **options)
    assert certain.value <= bound.value * (1 + 1e-12)
    tighter = LOSSES[loss](replace(inputs, probability=1.0), **options | {"constant": "bhatia_davis"})
    assert tighter.value <= certain.value * (1 + 1e-12)
    assert bound.trivial <= bound.largest_loss * (1 + 1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@given(inputs=classes(), options=OPTIONS, shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@many
def test_more_diversity_never_raises_a_bound_that_is_certain(loss, inputs, options, shares):
    limit = theory.largest_distance(inputs.num_units, inputs.c5_formula)
    low, high = (
        LOSSES[loss](replace(inputs, d_min=share * limit, probability=1.0), **options) for share in sorted(shares)
    )
    assert high.value <= low.value * (1 + 1e-12)
    zero = LOSSES[loss](theory.without_diversity(inputs), **options)
    assert low.value <= zero.value * (1 + 1e-12)
    # Without diversity Q means nothing
    assert LOSSES[loss](replace(inputs, d_min=0.0), **options).value == zero.value


@pytest.mark.parametrize("loss", LOSSES)
@given(inputs=classes(), options=OPTIONS)
@many
def test_bounds_vanish_with_many_samples_but_for_the_correction(loss, inputs, options):
    now, later = (LOSSES[loss](replace(inputs, num_samples=n), **options) for n in (100, 10**12))
    assert later.complexity + later.confidence == pytest.approx((now.complexity + now.confidence) / 1e5, rel=1e-9)
    assert later.correction == now.correction
    if inputs.probability == 1:
        assert later.correction == 0


@pytest.mark.parametrize("loss", LOSSES)
@given(inputs=classes(), options=OPTIONS)
@many
def test_the_samples_needed_are_the_fewest(loss, inputs, options):
    bound = LOSSES[loss](inputs, **options)
    needed = bound.samples_needed
    if needed is None:
        assert bound.correction >= bound.trivial and bound.vacuous
        return
    assert not LOSSES[loss](replace(inputs, num_samples=math.ceil(needed * (1 + 1e-9))), **options).vacuous
    fewer = math.floor(needed * (1 - 1e-9)) - 1
    if fewer >= 1:
        assert LOSSES[loss](replace(inputs, num_samples=fewer), **options).vacuous


@pytest.mark.parametrize("loss", LOSSES)
@given(inputs=classes(), options=OPTIONS, delta=st.floats(1e-5, 0.99))
@many
def test_a_condition_that_may_fail_costs_the_correction_alone_for_usual_delta(loss, inputs, options, delta):
    """The module says that the complexity pays for the rest, and that (1 - Q) B0 is more."""
    options = options | {"delta": delta}
    certain, bound = LOSSES[loss](replace(inputs, probability=1.0), **options), LOSSES[loss](inputs, **options)
    assert bound.confidence == pytest.approx(certain.confidence, rel=1e-12)
    assert bound.correction <= (1 - inputs.probability) * bound.largest_loss


# ---- the exact estimation error: classes {f, -f} on one or two inputs, in which all samples can be counted


def log_binomial_tail(n, p):
    """log P(at most n/2 of n are drawn), each with probability p."""
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n // 2 + 1)
    logs = factorial[n] - factorial[k] - factorial[n - k] + k * np.log(p) + (n - k) * np.log1p(-p)
    return logs.max() + np.log(np.exp(logs - logs.max()).sum())


def test_the_tail_is_the_binomial_one():
    exact = sum(math.comb(11, k) * 0.7**k * 0.3 ** (11 - k) for k in range(6))
    assert math.exp(log_binomial_tail(11, 0.7)) == pytest.approx(exact, rel=1e-12)


def largest_error(log_failure, error, delta, grid):
    """The largest estimation error that occurs with probability above delta, over problems p in (1/2, 1)."""
    return max(error(p) for p in grid if log_failure(p) > math.log(delta))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("activations", "constant"),
    [((1.0, 1.0), "sqrt_j"), ((1.0, 1.0), "bhatia_davis"), ((1.0, 0.0), "bhatia_davis"), ((1.0, 0.0), "sqrt_j")],
)
@pytest.mark.parametrize("delta", [0.05, TINY])
def test_no_estimation_error_exceeds_its_bound(loss, activations, constant, delta):
    """One input, M = 2, f = +-(a_1 + a_2), y = +C2 with probability p > 1/2. The minimiser of the empirical risk
    is wrong when at most half of the labels drawn are +C2 (a tie goes against it); its excess risk is then known.
    """
    samples, y, grid = 200_000, LABEL[loss], 0.5 + np.geomspace(1e-4, 0.1, 100)
    f, d = sum(activations), float(np.std(activations, ddof=1))
    apart = float(TRUE_LOSSES[loss](-f, y) - TRUE_LOSSES[loss](f, y))
    truth = largest_error(lambda p: log_binomial_tail(samples, p), lambda p: (2 * p - 1) * apart, delta, grid)
    inputs = replace(ONES, num_samples=samples, d_min=d)
    bound = LOSSES[loss](inputs, delta=delta, constant=constant, contraction="one_sided")
    assert 0 < truth <= bound.value
    assert not bound.vacuous
    if delta == TINY and not (d > 0 and constant == "sqrt_j"):  # there |f| = 1 and sqrt J = 1.73
        # So a bound that is 0.7 of this one would be false (0.55 with d > 0, where R(F) is loose)
        assert truth > (0.7 if d == 0 else 0.55) * bound.value


def log_trinomial_tail(n, bad, p):
    """log P(n+ <= n-): each of n is + with probability bad * p, - with bad * (1 - p), and neither with 1 - bad."""
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    plus, minus = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    inside = (plus <= minus) & (plus + minus <= n)
    plus, minus = plus[inside], minus[inside]
    neither = n - plus - minus
    logs = factorial[n] - factorial[plus] - factorial[minus] - factorial[neither]
    logs = logs + plus * np.log(bad * p) + minus * np.log(bad * (1 - p)) + neither * np.log(1 - bad)
    return logs.max() + np.log(np.exp(logs - logs.max()).sum())


def test_a_condition_that_often_fails_needs_the_correction():
    """Units differ on a tenth of the inputs only. Claiming d for all of them gives a bound that is false."""
    samples, bad = 2000, 0.9
    inputs = replace(ONES, num_samples=samples, d_min=math.sqrt(0.5), probability=1 - bad)
    options = {"delta": TINY, "constant": "bhatia_davis", "contraction": "one_sided"}
    # Where the units differ, y = 0, and f = 1 is as good as -1; elsewhere f = +-2 and y = +-2: losses 0 and 8
    truth = largest_error(
        lambda p: log_trinomial_tail(samples, bad, p),
        lambda p: bad * 8 * (2 * p - 1),
        TINY,
        np.arange(0.78, 0.9, 0.01),
    )
    claimed = theory.squared_loss_bound(replace(inputs, probability=1.0), 2.0, **options)
    corrected = theory.squared_loss_bound(inputs, 2.0, **options)
    assert claimed.value < truth <= corrected.value


@pytest.mark.parametrize("loss", LOSSES)
def test_no_random_problem_exceeds_its_bound(loss):
    """Two inputs with a label each, 20 networks: every one of the N + 1 samples is tried, with its probability."""
    generator, samples, delta, seen = np.random.default_rng(1), 5000, 0.05, 0
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, samples + 1)))])
    k = np.arange(samples + 1)
    for _ in range(60):
        x, y = generator.uniform(-1, 1, (2, 2)), LABEL[loss] * generator.choice([-1.0, 1.0], 2)
        w, v = generator.uniform(-1, 1, (20, 3, 2)), generator.choice([-1.0, 1.0], (20, 3))
        a = np.maximum(np.einsum("xf,cuf->cxu", x, w), 0)
        losses = TRUE_LOSSES[loss](np.einsum("cxu,cu->cx", a, v), y)
        p = generator.uniform(0.05, 0.95)
        risks = losses @ np.array([p, 1 - p])
        empirical = losses @ np.array([k, samples - k])
        error = risks[empirical.argmin(0)] - risks.min()
        probability = np.exp(
            factorial[samples] - factorial[k] - factorial[samples - k] + k * np.log(p) + (samples - k) * np.log1p(-p)
        )
        assert probability.sum() == pytest.approx(1)
        inputs = theory.BoundInputs(
            num_units=3, num_samples=samples, c1=float(np.sqrt((x**2).sum(1)).max()),
            c3=(float(np.sqrt((w**2).sum(2)).max()),), c4=1.0, d_min=float(np.sqrt(a.var(2, ddof=1).min())),
        )  # fmt: skip
        bound = LOSSES[loss](inputs, delta=delta, constant="bhatia_davis", contraction="one_sided")
        assert probability[error > bound.value].sum() <= delta
        seen += probability[error > 1e-4 * bound.value].sum() > 1e-6
    assert seen > 5  # the minimiser is not always the best


# ---- bad input


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"delta": 0.0}, ValueError, r"delta is 0.0.*in \(0, 1\); type delta=0.05"),
        ({"delta": 1.0}, ValueError, "delta is 1.0"),
        ({"delta": -0.1}, ValueError, "delta is -0.1"),
        ({"delta": float("nan")}, ValueError, "delta is nan"),
        ({"delta": "small"}, TypeError, "delta is 'small'"),
        ({"constant": "sqrt"}, ValueError, "constant is 'sqrt': unknown; type constant='sqrt_j' or"),
        ({"contraction": "none"}, ValueError, "contraction is 'none'.*contraction='one_sided'"),
        ({"c5": "largest"}, ValueError, "c5 is 'largest'.*c5='measured'"),
        ({"c5": "measured"}, ValueError, "c5_measured is None.*measure_inputs"),
    ],
)
def test_bad_options(loss, options, error, message):
    with pytest.raises(error, match=message):
        LOSSES[loss](ONES, **options)


def test_bad_labels():
    with pytest.raises(ValueError, match="c2 is -1.0: C2, the largest label, must be finite and >= 0"):
        theory.squared_loss_bound(ONES, -1.0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_units": 1}, ValueError, "num_units is 1.*at least 2"),
        ({"num_units": 2.0}, TypeError, "num_units is 2.0.*whole number"),
        ({"num_samples": 0}, ValueError, "num_samples is 0"),
        ({"num_samples": True}, TypeError, "num_samples is True"),
        ({"c1": -1.0}, ValueError, "c1 is -1.0.*>= 0"),
        ({"c1": float("inf")}, ValueError, "c1 is inf.*finite"),
        ({"c3": 1.0}, TypeError, r"c3 is 1.0.*type c3=\(1.0,\)"),
        ({"c3": ()}, ValueError, r"c3 is empty.*type c3=\(1.0,\)"),
        ({"c3": (-1.0,)}, ValueError, "c3 is -1.0"),
        ({"c4": float("nan")}, ValueError, "c4 is nan"),
        ({"c4": None}, TypeError, "c4 is None"),
        ({"lipschitz": -1.0}, ValueError, "lipschitz is -1.0"),
        ({"phi_zero": -0.5}, ValueError, "phi_zero is -0.5"),
        ({"hidden_bias": (1.0, 1.0)}, ValueError, "hidden_bias has 2 numbers and c3 1"),
        ({"output_bias": -1.0}, ValueError, "output_bias is -1.0"),
        ({"probability": 1.1}, ValueError, r"probability is 1.1: Q must be in \[0, 1\]"),
        ({"probability": -0.1}, ValueError, "probability is -0.1"),
        ({"d_min": -0.1}, ValueError, "d_min is -0.1"),
        ({"d_min": 0.71}, ValueError, "d_min is 0.71: 2 activations between 0 and c5=1.0 differ by at most.*0.707107"),
        ({"c5_measured": 1.1}, ValueError, r"c5_measured is 1.1: above L C1 C3 \+ \|phi\(0\)\| = 1,"),
        ({"c5_measured": 0.5, "d_min": 0.5}, ValueError, "d_min is 0.5.*c5=0.5"),
    ],
)
def test_bad_constants(changes, error, message):
    with pytest.raises(error, match=message):
        replace(ONES, **changes)


def test_rounding_of_a_measured_distance_is_no_error():
    d = theory.largest_distance(2, 1.0) * (1 + 1e-7)
    assert theory.output_bound_bhatia_davis(2, 1.0, 1.0, d) == 1.0
