"""Train a text classifier with within-layer diversity, or without it for comparison.

    accelerate launch recipes/text_classification.py --config recipes/configs/text_classification/movie_direct.yaml \
[--field value ...]

Sentences or pairs of sentences, in the columns of GLUE-style data sets. A configuration file holds lines of
`field: value`; what is typed on the command line wins. `--help` lists every field.
"""

from __future__ import annotations

import functools

from common.arguments import RunArguments
from common.data import Split, Splits, load_splits
from common.recipe import Prepared, run_from_command_line, run_recipe
from common.text_models import TextModelArguments, build_text_model, load_tokenizer
from common.texts import TextArguments, text_columns
from common.training import accuracy_of_choices
from common.transformers_models import label_settings
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    TrainingArguments,
)

from hf_diversity import DiversityConfig
from hf_diversity.data.examples import TextDataset
from hf_diversity.publishing.commit import HERE

TYPES = (TextModelArguments, TextArguments, RunArguments, DiversityConfig, TrainingArguments)

USAGE = f"""
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = {HERE}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
logits = model(**tokenizer({{texts}}, return_tensors="pt")).logits
print(model.config.id2label[logits.argmax(-1).item()])
"""


def prepare(model_arguments: TextModelArguments, data_arguments: TextArguments, splits: Splits) -> Prepared:
    """Build the classifier and its inputs.

    Raises:
        ValueError: there is no such column, tokenizer or model.
    """
    columns = text_columns(splits.train, data_arguments)
    tokenizer = load_tokenizer(model_arguments)
    settings = label_settings(splits.label_names)
    model = build_text_model(AutoModelForSequenceClassification, model_arguments, tokenizer, **settings)

    def inputs(split: Split) -> TextDataset:
        return TextDataset(split, text_columns(split, data_arguments), tokenizer, data_arguments.max_length)

    return Prepared(
        task="text-classification",
        model=model,
        library="transformers",
        pretrained=model_arguments.pretrained,
        sets={"train": inputs(splits.train), "validation": inputs(splits.validation), "test": inputs(splits.test)},
        train_labels=splits.train.labels,
        collator=DataCollatorWithPadding(tokenizer),
        processor=tokenizer,
        scoring=accuracy_of_choices(),
        loss_is_a_mean=True,
        usage=USAGE.format(texts=", ".join(f'"The text of {name}."' for name in columns)),
    )


# Trains and evaluates one text classifier: run(model, data, run, diversity and training arguments, callbacks=None)
run = functools.partial(run_recipe, load_splits, prepare)


def main() -> None:
    """Parse the command line, train, and print the result."""
    run_from_command_line(run, TYPES, __doc__)


if __name__ == "__main__":
    main()
