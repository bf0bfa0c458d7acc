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

import functools
import math
import threading
from typing import NamedTuple

import torch
from torch import Tensor

# Elements of a chunk of rows. One wave of a chunk is 128 kB in float32 and the usual 20 waves stay within the caches;
# fewer elements pay more Python calls, more of them more memory traffic (measured: 2^14 is 10 % slower, 2^16 2 %
# faster).
CHUNK = 2**15


def tolerance(dtype: torch.dtype) -> float:
    """Return delta = sqrt(ln(1 / eps)), the distance from which on a similarity counts as 0.

    eps is 1e-7 for float32 and 1e-15 for float64.
    """
    return math.sqrt(-math.log(1e-15 if dtype == torch.float64 else 1e-7))


class Split(NamedTuple):
    """How the terms k = 0..K are divided, with the index tables that follow from it.

    Tables have rows q = -g..g and columns r = -b..b. Entry q < 0 of a giant axis stands for cos(|q| M x), q = 0 for 1,
    q > 0 for sin(q M x), M = 2 b + 1; likewise r on the baby axis. So reversing an axis exchanges sine and cosine.
    """

    giant: int
    baby: int
    above: Tensor  # (2g+1, 2b+1) |q| M + |r|
    below: Tensor  # (2g+1, 2b+1) |(|q| M - |r|)|
    sign: Tensor  # (2g+1, 2b+1) sign(q) sign(r)
    giant_slope: Tensor  # (2g+1, 1) -sign(q) |q| M
    baby_slope: Tensor  # (2b+1,) -sign(r) |r|


@functools.lru_cache(maxsize=256)
def split_terms(terms: int, dtype: torch.dtype) -> Split:
    """Choose giant and baby steps that reach k = `terms`, by the cheapest count of waves and products.

    Fitted to measured ns per element: 1.6 for the cosine and sine of a multiple, 0.6 more for a giant one (its share
    of the last reduction), 0.09 for each entry of the table of products.
    """
    best = None
    for giant in range(1, terms + 1):
        baby = max(1, math.ceil((terms - giant) / (2 * giant + 1)))
        cost = 2.2 * giant + 1.6 * baby + 0.09 * (2 * giant + 1) * (2 * baby + 1)
        if best is None or cost < best[0]:
            best = (cost, giant, baby)
        if baby == 1:
            break
    assert best is not None  # terms >= 1
    _, giant, baby = best
    stride = 2 * baby + 1
    q, r = torch.arange(-giant, giant + 1)[:, None], torch.arange(-baby, baby + 1)
    return Split(
        giant=giant,
        baby=baby,
        above=q.abs() * stride + r.abs(),
        below=(q.abs() * stride - r.abs()).abs(),
        sign=(q.sign() * r.sign()).to(dtype),
        giant_slope=(-q * stride).to(dtype),
        baby_slope=(-r).to(dtype),
    )


