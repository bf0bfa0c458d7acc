"""How much each micro-batch of an optimiser step counts, so that together they are the mean over all its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.trainer_pt_utils import find_batch_size

from .bandwidth import wide_dtype
from .distributed import sum_over_processes
from .masks import PACKED, Mask

Kind = Literal["examples", "positions", "tokens", "sequences"]
_SHARED: tuple[Kind, ...] = ("examples", "positions")


def kind_of_samples(captured: Tensor, mask: Mask, samples: str, size: int | None) -> Kind:
    """What the samples of a layer are counted in, by the rules of `samples.to_samples`.

    Args:
        captured: the layer's activations in one micro-batch.
        mask: real tokens of the batch for this layer, see `masks.position_mask`.
        samples: of the configuration.
        size: examples in the micro-batch.

    Returns:
        "examples"; "sequences", of which several may be packed into an example; "tokens", the real ones of `mask`;
        "positions" whatever they hold: pixels, patches, frames, or tokens that no mask tells apart.
    """
    if captured.ndim == 2:
        return "examples" if size is None or captured.shape[0] == size else "positions"
    if samples in ("pooled", "first") or (samples == "auto" and captured.ndim > 3):
        return "sequences"
    fits = isinstance(mask, list) or (isinstance(mask, Tensor) and mask.shape == captured.shape[:2])
    return "tokens" if captured.ndim == 3 and fits else "positions"


class Window:
    """The micro-batches of one optimiser step, which Trainer fetches before the first of them is used.

    An average over k micro-batches of unequal numbers of samples (texts of different lengths, a short last batch) is
    not the mean over the samples of all. It is with weights N_j / (N_1 + .. + N_k), and those must be known before the
    last of them was run. So they are counted in the inputs: examples, real tokens in the masks, and positions in
    proportion to those of the input (where a layer shortens sequences it rounds, and that is not exact).

    Args:
        batches: the micro-batches.
        masks: real tokens by layer of each, see `masks.position_mask`.
        synchronise: whether to count over all processes (one collective).
        device: where the layers are.
    """

    def __init__(
        self,
        batches: Sequence[Mapping[str, Any]],
        masks: Sequence[Mapping[str, Mask]],
        synchronise: bool,
        device: torch.device,
    ):
        """See the class."""
        self._next = 0
        sizes = [size if (size := find_batch_size(batch)) is not None else 1 for batch in batches]
        counts: dict[Any, list[Tensor | int]] = {
            "examples": list(sizes),
            "positions": [_positions(batch, size) for batch, size in zip(batches, sizes, strict=True)],
        }
        for name in masks[0]:
            pairs = [(batch[name], size) for batch, size in zip(masks, sizes, strict=True)]
            counts[name, "tokens"] = [_tokens(mask, size) for mask, size in pairs]
            counts[name, "sequences"] = [_sequences(mask, size) for mask, size in pairs]
        self._row = {key: row for row, key in enumerate(counts)}
        dtype = wide_dtype(device)
        table = torch.stack(
            [torch.stack([torch.as_tensor(c).to(device, dtype) for c in row]) for row in counts.values()]
        )
        if synchronise:
            table = sum_over_processes(table)
        # (counts, micro-batches), beside the 1 / k that every micro-batch is divided by
        self._factors = table * (len(sizes) / table.sum(1, keepdim=True))

    def next_factors(self, kinds: Mapping[str, Kind]) -> dict[str, Tensor]:
        """The factors of the micro-batch that is run now, 1 on average over the window; the next call is for the next.

        Args:
            kinds: by layer, what its samples are counted in.

        Returns:
            0-dim factor by layer.
        """
        batch, self._next = self._next, self._next + 1
        return {
            name: self._factors[self._row[kind if kind in _SHARED else (name, kind)], batch]
            for name, kind in kinds.items()
        }

    @property
    def is_over(self) -> bool:
        """Whether every micro-batch had its factors."""
        return self._next >= self._factors.shape[1]


def _positions(batch: Mapping[str, Any], size: int) -> int:
    """In proportion to the positions of the batch: the numbers in its largest input."""
    inputs = [value.numel() for value in batch.values() if isinstance(value, Tensor) and value.ndim > 1]
    return max(inputs, default=size)


def _tokens(mask: Mask, size: int) -> Tensor | int:
    """Real tokens."""
    if isinstance(mask, list):
        return torch.stack([part.ne(0).sum() for part in mask]).sum()
    return size if mask is None else mask.ne(0).sum()


def _sequences(mask: Mask, size: int) -> Tensor | int:
    """Examples, or the sequences that are packed into them."""
    return mask.amax(1).sum() if isinstance(mask, Tensor) and mask.dtype == PACKED else size
