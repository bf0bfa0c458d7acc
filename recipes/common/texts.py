"""Texts as model inputs: which columns hold them, and their tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.arguments import LabelledDataArguments
from hf_diversity.data.columns import PAIRS, SINGLE, find_text_columns
from hf_diversity.data.examples import Split


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
    wanted = [name for name in (arguments.text_column, arguments.text_pair_column) if name is not None]
    return find_text_columns(split.examples, wanted)