def series_weights(tau: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """Weights of the quadratic form sum_k c_k |F_k|^2 in the table of products P of `Waves.products`.

    With q, r > 0, A = P[cos, cos], B = P[sin, sin], C = P[sin, cos], D = P[cos, sin]: F_{qM+r} = (A - B) + i (C + D)
    and F_{qM-r} = (A + B) + i (C - D). The gradient of c+ |F_{qM+r}|^2 + c- |F_{qM-r}|^2 is therefore

        2 (c+ + c-) (A, B, C, D) + 2 (c- - c+) (B, A, -D, -C),

    and the second bracket is the table reversed along both axes, with the sign sign(q) sign(r). On the axes q = 0 or r
    = 0 both wave numbers are the same term, which counts once.

    Args:
        tau: (n,) spacing of the wave numbers.
        split: the division of the terms.

    Returns:
        Two tensors (n, 2g+1, 2b+1), `same` and `opposite`: the gradient is same * P + opposite * P.flip(1, 2).
    """
    terms = int(split.above[0, 0])
    k = torch.arange(terms + 1, dtype=tau.dtype)
    coefficients = (k * (0.5 * tau[:, None])).square_().neg_().exp_().mul_(tau[:, None] / math.sqrt(math.pi))
    coefficients[:, 0] *= 0.5
    above, below = coefficients[:, split.above], coefficients[:, split.below]
    same = (above + below).mul_(2)
    same[:, split.giant] *= 0.5
    same[:, :, split.baby] *= 0.5
    same[:, split.giant, split.baby] = 2 * coefficients[:, 0]
    return same, (below - above).mul_(2 * split.sign)


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
        self.steps = []
        for waves, centre, count in ((self.baby_waves, b, b), (self.giant_waves, g, g)):
            steps = []
            for k in range(2, count + 1):
                # z^k = z^floor(k/2) z^ceil(k/2): the rounding error grows with log k, not with k
                low, high = k // 2, k - k // 2
                steps.append((low == high, [waves[centre + i] for i in (-low, low, -high, high, -k, k)]))
            self.steps.append(steps)

    def shorten(self, rows: int) -> None:
        """Keep the first `rows` rows, for the last chunk."""
        self.giant, self.pulls, self.baby = self.giant[:rows], self.pulls[:rows], self.baby[:rows]
        self.planes = self.planes[:, :rows]
        self._views()

    def fill(self, angle: Tensor) -> None:
        """Compute all waves of the angles (rows, units), which may lie in `real`."""
        g, b = self.split.giant, self.split.baby
        babies, giants = self.baby_waves, self.giant_waves
        torch.cos(angle, out=babies[b - 1])
        torch.sin(angle, out=babies[b + 1])
        self._multiply_up(self.steps[0])
        # The giant step 2 b + 1: z^b z^b z.
        self._square(babies[0], babies[-1], self.real, self.imaginary)
        _multiply(self.real, self.imaginary, babies[b - 1], babies[b + 1], giants[g - 1], giants[g + 1])
        self._multiply_up(self.steps[1])

    def _multiply_up(self, steps: list[tuple[bool, list[Tensor]]]) -> None:
        for is_square, (a, b, c, d, real, imaginary) in steps:
            if is_square:
                self._square(a, b, real, imaginary)
            else:
                _multiply(a, b, c, d, real, imaginary)

    def _square(self, cosine: Tensor, sine: Tensor, real: Tensor, imaginary: Tensor) -> None:
        """Use cos 2x = 1 - 2 sin^2 x, sin 2x = 2 sin x cos x: half the passes of a product."""
        torch.addcmul(self.one, sine, sine, value=-2, out=real)
        torch.addcmul(self.zero, sine, cosine, value=2, out=imaginary)

    def products(self, out: Tensor) -> Tensor:
        """P_qr = sum over units of giant wave q times baby wave r, (rows, 2g+1, 2b+1)."""
        return torch.bmm(self.giant, self.baby_columns, out=out)

    def pull(self, slopes: Tensor, out: Tensor) -> Tensor:
        """sum_qr slopes_qr giant_q(x_n) baby_r(x_n) for every element, (rows, units)."""
        torch.bmm(slopes, self.baby, out=self.pulls)
        return torch.sum(self.pulls.mul_(self.giant), 1, out=out)


_scratch = threading.local()
_SCRATCH_MOST = 2**21  # numbers kept: 8 MB in float32, splits of up to some 200 terms


def _memory(numbers: int, dtype: torch.dtype) -> Tensor:
    """Memory for the waves of one call, kept from call to call in each thread.

    Taking new pages from the system costs as much as a third of the work on a small layer.
    """
    if numbers > _SCRATCH_MOST:
        return torch.empty(numbers, dtype=dtype)
    kept = getattr(_scratch, str(dtype), None)
    if kept is None or kept.numel() < numbers:
        kept = torch.empty(numbers, dtype=dtype)
        setattr(_scratch, str(dtype), kept)
    return kept


def release_memory() -> None:
    """Give back what this thread keeps between calls (at most 8 MB a dtype)."""
    _scratch.__dict__.clear()


def _multiply(a: Tensor, b: Tensor, c: Tensor, d: Tensor, real: Tensor, imaginary: Tensor) -> None:
    """(a + i b) (c + i d), elementwise."""
    torch.mul(a, c, out=real).addcmul_(b, d, value=-1)
    torch.mul(a, d, out=imaginary).addcmul_(b, c)


def slopes_of(table_gradient: Tensor, split: Split) -> Tensor:
    """Turn the gradient H with respect to the products into coefficients of dJ/dx_n in products of waves.

    d cos(j x) = -j sin(j x) and d sin(j x) = j cos(j x): each derivative is the opposite wave of the same axis, so the
    coefficient of the cosine comes from H at the sine and the other way round.
    """
    slopes = table_gradient.flip(1).mul_(split.giant_slope)
    return slopes.addcmul_(table_gradient.flip(2), split.baby_slope)


def terms_needed(span: Tensor) -> Tensor:
    """K for rows of range `span` = sqrt(gamma) (max - min), as a float tensor."""
    delta = tolerance(span.dtype)
    return (span + delta).mul_(delta / math.pi).ceil_()


def pair_sum_fourier(
    activations: Tensor,
    low: Tensor,
    high: Tensor,
    root: float,
    terms: int,
    gradient: Tensor | None,
    members: Tensor | None = None,
) -> Tensor:
    """Sum of similarities over samples and ordered pairs of different units, by the Fourier series.

    Args:
        activations: (N, D) float32 or float64, on the CPU.
        low: (N,) minimum of each row.
        high: (N,) maximum of each row.
        root: sqrt(gamma).
        terms: K, at least `terms_needed` of every row.
        gradient: (N, D) to receive the gradient of the sum, or None.
        members: numbers of the rows to take; None for all. The gradient of other rows is left as it is.

    Returns:
        The sum over those rows and n != m, 0-dim float64, not divided by N.
    """
    if members is not None:
        low, high = low[members], high[members]
    count, units = len(low), activations.shape[1]
    split = split_terms(terms, activations.dtype)
    tau = (2 * math.pi) / ((high - low) * root + tolerance(activations.dtype))
    same, opposite = series_weights(tau, split)
    scale = (tau * root)[:, None]
    # The difference to the middle of the row is exact where it matters (an offset cancels without rounding) and is
    # scaled afterwards; the series itself depends on differences only, so any reference does.
    middle = (low + (high - low) / 2)[:, None]
    rows = max(1, min(count, CHUNK // units))
    waves = Waves(split, rows, units, _memory(Waves.numbers(split, rows, units), activations.dtype))
    products, slopes = torch.empty_like(same), same  # `same` is read for the last time where its slice is overwritten
    for start in range(0, count, rows):
        chunk = slice(start, min(start + rows, count))
        if chunk.stop - start < rows:
            waves.shorten(chunk.stop - start)
        if members is None:
            torch.sub(activations[chunk], middle[chunk], out=waves.real)
        else:
            torch.index_select(activations, 0, members[chunk], out=waves.real).sub_(middle[chunk])
        waves.fill(waves.real.mul_(scale[chunk]))
        table = waves.products(out=products[chunk])
        table_gradient = torch.mul(table, same[chunk], out=slopes[chunk]).addcmul_(table.flip(1, 2), opposite[chunk])
        if gradient is None:
            continue
        chunk_slopes = slopes_of(table_gradient, split).mul_(scale[chunk, :, None])
        if members is None:
            waves.pull(chunk_slopes, out=gradient[chunk])
        else:
            gradient.index_copy_(0, members[chunk], waves.pull(chunk_slopes, out=waves.real))
    # A quadratic form is half of the scalar product of its gradient with its argument. n = m contributes exactly 1
    # each. Row by row in float64: sums of a million numbers of one sign lose digits in float32.
    return (products.mul_(slopes).sum((1, 2)).double() / 2 - units).sum()
