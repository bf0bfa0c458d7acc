"""How much each micro-batch of an optimiser step counts, so that together they are the mean over all its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .bandwidth import wide_dtype
from .distributed import sum_over_processes
from .masks import PACKED

Mask = Tensor | list[Tensor] | None


class Window:
    """The micro-batches of one optimiser step, which Trainer fetches before the first of them is used.

    An average over k micro-batches of unequal numbers of samples (texts of different lengths, a short last batch) is
    not the mean over the samples of all. It is with weights N_j / (N_1 + .. + N_k), and those must be known before the
    last of them was run: tokens are counted in the masks, and elsewhere samples go with examples.

    Args:
        masks: real tokens by layer of each micro-batch, see `masks.position_mask`.
        sizes: examples of each micro-batch; None where the batch does not tell.
        synchronise: whether to count over all processes (one collective).
        device: where the layers are.
    """

    def __init__(
        self,
        masks: Sequence[Mapping[str, Mask]],
        sizes: Sequence[int | None],
        synchronise: bool,
        device: torch.device,
    ):
        """See the class."""
        self._row = {name: 2 * i for i, name in enumerate(masks[0])}
        self._next = 0
        if any(size is None for size in sizes):
            sizes = [1] * len(sizes)
        kinds = [
            [count(batch[name], size or 0) for batch, size in zip(masks, sizes, strict=True)]
            for name in masks[0]
            for count in (_tokens, _sequences)
        ]
        dtype = wide_dtype(device)
        # (2 x layers, micro-batches): tokens and sequences of each layer in turn
        counts = torch.stack([torch.stack([torch.as_tensor(c).to(device, dtype) for c in row]) for row in kinds])
        if synchronise:
            counts = sum_over_processes(counts)
        # Beside the 1 / k that every micro-batch is divided by
        self._factors = counts * (len(sizes) / counts.sum(1, keepdim=True))

    def next_factors(self, counted_in_tokens: Mapping[str, bool]) -> dict[str, Tensor]:
        """The factors of the micro-batch that is run now, 1 on average over the window; the next call is for the next.

        Args:
            counted_in_tokens: by layer, whether its samples are tokens, not examples.

        Returns:
            0-dim factor by layer.
        """
        batch, self._next = self._next, self._next + 1
        return {
            name: self._factors[self._row[name] + (0 if in_tokens else 1), batch]
            for name, in_tokens in counted_in_tokens.items()
        }

    @property
    def is_over(self) -> bool:
        """Whether every micro-batch had its factors."""
        return self._next >= self._factors.shape[1]


def _tokens(mask: Mask, size: int) -> Tensor | int:
    """Real tokens; without a mask every example has as many."""
    if isinstance(mask, list):
        return torch.stack([part.ne(0).sum() for part in mask]).sum()
    return size if mask is None else mask.ne(0).sum()


def _sequences(mask: Mask, size: int) -> Tensor | int:
    """Examples, or the sequences that are packed into them."""
    return mask.amax(1).sum() if isinstance(mask, Tensor) and mask.dtype == PACKED else size
