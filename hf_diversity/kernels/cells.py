"""The pair sum of rows with a huge range (outliers, heavy tails): sort, then look at near units only.

The number of terms of one series over a whole row grows with its range. But units further apart than
delta / sqrt(gamma) have a similarity below eps = exp(-delta^2), so a row is sorted, and then either

- windows: where no unit has more than a few units within that distance, each unit meets the next one, the second
  next, ... exactly;
- cells: gaps wider than delta are narrowed to delta (both distances count as 0), and the row is divided into cells of
  width delta. Units of a cell interact with their own cell and its two neighbours, each by a series of `chebyshev`
  between the two intervals.

Neither cost depends on gamma or on the range.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from .chebyshev import Expansion, expansion, reach
from .polynomials import Polynomials
from .tiles import LOG2_E

_CHUNK = 2**17  # elements of rows that are sorted together: fewer calls than with less, and their 20 arrays take 15 MB
_GROUP = 2**15  # elements of a group of cells, as of a chunk of rows in `series`


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
    step = max(1, _CHUNK // units)
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

    place: Tensor  # (N, D) of each unit in its cell, from -1 to 1
    starts: Tensor  # (B,) first flat index of each cell
    counts: Tensor  # (B,) units in it
    linked: Tensor  # (B - 1,) whether the next cell is the neighbour
    row: Tensor  # (B,) the row it belongs to

    def prefer_windows(self, units: int) -> Tensor:
        """Say which rows are cheaper by windows, (N,) bool.

        Measured: windows take 1.4 ns per element and neighbour; cells 40 ns per element and 2 us each.
        """
        rows = len(self.place)
        return 1.4 * units * self.neighbours() < 40 * units + 2000 * torch.bincount(self.row, minlength=rows)

    def neighbours(self) -> Tensor:
        """At most how many units follow a unit within delta, (N,): those of its cell and of the next."""
        following = self.counts - 1
        following[:-1] += self.counts[1:] * self.linked
        return torch.zeros(len(self.place), dtype=torch.int64).scatter_reduce_(0, self.row, following, "amax")

    def of_rows(self, part: Tensor, units: int) -> _Cells:
        """The cells of some rows, numbered anew."""
        renumber = torch.full((len(self.place),), -1)
        renumber[part] = torch.arange(len(part))
        row = renumber[self.row]
        kept = (row >= 0).nonzero().flatten()
        starts = self.starts[kept] + (row[kept] - self.row[kept]) * units
        # A cell's neighbour is of the same row, so it is kept as well and still follows it.
        linked = self.linked[kept[:-1]] if len(kept) else self.linked[:0]
        return _Cells(self.place[part], starts, self.counts[kept], linked, row[kept])


def _divide(ordered: Tensor, root: float) -> _Cells:
    """Divide sorted rows (N, D) into cells of width delta / sqrt(gamma)."""
    units = ordered.shape[1]
    delta = reach(ordered.dtype)
    gaps = ordered.diff(dim=1).mul_(root).clamp_(max=delta)
    # float64: in float32 a place after thousands of gaps would be off by 1e-3
    # A row begins in the middle of a cell, where equal units get exactly no gradient.
    place = torch.nn.functional.pad(gaps.to(torch.float64), (1, 0)).cumsum_(1).div_(delta).add_(0.5)
    cell = place.floor()
    place = place.sub_(cell).to(ordered.dtype).mul_(2).sub_(1)

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
    return _Cells(place, starts, counts[kept], number[1:] == number[:-1] + 1, starts // units)


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
    """One short series per cell and neighbour; writes the gradient of the sum where it is not 0."""
    delta = reach(ordered.dtype)
    series = expansion(delta, ordered.dtype, (0.0, 2.0, -2.0))  # the cell itself, the next one, the one before
    size = (series.giant + 1) * (series.baby + 1)
    near = ordered.new_zeros((len(cells.starts), 3, size))  # moments
    groups = [_Group(members, cells, series) for members in _similar_sizes(cells.counts)]
    for group in groups:
        near[group.members, 0] = group.moments()
    linked = cells.linked[:, None]
    torch.mul(near[1:, 0], linked, out=near[:-1, 1])
    torch.mul(near[:-1, 0], linked, out=near[1:, 2])
    both = near.flatten(1) @ series.matrices
    if gradient is not None:
        slopes = both[:, size:].mul_(2 * root / delta).view(-1, series.giant + 1, series.baby + 1)
        flat = ordered.new_zeros(ordered.numel() + 1)  # padding is written behind the end
        for group in groups:
            flat[group.index] = group.polynomials.pull(slopes[group.members], out=group.polynomials.argument)
        gradient.copy_(flat[:-1].view_as(gradient))
    # Cell by cell in float64: sums of a million numbers of one sign lose digits in float32.
    return ((near[:, 0] * both[:, :size]).sum(1).double() - cells.counts).sum()


class _Group:
    """Cells of similar size, padded to one width, and their polynomials."""

    def __init__(self, members: Tensor, cells: _Cells, series: Expansion):
        """Gather the places of the units in the cells numbered `members` and compute their polynomials."""
        counts = cells.counts[members, None]
        offsets = torch.arange(int(counts.max()))
        self.members = members
        present = offsets < counts
        beyond = cells.place.numel()
        self.index = torch.where(present, cells.starts[members, None] + offsets, beyond)
        shape = (series.giant, series.baby, series.stretch, len(members), len(offsets))
        self.polynomials = Polynomials(*shape, cells.place.new_empty(Polynomials.numbers(*shape)))
        torch.take(cells.place, self.index.clamp(max=beyond - 1), out=self.polynomials.argument)
        self.polynomials.fill()
        self.polynomials.giant.mul_(present[:, None])  # padding: one factor 0 is enough

    def moments(self) -> Tensor:
        """Of every cell, (cells, n)."""
        return torch.bmm(self.polynomials.giant, self.polynomials.baby_columns).flatten(1)


def _similar_sizes(counts: Tensor) -> list[Tensor]:
    """Divide cells into groups of similar size, largest first.

    A group ends where padding would waste half of a cell, unless it is still so small that one more group would cost
    more.
    """
    sizes, by_size = counts.sort(descending=True)
    numbers, groups, first = sizes.tolist(), [], 0
    while first < len(numbers):
        widest, last = numbers[first], first + 1
        while last < len(numbers) and (last - first) * widest < _GROUP:
            if (last - first) * widest > _GROUP // 16 and 2 * numbers[last] < widest:
                break
            last += 1
        groups.append(by_size[first:last])
        first = last
    return groups
