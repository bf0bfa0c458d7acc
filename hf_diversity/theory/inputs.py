"""`BoundInputs`: the constants of a network and its data that every bound is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .checks import check_constant, check_whole
from .output import output_bound

_ROUNDING = 1e-6


@dataclass(frozen=True)
class BoundInputs:
    """The class of networks that a bound is about, and the number of samples.

    f(x) = v^T a_P(x) + b, a_p = phi(W_p a_{p-1} + b_p), a_0 = x: P hidden layers and one output; P = 1 is the
    two-layer network of the paper. Biases are this library's addition: with them at 0 every bound is the paper's. The
    class holds all networks within the constants for which P(D(x) >= d^2) >= Q.

    Attributes:
        num_units: M, units of the last hidden layer, at least 2.
        num_samples: N, training samples, drawn independently.
        c1: C1, the largest ||x||_2.
        c3: C3 of every hidden layer, the largest norm of a row of its weights: the Euclidean norm in the first layer,
            the l1 norm in all others. A two-layer network has one: `c3=(1.0,)`.
        c4: C4, the largest |v_m|.
        d_min: d, the square root of the least average distance D(x) between units of the last hidden layer.
        probability: Q, the probability of D(x) >= d_min^2 for a new sample; 1 in the paper's theorems.
        lipschitz: L, the Lipschitz constant of the activation function phi.
        phi_zero: |phi(0)|.
        hidden_bias: largest |bias| of every hidden layer; () where there is none.
        output_bias: |b|.
        c5_measured: the largest |activation| of the last hidden layer that was seen, or None. The formula's value is
            `c5_formula`; this one makes smaller bounds, for the class of networks whose activations stay below it.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is out of range, or d is above what C5 allows.
    """

    num_units: int
    num_samples: int
    c1: float
    c3: tuple[float, ...]
    c4: float
    d_min: float = 0.0
    probability: float = 1.0
    lipschitz: float = 1.0
    phi_zero: float = 0.0
    hidden_bias: tuple[float, ...] = ()
    output_bias: float = 0.0
    c5_measured: float | None = None

    def __post_init__(self) -> None:
        """Validate."""
        check_whole("num_samples", self.num_samples, 1, "N, the number of samples,")
        for name, meaning in (
            ("c1", "C1, the largest norm of an input,"), ("lipschitz", "L, the Lipschitz constant of phi,"),
            ("phi_zero", "|phi(0)|"), ("output_bias", "the largest bias of the output"),
        ):  # fmt: skip
            check_constant(name, getattr(self, name), meaning)
        for name in ("c3", "hidden_bias"):
            value = getattr(self, name)
            if not isinstance(value, tuple):
                raise TypeError(f"{name} is {value!r}: it has one number for each hidden layer; type {name}=(1.0,)")
            for number in value:
                check_constant(name, number, f"each number of {name}")
        if not self.c3:
            raise ValueError("c3 is empty: it has one number for each hidden layer; type c3=(1.0,) for just one")
        if self.hidden_bias and len(self.hidden_bias) != len(self.c3):
            raise ValueError(
                f"hidden_bias has {len(self.hidden_bias)} numbers and c3 {len(self.c3)}: each has one for every "
                "hidden layer; type hidden_bias=() where there is no bias"
            )
        if check_constant("probability", self.probability, "Q, the probability of D(x) >= d^2,") > 1:
            raise ValueError(f"probability is {self.probability}: Q must be in [0, 1]; type probability=1.0")
        if self.c5_measured is not None:
            measured = check_constant("c5_measured", self.c5_measured, "the largest activation")
            if measured > self.c5_formula * (1 + _ROUNDING):
                raise ValueError(
                    f"c5_measured is {measured}: above L C1 C3 + |phi(0)| = {self.c5_formula:.6g}, which bounds every "
                    "activation; check c1, c3, lipschitz and phi_zero, or measure all on the same samples"
                )
        smallest = self.c5_formula if self.c5_measured is None else self.c5_measured
        output_bound(self.num_units, self.c4, smallest, self.d_min)  # d within its limit, and M and C4

    def layers(self) -> list[tuple[float, float]]:
        """C3 and the largest |bias| of every hidden layer, from the input on."""
        return list(zip(self.c3, self.hidden_bias or (0.0,) * len(self.c3), strict=True))

    @property
    def c5_formula(self) -> float:
        """C5 = L C1 C3 + |phi(0)|, the bound of every activation of the last hidden layer.

        |phi(z)| <= L |z| + |phi(0)|, and |z| <= C1 C3 + bias by Cauchy-Schwarz. In deeper layers |z| <= C3 times the
        bound of the layer before, by Hoelder, hence the l1 norm.
        """
        largest = self.c1
        for c3, bias in self.layers():
            largest = self.lipschitz * (c3 * largest + bias) + self.phi_zero
        return largest

    def c5(self, source: str) -> float:
        """C5 by "formula" or "measured".

        Raises:
            ValueError: it was not measured, or the source is unknown.
        """
        if source == "formula":
            return self.c5_formula
        if source != "measured":
            raise ValueError(f"c5 is {source!r}: unknown; type c5='formula' or c5='measured'")
        if self.c5_measured is None:
            raise ValueError(
                "c5 is 'measured', but inputs.c5_measured is None; type c5='formula', or make the inputs with "
                "theory.measure_inputs"
            )
        return self.c5_measured


def rademacher_bound(inputs: BoundInputs) -> float:
    """Bound of the Rademacher complexity of the class, R(F) = E sup_f |(1/N) sum_i s_i f(x_i)|, s_i = +-1 at random.

    Two-layer networks: R(F) <= (2 L C1 C3 C4 + C4 |phi(0)|) M / sqrt N. Deep ones, by peeling off layer after layer:

        R_0 = C1 / sqrt N,   R_p = 2 L (C3_p R_{p-1} + bias_p / sqrt N) + |phi(0)| / sqrt N,
        R(F) <= C4 M R_P + output_bias / sqrt N.

    Derivation. Let R_p be the complexity of one unit of layer p.

    1. |sum_i s_i v^T a(x_i)| <= C4 M sup |sum_i s_i a_m(x_i)|: the last line. A bias gives E|sum_i s_i| <= sqrt N.
    2. Split phi = (phi - phi(0)) + phi(0). The second part gives |phi(0)| / sqrt N. The first is L-Lipschitz and 0 at
       0, so Talagrand's contraction bounds it by 2 L times the complexity of the argument. The 2 comes from the
       absolute value: sup |g| <= sup g + sup -g, as w = 0 is in the class. One-sided contraction does not remove it.
    3. The argument of the first layer: E sup_w |w^T sum_i s_i x_i| / N <= C3 E||sum_i s_i x_i|| / N <= C3 C1 / sqrt N.
    4. That of layer p: |sum_j w_j sum_i s_i a_j(x_i)| <= ||w||_1 sup_j |...|, hence the l1 norm and C3_p R_{p-1}.

    The restriction to D(x) >= d^2 only makes the class smaller, so the bound holds, and does not fall with d.

    Limit: it doubles with every layer, beyond the growth of the weights themselves.

    Source: Laakom et al., arXiv 2106.06012; contraction: Ledoux and Talagrand, "Probability in Banach Spaces" (1991),
    theorem 4.12; peeling: Bartlett and Mendelson, JMLR 3 (2002).

    Args:
        inputs: the constants.

    Returns:
        The bound, in units of the output.
    """
    root = math.sqrt(inputs.num_samples)
    complexity = inputs.c1 / root
    for c3, bias in inputs.layers():
        complexity = 2 * inputs.lipschitz * (c3 * complexity + bias / root) + inputs.phi_zero / root
    return inputs.c4 * inputs.num_units * complexity + inputs.output_bias / root
