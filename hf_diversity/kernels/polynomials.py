"""Chebyshev polynomials of many numbers at once, in buffers that are used again by chunks and calls."""

from __future__ import annotations

import copy
import functools
import threading

import torch
from torch import Tensor

from .chebyshev import parts_of, signs


@functools.cache
def _constant(value: float, dtype: torch.dtype) -> Tensor:
    """A 0-dim tensor, with which two small operations become one."""
    with torch.inference_mode(False), torch.device("cpu"):
        return torch.tensor(value, dtype=dtype)


class Polynomials:
    """T_r for r = 0..baby and T_qM for q = 0..giant, M = baby + 1, of the numbers in `argument`, up to `signs`."""

    def __init__(self, giant: int, baby: int, stretch: float, rows: int, units: int, memory: Tensor):
        """Lay out the buffers.

        Args:
            giant: giant steps, at least 1.
            baby: baby steps, at least 1.
            stretch: c of `chebyshev`.
            rows: rows of a chunk.
            units: columns of a chunk.
            memory: at least `numbers` numbers, float32 or float64.
        """
        self.shape = (giant, baby, stretch, rows, units)
        sizes = [giant + 1, giant + 1, baby + 1, 1 if stretch else 0]
        parts = memory[: self.numbers(*self.shape)].split([size * rows * units for size in sizes])
        self.giant, self.pulls, self.baby, self.slope = (
            part.view(rows, size, units) for part, size in zip(parts, sizes, strict=True)
        )
        self.giant[:, 0] = 1
        self.baby[:, 0] = 1
        self._views()

    @staticmethod
    def numbers(giant: int, baby: int, stretch: float, rows: int, units: int) -> int:
        """How many numbers the buffers hold."""
        return (2 * giant + baby + 3 + bool(stretch)) * rows * units

    def _views(self) -> None:
        # Slicing costs as much as a small operation: every view is made once.
        giant, baby, *_ = self.shape
        self.baby_columns = self.baby.transpose(1, 2)
        babies, giants = list(self.baby.unbind(1)), list(self.giant.unbind(1))
        self.argument = babies[1]
        (self.pull_of_one, *pulls) = self.pulls.unbind(1)
        self.pairs = list(zip(pulls, giants[1:], strict=True))
        giant_signs, baby_signs = signs(giant, baby)
        first = giant_signs[1]  # T_M is the next of the babies
        self.steps = _steps([*babies, giants[1]], [*baby_signs, first]) + _steps(giants, giant_signs)

    def first(self, rows: int) -> Polynomials:
        """The first `rows` rows, for the last chunk."""
        part = copy.copy(self)
        part.giant, part.pulls, part.baby = self.giant[:rows], self.pulls[:rows], self.baby[:rows]
        part.slope = self.slope[:rows]
        part._views()
        return part

    def fill(self) -> None:
        """Compute all polynomials of what lies in `argument`, between -1 and 1, or of the stretched places."""
        _, _, stretch, *_ = self.shape
        if stretch:  # y = x (1 + c - c x^2) and dy / dx = 1 + c - 3 c x^2
            middle, slope = _constant(1 + stretch, self.slope.dtype), self.slope[:, 0]
            torch.mul(self.argument, self.argument, out=slope)
            self.argument.mul_(torch.add(middle, slope, alpha=-stretch, out=self.pull_of_one))
            torch.add(middle, slope, alpha=-3 * stretch, out=slope)
        for difference, first, second, factor, out in self.steps:
            torch.addcmul(difference, first, second, value=factor, out=out)

    def products(self, out: Tensor) -> Tensor:
        """Sum over units of giant q times baby r, (rows, giant + 1, baby + 1)."""
        return torch.bmm(self.giant, self.baby_columns, out=out)

    def pull(self, slopes: Tensor, out: Tensor) -> Tensor:
        """For every number, sum_qr slopes_qr giant_q baby_r, times dy / dx where stretched, (rows, units)."""
        torch.bmm(slopes, self.baby, out=self.pulls)
        (pull, giant), *others = self.pairs
        torch.addcmul(self.pull_of_one, pull, giant, out=out)
        for pull, giant in others:
            out.addcmul_(pull, giant)
        return out.mul_(self.slope[:, 0]) if self.slope.numel() else out


def _steps(multiples: list[Tensor], signs: list[int]) -> list[tuple[Tensor, Tensor, Tensor, int, Tensor]]:
    """How multiples from the second on follow from those before, by `chebyshev.parts_of`."""
    steps = []
    for k in range(2, len(multiples)):
        a, b = parts_of(k)
        difference = multiples[a - b] if a > b else _constant(-1.0, multiples[0].dtype)
        steps.append((difference, multiples[a], multiples[b], 2 * signs[k] * signs[a] * signs[b], multiples[k]))
    return steps


_scratch = threading.local()
SCRATCH_MOST = 2**21  # numbers kept: 8 MB in float32, expansions of some 400 terms in chunks of 2^15


def polynomials(giant: int, baby: int, stretch: float, rows: int, units: int, dtype: torch.dtype) -> Polynomials:
    """Buffers for one call, kept from call to call in each thread.

    Taking new pages from the system costs as much as a third of the work on a small layer, and laying out the views a
    tenth.
    """
    shape = (giant, baby, stretch, rows, units)
    numbers = Polynomials.numbers(*shape)
    if numbers > SCRATCH_MOST:
        return Polynomials(*shape, torch.empty(numbers, dtype=dtype, device="cpu"))
    kept: tuple[Tensor | None, Polynomials | None] = getattr(_scratch, str(dtype), (None, None))
    memory, buffers = kept
    if buffers is not None and buffers.shape == shape:
        return buffers
    with torch.inference_mode(False):  # it is kept, and used outside inference mode as well
        if memory is None or memory.numel() < numbers:
            memory = torch.empty(numbers, dtype=dtype, device="cpu")
        buffers = Polynomials(*shape, memory)
    setattr(_scratch, str(dtype), (memory, buffers))
    return buffers


def release_memory() -> None:
    """Give back what this thread keeps between calls (at most 8 MB a dtype)."""
    _scratch.__dict__.clear()
