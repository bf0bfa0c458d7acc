"""All bounds of one network in a table, with and without diversity, and whether they are vacuous."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .estimation import (
    C5Source,
    Constant,
    Contraction,
    EstimationBound,
    hinge_loss_bound,
    logistic_loss_bound,
    squared_loss_bound,
    without_diversity,
)
from .inputs import BoundInputs
from .output import largest_distance

_CONSTANTS: dict[Constant, str] = {"sqrt_j": "sqrt J", "bhatia_davis": "Bhatia-Davis"}

_LIMITS = """\
- The losses' bounds are of the estimation error, the risk beyond that of the best network of the class, and not of the
  gap between training and test. A smaller bound is not a smaller error.
- Diversity lowers sqrt J by at most 13.4 %, and the bound of Bhatia and Davis by at most 50 %.
- The class must be fixed before the data: constants measured on a trained network illustrate, they do not certify."""


@dataclass(frozen=True)
class SummaryRow:
    """One bound without and with diversity.

    Attributes:
        quantity: "|f(x)|", or the loss whose estimation error is bounded.
        constant: "sqrt J" or "Bhatia-Davis".
        without_diversity: the bound with d = 0 and Q = 1.
        with_diversity: the bound with the measured d and Q.
        estimation: its terms, with the measured d; None for |f(x)|.
    """

    quantity: str
    constant: str
    without_diversity: float
    with_diversity: float
    estimation: EstimationBound | None

    @property
    def change(self) -> float:
        """What diversity changes, as a share of the bound without it; negative where it helps."""
        return self.with_diversity / self.without_diversity - 1 if self.without_diversity else 0.0

    @property
    def verdict(self) -> str:
        """Whether the bound says anything, in words."""
        if self.estimation is None:
            return ""
        if not self.estimation.vacuous:
            return "not vacuous"
        needed = self.estimation.samples_needed
        return "vacuous for any N" if needed is None else f"vacuous; needs N of about {needed:.2g}"


@dataclass(frozen=True)
class Summary:
    """What `summary` found; `str(...)` or `print(...)` gives the table.

    Attributes:
        inputs: the constants.
        rows: the bounds of |f(x)|, and of the estimation error for each loss.
        delta: the bounds of the estimation error fail with probability at most delta.
        contraction: of the bounds of the estimation error.
        c5: "formula" or "measured", whichever they use.
    """

    inputs: BoundInputs
    rows: tuple[SummaryRow, ...]
    delta: float
    contraction: Contraction
    c5: C5Source

    @property
    def vacuous(self) -> bool:
        """Whether every bound of an estimation error is vacuous."""
        return all(row.estimation.vacuous for row in self.rows if row.estimation is not None)

    def __str__(self) -> str:
        """The table."""
        i = self.inputs
        measured = "not measured" if i.c5_measured is None else f"{i.c5_measured:.4g} measured"
        biases = f"biases {_numbers(i.hidden_bias)} hidden, {i.output_bias:.4g} output"
        head = [
            f"Bounds with probability {1 - self.delta:.6g}, {self.contraction.replace('_', '-')} contraction, C5 "
            f"{'by formula' if self.c5 == 'formula' else 'measured'}",
            f"M = {i.num_units} units, N = {i.num_samples} samples, C1 = {i.c1:.4g}, C3 = {_numbers(i.c3)}, "
            f"C4 = {i.c4:.4g}, L = {i.lipschitz:.4g}, |phi(0)| = {i.phi_zero:.4g}, {biases}",
            f"C5 = {i.c5_formula:.4g} by formula, {measured}",
            f"d = {i.d_min:.4g} of at most {largest_distance(i.num_units, i.c5(self.c5)):.4g}, "
            f"P(D(x) >= d^2) >= {i.probability:.4g}",
        ]
        cells = [("bound of", "constant", "d = 0", f"d = {i.d_min:.3g}", "change", "trivial", "verdict")]
        cells += [
            (
                row.quantity, row.constant, f"{row.without_diversity:.4g}", f"{row.with_diversity:.4g}",
                f"{100 * row.change:+.1f} %", "" if row.estimation is None else f"{row.estimation.trivial:.3g}",
                row.verdict,
            )
            for row in self.rows
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
        meaning = (
            "trivial: the loss of answering 0 to everything. A bound that is no smaller is vacuous: it says nothing."
        )
        return "\n".join([*head, "", *table, "", meaning, _LIMITS])


def summary(
    inputs: BoundInputs,
    *,
    c2: float = 1.0,
    delta: float = 0.05,
    contraction: Contraction = "two_sided",
    c5: C5Source = "formula",
) -> Summary:
    """Evaluate every bound with the measured d, and with d = 0 beside it.

    Args:
        inputs: the constants, from `measure_inputs` or by hand.
        c2: C2, the largest |y| of the squared loss.
        delta: the bounds of the estimation error fail with probability at most delta, in (0, 1).
        contraction: "two_sided", the paper's factor 8, or "one_sided", 4.
        c5: C5 by "formula", or "measured".

    Returns:
        The bounds; print it for a table that says which are vacuous. With Q < 1 the bounds of |f(x)| hold with
        probability Q over x.

    Raises:
        TypeError: a number is none.
        ValueError: a number is out of range, an option is unknown, or C5 was not measured.
    """
    losses: dict[str, Callable[[BoundInputs, Constant], EstimationBound]] = {
        "squared loss": lambda i, constant: squared_loss_bound(
            i, c2, delta=delta, constant=constant, contraction=contraction, c5=c5
        ),
        "hinge loss": lambda i, constant: hinge_loss_bound(
            i, delta=delta, constant=constant, contraction=contraction, c5=c5
        ),
        "logistic loss": lambda i, constant: logistic_loss_bound(
            i, delta=delta, constant=constant, contraction=contraction, c5=c5
        ),
    }
    plain = without_diversity(inputs)
    outputs: list[SummaryRow] = []
    errors: list[SummaryRow] = []
    for loss, bound in losses.items():
        for constant, words in _CONSTANTS.items():
            with_diversity, without = bound(inputs, constant), bound(plain, constant)
            errors.append(SummaryRow(loss, words, without.value, with_diversity.value, with_diversity))
            if len(outputs) < len(_CONSTANTS):  # the same for every loss
                outputs.append(SummaryRow("|f(x)|", words, without.output, with_diversity.output, None))
    return Summary(inputs, (*outputs, *errors), delta, contraction, c5)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values) or "0"
