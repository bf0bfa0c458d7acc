"""Examples as model inputs: images through the model's processor, texts through its tokenizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch

CACHE_BYTES = 256 * 2**20


@dataclass
class Split:
    """Examples of one split.

    Attributes:
        examples: the rows.
        labels: their class indices, which label noise may have changed; all 0 without classes.
        made: inputs that were made of them, by what made them: several runs over one split make them once.
    """

    examples: datasets.Dataset
    labels: np.ndarray
    made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def select(self, positions: np.ndarray) -> Split:
        """Return the examples at these positions."""
        return Split(self.examples.select(positions), self.labels[positions])


@dataclass
class _Memory:
    """Inputs made so far, (N, C, H, W) from the first on, and of which examples."""

    is_made: np.ndarray
    inputs: torch.Tensor | None = None


class _LabelledInputs(torch.utils.data.Dataset[dict[str, Any]], ABC):
    """The inputs that a subclass makes of a split's examples, with their labels."""

    def __init__(self, split: Split):
        self.split = split

    @abstractmethod
    def _inputs(self, positions: Sequence[int]) -> Sequence[dict[str, Any]]:
        """The model's inputs of several examples, without labels."""

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.split)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return one example."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Return several examples; `DataLoader` asks for a batch at a time if it can."""
        return [
            {**inputs, "labels": int(self.split.labels[position])}
            for inputs, position in zip(self._inputs(positions), positions, strict=True)
        ]


class ImageDataset(_LabelledInputs):
    """Model inputs `{"pixel_values": tensor, "labels": int}`, made when asked for.

    Not a `datasets.Dataset` with a transform: Trainer would remove its image column, and label noise would have to
    rewrite the images.

    Args:
        split: examples and their labels.
        column: the column that holds the images.
        mode: PIL mode that the model expects, "L" or "RGB".
        processor: the model's image processor.
        change: a random change of the image before the processor. Without one, inputs that fit into `CACHE_BYTES` are
            made only once for a split, column, mode and processor.
    """

    def __init__(
        self, split: Split, column: str, mode: str, processor: Any, change: Callable[[Any], Any] | None = None
    ):
        """See the class."""
        super().__init__(split)
        self.column, self.mode, self.processor, self.change = column, mode, processor, change
        key = (column, mode, str(processor.to_dict()))
        self._memory: _Memory = split.made.setdefault(key, _Memory(np.zeros(len(split), dtype=bool)))

    def _inputs(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        pixels = self._make(positions) if self.change is not None else self._remembered(positions)
        return [{"pixel_values": image} for image in pixels]

    def _make(self, positions: Sequence[int]) -> torch.Tensor:
        images = [image.convert(self.mode) for image in self.split.examples[list(positions)][self.column]]
        if self.change is not None:
            images = [self.change(image) for image in images]
        pixels: torch.Tensor = self.processor(images, return_tensors="pt")["pixel_values"]
        return pixels

    def _remembered(self, positions: Sequence[int]) -> torch.Tensor:
        memory = self._memory
        missing = [position for position in positions if not memory.is_made[position]]
        if not missing and memory.inputs is not None:
            return memory.inputs[list(positions)]
        made = self._make(missing)
        if memory.inputs is None:
            if made[0].nbytes * len(self) > CACHE_BYTES:
                return made
            memory.inputs = torch.empty((len(self), *made.shape[1:]), dtype=made.dtype)
        memory.inputs[missing] = made
        memory.is_made[missing] = True
        return memory.inputs[list(positions)]


class TextDataset(_LabelledInputs):
    """Tokens of one text or a pair, made when asked for: `{"input_ids": [...], ..., "labels": int}`, not padded.

    Args:
        split: examples and their labels.
        columns: one or two columns of text.
        tokenizer: the model's.
        max_length: longer inputs are cut, the longer text of a pair first.
    """

    def __init__(self, split: Split, columns: tuple[str, ...], tokenizer: Any, max_length: int):
        """See the class."""
        super().__init__(split)
        self.columns, self.tokenizer, self.max_length = columns, tokenizer, max_length

    def _inputs(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        rows = self.split.examples[list(positions)]
        texts = (list(rows[name]) for name in self.columns)
        tokens = self.tokenizer(*texts, truncation=True, max_length=self.max_length)
        return [{key: values[index] for key, values in tokens.items()} for index in range(len(positions))]
