"""The pair sum of rows with a huge range (outliers, heavy tails): sort, then look at near units only.

The number of terms of one Fourier series over a whole row grows with its range. But units further apart than
delta / sqrt(gamma) have a similarity below eps = exp(-delta^2), so a row is sorted, and then either

- windows: where no unit has more than a few units within that distance, each unit meets the next one, the second
  next, ... exactly;
- cells: gaps wider than delta are narrowed to delta (both distances count as 0), and the row is divided into cells of
  width delta. Units of a cell interact with their own cell and its two neighbours, which a series of period 3 delta
  serves: distances stay below 2 delta, and the nearest image is then delta away. Angles are taken modulo the period,
  so they lose nothing far out.

Neither cost depends on gamma or on the range.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from .fourier import CHUNK, Split, Waves, coefficients, quadratic_form, slope_weights, split_terms, tolerance
from .tiles import LOG2_E

_PERIOD = 3  # in cells: a cell, its neighbour, and one of distance to the next image


def pair_sum_sorted(activations: Tensor, root: float, gradient: Tensor | None) -> Tensor:
    """Sum of similarities over samples and ordered pairs of different units, by sorting.

    Args:
        activations: (N, D) float32 or float64, on the CPU.
        root: sqrt(gamma).
        gradient: (N, D) to receive the gradient of the sum, or None.

    Returns:
        The sum over i and n != m, 0-dim float64, not divided by N.
    """
    rows, units = activations.shape
    step = max(1, CHUNK // units)
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, rows, step):
        ordered, order = _sort(activations[start : start + step])
        cells = _divide(ordered, root)
        windows = cells.prefer_windows(units)
        ordered_gradient = torch.zeros_like(ordered) if gradient is not None else None
        for part, kernel in ((windows.nonzero().flatten(), _windows), ((~windows).nonzero().flatten(), _cells)):
            if len(part) == len(ordered):
                total += kernel(ordered, cells, root, ordered_gradient)
            elif len(part):
                part_gradient = torch.zeros_like(ordered[part]) if ordered_gradient is not None else None
                total += kernel(ordered[part], cells.of_rows(part, units), root, part_gradient)
                if ordered_gradient is not None and part_gradient is not None:
                    ordered_gradient[part] = part_gradient
        if gradient is not None and ordered_gradient is not None:
            gradient[start : start + step].scatter_(1, order, ordered_gradient)
    return total


def _sort(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Sort rows; returns values and (N, D) int64 positions.

    torch.sort carries two arrays through its comparisons. For float32 one 64-bit key, value above and position below,
    sorted by numpy's vectorised sort takes a third of its time.
    """
    if activations.dtype != torch.float32:
        return activations.sort(dim=1)
    bits = activations.contiguous().view(torch.int32)
    # Flipping all bits but the sign of negative numbers makes integers that are ordered as the floats are.
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32
    keys |= torch.arange(activations.shape[1])
    keys = torch.from_numpy(numpy.sort(keys.numpy(), axis=1))
    order = keys & 0xFFFFFFFF
    return activations.gather(1, order), order


class _Cells(NamedTuple):
    """The cells of sorted rows; those with a single unit and no neighbour are left out: they add nothing."""

    angle: Tensor  # (N, D) angle of each unit in the period of the series
    starts: Tensor  # (B,) first flat index of each cell
    counts: Tensor  # (B,) units in it
    linked: Tensor  # (B - 1,) whether the next cell is the neighbour
    row: Tensor  # (B,) the row it belongs to

    def prefer_windows(self, units: int) -> Tensor:
        """Say which rows are cheaper by windows, (N,) bool.

        Measured: windows take 1.4 ns per element and neighbour; cells 60 ns per element and 2 us each.
        """
        rows = len(self.angle)
        return 1.4 * units * self.neighbours() < 60 * units + 2000 * torch.bincount(self.row, minlength=rows)

    def neighbours(self) -> Tensor:
        """At most how many units follow a unit within delta, (N,): those of its cell and of the next."""
        reach = self.counts - 1
        reach[:-1] += self.counts[1:] * self.linked
        return torch.zeros(len(self.angle), dtype=torch.int64).scatter_reduce_(0, self.row, reach, "amax")

    def of_rows(self, part: Tensor, units: int) -> _Cells:
        """The cells of some rows, numbered anew."""
        renumber = torch.full((len(self.angle),), -1)
        renumber[part] = torch.arange(len(part))
        row = renumber[self.row]
        kept = (row >= 0).nonzero().flatten()
        starts = self.starts[kept] + (row[kept] - self.row[kept]) * units
        # A cell's neighbour is of the same row, so it is kept as well and still follows it.
        linked = self.linked[kept[:-1]] if len(kept) else self.linked[:0]
        return _Cells(self.angle[part], starts, self.counts[kept], linked, row[kept])


