"""How large the output of a network can be when its units differ: the step at which diversity enters every bound.

f(x) = sum_m v_m a_m(x), a_m = phi(w_m^T x), with M units, |v_m| <= C4 and 0 <= a_m <= C5. The average distance
D(x) = 1/(2M(M-1)) sum_{n != m} (a_n - a_m)^2 is the unbiased variance of the M activations at x, and D(x) >= d^2.
All functions take M, C4, C5 and d; without diversity, d = 0, both bounds are the plain |f(x)| <= M C4 C5.

Activations that take negative values (GELU, tanh) are covered if D and C5 are those of |a_m|: |f| <= C4 sum_m |a_m|,
and from there on only |a_m| appears. With D of the signed activations the bounds are false: nine units at 1 and one at
-1/2, with v_m = 1 and -1, have d^2 = 0.225 and |f| = 9.5, and sqrt J = 8.93.
"""

from __future__ import annotations

import math

from .checks import check_constant, check_whole

# Measured in float32, d may come out above its limit by rounding alone
_ROUNDING = 1e-6


def largest_distance(num_units: int, c5: float) -> float:
    """Largest d that M activations in [0, C5] allow: sqrt(M C5^2 / (4 (M-1))).

    Derivation: (M-1) D = sum_m (a_m - mean)^2 <= sum_m (a_m - C5/2)^2 <= M C5^2 / 4. It is attained for even M, by
    half of the units at 0 and half at C5; for odd M the largest is sqrt((M+1) / (4M)) C5, a little less.

    Args:
        num_units: M, at least 2.
        c5: C5, the largest activation.

    Returns:
        d, in activation.

    Raises:
        TypeError: an argument is no number.
        ValueError: M < 2, or C5 is negative or not finite.
    """
    units = check_whole("num_units", num_units, 2, "M, the number of units,")
    return check_constant("c5", c5, "C5, the largest activation,") / 2 * math.sqrt(units / (units - 1))


def output_bound(num_units: int, c4: float, c5: float, d_min: float) -> float:
    """The paper's bound of |f(x)|: sqrt J, J = C4^2 [M C5^2 + M(M-1)(C5^2 - d^2)].

    Derivation: f^2 <= C4^2 (sum_m a_m)^2, for a_m >= 0. With a_n a_m = (a_n^2 + a_m^2 - (a_n - a_m)^2) / 2 the square
    is M sum_m a_m^2 - M(M-1) D(x), and a_m^2 <= C5^2, D(x) >= d^2.

    Limit: d is at most `largest_distance`, where J = (3/4) (M C4 C5)^2. So diversity lowers sqrt J by at most
    1 - sqrt(3)/2 = 13.4 %, whatever M is.

    Source: Laakom et al., arXiv 2106.06012.

    Args:
        num_units: M, at least 2.
        c4: C4, the largest |v_m|.
        c5: C5, the largest activation.
        d_min: d, the square root of the least D(x).

    Returns:
        sqrt J, in units of the output. It never rises with d.

    Raises:
        TypeError: an argument is no number.
        ValueError: M < 2, a constant is negative or not finite, or d is above its limit.
    """
    return _without_diversity(num_units, c4, c5) * math.sqrt(1 - _diversity_share(num_units, c5, d_min) / 4)


def output_bound_bhatia_davis(num_units: int, c4: float, c5: float, d_min: float) -> float:
    """A tighter bound of |f(x)|: C4 M [C5/2 + sqrt(C5^2/4 - (M-1) d^2 / M)].

    Derivation: with mu the mean of the activations, |f| <= C4 M mu. Bhatia and Davis (2000) bound the variance of
    numbers in [0, C5]: (M-1)/M D = (1/M) sum_m a_m^2 - mu^2 <= C5 mu - mu^2, for a_m^2 <= C5 a_m. So
    mu (C5 - mu) >= (M-1) d^2 / M, and mu is at most the larger root.

    It is never above `output_bound`, and is attained: where k >= M/2 of the units are at C5, the others at 0, and all
    v_m = C4, then d^2 = k (M-k) C5^2 / (M(M-1)) and |f| = k C4 C5 is this bound.

    Limit: at `largest_distance` it is M C4 C5 / 2. So diversity lowers it by at most 50 %.

    Source: Bhatia and Davis, "A Better Bound on the Variance", American Mathematical Monthly 107 (2000), in place of
    a_m^2 <= C5^2 in the proof of Laakom et al.

    Args:
        num_units: M, at least 2.
        c4: C4, the largest |v_m|.
        c5: C5, the largest activation.
        d_min: d, the square root of the least D(x).

    Returns:
        The bound, in units of the output. It never rises with d.

    Raises:
        TypeError: an argument is no number.
        ValueError: M < 2, a constant is negative or not finite, or d is above its limit.
    """
    return _without_diversity(num_units, c4, c5) * (1 + math.sqrt(1 - _diversity_share(num_units, c5, d_min))) / 2


def _without_diversity(num_units: int, c4: float, c5: float) -> float:
    """M C4 C5."""
    return (
        check_whole("num_units", num_units, 2, "M, the number of units,")
        * check_constant("c4", c4, "C4, the largest output weight,")
        * check_constant("c5", c5, "C5, the largest activation,")
    )


def _diversity_share(num_units: int, c5: float, d_min: float) -> float:
    """How near d is to its limit, t = (d / largest d)^2 in [0, 1].

    With it J = (M C4 C5)^2 (1 - t/4), and the root in the bound of Bhatia and Davis is (C5/2) sqrt(1 - t).
    """
    limit = largest_distance(num_units, c5)
    d = check_constant("d_min", d_min, "d, a distance between units,")
    if d > limit * (1 + _ROUNDING):
        raise ValueError(
            f"d_min is {d_min}: {num_units} activations between 0 and c5={c5} differ by at most "
            f"sqrt(M/(M-1)) C5/2 = {limit:.6g} (note that d_min is the square root of D(x)); measure both on the same "
            "samples, or type theory.largest_distance(num_units, c5) for the limit"
        )
    return 0.0 if d == 0 else min(1.0, (d / limit) ** 2)
