"""Bounds of the estimation error: one function for each loss.

The estimation error is R(f') - R(f*), with R the risk, f' the minimiser of the empirical risk over N independent
samples and f* that of R, both within the class of `BoundInputs`. With probability 1 - delta over the samples it is at
most

    c K R(F) + B sqrt(2 log(2/delta) / N) + (1 - Q) (B0 - B).

R(F) is `rademacher_bound`; r = `output_bound` (or that of Bhatia and Davis) plus the output's bias bounds |f(x)| where
D(x) >= d^2; K is the Lipschitz constant of the loss for |f| <= r, and B the largest loss there; B0 is the largest loss
of all, where |f| <= M C4 C5 plus the bias. c is 8 in the paper's form and 4 in a tighter one.

Derivation, for Q = 1.

1. R(f') - R(f*) = [R - Rhat](f') + [Rhat(f') - Rhat(f*)] + [Rhat - R](f*), Rhat the empirical risk. The middle term is
   <= 0, the others are at most the largest deviation over the class in either direction.
2. Each of these suprema changes by at most B/N with one sample. By McDiarmid's inequality, each exceeds its mean by
   more than B s, s = sqrt(log(2/delta) / (2N)), with probability at most delta/2. Together 2 B s, the second term.
3. By symmetrisation each mean is at most 2 E sup (1/N) sum_i s_i loss(f(x_i), y_i), s_i = +-1. Together 4.
4. Contraction takes the loss off: E sup (1/N) sum_i s_i loss(f(x_i), y_i) <= K R(F). One-sided, without absolute
   values within the supremum, as in step 3, it needs no further factor: c = 4. The form with absolute values (Ledoux
   and Talagrand 1991, theorem 4.12) has a 2, hence the looser c = 8.

Derivation, for P(D(x) >= d^2) >= Q < 1. Let l = loss, lB = min(loss, B), which is K-Lipschitz in f, within [0, B], and
equal to the loss where D(x) >= d^2; R_B its risk.

5. R(f') - R_B(f') <= (1 - Q) (B0 - B), the third term, as l - lB is at most B0 - B, and 0 where D(x) >= d^2.
6. R_B(f') <= Rhat_B(f') + 2 K (c/4) R(F) + B s, as before. Rhat_B(f') <= Rhat(f') <= Rhat(f*).
7. Rhat(f*) <= R(f*) + B0 s by Hoeffding's inequality, for f* is one function. So B s became B0 s. Of the c K R(F)
   above only half was used here. The other half pays for (B0 - B) s whenever delta >= 1e-5; for a smaller delta, what
   is still missing is added to the second term.

The third term is below the simpler (1 - Q) B0, and vanishes at d = 0. It rises with d: with Q < 1 a larger d need not
make the bound smaller.

Limits. It bounds the estimation error, not the gap between training and test, and not the error of f*. It is about the
exact minimiser of the empirical risk in a class fixed before the data came: constants measured on a trained network
describe the class that it lies in, and are an illustration, not a certificate. Diversity lowers r by at most 13.4 %,
or 50 % with the constant of Bhatia and Davis, and R(F) not at all. For real networks the bounds are vacuous by far:
with all constants 1, 64 units and 50,000 samples the first term of the squared loss is about 300, and answering 0 to
everything has a risk of at most 0.5.

Source: after Laakom et al., arXiv 2106.06012; the derivations in these words, steps 5 to 7 and the use of Bhatia and
Davis are this library's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from .checks import check_constant, check_option
from .inputs import BoundInputs, rademacher_bound
from .output import output_bound, output_bound_bhatia_davis

Constant = Literal["sqrt_j", "bhatia_davis"]
Contraction = Literal["two_sided", "one_sided"]
C5Source = Literal["formula", "measured"]

_OUTPUT_BOUNDS = {"sqrt_j": output_bound, "bhatia_davis": output_bound_bhatia_davis}
_CONTRACTION_FACTORS = {"two_sided": 8, "one_sided": 4}


class _Loss(NamedTuple):
    """What the bounds need to know of a loss: its largest slope and value for |f| <= r, and its value at f = 0."""

    name: str
    slope: Callable[[float], float]
    largest: Callable[[float], float]
    at_zero: float


def _squared(c2: float) -> _Loss:
    return _Loss("squared", lambda r: r + c2, lambda r: (r + c2) * (r + c2) / 2, c2 * c2 / 2)


_HINGE = _Loss("hinge", lambda r: 1.0, lambda r: 1 + r, 1.0)
# r + log(1 + exp(-r)) is log(1 + exp(r)) without overflow
_LOGISTIC = _Loss("logistic", lambda r: 1 / (1 + math.exp(-r)), lambda r: r + math.log1p(math.exp(-r)), math.log(2))


@dataclass(frozen=True)
class EstimationBound:
    """A bound of the estimation error, by its terms, in units of the loss.

    Attributes:
        loss: "squared", "hinge" or "logistic".
        output: r, the bound of |f(x)| it was made with.
        complexity: c K R(F).
        confidence: B sqrt(2 log(2/delta) / N), and what Q < 1 adds to it.
        correction: (1 - Q) (B0 - B).
        largest_loss: of the class on any sample; no two risks are further apart.
        trivial: the loss of answering f = 0 to everything, (1/2) C2^2, 1 or log 2. Who does so, without data, has at
            most this excess risk over f*, so a bound that is no smaller tells nothing of the value of learning. It is
            never above `largest_loss`, and at most 1 for hinge and logistic loss.
        num_samples: N.
    """

    loss: str
    output: float
    complexity: float
    confidence: float
    correction: float
    largest_loss: float
    trivial: float
    num_samples: int

    @property
    def value(self) -> float:
        """The bound."""
        return self.complexity + self.confidence + self.correction

    @property
    def vacuous(self) -> bool:
        """Whether it is no smaller than `trivial`."""
        return not self.value < self.trivial

    @property
    def samples_needed(self) -> int | None:
        """The least N with which it would not be vacuous, all else being equal; None if no N is enough.

        Complexity and confidence fall as 1 / sqrt N, the correction does not fall.
        """
        room = self.trivial - self.correction
        if room <= 0:
            return None
        return math.floor(self.num_samples * ((self.complexity + self.confidence) / room) ** 2) + 1


def squared_loss_bound(
    inputs: BoundInputs,
    c2: float,
    *,
    delta: float = 0.05,
    constant: Constant = "sqrt_j",
    contraction: Contraction = "two_sided",
    c5: C5Source = "formula",
) -> EstimationBound:
    """Estimation error of the squared loss, (1/2) (f(x) - y)^2 with |y| <= C2.

    8 (sqrt J + C2) R(F) + (1/2) (sqrt J + C2)^2 sqrt(2 log(2/delta) / N), and for two-layer networks
    R(F) <= (2 L C1 C3 C4 + C4 |phi(0)|) M / sqrt N.

    Derivation: that of the module, with the slope |f - y| <= K = r + C2 and the loss at most B = (1/2) (r + C2)^2.
    The truncated loss min(loss, B) is half the square of f - y cut to [-(r + C2), r + C2], so K-Lipschitz as well.

    Args:
        inputs: the class of networks and N.
        c2: C2, the largest |y|.
        delta: the bound fails with probability at most delta, in (0, 1).
        constant: r is "sqrt_j", the paper's, or "bhatia_davis", never above it.
        contraction: "two_sided", the paper's factor 8, or "one_sided", 4.
        c5: C5 by "formula", or "measured".

    Returns:
        The bound and its terms.

    Raises:
        TypeError: a number is none.
        ValueError: a number is out of range, an option is unknown, or C5 was not measured.
    """
    loss = _squared(check_constant("c2", c2, "C2, the largest label,"))
    return _bound(loss, inputs, delta, constant, contraction, c5)


def hinge_loss_bound(
    inputs: BoundInputs,
    *,
    delta: float = 0.05,
    constant: Constant = "sqrt_j",
    contraction: Contraction = "two_sided",
    c5: C5Source = "formula",
) -> EstimationBound:
    """Estimation error of the hinge loss, max(0, 1 - y f(x)) with y = +-1.

    8 R(F) + (1 + sqrt J) sqrt(2 log(2/delta) / N).

    Derivation: that of the module, with the slope K = 1 and, as y f >= -r, the loss at most B = 1 + r. The truncated
    loss min(loss, B) is 1-Lipschitz as well. Diversity acts on the second term only.

    Args:
        inputs: the class of networks and N.
        delta: the bound fails with probability at most delta, in (0, 1).
        constant: r is "sqrt_j", the paper's, or "bhatia_davis", never above it.
        contraction: "two_sided", the paper's factor 8, or "one_sided", 4.
        c5: C5 by "formula", or "measured".

    Returns:
        The bound and its terms.

    Raises:
        TypeError: a number is none.
        ValueError: a number is out of range, an option is unknown, or C5 was not measured.
    """
    return _bound(_HINGE, inputs, delta, constant, contraction, c5)


def logistic_loss_bound(
    inputs: BoundInputs,
    *,
    delta: float = 0.05,
    constant: Constant = "sqrt_j",
    contraction: Contraction = "two_sided",
    c5: C5Source = "formula",
) -> EstimationBound:
    """Estimation error of the logistic loss, log(1 + exp(-y f(x))) with y = +-1, in nats.

    8 K R(F) + log(1 + exp(sqrt J)) sqrt(2 log(2/delta) / N), K = 1 / (1 + exp(-sqrt J)).

    Derivation: that of the module. The slope is 1 / (1 + exp(y f)) in size, and as y f >= -r, at most
    K = 1 / (1 + exp(-r)); the loss is at most B = log(1 + exp(r)). The truncated loss min(loss, B) is that of
    max(y f, -r), so K-Lipschitz as well.

    Args:
        inputs: the class of networks and N.
        delta: the bound fails with probability at most delta, in (0, 1).
        constant: r is "sqrt_j", the paper's, or "bhatia_davis", never above it.
        contraction: "two_sided", the paper's factor 8, or "one_sided", 4.
        c5: C5 by "formula", or "measured".

    Returns:
        The bound and its terms.

    Raises:
        TypeError: a number is none.
        ValueError: a number is out of range, an option is unknown, or C5 was not measured.
    """
    return _bound(_LOGISTIC, inputs, delta, constant, contraction, c5)


def without_diversity(inputs: BoundInputs) -> BoundInputs:
    """The same class without any demand on diversity: d = 0, which holds with Q = 1."""
    return replace(inputs, d_min=0.0, probability=1.0)


def _bound(
    loss: _Loss,
    inputs: BoundInputs,
    delta: float,
    constant: Constant,
    contraction: Contraction,
    c5: C5Source,
) -> EstimationBound:
    """The bound of the module."""
    check_option("constant", constant, _OUTPUT_BOUNDS)
    check_option("contraction", contraction, _CONTRACTION_FACTORS)
    if not 0 < check_constant("delta", delta, "the probability that the bound fails") < 1:
        raise ValueError(f"delta is {delta}: the probability that the bound fails is in (0, 1); type delta=0.05")
    activation = inputs.c5(c5)
    r, furthest = (
        _OUTPUT_BOUNDS[constant](inputs.num_units, inputs.c4, activation, d) + inputs.output_bias
        for d in (inputs.d_min, 0.0)
    )
    deviation = math.sqrt((math.log(2) - math.log(delta)) / (2 * inputs.num_samples))
    complexity = _CONTRACTION_FACTORS[contraction] * loss.slope(r) * rademacher_bound(inputs)
    largest, beyond = loss.largest(r), 0.0
    confidence = 2 * largest * deviation
    if inputs.probability < 1:
        beyond = loss.largest(furthest) - largest
        confidence += max(0.0, beyond * deviation - complexity / 2)  # steps 6 and 7
    return EstimationBound(
        loss=loss.name,
        output=r,
        complexity=complexity,
        confidence=confidence,
        correction=(1 - inputs.probability) * beyond,
        largest_loss=largest + beyond,
        trivial=loss.at_zero,
        num_samples=inputs.num_samples,
    )
