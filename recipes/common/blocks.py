"""Texts as blocks of tokens for language modelling, causal or masked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling

from common.arguments import DataArguments
from hf_diversity.data.columns import SINGLE, check_is_text, find_column
from hf_diversity.data.examples import Split


@dataclass
class LanguageArguments(DataArguments):
    """Data arguments of language modelling."""

    objective: Literal["causal", "masked"] = field(
        default="causal", metadata={"help": "'causal': predict the next token; 'masked': predict hidden tokens."}
    )
    text_column: str | None = field(
        default=None, metadata={"help": f"Column of the text. Default: the first of {', '.join(SINGLE)}."}
    )
    block_size: int = field(
        default=128, metadata={"help": "Tokens in an example: texts are joined and cut into blocks of this length."}
    )
    mask_probability: float = field(
        default=0.15, metadata={"help": "Part of the tokens that the masked objective hides."}
    )

    def __post_init__(self):
        """Refuse blocks without anything to predict."""
        super().__post_init__()
        if self.block_size < 2:
            raise ValueError(f"block_size is {self.block_size}: nothing to predict; type block_size: 128")
        if not 0 < self.mask_probability < 1:
            raise ValueError(
                f"mask_probability is {self.mask_probability}: it must lie between 0 and 1; type "
                "mask_probability: 0.15"
            )


def group_into_blocks(split: Split, role: str, arguments: LanguageArguments, tokenizer: Any) -> torch.Tensor:
    """Tokenise the texts of a split, join them and cut them into blocks; what is left over at the end is dropped.

    Args:
        split: examples with a column of text.
        role: "train", "validation" or "test", for the error.
        arguments: column and length of a block.
        tokenizer: the model's; an end token separates the texts where it has one, else its own special tokens do.

    Returns:
        Token ids, (blocks, block_size), int64.

    Raises:
        ValueError: there is no such column, or not text enough for one block.
    """
    column = find_column(split.examples, arguments.text_column, SINGLE, "text_column: NAME")
    check_is_text(split.examples, column)
    end = tokenizer.eos_token_id

    def pieces() -> Iterator[list[int]]:
        for rows in split.examples.select_columns(column).iter(batch_size=1000):
            # Long texts are cut into blocks below: no warning about the model's maximum.
            for tokens in tokenizer(rows[column], add_special_tokens=end is None, verbose=False)["input_ids"]:
                yield tokens if end is None else [*tokens, end]

    joined = np.concatenate([np.asarray(piece, dtype=np.int64) for piece in pieces()])
    size = arguments.block_size
    if len(joined) < size:
        raise ValueError(
            f"the {role} split has {len(joined):,} tokens, less than one block of {size}: type block_size: "
            f"{max(2, len(joined) // 2)} or less, or another split"
        )
    return torch.from_numpy(joined[: len(joined) // size * size].reshape(-1, size))


class Blocks(torch.utils.data.Dataset):
    """Blocks of tokens: `{"input_ids", "attention_mask", "labels"}`, each (block_size,).

    Args:
        blocks: token ids, (blocks, block_size).
        hide: hides tokens of the masked objective; None for the causal one, whose labels are all tokens but the first.
        fixed_seed: hide the same tokens of a block whenever it is asked for, so that evaluations can be compared; None
            hides others each time.
    """

    def __init__(
        self, blocks: torch.Tensor, hide: DataCollatorForLanguageModeling | None = None, fixed_seed: int | None = None
    ):
        self.blocks, self.hide, self.fixed_seed = blocks, hide, fixed_seed

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.blocks)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """Return one block."""
        inputs = self.blocks[position].clone()
        labels = inputs.clone()
        # Nothing comes before the first token to predict it from. Trainer counts labels, and up to transformers 5.0
        # would count this one too: a mean loss too small by 1 / block_size.
        labels[0] = -100
        if self.hide is not None:
            with torch.random.fork_rng(devices=[], enabled=self.fixed_seed is not None):
                if self.fixed_seed is not None:
                    torch.manual_seed(self.fixed_seed * 1_000_003 + position)
                hidden, targets = self.hide.torch_mask_tokens(inputs[None])
            inputs, labels = hidden[0], targets[0]
        return {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), "labels": labels}


def sum_over_tokens(objective: str) -> Any:
    """Return what replaces the logits of a batch: the loss of each block and its number of tokens, (B, 2).

    The logits themselves, (B, block_size, vocabulary), would not fit into memory for a whole data set.
    """

    def summed(logits: Any, labels: torch.Tensor) -> torch.Tensor:
        logits = logits[0] if isinstance(logits, tuple) else logits
        if objective == "causal":
            logits, labels = logits[:, :-1], labels[:, 1:]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), labels, reduction="none")
        return torch.stack([losses.sum(1), (labels != -100).sum(1).float()], dim=1)

    return summed


def perplexity(evaluated: Any) -> dict[str, float]:
    """Return exp(mean loss of a token) over all blocks: of the task loss, without the regulariser."""
    total, tokens = np.asarray(evaluated.predictions, dtype=np.float64).sum(axis=0)
    return {"perplexity": float(np.exp(total / tokens))}
