"""Train a language model, causal or masked, with within-layer diversity, or without it for comparison.

    accelerate launch recipes/language_modeling.py --config recipes/configs/language_modeling/causal_direct.yaml \
[--field value ...]

From scratch (a kind of model and its size) or from published weights. A configuration file holds lines of
`field: value`; what is typed on the command line wins. `--help` lists every field.
"""

from __future__ import annotations

import functools

import numpy as np
from common.arguments import RunArguments
from common.blocks import Blocks, LanguageArguments, group_into_blocks, perplexity, sum_over_tokens
from common.data import Splits, load_unlabelled_splits
from common.recipe import Prepared, run_from_command_line, run_recipe
from common.text_models import TextModelArguments, build_text_model, load_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    TrainingArguments,
    default_data_collator,
)

from hf_diversity import DiversityConfig
from hf_diversity.publishing.commit import HERE

TYPES = (TextModelArguments, LanguageArguments, RunArguments, DiversityConfig, TrainingArguments)

CAUSAL_USAGE = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {HERE}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder).eval()
tokens = model.generate(**tokenizer("Once upon a time", return_tensors="pt"), max_new_tokens=20)
print(tokenizer.decode(tokens[0]))
"""
MASKED_USAGE = f"""
from transformers import AutoModelForMaskedLM, AutoTokenizer

folder = {HERE}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForMaskedLM.from_pretrained(folder).eval()
inputs = tokenizer(f"Once upon a {{tokenizer.mask_token}}", return_tensors="pt")
place = inputs["input_ids"][0] == tokenizer.mask_token_id
print(tokenizer.decode(model(**inputs).logits[0, place].argmax(-1)))
"""


def prepare(model_arguments: TextModelArguments, data_arguments: LanguageArguments, splits: Splits) -> Prepared:
    """Build the language model and its blocks.

    Raises:
        ValueError: there is no such column, tokenizer or model, or too little text.
    """
    tokenizer = load_tokenizer(model_arguments)
    causal = data_arguments.objective == "causal"
    if not causal and tokenizer.mask_token is None:
        raise ValueError("the tokenizer has no mask token: type objective: causal, or another tokenizer")
    blocks = {
        role: group_into_blocks(getattr(splits, role), role, data_arguments, tokenizer)
        for role in ("train", "validation", "test")
    }
    kind = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    model = build_text_model(kind, model_arguments, tokenizer)
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and data_arguments.block_size > longest:
        raise ValueError(
            f"block_size is {data_arguments.block_size} and the model has {longest} positions: type block_size: "
            f"{longest} or less"
        )
    hide = None
    if not causal:
        hide = DataCollatorForLanguageModeling(tokenizer, mlm_probability=data_arguments.mask_probability)
    sets = {
        role: Blocks(tokens, hide, fixed_seed=data_arguments.split_seed + number)
        for number, (role, tokens) in enumerate(blocks.items())
    }
    return Prepared(
        task="text-generation" if causal else "fill-mask",
        model=model,
        library="transformers",
        pretrained=model_arguments.pretrained,
        sets=sets,
        train_labels=np.zeros(len(blocks["train"]), np.int64),
        varied_train=None if causal else Blocks(blocks["train"], hide),
        collator=default_data_collator,
        processor=tokenizer,
        scoring={
            "compute_metrics": perplexity,
            "preprocess_logits_for_metrics": sum_over_tokens(data_arguments.objective),
        },
        usage=CAUSAL_USAGE if causal else MASKED_USAGE,
        # Every token is a sample, and its logits are as many as the vocabulary.
        measured_at_once=8,
        data={"blocks": {role: len(tokens) for role, tokens in blocks.items()}},
    )


# Trains and evaluates one language model: run(model, data, run, diversity and training arguments, callbacks=None)
run = functools.partial(run_recipe, load_unlabelled_splits, prepare)


def main() -> None:
    """Parse the command line, train, and print the result."""
    run_from_command_line(run, TYPES, __doc__)


if __name__ == "__main__":
    main()
