"""The pair sum of one row of activations as a Fourier series: O(D K) work instead of D^2 exponentials.

Let t_n = sqrt(gamma) a_n, range R = max t - min t, and tau = 2 pi / (R + delta). By Poisson summation

    exp(-t^2) = sum_{|k| <= K} tau / (2 sqrt(pi)) exp(-(k tau)^2 / 4) exp(i k tau t)      for |t| <= R

up to the images of the periodised kernel, of which the nearest is R + delta - |t| >= delta away, so at most
2 exp(-delta^2), and up to the terms left out, at most erfc(K tau / 2). With delta = sqrt(ln(1 / eps)) and
K = 2 delta / tau = delta (R + delta) / pi, every s_nm is off by at most 2 eps + erfc(delta). With F_k = sum_n exp(i k
tau t_n),

    sum_{n, m} exp(-(t_n - t_m)^2) = sum_{k >= 0} c_k |F_k|^2,
    c_0 = tau / (2 sqrt(pi)),   c_k = tau / sqrt(pi) exp(-(k tau)^2 / 4) for k > 0.

Plane waves for the Gauss transform are due to Greengard and Sun ("A new version of the fast Gauss transform", 1998).
Here F_k is summed with baby steps r = 0..b and giant steps q = 0..g of length M = 2 b + 1: every k is q M +- r, and
the addition theorems turn all F_k into the products sum_n {1, cos, sin}(q M x_n) {1, cos, sin}(r x_n), one small
matrix product per row. Only 2 (b + g) + 2, about 2.8 sqrt(K), waves are ever written, and the other work runs at the
speed of a matrix product.
"""

from __future__ import annotations

import copy
import functools
import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .sine import sine_cosine

# Elements of a chunk of rows. One wave of a chunk is 128 kB in float32 and the usual 20 waves take 2.5 MB; fewer
# elements pay more Python calls (2^14 is 10 % slower). Twice as many are 4 to 8 % faster, and taken where their 5 MB
# are little beside the activations themselves.
CHUNK = 2**15
_LARGE = 2**19  # elements of activations from which on chunks are twice as large


def tolerance(dtype: torch.dtype) -> float:
    """Return delta = sqrt(ln(1 / eps)), the distance from which on a similarity counts as 0.

    eps is 1e-7 for float32 and 1e-15 for float64.
    """
    return math.sqrt(-math.log(1e-15 if dtype == torch.float64 else 1e-7))


class Split(NamedTuple):
    """How the terms k = 0..K are divided, with the matrices that follow from it.

    Tables have rows q = -g..g and columns r = -b..b. Entry q < 0 of a giant axis stands for cos(|q| M x), q = 0 for 1,
    q > 0 for sin(q M x), M = 2 b + 1; likewise r on the baby axis. So reversing an axis exchanges sine and cosine.
    """

    giant: int
    baby: int
    exponents: Tensor  # (terms,) -k^2 / 4 for k = 0.. as far as the steps reach, g M + b
    form: Tensor  # (terms, 2 tables): from c_k to the tables of `quadratic_form`
    slopes: Tensor  # (terms, 2 tables): from c_k to the tables of `slope_weights`


class Steps(NamedTuple):
    """Giant and baby steps that reach a number of terms, and what they cost in ns per element."""

    cost: float
    giant: int
    baby: int


@functools.lru_cache(maxsize=1024)
def cheapest_steps(terms: int) -> Steps:
    """Choose giant and baby steps that reach k = `terms`.

    Fitted to measured ns per element (N = 512, D = 1024, within 17 %): 1.6 for the first waves, 1.3 for a multiple,
    0.1 for each entry of the table of products. Of equals, the fewest giants: they take more memory.
    """
    choices = []
    for giant in range(1, terms + 1):
        baby = max(1, math.ceil((terms - giant) / (2 * giant + 1)))
        cost = 1.6 + 1.3 * (giant + baby) + 0.1 * (2 * giant + 1) * (2 * baby + 1)
        choices.append(Steps(cost, giant, baby))
        if baby == 1:
            break
    return min(choices, key=lambda steps: (round(steps.cost, 6), steps.giant))


def split_terms(terms: int, dtype: torch.dtype) -> Split:
    """Divide the terms k = 0..`terms`, and those that the same steps reach beyond, by `cheapest_steps`."""
    steps = cheapest_steps(terms)
    return _split(steps.giant, steps.baby, dtype)


