"""Language models by name: local folders, Hub ids and kinds of model, from scratch or pretrained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from common.arguments import ModelArguments
from common.transformers_models import apply_model_args
from hf_diversity.models import load_config


@dataclass
class TextModelArguments(ModelArguments):
    """Which language model is trained, from what weights it starts, and what makes its tokens."""

    model: str = field(
        default="",
        metadata={
            "help": "A local folder or a Hub id; or, from scratch, a kind of transformers model, for example bert or "
            "llama, whose size is given by model_args."
        },
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Local folder or Hub id of the tokenizer. Default: that of `model`."}
    )


def load_tokenizer(arguments: TextModelArguments) -> PreTrainedTokenizerBase:
    """Load the tokenizer; one without a padding token pads with its end token.

    Raises:
        ValueError: no model was named, or there is no such tokenizer.
    """
    if not arguments.model:
        raise ValueError("model is missing: type model: FOLDER, a Hub id, or a kind of model such as bert")
    name = arguments.tokenizer or arguments.model
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:
        # Whatever went wrong (with and without a network), the user's question is the same.
        raise ValueError(
            f"there is no tokenizer {name!r}, in a local folder or on the Hub; type tokenizer: FOLDER or a Hub id "
            f"({type(error).__name__}: {error})"
        ) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"the tokenizer {name!r} has neither a padding nor an end token: type another tokenizer")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def build_text_model(
    kind: Any, arguments: TextModelArguments, tokenizer: PreTrainedTokenizerBase, **settings: Any
) -> PreTrainedModel:
    """Build the model that `arguments` name.

    Args:
        kind: the head, for example `AutoModelForSequenceClassification`.
        arguments: name, start weights and arguments of the model.
        tokenizer: its tokenizer.
        **settings: what the configuration must say, for example `num_labels`.

    Raises:
        ValueError: there is no such model, or it does not go with its arguments or tokenizer.
    """
    name = arguments.model
    if not arguments.pretrained and name in CONFIG_MAPPING and not Path(name).is_dir():
        special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id")}
        wanted = {"vocab_size": len(tokenizer), **special, **arguments.model_args}
        # Checked on defaults first: a configuration takes any keyword, and forgets those that it does not know.
        apply_model_args(AutoConfig.for_model(name), arguments.model_args)
        config = AutoConfig.for_model(name, **wanted, **settings)
    else:
        config = load_config(name, settings=settings, instead="a kind of model such as bert (without pretrained)")
        apply_model_args(config, arguments.model_args)
    if len(tokenizer) > config.get_text_config().vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer):,} tokens and the model {name!r} "
            f"{config.get_text_config().vocab_size:,}: type the model's own tokenizer, or, from scratch, model_args: "
            f"{{vocab_size: {len(tokenizer)}}}"
        )
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    if not arguments.pretrained:
        return kind.from_config(config)
    # In float32, whatever the file holds: bf16 and fp16 of TrainingArguments compute in less, not with lesser weights.
    return kind.from_pretrained(name, config=config, dtype=torch.float32, ignore_mismatched_sizes=True)