def _divide(ordered: Tensor, root: float) -> _Cells:
    """Divide sorted rows (N, D) into cells of width delta / sqrt(gamma)."""
    units = ordered.shape[1]
    delta = tolerance(ordered.dtype)
    gaps = ordered.diff(dim=1).mul_(root).clamp_(max=delta)
    # float64: in float32 a place after thousands of gaps would be off by 1e-3
    place = torch.nn.functional.pad(gaps.to(torch.float64), (1, 0)).cumsum_(1)
    cell = (place / delta).floor_()
    angle = place.div_(_PERIOD * delta).frac_().mul_(2 * math.pi).sub_(math.pi).to(ordered.dtype)

    # Rows are kept apart by numbering their cells from multiples of something larger than any cell number.
    number = cell.long().add_(torch.arange(len(ordered))[:, None] * (units + 2)).flatten()
    is_first = torch.ones_like(number, dtype=torch.bool)
    torch.ne(number[1:], number[:-1], out=is_first[1:])
    starts = is_first.nonzero().flatten()
    counts = torch.diff(starts, append=starts.new_tensor([number.numel()]))
    number = number[starts]
    linked = number[1:] == number[:-1] + 1
    lonely = counts == 1
    lonely[1:] &= ~linked
    lonely[:-1] &= ~linked
    kept = (~lonely).nonzero().flatten()
    number, starts = number[kept], starts[kept]
    return _Cells(angle, starts, counts[kept], number[1:] == number[:-1] + 1, starts // units)


def _windows(ordered: Tensor, cells: _Cells, root: float, gradient: Tensor | None) -> Tensor:
    """Exact similarities of each unit of sorted rows with those that follow within reach; adds the gradient."""
    scale = -root * root * LOG2_E
    total = torch.zeros((), dtype=torch.float64)
    for shift in range(1, int(cells.neighbours().max()) + 1):
        difference = ordered[:, shift:] - ordered[:, :-shift]
        similar = torch.mul(difference, difference).mul_(scale).exp2_()
        total += 2 * similar.sum()
        if gradient is not None:
            pull = difference.mul_(similar).mul_(4 * root * root)
            gradient[:, :-shift] += pull
            gradient[:, shift:] -= pull
    return total


def _cells(ordered: Tensor, cells: _Cells, root: float, gradient: Tensor | None) -> Tensor:
    """One short series per cell; writes the gradient of the sum where it is not 0."""
    dtype = ordered.dtype
    delta = tolerance(dtype)
    split = split_terms(math.ceil(_PERIOD * delta * delta / math.pi), dtype)
    tau = 2 * math.pi / (_PERIOD * delta)
    weights = coefficients(torch.tensor([tau], dtype=dtype), split)
    same, opposite = quadratic_form(weights, split)

    products = ordered.new_empty((len(cells.starts), *same.shape[1:]))
    groups = [_Group(members, cells, split) for members in _similar_sizes(cells.counts)]
    for group in groups:
        products[group.members] = torch.bmm(group.waves.giant, group.waves.baby_columns)

    # Each cell sees itself and its neighbours. The sum over such pairs of cells is symmetric, so its gradient is the
    # quadratic form's gradient at the neighbourhood's products, and its value half the scalar product, as for one row.
    near = products.clone()
    near[:-1] += products[1:] * cells.linked[:, None, None]
    near[1:] += products[:-1] * cells.linked[:, None, None]
    if gradient is not None:
        first, second = slope_weights(weights, split)
        slopes = (near.flip(1) * first).addcmul_(near.flip(2), second).mul_(tau * root)
        flat = ordered.new_zeros(ordered.numel() + 1)  # padding is written behind the end
        for group in groups:
            flat[group.index] = group.waves.pull(slopes[group.members], out=group.waves.real)
        gradient.copy_(flat[:-1].view_as(gradient))
    # Cell by cell in float64: sums of a million numbers of one sign lose digits in float32.
    table_gradient = (near * same).addcmul_(near.flip(1, 2), opposite)
    return ((products * table_gradient).sum((1, 2)).double() / 2 - cells.counts).sum()


class _Group:
    """Cells of similar size, padded to one width, and their waves."""

    def __init__(self, members: Tensor, cells: _Cells, split: Split):
        """Gather the angles of the cells numbered `members` and compute their waves."""
        counts = cells.counts[members, None]
        offsets = torch.arange(int(counts.max()))
        self.members = members
        present = offsets < counts
        beyond = cells.angle.numel()
        self.index = torch.where(present, cells.starts[members, None] + offsets, beyond)
        shape = (len(members), len(offsets))
        self.waves = Waves(split, *shape, cells.angle.new_empty(Waves.numbers(split, *shape)))
        torch.mul(cells.angle.take(self.index.clamp(max=beyond - 1)), 0.5, out=self.waves.real)
        self.waves.fill()
        self.waves.giant.mul_(present[:, None])  # padding: one factor 0 is enough


def _similar_sizes(counts: Tensor) -> list[Tensor]:
    """Divide cells into groups of similar size, largest first.

    A group ends where padding would waste half of a cell, unless it is still so small that one more group would cost
    more.
    """
    sizes, by_size = counts.sort(descending=True)
    numbers, groups, first = sizes.tolist(), [], 0
    while first < len(numbers):
        widest, last = numbers[first], first + 1
        while last < len(numbers) and (last - first) * widest < CHUNK:
            if (last - first) * widest > CHUNK // 16 and 2 * numbers[last] < widest:
                break
            last += 1
        groups.append(by_size[first:last])
        first = last
    return groups