@functools.lru_cache(maxsize=16)  # the matrices of 400 terms take 12 MB, those of the usual 15 terms 10 kB
def _split(giant: int, baby: int, dtype: torch.dtype) -> Split:
    with torch.inference_mode(False), torch.device("cpu"):  # kept for other calls
        stride = 2 * baby + 1
        q, r = torch.arange(-giant, giant + 1)[:, None], torch.arange(-baby, baby + 1)
        above, below = q.abs() * stride + r.abs(), (q.abs() * stride - r.abs()).abs()
        k = torch.arange(giant * stride + baby + 1)
        is_above, is_below = ((table == k[:, None, None]).double() for table in (above, below))
        # On the axes q = 0 or r = 0 both wave numbers are the same term, which counts once, and c_0 counts half
        same = (is_above + is_below) * torch.where(q * r != 0, 2.0, torch.where(q + r != 0, 1.0, 0.5))
        opposite = (is_below - is_above) * 2 * (q * r).sign()
        giant_slope, baby_slope = -q * stride, -r
        first = giant_slope * same - baby_slope * opposite
        second = baby_slope * same - giant_slope * opposite
        return Split(
            giant=giant,
            baby=baby,
            exponents=(k * k / -4).to(dtype),
            form=torch.cat([same.flatten(1), opposite.flatten(1)], 1).to(dtype),
            slopes=torch.cat([first.flatten(1), second.flatten(1)], 1).to(dtype),
        )


def coefficients(tau: Tensor, split: Split) -> Tensor:
    """c_k of every row, (n, terms), with c_0 twice its value: all have one formula then."""
    return torch.outer(tau * tau, split.exponents).exp_().mul_((tau / math.sqrt(math.pi))[:, None])


