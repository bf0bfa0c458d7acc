"""Texts as model inputs: which columns hold them, and their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import torch

from common.arguments import LabelledDataArguments
from common.data import Split, find_column

# GLUE, SuperGLUE and what is common beside them; pairs first, for QNLI has a question and a sentence.
PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "passage"),
    ("text1", "text2"),
)
SINGLE = ("sentence", "text", "review", "content")


@dataclass
class TextArguments(LabelledDataArguments):
    """Data arguments of text classification."""

    text_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the text, or of the first of two. Default: the columns of GLUE-style data sets, pairs "
            f"({', '.join('+'.join(pair) for pair in PAIRS)}) before single ones ({', '.join(SINGLE)})."
        },
    )
    text_pair_column: str | None = field(
        default=None, metadata={"help": "Column of the second text; needs text_column. Default: as for text_column."}
    )
    max_length: int = field(default=128, metadata={"help": "Longer texts, or pairs of them, are cut to these tokens."})

    def __post_init__(self):
        """Refuse half a pair."""
        super().__post_init__()
        if self.text_pair_column is not None and self.text_column is None:
            raise ValueError(
                f"text_pair_column is {self.text_pair_column!r} without text_column: type text_column: NAME as well"
            )
        if self.max_length < 3:
            raise ValueError(f"max_length is {self.max_length}: no text fits; type max_length: 128")


def text_columns(split: Split, arguments: TextArguments) -> tuple[str, ...]:
    """Return the column of the text, or the two columns of a pair.

    Raises:
        ValueError: there are no such columns, or they hold no text.
    """
    there = split.examples.column_names
    if arguments.text_column is not None:
        names: tuple[str, ...] = (find_column(split.examples, arguments.text_column, (), "text_column"),)
        if arguments.text_pair_column is not None:
            names += (find_column(split.examples, arguments.text_pair_column, (), "text_pair_column"),)
    else:
        pair = next((pair for pair in PAIRS if set(pair) <= set(there)), None)
        names = pair or (find_column(split.examples, None, SINGLE, "text_column"),)
    for name in names:
        check_is_text(split.examples, name)
    return names


def check_is_text(examples: datasets.Dataset, name: str) -> None:
    """Refuse a column that holds anything but text.

    Raises:
        ValueError: says what it holds.
    """
    feature = examples.features[name]
    if getattr(feature, "dtype", None) not in ("string", "large_string"):
        raise ValueError(f"column {name!r} holds {feature}, not text: type text_column: NAME")


class TextDataset(torch.utils.data.Dataset):
    """Tokens of one text or a pair, made when asked for: `{"input_ids": [...], ..., "labels": int}`, not padded.

    Args:
        split: examples and their labels.
        columns: one or two columns of text.
        tokenizer: the model's.
        max_length: longer inputs are cut, the longer text of a pair first.
    """

    def __init__(self, split: Split, columns: tuple[str, ...], tokenizer: Any, max_length: int):
        self.split, self.columns, self.tokenizer, self.max_length = split, columns, tokenizer, max_length

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.split)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return one example."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Return several examples; `DataLoader` asks for a batch at a time if it can."""
        rows = self.split.examples[list(positions)]
        texts = (list(rows[name]) for name in self.columns)
        tokens = self.tokenizer(*texts, truncation=True, max_length=self.max_length)
        return [
            {**{key: values[index] for key, values in tokens.items()}, "labels": int(self.split.labels[position])}
            for index, position in enumerate(positions)
        ]