def quadratic_form(coefficients: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """The quadratic form sum_k c_k |F_k|^2 in the table of products P of `Waves.products`.

    With q, r > 0, A = P[cos, cos], B = P[sin, sin], C = P[sin, cos], D = P[cos, sin]: F_{qM+r} = (A - B) + i (C + D)
    and F_{qM-r} = (A + B) + i (C - D). The gradient of c+ |F_{qM+r}|^2 + c- |F_{qM-r}|^2 is therefore

        2 (c+ + c-) (A, B, C, D) + 2 (c- - c+) (B, A, -D, -C),

    and the second bracket is the table reversed along both axes, with the sign sign(q) sign(r).

    Returns:
        Two tensors (n, 2g+1, 2b+1), `same` and `opposite`: the gradient is H = same * P + opposite * P.flip(1, 2), and
        the form itself P * H / 2, summed.
    """
    return _tables(coefficients @ split.form, split)


def slope_weights(coefficients: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """What turns the table of products into the coefficients of dJ/dx_n in products of waves.

    d cos(j x) = -j sin(j x) and d sin(j x) = j cos(j x): each derivative is the opposite wave of the same axis, so the
    coefficient at the cosine comes from H (see `quadratic_form`) at the sine and the other way round, with the slopes
    -q M and -r of table entry (q, r):

        slopes = -q M * H.flip(1) - r * H.flip(2).

    With `same` even and `opposite` odd along both axes, H written out and ordered by the flips of P, that is

        slopes = (-q M * same + r * opposite) * P.flip(1) + (-r * same + q M * opposite) * P.flip(2).

    Returns:
        The two factors in brackets, (n, 2g+1, 2b+1).
    """
    return _tables(coefficients @ split.slopes, split)


def _tables(pair: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    first, second = pair.view(len(pair), 2, 2 * split.giant + 1, 2 * split.baby + 1).unbind(1)
    return first, second


Wave = tuple[Tensor, Tensor]  # cosine and sine of a multiple of all angles


class Waves:
    """cos and sin of the giant and baby multiples of an angle, in buffers that are used again chunk after chunk."""

    def __init__(self, split: Split, rows: int, units: int, memory: Tensor):
        """Lay out the buffers.

        Args:
            split: which multiples.
            rows: rows of a chunk.
            units: columns of a chunk.
            memory: at least `numbers` numbers, float32 or float64.
        """
        self.split, self.rows, self.units = split, rows, units
        sizes = [2 * split.giant + 1, 2 * split.giant + 1, 2 * split.baby + 1, 2]
        parts = memory[: self.numbers(split, rows, units)].split([size * rows * units for size in sizes])
        self.giant, self.pulls, self.baby = (
            part.view(rows, size, units) for part, size in zip(parts[:3], sizes[:3], strict=True)
        )
        self.planes = parts[3].view(2, rows, units)
        self.giant[:, split.giant] = 1
        self.baby[:, split.baby] = 1
        self.one, self.zero = memory.new_ones(()), memory.new_zeros(())
        self._views()

    @staticmethod
    def numbers(split: Split, rows: int, units: int) -> int:
        """How many numbers the buffers hold."""
        return (4 * split.giant + 2 * split.baby + 5) * rows * units

    def _views(self) -> None:
        # Slicing costs as much as a small operation: every view is made once.
        g, b = self.split.giant, self.split.baby
        self.baby_columns = self.baby.transpose(1, 2)
        self.giant_waves, self.baby_waves = self.giant.unbind(1), self.baby.unbind(1)
        self.real, self.imaginary = self.planes.unbind(0)
        self.pairs = list(zip(self.pulls.unbind(1), self.giant_waves, strict=True))
        self.pull_of_one, _ = self.pairs.pop(g)
        babies = [(self.one, self.zero)] + [(self.baby_waves[b - k], self.baby_waves[b + k]) for k in range(1, b + 1)]
        giants = [(self.one, self.zero)] + [
            (self.giant_waves[g - k], self.giant_waves[g + k]) for k in range(1, g + 1)
        ]
        # Halves of k have indices that differ by 0 or 1, and the rounding error grows with their number, log k
        self.steps = [(babies[k % 2], babies[k - k // 2], babies[k // 2], babies[k]) for k in range(2, b + 1)]
        middle = b + 1
        self.steps.append(
            (babies[middle % 2], babies[middle - middle // 2], babies[middle // 2], (self.real, self.imaginary))
        )
        self.steps.append((babies[1], (self.real, self.imaginary), babies[b], giants[1]))
        self.steps += [(giants[k % 2], giants[k - k // 2], giants[k // 2], giants[k]) for k in range(2, g + 1)]

    def first(self, rows: int) -> Waves:
        """The first `rows` rows, for the last chunk."""
        part = copy.copy(self)
        part.giant, part.pulls, part.baby = self.giant[:rows], self.pulls[:rows], self.baby[:rows]
        part.planes = self.planes[:, :rows]
        part._views()
        return part

    def fill(self) -> None:
        """Compute all waves of the angles whose halves lie in `real`, between -pi/2 and pi/2.

        From those of a, b and a - b, cos(a + b) = cos(a - b) - 2 sin a sin b and sin(a + b) = sin(a - b) + 2 cos a sin
        b: one pass each, where the product of two waves needs two.
        """
        cosine, sine = self.giant_waves[0], self.giant_waves[-1]  # room of waves that come last
        sine_cosine(self.real, self.imaginary, sine, cosine)
        b = self.split.baby
        _add((self.one, self.zero), (cosine, sine), (cosine, sine), (self.baby_waves[b - 1], self.baby_waves[b + 1]))
        for step in self.steps:
            _add(*step)

    def products(self, out: Tensor) -> Tensor:
        """P_qr = sum over units of giant wave q times baby wave r, (rows, 2g+1, 2b+1)."""
        return torch.bmm(self.giant, self.baby_columns, out=out)

    def pull(self, slopes: Tensor, out: Tensor) -> Tensor:
        """sum_qr slopes_qr giant_q(x_n) baby_r(x_n) for every element, (rows, units)."""
        torch.bmm(slopes, self.baby, out=self.pulls)
        (pull, giant), *others = self.pairs
        torch.addcmul(self.pull_of_one, pull, giant, out=out)
        for pull, giant in others:
            out.addcmul_(pull, giant)
        return out


def _rows_of_a_chunk(split: Split, count: int, units: int) -> int:
    rows = CHUNK // units
    if count * units >= _LARGE and Waves.numbers(split, 2 * rows, units) <= _SCRATCH_MOST:
        rows *= 2
    return max(1, min(count, rows))


_scratch = threading.local()
_SCRATCH_MOST = 2**21  # numbers kept: 8 MB in float32, splits of up to some 200 terms


def _waves(split: Split, rows: int, units: int, dtype: torch.dtype) -> Waves:
    """Buffers for one call, kept from call to call in each thread.

    Taking new pages from the system costs as much as a third of the work on a small layer, and laying out the views a
    tenth.
    """
    numbers = Waves.numbers(split, rows, units)
    if numbers > _SCRATCH_MOST:
        return Waves(split, rows, units, torch.empty(numbers, dtype=dtype, device="cpu"))
    kept: tuple[Tensor | None, Waves | None] = getattr(_scratch, str(dtype), (None, None))
    memory, waves = kept
    if waves is not None and waves.split is split and (waves.rows, waves.units) == (rows, units):
        return waves
    with torch.inference_mode(False):  # it is kept, and used outside inference mode as well
        if memory is None or memory.numel() < numbers:
            memory = torch.empty(numbers, dtype=dtype, device="cpu")
        waves = Waves(split, rows, units, memory)
    setattr(_scratch, str(dtype), (memory, waves))
    return waves


def release_memory() -> None:
    """Give back what this thread keeps between calls (at most 8 MB a dtype)."""
    _scratch.__dict__.clear()


def _add(difference: Wave, first: Wave, second: Wave, out: Wave) -> None:
    """The wave of a + b, from those of a - b, a and b."""
    torch.addcmul(difference[0], first[1], second[1], value=-2, out=out[0])
    torch.addcmul(difference[1], first[0], second[1], value=2, out=out[1])


def terms_needed(span: float, dtype: torch.dtype) -> int:
    """K for a row of range `span` = sqrt(gamma) (max - min)."""
    delta = tolerance(dtype)
    return math.ceil((span + delta) * delta / math.pi)


def terms_of_rows(spans: Tensor) -> Tensor:
    """`terms_needed` of many rows, as a float tensor."""
    delta = tolerance(spans.dtype)
    return (spans + delta).mul_(delta / math.pi).ceil_()


@functools.cache
def _constant(value: float, dtype: torch.dtype) -> Tensor:
    """A 0-dim tensor, with which two small operations become one."""
    with torch.inference_mode(False), torch.device("cpu"):
        return torch.tensor(value, dtype=dtype)


def pair_sum_fourier(
    activations: Tensor,
    low: Tensor,
    span: Tensor,
    root: float,
    terms: int,
    gradient: Tensor | None,
    members: Tensor | None = None,
    share: float = 1.0,
) -> Tensor:
    """Sum of similarities over samples and ordered pairs of different units, by the Fourier series.

    Args:
        activations: (N, D) float32 or float64, on the CPU.
        low: (N,) minimum of each row.
        span: (N,) maximum less minimum of each row.
        root: sqrt(gamma).
        terms: K, at least `terms_needed` of every row.
        gradient: (N, D) to receive the gradient of the sum times `share`, or None.
        members: numbers of the rows to take; None for all. The gradient of other rows is left as it is.
        share: a factor of the gradient, which costs nothing here and a pass over all activations afterwards.

    Returns:
        The sum over all n and m of each of those rows, float64, not divided by N: n = m contributes D.
    """
    if members is not None:
        low, span = low[members], span[members]
    count, units = len(low), activations.shape[1]
    dtype = activations.dtype
    split = split_terms(terms, dtype)
    tau = _constant(2 * math.pi, dtype) / torch.add(_constant(tolerance(dtype), dtype), span, alpha=root)
    weights = coefficients(tau, split)
    same, opposite = quadratic_form(weights, split)
    half_scale = (tau * (root / 2))[:, None]
    rows = _rows_of_a_chunk(split, count, units)
    waves = _waves(split, rows, units, dtype)
    products = activations.new_empty(same.shape)

    def split_rows(tensor: Tensor) -> Sequence[Tensor]:
        # A view costs as much as a small operation: those of all chunks are made at once, and none for a single chunk
        return (tensor,) if rows == count else tensor.split(rows)

    chunks = zip(
        # The difference to the middle of the row is exact where it matters (an offset cancels without rounding) and is
        # scaled afterwards; the series itself depends on differences only, so any reference does.
        split_rows(torch.add(low, span, alpha=0.5)[:, None]),
        split_rows(half_scale),
        split_rows(products),
        split_rows(activations if members is None else members),
        strict=True,
    )
    if gradient is not None:
        firsts, seconds = map(split_rows, slope_weights(weights.mul_(half_scale * (2 * share)), split))
        gradients = split_rows(gradient) if members is None else None
    for number, (middle, half, table, chunk) in enumerate(chunks):
        if len(chunk) < rows:
            waves = waves.first(len(chunk))
        if members is None:
            torch.sub(chunk, middle, out=waves.real)
        else:
            torch.index_select(activations, 0, chunk, out=waves.real).sub_(middle)
        waves.real.mul_(half)
        waves.fill()
        waves.products(out=table)
        if gradient is None:
            continue
        slopes = table.flip(1).mul_(firsts[number]).addcmul_(table.flip(2), seconds[number])
        if gradients is not None:
            waves.pull(slopes, out=gradients[number])
        else:
            gradient.index_copy_(0, chunk, waves.pull(slopes, out=waves.real))
    form = opposite.mul_(products.flip(1, 2)).addcmul_(products, same).mul_(products)
    # Rows in float64: sums of a million numbers of one sign lose digits in float32
    return form.sum((1, 2)).double() / 2
